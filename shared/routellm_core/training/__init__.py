"""Rows to routers. numpy is enough, except where a module says what else it needs."""

from __future__ import annotations

from routellm_core.training.difficulty import Block, fit_difficulty
from routellm_core.training.material import TrainingMaterial
from routellm_core.training.mf import train_mf
from routellm_core.training.new_fitted_model import add_fitted_model
from routellm_core.training.new_model import add_model
from routellm_core.training.own_labels import FitResult, fit_router
from routellm_core.training.rated_prompts import RatedPrompts
from routellm_core.training.run import TrainingResult
from routellm_core.training.score_table import PairLabels, ScoreTable
from routellm_core.training.sw import train_sw
from routellm_core.training.trainers import TRAINERS, train
from routellm_core.training.verifier import VerifierResult, fit_verifier

__all__ = [
    "TRAINERS",
    "Block",
    "FitResult",
    "PairLabels",
    "RatedPrompts",
    "ScoreTable",
    "TrainingMaterial",
    "TrainingResult",
    "VerifierResult",
    "add_fitted_model",
    "add_model",
    "fit_difficulty",
    "fit_router",
    "fit_verifier",
    "train",
    "train_mf",
    "train_sw",
]
