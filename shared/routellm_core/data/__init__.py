"""Battles and labels: read, cleaned, rated and grouped into what routers are trained on."""

from __future__ import annotations

from routellm_core.data.battles import Battles
from routellm_core.data.labels import LabelledPrompts, labels_for_pair, labels_for_sides
from routellm_core.data.steps import Step

__all__ = ["Battles", "LabelledPrompts", "Step", "labels_for_pair", "labels_for_sides"]
