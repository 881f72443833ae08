"""The weak answer of a cascade, before anybody sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole, ToolCallBlock

from llamaindex_routellm._ledger import TOOL_ROLES
from llamaindex_routellm._text import task_text
from routellm_core.types import Usage
from routellm_core.verifiers import Answer

__all__ = ["Discarded", "answer_of", "given", "in_tool_loop"]

T = TypeVar("T")
_FINISH_REASONS = ("finish_reason", "stop_reason", "done_reason")  # OpenAI, Anthropic, Ollama


@dataclass(frozen=True, slots=True)
class Discarded:
    """A weak answer that was not good enough.

    Attributes:
        route: Who gave it.
        pieces: The answer, or all pieces of its stream.
        usage: What it took, if its backend counted.
    """

    route: str
    pieces: Sequence[Any]
    usage: Usage | None


def in_tool_loop(messages: Sequence[ChatMessage]) -> bool:
    """Whether what was said last is a tool's result, be it written as a user's message as ReAct does."""
    if not messages:
        return False
    role = messages[-1].role
    return role in TOOL_ROLES or (role == MessageRole.USER and task_text(messages, len(messages) - 1) is None)


def answer_of(pieces: Sequence[Any]) -> Answer | None:
    """What a verifier is told of an answer, or of all pieces of its stream; None: it calls tools.

    The finish reason and the log-probabilities are read where OpenAI's, Anthropic's and Ollama's clients leave them.
    """
    if not pieces or isinstance(pieces[-1], str):
        return Answer(text="".join(pieces))
    finish_reason: str | None = None
    logprobs: list[float] = []
    for piece in pieces:
        if isinstance(piece, ChatResponse) and _calls_tools(piece.message):
            return None
        choice = _choice(piece.raw)
        finish_reason = next((found for name in _FINISH_REASONS if (found := _field(choice, name))), finish_reason)
        # not the response's own: they are the likeliest tokens' and not those of the tokens chosen
        for token in _field(_field(choice, "logprobs"), "content") or ():
            logprobs.append(float(_field(token, "logprob")))
    return Answer(text=_text(pieces), finish_reason=finish_reason, logprobs=logprobs or None)


async def given(pieces: Sequence[T]) -> AsyncIterator[T]:
    """Pieces that are there, to be read asynchronously."""
    for piece in pieces:
        yield piece


def _calls_tools(message: ChatMessage) -> bool:
    extra = message.additional_kwargs
    return bool(extra.get("tool_calls") or extra.get("function_call")) or any(
        isinstance(block, ToolCallBlock) for block in message.blocks
    )


def _text(pieces: Sequence[ChatResponse | CompletionResponse]) -> str:
    last = pieces[-1]
    whole = last.text if isinstance(last, CompletionResponse) else last.message.content
    # the last piece of a stream may hold its token count alone
    return whole or "".join(piece.delta or "" for piece in pieces)


def _choice(raw: Any) -> Any:
    choices = _field(raw, "choices")
    return choices[0] if choices else raw


def _field(place: Any, name: str) -> Any:
    return place.get(name) if isinstance(place, dict) else getattr(place, name, None)
