"""A model that joins a fitted router later, from a few dozen scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.encoders.base import checked_texts
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.routers.fitted import FittedRouter
from routellm_core.routers.metadata import Metadata
from routellm_core.training.score_column import score_column

__all__ = ["add_fitted_model"]

_LEAST = 10
_PENALTIES = np.logspace(-1, 4, 21)  # of the distance from the average model, in labels


def add_fitted_model(
    router: FittedRouter,
    prompts: Sequence[str],
    scores: ArrayLike,
    name: str,
    *,
    metadata: Metadata | None = None,
) -> FittedRouter:
    """The router with one more model, last of `models`; pair and calibration stay.

    The new model's quality is taken for a mixture of the known ones', plus a constant: their average where there are
    few labels, moving away from it as leave-one-out errors allow. `router.for_pair(name, ...)` then routes with it.

    Args:
        router: Fitted already.
        prompts: A few dozen; any, also ones the router was fitted on.
        scores: Quality of the new model's answers on the scale of the other scores, shape (n,).
        name: The new model.
        metadata: As in `fit_router`, if it was fitted with any.

    Raises:
        ConfigurationError: The router has a model of that name already, or it is no name.
        DataError: Fewer than ten prompts, or scores that are missing, no numbers or of another length.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a model's name is a str that is not empty, got {name!r}")
    if name in router.models:
        raise ConfigurationError(f"the router has a model {name!r} already")
    texts = checked_texts(prompts, what="prompt")
    if len(texts) < _LEAST:
        raise DataError(f"{len(texts)} scores are too few to place a model: {_LEAST} are the least")
    labels = score_column(scores, f"the scores of {name!r}", len(texts), "prompt")
    known = router.model_scores(texts, metadata=metadata)
    mixture = _mixture(known - known.mean(axis=0), labels - labels.mean())

    arrays = dict(router.arrays)
    for what, axis in (("weights", 0), ("ngram_weights", 1), ("topic_weights", 1), ("metadata_weights", 1)):
        own = mixture @ np.moveaxis(arrays[what].astype(np.float64), axis, 0)
        arrays[what] = np.concatenate([arrays[what], np.expand_dims(own, axis)], axis=axis)
    own_bias = labels.mean() - known.mean(axis=0) @ mixture + arrays["bias"] @ mixture
    arrays["bias"] = np.append(arrays["bias"], own_bias)
    quality = np.column_stack([known, labels.mean() + (known - known.mean(axis=0)) @ mixture])
    arrays["gap"], arrays["link"] = _pairs(quality, arrays["gap"], arrays["link"])
    return FittedRouter(
        encoder=router.encoder,
        models=(*router.models, name),
        strong=router.strong,
        weak=router.weak,
        metadata_values=router.metadata_values,
        topics=router.topics,
        blend=router.blend,
        name=router.name,
        calibration=router.calibration,
        **arrays,
    )


def _mixture(known: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the known models, shape (M,): ridge regression towards equal weights, the penalty by leave-one-out."""
    equal = np.full(known.shape[1], 1.0 / known.shape[1])
    rest = labels - known @ equal
    left, sizes, right = np.linalg.svd(known, full_matrices=False)
    if not (sizes**2).mean() > 0.0:  # to the known models all prompts are the same
        return equal
    share = len(labels)
    best, found = np.inf, equal
    for penalty in _PENALTIES * float((sizes**2).mean()) / share:
        shrunk = sizes**2 / (sizes**2 + penalty)
        fitted = left @ (shrunk * (left.T @ rest))
        leverage = (left**2 * shrunk).sum(axis=1) + 1.0 / share  # the constant takes one label, too
        error = float((((rest - fitted) / np.maximum(1.0 - leverage, 1e-6)) ** 2).sum())
        if error < best:
            best, found = error, equal + right.T @ (sizes / (sizes**2 + penalty) * (left.T @ rest))
    return found


def _pairs(
    quality: NDArray[np.float64], gap: NDArray[np.float64], link: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gap and link with a row and a column more; the links follow those of the known pairs with a similar gap."""
    m = quality.shape[1]
    wider_gap, wider_link = np.zeros((2, m, m)), np.zeros((2, m, m))
    wider_gap[:, :-1, :-1], wider_link[:, :-1, :-1] = gap, link
    off = ~np.eye(m - 1, dtype=bool)
    tilt = np.polyfit(gap[0][off], link[1][off], 1) if np.ptp(gap[0][off]) > 0 else np.array([0.0, link[1][off].mean()])
    for other in range(m - 1):
        for s, w in ((m - 1, other), (other, m - 1)):
            difference = quality[:, s] - quality[:, w]
            wider_gap[:, s, w] = difference.mean(), difference.std() or 1.0
            wider_link[:, s, w] = link[0][off].mean(), np.polyval(tilt, difference.mean())
    wider_gap[1, m - 1, m - 1] = 1.0
    return wider_gap, wider_link
