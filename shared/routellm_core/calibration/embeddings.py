"""How far are prompts from those that were calibrated on? A small summary of their embeddings tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import CalibrationError, DataError

__all__ = ["EmbeddingSummary"]

_RANK = 32
_KEPT_DISTANCES = 2000
_FEWEST = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSummary:
    """Mean and main directions of embeddings, and how far embeddings of the same kind lie from them.

    The distance is Mahalanobis's with the covariance's `rank` largest directions kept and the rest shared out
    equally. Half of the sample makes mean and directions, the other half the distances to compare with, so that
    those are exchangeable with the distances of new prompts of the same kind.

    Attributes:
        mean: Shape (d,).
        directions: Orthonormal, shape (rank, d).
        deviations: Standard deviation along each direction, shape (rank,).
        rest: Standard deviation along each of the other d - rank directions.
        distances: Distances of the second half, ascending, at most 2,000.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    deviations: NDArray[np.float32]
    rest: float
    distances: NDArray[np.float32]

    @classmethod
    def fit(cls, vectors: ArrayLike, *, rank: int = _RANK, rng: np.random.Generator | None = None) -> EmbeddingSummary:
        """Summarise the embeddings of the calibration prompts.

        Args:
            vectors: Shape (n, d), at least 20 rows.
            rank: Directions kept, at most.
            rng: Splits the sample; default: seed 0.

        Raises:
            CalibrationError: Too few rows, no matrix, or a value that is not finite.
        """
        matrix = _matrix(vectors)
        if matrix.shape[0] < _FEWEST:
            raise CalibrationError(f"a summary of embeddings needs at least {_FEWEST} rows, got {matrix.shape[0]}")
        rng = np.random.default_rng(0) if rng is None else rng
        order = rng.permutation(matrix.shape[0])
        fitted, held = matrix[order[: order.size // 2]], matrix[order[order.size // 2 :]][:_KEPT_DISTANCES]
        mean = fitted.mean(axis=0)
        covariance = np.atleast_2d(np.cov(fitted, rowvar=False))
        variances, directions = np.linalg.eigh(covariance)  # ascending
        rank = min(rank, matrix.shape[1], fitted.shape[0] // 4)
        main, others = np.maximum(variances[::-1][:rank], 0), np.maximum(variances[::-1][rank:], 0)
        rest = float(others.mean()) if others.size else 0.0
        # a direction in which the sample does not vary at all must not divide by zero
        smallest = max(1e-6 * float(np.maximum(variances, 0).mean()), 1e-12)
        summary = cls(
            mean=mean.astype(np.float32),
            directions=np.ascontiguousarray(directions[:, ::-1][:, :rank].T, dtype=np.float32),
            deviations=np.sqrt(np.maximum(main, smallest)).astype(np.float32),
            rest=float(np.sqrt(max(rest, smallest))),
            distances=np.zeros(0, dtype=np.float32),
        )
        distances = np.sort(summary.distance(held)).astype(np.float32)
        return cls(**{**summary.__dict__, "distances": distances})

    def distance(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Distance of each embedding from the calibrated ones, shape (n,); about sqrt(d) for one of them.

        Raises:
            DataError: Another width, or a value that is not finite.
        """
        try:
            matrix = _matrix(vectors)
        except CalibrationError as error:
            raise DataError(str(error)) from error
        if matrix.shape[1] != self.mean.size:
            raise DataError(f"embeddings have width {matrix.shape[1]}, the calibrated ones {self.mean.size}")
        centred = matrix - self.mean
        along = centred @ self.directions.T.astype(np.float64)
        beside = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        distances: NDArray[np.float64] = np.sqrt(((along / self.deviations) ** 2).sum(axis=1) + beside / self.rest**2)
        return distances

    def limit(self, level: float = 0.99) -> float:
        """The distance that a share `level` of the held-out calibration prompts stays within."""
        return float(self.distances[min(int(np.ceil(level * self.distances.size)), self.distances.size) - 1])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is saved; `restore` reads it."""
        return {
            "mean": self.mean,
            "directions": self.directions,
            "deviations": self.deviations,
            "rest": np.array([self.rest], dtype=np.float64),
            "distances": self.distances,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]]) -> EmbeddingSummary:
        """The summary that had these tensors.

        Raises:
            DataError: They do not fit each other.
        """
        arrays = {name: np.array(tensors[name]) for name in ("mean", "directions", "deviations", "rest", "distances")}
        rank = arrays["deviations"].size
        fits = arrays["directions"].shape == (rank, arrays["mean"].size) and arrays["rest"].shape == (1,)
        positive = (arrays["deviations"] > 0).all() and (arrays["rest"] > 0).all() and arrays["distances"].size > 0
        if not fits or not positive or not all(np.isfinite(array).all() for array in arrays.values()):
            raise DataError("the saved summary of embeddings is damaged")
        rest = float(arrays.pop("rest")[0])
        return cls(rest=rest, **{**arrays, "distances": np.sort(arrays["distances"])})


def _matrix(vectors: ArrayLike) -> NDArray[np.float64]:
    try:
        matrix = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CalibrationError("embeddings must be a matrix of numbers") from error
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise CalibrationError(f"embeddings have shape (n, d), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise CalibrationError(f"embedding {int(np.argmin(np.isfinite(matrix).all(axis=1)))} is not finite")
    return matrix
