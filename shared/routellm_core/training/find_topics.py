"""Clusters of labelled prompts, found without their labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.encoders.topics import Topics, unit_rows

__all__ = ["find_topics"]

Floats = NDArray[np.float64]

_CLUSTERS = (8, 16, 32)
_STARTS = 3  # clusterings of each size: what one of them splits by chance, the others may not
_PROMPTS_A_CLUSTER = 4
_DIMENSIONS = 64  # clusters are looked for in these principal components
_SHARPNESS = 4.0  # over the median squared distance from the nearest centroid
_MOST_PROMPTS = 5000  # more hardly move a centroid


def find_topics(embedding: Floats, *, rng: np.random.Generator) -> Topics:
    """Several k-means clusterings of the prompts.

    Args:
        embedding: Shape (n, E), n from 20 on.
        rng: Draws the prompts where there are more than are needed, and where clusters start.
    """
    linalg, cluster = need("scipy.linalg", extra="fit", why="fit_router"), need("sklearn.cluster", extra="fit", why="")
    if len(embedding) > _MOST_PROMPTS:
        embedding = embedding[np.sort(rng.choice(len(embedding), _MOST_PROMPTS, replace=False))]
    mean = embedding.mean(axis=0)
    seen = unit_rows(embedding - mean)
    middle, width = seen.mean(axis=0), seen.shape[1]
    covariance = (seen - middle).T @ (seen - middle)
    _, axes = linalg.eigh(covariance, subset_by_index=[width - min(_DIMENSIONS, width), width - 1])
    components = (seen - middle) @ axes
    n_different = len(np.unique(components.round(6), axis=0))
    centroids, sharpness = [], []
    for size in _CLUSTERS:
        k = max(1, min(size, len(seen) // _PROMPTS_A_CLUSTER, n_different))
        for _ in range(_STARTS):
            found = cluster.KMeans(k, n_init=1, max_iter=30, random_state=int(rng.integers(2**31))).fit(components)
            nearest = found.transform(components).min(axis=1) ** 2
            sharpness.append(_SHARPNESS / max(float(np.median(nearest)), 1e-3))
            centroids.append(middle + found.cluster_centers_ @ axes.T)
    sizes = np.array([len(each) for each in centroids])
    sharp, places = np.repeat(sharpness, sizes), np.concatenate(centroids)
    return Topics(
        mean=mean,
        centroids=2.0 * sharp[:, None] * places,
        offsets=-sharp * (places**2).sum(axis=1),
        sizes=sizes,
    )
