"""Where an answer begins, and whether anything of one has left already, be it through callbacks alone.

A stream opens with a chunk that says who speaks, and nothing yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk

__all__ = ["FirstToken", "aopening", "is_opening_event", "opening", "says_nothing"]


def says_nothing(chunk: object) -> bool:
    """Whether a chunk holds nothing of an answer: no text, no other content, no tool call."""
    if isinstance(chunk, str):  # a chain's that ends in a parser
        return not chunk
    if not isinstance(chunk, AIMessageChunk) or chunk.tool_call_chunks:
        return False
    if any(chunk.additional_kwargs.values()):
        return False
    if isinstance(chunk.content, str):
        return not chunk.content
    return not any(_holds_something(block) for block in chunk.content)


def _holds_something(block: str | dict[Any, Any]) -> bool:
    if isinstance(block, str):
        return bool(block)
    return block.get("type") != "text" or bool(block.get("text"))


def is_opening_event(event: Mapping[str, Any] | None) -> bool:
    """`says_nothing` of an event stream's event."""
    return event is not None and event.get("event") == "message-start"


def opening(source: Iterator[Any], *, holds_back: bool) -> list[Any]:
    """The chunks up to the first that says something, or just the first; none of a stream that has none.

    Args:
        source: Is read no further.
        holds_back: Another route may still answer in this one's stead.
    """
    chunks = []
    for chunk in source:
        chunks.append(chunk)
        if not holds_back or not says_nothing(chunk):
            break
    return chunks


async def aopening(source: AsyncIterator[Any], *, holds_back: bool) -> list[Any]:
    """`opening`, awaited."""
    chunks = []
    async for chunk in source:
        chunks.append(chunk)
        if not holds_back or not says_nothing(chunk):
            break
    return chunks


class FirstToken(BaseCallbackHandler):
    """Notes the first token of a model call.

    A model that is invoked inside a graph which streams sends its tokens out as they come. After one of them
    no other route may answer, or the reader gets one and a half answers.
    """

    run_inline = True
    raise_error = False

    def __init__(self) -> None:
        self.seen = False

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        message = getattr(kwargs.get("chunk"), "message", None)
        if not (says_nothing(token) if message is None else says_nothing(message)):
            self._note(kwargs)

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        if not is_opening_event(event):
            self._note(kwargs)

    def _note(self, kwargs: dict[str, Any]) -> None:
        if "nostream" not in (kwargs.get("tags") or ()):  # LangGraph shows nothing of those
            self.seen = True
