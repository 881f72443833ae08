"""Hashed token n-grams: what single words and pairs of words say beyond a text's average vector."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.text import clean_and_cut

__all__ = ["TokenCounts", "WordTokens", "count_ngrams"]

_WORD = re.compile(r"\w+|[^\w\s]")
_MAX_CHARACTERS = 4096
_MIX = np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash: the golden ratio of 2**64


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Sparse rows, one a text: which hashed n-grams it has, and how strongly.

    Attributes:
        rows: Text of each entry, ascending, shape (nnz,).
        columns: Hashed n-gram of each entry, shape (nnz,), each below `width`.
        values: 1 + log(count), shape (nnz,).
        n_texts: Number of texts; one without tokens has no entry.
        width: Number of columns.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    n_texts: int
    width: int

    def weighted(self, column_weights: NDArray[np.float64]) -> TokenCounts:
        """Values times a weight a column, then each text's values scaled to unit length."""
        values = self.values * column_weights[self.columns]
        norms = np.sqrt(np.bincount(self.rows, values * values, minlength=self.n_texts))
        values = values / np.maximum(norms, np.finfo(np.float64).tiny)[self.rows]
        return TokenCounts(self.rows, self.columns, values, self.n_texts, self.width)

    def times(self, matrix: NDArray[np.floating]) -> NDArray[np.float64]:
        """The product with a dense matrix of shape (width, k), shape (n_texts, k)."""
        parts = self.values[:, None] * matrix[self.columns]
        return np.stack(
            [np.bincount(self.rows, parts[:, k], minlength=self.n_texts) for k in range(matrix.shape[1])], axis=1
        )

    def document_counts(self) -> NDArray[np.int64]:
        """In how many texts each n-gram occurs, shape (width,)."""
        return np.bincount(self.columns, minlength=self.width)


class WordTokens:
    """Words and marks as tokens, for encoders that have no tokenizer to share."""

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """A number for each word in lower case, and for each mark; long texts keep both ends."""
        return [
            [zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())]
            for text in clean_and_cut(texts, _MAX_CHARACTERS)
        ]


def count_ngrams(tokens: Sequence[Sequence[int]], *, width: int) -> TokenCounts:
    """Single tokens and pairs of neighbours, hashed into `width` columns; no Python loop over tokens.

    Args:
        tokens: Token ids of each text.
        width: Number of columns, a power of two.

    Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning, arXiv:0902.2206.
    """
    lengths = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    ids = np.fromiter(chain.from_iterable(tokens), dtype=np.uint64, count=int(lengths.sum()))
    rows = np.repeat(np.arange(len(tokens)), lengths)
    pairs = np.flatnonzero(rows[1:] == rows[:-1]) if ids.size else np.zeros(0, dtype=np.int64)
    shift = np.uint64(64 - (width.bit_length() - 1))
    with np.errstate(over="ignore"):  # a hash is meant to wrap around
        single = (ids + np.uint64(1)) * _MIX >> shift
        double = ((ids[pairs] + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03) + ids[pairs + 1]) * _MIX >> shift
    keys = np.concatenate([rows, rows[pairs]]) * width + np.concatenate([single, double]).astype(np.int64)
    found, counts = np.unique(keys, return_counts=True)
    return TokenCounts(found // width, found % width, 1.0 + np.log(counts), len(tokens), width)
