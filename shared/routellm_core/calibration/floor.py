"""The cheapest threshold whose quality is shown to reach a fraction of the strong model's.

Routed weak below threshold t, a prompt with scores s and w gives the gain over the floor

    gain(t) = w - f s   where win_rate < t,   (1 - f) s   elsewhere,

and the expected quality reaches f times the strong model's exactly where the mean of the gain is at least zero:
one mean of one bounded quantity, with the strong model's uncertain mean inside.

Thresholds are walked upwards from 0 (all strong) and the walk ends before the first one that is not shown to be
good. Let t* be the first threshold on the way that misses the floor: to end beyond it, its own test must have
given a false yes, which has probability at most delta; testing many thresholds costs nothing (fixed-sequence
testing). The way is all numbers of [0, 1] in ascending order, so it is fixed before the sample is seen; between two
neighbouring win rates of the sample nothing changes, and one test stands for all numbers there.

Source: Angelopoulos et al. 2021, "Learn then test", arXiv:2110.01052.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration.betting import means_above_zero
from routellm_core.calibration.thresholds import possible_cuts
from routellm_core.errors import CalibrationError

__all__ = ["LabelledSample"]

_FLOORS = 200  # floors tried when the best certifiable one is looked for
_RESAMPLES = 20
_LABELS_STEP = 1.25
_LABELS_LIMIT = 100  # times the labels at hand; beyond, an extrapolation says nothing
_ROWS_LIMIT = 200_000  # of an extrapolation


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSample:
    """Win rates, ascending, with both models' scores.

    Attributes:
        win_rates: Shape (n,), ascending.
        strong_scores: Shape (n,), within `score_range`.
        weak_scores: Shape (n,), within `score_range`.
        order: Shape (n,), row positions in the order in which the test sees them, which must not depend on values.
        score_range: Lowest and highest possible score.
    """

    win_rates: NDArray[np.float64]
    strong_scores: NDArray[np.float64]
    weak_scores: NDArray[np.float64]
    order: NDArray[np.int64]
    score_range: tuple[float, float] = (0.0, 1.0)

    def quality(self, threshold: float) -> float:
        """Mean score of the answers at this threshold."""
        return float(np.where(self.win_rates >= threshold, self.strong_scores, self.weak_scores).mean())

    def n_weak(self, floor: float, delta: float) -> int:
        """How many rows, those with the lowest win rates, may go weak. 0: no threshold but all-strong is certified."""
        low, high = self._bounds(floor)
        if low >= 0:  # even the worst weak answer reaches the floor
            return int(self.win_rates.size)
        strong, weak = (1 - floor) * self.strong_scores, self.weak_scores - floor * self.strong_scores
        cuts = possible_cuts(self.win_rates)
        last = cuts[1:]
        group = np.repeat(np.arange(last.size), np.diff(cuts))[self.order, None]
        n_tested = self._worth_testing(strong, weak, last)
        if n_tested == 0:
            return 0
        tested = np.arange(n_tested)  # number j sends groups 0..j weak
        in_order_strong, in_order_weak = strong[self.order, None], weak[self.order, None]

        def gains(rows: slice) -> NDArray[np.float64]:
            return np.where(tested >= group[rows], in_order_weak[rows], in_order_strong[rows])

        good = means_above_zero(gains, self.win_rates.size, low=low, high=high, delta=delta)
        n_good = n_tested if good.all() else int(np.argmin(good))
        return int(last[n_good - 1]) if n_good else 0

    def _bounds(self, floor: float) -> tuple[float, float]:
        lowest, highest = self.score_range
        return lowest - floor * highest, max(highest - floor * lowest, (1 - floor) * highest)

    def _worth_testing(self, strong: NDArray[np.float64], weak: NDArray[np.float64], last: NDArray[np.int64]) -> int:
        """Cuts before the first whose gain is not even a standard error above zero. Ending early is always valid."""
        n = strong.size
        total = (strong.sum() + np.cumsum(weak - strong))[last - 1]
        squares = ((strong**2).sum() + np.cumsum(weak**2 - strong**2))[last - 1]
        error = np.sqrt(np.maximum(squares - total**2 / n, 0.0))
        hopeless = total <= error
        return int(np.argmax(hopeless)) if hopeless.any() else last.size

    def refusal(self, floor: float, delta: float) -> CalibrationError:
        """What to say when nothing but all-strong is certified: the best floor that is, and the labels needed."""
        n = self.win_rates.size
        best = self._best_floor(floor, delta)
        needed = self._labels_needed(floor, delta)
        return CalibrationError(
            f"{n} labelled prompts cannot certify quality_floor={floor:g} at delta={delta:g} with any prompt going "
            f"weak; "
            + (f"the best floor they certify is {best:g}. " if best else "they certify no floor at all. ")
            + ("Lower the floor, or label " if best else "Label ")
            + (
                f"about {needed:,} prompts like these in all"
                if needed
                else f"more than {self._labels_tried():,} prompts like these"
            )
        )

    def _best_floor(self, floor: float, delta: float) -> float | None:
        """The highest floor below `floor`, in steps of 1/200, at which prompts of the lowest win rate may go weak."""
        floors = np.arange(math.ceil(floor * _FLOORS) - 1, 0, -1) / _FLOORS
        if floors.size == 0:
            return None
        n_first = int(possible_cuts(self.win_rates)[1])
        strong = self.strong_scores[self.order, None]
        routed = np.where(self.order < n_first, self.weak_scores[self.order], self.strong_scores[self.order])[:, None]

        def gains(rows: slice) -> NDArray[np.float64]:
            return np.asarray(routed[rows] - floors * strong[rows])

        low, high = self._bounds(floor)
        good = means_above_zero(gains, self.win_rates.size, low=low, high=high, delta=delta)
        for candidate in floors[good].tolist():
            if self.n_weak(candidate, delta):
                return float(candidate)
        return None

    def _labels_tried(self) -> int:
        return min(_LABELS_LIMIT * self.win_rates.size, max(_ROWS_LIMIT, self.win_rates.size))

    def _labels_needed(self, floor: float, delta: float) -> int | None:
        """Rows at which half of the resamples of this sample certify the floor, each with its lowest group weak."""
        n = self.win_rates.size
        n_first = int(possible_cuts(self.win_rates)[1])
        strong = (1 - floor) * self.strong_scores
        routed = np.where(np.arange(n) < n_first, self.weak_scores - floor * self.strong_scores, strong)
        low, high = self._bounds(floor)
        rng = np.random.default_rng(0)
        n_rows = n
        while (n_rows := math.ceil(n_rows * _LABELS_STEP)) <= self._labels_tried():
            drawn = routed[rng.integers(n, size=(n_rows, _RESAMPLES))]
            good = means_above_zero(drawn.__getitem__, n_rows, low=low, high=high, delta=delta)
            if 2 * int(good.sum()) >= _RESAMPLES:
                unit = int(10 ** max(0, len(str(n_rows)) - 2))
                return -(-n_rows // unit) * unit
        return None
