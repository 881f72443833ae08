"""Battles and labels: read, cleaned, rated and grouped into what routers are trained on."""

from __future__ import annotations

from routellm_core.data.battles import Battles
from routellm_core.data.duplicates import group_near_duplicates, merge_duplicates
from routellm_core.data.elo import Ratings, rate
from routellm_core.data.filters import drop_models, drop_short
from routellm_core.data.labels import LabelledPrompts, labels_for_pair, labels_for_sides, labels_over_tiers
from routellm_core.data.names import find_model, model_key
from routellm_core.data.overlap import drop_overlap
from routellm_core.data.prepare import Prepared, clean, prepare
from routellm_core.data.readers import read_battles, read_prompts
from routellm_core.data.steps import Step
from routellm_core.data.tiers import Tiers, make_tiers

__all__ = [
    "Battles",
    "LabelledPrompts",
    "Prepared",
    "Ratings",
    "Step",
    "Tiers",
    "clean",
    "drop_models",
    "drop_overlap",
    "drop_short",
    "find_model",
    "group_near_duplicates",
    "labels_for_pair",
    "labels_for_sides",
    "labels_over_tiers",
    "make_tiers",
    "merge_duplicates",
    "model_key",
    "prepare",
    "rate",
    "read_battles",
    "read_prompts",
]
