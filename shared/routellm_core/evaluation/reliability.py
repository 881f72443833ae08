"""Whether win rates are the chances they claim to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from routellm_core.errors import DataError

__all__ = ["Reliability", "ReliabilityBin", "reliability"]


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Prompts with similar win rates.

    Attributes:
        n_prompts: How many.
        win_rate: Their mean win rate.
        observed: How often the strong model's answer did win; a tie counts for the weak one.
        low: Lower end of the 95 % Wilson interval of `observed`.
        high: Upper end.
    """

    n_prompts: int
    win_rate: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Calibration quality of win rates as probabilities.

    Attributes:
        brier: Mean squared distance of the win rate from the outcome (1 or 0); lower is better.
        brier_of_the_mean: The same for one who always says the overall rate.
        calibration_error: Distance of win rate from observed rate, averaged over the bins by prompts.
        strong_wins: How often the strong model's answer wins.
        bins: At most ten, with about equally many prompts each, by rising win rate.
    """

    brier: float
    brier_of_the_mean: float
    calibration_error: float
    strong_wins: float
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "bins": [asdict(each) for each in self.bins]}


def reliability(
    win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike, *, n_bins: int = 10
) -> Reliability:
    """Compare win rates with how often the strong model did win.

    Args:
        win_rates: In 0..1, shape (n,).
        strong_scores: Shape (n,).
        weak_scores: Shape (n,).
        n_bins: At most; equal win rates stay together.

    Raises:
        DataError: No prompts, lengths differ, or a win rate outside 0..1.
    """
    rates, strong, weak = (np.asarray(a, dtype=np.float64).ravel() for a in (win_rates, strong_scores, weak_scores))
    if rates.size == 0 or not rates.size == strong.size == weak.size:
        raise DataError(f"{rates.size} win rates, {strong.size} strong and {weak.size} weak scores")
    if not ((rates >= 0) & (rates <= 1)).all():
        raise DataError("win rates outside 0..1 (or NaN) are no probabilities")
    wins = (strong > weak).astype(np.float64)
    edges = np.unique(np.quantile(rates, np.linspace(0, 1, n_bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, rates, side="left")
    counts = np.bincount(bin_of)
    filled = np.flatnonzero(counts)
    counts = counts[filled]
    means = np.bincount(bin_of, weights=rates)[filled] / counts
    observed = np.bincount(bin_of, weights=wins)[filled] / counts
    low, high = _wilson(observed, counts.astype(np.float64))
    return Reliability(
        brier=float(np.mean((rates - wins) ** 2)),
        brier_of_the_mean=float(np.mean((wins.mean() - wins) ** 2)),
        calibration_error=float(np.sum(counts * np.abs(means - observed)) / rates.size),
        strong_wins=float(wins.mean()),
        bins=tuple(
            ReliabilityBin(n_prompts=int(n), win_rate=float(m), observed=float(o), low=float(lo), high=float(hi))
            for n, m, o, lo, hi in zip(counts, means, observed, low, high, strict=True)
        ),
    )


def _wilson(share: Any, n: Any) -> tuple[Any, Any]:
    z = 1.959963984540054
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)
