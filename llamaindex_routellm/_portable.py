"""What the client of another provider can take of a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.llms.llm import LLM

from llamaindex_routellm._ledger import TOOL_ROLES, AnswerLedger
from llamaindex_routellm._text import task_text

__all__ = ["is_plain", "portable"]

_LEGACY = "tool_calls"  # where integrations left calls before there were blocks for them, and still do
# what these two take as the id of a tool call; the others take any, so new ones have the strictest form
_ANTHROPICS_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_MISTRALS_ID = re.compile("[A-Za-z0-9]{9}")
_SHOWN = ("image", "audio", "video", "document")


def is_plain(message: ChatMessage) -> bool:
    """Whether every client takes it: text, and nothing else."""
    return _LEGACY not in message.additional_kwargs and all(isinstance(block, TextBlock) for block in message.blocks)


def portable(messages: Sequence[ChatMessage], route: str, backend: LLM, ledger: AnswerLedger) -> list[ChatMessage]:
    """The history as the backend of `route` can take it; what need not change stays the same object.

    Answers of other routes become text and tool calls with ids: thinking, signatures and a provider's own extra
    fields mean nothing elsewhere, and some clients refuse them. From answers of unknown origin only that is taken
    which this backend's client is known not to read. Results get the ids that their calls were given.

    Args:
        messages: The history; never changed.
        route: Where it goes.
        backend: What answers there.
        ledger: Knows who gave which answer.
    """
    if all(message.role != MessageRole.ASSISTANT for message in messages):
        return list(messages)
    reader = _Reader(backend)
    seen: list[ChatMessage] = []
    task = ""
    given: dict[str, list[str]] = {}  # the newest answer's new ids, by what its results say
    for i, message in enumerate(messages):
        if message.role == MessageRole.ASSISTANT:
            given = {}
            if not is_plain(message):
                origin = ledger.origin(task, message)
                if origin != route:
                    message = reader.seen(message, is_foreign=origin is not None)  # noqa: PLW2901
                    message, given = reader.with_ids(message, i)  # noqa: PLW2901
                    if not message.blocks and not message.additional_kwargs:  # nobody saw any of it
                        continue
        elif given and message.role in TOOL_ROLES:
            message = _answering(message, given)  # noqa: PLW2901
        else:
            task = task_text(messages, i) or task
        seen.append(message)
    return seen


class _Reader:
    """Who is about to read a history."""

    def __init__(self, backend: LLM) -> None:
        self._backend = backend

    @cached_property
    def _name(self) -> str:
        # a subclass speaks what its base does, whatever it calls itself: most providers' are OpenAI's
        names = [self._backend.class_name(), *(cls.__name__ for cls in type(self._backend).__mro__)]
        return " ".join(names).lower()

    @cached_property
    def _is_router(self) -> bool:
        return "routellm" in self._name  # it adapts what it passes on

    @cached_property
    def _is_openai(self) -> bool:
        return "openai" in self._name

    @cached_property
    def _wants_signatures(self) -> bool:
        return "anthropic" in self._name or "bedrock" in self._name

    @cached_property
    def _id_form(self) -> re.Pattern[str] | None:
        if self._wants_signatures:
            return _ANTHROPICS_ID
        return _MISTRALS_ID if "mistral" in self._name else None

    def seen(self, message: ChatMessage, *, is_foreign: bool) -> ChatMessage:
        """An answer of another route, or of an unknown one."""
        if is_foreign:
            return _rewritten(message)
        return message if self._is_router else self._readable(message)

    def with_ids(self, message: ChatMessage, position: int) -> tuple[ChatMessage, dict[str, list[str]]]:
        """The answer with an id on each tool call that this client can take, and the new ids by the old or the tool."""
        ids = [block.tool_call_id for block in message.blocks if isinstance(block, ToolCallBlock)]
        given: dict[str, list[str]] = {}
        blocks: list[Any] = []
        for block in message.blocks:
            # some servers number every call "0"
            if isinstance(block, ToolCallBlock) and (
                ids.count(block.tool_call_id) > 1 or not self._takes_id(block.tool_call_id)
            ):
                new = f"c{position % 100_000:05d}{sum(map(len, given.values())) % 1000:03d}"
                given.setdefault(block.tool_call_id or block.tool_name, []).append(new)
                block = block.model_copy(update={"tool_call_id": new})  # noqa: PLW2901
            blocks.append(block)
        return (message.model_copy(update={"blocks": blocks}), given) if given else (message, given)

    def _takes_id(self, tool_call_id: str | None) -> bool:
        if not tool_call_id or self._id_form is None:
            return bool(tool_call_id)
        return self._id_form.fullmatch(tool_call_id) is not None

    def _readable(self, message: ChatMessage) -> ChatMessage:
        calls = any(isinstance(block, ToolCallBlock) for block in message.blocks)
        blocks: list[Any] = [block for block in message.blocks if self._reads(block)]
        extra: dict[str, Any] = message.additional_kwargs
        if not self._is_openai:  # its clients alone know its objects, and write arguments as text
            blocks = [_with_parsed_arguments(block) if isinstance(block, ToolCallBlock) else block for block in blocks]
            if calls and _LEGACY in extra:
                extra = {name: value for name, value in extra.items() if name != _LEGACY}
        if extra is message.additional_kwargs and list(map(id, blocks)) == list(map(id, message.blocks)):
            return message
        return message.model_copy(update={"blocks": blocks, "additional_kwargs": extra})

    def _reads(self, block: Any) -> bool:
        if block.block_type == "thinking":
            return not self._wants_signatures or bool(block.additional_information.get("signature"))
        if block.block_type == "citation":
            return self._wants_signatures
        return True


def _rewritten(message: ChatMessage) -> ChatMessage:
    """Its text and its tool calls, with [image] where something else was."""
    blocks: list[Any] = []
    calls = False
    for block in message.blocks:
        if isinstance(block, TextBlock):
            blocks.append(block)
        elif isinstance(block, ToolCallBlock):
            calls = True
            blocks.append(_with_parsed_arguments(block))
        elif block.block_type in _SHOWN:
            blocks.append(TextBlock(text=f"[{block.block_type}]"))
    legacy = {_LEGACY: message.additional_kwargs[_LEGACY]} if _LEGACY in message.additional_kwargs else {}
    return message.model_copy(update={"blocks": blocks, "additional_kwargs": {} if calls else legacy})


def _with_parsed_arguments(block: ToolCallBlock) -> ToolCallBlock:
    if not isinstance(block.tool_kwargs, str):
        return block
    try:
        arguments = json.loads(block.tool_kwargs)
    except ValueError:  # broken off; so the tool was called without any
        arguments = {}
    return block.model_copy(update={"tool_kwargs": arguments if isinstance(arguments, dict) else {}})


def _answering(message: ChatMessage, given: dict[str, list[str]]) -> ChatMessage:
    """A tool's result with the id that its call was given; without one it names its tool, or nothing."""
    extra = message.additional_kwargs
    name = extra.get("tool_call_id") or extra.get("name")
    ids = given.get(name) if isinstance(name, str) else next((ids for ids in given.values() if ids), None)
    if not ids:
        return message
    return message.model_copy(update={"additional_kwargs": {**extra, "tool_call_id": ids.pop(0)}})
