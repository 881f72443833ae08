"""Reading a conversation: what to score, and where it is pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_routellm._record import RECORD, record_of, route_of
from routellm_core.errors import ConfigurationError
from routellm_core.policy import conversation_text

__all__ = ["conversation_route", "in_tool_loop", "text_to_score", "tool_loop_route", "with_inner_record"]


def text_to_score(messages: Sequence[BaseMessage], text: Callable[[list[BaseMessage]], str | None] | None) -> str:
    """The human side of the conversation; all there is when nobody human has spoken.

    Raises:
        ConfigurationError: The caller's `text` returned something else than a str or None.
    """
    if text is not None:
        given = text(list(messages))
        if given is not None and not isinstance(given, str):
            raise ConfigurationError(f"text= must return a str or None, but returned {type(given).__name__}")
        return given or ""
    human = [_text_of(message) for message in messages if isinstance(message, HumanMessage)]
    return conversation_text(human, (_text_of(message) for message in messages))


def _text_of(message: BaseMessage) -> str:
    """Its texts, one a line; `message.text` joins them with nothing, so that two questions run into each other."""
    if isinstance(message.content, str):
        return message.content
    texts = (block if isinstance(block, str) else _block_text(block) for block in message.content)
    return "\n".join(text for text in texts if text is not None)


def _block_text(block: dict[Any, Any]) -> str | None:
    text = block.get("text") if block.get("type") == "text" else None
    return text if isinstance(text, str) else None


def _is_tool_result(message: BaseMessage) -> bool:
    if isinstance(message, ToolMessage):
        return True
    # Anthropic's own form: a human message of nothing but results
    return (
        isinstance(message, HumanMessage)
        and isinstance(message.content, list)
        and bool(message.content)
        and all(isinstance(block, dict) and block.get("type") == "tool_result" for block in message.content)
    )


def tool_loop_route(messages: Sequence[BaseMessage]) -> str | None:
    """The route that asked for the tool results which the history ends in."""
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        if _is_tool_result(message):
            continue
        if position < len(messages) - 1 and isinstance(message, AIMessage):
            return route_of(message)
        return None
    return None


def in_tool_loop(messages: Sequence[BaseMessage]) -> bool:
    """Whether the history ends in tool results, be the answer that asked for them on record or not."""
    return bool(messages) and _is_tool_result(messages[-1])


def conversation_route(messages: Sequence[BaseMessage]) -> str | None:
    """The route of the newest answer on record."""
    return next((route for message in reversed(messages) if (route := route_of(message)) is not None), None)


def with_inner_record(message: AIMessage) -> AIMessage:
    """A copy of an answer with the record of the router inside the one that stamped it; without any if it has none."""
    metadata: dict[str, Any] = {k: v for k, v in message.response_metadata.items() if k != RECORD}
    inner = (record_of(message) or {}).get("inner")
    if inner is not None:
        metadata[RECORD] = inner
    return message.model_copy(update={"response_metadata": metadata})
