"""What the trainers of the paper's four routers take: cleaned battles, tiers, the pair, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from routellm_core.data import Battles, LabelledPrompts, Ratings, Step, Tiers, labels_for_sides
from routellm_core.data.duplicates import NearDuplicates, group_near_duplicates
from routellm_core.data.names import find_model
from routellm_core.data.prepare import clean, prepare
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["LabelSides", "TrainingMaterial"]

LabelSides: TypeAlias = Literal["tiers", "pair", "none"]

_STRONG, _WEAK = "augmented: strong", "augmented: weak"  # stand for the two sides, whatever models gave the labels


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingMaterial:
    """Everything a router is trained on, and how it came to be.

    Attributes:
        battles: Cleaned battles. Those of the augmentation are between two models that stand for the two sides.
        ratings: Of the models, by Elo.
        tiers: Of the rated models.
        strong: The model that routers are saved with as the strong one.
        weak: The same for the weak one.
        steps: What was dropped on the way, and why.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.1 (preference data and its augmentation).
    """

    battles: Battles = field(repr=False)
    ratings: Ratings = field(repr=False)
    tiers: Tiers = field(repr=False)
    strong: str
    weak: str
    steps: tuple[Step, ...] = field(default=(), repr=False)

    @classmethod
    def from_battles(
        cls,
        battles: Battles,
        *,
        augmented: Battles | None = None,
        strong: str | None = None,
        weak: str | None = None,
        n_tiers: int | None = None,
        anchor: str | None = None,
        min_characters: int = 16,
        exclude_models: Sequence[str] = (),
        near_duplicates: NearDuplicates = "group",
        evaluation_prompts: Sequence[str] | None = None,
        encoder: Encoder | None = None,
    ) -> TrainingMaterial:
        """Clean, rate and group battles, and find the pair among the models.

        Args:
            battles: As they were read.
            augmented: Labels in which model_a is the strong side of each, see `read_battles(sides=True)`. Whatever
                their models are called, they train the pair that the router is saved with.
            strong: A usual spelling; by default the median model of the top tier, or the stronger of only two.
            weak: A usual spelling; by default the median model of the third tier, or the weaker of only two.
            n_tiers: Number of tiers; None makes 10, or as many as there are rated models.
            anchor: Model whose rating is fixed; llama-2-70b-chat by default.
            min_characters: Shorter prompts are dropped.
            exclude_models: Their battles are dropped.
            near_duplicates: What becomes of near-duplicate prompts; grouped, no split separates them.
            evaluation_prompts: Prompts that overlap these are dropped, in the augmentation too.
            encoder: Finds overlap by cosine as well.

        Raises:
            DataError: Too few models or battles are left, or two models of the augmentation change sides.
            UnknownKindError: The pair is not among the models.
            ConfigurationError: Both sides of the pair are one model, or fewer than three tiers and no pair.
        """
        if augmented is not None:
            _check_sides(augmented)
        prepared = prepare(
            battles,
            min_characters=min_characters,
            exclude_models=exclude_models,
            near_duplicates=near_duplicates,
            evaluation_prompts=evaluation_prompts,
            encoder=encoder,
            tiers=n_tiers,
            anchor=anchor,
        )
        chosen = _pair(prepared.tiers, prepared.battles.models, strong, weak)
        together, steps = None, prepared.steps
        if augmented is not None:
            cleaned, more = clean(
                augmented,
                min_characters=min_characters,
                near_duplicates="ignore",
                evaluation_prompts=evaluation_prompts,
                encoder=encoder,
            )
            together = Battles.concatenated([prepared.battles, _renamed(cleaned, _STRONG, _WEAK)])
            steps += tuple(replace(step, name=f"augmentation, {step.name}") for step in more)
            if near_duplicates != "ignore":  # between the two as well
                together, step = group_near_duplicates(together)
                steps += (replace(step, name="near-duplicates, both together"),)
        return cls(
            battles=prepared.battles if together is None else together,
            ratings=prepared.ratings,
            tiers=prepared.tiers,
            steps=steps,
            **chosen,
        )

    def battles_of_models(self) -> Battles:
        """All battles, the augmentation's between the pair."""
        pair = {_STRONG: self.strong, _WEAK: self.weak}
        names = [pair.get(model, model) for model in self.battles.models]
        models = tuple(dict.fromkeys(names))
        number = np.array([models.index(name) for name in names])
        battles = self.battles
        return replace(battles, models=models, model_a=number[battles.model_a], model_b=number[battles.model_b])

    def labels(self, *, over: LabelSides | None = None) -> LabelledPrompts:
        """Labels of prompts: strong side against weak side, with the augmentation.

        Args:
            over: Which battles between named models count: "tiers", those of the top two tiers against the
                third (as the paper has it); "pair", those between the tiers of the pair; "none", only the augmentation.
                None is "tiers", or "pair" where there are no three tiers.

        Raises:
            DataError: There is no battle between the sides.
            ConfigurationError: "pair" with both models in one tier, or fewer than three tiers.
        """
        strong, weak = self._sides(over or ("tiers" if len(self.tiers) >= 3 else "pair"))
        return labels_for_sides(
            self.battles,
            [model in strong for model in self.battles.models],
            [model in weak for model in self.battles.models],
        )

    def _sides(self, over: LabelSides) -> tuple[set[str], set[str]]:
        if over == "pair":
            strong, weak = self.tiers.tier_of(self.strong), self.tiers.tier_of(self.weak)
            if strong == weak:
                raise ConfigurationError(
                    f"{self.strong!r} and {self.weak!r} stand in one tier, so no battle is between sides"
                )
            return {*self.tiers.models_of(strong), _STRONG}, {*self.tiers.models_of(weak), _WEAK}
        if over == "tiers":
            return {*self.tiers.strong_models(), _STRONG}, {*self.tiers.weak_models(), _WEAK}
        return {_STRONG}, {_WEAK}


def _pair(tiers: Tiers, models: Sequence[str], strong: str | None, weak: str | None) -> dict[str, str]:
    named = {side: find_model(name, models) for side, name in (("strong", strong), ("weak", weak)) if name is not None}
    if len(named) < 2:
        default = tiers.models if len(tiers.models) == 2 else tiers.default_pair()
        named = {"strong": default[0], "weak": default[1]} | named
    if named["strong"] == named["weak"]:
        raise ConfigurationError(f"strong and weak are the same model, {named['strong']!r}")
    return named


def _check_sides(augmented: Battles) -> None:
    met = set(zip(augmented.model_a.tolist(), augmented.model_b.tolist(), strict=True))
    for a, b in sorted(met):
        if (b, a) in met:
            strong, weak = augmented.models[a], augmented.models[b]
            raise DataError(
                f"in the augmentation {strong!r} is the strong side against {weak!r} in some rows, the weak one in "
                "others; turn either round, scores too"
            )


def _renamed(battles: Battles, strong: str, weak: str) -> Battles:
    """The same verdicts between one strong and one weak model."""
    n = len(battles)
    return replace(
        battles,
        models=(strong, weak),
        model_a=np.zeros(n, dtype=np.int64),
        model_b=np.ones(n, dtype=np.int64),
    )
