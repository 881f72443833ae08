"""APGR and CPT, exactly and as the paper's tables compute them.

PGR (performance gap recovered) is 0 where the routed quality equals the weak model's mean, 1 where it
equals the strong model's. APGR is the area under PGR over the strong share 0..1; a random router has 0.5.
CPT(x) is the smallest strong share at which PGR reaches x.

Source: Ong et al. 2024, arXiv:2406.18665, section 3.2, and the behaviour of its public code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError

__all__ = ["apgr", "apgr_interval", "cpt", "paper_apgr", "paper_cpt"]

_BLOCK_BYTES = 64 << 20  # of resampling counts held at once


def apgr(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike) -> float:
    """Area under PGR over the whole curve; prompts with equal win rates are averaged over their orders.

    Args:
        win_rates: Shape (n,).
        strong_scores: Quality of the strong model's answers, shape (n,).
        weak_scores: Quality of the weak model's answers, shape (n,).

    Raises:
        DataError: Lengths differ, there is no prompt, a value is not finite, or the strong model is
            no better than the weak one on average, so that PGR is undefined.
    """
    share, gain = _exact_curve(*_checked(win_rates, strong_scores, weak_scores))
    return float(np.sum(np.diff(share) * (gain[1:] + gain[:-1]) / 2) / gain[-1])


def cpt(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike, *, pgr: float) -> float | None:
    """The smallest strong share at which PGR reaches `pgr` (0..1), on the exact curve; None if it never does.

    Raises:
        DataError: As `apgr`.
    """
    share, gain = _exact_curve(*_checked(win_rates, strong_scores, weak_scores))
    recovered = gain / gain[-1]
    reached = np.flatnonzero(recovered >= pgr - 1e-12)
    if reached.size == 0:
        return None
    i = int(reached[0])
    if i == 0:
        return float(share[0])
    return float(
        share[i - 1] + (share[i] - share[i - 1]) * (pgr - recovered[i - 1]) / (recovered[i] - recovered[i - 1])
    )


def apgr_interval(
    win_rates: ArrayLike,
    strong_scores: ArrayLike,
    weak_scores: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `apgr` over prompts.

    Resamples in which the strong model is not better on average have no APGR and are left out.

    Args:
        win_rates: Shape (n,).
        strong_scores: Shape (n,).
        weak_scores: Shape (n,).
        rng: Source of randomness.
        n_resamples: Number of bootstrap samples.
        level: Coverage, 0..1.

    Raises:
        DataError: As `apgr`, or every resample is undefined.
    """
    scores, strong, weak = _checked(win_rates, strong_scores, weak_scores)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    gaps = (strong - weak)[order]
    n = scores.size
    estimates = []
    done = 0
    while done < n_resamples:
        rows = min(n_resamples - done, max(1, _BLOCK_BYTES // (8 * n)))
        counts = rng.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)
        gain = np.cumsum(counts * gaps, axis=1)[:, ends]
        share = np.cumsum(counts, axis=1)[:, ends] / n
        widths = np.diff(share, axis=1, prepend=0)
        heights = gain + np.concatenate([np.zeros((rows, 1)), gain[:, :-1]], axis=1)
        total = gain[:, -1]
        defined = total > 0
        estimates.append((widths * heights / 2).sum(axis=1)[defined] / total[defined])
        done += rows
    values = np.concatenate(estimates)
    if values.size == 0:
        raise DataError("in no resample is the strong model better than the weak one, so there is no interval")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paper_apgr(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike) -> float:
    """APGR as the published tables have it: eleven thresholds at the quantile edges of the win rates.

    Raises:
        DataError: As `apgr`.
    """
    scores, strong, weak = _checked(win_rates, strong_scores, weak_scores)
    share, quality = _paper_curve(scores, strong, weak)
    area = float(np.sum(np.diff(share) * (quality[1:] + quality[:-1]) / 2))
    return (area - float(weak.mean())) / float(strong.mean() - weak.mean())


def paper_cpt(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike, *, pgr: float) -> float:
    """CPT as the published tables have it: the share interpolated over the quality of the eleven points.

    Raises:
        DataError: As `apgr`.
    """
    scores, strong, weak = _checked(win_rates, strong_scores, weak_scores)
    share, quality = _paper_curve(scores, strong, weak)
    wanted = weak.mean() + pgr * (strong.mean() - weak.mean())
    return float(np.interp(wanted, quality, share))


def _checked(
    win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    scores, strong, weak = (np.asarray(a, dtype=np.float64).ravel() for a in (win_rates, strong_scores, weak_scores))
    if not scores.size == strong.size == weak.size:
        raise DataError(f"lengths differ: {scores.size} win rates, {strong.size} strong and {weak.size} weak scores")
    if scores.size == 0:
        raise DataError("no prompts to evaluate on")
    for what, array in (("win rate", scores), ("strong score", strong), ("weak score", weak)):
        if not np.isfinite(array).all():
            raise DataError(f"{what} of prompt {int(np.flatnonzero(~np.isfinite(array))[0])} is not finite")
    if not strong.mean() > weak.mean():
        raise DataError(
            f"the strong model's mean score {strong.mean():.4g} is not above the weak one's "
            f"{weak.mean():.4g}, so PGR is undefined"
        )
    return scores, strong, weak


def _exact_curve(
    scores: NDArray[np.float64], strong: NDArray[np.float64], weak: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strong share and summed gain where each group of equal win rates ends, from (0, 0) on."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    gain = np.cumsum((strong - weak)[order])[ends]
    return np.append(0.0, (ends + 1) / scores.size), np.append(0.0, gain)


def _paper_curve(
    scores: NDArray[np.float64], strong: NDArray[np.float64], weak: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edges = np.quantile(scores, np.linspace(0, 1, 11))
    routed = [scores >= edge for edge in edges[:-1]] + [scores > edges[-1]]
    share = np.array([chosen.mean() for chosen in routed])
    quality = np.array([np.where(chosen, strong, weak).mean() for chosen in routed])
    order = np.argsort(share, kind="stable")
    return share[order], quality[order]
