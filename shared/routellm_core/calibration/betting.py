"""A test that means are above zero, valid for any sample size: bet on it, and see whether the stake multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["means_above_zero"]

# fixed before any real data was looked at: a larger stake can lose nearly everything to one bad row
_LARGEST_STAKE = 0.75
_FIRST_DEVIATION = 1 / 8  # standard deviation supposed before the first row, in units of the range
_STAKES = 128  # a stake stands for n / 128 rows: four times faster for 2,000 rows, and hardly weaker


def means_above_zero(
    gains: Callable[[slice], NDArray[np.float64]], n_rows: int, *, low: float, high: float, delta: float
) -> NDArray[np.bool_]:
    """For each of K series of bounded gains: is its mean shown to be above zero, at error probability `delta`?

    Before every few rows a stake is put on each series, chosen from the rows before; the capital, 1 at the start, is
    multiplied by 1 + stake * gain. Where the mean is at most zero the capital is a supermartingale that never
    becomes negative, so it reaches 1 / delta with probability at most delta (Ville's inequality), for every n and
    every distribution within the bounds. The stake aims at reaching 1 / delta just at the last row, and aims anew
    every time; with that the test comes close to the exact normal one where that holds.

    Args:
        gains: Some rows of the K series, shape (rows, K), each gain in [low, high]. The rows are independent draws.
        n_rows: Number of rows.
        low: The smallest possible gain, below 0.
        high: The largest possible gain.
        delta: Probability of a false yes, for each series by itself, 0..1.

    Returns:
        Shape (K,): True where the capital reached 1 / delta.

    Source: Waudby-Smith and Ramdas 2023 (arXiv:2010.09686), predictable plug-in bets; the target calculated anew
        as in Voracek and Orabona 2025 (STaR-Bets, arXiv:2505.22422).
    """
    supposed = ((high - low) * _FIRST_DEVIATION) ** 2
    missing: NDArray[np.float64] | None = None  # of the capital's logarithm; none or less: reached
    total = squares = np.zeros(1)
    width = max(1, n_rows // _STAKES)
    for i in range(0, n_rows, width):
        rows = np.array(gains(slice(i, i + width)), dtype=np.float64)
        if missing is None:
            missing = np.full(rows.shape[1], math.log(1 / delta))
        variance = (supposed + squares - total**2 / (i + 1)) / (i + 1)
        stake = np.sqrt(2 * np.maximum(missing, 0.0) / (variance * (n_rows - i)))
        total = total + rows.sum(axis=0)
        squares = squares + np.einsum("ij,ij->j", rows, rows)
        rows *= np.minimum(stake, _LARGEST_STAKE / -low)  # a stake of 0 where the target is reached
        missing = missing - np.log1p(rows, out=rows).sum(axis=0)
    return np.zeros(0, dtype=np.bool_) if missing is None else missing <= 0
