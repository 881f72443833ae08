"""What the contract of LLMs asks with: the events of a call, what answers and arguments say, waiting with an end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported silently
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import PrivateAttr

__all__ = ["ain_time", "aread", "asked_of", "heard", "holds_value", "in_time", "run_watched", "shown", "text_of"]

LIMIT_S = 5.0


class _Handler(BaseEventHandler):
    _events: list[BaseEvent] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "LLMContractHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self._events.append(event)


@contextlib.contextmanager
def heard() -> Iterator[list[BaseEvent]]:
    """The events that reach LlamaIndex's root dispatcher meanwhile."""
    root, handler = get_dispatcher(), _Handler()
    root.add_event_handler(handler)
    try:
        yield handler._events
    finally:
        root.event_handlers.remove(handler)


def text_of(pieces: Sequence[Any]) -> str:
    """What an answer says in the end."""
    last = pieces[-1]
    if isinstance(last, ChatResponse):
        return last.message.content or ""
    if isinstance(last, CompletionResponse):
        return last.text
    return "".join(pieces) if isinstance(last, str) else str(last)


def shown(value: Any) -> Any:
    """What an argument says and which objects it is made of, to compare."""
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    if isinstance(value, ChatMessage):
        return value.model_dump_json()
    if isinstance(value, PromptTemplate):
        return value.template, dict(value.kwargs), dict(value.metadata)
    return id(value) if isinstance(value, FunctionTool) else value


def asked_of(event: Any) -> Any:
    return shown(list(event.messages)) if hasattr(event, "messages") else event.prompt


def holds_value(request: Any, name: str, value: Any) -> bool:
    if isinstance(request, Mapping):
        return (name in request and request[name] == value) or any(
            holds_value(v, name, value) for v in request.values()
        )
    return isinstance(request, (list, tuple)) and any(holds_value(each, name, value) for each in request)


async def aread(out: Awaitable[Any], at_first: Callable[[], None] = lambda: None) -> list[Any]:
    answer = await out
    if not hasattr(answer, "__aiter__"):
        return [answer]
    pieces = []
    async for piece in answer:
        pieces.append(piece)
        at_first()
    return pieces


def in_time(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


async def ain_time(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.005)
    return True


def run_watched(work: Callable[[], Awaitable[None]]) -> None:
    """Run it in a thread of its own, because a method that blocks the event loop would never come back."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type] # a coroutine
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(3 * LIMIT_S)
    assert not thread.is_alive(), "an awaited method blocks the event loop"
    if errors:
        raise errors[0]
