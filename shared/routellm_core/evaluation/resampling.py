"""Bootstrap over prompts: the same resamples for everything that is compared, all at once in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import ConfigurationError, DataError
from routellm_core.evaluation.metrics import PAPER_QUANTILES, checked_scores, descending_groups

__all__ = ["CPTS", "SHARES", "Interval", "Resampled", "apgr_interval", "beats", "draws", "interval", "resample"]

Interval: TypeAlias = "tuple[float, float]"
Floats: TypeAlias = NDArray[np.float64]

CPTS = (0.5, 0.8)
"""PGR values whose CPT is reported, as in the paper."""
SHARES = np.linspace(0.0, 1.0, 101)
"""Strong shares at which the band of a curve is kept."""
SHARES.setflags(write=False)

_BLOCK_BYTES = 32 << 20  # of resampling counts held at once
_REACHED = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """Figures of one scorer in B resamples of the prompts; NaN where the strong model was not the better one.

    Attributes:
        apgr: Exact, shape (B,).
        cpt: Exact, columns as `CPTS`, shape (B, 2).
        paper_apgr: As the paper computes it, shape (B,).
        paper_cpt: Likewise, shape (B, 2).
        pgr: At `SHARES`, shape (B, 101); without rows when curves were not asked for.
    """

    apgr: Floats = field(repr=False)
    cpt: Floats = field(repr=False)
    paper_apgr: Floats = field(repr=False)
    paper_cpt: Floats = field(repr=False)
    pgr: Floats = field(repr=False)


def resample(
    scorers: Mapping[str, ArrayLike],
    strong_scores: ArrayLike,
    weak_scores: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    with_paper: bool = True,
    with_curves: bool = False,
) -> dict[str, Resampled]:
    """Draw prompts with replacement, and compute every scorer's figures on each draw.

    Args:
        scorers: Scores by name, each of shape (n,), as `metrics.curve` takes them.
        strong_scores: Shape (n,).
        weak_scores: Shape (n,).
        rng: Source of the draws.
        n_resamples: B.
        with_paper: Also the figures of the paper's way; else they are NaN.
        with_curves: Also PGR at `SHARES`.

    Raises:
        DataError: As `metrics.curve`.
        ConfigurationError: Fewer than two resamples.
    """
    if n_resamples < 2:
        raise ConfigurationError(f"at least 2 resamples, got {n_resamples}")
    prepared = {
        name: _Scorer(*checked_scores(scores, strong_scores, weak_scores), with_paper, with_curves)
        for name, scores in scorers.items()
    }
    n = int(np.size(strong_scores))
    parts: dict[str, list[Resampled]] = {name: [] for name in scorers}
    for counts in draws(n, n_resamples, rng):
        for name, scorer in prepared.items():
            parts[name].append(scorer.figures(counts))
    return {name: _joined(found) for name, found in parts.items()}


def interval(values: Floats, level: float = 0.95) -> Interval | None:
    """Percentile interval of bootstrap values, without the undefined ones; None if all are.

    Raises:
        ConfigurationError: The level is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ConfigurationError(f"the level of an interval lies between 0 and 1, got {level!r}")
    defined = values[np.isfinite(values)]
    if defined.size == 0:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def beats(differences: Floats) -> float | None:
    """p-value of "there is no positive difference", from bootstrap differences of the same resamples.

    The share of resamples in which the difference is not above zero, each side counting one more, so that it
    is never 0. None if no difference is defined.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 15.4.
    """
    defined = differences[np.isfinite(differences)]
    if defined.size == 0:
        return None
    return float((1 + np.count_nonzero(defined <= 0)) / (1 + defined.size))


