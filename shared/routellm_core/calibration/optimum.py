"""Where on the quality curve to stand when nothing but cost and benefit decides."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration.floor import LabelledSample
from routellm_core.calibration.thresholds import between, possible_cuts
from routellm_core.errors import CalibrationError

__all__ = ["Optimum", "best_threshold", "knee"]

_BLOCK_BYTES = 64 << 20  # of resampling counts held at once


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """A threshold chosen by cost and benefit, on the sample, with percentile bootstrap intervals.

    Attributes:
        threshold: Prompts with `win_rate >= threshold` go strong.
        strong_share: Share of the sample that does so.
        quality: The sample's mean quality at this threshold.
        quality_per_strong_share: What a strong share of 1 instead of 0 had to be worth in mean quality.
        threshold_interval: Of the best threshold.
        strong_share_interval: Of the strong share at the best threshold.
        level: Coverage of the intervals, 0..1.
    """

    threshold: float
    strong_share: float
    quality: float
    quality_per_strong_share: float
    threshold_interval: tuple[float, float]
    strong_share_interval: tuple[float, float]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def best_threshold(
    labels: LabelledSample,
    *,
    quality_per_usd: float,
    strong_usd: float,
    weak_usd: float,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | None = None,
) -> Optimum:
    """The threshold that maximises mean quality - quality_per_usd * mean cost of a call.

    Args:
        labels: Win rates with both models' scores.
        quality_per_usd: What a US dollar more per call has to bring in mean quality, at least 0.
        strong_usd: Mean cost of a strong call.
        weak_usd: Mean cost of a weak call.
        level: Coverage of the intervals, 0..1.
        n_resamples: Number of bootstrap samples.
        rng: Source of randomness; default: seed 0.

    Raises:
        CalibrationError: A number is negative, not finite or out of range.
    """
    for name, value in (("quality_per_usd", quality_per_usd), ("strong_usd", strong_usd), ("weak_usd", weak_usd)):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
            raise CalibrationError(f"{name} is a finite number from 0 on, got {value!r}")
    return _best(labels, quality_per_usd * (strong_usd - weak_usd), level, n_resamples, rng)


def knee(
    labels: LabelledSample,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | None = None,
) -> Optimum:
    """The point of the curve of quality over strong share that lies farthest above the line between its ends.

    It is the best threshold where a strong share of 1 is worth exactly what it brings.

    Args:
        labels: Win rates with both models' scores.
        level: Coverage of the intervals, 0..1.
        n_resamples: Number of bootstrap samples.
        rng: Source of randomness; default: seed 0.

    Raises:
        CalibrationError: The strong model is no better on average, or a number is out of range.
    """
    strong, weak = labels.strong_scores.mean(), labels.weak_scores.mean()
    if not strong > weak:
        raise CalibrationError(
            f"the strong model's mean score {strong:.4g} is not above the weak one's {weak:.4g}: there is no knee"
        )
    return _best(labels, None, level, n_resamples, rng)


def _best(
    labels: LabelledSample, worth: float | None, level: float, n_resamples: int, rng: np.random.Generator | None
) -> Optimum:
    if not 0 < level < 1 or n_resamples < 1:
        raise CalibrationError(f"level lies between 0 and 1 and n_resamples above 0, got {level!r} and {n_resamples!r}")
    rng = np.random.default_rng(0) if rng is None else rng
    n = labels.win_rates.size
    gap = labels.strong_scores - labels.weak_scores
    cuts = possible_cuts(labels.win_rates)
    thresholds = np.array([between(labels.win_rates, cut) for cut in cuts.tolist()])

    def chosen(counts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Index of the best cut, and strong share there, for each row of counts."""
        value = (counts @ gap / n)[:, None] if worth is None else worth
        lost = np.cumsum(counts * gap - counts * value, axis=1)
        lost = np.concatenate([np.zeros((counts.shape[0], 1)), lost], axis=1)[:, cuts]
        best = lost.shape[1] - 1 - np.argmin(lost[:, ::-1], axis=1)  # of equal ones the cheapest
        weak_rows = np.concatenate([np.zeros((counts.shape[0], 1)), np.cumsum(counts, axis=1)], axis=1)
        return best, 1 - weak_rows[np.arange(best.size), cuts[best]] / n

    best, share = chosen(np.ones((1, n)))
    resampled: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    done = 0
    while done < n_resamples:
        rows = min(n_resamples - done, max(1, _BLOCK_BYTES // (32 * n)))
        resampled.append(chosen(rng.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)))
        done += rows
    tails = [(1 - level) / 2, (1 + level) / 2]
    cut_low, cut_high = np.quantile(thresholds[np.concatenate([b for b, _ in resampled])], tails).tolist()
    share_low, share_high = np.quantile(np.concatenate([s for _, s in resampled]), tails).tolist()
    n_weak = int(cuts[best[0]])
    quality = np.append(labels.weak_scores[:n_weak], labels.strong_scores[n_weak:]).mean()
    return Optimum(
        threshold=float(thresholds[best[0]]),
        strong_share=float(share[0]),
        quality=float(quality),
        quality_per_strong_share=float(gap.mean()) if worth is None else float(worth),
        threshold_interval=(cut_low, cut_high),
        strong_share_interval=(share_low, share_high),
        level=level,
    )
