"""What of a conversation is scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["FOLLOW_UP_CHARACTERS", "conversation_text", "routing_text"]

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


def conversation_text(human_texts: Sequence[str], all_texts: Iterable[str]) -> str:
    """What stands for a conversation: `routing_text` of its human side, or all of it when nobody human has spoken.

    Several texts of one message are joined with line breaks by who calls.

    Args:
        human_texts: One for each human message, oldest first; "" for one without text.
        all_texts: One for each message, whoever wrote it; looked at only if there is no human message at all.

    Returns:
        The text to score; "" when there is a human message, but none with text.
    """
    if human_texts:
        return routing_text(human_texts)
    return "\n".join(all_texts).strip()
