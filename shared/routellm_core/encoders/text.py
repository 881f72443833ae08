"""Any text a caller may hold, made safe and short before a tokenizer sees it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["clean_and_cut"]


def clean_and_cut(texts: Sequence[str], max_characters: int) -> list[str]:
    """Cut each text to `max_characters` and replace what cannot be encoded.

    A longer text keeps its first and its last half of the allowance: instructions stand at the
    beginning of a long prompt, questions at its end. Cutting comes first, so that a megabyte costs
    what its cut costs. Lone surrogates (tokenizers raise on them) become U+FFFD.
    """
    return [text if len(text) <= max_characters and text.isascii() else _clean(text, max_characters) for text in texts]


def _clean(text: str, max_characters: int) -> str:
    if len(text) > max_characters:
        half = max_characters // 2
        text = text[: max_characters - half - 1] + "\n" + text[len(text) - half :]
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
