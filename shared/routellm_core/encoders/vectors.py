"""Vectors of many prompts: given or encoded, and always checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.encoders.base import Encoder
from routellm_core.errors import DataError

__all__ = ["checked_vectors", "vectors_by_text", "vectors_of"]

_BLOCK = 4096  # rows looked at together, so that no second array of the whole size is made


def vectors_of(prompts: Sequence[str], encoder: Encoder, vectors: ArrayLike | None = None) -> NDArray[np.float32]:
    """The given vectors of the prompts, or the encoder's.

    Args:
        prompts: Texts, shape (Q,).
        encoder: Its width is the one that is allowed.
        vectors: Made before with the same encoder, shape (Q, dim); None encodes the prompts.

    Returns:
        Shape (Q, dim), float32, all finite.

    Raises:
        DataError: Vectors of another count or width, or not finite; names the first such row.
        EncoderError: The encoder failed.
    """
    if vectors is None:
        return encoder.encode(prompts)
    return checked_vectors(vectors, count=len(prompts), dim=encoder.dim)


def vectors_by_text(texts: Sequence[str], rows: Sequence[str], vectors: ArrayLike) -> NDArray[np.float32]:
    """The vector of each text, out of a table with one row a battle, as the published Arena embeddings are.

    Args:
        texts: Wanted, such as `battles.prompts`, shape (Q,).
        rows: Text of each row of the table, in any order, repeats and others allowed, shape (m,).
        vectors: Vector of each row, shape (m, dim).

    Returns:
        Shape (Q, dim); of a text that stands in several rows the first row's vector.

    Raises:
        DataError: Another number of vectors than rows, or texts that stand in no row; says how many.
    """
    table = np.asarray(vectors)
    if table.ndim != 2 or len(table) != len(rows):
        raise DataError(f"vectors of shape {table.shape} do not fit a table of {len(rows)} rows")
    first: dict[str, int] = {}
    for row, text in enumerate(rows):
        first.setdefault(text, row)
    missing = [i for i, text in enumerate(texts) if text not in first]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(texts)} prompts have no vector, the first is prompt {missing[0]}; encode them, or "
            "leave their battles out"
        )
    return table[[first[text] for text in texts]].astype(np.float32, copy=False)


def checked_vectors(vectors: ArrayLike, *, count: int, dim: int) -> NDArray[np.float32]:
    """The vectors as float32 of shape (count, dim), without a copy where they are that already.

    Raises:
        DataError: Another count or width, or not finite; names the first such row.
    """
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        rows = vectors if isinstance(vectors, Sequence) and not isinstance(vectors, str) else ()
        for row, vector in enumerate(rows):
            if np.shape(vector) != (dim,):
                raise DataError(f"vector {row} has shape {np.shape(vector)}, expected ({dim},)") from None
        raise DataError(f"the vectors are no array of numbers of shape ({count}, {dim})") from None
    if array.ndim != 2 or array.shape[1] != dim:
        raise DataError(f"vectors have shape {array.shape}, expected ({count}, {dim}): row 0 is of another width")
    if len(array) != count:
        raise DataError(f"{len(array)} vectors for {count} prompts: one a prompt, in their order")
    for start in range(0, count, _BLOCK):
        finite = np.isfinite(array[start : start + _BLOCK]).all(axis=1)
        if not finite.all():
            raise DataError(f"vector {start + int(np.argmin(finite))} holds values that are not finite")
    return array
