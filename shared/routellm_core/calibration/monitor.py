"""Watching traffic prompt by prompt, with a false-alarm rate that holds however often one looks."""

from __future__ import annotations

import bisect
import math
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration.drift import DriftReport, compared
from routellm_core.calibration.embeddings import EmbeddingSummary
from routellm_core.calibration.share import Calibration
from routellm_core.errors import CalibrationError, DataError
from routellm_core.types import Decision

__all__ = ["DriftMonitor"]

_FINEST = 8  # bins of a rank; also watched in 4 and in 2


class _RankMartingale:
    """Are the values still exchangeable with the sample? Bets against it; the capital is the evidence.

    Each value's rank among the sample and all values before it, ties broken at random, is uniform on [0, 1] and
    independent of the ranks before, exactly, as long as all come from one distribution. Bettors learn a histogram of
    the ranks (2, 4 and 8 bins, Krichevsky-Trofimov); a new group of them starts every `window` values, so that a
    change is met by bettors who have not learned the time before. The mean of all capitals is a martingale: it
    reaches 1 / alpha with probability at most alpha (Ville's inequality).

    Source: Vovk, Gammerman and Shafer 2022, Algorithmic Learning in a Random World, chapter 8.
    """

    def __init__(self, sample: NDArray[Any], *, window: int, horizon: int, rng: np.random.Generator) -> None:
        self._values: list[float] = np.sort(sample).astype(float).tolist()
        self._window = window
        self._n_groups = math.ceil(horizon / window)
        self._rng = rng
        self._seen = 0
        self._counts = np.zeros((0, _FINEST))
        self._log_capital = np.zeros((0, 3))

    def add(self, value: float) -> float:
        """The logarithm of the capital after this value."""
        low = bisect.bisect_left(self._values, value)
        high = bisect.bisect_right(self._values, value, lo=low)
        rank = (low + self._rng.random() * (high - low + 1)) / (len(self._values) + 1)
        self._values.insert(high, value)
        if self._seen % self._window == 0:
            self._counts = np.vstack([self._counts, np.zeros(_FINEST)])
            self._log_capital = np.vstack([self._log_capital, np.zeros(3)])
        self._seen += 1
        cell = min(int(rank * _FINEST), _FINEST - 1)
        n = self._counts.sum(axis=1)
        for column, n_bins in enumerate((2, 4, 8)):
            width = _FINEST // n_bins
            start = cell // width * width
            count = self._counts[:, start : start + width].sum(axis=1)
            self._log_capital[:, column] += np.log(n_bins * (count + 0.5) / (n + 0.5 * n_bins))
        self._counts[:, cell] += 1
        largest = max(0.0, float(self._log_capital.max()))
        started = float(np.exp(self._log_capital - largest).sum()) / 3
        waiting = (self._n_groups - self._counts.shape[0]) * math.exp(-largest)
        return largest + math.log((started + waiting) / self._n_groups)


