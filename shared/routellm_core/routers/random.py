"""The baseline: a coin with as many sides as there are numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder
from routellm_core.routers.base import Router

__all__ = ["RandomRouter"]


class RandomRouter(Router):
    """Win rates uniform on [0, 1), decided by the seed and the prompt alone.

    The same prompt gets the same win rate in any batch, any order and any process.

    Args:
        seed: Any integer; another seed gives independent win rates.
    """

    kind: ClassVar[str] = "random"
    is_quick = True

    def __init__(self, seed: int = 0, *, name: str | None = None, calibration: Calibration | None = None) -> None:
        uniform = Calibration.from_win_rates((np.arange(1000) + 0.5) / 1000, source="uniform by construction")
        super().__init__(name=name, calibration=calibration or uniform)
        self.seed = int(seed)

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        key = hashlib.blake2b(str(self.seed).encode()).digest()  # any integer, however long
        digests = b"".join(
            hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
            for prompt in prompts
        )
        bits = np.frombuffer(digests, dtype="<u8") >> np.uint64(11)
        win_rates: NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53  # 53 bits: exact in a double
        return win_rates

    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed}

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> RandomRouter:
        return cls(seed=settings["seed"])
