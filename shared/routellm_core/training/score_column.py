"""Scores as somebody gave them, checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError

__all__ = ["score_column"]

_LARGEST = 1e100  # of a score, which is squared and summed up


def score_column(given: ArrayLike, what: str, n: int, of: str, *, may_miss: bool = False) -> NDArray[np.float64]:
    """Shape (n,), NaN where a score is not known.

    Args:
        given: Numbers, or None.
        what: Whose they are, for the messages: "the scores of 'gpt'".
        n: How many there must be.
        of: What they are scores of: "prompt" or "answer".
        may_miss: NaN and None are allowed.

    Raises:
        DataError: No numbers, another length, infinite, missing where none may be, or too large to be squared.
    """
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} are not numbers: {error}") from None
    if array.shape != (n,):
        raise DataError(f"{what} have shape {array.shape}, but there are {n} {of}s")
    wrong = np.flatnonzero(np.isinf(array) if may_miss else ~np.isfinite(array))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"{what}: the score of {of} {row} is {array[row]}; leave out {of}s without a label")
    known = array[np.isfinite(array)]
    if known.size and np.abs(known).max() > _LARGEST:
        raise DataError(f"{what} reach {np.abs(known).max():.3g}; give them on a smaller scale")
    return array
