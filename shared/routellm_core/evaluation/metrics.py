"""PGR, APGR and CPT of one router on one set of prompts: exactly, and as the paper's tables compute them.

PGR (performance gap recovered) is 0 where the routed quality equals the weak model's mean, 1 where it
equals the strong model's. APGR is the area under PGR over the strong share 0..1; a random router has 0.5.
CPT(x) is the smallest strong share at which PGR reaches x.

- `exact`: prompts sorted by win rate, averaged over ties, the whole curve integrated.
- `paper`: eleven thresholds at the quantile edges of the win rates; ties move the shares.

Source: Ong et al. 2024, arXiv:2406.18665, section 3.2, and the behaviour of its public code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError

__all__ = [
    "PAPER_QUANTILES",
    "WAYS",
    "Curve",
    "Way",
    "apgr",
    "checked_scores",
    "cpt",
    "curve",
    "is_better",
    "oracle_apgr",
    "paper_apgr",
    "paper_cpt",
    "pgr",
    "random_apgr_interval",
]

Way: TypeAlias = Literal["exact", "paper"]
Floats: TypeAlias = NDArray[np.float64]

WAYS: tuple[Way, Way] = ("exact", "paper")
PAPER_QUANTILES = np.linspace(0.0, 1.0, 11)
PAPER_QUANTILES.setflags(write=False)
_REACHED = 1e-12  # rounding that may keep PGR below a value it does reach


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Quality over strong share, from all weak to all strong.

    Attributes:
        strong_share: Ascending, 0..1, shape (m,).
        quality: Mean score when that share goes strong, shape (m,).
        thresholds: Win rate from which prompts go strong at that point, shape (m,); infinite where none does.
        weak: Mean score of the weak model.
        strong: Mean score of the strong model.
        way: How the points were chosen.
    """

    strong_share: Floats = field(repr=False)
    quality: Floats = field(repr=False)
    thresholds: Floats = field(repr=False)
    weak: float
    strong: float
    way: Way

    @property
    def pgr(self) -> Floats:
        """PGR at each point, shape (m,)."""
        recovered: Floats = (self.quality - self.weak) / (self.strong - self.weak)
        return recovered

    @property
    def apgr(self) -> float:
        """Area under PGR over strong share, by trapezoids."""
        area = float(np.sum(np.diff(self.strong_share) * (self.quality[1:] + self.quality[:-1]) / 2))
        return (area - self.weak) / (self.strong - self.weak)

    def cpt(self, pgr: float) -> float | None:
        """Strong share at which PGR reaches `pgr`; None if it never does.

        By `exact` the first such share. By `paper` the share interpolated over quality, as np.interp does,
        also where quality does not rise from point to point; never None.
        """
        if self.way == "paper":
            wanted = self.weak + pgr * (self.strong - self.weak)
            return float(np.interp(wanted, self.quality, self.strong_share))
        recovered, share = self.pgr, self.strong_share
        reached = np.flatnonzero(recovered >= pgr - _REACHED)
        if reached.size == 0:
            return None
        i = int(reached[0])
        if i == 0:
            return float(share[0])
        rise = (pgr - recovered[i - 1]) / (recovered[i] - recovered[i - 1])
        return float(share[i - 1] + (share[i] - share[i - 1]) * rise)

    def quality_at(self, strong_share: ArrayLike) -> Floats:
        """Quality between the points, linearly: prompts with equal win rates in any order."""
        found: Floats = np.interp(np.asarray(strong_share, dtype=np.float64), self.strong_share, self.quality)
        return found


def pgr(*, quality: float, weak: float, strong: float) -> float:
    """Share of the gap between the weak and the strong model that a quality recovers; may leave 0..1.

    Raises:
        DataError: The strong model is not better than the weak one.
    """
    if not strong > weak:
        raise DataError(f"the strong model's mean score {strong:.4g} is not above the weak one's {weak:.4g}: no PGR")
    return (quality - weak) / (strong - weak)


def curve(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike, *, way: Way = "exact") -> Curve:
    """Quality over strong share.

    Args:
        win_rates: Shape (n,); any finite numbers that rise with the need for the strong model.
        strong_scores: Quality of the strong model's answers, shape (n,).
        weak_scores: Quality of the weak model's answers, shape (n,).
        way: "exact" has a point where each group of equal win rates ends; "paper" has eleven.

    Raises:
        DataError: Lengths differ, there is no prompt, a value is not finite, or the strong model is
            no better than the weak one on average, so that PGR is undefined.
    """
    scores, strong, weak = checked_scores(win_rates, strong_scores, weak_scores)
    if way == "paper":
        edges = np.quantile(scores, PAPER_QUANTILES)
        # the last one by >, so that the ends are all strong and all weak
        routed = [scores >= edge for edge in edges[:-1]] + [scores > edges[-1]]
        share = np.array([chosen.mean() for chosen in routed])
        quality = np.array([np.where(chosen, strong, weak).mean() for chosen in routed])
        order = np.argsort(share, kind="stable")
        share, quality, thresholds = share[order], quality[order], np.append(edges[:-1], np.inf)[order]
    else:
        order, ends = descending_groups(scores)
        gain = np.cumsum((strong - weak)[order])[ends]
        share = np.append(0.0, (ends + 1) / scores.size)
        quality = weak.mean() + np.append(0.0, gain) / scores.size
        thresholds = np.append(np.inf, scores[order][ends])
    return Curve(
        strong_share=share,
        quality=quality,
        thresholds=thresholds,
        weak=float(weak.mean()),
        strong=float(strong.mean()),
        way=way,
    )


