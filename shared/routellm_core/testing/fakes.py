"""A router that does what a test tells it, and remembers what it was asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.routers.base import Router

__all__ = ["ScriptedRouter"]


class ScriptedRouter(Router):
    """Win rates from a function of the prompt, or one for all.

    Args:
        score: The win rate, or a function from a prompt to it. Values outside [0, 1] are passed on,
            so that callers can test what happens then.
        error: Raised by every call instead.
        delay_s: Seconds every call takes.
        is_quick: Whether async callers may score inline.

    Attributes:
        calls: The prompts of every call, in order.
    """

    kind: ClassVar[str] = "scripted"

    def __init__(
        self,
        score: float | Callable[[str], float] = 0.5,
        *,
        error: Exception | None = None,
        delay_s: float = 0.0,
        is_quick: bool = True,
    ) -> None:
        super().__init__(calibration=Calibration.from_win_rates((np.arange(100) + 0.5) / 100))
        self.score = score
        self.error = error
        self.delay_s = delay_s
        self.is_quick = is_quick
        self.calls: list[list[str]] = []

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        self.calls.append(list(prompts))
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return np.array([self.score(p) if callable(self.score) else self.score for p in prompts], dtype=np.float64)
