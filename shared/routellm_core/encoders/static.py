"""Static embeddings: one vector a token, averaged. No neural network runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.persistence import digest_of, write_bytes

__all__ = ["StaticEncoder"]

_BLOCK_TOKENS = 1 << 14  # bounds the memory of one pass: this many float32 vectors
_VERSION = "1"  # part of the digest; change it with anything that changes a vector
_FILES = ("config.json", "model.safetensors", "tokenizer.json")  # model2vec's own layout


class StaticEncoder(Encoder):
    """A model2vec model: tokenise, look up, average.

    Args:
        folder: A folder in model2vec's layout (`StaticModel.save_pretrained` writes it).
        max_characters: Longer texts are cut before the tokenizer sees them, keeping both ends.

    Raises:
        RouterFormatError: The folder is not in that layout.
        ConfigurationError: `max_characters` is below 2.
    """

    kind: ClassVar[str] = "static"
    is_quick = True

    def __init__(self, folder: str | Path, *, max_characters: int = 4096) -> None:
        if max_characters < 2:
            raise ConfigurationError(f"max_characters must be at least 2, got {max_characters}")
        self.folder = Path(folder).resolve()
        self.max_characters = int(max_characters)
        self._tokenize, self._table, self._unit_length = _load(self.folder)
        self._hashes = {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in _FILES}
        self._digest = digest_of("static", _VERSION, str(self.max_characters), *self._hashes.values())

    @property
    def dim(self) -> int:
        return int(self._table.shape[1])

    @property
    def digest(self) -> str:
        return self._digest

    def settings(self) -> dict[str, Any]:
        return {"max_characters": self.max_characters}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut as for its vector.

        Raises:
            DataError: An element is not a str.
        """
        return self._tokenize(clean_and_cut(checked_texts(texts, what="text"), self.max_characters))

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        # not StaticModel.encode: it stops at 512 tokens, and switches the tokenizer's truncation at every
        # call, which another thread's call must not see
        return self.vectors_of(self._tokenize(clean_and_cut(texts, self.max_characters)))

    def vectors_of(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        """`encode` of texts whose `tokens` are known already, shape (len(tokens), dim)."""
        vectors = np.zeros((len(tokens), self.dim), dtype=np.float32)
        if len(tokens) == 1:  # the call that people wait for; sorting by length would cost as much as the look-up
            if tokens[0]:
                vectors[0] = self._table.take(tokens[0], axis=0).mean(axis=0)
        else:
            for rows, ids in _of_equal_length(tokens):
                vectors[rows] = self._table[ids].mean(axis=1)
        if self._unit_length:
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            vectors /= np.maximum(norms, np.finfo(np.float32).tiny)[:, None]  # a text without tokens stays zero
        return vectors

    def save_files(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, expected in self._hashes.items():
            try:
                content = (self.folder / name).read_bytes()
            except OSError as error:
                raise RouterFormatError(f"the encoder's file {self.folder / name} is gone: {error}") from error
            if hashlib.sha256(content).hexdigest() != expected:
                raise RouterFormatError(f"the encoder's file {self.folder / name} has changed since it was loaded")
            write_bytes(folder / name, content)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> StaticEncoder:
        return cls(folder, **settings)


def _of_equal_length(tokens: list[list[int]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows, and their token ids as a matrix: one array operation serves all texts of one length."""
    counts = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    by_count = np.argsort(counts, kind="stable")
    lengths, firsts = np.unique(counts[by_count], return_index=True)
    for length, group in zip(lengths.tolist(), np.split(by_count, firsts[1:]), strict=True):
        if length == 0:
            continue  # no token known: the row stays zero
        step = max(1, _BLOCK_TOKENS // length)
        for start in range(0, len(group), step):
            rows = group[start : start + step]
            yield rows, np.array([tokens[row] for row in rows], dtype=np.int64)


def _load(folder: Path) -> tuple[Callable[[list[str]], list[list[int]]], NDArray[np.float32], bool]:
    """The tokenizer, one float32 vector a token id, and whether results get unit length."""
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise RouterFormatError(f"{folder} is not a model2vec folder: {', '.join(missing)} missing")
    from model2vec import StaticModel

    try:
        model = StaticModel.from_pretrained(folder)
        # float32 and weighted once here: averaging 8-bit rows would convert and weight them again at every call
        table = np.asarray(model.embedding, dtype=np.float32)
        if model.token_mapping is not None:
            table = table[model.token_mapping]
        if model.weights is not None:
            table = table * np.asarray(model.weights, dtype=np.float32)[:, None]
        model.tokenizer.no_truncation()  # clean_and_cut bounds the length, and keeps the end of a text
        return model.tokenize, table, bool(model.normalize)
    except Exception as error:
        raise RouterFormatError(
            f"{folder} cannot be loaded as a model2vec model: {type(error).__name__}: {error}"
        ) from error