def apgr(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike) -> float:
    """Area under PGR over the whole curve; prompts with equal win rates are averaged over their orders.

    Args:
        win_rates: Shape (n,).
        strong_scores: Quality of the strong model's answers, shape (n,).
        weak_scores: Quality of the weak model's answers, shape (n,).

    Raises:
        DataError: As `curve`.
    """
    return curve(win_rates, strong_scores, weak_scores).apgr


def cpt(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike, *, pgr: float) -> float | None:
    """The smallest strong share at which PGR reaches `pgr` (0..1), on the exact curve; None if it never does.

    Raises:
        DataError: As `curve`.
    """
    return curve(win_rates, strong_scores, weak_scores).cpt(pgr)


def paper_apgr(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike) -> float:
    """APGR as the published tables have it: eleven thresholds at the quantile edges of the win rates.

    Raises:
        DataError: As `curve`.
    """
    return curve(win_rates, strong_scores, weak_scores, way="paper").apgr


def paper_cpt(win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike, *, pgr: float) -> float:
    """CPT as the published tables have it: the share interpolated over the quality of the eleven points.

    Raises:
        DataError: As `curve`.
    """
    found = curve(win_rates, strong_scores, weak_scores, way="paper").cpt(pgr)
    assert found is not None  # interpolation ends at the ends
    return found


def oracle_apgr(strong_scores: ArrayLike, weak_scores: ArrayLike) -> float:
    """APGR of sorting by the true gain: no router can have more.

    Raises:
        DataError: As `curve`.
    """
    gain = np.asarray(strong_scores, dtype=np.float64) - np.asarray(weak_scores, dtype=np.float64)
    return apgr(gain, strong_scores, weak_scores)


def random_apgr_interval(
    strong_scores: ArrayLike, weak_scores: ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """Between which APGRs a random order of these prompts lands at this rate, by the normal approximation.

    The variance is exact: that of a sum of gains times ranks, over all orders of the prompts.

    Args:
        strong_scores: Shape (n,).
        weak_scores: Shape (n,).
        level: 0..1.

    Raises:
        DataError: As `curve`.
    """
    from statistics import NormalDist

    _, strong, weak = checked_scores(np.zeros(np.size(strong_scores)), strong_scores, weak_scores)
    gain = strong - weak
    n = gain.size
    spread = float(np.sqrt(np.sum((gain - gain.mean()) ** 2) * (n + 1) / (12 * n)) / gain.sum())
    half = NormalDist().inv_cdf((1 + level) / 2) * spread
    return 0.5 - half, 0.5 + half


def checked_scores(
    win_rates: ArrayLike, strong_scores: ArrayLike, weak_scores: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """The three as float64 of shape (n,).

    Raises:
        DataError: As `curve`.
    """
    scores, strong, weak = (np.asarray(a, dtype=np.float64).ravel() for a in (win_rates, strong_scores, weak_scores))
    if not scores.size == strong.size == weak.size:
        raise DataError(f"lengths differ: {scores.size} win rates, {strong.size} strong and {weak.size} weak scores")
    if scores.size == 0:
        raise DataError("no prompts to evaluate on")
    for what, array in (("win rate", scores), ("strong score", strong), ("weak score", weak)):
        if not np.isfinite(array).all():
            raise DataError(f"{what} of prompt {int(np.flatnonzero(~np.isfinite(array))[0])} is not finite")
    if not is_better(strong, weak):
        raise DataError(
            f"the strong model's mean score {strong.mean():.4g} is not above the weak one's "
            f"{weak.mean():.4g}, so PGR is undefined"
        )
    return scores, strong, weak


def is_better(strong: Floats, weak: Floats) -> bool:
    """Whether the strong model's mean is above the weak one's by more than rounding, which PGR would be divided by."""
    return bool((strong - weak).sum() > _REACHED * (np.abs(strong) + np.abs(weak)).sum())


def descending_groups(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order by falling score, and the position in it where each group of equal scores ends."""
    order = np.argsort(-scores, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