def apgr_interval(
    win_rates: ArrayLike,
    strong_scores: ArrayLike,
    weak_scores: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of `metrics.apgr` over prompts.

    Resamples in which the strong model is not better on average have no APGR and are left out.

    Args:
        win_rates: Shape (n,).
        strong_scores: Shape (n,).
        weak_scores: Shape (n,).
        rng: Source of randomness.
        n_resamples: Number of bootstrap samples.
        level: Coverage, 0..1.

    Raises:
        DataError: As `metrics.apgr`, or every resample is undefined.
    """
    drawn = resample({"": win_rates}, strong_scores, weak_scores, rng=rng, n_resamples=n_resamples, with_paper=False)
    found = interval(drawn[""].apgr, level)
    if found is None:
        raise DataError("in no resample is the strong model better than the weak one, so there is no interval")
    return found


def draws(n: int, n_resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """How often each prompt is drawn, in blocks of shape (rows, n)."""
    rows = max(1, _BLOCK_BYTES // (8 * n))
    for start in range(0, n_resamples, rows):
        here = min(rows, n_resamples - start)
        drawn = rng.integers(0, n, size=(here, n)) + np.arange(here)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=here * n).reshape(here, n).astype(np.float64)


class _Scorer:
    """What does not depend on the draw: the order of the prompts and where equal scores end."""

    def __init__(self, scores: Floats, strong: Floats, weak: Floats, with_paper: bool, with_curves: bool) -> None:
        self.order, self.ends = descending_groups(scores)
        self.descending = scores[self.order]
        self.gaps = (strong - weak)[self.order]
        self.sizes = (np.abs(strong) + np.abs(weak))[self.order]
        self.with_paper = with_paper
        self.with_curves = with_curves

    def figures(self, counts: Floats) -> Resampled:
        rows, n = counts.shape
        drawn = counts[:, self.order]
        gain = np.cumsum(drawn * self.gaps, axis=1)
        count = np.cumsum(drawn, axis=1)
        total = gain[:, -1].copy()
        total[total <= _REACHED * (drawn @ self.sizes)] = np.nan  # gains that cancel leave rounding
        paper_apgr, paper_cpt = np.full(rows, np.nan), np.full((rows, len(CPTS)), np.nan)
        if self.with_paper:
            paper_apgr, paper_cpt = self._paper(count, gain, total)
        if self.ends.size < n:
            gain, count = gain[:, self.ends], count[:, self.ends]
        before, share_before = np.zeros_like(gain), np.zeros_like(count)
        before[:, 1:], share_before[:, 1:] = gain[:, :-1], count[:, :-1]
        apgr = ((count - share_before) * (gain + before)).sum(axis=1) / (2 * n * total)
        pgr = np.empty((0, SHARES.size))
        if self.with_curves:
            with_origin = (np.concatenate([np.zeros((rows, 1)), of], axis=1) for of in (count, gain / total[:, None]))
            pgr = np.stack([np.interp(SHARES * n, c, g) for c, g in zip(*with_origin, strict=True)])
        return Resampled(
            apgr=apgr,
            cpt=np.stack([_cpt(count, gain, total, pgr) / n for pgr in CPTS], axis=1),
            paper_apgr=paper_apgr,
            paper_cpt=paper_cpt,
            pgr=pgr,
        )

    def _paper(self, count: Floats, gain: Floats, total: Floats) -> tuple[Floats, Floats]:
        """The eleven-threshold figures from cumulated counts and gains, in the order of falling scores."""
        rows, n = count.shape
        # rank k of the drawn scores, counted from the lowest, is rank n - 1 - k from the top
        position = PAPER_QUANTILES * (n - 1)
        below = np.floor(position).astype(np.int64)
        above = np.minimum(below + 1, n - 1)
        offset = (np.arange(rows) * (n + 1))[:, None]
        flat = (count + offset).ravel()  # ascending over all rows, as each row ends at n

        def of_rank(rank: NDArray[np.int64]) -> Floats:
            # the first prompt at which more than n - 1 - rank have been counted from the top
            place = np.searchsorted(flat, (n - 1 - rank)[None, :] + offset, side="right")
            values: Floats = self.descending[place - (np.arange(rows) * n)[:, None]]
            return values

        low, high = of_rank(below), of_rank(above)
        edges = low + (position - below) * (high - low)
        chosen = np.searchsorted(-self.descending, -edges, side="right")  # prompts with score >= edge
        chosen[:, -1] = 0  # the last edge is the highest score drawn, and > selects none
        row = np.arange(rows)[:, None]
        share = np.where(chosen > 0, count[row, chosen - 1], 0.0) / n
        gains = np.where(chosen > 0, gain[row, chosen - 1], 0.0)
        share, gains = share[:, ::-1], gains[:, ::-1]  # ascending: edges rise, shares fall
        recovered = gains / total[:, None]
        apgr = (np.diff(share, axis=1) * (recovered[:, 1:] + recovered[:, :-1]) / 2).sum(axis=1)
        cpts = np.array(
            [
                np.interp(CPTS, r, s) if np.isfinite(r[0]) else (np.nan,) * len(CPTS)
                for r, s in zip(recovered, share, strict=True)
            ]
        )
        return apgr, cpts


def _cpt(count: Floats, gain: Floats, total: Floats, pgr: float) -> Floats:
    """Prompts sent to the strong model where PGR first reaches `pgr`, shape (rows,)."""
    wanted = pgr * total
    reached = gain >= (wanted - _REACHED * np.abs(total))[:, None]
    i = np.argmax(reached, axis=1)
    row = np.arange(gain.shape[0])
    first = i == 0
    gain_before = np.where(first, 0.0, gain[row, i - 1])
    count_before = np.where(first, 0.0, count[row, i - 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = (wanted - gain_before) / (gain[row, i] - gain_before)
    found = count_before + (count[row, i] - count_before) * np.minimum(rise, 1.0)
    return np.where(reached[row, i], found, np.nan)


def _joined(parts: list[Resampled]) -> Resampled:
    return Resampled(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("apgr", "cpt", "paper_apgr", "paper_cpt", "pgr")
        }
    )
