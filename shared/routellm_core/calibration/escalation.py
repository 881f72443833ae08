"""Two cuts at once: which prompts go straight to the strong model, and which weak answers are escalated to it.

With cuts t and v, a prompt of win rate p and a weak answer of win rate a (the verifier's) cost and give

    strong_usd                                  and s   where p >= t,
    weak_usd + verifier_usd + strong_usd        and s   where p < t, p >= u and a >= v,
    weak_usd + verifier_usd                     and w   where p < t, p >= u and a < v,
    weak_usd                                    and w   where p < u (kept unasked; only where asking costs money).

The frontier holds the cuts that no others beat in both cost and quality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration.betting import means_above_zero
from routellm_core.calibration.thresholds import ABOVE_ALL
from routellm_core.errors import CalibrationError, DataError

__all__ = ["Escalation", "EscalationPoint", "calibrate_escalation"]

Floats = NDArray[np.float64]

_STRAIGHT_CUTS = 41  # cuts on the prompt's win rate that are tried, at equal shares
_UNASKED_CUTS = 9
_ON_FLOOR = 64  # points of the frontier that a quality floor is tested on


@dataclass(frozen=True, kw_only=True, slots=True)
class EscalationPoint:
    """Cuts, and what they cost and give on the sample.

    Attributes:
        threshold: Prompts of this win rate or more go straight to the strong model; `ABOVE_ALL`: none.
        escalation_threshold: Weak answers of this win rate (the verifier's) or more are escalated.
        verify_from: Weak answers to prompts below this win rate are kept unasked.
        usd: Mean cost of a call, everything included.
        quality: Mean score.
        strong_share: Share of the prompts that the strong model answers.
        straight_share: Share that it answers at once.
        asked_share: Share of the weak answers' prompts that the verifier sees, of all prompts.
    """

    threshold: float
    escalation_threshold: float
    verify_from: float
    usd: float
    quality: float
    strong_share: float
    straight_share: float
    asked_share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Escalation:
    """The cuts that were chosen, and all others that were worth choosing.

    Attributes:
        point: The chosen one.
        frontier: Ascending in cost and in quality.
        weak_usd: Mean cost of the weak model for every prompt.
        strong_usd: The same of the strong model.
    """

    point: EscalationPoint
    frontier: tuple[EscalationPoint, ...] = field(repr=False)
    weak_usd: float
    strong_usd: float

    @property
    def threshold(self) -> float:
        return self.point.threshold

    @property
    def escalation_threshold(self) -> float:
        return self.point.escalation_threshold

    @property
    def verify_from(self) -> float:
        return self.point.verify_from


def calibrate_escalation(
    win_rates: ArrayLike,
    answer_win_rates: ArrayLike,
    *,
    strong_scores: ArrayLike,
    weak_scores: ArrayLike,
    strong_usd: ArrayLike,
    weak_usd: ArrayLike,
    verifier_usd: ArrayLike = 0.0,
    budget_usd: float | None = None,
    strong_share: float | None = None,
    quality_floor: float | None = None,
    delta: float = 0.05,
    score_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Escalation:
    """Choose both cuts together; give one of budget_usd, strong_share and quality_floor.

    Args:
        win_rates: The router's, of the prompts, shape (n,).
        answer_win_rates: The verifier's, of the weak answers, shape (n,). Held out, as `VerifierResult.win_rates`:
            of answers that it was fitted on they are too good to be true.
        strong_scores: Quality of the strong model's answers, shape (n,).
        weak_scores: The same of the weak model.
        strong_usd: Cost of each strong answer, or one mean cost.
        weak_usd: The same of the weak model.
        verifier_usd: What asking the verifier costs: 0 for a fitted one, a call for a judge.
        budget_usd: Mean cost of a call that must not be exceeded; the best quality within.
        strong_share: Share of the prompts that the strong model may answer, 0..1; the best quality within.
        quality_floor: Fraction of the strong model's mean quality, 0..1, that the expected quality must reach. The
            frontier is found on one half of the sample and tested on the other.
        delta: With `quality_floor`: probability that the cuts miss it all the same.
        score_range: With `quality_floor`: the lowest and highest possible score; the lowest is at least 0.
        seed: Of the halves.

    Raises:
        CalibrationError: None or several are given, one is out of range or cannot be met.
        DataError: Lengths differ, or values are not finite.

    Source: Chen et al. 2023, FrugalGPT, arXiv:2305.05176 (cascades); Dekoninck et al. 2024, arXiv:2410.10347 (routing
        and cascading at once); Angelopoulos et al. 2021, arXiv:2110.01052, section on split fixed-sequence testing.
    """
    given = [budget_usd is not None, strong_share is not None, quality_floor is not None]
    if sum(given) != 1:
        raise CalibrationError("give one of budget_usd=, strong_share= and quality_floor=")
    sample = _Sample.checked(
        win_rates, answer_win_rates, strong_scores, weak_scores, strong_usd, weak_usd, verifier_usd
    )
    frontier = sample.frontier()
    if budget_usd is not None:
        chosen = [point for point in frontier if point.usd <= budget_usd * (1 + 1e-9)]
        if not chosen:
            raise CalibrationError(
                f"a budget of {budget_usd:g} a call does not pay for the cheapest way, {frontier[0].usd:.3g}"
            )
        point = chosen[-1]
    elif strong_share is not None:
        if not 0.0 <= strong_share <= 1.0:
            raise CalibrationError(f"strong_share must lie in [0, 1], got {strong_share!r}")
        point = max(
            (each for each in sample.points() if each.strong_share <= strong_share + 1e-9),
            key=lambda each: (each.quality, -each.usd),
        )
    else:
        point = _at_floor(sample, float(quality_floor or 0.0), delta, score_range, np.random.default_rng(seed))
    return Escalation(
        point=point,
        frontier=tuple(frontier),
        weak_usd=float(sample.weak_usd.mean()),
        strong_usd=float(sample.strong_usd.mean()),
    )


@dataclass(frozen=True, eq=False)
class _Sample:
    prompt: Floats
    answer: Floats
    strong: Floats
    weak: Floats
    strong_usd: Floats
    weak_usd: Floats
    verifier_usd: Floats

    @classmethod
    def checked(cls, *columns: ArrayLike) -> _Sample:
        names = ("win_rates", "answer_win_rates", "strong_scores", "weak_scores", "strong_usd", "weak_usd")
        n = np.asarray(columns[0]).size
        found = []
        for name, column in zip((*names, "verifier_usd"), columns, strict=True):
            try:
                array = np.asarray(column, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"{name} are not numbers: {error}") from None
            if name.endswith("usd") and array.ndim == 0:
                array = np.full(n, float(array))
            if array.shape != (n,) or n == 0 or not np.isfinite(array).all():
                raise DataError(f"{name} must be {n} finite numbers, at least one; got shape {array.shape}")
            low, high = (0.0, 1.0) if name.endswith("win_rates") else (0.0, np.inf)
            if (name.endswith("win_rates") or name.endswith("usd")) and not ((array >= low) & (array <= high)).all():
                raise DataError(f"{name} must lie in {'[0, 1]' if high == 1 else '[0, infinity)'}")
            found.append(array)
        return cls(*found)

    def take(self, rows: NDArray[np.int64]) -> _Sample:
        return _Sample(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def points(self) -> list[EscalationPoint]:
        """One point for each pair of cuts that is tried; `frontier` keeps the best."""
        found = []
        unasked = [] if not self.verifier_usd.any() else _cuts_at_shares(self.prompt, _UNASKED_CUTS)
        for straight in _cuts_at_shares(self.prompt, _STRAIGHT_CUTS):
            found += self._sweep(straight, 0.0)
            for cut in {straight, *unasked}:
                if unasked and 0.0 < cut <= straight:  # where asking costs nothing, all are asked
                    found += self._sweep(straight, cut)
        return found

    def _sweep(self, straight: float, unasked: float) -> list[EscalationPoint]:
        """All cuts on the verifier's win rate that matter, thinned to what may lie on the frontier."""
        n = self.prompt.size
        at_once = self.prompt >= straight
        asked = np.flatnonzero(~at_once & (self.prompt >= unasked))
        order = asked[np.argsort(-self.answer[asked], kind="stable")]
        usd = np.where(at_once, self.strong_usd, self.weak_usd).sum() + self.verifier_usd[asked].sum()
        quality = np.where(at_once, self.strong, self.weak).sum()
        usd = np.concatenate([[usd], usd + np.cumsum(self.strong_usd[order])])
        quality = np.concatenate([[quality], quality + np.cumsum(self.strong[order] - self.weak[order])])
        answers = self.answer[order]
        ends = np.concatenate([[0], np.flatnonzero(np.diff(answers, append=-1.0) != 0) + 1])  # equal ones go together
        best = np.maximum.accumulate(quality[ends])
        rises = np.concatenate([[True], quality[ends][1:] > best[:-1]])  # nothing cheaper is as good
        points = []
        for k in ends[rises].tolist():
            if k == 0:
                cut = ABOVE_ALL
            elif k == len(order):
                cut = 0.0
            else:
                cut = _midway(float(answers[k]), float(answers[k - 1]))
            points.append(
                EscalationPoint(
                    threshold=straight,
                    escalation_threshold=cut,
                    verify_from=unasked,
                    usd=float(usd[k]) / n,
                    quality=float(quality[k]) / n,
                    strong_share=float(at_once.sum() + k) / n,
                    straight_share=float(at_once.mean()),
                    asked_share=len(asked) / n,
                )
            )
        return points

    def frontier(self) -> list[EscalationPoint]:
        """The points that are better than every cheaper one; the last is all-strong where nothing is better."""
        kept: list[EscalationPoint] = []
        for point in sorted(self.points(), key=lambda each: (each.usd, -each.quality)):
            if not kept or point.quality > kept[-1].quality + 1e-12:
                kept.append(point)
        return kept

    def quality_of(self, point: EscalationPoint) -> Floats:
        """Score of each prompt's answer at these cuts, shape (n,)."""
        at_once = self.prompt >= point.threshold
        escalated = (self.prompt >= point.verify_from) & (self.answer >= point.escalation_threshold)
        return np.where(at_once | escalated, self.strong, self.weak)


def _midway(below: float, above: float) -> float:
    midway = (below + above) / 2
    return midway if midway > below else above  # neighbouring floats have nothing between them


def _cuts_at_shares(values: Floats, most: int) -> list[float]:
    """From `ABOVE_ALL` down to 0: cuts between different values, at about equal shares."""
    distinct = np.unique(values)[::-1].tolist()
    between = [_midway(low, high) for high, low in zip(distinct, distinct[1:], strict=False)]
    cuts = [ABOVE_ALL, *between, 0.0]
    if len(cuts) <= most:
        return cuts
    shares = 1.0 - np.searchsorted(np.sort(values), cuts) / values.size
    picked = {int(np.argmin(np.abs(shares - wanted))) for wanted in np.linspace(0.0, 1.0, most)}
    return [cuts[i] for i in sorted(picked)]


def _at_floor(
    sample: _Sample, floor: float, delta: float, score_range: tuple[float, float], rng: np.random.Generator
) -> EscalationPoint:
    """The cheapest point of one half's frontier that, with all dearer ones, is shown on the other half to be good."""
    lowest, highest = score_range
    for name, value in (("quality_floor", floor), ("delta", delta)):
        if not 0.0 < value < 1.0:
            raise CalibrationError(f"{name} must lie between 0 and 1, got {value!r}")
    scores = np.concatenate([sample.strong, sample.weak])
    if not 0 <= lowest < highest or not ((scores >= lowest) & (scores <= highest)).all():
        raise DataError(f"scores must lie within score_range={score_range}, which begins at 0 or above")
    n = sample.prompt.size
    order = rng.permutation(n)
    first, second = sample.take(np.sort(order[: n // 2])), sample.take(order[n // 2 :])
    frontier = first.frontier()
    kept = sorted({int(i) for i in np.linspace(0, len(frontier) - 1, min(_ON_FLOOR, len(frontier)))}, reverse=True)
    walk = [frontier[i] for i in kept]  # the dearest first: fixed before the second half is seen
    gains = np.stack([second.quality_of(point) for point in walk], axis=1) - floor * second.strong[:, None]

    def rows(part: slice) -> Floats:
        return np.asarray(gains[part])

    low, high = lowest - floor * highest, highest - floor * lowest
    good = (
        np.ones(len(walk), dtype=np.bool_)
        if low >= 0
        else means_above_zero(rows, len(gains), low=low, high=high, delta=delta)
    )
    n_good = len(walk) if good.all() else int(np.argmin(good))
    # the same cuts, with what they cost and give on the whole sample
    certified = _described(sample, walk[n_good - 1]) if n_good else None
    if certified is None or certified.strong_share == 1.0:
        raise CalibrationError(_refusal(gains, floor, delta, n))
    return certified


def _refusal(gains: Floats, floor: float, delta: float, n: int) -> str:
    mean, deviation = float(gains[:, 0].mean()), float(gains[:, 0].std())
    message = f"{n} labelled answers cannot certify quality_floor={floor:g} at delta={delta:g}"
    if mean <= 0:
        return f"{message}: not even the dearest cuts reach it on half of them. Lower the floor"
    needed = int(np.ceil(4 * np.log(1 / delta) * (deviation / mean) ** 2))
    return f"{message}. Lower the floor, or label about {max(needed, n + 1):,} answers like these in all"


def _described(sample: _Sample, point: EscalationPoint) -> EscalationPoint:
    at_once = sample.prompt >= point.threshold
    asked = ~at_once & (sample.prompt >= point.verify_from)
    escalated = asked & (sample.answer >= point.escalation_threshold)
    usd = np.where(at_once, 0.0, sample.weak_usd) + asked * sample.verifier_usd
    usd = usd + np.where(at_once | escalated, sample.strong_usd, 0.0)
    values: dict[str, Any] = {
        "usd": float(usd.mean()),
        "quality": float(sample.quality_of(point).mean()),
        "strong_share": float((at_once | escalated).mean()),
        "straight_share": float(at_once.mean()),
        "asked_share": float(asked.mean()),
    }
    return EscalationPoint(
        threshold=point.threshold,
        escalation_threshold=point.escalation_threshold,
        verify_from=point.verify_from,
        **values,
    )
