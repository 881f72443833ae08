"""Carrying a decision out: asking the policy, then the backends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM

from llamaindex_routellm._attempts import RECORD_KEY, Attempts, Reading, aclosing, closing
from llamaindex_routellm._backends import Backends, own_messages
from llamaindex_routellm._capability import Capability, Size
from llamaindex_routellm._ledger import AnswerLedger
from llamaindex_routellm._open_calls import AReadWithin, ReadWithin, current_call
from llamaindex_routellm._portable import portable
from llamaindex_routellm._scopes import current_pins, forced_route
from llamaindex_routellm._scoring import scoring
from routellm_core.policy import RouteRequest, RoutingPolicy, Turns
from routellm_core.types import Decision

__all__ = ["RECORD_KEY", "Caller", "Question"]

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

    def __init__(
        self, policy: RoutingPolicy, backends: Backends, capability: Capability, *, normalizes: bool = True
    ) -> None:
        self.policy = policy
        self.backends = backends
        self.capability = capability
        self.normalizes = normalizes
        self.ledger = AnswerLedger()

    def history(self, backend: LLM, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """A copy of the history as the backend on turn can take it; for use by what asks it."""
        call = current_call.get()
        if self.normalizes and call is not None:
            messages = portable(messages, call.route, backend, self.ledger)
        return own_messages(backend, messages)

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

    def _open(self, attempts: Attempts, ask: Callable[[LLM], Iterator[T]]) -> Iterator[T]:
        while True:
            token = current_call.set(attempts.call)
            try:
                return ask(self.backends[attempts.route])
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            finally:
                current_call.reset(token)

    async def _aopen(self, attempts: Attempts, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]]) -> AsyncIterator[T]:
        while True:
            token = current_call.set(attempts.call)
            try:
                return await ask(await self.backends.aget(attempts.route))
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            finally:
                current_call.reset(token)

    def _items(
        self, attempts: Attempts, ask: Callable[[LLM], Iterator[T]], source: Iterator[T]
    ) -> Generator[T, None, None]:
        reading = Reading(attempts)
        while True:
            try:
                with closing(source):
                    for item in ReadWithin(attempts.call, source) if attempts.listens else source:
                        for each in reading.released(item):
                            yield reading.passed(each)
                for each in reading.ended():
                    yield reading.passed(each)
                return
            except Exception as error:
                if reading.started:
                    raise
                attempts.next_or_raise(error)
                reading.restart()
            finally:
                reading.left()
            source = self._open(attempts, ask)

    async def _aitems(
        self, attempts: Attempts, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]], source: AsyncIterator[T]
    ) -> AsyncGenerator[T, None]:
        reading = Reading(attempts)
        while True:
            try:
                # leaving an `async for` early does not close the generator it reads
                async with aclosing(source):
                    async for item in AReadWithin(attempts.call, source) if attempts.listens else source:
                        for each in reading.released(item):
                            yield reading.passed(each)
                for each in reading.ended():
                    yield reading.passed(each)
                return
            except Exception as error:
                if reading.started:
                    raise
                attempts.next_or_raise(error)
                reading.restart()
            finally:
                reading.left()
            source = await self._aopen(attempts, ask)

    def _attempts(self, question: Question) -> Attempts:
        request = self._request(question, self._size(question))
        with scoring(self.policy):
            decision = self.policy.decide([request])[0]
        return Attempts(self, question, *self._pinned(request, decision))

    async def _aattempts(self, question: Question) -> Attempts:
        await _turns.take()
        size = self._size(question)
        if question.must_call_tools or size is not None:
            await self.backends.aprepare()  # the policy is about to ask what each route can take
        if size is not None:
            await size.acount(min(self.backends.room(route) for route in self.policy.routes))
        request = self._request(question, size)
        with scoring(self.policy):
            decision = (await self.policy.adecide([request]))[0]
        return Attempts(self, question, *self._pinned(request, decision))

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

    def _pinned(self, request: RouteRequest, decision: Decision) -> tuple[RouteRequest, Decision]:
        """The decision, or that of a call at the same time which was the first of its scope after all."""
        pins = current_pins()
        if pins is not None and decision.reason != "forced":
            first = pins.setdefault(self, decision.route)
            if request.pinned is None and first != decision.route:
                request = replace(request, pinned=first)
                decision = self.policy.decide([request])[0]  # nothing is scored for it
        return request, decision

    @property
    def keeps_conversation(self) -> bool:
        """Whether the policy asks who gave the newest answer in a history."""
        return self.policy.stickiness == "conversation"
