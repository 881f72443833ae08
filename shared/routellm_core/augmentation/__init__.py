"""More labels: golden ones from benchmarks with answers, those of a judge model, and which prompts to spend them on."""

from __future__ import annotations

from routellm_core.augmentation.calls import LabellingResult
from routellm_core.augmentation.checkers import CHECKERS
from routellm_core.augmentation.gold import alabel_gold, estimate_gold, label_from_scores, label_gold
from routellm_core.augmentation.journal import Journal
from routellm_core.augmentation.judge import alabel_by_judge, estimate_judge, label_by_judge
from routellm_core.augmentation.selection import select_prompts
from routellm_core.augmentation.spending import Estimate, Spending

__all__ = [
    "CHECKERS",
    "Estimate",
    "Journal",
    "LabellingResult",
    "Spending",
    "alabel_by_judge",
    "alabel_gold",
    "estimate_gold",
    "estimate_judge",
    "label_by_judge",
    "label_from_scores",
    "label_gold",
    "select_prompts",
]
