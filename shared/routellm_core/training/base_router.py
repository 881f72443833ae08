"""The router that a fit begins with: its difficulty is what is known before any label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders import StackedEncoder, SurfaceEncoder
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError
from routellm_core.routers import Router, resolve_router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.routers.upstream import official

__all__ = ["base_with_difficulty", "stacked_on_surface"]

Floats = NDArray[np.float64]


def base_with_difficulty(base: Router | str | Path, of: str) -> DifficultyRouter:
    """The router, if it learned a difficulty.

    Args:
        base: A router, its name or its folder.
        of: What it is the base of, for the message.

    Raises:
        ConfigurationError: It learned none.
    """
    published = official(base) if isinstance(base, str) and not Path(base).is_dir() else None
    if published is not None:  # none of them did, so nothing is fetched and no encoder asked for
        raise _no_base(of, str(base), published.names[0])
    router = resolve_router(base)
    if not isinstance(router, DifficultyRouter):
        raise _no_base(of, router.name, router.kind)
    return router


def _no_base(of: str, name: str, kind: str) -> ConfigurationError:
    return ConfigurationError(
        f"the base of {of} is 'default', 'contextual' or a router of kind 'difficulty', which learned a difficulty; "
        f"{name!r} is of kind {kind!r}"
    )


def stacked_on_surface(base: DifficultyRouter) -> tuple[StackedEncoder, Floats, int]:
    """The base's encoder with all surface features behind it, the base's weights on that, the embedding's width.

    Raises:
        ConfigurationError: The base has no embedding.
    """
    parts = base.encoder.encoders if isinstance(base.encoder, StackedEncoder) else (base.encoder,)
    surface = SurfaceEncoder()
    kept: list[Encoder] = []
    over_kept: list[Floats] = []
    over_surface = np.zeros(surface.dim)
    start = 0
    for part in parts:
        own = base.weights[start : start + part.dim].astype(np.float64)
        start += part.dim
        if isinstance(part, SurfaceEncoder):
            for feature, weight in zip(part.features, own, strict=True):
                over_surface[surface.features.index(feature)] += weight
        else:
            kept.append(part)
            over_kept.append(own)
    if not kept:
        raise ConfigurationError(f"router {base.name!r} has no embedding to fit on")
    weights = np.concatenate([*over_kept, over_surface])
    return StackedEncoder([*kept, surface]), weights, sum(part.dim for part in kept)