class DriftMonitor:
    """Watches win rates (and embeddings) of live traffic for a change from what was calibrated. Thread-safe.

    The alarm looks at the ranks of the win rates among the calibration's and the traffic's own; where the calibration
    has a summary of embeddings and vectors are given, at the ranks of their distances too, with half of alpha each.
    As long as the traffic is exchangeable with the calibration sample, the probability of any alarm within `horizon`
    prompts is at most `alpha`, however often it is looked at. After `horizon` prompts the monitor starts anew.

    Args:
        calibration: What the router was calibrated on, with the threshold in use.
        window: A change is looked for from every window-th prompt on, and `report` describes that many prompts.
        alpha: Probability of a false alarm within `horizon` prompts, 0..1.
        horizon: Prompts to which alpha refers.
        seed: Of the random order among equal win rates.

    Attributes:
        drifted: Whether the alarm was raised; it stays until `reset`.
        n_observed: Prompts observed since the start or the last reset.
        n_skipped: Decisions without a win rate (forced, sticky), which say nothing about the prompts.

    Raises:
        CalibrationError: A number out of range.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        window: int = 200,
        alpha: float = 0.01,
        horizon: int = 50_000,
        seed: int = 0,
    ) -> None:
        if not isinstance(calibration, Calibration):
            raise CalibrationError(f"a monitor needs the router's Calibration, got {type(calibration).__name__}")
        if not 0 < alpha < 1:
            raise CalibrationError(f"alpha is a probability between 0 and 1, got {alpha!r}")
        if not 1 <= window <= horizon < math.inf:
            raise CalibrationError(f"window and horizon need 1 <= window <= horizon, got {window!r} and {horizon!r}")
        self.calibration = calibration
        self.window = int(window)
        self.alpha = float(alpha)
        self.horizon = int(horizon)
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget what was observed, and the alarm."""
        with self._lock:
            self.drifted = False
            self.n_observed = 0
            self.n_skipped = 0
            self._alarm_at: int | None = None
            self._recent: deque[tuple[float, float | None]] = deque(maxlen=self.window)
            self._start()

    def _start(self) -> None:
        self._n_this_horizon = 0
        self._on_win_rates = self._martingale(self.calibration.win_rates)
        embeddings = self.calibration.embeddings
        self._on_distances = None if embeddings is None else self._martingale(embeddings.distances)

    def _martingale(self, sample: NDArray[Any]) -> _RankMartingale:
        return _RankMartingale(sample, window=self.window, horizon=self.horizon, rng=self._rng)

    def observe(self, what: Decision | float, *, vector: ArrayLike | None = None) -> bool:
        """Take one decision or win rate in.

        Args:
            what: The `Decision` of a call, or its win rate.
            vector: The prompt's embedding, shape (d,), where it is at hand.

        Returns:
            Whether the alarm has been raised.

        Raises:
            DataError: No win rate, or an embedding of another width.
        """
        win_rate = what.win_rate if isinstance(what, Decision) else what
        if win_rate is None:
            with self._lock:
                self.n_skipped += 1
            return self.drifted
        try:
            win_rate = float(win_rate)
        except (TypeError, ValueError, OverflowError):
            win_rate = math.nan
        if not 0 <= win_rate <= 1:
            raise DataError(f"a win rate lies in [0, 1]; got {what!r}")
        distance = None
        summary: EmbeddingSummary | None = self.calibration.embeddings
        if vector is not None and summary is not None:
            distance = float(summary.distance(np.asarray(vector)[None, :])[0])
        with self._lock:
            return self._take(win_rate, distance)

    def _take(self, win_rate: float, distance: float | None) -> bool:
        if self._n_this_horizon == self.horizon:
            self._start()
        self._n_this_horizon += 1
        self.n_observed += 1
        self._recent.append((win_rate, distance))
        if self.drifted:  # nothing is left to find out, and the sample stays as it is
            return True
        parts = 1 if self._on_distances is None else 2
        needed = math.log(parts / self.alpha)
        alarm = self._on_win_rates.add(win_rate) >= needed
        if self._on_distances is not None and distance is not None:
            alarm = self._on_distances.add(distance) >= needed or alarm
        if alarm:
            self.drifted = True
            self._alarm_at = self.n_observed
        return alarm

    def report(self) -> DriftReport:
        """The alarm, and how the last `window` prompts compare.

        The p-values describe that window alone; read again and again, some will be small by chance. `drifted` is not
        made of them.

        Raises:
            MissingExtraError: scipy is not installed (extra `fit`).
        """
        with self._lock:
            recent, drifted, alarm_at, n = list(self._recent), self.drifted, self._alarm_at, self.n_observed
        known: dict[str, Any] = {
            "drifted": drifted,
            "alpha": self.alpha,
            "n_observed": n,
            "alarm_at": alarm_at,
            "horizon": self.horizon,
        }
        if not recent:
            return DriftReport(
                n_prompts=0,
                n_calibration=int(self.calibration.win_rates.size),
                win_rate_p_value=None,
                strong_share=None,
                target_share=self.calibration.realised_share,
                share_p_value=None,
                **known,
            )
        distances = [distance for _, distance in recent if distance is not None]
        window = compared(
            self.calibration,
            np.array([win_rate for win_rate, _ in recent]),
            np.array(distances) if distances else None,
            target_share=None,
            alpha=0.05,
            rng=None,
        )
        return DriftReport(**{**window.to_dict(), **known})
