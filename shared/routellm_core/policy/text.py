"""Which of a conversation's human messages is scored."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FOLLOW_UP_CHARACTERS", "routing_text"]

FOLLOW_UP_CHARACTERS = 24
"""A newest human message shorter than this ("yes, go on", "why?") says little by itself."""


def routing_text(human_texts: Sequence[str]) -> str:
    """The newest human message; a short follow-up together with the last substantial one before it.

    Args:
        human_texts: The human messages' texts, oldest first.

    Returns:
        The text to score; "" when no message has any.
    """
    texts = [text for text in human_texts if text.strip()]
    if not texts:
        return ""
    newest = texts[-1]
    if len(newest.strip()) >= FOLLOW_UP_CHARACTERS:
        return newest
    for earlier in reversed(texts[:-1]):
        if len(earlier.strip()) >= FOLLOW_UP_CHARACTERS:
            return f"{earlier}\n{newest}"
    return newest
