"""Which prompts to label: spread over what is asked, and where the router is least sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core._lazy import need
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["select_prompts"]

_CLUSTER_SIZE = 5  # labels a cluster
_ROUNDS = 20  # of k-means; the groups need not be perfect


def select_prompts(
    prompts: Sequence[str] | ArrayLike,
    win_rates: ArrayLike,
    n: int,
    *,
    rng: np.random.Generator,
    encoder: Encoder | None = None,
) -> NDArray[np.int64]:
    """Numbers of n prompts, spread over what is asked and where the router is least sure; ascending, shape (n,).

    k-means puts the prompts into n / 5 clusters; each gets its share of the n labels, and spends them on the prompts
    whose win rate lies nearest the median of all, where a router that sends half of them to the strong model is least
    sure. The labelled prompts are no random sample: train on them, but calibrate and evaluate on others.

    Measured on six sources (benchmarks/label_selection.py), routers trained on these labels were no better than ones
    trained on as many random ones, and on one source worse: draw at random unless your own data say otherwise.

    Args:
        prompts: Texts, with `encoder`; or vectors, shape (N, E).
        win_rates: Of a router one has already, such as the default one, shape (N,).
        n: How many to choose, 1..N.
        rng: Starts the clusters.
        encoder: Turns the texts into vectors; a router's own (`router.encoder`) will do.

    Raises:
        ConfigurationError: n is out of range, or texts without an encoder.
        DataError: Shapes differ or a value is not finite; names the row.
        MissingExtraError: scikit-learn is not installed (extra `fit`).
    """
    vectors = _vectors(prompts, encoder)
    rates = np.asarray(win_rates, dtype=np.float64)
    if rates.shape != vectors.shape[:1]:
        raise DataError(f"win rates have shape {rates.shape} for {vectors.shape[0]} prompts")
    for what, bad in (("vector", ~np.isfinite(vectors).all(axis=1)), ("win rate", ~np.isfinite(rates))):
        if bad.any():
            raise DataError(f"row {int(np.argmax(bad))}: the {what} is not finite")
    if isinstance(n, bool) or not 1 <= n <= rates.size:
        raise ConfigurationError(f"n must be between 1 and the {rates.size} prompts there are, got {n!r}")
    cluster = _clusters(_standardised(vectors), max(1, n // _CLUSTER_SIZE), rng)
    unsure_first = np.argsort(np.abs(rates - np.median(rates)), kind="stable")
    by_cluster = unsure_first[np.argsort(cluster[unsure_first], kind="stable")]
    sizes = np.bincount(cluster)
    place = np.arange(rates.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each prompt in its cluster
    return np.sort(by_cluster[place < np.repeat(_shares(sizes, n), sizes)])


def _vectors(prompts: Sequence[str] | ArrayLike, encoder: Encoder | None) -> NDArray[np.float64]:
    if encoder is not None:
        return encoder.encode(prompts).astype(np.float64)  # type: ignore[arg-type] # it checks what it is given
    vectors = np.asarray(prompts)
    if vectors.dtype.kind not in "fiu" or vectors.ndim != 2:
        raise ConfigurationError(
            f"prompts are texts with encoder=, or vectors of shape (N, E); got shape {vectors.shape} of {vectors.dtype}"
        )
    return vectors.astype(np.float64)


def _standardised(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every coordinate with deviation 1; constant ones 0. Columns of other units would rule the clusters else."""
    spread = vectors.std(axis=0)
    centred: NDArray[np.float64] = vectors - vectors.mean(axis=0)
    centred[:, spread <= 1e-12] = 0.0
    return centred / np.where(spread > 1e-12, spread, 1.0)


def _clusters(vectors: NDArray[np.float64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cluster of each row, 0..; none is empty, and equal rows may make them fewer than k."""
    if k == 1:
        return np.zeros(vectors.shape[0], dtype=np.int64)
    cluster = need("sklearn.cluster", extra="fit", why="choosing prompts by clusters")
    k = min(k, np.unique(vectors, axis=0).shape[0])
    fitted = cluster.KMeans(k, n_init=1, max_iter=_ROUNDS, random_state=int(rng.integers(2**31))).fit(vectors)
    _, labels = np.unique(fitted.labels_, return_inverse=True)
    return labels.ravel().astype(np.int64)


def _shares(sizes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Labels for each cluster, in proportion to its size, by largest remainder; sums to n."""
    total = int(sizes.sum())
    shares = sizes * n // total
    remainder = sizes * n % total
    shares[np.argsort(-remainder, kind="stable")[: n - int(shares.sum())]] += 1
    return shares
