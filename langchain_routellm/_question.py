"""The question in a runnable's input, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

from langchain_routellm._history import text_to_score
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["QUESTION_KEYS", "messages_of", "question_of"]

QUESTION_KEYS = ("question", "query", "input", "messages")
"""Under one of these, chains and graphs keep what the user asked."""


def messages_of(value: Any) -> list[BaseMessage] | None:
    """The input as messages, if that is what it is."""
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, BaseMessage):
        return [value]
    if not isinstance(value, list) or not value or not all(_looks_like_message(each) for each in value):
        return None
    try:
        return convert_to_messages(value)
    except (KeyError, NotImplementedError, TypeError, ValueError):  # pairs of something else
        return None


def _looks_like_message(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "role" in value and "content" in value
    return isinstance(value, BaseMessage) or (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)
    )


def question_of(value: Any, text: Callable[[Any], str | None] | None) -> str | None:
    """What to score of an input.

    Args:
        value: The input: text, messages, or a dict with either under exactly one of `QUESTION_KEYS` (or under its
            only key).
        text: The caller's own way to find it; None: the above.

    Raises:
        ConfigurationError: The caller's `text` returned something else than a str or None.
        DataError: The input has another shape, so that only the caller knows what its question is.
    """
    if text is not None:
        given = text(value)
        if given is not None and not isinstance(given, str):
            raise ConfigurationError(f"text= must return a str or None, but returned {type(given).__name__}")
        return given
    if not isinstance(value, Mapping):
        return _plain(value)
    named = [name for name in QUESTION_KEYS if name in value] or (list(value) if len(value) == 1 else [])
    if len(named) != 1:
        keys = ", ".join(repr(name) for name in list(value)[:8])
        raise DataError(
            f"which of the input's keys ({keys or 'none'}) holds the question to score? "
            'Say it with text=, for example text=lambda x: x["question"]'
        )
    return _plain(value[named[0]])


def _plain(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and not value:
        return None
    messages = messages_of(value)
    if messages is None:
        raise DataError(
            f"no text to score in an input of type {type(value).__name__}: it is neither a str nor messages. "
            "Give text=, a function from the input to the text to score"
        )
    return text_to_score(messages, None)
