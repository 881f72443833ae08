"""What routers by difficulty share: a linear score of the prompt's vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError
from routellm_core.routers.base import Router

__all__ = ["ByDifficulty"]


class ByDifficulty(Router):
    """difficulty(q) = weights . e_q + bias, in logits; the win rate is a function of it.

    Args:
        encoder: Gives e_q; of width E.
        weights: Shape (E,).
        bias: Added to the product.
        name: What records call the router.
        calibration: Win rates of a sample of prompts.

    Raises:
        ConfigurationError: A shape that does not fit the encoder, or a value that is not finite.
    """

    encoder: Encoder

    def __init__(
        self,
        *,
        encoder: Encoder,
        weights: NDArray[Any],
        bias: float,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(name=name, calibration=calibration)
        self.encoder = encoder
        self.is_quick = encoder.is_quick
        self.weights = np.asarray(weights, dtype=np.float32)
        self.bias = float(bias)
        self._weights = self.weights.astype(np.float64)  # the product is taken in double precision
        if self.weights.shape != (encoder.dim,):
            raise ConfigurationError(
                f"weights have shape {self.weights.shape}, but encoder {encoder.name!r} gives "
                f"vectors of width {encoder.dim}"
            )
        if not np.isfinite(self.weights).all() or not np.isfinite(self.bias):
            raise ConfigurationError("weights and bias must be finite")

    @abstractmethod
    def _win_rates(self, difficulty: NDArray[np.float64]) -> NDArray[np.float64]:
        """The win rate at each difficulty, shape (n,)."""

    def difficulty(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Difficulty of each prompt in logits, shape (len(prompts),); higher is harder.

        Raises:
            DataError: An element is not a str.
            EncoderError: The encoder failed.
        """
        return self._difficulty(self.encoder.encode(prompts))

    def _difficulty(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        difficulties: NDArray[np.float64] = vectors @ self._weights + self.bias
        return difficulties

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        return self._score_vectors(self.encoder.encode(prompts))

    def _score_vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._win_rates(self._difficulty(vectors))

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"weights": self.weights}
