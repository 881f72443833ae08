"""The threshold that sends a wanted share of prompts to the strong model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import CalibrationError, RouterFormatError

__all__ = ["ABOVE_ALL", "Calibration"]

ABOVE_ALL = math.nextafter(1.0, 2.0)
"""The threshold for a strong share of 0: no win rate reaches it, not even 1.0."""

SAVED_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A threshold, and the sample of win rates it was taken from, so that it can be asked again.

    Attributes:
        strong_share: The share that was asked for, 0..1.
        threshold: Prompts with `win_rate >= threshold` go to the strong model.
        realised_share: Share of the sample that does so; differs from `strong_share` where win rates tie.
        win_rates: The sample, ascending, shape (n,).
        source: Where the sample came from, in words.
    """

    strong_share: float
    threshold: float
    realised_share: float
    win_rates: NDArray[np.float64] = field(repr=False)
    source: str = ""

    @classmethod
    def from_win_rates(cls, win_rates: ArrayLike, *, strong_share: float = 0.5, source: str = "") -> Calibration:
        """Calibrate on a sample of win rates.

        The threshold lies midway between the last win rate that goes strong and the first that
        does not, so that the last digit of a float decides nothing. Equal win rates go together;
        of the two shares that are then possible the nearer one is taken, on equal distance the
        smaller (cheaper) one. A share of 1 gives threshold 0.0, a share of 0 gives `ABOVE_ALL`.

        Args:
            win_rates: At least one number in [0, 1].
            strong_share: Wanted share of strong calls, 0..1.
            source: Where the sample came from.

        Raises:
            CalibrationError: The sample is empty or holds something that is no probability, or the
                share is outside 0..1.
        """
        sample = np.sort(np.asarray(win_rates, dtype=np.float64).ravel())
        if sample.size == 0:
            raise CalibrationError("no win rates to calibrate on; score a sample of your prompts first")
        if not ((sample >= 0) & (sample <= 1)).all():  # False for NaN too
            raise CalibrationError("win rates must lie in [0, 1]; the sample holds others (or NaN)")
        sample.setflags(write=False)
        return cls._at(sample, strong_share, source)

    @classmethod
    def _at(cls, sample: NDArray[np.float64], strong_share: float, source: str) -> Calibration:
        if isinstance(strong_share, bool) or not isinstance(strong_share, Real) or not 0.0 <= strong_share <= 1.0:
            raise CalibrationError(f"strong_share is a fraction from 0 to 1, got {strong_share!r}")
        share = float(strong_share)
        threshold = _threshold(sample, share)
        realised = float(sample.size - np.searchsorted(sample, threshold, side="left")) / sample.size
        return cls(strong_share=share, threshold=threshold, realised_share=realised, win_rates=sample, source=source)

    def at(self, *, strong_share: float) -> Calibration:
        """The same sample asked for another share; nothing is scored again.

        Raises:
            CalibrationError: The share is outside 0..1.
        """
        return self._at(self.win_rates, strong_share, self.source)

    def cuts(self, n_routes: int) -> list[float]:
        """Ascending thresholds that give each of `n_routes` routes an equal share of the sample.

        Where win rates tie so much that two cuts meet, the route between them gets nothing.
        """
        return [self.at(strong_share=1 - step / n_routes).threshold for step in range(1, n_routes)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the record with the thresholds at shares .05 to .95, without the sample itself."""
        return {
            "strong_share": self.strong_share,
            "threshold": self.threshold,
            "realised_share": self.realised_share,
            "n_prompts": int(self.win_rates.size),
            "source": self.source,
            "thresholds": {f"{share:.2f}": self.at(strong_share=share).threshold for share in SAVED_SHARES},
        }

    @classmethod
    def restore(cls, record: Mapping[str, Any], win_rates: NDArray[np.float64]) -> Calibration:
        """The calibration that `to_dict` described, with its sample.

        Raises:
            RouterFormatError: The record lacks a field, or the sample cannot be calibrated on.
        """
        try:
            return cls.from_win_rates(win_rates, strong_share=record["strong_share"], source=record.get("source", ""))
        except (KeyError, TypeError, CalibrationError) as error:
            raise RouterFormatError(f"the saved calibration cannot be used: {error!r}") from error


def _threshold(ascending: NDArray[np.float64], share: float) -> float:
    n = ascending.size
    wanted = share * n
    distinct, first = np.unique(ascending, return_index=True)
    # a cut below distinct[i] sends n - first[i] prompts up; i == len(distinct) sends none
    sent = np.append(n - first, 0)
    distance = np.abs(sent - wanted)
    best = int(np.flatnonzero(distance == distance.min())[-1])  # on equal distance the fewest
    if best == 0:
        return 0.0
    if best == distinct.size:
        return ABOVE_ALL
    below, above = float(distinct[best - 1]), float(distinct[best])
    midway = (below + above) / 2
    return midway if midway > below else above  # neighbouring floats have nothing between them


def check_thresholds(thresholds: Sequence[float]) -> bool:
    """Whether these can be cuts: numbers in [0, 1] (or `ABOVE_ALL`), ascending."""
    values = [float(t) for t in thresholds]
    return all(0.0 <= v <= ABOVE_ALL for v in values) and values == sorted(values)
