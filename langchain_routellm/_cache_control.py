"""Anthropic's cache markers, which the clients of others send along and their providers refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool

__all__ = ["takes_cache_control", "unmarked_tools", "without_marker", "without_markers"]

_MARKER = "cache_control"
T = TypeVar("T", bound=BaseMessage)


def takes_cache_control(backend: BaseChatModel) -> bool:
    """Whether a backend speaks Anthropic's protocol, be it there, on Bedrock or on Vertex."""
    return "anthropic" in backend._llm_type


def without_marker(settings: dict[str, Any]) -> dict[str, Any]:
    """A call's settings, or a content block, without its marker and those of its `extras` and `metadata`."""
    found = {name: value for name, value in settings.items() if name != _MARKER}
    changed = len(found) < len(settings)
    for name in ("extras", "metadata"):  # clients look for one there, too
        inner = settings.get(name)
        if isinstance(inner, dict) and _MARKER in inner:
            found[name] = without_marker(inner)
            changed = True
    return found if changed else settings


def without_markers(message: T) -> T:
    """A message without markers; itself when there are none."""
    if isinstance(message.content, str):
        return message
    blocks = [without_marker(block) if isinstance(block, dict) else block for block in message.content]
    return message if _same(blocks, message.content) else message.model_copy(update={"content": blocks})


def unmarked_tools(tools: list[BaseTool | dict[str, Any]]) -> list[BaseTool | dict[str, Any]]:
    """Tools without markers; the same list when there are none."""
    found = [_unmarked_tool(tool) for tool in tools]
    return tools if _same(found, tools) else found


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(a is b for a, b in zip(one, other, strict=True))


def _unmarked_tool(tool: BaseTool | dict[str, Any]) -> BaseTool | dict[str, Any]:
    if isinstance(tool, dict):
        return without_marker(tool)
    if not tool.extras or _MARKER not in tool.extras:
        return tool
    return tool.model_copy(update={"extras": without_marker(tool.extras) or None})
