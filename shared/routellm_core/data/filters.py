"""Battles that are left out for what they are: too short a prompt, a model that should not count."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.data.battles import Battles
from routellm_core.data.names import find_model
from routellm_core.data.steps import Step
from routellm_core.errors import ConfigurationError

__all__ = ["MIN_CHARACTERS", "drop_models", "drop_short"]

MIN_CHARACTERS = 16
"""Shorter prompts ("hi", "test") say nothing about which model they need (as in the published pipeline)."""


def drop_short(battles: Battles, *, min_characters: int = MIN_CHARACTERS) -> tuple[Battles, Step]:
    """Leave out prompts shorter than this, not counting white space around them.

    Raises:
        ConfigurationError: A negative length.
    """
    if min_characters < 0:
        raise ConfigurationError(f"min_characters is 0 or more, got {min_characters!r}")
    short = np.fromiter((len(prompt.strip()) < min_characters for prompt in battles.prompts), dtype=bool)
    return without(battles, short[battles.prompt_index], "length", f"shorter than {min_characters} characters")


def drop_models(battles: Battles, models: Iterable[str]) -> tuple[Battles, Step]:
    """Leave out battles of these models, found by their usual spellings; such as an opponent without a name.

    Raises:
        UnknownKindError: No battle has such a model.
    """
    names = [find_model(name, battles.models) for name in models]
    number = {model: i for i, model in enumerate(battles.models)}
    reasons = np.full(len(battles), "", dtype=object)
    for name in names:
        for side in (battles.model_a, battles.model_b):
            reasons[side == number[name]] = f"with {name}"
    dropped = reasons != ""
    return without(battles, dropped, "models", reasons[dropped])


def without(
    battles: Battles,
    dropped: ArrayLike,
    name: str,
    reasons: str | NDArray[np.object_],
    *,
    changed: int = 0,
    note: str = "",
) -> tuple[Battles, Step]:
    """The battles but those in the mask, shape (n,), and the step that records it."""
    mask = np.asarray(dropped, dtype=bool)
    rows = np.flatnonzero(mask)
    why = (reasons,) * rows.size if isinstance(reasons, str) else tuple(map(str, reasons))
    step = Step(name=name, before=len(battles), rows=rows, reasons=why, changed=changed, note=note)
    return (battles.take(~mask) if rows.size else battles), step
