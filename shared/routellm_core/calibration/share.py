"""A threshold, and the sample it was taken from, so that it can be asked for another one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core._lazy import need
from routellm_core.calibration.binomial import beta_binomial
from routellm_core.calibration.budget import Budget
from routellm_core.calibration.curve import frame, plot
from routellm_core.calibration.embeddings import EmbeddingSummary
from routellm_core.calibration.floor import LabelledSample
from routellm_core.calibration.optimum import Optimum, best_threshold, knee
from routellm_core.calibration.thresholds import ABOVE_ALL, between, possible_cuts
from routellm_core.errors import CalibrationError, DataError, RouteLLMError, RouterFormatError

__all__ = ["Calibration"]

SAVED_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))
_EMBEDDINGS = "embeddings."  # begins the names of its tensors
_MOST_PROMPTS = 10_000_000  # of a prediction: its distribution is held in memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A threshold, and the sample of win rates it was taken from, so that it can be asked again.

    Attributes:
        strong_share: The share that was asked for, 0..1; the realised one where something else was.
        threshold: Prompts with `win_rate >= threshold` go to the strong model.
        realised_share: Share of the sample that does so; differs from `strong_share` where win rates tie.
        win_rates: The sample, ascending, shape (n,).
        source: Where the sample came from, in words.
        budget: The budget that was asked for, else None.
        quality_floor: The fraction of the strong model's mean quality that was asked for, else None.
        delta: With a quality floor: the probability that its guarantee is wrong.
        labels: The sample's scores by both models, where they were given.
        embeddings: What the sample's embeddings look like, where they were given; drift is measured against it.
    """

    strong_share: float
    threshold: float
    realised_share: float
    win_rates: NDArray[np.float64] = field(repr=False)
    source: str = ""
    budget: Budget | None = None
    quality_floor: float | None = None
    delta: float | None = None
    labels: LabelledSample | None = field(default=None, repr=False)
    embeddings: EmbeddingSummary | None = field(default=None, repr=False)

    @classmethod
    def from_win_rates(
        cls,
        win_rates: ArrayLike,
        *,
        strong_share: float = 0.5,
        source: str = "",
        strong_scores: ArrayLike | None = None,
        weak_scores: ArrayLike | None = None,
        score_range: tuple[float, float] = (0.0, 1.0),
        vectors: ArrayLike | None = None,
    ) -> Calibration:
        """Calibrate on a sample of win rates.

        The threshold lies midway between the last win rate that goes strong and the first that
        does not, so that the last digit of a float decides nothing. Equal win rates go together;
        of the two shares that are then possible the nearer one is taken, on equal distance the
        smaller (cheaper) one. A share of 1 gives threshold 0.0, a share of 0 gives `ABOVE_ALL`.

        Args:
            win_rates: At least one number in [0, 1].
            strong_share: Wanted share of strong calls, 0..1.
            source: Where the sample came from.
            strong_scores: Quality of the strong model's answers to the same prompts, shape (n,); with
                `weak_scores`, the calibration can be asked for a quality floor too.
            weak_scores: The same of the weak model.
            score_range: Lowest and highest possible score; the lowest is at least 0.
            vectors: Embeddings of the prompts, shape (n, d); a small summary of them is kept.

        Raises:
            CalibrationError: The sample is empty or holds something that is no probability, or the
                share is outside 0..1.
            DataError: The scores have another length, lie outside the range, or only one model has some.
        """
        try:
            given = np.asarray(win_rates, dtype=np.float64).ravel()
        except (TypeError, ValueError, OverflowError) as error:
            raise CalibrationError("win rates must be numbers in [0, 1]") from error
        if given.size == 0:
            raise CalibrationError("no win rates to calibrate on; score a sample of your prompts first")
        if not ((given >= 0) & (given <= 1)).all():  # False for NaN too
            raise CalibrationError("win rates must lie in [0, 1]; the sample holds others (or NaN)")
        ascending = np.argsort(given, kind="stable")
        sample = given[ascending]
        sample.setflags(write=False)
        labels = _labels(sample, ascending, strong_scores, weak_scores, score_range)
        blank = cls(
            strong_share=1.0,
            threshold=0.0,
            realised_share=1.0,
            win_rates=sample,
            source=source,
            labels=labels,
            embeddings=None if vectors is None else _summary(vectors, sample.size),
        )
        return blank.at(strong_share=strong_share)

    def at(
        self,
        *,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        delta: float | None = None,
    ) -> Calibration:
        """The same sample asked for something else; nothing is scored again. Give one of the first three.

        Args:
            strong_share: Wanted share of strong calls, 0..1.
            budget: Money; gives the largest share of the sample whose mean cost stays within.
            quality_floor: Fraction of the strong model's mean quality, 0..1, that the routed answers' expected
                quality must reach. The cheapest threshold is taken for which the labels show that.
            delta: With `quality_floor`: probability, over samples like this one, that the threshold misses the
                floor all the same. Default: 0.05. Each question has its own: of two floors asked for, either
                may be missed.

        Raises:
            CalibrationError: None or several are given, one is out of range, the budget does not pay for the weak
                model, or the labels are missing or too few for the floor.
        """
        given = [strong_share is not None, budget is not None, quality_floor is not None]
        if sum(given) != 1:
            raise CalibrationError("give one of strong_share=, budget= and quality_floor=")
        if delta is not None and quality_floor is None:
            raise CalibrationError("delta= belongs to quality_floor=")
        if strong_share is not None:
            share = _fraction("strong_share", strong_share)
            return self._cut(self._n_weak_at(share), strong_share=share)
        if budget is not None:
            if not isinstance(budget, Budget):
                raise CalibrationError(f"budget is a Budget, such as Budget(100, per='month'), got {budget!r}")
            return self._cut(self._n_weak_within(budget.strong_share()), budget=budget)
        return self._at_floor(_fraction("quality_floor", quality_floor), 0.05 if delta is None else delta)

    def _at_floor(self, floor: float, delta: float) -> Calibration:
        if not 0 < floor:
            raise CalibrationError("quality_floor is a fraction above 0: with 0 the weak model alone will do")
        if not 0 < _fraction("delta", delta) < 1:
            raise CalibrationError(f"delta is a probability between 0 and 1, got {delta!r}")
        if self.labels is None:
            raise CalibrationError(
                "a quality floor needs scores of both models: this calibration keeps none; "
                "calibrate(win_rates, strong_scores=..., weak_scores=..., quality_floor=...)"
            )
        strong, weak = self.labels.strong_scores.mean(), self.labels.weak_scores.mean()
        if not strong > weak:
            raise CalibrationError(
                f"the strong model's mean score {strong:.4g} is not above the weak one's {weak:.4g}: on these labels "
                "there is nothing to route for; use the weak model, or label more prompts"
            )
        n_weak = self.labels.n_weak(floor, delta)
        if n_weak == 0:
            raise self.labels.refusal(floor, delta)
        return self._cut(n_weak, quality_floor=floor, delta=float(delta))

    def _cut(
        self,
        n_weak: int,
        *,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        delta: float | None = None,
    ) -> Calibration:
        """The record whose threshold sends the `n_weak` lowest win rates weak; no tie is across the cut."""
        n = self.win_rates.size
        realised = (n - n_weak) / n
        return replace(
            self,
            strong_share=realised if strong_share is None else strong_share,
            threshold=between(self.win_rates, n_weak),
            realised_share=realised,
            budget=budget,
            quality_floor=quality_floor,
            delta=delta,
        )

    def _n_weak_at(self, share: float) -> int:
        n_weak = possible_cuts(self.win_rates)
        distance = np.abs((self.win_rates.size - n_weak) - share * self.win_rates.size)
        return int(n_weak[np.flatnonzero(distance == distance.min())[-1]])  # on equal distance the cheaper

    def _n_weak_within(self, share: float) -> int:
        n = self.win_rates.size
        n_weak = possible_cuts(self.win_rates)
        return int(n_weak[n - n_weak <= share * n * (1 + 1e-12)][0])

    def cuts(self, n_routes: int) -> list[float]:
        """Ascending thresholds that give each of `n_routes` routes an equal share of the sample.

        Where win rates tie so much that two cuts meet, the route between them gets nothing.
        """
        return [self.at(strong_share=1 - step / n_routes).threshold for step in range(1, n_routes)]

    # -- how sure
    def share_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Clopper-Pearson interval for the long-run strong share at this threshold, on prompts like the sample's.

        Exact too although the threshold was taken from the sample: with k of m win rates above it, it lies between
        two order statistics, and the share above those is distributed as Beta(k, m - k + 1) and Beta(k + 1, m - k)
        whatever the distribution of win rates; the interval reaches from the lower tail of the first to the upper
        tail of the second. Where win rates tie, or the labels chose the threshold, k is not fixed beforehand and
        the level is approximate.

        Args:
            level: Coverage, 0..1.

        Raises:
            CalibrationError: The level is no fraction.
            MissingExtraError: scipy is not installed (extra `fit`).
        """
        tail = _tail(level)
        special = need("scipy.special", extra="fit", why="an interval for the strong share")
        m, k = self.win_rates.size, self._n_strong()
        low = 0.0 if k == 0 else float(special.betaincinv(k, m - k + 1, tail))
        high = 1.0 if k == m else float(special.betaincinv(k + 1, m - k, 1 - tail))
        return low, high

    def predicted_share(self, n: int, level: float = 0.95) -> tuple[float, float]:
        """Prediction interval for the strong share among the next `n` prompts, exchangeable with the sample's.

        Wider than `share_interval`, as n prompts scatter about the long-run share. Their number above the threshold
        is beta-binomial, with the two Beta distributions named there.

        Args:
            n: Number of prompts, at least 1.
            level: Coverage, 0..1.

        Raises:
            CalibrationError: The level is no fraction, or n is no number of prompts.
            MissingExtraError: scipy is not installed (extra `fit`).
        """
        tail = _tail(level)
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= _MOST_PROMPTS:
            raise CalibrationError(f"n is a number of prompts from 1 to {_MOST_PROMPTS:,}, got {n!r}")
        m, k = self.win_rates.size, self._n_strong()
        low, high = 0, int(n)
        if k > 0:
            low = int(np.searchsorted(np.cumsum(beta_binomial(int(n), k, m - k + 1)), tail))
        if k < m:
            # summed from the far end, where the tail lies: so that rounding cannot eat it
            high = int(n) - int(np.searchsorted(np.cumsum(beta_binomial(int(n), k + 1, m - k)[::-1]), tail))
        return min(low, int(n)) / int(n), max(high, 0) / int(n)

    def _n_strong(self) -> int:
        return int(self.win_rates.size - np.searchsorted(self.win_rates, self.threshold, side="left"))

    @property
    def guarantee(self) -> str:
        """What this threshold promises, in words."""
        n = self.win_rates.size
        if self.quality_floor is not None and self.delta is not None:
            sure, floor = _in_words(1 - self.delta), _in_words(self.quality_floor)
            return (
                f"With probability at least {sure} over the choice of the {n} labelled prompts, the "
                f"expected quality of the routed answers is at least {floor} of the strong model's, "
                "on prompts drawn as the labelled ones were (fixed-sequence test of the signed quality difference by "
                "betting; holds for this sample size, not only for large ones)."
            )
        about = f"{self.realised_share:.1%} of the {n} calibration prompts reach the threshold"
        if self.budget is not None:
            return f"{about}, which costs no more than {self.budget} on average; quality is not promised."
        return f"{about}; quality is not promised."

    # -- what the labels say
    def optimum(self, *, quality_per_usd: float, strong_usd: float, weak_usd: float, **options: Any) -> Optimum:
        """The threshold that maximises mean quality - quality_per_usd * mean cost, see `optimum.best_threshold`.

        Raises:
            CalibrationError: The calibration keeps no scores, or a number is out of range.
        """
        labels = self._needed_labels("the cost-benefit optimum")
        return best_threshold(
            labels, quality_per_usd=quality_per_usd, strong_usd=strong_usd, weak_usd=weak_usd, **options
        )

    def knee(self, **options: Any) -> Optimum:
        """The point of the quality curve farthest above the line from all weak to all strong.

        Raises:
            CalibrationError: The calibration keeps no scores, or the strong model is no better on them.
        """
        return knee(self._needed_labels("the knee"), **options)

    def _needed_labels(self, what: str) -> LabelledSample:
        if self.labels is None:
            raise CalibrationError(f"{what} needs scores of both models: this calibration keeps none")
        return self.labels

    def to_frame(self) -> Any:
        """Every threshold that makes a difference on the sample, with strong share and quality: a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed (extra `eval`).
        """
        return frame(self)

    def plot(self) -> Any:
        """A matplotlib figure of quality over strong share, or without labels of strong share over threshold.

        Raises:
            MissingExtraError: matplotlib is not installed (extra `eval`).
        """
        return plot(self)

    # -- saving
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the record with the thresholds at shares .05 to .95, without the sample itself."""
        record: dict[str, Any] = {
            "strong_share": self.strong_share,
            "threshold": self.threshold,
            "realised_share": self.realised_share,
            "n_prompts": int(self.win_rates.size),
            "source": self.source,
            "thresholds": {f"{share:.2f}": self.at(strong_share=share).threshold for share in SAVED_SHARES},
        }
        if self.budget is not None:
            record["budget"] = self.budget.to_dict()
        if self.quality_floor is not None:
            record |= {"quality_floor": self.quality_floor, "delta": self.delta, "guarantee": self.guarantee}
        if self.labels is not None:
            record["score_range"] = list(self.labels.score_range)
        return record

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The sample, by the names it is saved under; with `to_dict` it gives the calibration back."""
        tensors: dict[str, NDArray[Any]] = {"win_rates": self.win_rates}
        if self.labels is not None:
            tensors["strong_scores"] = self.labels.strong_scores
            tensors["weak_scores"] = self.labels.weak_scores
            tensors["order"] = self.labels.order
        if self.embeddings is not None:
            tensors |= {f"{_EMBEDDINGS}{name}": array for name, array in self.embeddings.tensors().items()}
        return tensors

    @classmethod
    def restore(
        cls, record: Mapping[str, Any], sample: NDArray[np.float64] | Mapping[str, NDArray[Any]]
    ) -> Calibration:
        """The calibration that `to_dict` described, with its sample.

        Args:
            record: What `to_dict` gave.
            sample: What `tensors` gave, or the win rates alone.

        Raises:
            RouterFormatError: The record lacks a field, or the sample cannot be calibrated on.
        """
        tensors = sample if isinstance(sample, Mapping) else {"win_rates": sample}
        try:
            blank = cls.from_win_rates(tensors["win_rates"], source=record.get("source", ""))
            if "strong_scores" in tensors:
                blank = replace(blank, labels=_restored_labels(blank.win_rates, tensors, record["score_range"]))
            parts = {name.removeprefix(_EMBEDDINGS): t for name, t in tensors.items() if name.startswith(_EMBEDDINGS)}
            if parts:
                blank = replace(blank, embeddings=EmbeddingSummary.restore(parts))
            budget = Budget.from_dict(record["budget"]) if record.get("budget") is not None else None
            floor, delta = record.get("quality_floor"), record.get("delta")
            if budget is None and floor is None:
                return blank.at(strong_share=record["strong_share"])
            # as it was decided then: a saved guarantee is not tested again
            n_weak = int(np.searchsorted(blank.win_rates, _fraction("threshold", record["threshold"], ABOVE_ALL)))
            floor = None if floor is None else _fraction("quality_floor", floor)
            delta = None if delta is None else _fraction("delta", delta)
            return blank._cut(n_weak, budget=budget, quality_floor=floor, delta=delta)
        except (KeyError, TypeError, ValueError, AttributeError, RouteLLMError) as error:
            raise RouterFormatError(f"the saved calibration cannot be used: {error!r}") from error


def _fraction(name: str, value: Any, largest: float = 1.0) -> float:
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not 0 <= value <= largest:  # as it is: float() of a huge int would raise
        raise CalibrationError(f"{name} is a fraction from 0 to 1, got {value!r}")
    return float(value)


def _in_words(probability: float) -> str:
    """Four digits, or all where they would promise more; 1 - .07 is .93."""
    short = f"{probability:.4g}"
    return repr(float(probability)) if float(short) > probability + 1e-12 else short


def _tail(level: float) -> float:
    if not 0 < _fraction("level", level) < 1:
        raise CalibrationError(f"level is a fraction between 0 and 1, got {level!r}")
    return (1 - level) / 2


def _summary(vectors: ArrayLike, n: int) -> EmbeddingSummary:
    rows = np.shape(vectors)[:1]
    if rows != (n,):
        raise DataError(f"lengths differ: {n} win rates, embeddings of shape {np.shape(vectors)}")
    return EmbeddingSummary.fit(vectors)


def _labels(
    sample: NDArray[np.float64],
    ascending: NDArray[np.int64],
    strong_scores: ArrayLike | None,
    weak_scores: ArrayLike | None,
    score_range: tuple[float, float],
) -> LabelledSample | None:
    if strong_scores is None and weak_scores is None:
        return None
    if strong_scores is None or weak_scores is None:
        raise DataError("give strong_scores= and weak_scores=, both or none")
    lowest, highest = _checked_range(score_range)
    strong, weak = (
        _checked_scores(name, scores, sample.size, lowest, highest)[ascending]
        for name, scores in (("strong_scores", strong_scores), ("weak_scores", weak_scores))
    )
    # files are often sorted by subject; a row's turn in the test must not depend on what it holds
    order = np.argsort(ascending)[np.random.default_rng(0).permutation(sample.size)]
    return _frozen_labels(sample, strong, weak, order, (lowest, highest))


def _frozen_labels(
    sample: NDArray[np.float64],
    strong: NDArray[np.float64],
    weak: NDArray[np.float64],
    order: NDArray[np.int64],
    score_range: tuple[float, float],
) -> LabelledSample:
    for array in (strong, weak, order):
        array.setflags(write=False)
    return LabelledSample(
        win_rates=sample, strong_scores=strong, weak_scores=weak, order=order, score_range=score_range
    )


def _restored_labels(
    sample: NDArray[np.float64], tensors: Mapping[str, NDArray[Any]], score_range: Sequence[float]
) -> LabelledSample:
    lowest, highest = _checked_range(score_range)
    order = np.array(tensors["order"], dtype=np.int64)
    if not np.array_equal(np.sort(order), np.arange(sample.size)):
        raise DataError("the order of the rows is none")
    strong, weak = (
        _checked_scores(name, tensors[name], sample.size, lowest, highest) for name in ("strong_scores", "weak_scores")
    )
    return _frozen_labels(sample, strong, weak, order, (lowest, highest))


def _checked_range(score_range: Any) -> tuple[float, float]:
    try:
        lowest, highest = (float(end) for end in score_range)
    except (TypeError, ValueError, OverflowError):
        lowest = highest = math.nan
    if not 0 <= lowest < highest < math.inf:
        raise DataError(
            f"score_range is (lowest, highest) possible score with 0 <= lowest < highest, got {score_range!r}: a "
            "fraction of a mean quality means nothing where scores can be negative"
        )
    return lowest, highest


def _checked_scores(name: str, scores: ArrayLike, n: int, lowest: float, highest: float) -> NDArray[np.float64]:
    try:
        array = np.array(scores, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} are not all numbers") from error
    if array.size != n:
        raise DataError(f"lengths differ: {n} win rates, {array.size} {name}")
    valid = (array >= lowest) & (array <= highest)  # False for NaN too
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise DataError(
            f"{name} of row {row} is {array[row]:g}, outside {lowest:g}..{highest:g}; for another scale give "
            "score_range=(lowest, highest)"
        )
    return array
