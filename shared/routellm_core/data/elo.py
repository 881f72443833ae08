"""Ratings of models from their battles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.data.battles import A_WINS, B_WINS, Battles
from routellm_core.data.names import find_model
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError

__all__ = ["ANCHOR", "ANCHOR_RATING", "Ratings", "fit_bradley_terry", "rate"]

ANCHOR, ANCHOR_RATING = "llama-2-70b-chat", 1082.0
"""The model whose rating is set where no other is named, and that rating (as in the published pipeline)."""
_POINTS = 400 / np.log(10)  # rating points for one natural-log unit of odds
_MEAN = 1000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Ratings:
    """Elo ratings of the models that can be rated together.

    Attributes:
        models: Strongest first, shape (N,).
        values: Rating of each: 400 points are odds of ten to one, shape (N,).
        unrated: The other models, each with the reason.
        anchor: The model whose rating was set; None when the ratings' mean was set to 1000 instead.
    """

    models: tuple[str, ...]
    values: NDArray[np.float64]
    unrated: Mapping[str, str] = field(default_factory=dict)
    anchor: str | None = None

    def __len__(self) -> int:
        return len(self.models)

    def to_dict(self) -> dict[str, float]:
        """Rating by model, strongest first."""
        return dict(zip(self.models, self.values.tolist(), strict=True))

    def of(self, model: str) -> float:
        """One model's rating, found by its usual spellings.

        Raises:
            UnknownKindError: It is not rated; says why where that is known.
        """
        if model in self.unrated:
            raise UnknownKindError(f"model {model!r} has no rating: {self.unrated[model]}")
        return float(self.values[self.models.index(find_model(model, self.models))])


def rate(battles: Battles, *, anchor: str | None = None, anchor_rating: float = ANCHOR_RATING) -> Ratings:
    """Maximum-likelihood Bradley-Terry ratings, a tie counting as half a win for each.

    Only models in the largest strongly connected component of "beat or tied" have finite ratings relative to
    each other (Hunter 2004, assumption 1); the rest are listed, not rated.

    Args:
        battles: Any.
        anchor: Model whose rating is set, found by its usual spellings; the others' follow. None: `ANCHOR` where
            that model is rated, else the mean of all is set to 1000.
        anchor_rating: What it is set to.

    Raises:
        DataError: No two models can be rated together.
        ConfigurationError: `anchor_rating` is not finite.
        UnknownKindError: `anchor` names a model that is not rated.
        MissingExtraError: scipy is not installed.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.1; D. Hunter 2004, doi:10.1214/aos/1079120141.
    """
    csgraph = need("scipy.sparse.csgraph", extra="fit", why="rating models")
    wins = _wins(battles)
    _, component = csgraph.connected_components(wins > 0, directed=True, connection="strong")
    # most models; of equally many, the most battles
    inside = np.zeros((component.max(initial=-1) + 1, 2))
    np.add.at(inside[:, 0], component, 1)
    same = component[battles.model_a] == component[battles.model_b]
    np.add.at(inside[:, 1], component[battles.model_a][same], 1)
    if not (inside[:, 0] >= 2).any():
        raise DataError(
            f"none of {len(battles.models)} models can be rated: that takes two at least, each of which beat or tied "
            "the other, if through others"
        )
    rated = component == max(range(len(inside)), key=lambda i: (inside[i, 0], inside[i, 1]))
    values = fit_bradley_terry(wins[np.ix_(rated, rated)]) * _POINTS + _MEAN
    models = [model for model, is_rated in zip(battles.models, rated, strict=True) if is_rated]
    name, shift = _shift(models, values, anchor, anchor_rating)
    order = np.lexsort((np.array(models), -values))
    return Ratings(
        models=tuple(models[i] for i in order),
        values=(values + shift)[order],
        unrated=_unrated(battles.models, wins, rated, csgraph),
        anchor=name,
    )


def fit_bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strengths t with P(i beats j) = 1 / (1 + exp(t_j - t_i)), of mean zero, by Newton's method.

    Args:
        wins: Wins of the row over the column, a tie half a win, shape (N, N); strongly connected.

    Returns:
        Natural-log units, shape (N,).

    Raises:
        DataError: No maximum was found, as when the matrix is not strongly connected.
    """
    games = wins + wins.T
    np.fill_diagonal(games, 0)
    won = wins.sum(axis=1) - np.diag(wins)
    strengths = np.zeros(len(wins))
    value = _log_likelihood(strengths, wins)
    for _ in range(100):
        p = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))  # P(row beats column)
        gradient = won - (games * p).sum(axis=1)
        if np.abs(gradient).max() <= 1e-10 * max(1.0, float(games.sum())):
            centred: NDArray[np.float64] = strengths - strengths.mean()
            return centred
        weights = games * p * (1 - p)
        hessian = np.diag(weights.sum(axis=1)) - weights
        # adding 1 everywhere fixes the free constant: the solution then sums to zero
        step = np.linalg.solve(hessian + hessian.trace() / len(wins) ** 2, gradient)
        for _ in range(60):
            moved = _log_likelihood(strengths + step, wins)
            if moved >= value - 1e-12 * abs(value):
                break
            step = step / 2
        strengths, value = strengths + step, moved
    raise DataError(f"the ratings of {len(wins)} models did not converge; is every one linked to every other by wins?")


def _log_likelihood(strengths: NDArray[np.float64], wins: NDArray[np.float64]) -> float:
    return -float((wins * np.logaddexp(0, strengths[None, :] - strengths[:, None])).sum())


def _wins(battles: Battles) -> NDArray[np.float64]:
    """Every battle twice: a win is two wins, a tie one each."""
    n = len(battles.models)
    wins = np.bincount(battles.model_a * n + battles.model_b, battles.outcome - float(B_WINS), n * n)
    wins += np.bincount(battles.model_b * n + battles.model_a, A_WINS - battles.outcome.astype(float), n * n)
    square: NDArray[np.float64] = wins.astype(np.float64).reshape(n, n)
    return square


def _shift(
    models: list[str], values: NDArray[np.float64], anchor: str | None, anchor_rating: float
) -> tuple[str | None, float]:
    if not np.isfinite(anchor_rating):
        raise ConfigurationError(f"the anchor's rating is {anchor_rating!r}; give a finite one")
    try:
        name = find_model(ANCHOR if anchor is None else anchor, models)
    except UnknownKindError as error:
        if anchor is None:
            return None, 0.0
        raise UnknownKindError(f"the anchor is not among the rated models: {error}") from None
    return name, anchor_rating - float(values[models.index(name)])


def _unrated(
    models: tuple[str, ...], wins: NDArray[np.float64], rated: NDArray[np.bool_], csgraph: Any
) -> dict[str, str]:
    _, linked = csgraph.connected_components(wins > 0, directed=True, connection="weak")
    reasons = {}
    for i in np.flatnonzero(~rated):
        if linked[i] != linked[np.argmax(rated)]:
            why = "no battles link it to the rated models"
        elif not wins[i].any():
            why = "it won and tied no battle"
        elif not wins[:, i].any():
            why = "it lost and tied no battle"
        else:
            why = "it has wins or losses against the rated models, if through others, but not both"
        reasons[models[i]] = why
    return reasons
