"""Prompts as words, so that case, punctuation and spacing do not hide that two are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["WordNumbers", "words_of"]

# Chinese, Japanese and Korean are written without spaces: each of their characters is a word
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation; a prompt of symbols alone is one word as it stands.

    >>> words_of("What's  2 + 2?"), words_of("?!")
    (['what', 's', '2', '2'], ['?!'])
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(folded) or folded.split()


class WordNumbers:
    """A random 64-bit number for each word, the same for equal words; seeded, so that runs agree."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._index: dict[str, int] = {}
        self._numbers = np.zeros(0, dtype=np.uint64)

    def of(self, texts: Iterable[Sequence[str]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Numbers of all words one after another, shape (w,), and the bounds of the n texts, shape (n + 1,)."""
        index: list[int] = []
        ends = [0]
        for words in texts:
            index.extend(self._index.setdefault(word, len(self._index)) for word in words)
            ends.append(len(index))
        missing = len(self._index) - self._numbers.size
        if missing:
            more = self._rng.integers(0, 2**64, size=missing, dtype=np.uint64)
            self._numbers = np.concatenate([self._numbers, more])
        return self._numbers[np.array(index, dtype=np.int64)], np.array(ends, dtype=np.int64)


def shingles(
    numbers: NDArray[np.uint64], ends: NDArray[np.int64], size: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A 64-bit number for each run of `size` words inside a text, and the text it stands in; shapes (s,), (s,)."""
    starts = np.arange(max(numbers.size - size + 1, 0))
    text = np.searchsorted(ends, starts, side="right") - 1
    inside = starts + size <= ends[text + 1]
    starts, text = starts[inside], text[inside]
    runs = np.zeros(starts.size, dtype=np.uint64)
    multiplier = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing
    for offset in range(size):
        runs = runs * multiplier + numbers[starts + offset]
        runs ^= runs >> np.uint64(29)
    return runs, text
