"""A model that joins a trained matrix factorisation later, from a few dozen battles."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.data import Battles
from routellm_core.data.battles import TIE
from routellm_core.encoders.vectors import vectors_of
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.routers.linear import sigmoid
from routellm_core.routers.mf import MatrixFactorizationRouter
from routellm_core.training.mf import decided_battles

__all__ = ["add_model"]


def add_model(
    router: MatrixFactorizationRouter,
    battles: Battles,
    name: str,
    *,
    vectors: ArrayLike | None = None,
    prior_strength: float = 1.0,
) -> MatrixFactorizationRouter:
    """The router with one more model, learned from a few dozen battles; everything else stays as it is.

    Only the new model's vector is fitted, to the battles' loss plus a Gaussian prior from the models that the router
    has, the mean and covariance of their scores. With no more than a few battles the new model is thus taken for a
    usual one, and moves where the known ones differ most. Pair and calibration stay.

    Args:
        router: Trained already.
        battles: Those in which `name` took part and somebody won are used, the others left out. Its opponents
            must be models of the router.
        name: The new model.
        vectors: The encoder's vectors of `battles.prompts`, where they exist already, shape (Q, dim).
        prior_strength: How much the prior counts, against 1 for each battle's log-likelihood; above 0.

    Raises:
        ConfigurationError: The router has a model of that name already, or the prior has no strength.
        DataError: No battle with `name` that somebody won.
        UnknownKindError: An opponent that the router does not know.
    """
    if not prior_strength > 0:
        raise ConfigurationError(f"prior_strength is a number above 0, got {prior_strength!r}")
    if name in router.models:
        raise ConfigurationError(f"the router has a model {name!r} already")
    number = battles.models.index(name) if name in battles.models else -1
    own = ((battles.model_a == number) | (battles.model_b == number)) & (battles.outcome != TIE)
    if not own.any():
        raise DataError(f"no battle in which {name!r} won or lost, so nothing can be learned of it")
    e = vectors_of(battles.prompts, router.encoder, vectors)
    part = decided_battles(battles, own)
    won = part.winner == number
    opponent = np.where(won, part.loser, part.winner)
    rows = {model: row for row, model in enumerate(router.models)}
    unknown = sorted({battles.models[i] for i in opponent} - rows.keys())
    if unknown:
        raise UnknownKindError(
            f"{name!r} battled {', '.join(unknown)}, unknown to the router; it knows: {', '.join(router.models)}"
        )
    units = router.model_vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    reading = router.classifier.astype(np.float64)[:, None] * router.projection
    z = e[part.prompt] @ reading.T  # delta(M, q) = unit_M . z
    theirs = (units[[rows[battles.models[i]] for i in opponent]] * z).sum(axis=1)
    sign = np.where(won, 1.0, -1.0)
    return router.with_model(name, _fitted_unit(units, reading, sign[:, None] * z, sign * theirs, prior_strength))


def _fitted_unit(
    units: NDArray[np.float64],
    reading: NDArray[np.float64],
    z: NDArray[np.float64],
    offset: NDArray[np.float64],
    strength: float,
) -> NDArray[np.float64]:
    """The unit vector u that maximises sum log sigmoid(z u - offset) under a Gaussian prior from `units`.

    The prior is on what a vector does, u @ reading @ e, not on the vector: most directions do next to nothing,
    and the rest of the length 1 that every vector has can lie there at no cost. Newton steps in the plane that
    touches the sphere at u, each shortened until it improves.
    """
    dim = units.shape[1]
    mean = units.mean(axis=0)
    size, axes = np.linalg.eigh(reading @ reading.T)  # ascending
    effect = axes * np.sqrt(np.maximum(size, 0))
    done = (units - mean) @ effect
    covariance = done.T @ done / len(units)
    # a few models do not fill all directions, so that each gets a little of the mean variance
    covariance += (0.1 * np.trace(covariance) / dim + 1e-12) * np.eye(dim)
    precision = strength * effect @ np.linalg.solve(covariance, effect.T)

    def objective(u: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, offset - z @ u).sum() + (u - mean) @ precision @ (u - mean) / 2)

    u = mean + np.sqrt(max(0.0, 1 - mean @ mean)) * axes[:, 0]
    u /= np.linalg.norm(u)
    value = objective(u)
    for _ in range(100):
        lost = sigmoid(offset - z @ u)
        gradient = precision @ (u - mean) - z.T @ lost
        gradient -= u * (u @ gradient)
        curvature = precision + (z.T * (lost * (1 - lost))) @ z
        touching = np.eye(dim) - np.outer(u, u)
        step = np.linalg.solve(touching @ curvature @ touching + np.outer(u, u), -gradient)
        for _ in range(30):
            tried = (u + step) / np.linalg.norm(u + step)
            if objective(tried) < value:
                break
            step /= 2
        else:
            break
        moved, u, value = float(np.abs(tried - u).max()), tried, objective(tried)
        if moved < 1e-9:
            break
    fitted: NDArray[np.float64] = u
    return fitted
