"""What another provider can take of a conversation."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_routellm._cache_control import takes_cache_control, without_markers
from langchain_routellm._history import with_inner_record
from langchain_routellm._record import RECORD, record_of, route_of

__all__ = ["portable"]


def portable(messages: list[BaseMessage], route: str, backend: BaseChatModel) -> list[BaseMessage]:
    """The history as the backend of `route` can take it; the same list when nothing had to change.

    AI turns of another route, or of another provider, are rewritten into text and tool calls: thinking blocks,
    encrypted reasoning, signatures and response ids mean nothing elsewhere, and some clients refuse them. Turns of
    unknown origin are left alone. Of what people and tools said, only what is Anthropic's is taken from others: cache
    markers, and images and documents in its form.

    Tool calls keep their ids; clients of providers with a format of their own (Mistral, Anthropic) translate them.

    Args:
        messages: The history; never changed.
        route: Where it goes.
        backend: What answers there.
    """
    if len(messages) == 1 and isinstance(messages[0].content, str):  # most calls
        return messages
    reader = _Reader(messages, route, backend)
    seen = [reader.turn(each) if isinstance(each, AIMessage) else reader.input(each) for each in messages]
    return messages if all(one is other for one, other in zip(seen, messages, strict=True)) else seen


class _Reader:
    """Who is about to read a history; asked for what it is only when that matters."""

    def __init__(self, messages: list[BaseMessage], route: str, backend: BaseChatModel) -> None:
        self.messages = messages
        self.route = route
        self.backend = backend
        self.is_router = backend._llm_type == RECORD  # it reads its own records, and adapts what it passes on

    @cached_property
    def family(self) -> str | None:
        kind = self.backend._llm_type
        if "anthropic" in kind:  # on Bedrock and Vertex too
            return "anthropic"
        return "openai" if "openai-" in kind else _family(self.backend._get_ls_params().get("ls_provider"))

    @cached_property
    def takes_markers(self) -> bool:
        return self.is_router or takes_cache_control(self.backend) or self.family not in _KNOWN

    @cached_property
    def answered(self) -> set[str]:
        return {message.tool_call_id for message in self.messages if isinstance(message, ToolMessage)}

    def turn(self, message: AIMessage) -> BaseMessage:
        """An AI turn."""
        if self._is_foreign(message):
            return self._rewritten(message)
        if self.is_router and record_of(message) is not None:
            return with_inner_record(message)
        return self.input(message)

    def _is_foreign(self, message: AIMessage) -> bool:
        origin, made_by = route_of(message), message.response_metadata.get("model_provider")
        if origin is not None and origin != self.route:
            return True
        if not made_by or self.is_router:
            return False
        made_by = _family(made_by)
        if origin is None:
            return made_by != self.family
        # the route's backend is another one by now; only where that is sure, as turns lose by being rewritten
        return made_by != self.family and {made_by, self.family} <= _KNOWN

    def _rewritten(self, message: AIMessage) -> AIMessage:
        invalid = message.invalid_tool_calls
        if invalid:  # most providers refuse one that nobody answered, and agents answer none
            invalid = [call for call in invalid if call["id"] in self.answered]
        return _EMPTY.model_copy(
            update={
                "content": _said(message),
                "tool_calls": message.tool_calls,
                "name": message.name,
                "invalid_tool_calls": invalid,
                "usage_metadata": message.usage_metadata,
                "additional_kwargs": {},
                "response_metadata": {},
            }
        )

    def input(self, message: BaseMessage) -> BaseMessage:
        """What a person, a tool or the application said."""
        if isinstance(message.content, str) or self.takes_markers:
            return message
        message = without_markers(message)
        blocks = message.content
        if any(_is_anthropic_media(block) for block in blocks) and self.family in _KNOWN:
            blocks = [_standard(block) if _is_anthropic_media(block) else block for block in blocks]
            message = message.model_copy(update={"content": blocks})
        return message


_KNOWN = {"anthropic", "google", "ollama", "openai"}
"""Families whose clients are known not to take each other's turns."""


def _family(provider: Any) -> str | None:
    """One name for the clients that write the same blocks; a client's turns and settings do not always agree on it."""
    name = str(provider).removeprefix("amazon_").removeprefix("azure_")
    for family in ("bedrock", "google"):
        if name.startswith(family):
            return family
    return "openai" if name == "azure" else name


def _is_anthropic_media(block: Any) -> bool:
    return (
        isinstance(block, dict) and block.get("type") in ("image", "document") and isinstance(block.get("source"), dict)
    )


def _standard(block: Any) -> Any:
    """LangChain's own form of an image or document, which its clients take; the block itself if there is none."""
    standard = HumanMessage([block]).content_blocks[0]
    return block if standard["type"] == "non_standard" else standard


_EMPTY = AIMessage("")  # a copy with other fields is ten times as quick as the constructor, which long histories feel


_SHOWN = {
    "image": "image",
    "image_url": "image",
    "image_generation_call": "image",
    "audio": "audio",
    "video": "video",
    "file": "file",
}


def _said(message: AIMessage) -> str:
    """What the reader of an answer saw: its text or refusal, with [image] where something else was."""
    if isinstance(message.content, str):
        said = message.content
    else:
        said = ""
        for block in message.content:
            kind = "text" if isinstance(block, str) else str(block.get("type"))
            if isinstance(block, str):
                said += block
            elif kind in ("text", "output_text", "refusal"):
                said += str(block.get("refusal" if kind == "refusal" else "text") or "")
            elif kind in _SHOWN:
                said += f"{chr(10) if said else ''}[{_SHOWN[kind]}]"
    extra = message.additional_kwargs
    if not said and (extra.get("refusal") or extra.get("audio")):
        audio = extra.get("audio")
        said = str(extra.get("refusal") or (isinstance(audio, dict) and audio.get("transcript")) or "[audio]")
    return said
