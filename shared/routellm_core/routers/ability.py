"""How able a model is, on the scale of the prompts' difficulty; and what follows where that is only predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError
from routellm_core.routers.linear import sigmoid

__all__ = ["DEVIATION", "Ability", "ability_from_scores", "difficulty_nodes", "right_rate"]

Floats = NDArray[np.float64]

DEVIATION = 1.75
"""Standard deviation, in logits, of a prompt's difficulty about the predicted one.

By maximum marginal likelihood on the default router's training data with difficulties predicted by fits that had not
seen the prompt's source: 1.72 to 1.79, with an offset of -.1 to -.2 and a slope of 1.2, which are left out. It moves
the level of win rates, not their order.
"""

# Gauss-Hermite quadrature for a standard normal; 21 nodes are within 2e-6 of the integral at this deviation
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

_PRIOR_DEVIATION = 2.0  # of abilities, in logits, as where the known ones were fitted (training.rasch)
_LEAST = 10  # scores
_AT_ONCE = 4096  # prompts, so that memory stays bounded
_MAX_STEPS = 200
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Ability:
    """A model's ability, estimated from scores of its answers; `float(ability)` is the value.

    Attributes:
        value: In logits, on the scale of the router's difficulties.
        standard_error: Of the value, in logits.
        n_scores: How many scores it was estimated from.
    """

    value: float
    standard_error: float
    n_scores: int

    def __float__(self) -> float:
        return self.value


def difficulty_nodes(difficulty: Floats, deviation: float = DEVIATION) -> tuple[Floats, Floats]:
    """Difficulties that each prompt may have, shape (n, K), and how likely each is, shape (K,), which sums to 1."""
    return difficulty[:, np.newaxis] + deviation * _NODES, _WEIGHTS


def right_rate(ability: ArrayLike, difficulty: Floats) -> Floats:
    """Chance of a good answer by each model: sigmoid(ability - d) over d ~ N(difficulty, DEVIATION^2).

    Args:
        ability: In logits, shape (M,).
        difficulty: Predicted, in logits, shape (n,).

    Returns:
        Shape (n, M).
    """
    abilities = np.asarray(ability, dtype=np.float64)
    rates = np.zeros((difficulty.size, abilities.size))
    for start in range(0, difficulty.size, _AT_ONCE):
        lead = abilities - difficulty[start : start + _AT_ONCE, np.newaxis]
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            rates[start : start + _AT_ONCE] += weight * sigmoid(lead - DEVIATION * node)
    return rates


def ability_from_scores(difficulty: Floats, scores: ArrayLike) -> Ability:
    """The most probable ability under a normal prior (mean 0, standard deviation 2 logits).

    Args:
        difficulty: Predicted, in logits, of at least ten prompts, shape (n,).
        scores: Of the model's answers, 0 (wrong) to 1 (right), shape (n,); between them, that share of a success.

    Raises:
        DataError: Fewer than ten scores, or some that are missing, no numbers, outside 0..1 or of another length.
    """
    try:
        right = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("scores are numbers from 0 (wrong) to 1 (right), one a prompt") from error
    if right.shape != difficulty.shape:
        raise DataError(f"scores have shape {right.shape}, but there are {difficulty.size} prompts")
    if right.size < _LEAST:
        raise DataError(f"{right.size} scores are too few to place a model: {_LEAST} are the least, 20 to 50 do well")
    if not ((right >= 0) & (right <= 1)).all():  # False for NaN too
        raise DataError("scores are numbers from 0 (wrong) to 1 (right); these hold others, bring them to that scale")
    ability = 0.0
    # log P is concave in the ability, so that scoring steps, held to one logit, find the only maximum
    for _ in range(_MAX_STEPS):
        slope, information = _slope_and_information(ability, difficulty, right)
        move = float(np.clip(slope / information, -1.0, 1.0))
        ability += move
        if abs(move) < _TOLERANCE:
            break
    _, information = _slope_and_information(ability, difficulty, right)
    return Ability(value=ability, standard_error=information**-0.5, n_scores=right.size)


def _slope_and_information(ability: float, difficulty: Floats, right: Floats) -> tuple[float, float]:
    """First derivative of log P, and the expected negative second."""
    possible, weights = difficulty_nodes(difficulty)
    each = sigmoid(ability - possible)
    rate, change = each @ weights, (each * (1 - each)) @ weights
    variance = np.maximum(rate * (1 - rate), np.finfo(np.float64).tiny)  # hundreds of logits away it is zero
    precision = _PRIOR_DEVIATION**-2
    slope = float((change * (right - rate) / variance).sum()) - precision * ability
    return slope, float((change**2 / variance).sum()) + precision
