"""Routing by a learned difficulty of the prompt: what many models' scores say, not one pair's verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.base import Router
from routellm_core.routers.linear import sigmoid

__all__ = ["DifficultyRouter"]


class DifficultyRouter(Router):
    """difficulty(q) = weights . e_q + bias; win_rate = sigmoid(slope * difficulty + intercept).

    The difficulty is fitted so that P(model m answers q well) = sigmoid(ability_m - difficulty(q))
    over many models and sources (item response theory, the Rasch model with explained items); it
    transfers to pairs and sources that were not in the training data, where labels of one pair do not.
    The slope and intercept make it a calibrated probability for the pair it is saved with.

    Args:
        encoder: Gives e_q; of width E.
        weights: Shape (E,).
        bias: Added to the product.
        slope: Of the calibration, positive: harder prompts need the strong model more.
        intercept: Of the calibration.
        abilities: Ability of every model seen in training, on the difficulty's scale (logits).
        calibration: Win rates of a sample of prompts.

    Raises:
        ConfigurationError: A shape that does not fit the encoder, a value that is not finite, or a
            slope that is not positive.

    Source: Rasch 1960; Fischer 1973 (linear logistic test model).
    """

    kind: ClassVar[str] = "difficulty"
    encoder: Encoder

    def __init__(
        self,
        *,
        encoder: Encoder,
        weights: NDArray[Any],
        bias: float = 0.0,
        slope: float = 1.0,
        intercept: float = 0.0,
        abilities: Mapping[str, float] | None = None,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(name=name, calibration=calibration)
        self.encoder = encoder
        self.is_quick = encoder.is_quick
        self.weights = np.asarray(weights, dtype=np.float32)
        self.bias, self.slope, self.intercept = float(bias), float(slope), float(intercept)
        self.abilities = dict(abilities or {})
        self._weights = self.weights.astype(np.float64)  # the product is taken in double precision
        if self.weights.shape != (encoder.dim,):
            raise ConfigurationError(
                f"weights have shape {self.weights.shape}, but encoder {encoder.name!r} gives "
                f"vectors of width {encoder.dim}"
            )
        numbers = [self.bias, self.slope, self.intercept, *self.abilities.values()]
        if not np.isfinite(self.weights).all() or not np.isfinite(numbers).all():
            raise ConfigurationError("weights, bias, slope, intercept and abilities must be finite")
        if self.slope <= 0:
            raise ConfigurationError(f"slope must be positive, got {self.slope}: harder prompts need the strong model")

    def difficulty(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Difficulty of each prompt in logits, shape (len(prompts),); higher is harder.

        Raises:
            DataError: An element is not a str.
            EncoderError: The encoder failed.
        """
        difficulties: NDArray[np.float64] = self.encoder.encode(prompts) @ self._weights + self.bias
        return difficulties

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        return sigmoid(self.slope * self.difficulty(prompts) + self.intercept)

    def settings(self) -> dict[str, Any]:
        return {"bias": self.bias, "slope": self.slope, "intercept": self.intercept, "abilities": self.abilities}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"weights": self.weights}

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> DifficultyRouter:
        if encoder is None:
            raise RouterFormatError("a router of kind 'difficulty' was saved without its encoder")
        return cls(
            encoder=encoder,
            weights=tensors["weights"],
            bias=settings["bias"],
            slope=settings["slope"],
            intercept=settings["intercept"],
            abilities=settings["abilities"],
        )
