"""From a number that orders prompts or answers to the chance that the strong model wins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_link"]

Floats = NDArray[np.float64]

_LEAST_SLOPE = 0.05  # a link never turns the order round, and never loses it


def fit_link(z: Floats, wins: NDArray[Any]) -> Floats:
    """Slope and intercept of P(win | z), the slope at least slightly positive; Newton, with half a label of doubt.

    Args:
        z: About of mean 0 and deviation 1, shape (n,).
        wins: Whether the strong model won, or the chance that it did, 0..1; shape (n,).

    Returns:
        Shape (2,).
    """
    target = (wins * len(z) + 0.5) / (len(z) + 1.0)
    slope, intercept = 0.0, float(np.log(target.mean() / (1 - target.mean())))
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-(slope * z + intercept)))
        v = p * (1 - p) + 1e-9
        residual = target - p
        hessian = np.array([[(v * z * z).sum() + 1e-3, (v * z).sum()], [(v * z).sum(), v.sum()]])
        step = np.linalg.solve(hessian, [(residual * z).sum() - 1e-3 * slope, residual.sum()])
        slope, intercept = slope + step[0], intercept + step[1]
        if np.abs(step).max() < 1e-9:
            break
    return np.array([max(slope, _LEAST_SLOPE), intercept])
