"""Which route gave an answer that now stands in a history.

LlamaIndex keeps an answer's message and drops the response that carried our record, and the record cannot
ride on the message, because clients send a message's extra fields over the wire. So answers are remembered
here, by fingerprint: in this process, a bounded number of them, and none of their text.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole, ToolCallBlock

from llamaindex_routellm._text import task_messages

__all__ = ["TOOL_ROLES", "AnswerLedger"]

_SIZE = 8192  # fingerprints; an open tool loop needs its last few, a conversation its last one
TOOL_ROLES = (MessageRole.TOOL, MessageRole.FUNCTION)


class AnswerLedger:
    """Fingerprints of recent answers, each with the route that gave it."""

    def __init__(self) -> None:
        self._routes: OrderedDict[int, str] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, messages: Sequence[ChatMessage], answer: object, route: str, *, texts: bool) -> None:
        """Note who answered these messages.

        Args:
            messages: What was asked.
            answer: A response, or the text of one.
            route: Who gave it.
            texts: Note the answer's text too, not only its tool calls.
        """
        marks: list[Hashable] = []
        text: str | None = None
        if isinstance(answer, ChatResponse):
            marks.extend(_tool_ids(answer.message))
            text = answer.message.content if texts else None
        elif texts:
            text = answer.text if isinstance(answer, CompletionResponse) else str(answer)
        if text:
            marks.append((text.strip(),))
        if not marks:
            return
        task = _task(messages)
        with self._lock:
            for mark in marks:
                key = hash((task, mark))
                self._routes[key] = route
                self._routes.move_to_end(key)
            while len(self._routes) > _SIZE:
                self._routes.popitem(last=False)

    def tool_loop(self, messages: Sequence[ChatMessage]) -> str | None:
        """Who called the tool whose result the history ends in, if this process saw it."""
        if not messages or messages[-1].role not in TOOL_ROLES:
            return None
        task = _task(messages)
        ids = (message.additional_kwargs.get("tool_call_id") for message in _closing_tool_results(messages))
        return self._first(hash((task, i)) for i in ids if isinstance(i, str))

    def conversation(self, messages: Sequence[ChatMessage]) -> str | None:
        """Who gave the newest answer in the history, if this process saw it."""
        for i in range(len(messages) - 1, -1, -1):
            if messages[i].role == MessageRole.ASSISTANT:
                return self.origin(_task(messages[:i]), messages[i])
        return None

    def origin(self, task: str, message: ChatMessage) -> str | None:
        """Who gave this answer, if this process saw it.

        Args:
            task: What the user had asked last before it.
            message: The answer.
        """
        found = self._first(hash((task, tool_id)) for tool_id in _tool_ids(message))
        if found is None and (text := message.content):  # joined and read only where it must be: histories are long
            found = self._routes.get(hash((task, (text.strip(),))))
        return found

    def _first(self, keys: Iterable[int]) -> str | None:
        return next((route for key in keys if (route := self._routes.get(key)) is not None), None)


def _task(messages: Sequence[ChatMessage]) -> str:
    return next((text for text in reversed(task_messages(messages)) if text), "")


def _closing_tool_results(messages: Sequence[ChatMessage]) -> Iterable[ChatMessage]:
    for message in reversed(messages):
        if message.role not in TOOL_ROLES:
            return
        yield message


def _tool_ids(message: ChatMessage) -> list[str]:
    """What tool results will refer to: a call's id, or its tool's name where a provider gives none."""
    ids = [block.tool_call_id or block.tool_name for block in message.blocks if isinstance(block, ToolCallBlock)]
    return ids or [i for call in message.additional_kwargs.get("tool_calls") or () if (i := _legacy_id(call))]


def _legacy_id(call: Any) -> str | None:
    found = call.get("id") if isinstance(call, dict) else getattr(call, "id", None)
    return found if isinstance(found, str) else None
