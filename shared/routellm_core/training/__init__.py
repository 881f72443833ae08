"""Rows to routers. numpy is enough, except where a module says what else it needs."""

from __future__ import annotations

from routellm_core.training.difficulty import fit_difficulty
from routellm_core.training.score_table import PairLabels, ScoreTable

__all__ = ["PairLabels", "ScoreTable", "fit_difficulty"]
