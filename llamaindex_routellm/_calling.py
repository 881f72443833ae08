"""Carrying a decision out: attempts, records on answers, streams that close."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms.llm import LLM

from llamaindex_routellm._backends import Backends
from llamaindex_routellm._capability import Capability, Size
from llamaindex_routellm._ledger import AnswerLedger
from llamaindex_routellm._open_calls import AReadWithin, OpenCall, ReadWithin, current_call, listen, usage_of
from llamaindex_routellm._scopes import current_pins, forced_route
from llamaindex_routellm._scoring import scoring
from llamaindex_routellm.events import announce, current_span
from routellm_core.policy import (
    RouteRequest,
    RoutingPolicy,
    Turns,
    error_to_raise,
    is_collecting,
    may_fall_back,
    observe,
    observe_usage,
)
from routellm_core.types import Decision, Usage

__all__ = ["RECORD_KEY", "Caller", "Question"]

RECORD_KEY = "routellm"
_logger = logging.getLogger("routellm_core.llama_index")
_turns = Turns()  # a thousand asynchronous calls at once must not hold up their event loop
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What one call asks.

    Attributes:
        text: What to score.
        messages: Gives the messages, where an earlier answer may be found.
        must_call_tools: Whether only a backend that calls tools will do.
        is_template: The messages must be filled in first, and hold no open tool loop.
        route: The route this call is for, if that is settled.
        tools: Tools that go along.
    """

    text: str
    messages: Callable[[], Sequence[ChatMessage]]
    must_call_tools: bool = False
    is_template: bool = False
    route: str | None = None
    tools: Sequence[Any] = ()


class Caller:
    """Asks the policy, then the backends; one per `RouteLLM`."""

    def __init__(self, policy: RoutingPolicy, backends: Backends, capability: Capability) -> None:
        self.policy = policy
        self.backends = backends
        self.capability = capability
        self.ledger = AnswerLedger()

    # Each of the four decides and opens now, in the caller's context; only reading a stream is lazy.
    def call(self, question: Question, ask: Callable[[LLM], T]) -> T:
        """One answer."""
        attempts = self._attempts(question)
        while True:
            token = current_call.set(attempts.call)
            try:
                answer = ask(self.backends[attempts.route])
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            else:
                return attempts.answered(answer)
            finally:
                current_call.reset(token)

    async def acall(self, question: Question, ask: Callable[[LLM], Awaitable[T]]) -> T:
        """One answer, awaited."""
        attempts = await self._aattempts(question)
        while True:
            token = current_call.set(attempts.call)
            try:
                answer = await ask(await self.backends.aget(attempts.route))
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            else:
                return attempts.answered(answer)
            finally:
                current_call.reset(token)

    def stream(self, question: Question, ask: Callable[[LLM], Iterator[T]]) -> Generator[T, None, None]:
        """An opened stream."""
        attempts = self._attempts(question)
        return self._items(attempts, ask, self._open(attempts, ask))

    async def astream(
        self, question: Question, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]]
    ) -> AsyncGenerator[T, None]:
        """An opened stream, to be read asynchronously."""
        attempts = await self._aattempts(question)
        return self._aitems(attempts, ask, await self._aopen(attempts, ask))

    def _open(self, attempts: _Attempts, ask: Callable[[LLM], Iterator[T]]) -> Iterator[T]:
        while True:
            token = current_call.set(attempts.call)
            try:
                return ask(self.backends[attempts.route])
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            finally:
                current_call.reset(token)

    async def _aopen(self, attempts: _Attempts, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]]) -> AsyncIterator[T]:
        while True:
            token = current_call.set(attempts.call)
            try:
                return await ask(await self.backends.aget(attempts.route))
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            finally:
                current_call.reset(token)

    def _items(
        self, attempts: _Attempts, ask: Callable[[LLM], Iterator[T]], source: Iterator[T]
    ) -> Generator[T, None, None]:
        reading = _Reading(attempts)
        while True:
            try:
                with _closing(source):
                    for item in ReadWithin(attempts.call, source) if attempts.listens else source:
                        yield reading.passed(item)
            except Exception as error:
                if reading.started:
                    raise
                attempts.next_or_raise(error)
            else:
                reading.ended()
                return
            finally:
                reading.left()
            source = self._open(attempts, ask)

    async def _aitems(
        self, attempts: _Attempts, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]], source: AsyncIterator[T]
    ) -> AsyncGenerator[T, None]:
        reading = _Reading(attempts)
        while True:
            try:
                # leaving an `async for` early does not close the generator it reads
                async with _aclosing(source):
                    async for item in AReadWithin(attempts.call, source) if attempts.listens else source:
                        yield reading.passed(item)
            except Exception as error:
                if reading.started:
                    raise
                attempts.next_or_raise(error)
            else:
                reading.ended()
                return
            finally:
                reading.left()
            source = await self._aopen(attempts, ask)

    def _attempts(self, question: Question) -> _Attempts:
        request = self._request(question, self._size(question))
        with scoring(self.policy):
            decision = self.policy.decide([request])[0]
        return _Attempts(self, question, request, decision)

    async def _aattempts(self, question: Question) -> _Attempts:
        await _turns.take()
        size = self._size(question)
        if question.must_call_tools or size is not None:
            await self.backends.aprepare()  # the policy is about to ask what each route can take
        if size is not None:
            await size.acount(min(self.backends.room(route) for route in self.policy.routes))
        request = self._request(question, size)
        with scoring(self.policy):
            decision = (await self.policy.adecide([request]))[0]
        return _Attempts(self, question, request, decision)

    def _size(self, question: Question) -> Size | None:
        if self.capability.context_policy == "min":  # what every backend can hold was packed
            return None
        return Size(question.messages, question.tools)

    def _request(self, question: Question, size: Size | None) -> RouteRequest:
        pins = current_pins()
        pin = None if pins is None else pins.get(self)
        tool_loop = not question.is_template and self.policy.stickiness != "none"
        conversation = self.keeps_conversation and pin is None
        forced = forced_route()
        return RouteRequest(
            text=question.text,
            forced=question.route if forced is None else forced,
            tool_loop=self.ledger.tool_loop(question.messages()) if tool_loop else None,
            pinned=pin,
            conversation=self.ledger.conversation(question.messages()) if conversation else None,
            capable=self.capability.check(question.must_call_tools, size),
        )

    @property
    def keeps_conversation(self) -> bool:
        """Whether the policy asks who gave the newest answer in a history."""
        return self.policy.stickiness == "conversation"


