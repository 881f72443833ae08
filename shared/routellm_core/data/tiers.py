"""Models of similar rating, taken as one: what makes sparse battles usable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.data.elo import Ratings
from routellm_core.data.names import find_model
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["TIERS", "Tiers", "make_tiers"]

TIERS = 10
"""How many the paper makes (section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Tiers:
    """Models by strength, the strongest tier first, and the strongest model first in each.

    Attributes:
        tiers: Names of the models of each, shape (k,), none empty.
        ratings: Rating of each model, in the same order.
    """

    tiers: tuple[tuple[str, ...], ...]
    ratings: tuple[tuple[float, ...], ...]

    def __len__(self) -> int:
        return len(self.tiers)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {model: number for number, tier in enumerate(self.tiers) for model in tier}

    @property
    def models(self) -> tuple[str, ...]:
        """All models, strongest first."""
        return tuple(model for tier in self.tiers for model in tier)

    @property
    def variance(self) -> float:
        """What the tiers minimise: the sum of the variances of the ratings within each, in points squared."""
        return float(sum(np.var(ratings) for ratings in self.ratings))

    def tier_of(self, model: str) -> int:
        """The model's tier, 0 for the strongest; found by its usual spellings.

        Raises:
            UnknownKindError: It is in no tier.
        """
        return self._number[find_model(model, self.models)]

    def models_of(self, tier: int) -> tuple[str, ...]:
        """The models of one tier, strongest first; 0 is the strongest tier."""
        return self.tiers[tier]

    def index(self, models: Iterable[str]) -> NDArray[np.int64]:
        """Tier of each model by its exact name, -1 for those in none; shape (len(models),)."""
        return np.array([self._number.get(model, -1) for model in models], dtype=np.int64)

    def strong_models(self) -> tuple[str, ...]:
        """The models of the two strongest tiers (paper, section 4.1).

        Raises:
            ConfigurationError: Fewer than three tiers.
        """
        self._check_three()
        return self.tiers[0] + self.tiers[1]

    def weak_models(self) -> tuple[str, ...]:
        """The models of the third tier (paper, section 4.1).

        Raises:
            ConfigurationError: Fewer than three tiers.
        """
        self._check_three()
        return self.tiers[2]

    def default_pair(self) -> tuple[str, str]:
        """A typical strong and a typical weak model: the medians of the first and the third tier.

        Of two in the middle it is the stronger one.

        Raises:
            ConfigurationError: Fewer than three tiers.
        """
        self._check_three()
        return _median(self.tiers[0]), _median(self.tiers[2])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON that `restore` reads."""
        return {"tiers": [list(tier) for tier in self.tiers], "ratings": [list(each) for each in self.ratings]}

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> Tiers:
        """The tiers that `to_dict` described.

        Raises:
            ConfigurationError: Not such a description.
        """
        try:
            tiers = tuple(tuple(str(model) for model in tier) for tier in settings["tiers"])
            ratings = tuple(tuple(float(rating) for rating in each) for each in settings["ratings"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"not a description of tiers: {type(error).__name__}: {error}") from None
        if not tiers or not all(tiers) or [len(tier) for tier in tiers] != [len(each) for each in ratings]:
            raise ConfigurationError(
                "not a description of tiers: an empty one, or other numbers of ratings than models"
            )
        restored = cls(tiers=tiers, ratings=ratings)
        if len(restored._number) != len(restored.models):
            raise ConfigurationError("not a description of tiers: a model stands in two")
        return restored

    def _check_three(self) -> None:
        if len(self) < 3:
            raise ConfigurationError(
                f"strong are the top two tiers and weak is the third, but there are {len(self)}; make three or more, "
                "or name a pair of models"
            )


def make_tiers(ratings: Ratings | Mapping[str, float], k: int = TIERS) -> Tiers:
    """The k contiguous groups of models with the least sum of within-group variances.

    Optimal, by dynamic programming over the sorted ratings, in O(k N^2).

    Args:
        ratings: Rating by model, at least k.
        k: Number of tiers, at least 1.

    Raises:
        ConfigurationError: `k` is not a positive integer.
        DataError: Fewer models than tiers, or a rating that is not finite.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.1 (tiers).
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigurationError(f"the number of tiers is a positive integer, got {k!r}")
    of = ratings.to_dict() if isinstance(ratings, Ratings) else dict(ratings)
    if len(of) < k:
        raise DataError(f"{len(of)} rated models cannot make {k} tiers; ask for {len(of)} at most, or rate more models")
    for model, rating in of.items():
        if not np.isfinite(rating):
            raise DataError(f"the rating of model {model!r} is {rating!r}; leave it out or rate it")
    order = sorted(of, key=lambda model: (-of[model], model))
    values = np.array([of[model] for model in order], dtype=np.float64)
    ends = _best_ends(_variances(values), k)
    slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return Tiers(
        tiers=tuple(tuple(order[each]) for each in slices),
        ratings=tuple(tuple(values[each].tolist()) for each in slices),
    )


def _variances(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of values[i:j] at (i, j), infinite where that is empty; shape (N + 1, N + 1).

    Built up one value at a time (Welford 1962): differences of running sums of squares would cancel.
    """
    n = values.size
    variances = np.full((n + 1, n + 1), np.inf)
    mean, squares = np.zeros(n), np.zeros(n)  # of the windows of `length` values from each start
    for length in range(1, n + 1):
        starts = np.arange(n - length + 1)
        new = values[starts + length - 1]
        off = new - mean[: starts.size]
        mean = mean[: starts.size] + off / length
        squares = squares[: starts.size] + off * (new - mean)
        variances[starts, starts + length] = squares / length
    return variances


def _best_ends(cost: NDArray[np.float64], k: int) -> list[int]:
    """Ends of the k slices of 0..N with the least total of cost[start, end]."""
    n = len(cost) - 1
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    came_from = np.zeros((k, n + 1), dtype=np.int64)
    for tier in range(k):
        totals = best[:, None] + cost  # (start, end)
        came_from[tier] = totals.argmin(axis=0)
        best = totals.min(axis=0)
    ends = [n]
    for tier in range(k - 1, 0, -1):
        ends.append(int(came_from[tier, ends[-1]]))
    return ends[::-1]


def _median(models: Sequence[str]) -> str:
    return models[(len(models) - 1) // 2]
