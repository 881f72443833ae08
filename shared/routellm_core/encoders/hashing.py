"""Hashed character n-grams: an encoder with no files, no training and no dependency but numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.base import Encoder
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError
from routellm_core.persistence import digest_of

__all__ = ["HashingEncoder"]

_BLOCK_CHARACTERS = 1 << 20  # bounds the memory of one pass: a few arrays of this many 8-byte numbers
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring code points
_VERSION = "1"  # part of the digest; change it with anything that changes a vector


class HashingEncoder(Encoder):
    """Signed feature hashing of lower-cased character n-grams, square-root counts, unit length.

    Args:
        dim: Width of a vector, at least 1.
        ngrams: Lengths of the n-grams, each at least 1. A text is padded with one space on each side.
        max_characters: Longer texts are cut, keeping both ends.

    Raises:
        ConfigurationError: An argument is out of range.

    Source: Weinberger et al. 2009, arXiv:0902.2206 (signed feature hashing).
    """

    kind: ClassVar[str] = "hashing"
    is_quick = True

    def __init__(self, dim: int = 1024, *, ngrams: Sequence[int] = (3, 4, 5), max_characters: int = 4096) -> None:
        if dim < 1:
            raise ConfigurationError(f"dim must be at least 1, got {dim}")
        if not ngrams or min(ngrams) < 1:
            raise ConfigurationError(f"ngrams must be lengths of at least 1, got {list(ngrams)}")
        if max_characters < 2:
            raise ConfigurationError(f"max_characters must be at least 2, got {max_characters}")
        self._dim = int(dim)
        self.ngrams = tuple(int(n) for n in ngrams)
        self.max_characters = int(max_characters)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def digest(self) -> str:
        return digest_of("hashing", _VERSION, repr((self._dim, self.ngrams, self.max_characters)))

    def settings(self) -> dict[str, Any]:
        return {"dim": self._dim, "ngrams": list(self.ngrams), "max_characters": self.max_characters}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        padded = [f" {text.lower()} " for text in clean_and_cut(texts, self.max_characters)]
        lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
        block_of = (np.cumsum(lengths) - 1) // _BLOCK_CHARACTERS
        starts = np.flatnonzero(np.diff(block_of, prepend=-1))
        vectors = np.empty((len(padded), self._dim), dtype=np.float32)
        for start, stop in zip(starts, [*starts[1:], len(padded)], strict=True):
            vectors[start:stop] = self._encode_block(padded[start:stop], lengths[start:stop])
        return vectors

    def _encode_block(self, padded: list[str], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        points = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        row = np.repeat(np.arange(len(padded)), lengths)
        remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(points.size)  # to the end of the text
        counts = np.zeros(len(padded) * self._dim)
        for n in self.ngrams:
            whole = np.flatnonzero(remaining >= n)  # n-grams do not cross from one text into the next
            hashed = np.full(whole.size, n, dtype=np.uint64)
            for offset in range(n):
                hashed = (hashed ^ points[whole + offset]) * _MULTIPLIER
                hashed ^= hashed >> np.uint64(29)
            column = ((hashed >> np.uint64(1)) % np.uint64(self._dim)).astype(np.int64)
            sign = np.where(hashed & np.uint64(1), 1.0, -1.0)
            counts += np.bincount(row[whole] * self._dim + column, weights=sign, minlength=counts.size)
        vectors = counts.reshape(len(padded), self._dim)
        vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)
