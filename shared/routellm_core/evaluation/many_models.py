"""More than two models: quality over cost, and its average over the costs that single models span (AIQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError
from routellm_core.evaluation.resampling import Interval, beats, draws, interval
from routellm_core.evaluation.sets import EvaluationSet

__all__ = ["QualityOverCost", "aiq", "quality_over_cost", "upper_hull"]

Floats: TypeAlias = NDArray[np.float64]

_MOST_POINTS = 400  # of a curve; more trade-offs are thinned out evenly


@dataclass(frozen=True, kw_only=True)
class QualityOverCost:
    """How well choosing argmax of predicted quality - lambda * cost does, over all lambda.

    Attributes:
        aiq: Average quality over the costs that single models span, on the non-decreasing convex hull.
        aiq_interval: Of the bootstrap over prompts.
        aiq_of_single_models: The same of single models and random mixes of them; a router must beat it.
        aiq_of_oracle: The same of a router that knows every score.
        gain_interval: Of `aiq` minus that of single models, over the same resamples.
        p_value: Of "no better than single models and their mixes", one-sided.
        cost_range: Mean cost in US dollars a prompt of the cheapest and the dearest model.
        costs: Mean cost at each point, shape (m,).
        qualities: Mean score at each point, shape (m,).
    """

    aiq: float
    aiq_interval: Interval | None
    aiq_of_single_models: float
    aiq_of_oracle: float
    gain_interval: Interval | None
    p_value: float | None
    cost_range: tuple[float, float]
    costs: tuple[float, ...]
    qualities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "aiq": self.aiq,
            "aiq_interval": None if self.aiq_interval is None else list(self.aiq_interval),
            "aiq_of_single_models": self.aiq_of_single_models,
            "aiq_of_oracle": self.aiq_of_oracle,
            "gain_interval": None if self.gain_interval is None else list(self.gain_interval),
            "p_value": self.p_value,
            "cost_range": list(self.cost_range),
            "costs": list(self.costs),
            "qualities": list(self.qualities),
        }


def quality_over_cost(
    model_scores: ArrayLike,
    data: EvaluationSet,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> QualityOverCost:
    """Measure a router over N models.

    What a model costs on the whole is known when a prompt comes, what it will cost on this prompt is not: the
    choice weighs mean costs, the bill has the real ones.

    Args:
        model_scores: Predicted quality of each model, shape (n, N), columns in the order of `data.models`.
        data: With costs.
        n_resamples: Bootstrap samples of the prompts.
        seed: Of the bootstrap.
        level: Coverage of the intervals.

    Raises:
        DataError: Another shape, values that are not finite, no costs, or all models cost the same.

    Source: Hu et al. 2024, arXiv:2403.12031 (RouterBench), section 3.
    """
    predicted = np.asarray(model_scores, dtype=np.float64)
    if predicted.shape != data.scores.shape:
        raise DataError(f"{data.name}: model scores of shape {predicted.shape}, expected {data.scores.shape}")
    if not np.isfinite(predicted).all():
        raise DataError(f"{data.name}: the model scores of prompt {_bad_row(predicted)} are not finite")
    if data.costs_usd is None:
        raise DataError(f"{data.name}: no costs; quality over cost needs a column 'MODEL|total_cost' for every model")
    costs_usd = data.costs_usd
    means = costs_usd.mean(axis=0)
    if not means.max() > means.min():
        raise DataError(f"{data.name}: every model costs {means.max():.4g} a prompt, so there is nothing to trade")
    quality, cost = _choices(predicted, data)
    true_quality, true_cost = _choices(data.scores, data)

    def areas(weights: Floats) -> Floats:
        """AIQ of the router and of single models, shape (rows, 2)."""
        q, c = weights @ quality, weights @ cost
        single_q, single_c = weights @ data.scores, weights @ costs_usd
        found = np.empty((len(weights), 2))
        for row in range(len(weights)):
            bounds = (float(single_c[row].min()), float(single_c[row].max()))
            found[row] = aiq(c[row], q[row], bounds), aiq(single_c[row], single_q[row], bounds)
        return found

    n = len(data)
    own, single = areas(np.full((1, n), 1 / n))[0]
    cost_range = (float(means.min()), float(means.max()))
    drawn = np.concatenate([areas(counts / n) for counts in draws(n, n_resamples, np.random.default_rng(seed))])
    return QualityOverCost(
        aiq=float(own),
        aiq_interval=interval(drawn[:, 0], level),
        aiq_of_single_models=float(single),
        aiq_of_oracle=aiq(true_cost.mean(axis=0), true_quality.mean(axis=0), cost_range),
        gain_interval=interval(drawn[:, 0] - drawn[:, 1], level),
        p_value=beats(drawn[:, 0] - drawn[:, 1]),
        cost_range=cost_range,
        costs=tuple(cost.mean(axis=0).tolist()),
        qualities=tuple(quality.mean(axis=0).tolist()),
    )


def aiq(costs: ArrayLike, qualities: ArrayLike, cost_range: tuple[float, float]) -> float:
    """Average quality over a range of costs, on the non-decreasing convex hull of the points.

    Below the cheapest point the quality counts as that point's, above the dearest as the best one's.

    Args:
        costs: Shape (m,).
        qualities: Shape (m,).
        cost_range: Lowest and highest cost, the first below the second.
    """
    x, y = upper_hull(costs, qualities)
    low, high = cost_range
    at = np.unique(np.concatenate([[low, high], x[(x > low) & (x < high)]]))
    value = np.interp(at, x, y)
    return float(np.sum(np.diff(at) * (value[1:] + value[:-1]) / 2) / (high - low))


def upper_hull(costs: ArrayLike, qualities: ArrayLike) -> tuple[Floats, Floats]:
    """The points that no mix of others beats at their cost, cheapest first, with quality rising.

    Args:
        costs: Shape (m,).
        qualities: Shape (m,).

    Raises:
        DataError: No points.
    """
    x, y = np.asarray(costs, dtype=np.float64).ravel(), np.asarray(qualities, dtype=np.float64).ravel()
    if x.size == 0 or x.size != y.size:
        raise DataError(f"{x.size} costs and {y.size} qualities make no hull")
    order = np.lexsort((-y, x))
    hull: list[tuple[float, float]] = []
    for a, b in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if hull and b <= hull[-1][1]:
            continue  # dearer and no better
        while len(hull) >= 2 and _below(hull[-2], hull[-1], (a, b)):
            hull.pop()
        hull.append((a, b))
    points = np.array(hull)
    return points[:, 0], points[:, 1]


def _below(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether the middle point lies on or below the line between the others."""
    return (middle[1] - first[1]) * (last[0] - first[0]) <= (last[1] - first[1]) * (middle[0] - first[0])


