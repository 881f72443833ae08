"""Soft clusters of prompts: what a prompt is about, where nobody says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.errors import ConfigurationError

__all__ = ["Topics", "unit_rows"]

_PREFIX = "topics."


class Topics:
    """To which clusters of prompts an embedding belongs, in several clusterings side by side.

    Within a clustering its memberships are a softmax over minus the squared distances from the centroids, of the
    embedding less its mean and of length one, so that they never jump.

    Args:
        mean: Of the embedding, shape (E,).
        centroids: Shape (K, E), times twice the sharpness of their clustering.
        offsets: Minus the sharpness times each centroid's squared length, shape (K,).
        sizes: Clusters in each clustering, K together; empty for none.

    Attributes:
        n_clusters: K.
        n_embedding: E.

    Raises:
        ConfigurationError: Shapes that do not fit, or values that are not finite.
    """

    def __init__(
        self, *, mean: NDArray[Any], centroids: NDArray[Any], offsets: NDArray[Any], sizes: NDArray[Any]
    ) -> None:
        self.arrays: dict[str, NDArray[Any]] = {
            "mean": np.asarray(mean, dtype=np.float32),
            "centroids": np.asarray(centroids, dtype=np.float32),
            "offsets": np.asarray(offsets, dtype=np.float64),
            "sizes": np.asarray(sizes, dtype=np.int64),
        }
        self._sizes = self.arrays["sizes"]
        self.n_clusters, self.n_embedding = int(self._sizes.sum()), int(self.arrays["mean"].size)
        self._check()
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._centroids = self.arrays["centroids"].T.astype(np.float64)

    @classmethod
    def none(cls) -> Topics:
        """Without any cluster."""
        return cls(mean=np.zeros(0), centroids=np.zeros((0, 0)), offsets=np.zeros(0), sizes=np.zeros(0))

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Topics:
        """What `tensors` gave; none where there are no such tensors."""
        found: dict[str, Any] = {n.removeprefix(_PREFIX): a for n, a in tensors.items() if n.startswith(_PREFIX)}
        return cls(**found) if found else cls.none()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is saved, by name."""
        return {_PREFIX + name: array for name, array in self.arrays.items()} if self.n_clusters else {}

    def _check(self) -> None:
        e, k = self.n_embedding, self.n_clusters
        expected = {"mean": (e,), "centroids": (k, e), "offsets": (k,), "sizes": (self._sizes.size,)}
        for name, shape in expected.items():
            if self.arrays[name].shape != shape:
                raise ConfigurationError(f"topics: {name} has shape {self.arrays[name].shape}, expected {shape}")
            if not np.isfinite(self.arrays[name]).all():
                raise ConfigurationError(f"topics: {name} holds values that are not finite")
        if (self._sizes < 1).any():
            raise ConfigurationError("topics: a clustering without any cluster")

    def memberships(self, embedding: NDArray[np.floating]) -> NDArray[np.float64]:
        """The softmax of each clustering, divided by the root of how many clusterings there are.

        Args:
            embedding: Shape (n, E).

        Returns:
            Shape (n, K), rows of length one at most.
        """
        if not self.n_clusters:
            return np.zeros((len(embedding), 0))
        unit = unit_rows(embedding.astype(np.float64) - self.arrays["mean"])
        closeness: NDArray[np.float64] = unit @ self._centroids + self.arrays["offsets"]
        closeness -= np.repeat(np.maximum.reduceat(closeness, self._starts, axis=1), self._sizes, axis=1)
        shares: NDArray[np.float64] = np.exp(closeness)
        shares /= np.repeat(np.add.reduceat(shares, self._starts, axis=1), self._sizes, axis=1)
        shares /= np.sqrt(len(self._sizes))
        return shares


def unit_rows(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row scaled to length one; one of zeros stays."""
    lengths = np.sqrt((matrix * matrix).sum(axis=1))
    unit: NDArray[np.float64] = matrix / np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]
    return unit
