"""Reading a conversation: what to score, where it is pinned, and what another provider can take of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_routellm._record import RECORD, record_of, route_of
from routellm_core.errors import ConfigurationError
from routellm_core.policy import routing_text

__all__ = ["conversation_route", "portable", "text_to_score", "tool_loop_route"]


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
    human = [str(message.text) for message in messages if isinstance(message, HumanMessage)]
    if human:
        return routing_text(human)
    return "\n".join(str(message.text) for message in messages).strip()


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


def conversation_route(messages: Sequence[BaseMessage]) -> str | None:
    """The route of the newest answer on record."""
    return next((route for message in reversed(messages) if (route := route_of(message)) is not None), None)


def portable(
    messages: list[BaseMessage], route: str, provider: Callable[[], str | None], *, is_router: bool = False
) -> list[BaseMessage]:
    """The history as the backend of `route` can take it; the same list when nothing had to change.

    AI turns of another route, or without a record of another provider, are rewritten into text and tool
    calls: thinking blocks, encrypted reasoning and response ids mean nothing elsewhere, and some clients
    refuse them. Turns of unknown origin are left alone.

    Args:
        messages: The history; never changed.
        route: Where it goes.
        provider: Gives the backend's provider; asked only when a turn without a record needs it.
        is_router: The backend is a router itself, so its own records are put back.
    """
    changed: dict[int, BaseMessage] = {}
    for position, message in enumerate(messages):
        if not isinstance(message, AIMessage):
            continue
        origin = route_of(message)
        made_by = message.response_metadata.get("model_provider")
        if origin is None and not made_by:
            continue
        if origin != route if origin is not None else made_by != provider():
            changed[position] = AIMessage(
                content=str(message.text),
                tool_calls=message.tool_calls,
                name=message.name,
                invalid_tool_calls=message.invalid_tool_calls,
                usage_metadata=message.usage_metadata,
            )
        elif origin is not None and is_router:
            changed[position] = _with_inner_record(message)
    if not changed:
        return messages
    return [changed.get(position, message) for position, message in enumerate(messages)]


def _with_inner_record(message: AIMessage) -> AIMessage:
    metadata: dict[str, Any] = {k: v for k, v in message.response_metadata.items() if k != RECORD}
    inner = (record_of(message) or {}).get("inner")
    if inner is not None:
        metadata[RECORD] = inner
    return message.model_copy(update={"response_metadata": metadata})