def _choices(predicted: Floats, data: EvaluationSet) -> tuple[Floats, Floats]:
    """Score and cost of the chosen answer to each prompt at each trade-off, shapes (n, m)."""
    assert data.costs_usd is not None
    price = data.costs_usd.mean(axis=0)
    dear, cheap = np.nonzero(price[:, None] > price[None, :])
    turns = (predicted[:, dear] - predicted[:, cheap]) / (price[dear] - price[cheap])
    turns = np.unique(turns[turns > 0])
    if turns.size >= _MOST_POINTS:
        turns = turns[np.linspace(0, turns.size - 1, _MOST_POINTS).astype(np.int64)]
    # between two turns nothing changes; beyond the last one the cheapest model takes all
    tradeoffs = np.concatenate([[0.0], (turns[1:] + turns[:-1]) / 2, [2 * turns[-1] + 1 if turns.size else 1.0]])
    by_price = np.argsort(price, kind="stable")  # of equals the cheaper
    row = np.arange(len(predicted))
    quality, cost = (np.empty((len(predicted), tradeoffs.size)) for _ in range(2))
    for column, tradeoff in enumerate(tradeoffs):
        model = by_price[np.argmax((predicted - tradeoff * price)[:, by_price], axis=1)]
        quality[:, column] = data.scores[row, model]
        cost[:, column] = data.costs_usd[row, model]
    return quality, cost


def _bad_row(array: Floats) -> int:
    return int(np.argmin(np.isfinite(array).all(axis=1)))
