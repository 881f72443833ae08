"""Routing by a learned difficulty of the prompt: what many models' scores say, not one pair's verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration import Calibration
from routellm_core.data.names import find_model
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.ability import Ability, ability_from_scores, right_rate
from routellm_core.routers.base import pair_name
from routellm_core.routers.by_difficulty import ByDifficulty
from routellm_core.routers.linear import sigmoid
from routellm_core.routers.pair import DifficultyPairRouter, pair_win_rate

__all__ = ["DifficultyRouter"]


class DifficultyRouter(ByDifficulty):
    """difficulty(q) = weights . e_q + bias; win_rate = sigmoid(slope * difficulty + intercept).

    The difficulty is fitted so that P(model m answers q well) = sigmoid(ability_m - difficulty(q))
    over many models and sources (item response theory, the Rasch model with explained items); it
    transfers to pairs and sources that were not in the training data, where labels of one pair do not.
    The slope and intercept make it a calibrated probability for the pair it is saved with, or one
    whose models are about as able; `for_pair` asks about two other models.

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
        super().__init__(encoder=encoder, weights=weights, bias=bias, name=name, calibration=calibration)
        self.slope, self.intercept = float(slope), float(intercept)
        self.abilities = dict(abilities or {})
        if not np.isfinite([self.slope, self.intercept, *self.abilities.values()]).all():
            raise ConfigurationError("slope, intercept and abilities must be finite")
        if self.slope <= 0:
            raise ConfigurationError(f"slope must be positive, got {self.slope}: harder prompts need the strong model")

    def _win_rates(self, difficulty: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(self.slope * difficulty + self.intercept)

    # -- other models
    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models whose abilities are known, in the order of `model_scores`."""
        return tuple(self.abilities)

    def model_scores(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Chance that each known model's answer is good.

        The order of the models is the same for every prompt, by ability; what differs is by how much.

        Returns:
            Shape (len(prompts), M), columns in the order of `models`, each in [0, 1].

        Raises:
            DataError: An element is not a str.
            EncoderError: The encoder failed.
        """
        texts = checked_texts(prompts, what="prompt")
        if not texts:
            return np.zeros((0, len(self.abilities)))
        return right_rate(list(self.abilities.values()), self.difficulty(texts))

    def ability_from_scores(self, prompts: Sequence[str], scores: ArrayLike) -> Ability:
        """How able a model is on prompts like these, from scores of its answers to them; no labels of a pair.

        Twenty to fifty scores do. They also say how hard this kind of prompt is as a whole, which the router itself
        knows least: two abilities from one's own prompts are worth more than two of `abilities`.

        Args:
            prompts: At least ten, drawn as the prompts to come will be.
            scores: Of the model's answers, 0 (wrong) to 1 (right), shape (len(prompts),).

        Raises:
            DataError: Fewer than ten, or scores that are missing, no numbers, outside 0..1 or of another length.
            EncoderError: The encoder failed.
        """
        return ability_from_scores(self.difficulty(checked_texts(prompts, what="prompt")), scores)

    def with_model(self, name: str, ability: Ability | float) -> DifficultyRouter:
        """The router with one more model, last of `models`; win rates and calibration stay.

        Args:
            name: The new model.
            ability: From `ability_from_scores`, or in logits.

        Raises:
            ConfigurationError: The router has that model already, or the ability is no finite number.
        """
        if name in self.abilities:
            raise ConfigurationError(f"the router has a model {name!r} already")
        return DifficultyRouter(
            encoder=self.encoder,
            weights=self.weights,
            bias=self.bias,
            slope=self.slope,
            intercept=self.intercept,
            abilities={**self.abilities, name: self._ability(ability)},
            name=self.name,
            calibration=self.calibration,
        )

    def for_pair(
        self, strong: str | Ability | float, weak: str | Ability | float, *, name: str | None = None
    ) -> DifficultyPairRouter:
        """A router for two other models, with this one's encoder and difficulties.

        It is calibrated on the same sample of prompts as this one. Its win rates rise with difficulty up to the
        middle between both abilities and fall beyond: it is for pairs that fail at many prompts (together right at
        fewer than half), where the hardest ones gain nothing. Where both models solve most prompts it is this
        router's order again, in between rather a little worse.

        A known model's ability comes from whichever sources scored it, mostly one family of them, so that two known
        models need not be comparable; two abilities from scores on one's own prompts are.

        Args:
            strong: One of `models`, any spelling of it; else its ability, from `ability_from_scores` or in logits.
            weak: Likewise.
            name: What records call it. Default: this router's name and the pair, "default (gpt-4 over llama-3-8b)",
                with its ability where a model has no name.

        Raises:
            UnknownKindError: A model it does not know; the message lists the closest.
            ConfigurationError: Both are the same model, or an ability is no finite number.

        Example:
            >>> from routellm_core import load_router
            >>> router = load_router("default").for_pair("gpt-4-1106-preview", "Mixtral-8x7B-Instruct-v0.1")
            >>> round(router.strong_ability, 2), round(router.weak_ability, 2)
            (1.97, -0.5)
            >>> router.name
            'default (gpt-4-1106-preview over mixtral-8x7b-instruct-v0.1)'
        """
        names = [find_model(model, self.models) if isinstance(model, str) else None for model in (strong, weak)]
        if names[0] is not None and names[0] == names[1]:
            raise ConfigurationError(f"strong and weak are the same model, {names[0]!r}")
        strong_ability, weak_ability = self._ability(strong), self._ability(weak)
        strong_name, weak_name = (
            f"{ability + 0.0:.4g}" if known is None else known  # no -0
            for known, ability in zip(names, (strong_ability, weak_ability), strict=True)
        )
        return DifficultyPairRouter(
            encoder=self.encoder,
            weights=self.weights,
            bias=self.bias,
            strong_ability=strong_ability,
            weak_ability=weak_ability,
            name=name or pair_name(self.name, strong_name, weak_name),
            calibration=self._calibration_for(strong_ability, weak_ability),
        )

    def _ability(self, model: str | Ability | float) -> float:
        if isinstance(model, str):
            return self.abilities[find_model(model, self.models)]
        try:
            ability = float(model)
        except (TypeError, ValueError, OverflowError):
            ability = np.nan
        if isinstance(model, bool) or not np.isfinite(ability):
            raise ConfigurationError(f"a model is given by its name or its ability, a finite number, not {model!r}")
        return ability

    def _calibration_for(self, strong: float, weak: float) -> Calibration | None:
        """This router's sample of prompts, scored for the pair: its win rates hold the difficulties."""
        own = self.calibration
        if own is None:
            return None
        inside = np.clip(own.win_rates, 1e-12, 1 - 1e-12)
        difficulty = (np.log(inside) - np.log1p(-inside) - self.intercept) / self.slope
        sample = Calibration.from_win_rates(
            pair_win_rate(difficulty, strong, weak), strong_share=own.strong_share, source=own.source
        )
        return replace(sample, embeddings=own.embeddings)

    # -- saving
    def settings(self) -> dict[str, Any]:
        return {"bias": self.bias, "slope": self.slope, "intercept": self.intercept, "abilities": self.abilities}

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
