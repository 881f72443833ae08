"""Vectors of many prompts: given or encoded, and always checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.encoders.base import Encoder
from routellm_core.errors import DataError

__all__ = ["checked_vectors", "vectors_of"]

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
