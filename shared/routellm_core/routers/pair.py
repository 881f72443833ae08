"""Routing between two models whose abilities are known, by the prompt's difficulty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.ability import DEVIATION, difficulty_nodes
from routellm_core.routers.by_difficulty import ByDifficulty
from routellm_core.routers.linear import sigmoid

__all__ = ["DifficultyPairRouter", "pair_win_rate"]


class DifficultyPairRouter(ByDifficulty):
    """win_rate(q) = P(strong right, weak wrong) = sigmoid(a_strong - d) * sigmoid(d - a_weak), over d ~ N(d_q, s^2).

    d_q = weights . e_q + bias is the predicted difficulty, s how far a prompt's own lies about it. Given d the two
    models' answers are independent, as in the Rasch model. The win rate is highest where d_q is midway between the
    abilities: an easier prompt both solve, a harder one neither. By how much more often the strong model is right is
    this win rate times 1 - exp(a_weak - a_strong), the same for all prompts, so that both give one order; s changes
    the level, not the order. `DifficultyRouter.for_pair` makes one.

    Args:
        encoder: Gives e_q; of width E.
        weights: Shape (E,).
        bias: Added to the product.
        strong_ability: In logits, on the difficulty's scale.
        weak_ability: Likewise.
        deviation: s, in logits, from 0.
        calibration: Win rates of a sample of prompts.

    Raises:
        ConfigurationError: A shape that does not fit the encoder, a value that is not finite, or a negative deviation.

    Source: Rasch 1960; Bock and Aitkin 1981 (the integral over what is not known exactly).
    """

    kind: ClassVar[str] = "difficulty_pair"

    def __init__(
        self,
        *,
        encoder: Encoder,
        weights: NDArray[Any],
        bias: float = 0.0,
        strong_ability: float,
        weak_ability: float,
        deviation: float = DEVIATION,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(encoder=encoder, weights=weights, bias=bias, name=name, calibration=calibration)
        self.strong_ability, self.weak_ability = float(strong_ability), float(weak_ability)
        self.deviation = float(deviation)
        if not np.isfinite([self.strong_ability, self.weak_ability, self.deviation]).all():
            raise ConfigurationError("abilities and deviation must be finite")
        if self.deviation < 0:
            raise ConfigurationError(f"deviation is a standard deviation from 0, got {self.deviation}")

    def _win_rates(self, difficulty: NDArray[np.float64]) -> NDArray[np.float64]:
        return pair_win_rate(difficulty, self.strong_ability, self.weak_ability, self.deviation)

    def settings(self) -> dict[str, Any]:
        return {
            "bias": self.bias,
            "strong_ability": self.strong_ability,
            "weak_ability": self.weak_ability,
            "deviation": self.deviation,
        }

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> DifficultyPairRouter:
        if encoder is None:
            raise RouterFormatError("a router of kind 'difficulty_pair' was saved without its encoder")
        return cls(
            encoder=encoder,
            weights=tensors["weights"],
            bias=settings["bias"],
            strong_ability=settings["strong_ability"],
            weak_ability=settings["weak_ability"],
            deviation=settings["deviation"],
        )


def pair_win_rate(
    difficulty: NDArray[np.float64], strong: float, weak: float, deviation: float = DEVIATION
) -> NDArray[np.float64]:
    """Chance that a model of ability `strong` is right and one of ability `weak` is wrong; shape (n,).

    Args:
        difficulty: Predicted, in logits, shape (n,).
        strong: Ability, in logits.
        weak: Likewise.
        deviation: Of the difficulty about the predicted one, in logits.
    """
    possible, weights = difficulty_nodes(difficulty, deviation)
    win_rates: NDArray[np.float64] = (sigmoid(strong - possible) * sigmoid(possible - weak)) @ weights
    return np.minimum(win_rates, 1.0)  # the weights add up to 1 but for their last digit
