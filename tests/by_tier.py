"""A router for tests that knows nothing but its calls' metadata, and a verifier that knows nothing at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.testing import ScriptedRouter
from routellm_core.verifiers import Verifier

_WIN_RATES = {"paid": 0.9, "free": 0.1}


class ByTier(ScriptedRouter):
    """Win rate .9 for the tier "paid", .1 for "free", .3 for any other and none; its second column says nothing.

    Attributes:
        given: The metadata of every call, None where there was none.
    """

    kind = "by-tier"
    metadata_columns = ("tier", "topic")
    models = ("large", "small")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given: list[Any] = []

    def win_rate(
        self, prompts: Sequence[str], *, metadata: Mapping[str, Sequence[Any]] | None = None
    ) -> NDArray[np.float64]:
        super().win_rate(prompts)
        self.given.append(None if metadata is None else {column: list(values) for column, values in metadata.items()})
        tiers = (metadata or {}).get("tier", [None] * len(prompts))
        return np.array([_WIN_RATES.get(tier, 0.3) for tier in tiers])

    def model_scores(self, prompts: Sequence[str], **metadata: Any) -> NDArray[np.float64]:
        strong = self.win_rate(prompts, **metadata)
        return np.stack([strong, 1.0 - strong], axis=1)


class Never(Verifier):
    """Keeps every answer."""

    kind = "never"

    def _score(self, answers: list[Any], prompts: list[str | None]) -> NDArray[np.float64]:
        return np.zeros(len(answers))
