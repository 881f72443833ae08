"""Routed calls whose backend is at work: routers inside find the one around them, token counts find their call."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported silently
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)

from routellm_core.types import Usage

__all__ = ["AReadWithin", "OpenCall", "ReadWithin", "current_call", "listen", "usage_of"]

T = TypeVar("T")

# how providers spell tokens in and out: OpenAI, Anthropic, Gemini, Ollama
_SPELLINGS = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("prompt_token_count", "candidates_token_count"),
    ("prompt_eval_count", "eval_count"),
)


class OpenCall:
    """One routed call.

    Attributes:
        outer: The routed call whose backend made this one; None outside of any.
        route: The route on turn.
        span: The OpenTelemetry span of the call, if one records.
    """

    __slots__ = ("_depth", "_usage", "outer", "route", "span")

    def __init__(self, outer: OpenCall | None, route: str, span: Any) -> None:
        self.outer = outer
        self.route = route
        self.span = span
        self.turn(route)

    def turn(self, route: str) -> None:
        """Another route is tried; what the one before it took is not the answer's."""
        self.route = route
        self._usage: Usage | None = None
        self._depth = 0

    def path(self) -> list[str]:
        """Routes of the calls around this one, outermost first."""
        return [] if self.outer is None else [*self.outer.path(), self.outer.route]

    @property
    def usage(self) -> Usage | None:
        """What the model calls heard of so far took together."""
        return self._usage

    def hear(self, event: BaseEvent) -> None:
        """A backend's own event. Some report a chat and the completion it is made of: the outer one counts."""
        if isinstance(event, (LLMChatStartEvent, LLMCompletionStartEvent)):
            self._depth += 1
            return
        if not isinstance(event, (LLMChatEndEvent, LLMCompletionEndEvent)):
            return
        self._depth -= 1
        usage = usage_of(event.response) if self._depth == 0 else None
        if usage is not None:
            so_far = self._usage or Usage(input_tokens=0, output_tokens=0)
            self._usage = Usage(
                input_tokens=so_far.input_tokens + usage.input_tokens,
                output_tokens=so_far.output_tokens + usage.output_tokens,
            )


current_call: ContextVar[OpenCall | None] = ContextVar("llamaindex_routellm_call", default=None)
"""The routed call whose backend is at work here."""


class _Listener(BaseEventHandler):
    @classmethod
    def class_name(cls) -> str:
        return "RouteLLMTokenListener"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        call = current_call.get()
        if call is not None:
            call.hear(event)


_listening = threading.Lock()
_source = get_dispatcher("llama_index.core.llms.callbacks")  # what decorates the backends' endpoints


def listen() -> None:
    """Hear the backends' events from now on: answers that are a str or an object carry no token count."""
    if not any(isinstance(handler, _Listener) for handler in _source.event_handlers):
        with _listening:
            if not any(isinstance(handler, _Listener) for handler in _source.event_handlers):
                _source.add_event_handler(_Listener())


class ReadWithin(Iterator[T]):
    """Reads a stream with its call open, because a generator runs in the context of whoever reads it."""

    def __init__(self, call: OpenCall, source: Iterator[T]) -> None:
        self._call = call
        self._source = iter(source)

    def __next__(self) -> T:
        token = current_call.set(self._call)
        try:
            return next(self._source)
        finally:
            current_call.reset(token)


class AReadWithin(AsyncIterator[T]):
    """`ReadWithin`, awaited."""

    def __init__(self, call: OpenCall, source: AsyncIterator[T]) -> None:
        self._call = call
        self._source = source.__aiter__()

    async def __anext__(self) -> T:
        token = current_call.set(self._call)
        try:
            return await self._source.__anext__()
        finally:
            current_call.reset(token)


def usage_of(response: ChatResponse | CompletionResponse | None) -> Usage | None:
    """Tokens as the provider counted them, wherever its integration leaves them; None: it did not say."""
    if response is None:
        return None
    raw = response.raw
    for place in (_field(raw, "usage"), _field(raw, "usage_metadata"), raw, response.additional_kwargs):
        for into, out in _SPELLINGS:
            asked, answered = _field(place, into), _field(place, out)
            if isinstance(asked, int) and asked > 0:  # some clients fill in zeros
                return Usage(input_tokens=asked, output_tokens=answered if isinstance(answered, int) else 0)
    return None


def _field(place: Any, name: str) -> Any:
    return place.get(name) if isinstance(place, Mapping) else getattr(place, name, None)
