"""Counts of prompts above a threshold: what they are compared with is known, or a sample itself."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need

__all__ = ["beta_binomial", "binomial_p_value", "predictive_p_value"]


def beta_binomial(n: int, a: float, b: float) -> NDArray[np.float64]:
    """Probabilities of the counts 0..n of the beta-binomial distribution, shape (n + 1,)."""
    special = need("scipy.special", extra="fit", why="an interval or a test for the strong share")
    counts = np.arange(n + 1)
    logarithms = special.betaln(counts + a, n - counts + b) - special.betaln(a, b)
    logarithms -= special.betaln(counts + 1, n - counts + 1) + math.log(n + 1)
    probabilities: NDArray[np.float64] = np.exp(logarithms)
    return probabilities


def predictive_p_value(count: int, n: int, *, k: int, m: int, only_above: bool = False) -> float:
    """Is `count` of n in line with k of m, for exchangeable values above a threshold between order statistics?

    Args:
        count: Of the n new values, those above the threshold.
        n: Number of new values.
        k: Of the m values the threshold was taken from, those above it.
        m: Their number.
        only_above: Test only whether the count is too large.
    """
    above = 1.0 if k == m else float(beta_binomial(n, k + 1, m - k)[count:].sum())
    if only_above:
        return min(1.0, above)
    below = 1.0 if k == 0 else float(beta_binomial(n, k, m - k + 1)[: count + 1].sum())
    return min(1.0, 2 * min(above, below))


def binomial_p_value(count: int, n: int, share: float) -> float:
    """Two-sided exact p-value of `count` of n against a known share: twice the smaller tail."""
    special = need("scipy.special", extra="fit", why="a test for the strong share")
    above = 1.0 if count == 0 else float(special.betainc(count, n - count + 1, share))
    below = 1.0 if count == n else float(special.betainc(n - count, count + 1, 1 - share))
    return min(1.0, 2 * min(above, below))
