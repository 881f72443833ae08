"""One call on its way: attempts that fail, the record on the answer, and where the reading of a stream stands."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse, TextBlock

from llamaindex_routellm._escalated import Discarded, in_tool_loop
from llamaindex_routellm._open_calls import OpenCall, current_call, listen, usage_of
from llamaindex_routellm._portable import is_plain
from llamaindex_routellm._scopes import current_pins
from llamaindex_routellm.events import announce, current_span
from routellm_core.policy import (
    RouteRequest,
    error_to_raise,
    is_collecting,
    may_fall_back,
    observe,
    observe_discarded,
    observe_usage,
)
from routellm_core.types import Decision, Usage

if TYPE_CHECKING:
    from llamaindex_routellm._calling import Caller, Question

__all__ = ["RECORD_KEY", "Attempts", "Reading", "aclosing", "closing", "says_nothing"]

RECORD_KEY = "routellm"
_logger = logging.getLogger("routellm_core.llama_index")
T = TypeVar("T")


class Attempts:
    """One call's way through the routes that may answer it.

    Attributes:
        verifies: The answer now awaited is verified before anybody sees it.
        kept: The weak answer, in pieces, where it stands in for a strong route that failed after an escalation.
    """

    # on the class, because only a cascade has them
    verifies: bool = False
    kept: Sequence[Any] | None = None
    _weak: Discarded | None = None

    def __init__(self, caller: Caller, question: Question, request: RouteRequest, decision: Decision) -> None:
        self._caller = caller
        self._question = question
        self._request = request
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
        announce(decision, self.call)
        if caller.cascade is not None and question.is_text:
            in_loop = not question.is_template and in_tool_loop(question.messages())
            self.verifies = caller.cascade.may_escalate(decision, request, in_tool_loop=in_loop)

    @property
    def route(self) -> str:
        return self._decision.route

    @property
    def holds_back(self) -> bool:
        """Whether a piece that says nothing must wait, because another route may answer in its stead."""
        return self._caller.policy.fallback != "none"

    @property
    def text(self) -> str:
        """What was routed on."""
        return self._question.text

    @property
    def decision(self) -> Decision:
        """For the route on turn."""
        return self._decision

    def verified(self, pieces: Sequence[Any], final: Decision) -> bool:
        """Take over what was decided on the weak answer; whether the strong route is asked now."""
        self.verifies = False
        weak = self._decision
        if final is weak:
            return False
        self._decision, *self._others = self._caller.policy.attempts(final, self._request)
        escalates = final.route != weak.route
        if escalates:
            counted = (usage for piece in reversed(pieces) if (usage := self.usage(piece)) is not None)
            self._weak = Discarded(weak.route, pieces, next(counted, self.call.usage) if self.listens else None)
            self.call.turn(final.route)
            if self._pins is not None:
                self._pins[self._caller] = final.route
        announce(final, self.call)
        return escalates

    def next_or_raise(self, error: Exception) -> None:
        """Turn to the next route, or raise what the policy says the caller gets."""
        self.verifies = False
        self._failures.append((self.route, error))
        passing = may_fall_back(error)
        if self._others and passing:
            self._decision = self._others.pop(0)
            # its type only: a provider's message may quote the prompt
            _logger.warning(
                "route %r failed with %s, trying %r", self._failures[-1][0], type(error).__name__, self.route
            )
            self.call.turn(self.route)
            if self._weak is not None:
                self.kept = self._weak.pieces
            return
        chosen = error_to_raise(self._failures, last_is_passing=passing)
        context = chosen.__context__
        try:
            raise chosen
        finally:
            chosen.__context__ = context  # raised here, the first would pass for a consequence of the last
            self._failures.clear()  # each holds this frame: the prompt would stay until the next full collection
            del chosen, context, error

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
            if self._weak is not None and self.kept is None:
                self._context.run(observe_discarded, self._decision, self._weak.route, self._weak.usage)

    def remember(self, answer: object) -> None:
        """Let a later call find out who gave this answer."""
        texts, notes = self._caller.keeps_conversation, self._caller.policy.stickiness != "none"
        if self._caller.normalizes and isinstance(answer, ChatResponse) and not is_plain(answer.message):
            texts = notes = True  # other routes will not be able to read this as it is
        if texts or (notes and isinstance(answer, ChatResponse)):
            self._caller.ledger.remember(self._question.messages(), answer, self.route, texts=texts)

    def usage(self, answer: object) -> Usage | None:
        """What the answer, or a stream's last piece of it, took; None too where a router inside says it."""
        if isinstance(answer, (ChatResponse, CompletionResponse)):
            return None if RECORD_KEY in answer.additional_kwargs else usage_of(answer)
        if self._weak is not None and self.kept is not None:
            return self._weak.usage
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


class Reading:
    """Where the reading of one call's stream stands.

    An opening piece says who speaks, and nothing yet. Where another route may take over it is held back until
    something is said.
    """

    def __init__(self, attempts: Attempts) -> None:
        self.started = False
        self._attempts = attempts
        self._held: list[Any] = []
        self._last: object = None
        self._said = ""
        self._usage: Usage | None = None

    def released(self, item: T) -> Sequence[T]:
        """What to pass on now that this piece has come."""
        if self.started:
            return (item,)
        self._held.append(item)
        return () if self._attempts.holds_back and says_nothing(item) else self.ended()

    def ended(self) -> Sequence[Any]:
        """What to pass on now that nothing else comes, or the first word has; an empty answer is one too."""
        if not self.started:
            self.started = True
            self._attempts.settle()
        held, self._held = self._held, []
        return held

    def restart(self) -> None:
        """Another route is asked."""
        self._held = []

    def passed(self, item: T) -> T:
        """A piece as it is passed on."""
        if isinstance(item, str):
            self._said += item
        elif self._attempts.listens:
            # in the last piece that holds any: counts grow, and an empty piece may follow them
            self._usage = self._attempts.usage(item) or self._usage
        self._last = item
        return self._attempts.stamped(item)

    def left(self) -> None:
        """Read to the end, closed early or broken: what was said may stand in a history."""
        if self._last is not None:
            self._attempts.remember(self._said or self._last)
            self._attempts.took(self._usage or self._attempts.usage(None))


def says_nothing(item: object) -> bool:
    """Whether a piece of a stream holds nothing of an answer: no text, no thinking, no tool call."""
    if isinstance(item, str):
        return not item
    if not isinstance(item, (ChatResponse, CompletionResponse)):
        return False
    extra = item.additional_kwargs
    if item.delta or extra.get("thinking_delta"):
        return False
    if isinstance(item, CompletionResponse):
        return not item.text
    own = item.message.additional_kwargs
    if own.get("thinking_delta") or own.get("tool_calls") or own.get("function_call"):
        return False
    return all(isinstance(block, TextBlock) and not block.text for block in item.message.blocks)


@contextlib.contextmanager
def closing(source: Any) -> Iterator[None]:
    try:
        yield
    finally:
        close = getattr(source, "close", None)  # a backend may give a plain iterator
        if close is not None:
            close()


@contextlib.asynccontextmanager
async def aclosing(source: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
