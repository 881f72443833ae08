"""What a threshold is: prompts with `win_rate >= threshold` go to the stronger side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ABOVE_ALL", "between", "check_thresholds", "possible_cuts"]

ABOVE_ALL = math.nextafter(1.0, 2.0)
"""The threshold for a strong share of 0: no win rate reaches it, not even 1.0."""


def between(ascending: NDArray[np.float64], n_weak: int) -> float:
    """The threshold midway between the last of `n_weak` weak win rates and the first strong one."""
    if n_weak == 0:
        return 0.0
    if n_weak == ascending.size:
        return ABOVE_ALL
    below, above = float(ascending[n_weak - 1]), float(ascending[n_weak])
    midway = (below + above) / 2
    return midway if midway > below else above  # neighbouring floats have nothing between them


def possible_cuts(ascending: NDArray[np.float64]) -> NDArray[np.int64]:
    """Every number of weak rows, ascending, that a threshold can give: equal win rates go together."""
    return np.append(np.flatnonzero(np.append(True, np.diff(ascending) > 0)), ascending.size)


def check_thresholds(thresholds: Sequence[float]) -> bool:
    """Whether these can be cuts: numbers in [0, 1] (or `ABOVE_ALL`), ascending."""
    values = [float(t) for t in thresholds]
    return all(0.0 <= v <= ABOVE_ALL for v in values) and values == sorted(values)
