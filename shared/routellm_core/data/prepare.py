"""From raw battles to what routers are trained on: the whole pipeline in the right order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from routellm_core.data.battles import Battles
from routellm_core.data.duplicates import NearDuplicates, group_near_duplicates, merge_duplicates
from routellm_core.data.elo import Ratings, rate
from routellm_core.data.filters import MIN_CHARACTERS, drop_models, drop_short
from routellm_core.data.overlap import drop_overlap
from routellm_core.data.steps import Step
from routellm_core.data.tiers import TIERS, Tiers, make_tiers
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["Prepared", "clean", "prepare"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Clean battles with their models rated.

    Attributes:
        battles: What is left; battles of unrated models are among them.
        steps: What each step dropped and why, in order; `str(step)` is a line for people.
        ratings: Of the models of `battles`.
        tiers: Of the rated models.
    """

    battles: Battles = field(repr=False)
    steps: tuple[Step, ...]
    ratings: Ratings
    tiers: Tiers


def clean(
    battles: Battles,
    *,
    min_characters: int = MIN_CHARACTERS,
    exclude_models: Iterable[str] = (),
    near_duplicates: NearDuplicates = "group",
    evaluation_prompts: Sequence[str] | None = None,
    encoder: Encoder | None = None,
) -> tuple[Battles, tuple[Step, ...]]:
    """Length, models, duplicates, near-duplicates, overlap with evaluation prompts, in this order.

    Args:
        battles: As read.
        min_characters: See `drop_short`.
        exclude_models: See `drop_models`.
        near_duplicates: See `group_near_duplicates`; "ignore" leaves prompts in the groups they have.
        evaluation_prompts: See `drop_overlap`; None keeps everything.
        encoder: See `drop_overlap`; None compares no meanings.

    Raises:
        DataError: A step leaves nothing.
        ConfigurationError: `near_duplicates` or `min_characters` is none of its values.
        UnknownKindError: An excluded model is in no battle.
        MissingExtraError: datasketch is needed for near-duplicates.
    """
    steps: list[Step] = []

    def done(result: tuple[Battles, Step]) -> Battles:
        left, step = result
        steps.append(step)
        if not len(left):
            raise DataError(f"no battles are left after the step {step}")
        return left

    battles = done(drop_short(battles, min_characters=min_characters))
    excluded = tuple(exclude_models)
    if excluded:
        battles = done(drop_models(battles, excluded))
    battles = done(merge_duplicates(battles))
    if near_duplicates not in get_args(NearDuplicates):
        raise ConfigurationError(
            f"near_duplicates is one of {', '.join(get_args(NearDuplicates))}, got {near_duplicates!r}"
        )
    if near_duplicates != "ignore":
        battles = done(group_near_duplicates(battles, then=near_duplicates))
    if evaluation_prompts is not None:
        battles = done(drop_overlap(battles, evaluation_prompts, encoder=encoder))
    return battles, tuple(steps)


def prepare(
    battles: Battles,
    *,
    min_characters: int = MIN_CHARACTERS,
    exclude_models: Iterable[str] = (),
    near_duplicates: NearDuplicates = "group",
    evaluation_prompts: Sequence[str] | None = None,
    encoder: Encoder | None = None,
    tiers: int | None = None,
    anchor: str | None = None,
) -> Prepared:
    """`clean`, then ratings and tiers.

    Args:
        battles: As read.
        min_characters: See `clean`, as the four after it.
        exclude_models: See `clean`.
        near_duplicates: See `clean`.
        evaluation_prompts: See `clean`.
        encoder: See `clean`.
        tiers: How many, see `make_tiers`; None makes 10, or as many as there are rated models.
        anchor: See `rate`.

    Raises:
        DataError: A step leaves nothing, nothing can be rated, or there are fewer rated models than tiers.
        UnknownKindError: An excluded model is in no battle, or the anchor is not rated.
        MissingExtraError: scipy or datasketch is not installed.
    """
    cleaned, steps = clean(
        battles,
        min_characters=min_characters,
        exclude_models=exclude_models,
        near_duplicates=near_duplicates,
        evaluation_prompts=evaluation_prompts,
        encoder=encoder,
    )
    ratings = rate(cleaned, anchor=anchor)
    count = min(TIERS, len(ratings)) if tiers is None else tiers
    return Prepared(battles=cleaned, steps=steps, ratings=ratings, tiers=make_tiers(ratings, count))
