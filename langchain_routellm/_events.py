"""The content-block event streams (`version="v3"`), pumped from the chosen backend's own.

In beta in langchain-core: everything that touches them stands in this file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.runnables import RunnableConfig

from langchain_routellm._call import Call, Host, turns
from langchain_routellm._first_token import is_opening_event
from langchain_routellm._record import with_record
from langchain_routellm._usage import AnswerUsage
from routellm_core.types import Decision

__all__ = ["astream_events", "stream_events"]


def _marked(event: Mapping[str, Any], decision: Decision) -> Mapping[str, Any]:
    """The record goes where the assembled message takes its metadata from."""
    if event.get("event") != "message-finish":
        return event
    return {**event, "metadata": with_record(event.get("metadata") or {}, decision)}


def _whole(events: list[Any]) -> Any:
    """The message that events amount to, for the verifier."""
    stream = ChatModelStream()
    for event in events:
        stream.dispatch(event)
    return stream.output_message


def _report(usage: AnswerUsage | None, message: Any, decision: Decision) -> None:
    if usage is not None:
        usage.add(message)
        usage.report(decision)


class _Pump:
    """Moves a backend's events into our stream, one at a time; nothing starts before the first is asked for."""

    def __init__(self, host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> None:
        self.call = Call(host, value, config, kwargs)
        self.stream = ChatModelStream()
        self.run: CallbackManagerForChainRun | None = None
        self.decision: Decision | None = None
        self.source: Iterator[Any] | None = None
        self.usage: AnswerUsage | None = None
        self.waiting: deque[Any] = deque()

    def _next(self, run: CallbackManagerForChainRun) -> tuple[Any, Decision]:
        """The next event (None: no more) and whose it is; before the first that says something others may be tried."""
        decision = self.decision or self.call.decide(run)
        while not self.waiting:
            self.decision = decision
            try:
                if self.source is None:
                    target, child_input, child_config, child_kwargs = self.call.child(decision, run)
                    self.source = iter(target.stream_events(child_input, child_config, version="v3", **child_kwargs))
                    if self.call.buffers(decision):
                        self.waiting.extend(self.source)
                if not self.waiting:
                    event = next(self.source, None)
                    if is_opening_event(event) and self.call.host.policy.fallback != "none":
                        self.waiting.extend((event, next(self.source, None)))
                    else:
                        self.waiting.append(event)
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                if self.stream.has_events:
                    raise
                self.waiting.clear()
                decision = self.call.next_attempt(decision, error, may_wait=True)
                self.source = None
                continue
            if self.call.buffers(decision) and not self.stream.has_events:
                events = [event for event in self.waiting if event is not None]
                self.decision = self.call.verified(run, decision, _whole(events), events)
                if self.decision.route != decision.route:
                    self.waiting.clear()
                    self.source = None
                decision = self.decision
        return self.waiting.popleft(), decision

    def __call__(self) -> bool:
        """Dispatch one event; False when there are no more."""
        if self.run is None:
            self.run = self.call.start()
        try:
            event, decision = self._next(self.run)
            if event is None:
                if not self.stream.done:
                    raise ValueError("the backend's event stream ended without an answer")
                return False
        except BaseException as error:  # noqa: BLE001 - the stream raises it where it is read
            self.stream.fail(error)
            self.run.on_chain_error(error)
            return False
        if not self.stream.has_events:
            self.usage = self.call.observed(decision)
        self.stream.dispatch(_marked(event, decision))
        if self.stream.done and self.stream.output_message is not None:
            _report(self.usage, self.stream.output_message, decision)
            self.run.on_chain_end(self.stream.output_message)
        return True


def stream_events(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> ChatModelStream:
    """A stream like a chat model's own, with the record on its output."""
    pump = _Pump(host, value, config, kwargs)
    pump.stream.bind_pump(pump)
    return pump.stream


async def astream_events(
    host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]
) -> AsyncChatModelStream:
    """`stream_events`, driven by a task of its own that starts with the first consumer."""
    call = Call(host, value, config, kwargs)
    stream = AsyncChatModelStream()
    lock = asyncio.Lock()
    runs: list[AsyncCallbackManagerForChainRun] = []

    async def produce(run: AsyncCallbackManagerForChainRun) -> None:
        usage: AnswerUsage | None = None
        holds_back = host.policy.fallback != "none"
        held: list[Any] = []
        try:
            decision = await call.adecide(run)
            while True:
                held.clear()
                try:
                    target, child_input, child_config, child_kwargs = await call.achild(decision, run)
                    source: Any = await target.astream_events(  # a v3 call is awaited
                        child_input, child_config, version="v3", **child_kwargs
                    )
                    async with source:
                        async for event in source:
                            held.append(event)
                            if call.buffers(decision) or (holds_back and is_opening_event(event)):
                                continue
                            if not stream.has_events:
                                usage = call.observed(decision)
                            for each in held:
                                stream.dispatch(_marked(each, decision))
                            held.clear()
                except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                    if stream.has_events:
                        raise
                    decision = call.next_attempt(decision, error, may_wait=False)
                    continue
                if not call.buffers(decision):
                    break
                events = list(held)
                route, decision = decision.route, await call.averified(run, decision, _whole(events), events)
                if decision.route == route:
                    usage = call.observed(decision)
                    for each in events:
                        stream.dispatch(_marked(each, decision))
                    break
            if not stream.done:
                raise ValueError("the backend's event stream ended without an answer")
        except BaseException as error:
            await run.on_chain_error(error)  # before the reader learns of it, who may be the last to run
            stream.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        _report(usage, stream.output_message, decision)
        await run.on_chain_end(stream.output_message)

    async def start() -> None:
        await turns.take()
        async with lock:
            if stream._producer_task is None:  # private: aclose() cancels this task and no other
                runs.append(await call.astart())
                stream._producer_task = asyncio.get_running_loop().create_task(produce(runs[0]))

    async def closed_before_it_ran(error: BaseException) -> None:
        await runs[0].on_chain_error(error)

    stream.set_start(start)
    stream._on_aclose_fail = closed_before_it_ran
    return stream
