"""A sum of linear Gaussian processes over blocks of features: how much each block says is learned from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need

__all__ = ["Amplitudes", "Blocks", "fit_amplitudes", "predict", "solve"]

Floats = NDArray[np.float64]

_AMPLITUDE_ROWS = 600  # labels that the amplitudes are fitted on: more hardly move them, and cost the third power
_EXACT_ROWS = 3000  # above, the weights are solved for iteratively
_LOG_AMPLITUDE = (-3.0, 1.0)  # mean and deviation of the prior, relative to the variance of the labels
_LOG_NOISE = (-0.1, 0.5)
_BOUNDS = (-12.0, 3.0)
_NOISE_BOUNDS = (-4.0, 1.0)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Features in blocks; within a block every feature counts alike, between blocks not.

    Attributes:
        matrices: Each dense or scipy-sparse of shape (n, d_b), its rows about of unit length.
    """

    matrices: Sequence[Any]

    def take(self, rows: NDArray[np.int64]) -> Blocks:
        """Some of the rows."""
        return Blocks([matrix[rows] for matrix in self.matrices])

    def kernels(self, other: Blocks) -> list[Floats]:
        """Inner products of the rows with another's, one matrix a block."""
        return [_dense(a @ b.T) for a, b in zip(self.matrices, other.matrices, strict=True)]

    @property
    def n(self) -> int:
        return int(self.matrices[0].shape[0])


@dataclass(frozen=True, eq=False)
class Amplitudes:
    """Variance that each block explains, and the noise's, both relative to the variance of the labels.

    Attributes:
        blocks: Shape (b,).
        noise: Above 0.
    """

    blocks: Floats
    noise: float


def fit_amplitudes(
    blocks: Blocks, labels: Floats, *, rng: np.random.Generator, start: Amplitudes | None = None, steps: int = 25
) -> Amplitudes:
    """Maximise the marginal likelihood, with a prior under which every block says a little.

    Args:
        blocks: Features of the labelled prompts.
        labels: Shape (n, k); each column centred.
        rng: Draws the rows where there are more than are needed.
        start: Where to begin.
        steps: Iterations at most.

    Source: Rasmussen and Williams 2006, equations 5.8 and 5.9.
    """
    linalg, optimize = need("scipy.linalg", extra="fit", why="fit_router"), need("scipy.optimize", extra="fit", why="")
    if blocks.n > _AMPLITUDE_ROWS:
        rows = np.sort(rng.choice(blocks.n, _AMPLITUDE_ROWS, replace=False))
        blocks, labels = blocks.take(rows), labels[rows]
        labels = labels - labels.mean(axis=0)
    variance = float((labels**2).mean())
    if not variance > 0.0:  # labels that are all the same say nothing of what explains them
        n_blocks = len(blocks.matrices)
        return start or Amplitudes(np.full(n_blocks, np.exp(_LOG_AMPLITUDE[0])), float(np.exp(_LOG_NOISE[0])))
    labels = labels / np.sqrt(variance)
    kernels = blocks.kernels(blocks)
    n, k = labels.shape
    mean = np.array([_LOG_AMPLITUDE[0]] * len(kernels) + [_LOG_NOISE[0]])
    deviation = np.array([_LOG_AMPLITUDE[1]] * len(kernels) + [_LOG_NOISE[1]])
    identity = np.eye(n)

    def loss(logs: Floats) -> tuple[float, Floats]:
        sizes = np.exp(logs)
        covariance = _sum(kernels, sizes[:-1]) + sizes[-1] * identity
        factor = linalg.cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        inverse = linalg.cho_solve(factor, identity, check_finite=False)
        solved = inverse @ labels
        # one likelihood a column, averaged: columns of one table are not so many independent labels
        value = 0.5 * float((labels * solved).sum()) / k + float(np.log(np.diag(factor[0])).sum())
        outer = solved @ solved.T / k - inverse
        slopes = [float((outer * kernel).sum()) for kernel in kernels] + [float(np.trace(outer))]
        away = (logs - mean) / deviation
        return value + 0.5 * float(away @ away), -0.5 * sizes * np.array(slopes) + away / deviation

    first = mean if start is None else np.log([*start.blocks, start.noise])
    found = optimize.minimize(
        loss,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(kernels) + [_NOISE_BOUNDS],
        options={"maxiter": steps},
    )
    sizes = np.exp(found.x)
    return Amplitudes(sizes[:-1], float(sizes[-1]))


def solve(blocks: Blocks, labels: Floats, amplitudes: Amplitudes) -> list[Floats]:
    """Posterior mean of the weights, shape (d_b, k) for each block.

    Args:
        blocks: Features of the labelled prompts.
        labels: Shape (n, k); each column centred.
        amplitudes: As fitted.
    """
    if blocks.n <= _EXACT_ROWS:
        linalg = need("scipy.linalg", extra="fit", why="fit_router")
        covariance = _sum(blocks.kernels(blocks), amplitudes.blocks)
        covariance[np.diag_indices_from(covariance)] += amplitudes.noise
        dual = linalg.cho_solve(linalg.cho_factor(covariance, lower=True, overwrite_a=True), labels)
        weights: list[Floats] = [
            size * _dense(m.T @ dual) for size, m in zip(amplitudes.blocks, blocks.matrices, strict=True)
        ]
        return weights
    return _solve_iteratively(blocks, labels, amplitudes)


def _solve_iteratively(blocks: Blocks, labels: Floats, amplitudes: Amplitudes) -> list[Floats]:
    """The same by conjugate gradients on the features, scaled so that the penalty is the noise for all of them."""
    sparse = need("scipy.sparse.linalg", extra="fit", why="fit_router")
    scales = np.sqrt(amplitudes.blocks)
    widths = [int(matrix.shape[1]) for matrix in blocks.matrices]
    ends = np.cumsum(widths)[:-1]

    def forward(w: Floats) -> Floats:
        parts = np.split(w, ends)
        out: Floats = np.sum([s * (m @ p) for s, m, p in zip(scales, blocks.matrices, parts, strict=True)], axis=0)
        return out

    def backward(u: Floats) -> Floats:
        return np.concatenate([s * (m.T @ u) for s, m in zip(scales, blocks.matrices, strict=True)])

    operator = sparse.LinearOperator((blocks.n, sum(widths)), matvec=forward, rmatvec=backward, dtype=np.float64)
    damp = float(np.sqrt(amplitudes.noise))
    columns = [sparse.lsqr(operator, column, damp=damp, atol=1e-6, btol=1e-6, iter_lim=100)[0] for column in labels.T]
    parts = np.split(np.stack(columns, axis=1), ends)
    return [scale * part for scale, part in zip(scales, parts, strict=True)]


def predict(blocks: Blocks, weights: Sequence[Floats]) -> Floats:
    """Shape (n, k)."""
    total: Floats = np.sum([_dense(m @ w) for m, w in zip(blocks.matrices, weights, strict=True)], axis=0)
    return total


def _sum(kernels: Sequence[Floats], sizes: Floats) -> Floats:
    total: Floats = sizes[0] * kernels[0]
    for kernel, size in zip(kernels[1:], sizes[1:], strict=True):
        total += size * kernel
    return total


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)
