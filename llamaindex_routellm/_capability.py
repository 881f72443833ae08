"""Which routes can take a call at all: tools it must call, text that must fit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.utils import get_tokenizer

from llamaindex_routellm._backends import Backends

__all__ = ["Capability", "ContextPolicy", "Size", "ToolPolicy"]

ToolPolicy: TypeAlias = Literal["all", "capable"]
ContextPolicy: TypeAlias = Literal["min", "escalate"]

_PER_MESSAGE = 8  # tokens of role and separators, a little more than any provider takes


@dataclass(frozen=True, slots=True)
class Capability:
    """What the routes can take.

    Attributes:
        backends: Behind the routes.
        tool_policy: See `RouteLLM`.
        context_policy: See `RouteLLM`.
    """

    backends: Backends
    tool_policy: ToolPolicy
    context_policy: ContextPolicy

    def check(self, must_call_tools: bool, size: Size | None) -> Callable[[str], bool] | None:
        """Whether a route can take a call; None: there is nothing to check."""
        backends = self.backends
        if size is None:
            return backends.can_call_tools if must_call_tools else None
        return lambda route: (not must_call_tools or backends.can_call_tools(route)) and size.fits(backends.room(route))


class Size:
    """How long a call is, counted no more exactly than it takes.

    Args:
        messages: Gives what is sent.
        tools: What goes along.
    """

    def __init__(self, messages: Callable[[], Sequence[ChatMessage]], tools: Sequence[Any]) -> None:
        self._messages = messages
        self._tools = tools

    def fits(self, room: int) -> bool:
        """Whether a prompt of so many tokens would hold it."""
        return self._most <= room or self._tokens <= room

    async def acount(self, room: int) -> None:
        """Count in a thread what is not surely smaller than the smallest room."""
        if self._most > room:
            await asyncio.to_thread(lambda: self._tokens)

    @cached_property
    def _texts(self) -> list[str]:
        tools = [json.dumps(tool.metadata.to_openai_tool(skip_length_check=True), default=str) for tool in self._tools]
        return [*map(_sent_text, self._messages()), *tools]

    @cached_property
    def _most(self) -> int:  # no tokenizer makes more tokens than bytes
        return sum(len(text.encode("utf-8", "replace")) + _PER_MESSAGE for text in self._texts)

    @cached_property
    def _tokens(self) -> int:
        tokenizer = get_tokenizer()
        return sum(len(tokenizer(text)) + _PER_MESSAGE for text in self._texts)


def _sent_text(message: ChatMessage) -> str:
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    texts = [call.tool_kwargs if isinstance(call.tool_kwargs, str) else str(call.tool_kwargs) for call in calls]
    return "\n".join([message.content or "", *texts])
