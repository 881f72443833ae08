"""Carrying a decision out: asking the policy, then the backends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM

from llamaindex_routellm._attempts import RECORD_KEY, Attempts, Reading, aclosing, closing
from llamaindex_routellm._backends import Backends, own_messages
from llamaindex_routellm._capability import Capability, Size
from llamaindex_routellm._escalated import answer_of, given
from llamaindex_routellm._ledger import AnswerLedger
from llamaindex_routellm._open_calls import AReadWithin, ReadWithin, current_call
from llamaindex_routellm._portable import portable
from llamaindex_routellm._scopes import current_pins, forced_route, metadata_here
from llamaindex_routellm._scoring import scoring
from routellm_core.policy import EscalationPolicy, RouteRequest, RoutingPolicy, Turns
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
        is_text: The answer is a text and nothing else: a cascade may verify it.
    """

    text: str
    messages: Callable[[], Sequence[ChatMessage]]
    must_call_tools: bool = False
    is_template: bool = False
    route: str | None = None
    tools: Sequence[Any] = ()
    is_text: bool = False


class Caller:
    """Asks the policy, then the backends; one per `RouteLLM`."""

    def __init__(
        self, policy: RoutingPolicy, backends: Backends, capability: Capability, *, normalizes: bool = True
    ) -> None:
        self.policy = policy
        self.cascade = policy if isinstance(policy, EscalationPolicy) else None
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

    # Each of the four decides and opens now, in the caller's context; only reading a stream is lazy. A weak answer that
    # is to be verified is read whole at once: so both models are asked in the caller's context, too.
    def call(self, question: Question, ask: Callable[[LLM], T]) -> T:
        """One answer."""
        attempts = self._attempts(question)
        answer = self._answer(attempts, ask)
        if attempts.verifies and self._escalates(attempts, [answer]):
            answer = self._answer(attempts, ask)
        return attempts.answered(answer)

    async def acall(self, question: Question, ask: Callable[[LLM], Awaitable[T]]) -> T:
        """One answer, awaited."""
        attempts = await self._aattempts(question)
        answer = await self._aanswer(attempts, ask)
        if attempts.verifies and await self._aescalates(attempts, [answer]):
            answer = await self._aanswer(attempts, ask)
        return attempts.answered(answer)

    def stream(self, question: Question, ask: Callable[[LLM], Iterator[T]]) -> Generator[T, None, None]:
        """An opened stream."""
        attempts = self._attempts(question)
        source = self._open(attempts, ask)
        if attempts.verifies:
            source = self._open_verified(attempts, ask, source)
        return self._items(attempts, ask, source)

    async def astream(
        self, question: Question, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]]
    ) -> AsyncGenerator[T, None]:
        """An opened stream, to be read asynchronously."""
        attempts = await self._aattempts(question)
        source = await self._aopen(attempts, ask)
        if attempts.verifies:
            source = await self._aopen_verified(attempts, ask, source)
        return self._aitems(attempts, ask, source)

    def _answer(
        self, attempts: Attempts, ask: Callable[[LLM], T], again: Callable[[Sequence[Any]], Any] = itemgetter(0)
    ) -> T:
        while True:
            if (kept := attempts.kept) is not None:
                return cast(T, again(kept))
            token = current_call.set(attempts.call)
            try:
                return ask(self.backends[attempts.route])
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            finally:
                current_call.reset(token)

    async def _aanswer(
        self,
        attempts: Attempts,
        ask: Callable[[LLM], Awaitable[T]],
        again: Callable[[Sequence[Any]], Any] = itemgetter(0),
    ) -> T:
        while True:
            if (kept := attempts.kept) is not None:
                return cast(T, again(kept))
            token = current_call.set(attempts.call)
            try:
                return await ask(await self.backends.aget(attempts.route))
            except Exception as error:  # noqa: BLE001 - next_or_raise raises it unless another route may answer
                attempts.next_or_raise(error)
            finally:
                current_call.reset(token)

    def _open(self, attempts: Attempts, ask: Callable[[LLM], Iterator[T]]) -> Iterator[T]:
        return self._answer(attempts, ask, iter)

    async def _aopen(self, attempts: Attempts, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]]) -> AsyncIterator[T]:
        return await self._aanswer(attempts, ask, given)

    def _open_verified(self, attempts: Attempts, ask: Callable[[LLM], Iterator[T]], source: Iterator[T]) -> Iterator[T]:
        try:
            with closing(source):
                pieces = list(ReadWithin(attempts.call, source) if attempts.listens else source)
        except Exception as error:  # noqa: BLE001 - nobody has seen any of it: another route may answer
            attempts.next_or_raise(error)
            return self._open(attempts, ask)
        return self._open(attempts, ask) if self._escalates(attempts, pieces) else iter(pieces)

    async def _aopen_verified(
        self, attempts: Attempts, ask: Callable[[LLM], Awaitable[AsyncIterator[T]]], source: AsyncIterator[T]
    ) -> AsyncIterator[T]:
        try:
            async with aclosing(source):
                reader = AReadWithin(attempts.call, source) if attempts.listens else source
                pieces = [piece async for piece in reader]
        except Exception as error:  # noqa: BLE001 - nobody has seen any of it: another route may answer
            attempts.next_or_raise(error)
            return await self._aopen(attempts, ask)
        return await self._aopen(attempts, ask) if await self._aescalates(attempts, pieces) else given(pieces)

    def _escalates(self, attempts: Attempts, pieces: Sequence[Any]) -> bool:
        answer = answer_of(pieces)
        if self.cascade is None or answer is None:
            return False
        with scoring(self.cascade.verifier):
            final = self.cascade.verified(attempts.decision, answer, attempts.text)
        return attempts.verified(pieces, final)

    async def _aescalates(self, attempts: Attempts, pieces: Sequence[Any]) -> bool:
        answer = answer_of(pieces)
        if self.cascade is None or answer is None:
            return False
        with scoring(self.cascade.verifier):
            final = await self.cascade.averified(attempts.decision, answer, attempts.text)
        return attempts.verified(pieces, final)

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
        with scoring(self.policy.router):
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
        with scoring(self.policy.router):
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
            metadata=metadata_here() if self.policy.router.metadata_columns else None,
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
