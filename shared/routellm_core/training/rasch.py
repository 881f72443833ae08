"""The Rasch model: a score is explained by the ability of the model and the difficulty of the prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routellm_core.routers.linear import sigmoid

__all__ = ["fit_rasch"]

_PRIOR_SD = 2.0  # of abilities and difficulties, in logits: keeps a prompt that all models solve finite
_RASCH_TOLERANCE = 1e-5
_RASCH_MAX_STEPS = 1000


def fit_rasch(
    prompt_index: NDArray[np.intp], model_index: NDArray[np.intp], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Difficulties d and abilities a such that scores are about sigmoid(a[model] - d[prompt]).

    The most probable values under normal priors (mean 0, standard deviation 2 logits) on both, by
    Newton steps that alternate between them. Scores between 0 and 1 count as that share of a success.

    Args:
        prompt_index: Row's prompt, 0..Q-1, shape (n,).
        model_index: Row's model, 0..M-1, shape (n,).
        scores: In [0, 1], shape (n,).

    Returns:
        Difficulties of shape (Q,) and abilities of shape (M,), both in logits.
    """
    d, a = np.zeros(int(prompt_index.max()) + 1), np.zeros(int(model_index.max()) + 1)
    precision = 1.0 / _PRIOR_SD**2

    def step(index: NDArray[np.intp], values: NDArray[np.float64], sign: float) -> float:
        p = sigmoid(a[model_index] - d[prompt_index])
        slope = sign * np.bincount(index, scores - p, values.size) - precision * values
        curvature = np.bincount(index, p * (1 - p), values.size) + precision
        move = np.clip(slope / curvature, -1.0, 1.0)
        values += move
        return float(np.abs(move).max())

    for _ in range(_RASCH_MAX_STEPS):
        moved = max(step(prompt_index, d, -1.0), step(model_index, a, 1.0))
        if moved < _RASCH_TOLERANCE:
            break
    return d, a