class _Attempts:
    """One call's way through the routes that may answer it."""

    def __init__(self, caller: Caller, question: Question, request: RouteRequest, decision: Decision) -> None:
        self._caller = caller
        self._question = question
        self._decision, *self._others = caller.policy.attempts(decision, request)
        self._failures: list[tuple[str, Exception]] = []
        self._record: dict[str, Any] = {}
        # a stream may be read elsewhere: its decision belongs to the pins, collectors and span of the call
        self._pins = current_pins()
        self.listens = is_collecting()
        self._context = copy_context() if self.listens else None
        self.call = OpenCall(current_call.get(), self.route, current_span())
        if self.listens:
            listen()
        if self._pins is not None and decision.reason != "forced":
            self._pins.setdefault(caller, decision.route)
        announce(decision, self.call)

    @property
    def route(self) -> str:
        return self._decision.route

    def next_or_raise(self, error: Exception) -> None:
        """Turn to the next route, or raise what the policy says the caller gets."""
        self._failures.append((self.route, error))
        passing = may_fall_back(error)
        if self._others and passing:
            self._decision = self._others.pop(0)
            # its type only: a provider's message may quote the prompt
            _logger.warning(
                "route %r failed with %s, trying %r", self._failures[-1][0], type(error).__name__, self.route
            )
            self.call.turn(self.route)
            return
        chosen = error_to_raise(self._failures, last_is_passing=passing)
        context = chosen.__context__
        try:
            raise chosen
        finally:
            chosen.__context__ = context  # raised here, the first would pass for a consequence of the last

    def answered(self, answer: T) -> T:
        """The answer of a call that does not stream, with everything noted."""
        self.settle()
        self.remember(answer)
        if self.listens:
            self.took(self.usage(answer))
        return self.stamped(answer)

    def settle(self) -> None:
        """The route now on turn has answered."""
        self._record = self._decision.to_dict()
        if self._failures:
            if self._pins is not None:
                self._pins[self._caller] = self.route
            announce(self._decision, self.call)
        if self._context is not None:
            self._context.run(observe, self._decision)

    def remember(self, answer: object) -> None:
        """Let a later call find out who gave this answer."""
        texts = self._caller.keeps_conversation
        if texts or (isinstance(answer, ChatResponse) and self._caller.policy.stickiness != "none"):
            self._caller.ledger.remember(self._question.messages(), answer, self.route, texts=texts)

    def usage(self, answer: object) -> Usage | None:
        """What the answer, or a stream's last piece of it, took; None too where a router inside says it."""
        if isinstance(answer, (ChatResponse, CompletionResponse)):
            return None if RECORD_KEY in answer.additional_kwargs else usage_of(answer)
        return self.call.usage  # as the backend's own events had it

    def took(self, usage: Usage | None) -> None:
        """Tell the collectors of the call, if the backend counted."""
        if usage is not None and self._context is not None:
            self._context.run(observe_usage, self._decision, usage)

    def stamped(self, answer: T) -> T:
        """The answer with the record on the response: what is on a message goes over the wire."""
        if not isinstance(answer, (ChatResponse, CompletionResponse)):
            return answer
        record = dict(self._record)
        inner = answer.additional_kwargs.get(RECORD_KEY)
        if inner is not None:  # the backend is a router too
            record["inner"] = inner
        # a copy, because the answer also stands in the backend's events, and may come from its cache
        extra = {**answer.additional_kwargs, RECORD_KEY: record}
        return cast(T, answer.model_copy(update={"additional_kwargs": extra}))


class _Reading:
    """Where the reading of one call's stream stands."""

    def __init__(self, attempts: _Attempts) -> None:
        self.started = False
        self._attempts = attempts
        self._last: object = None
        self._said = ""
        self._usage: Usage | None = None

    def passed(self, item: T) -> T:
        if not self.started:
            self.started = True
            self._attempts.settle()
        if isinstance(item, str):
            self._said += item
        elif self._attempts.listens:
            # in the last piece that holds any: counts grow, and an empty piece may follow them
            self._usage = self._attempts.usage(item) or self._usage
        self._last = item
        return self._attempts.stamped(item)

    def ended(self) -> None:
        if not self.started:  # an empty answer is one too
            self._attempts.settle()

    def left(self) -> None:
        """Read to the end, closed early or broken: what was said may stand in a history."""
        if self.started:
            self._attempts.remember(self._said or self._last)
            self._attempts.took(self._usage or self._attempts.usage(None))


@contextlib.contextmanager
def _closing(source: Any) -> Iterator[None]:
    try:
        yield
    finally:
        close = getattr(source, "close", None)  # a backend may give a plain iterator
        if close is not None:
            close()


@contextlib.asynccontextmanager
async def _aclosing(source: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
