"""Prompt and weak answer in, the chance that the strong model would have answered better out."""

from __future__ import annotations

from routellm_core.verifiers.answer import Answer
from routellm_core.verifiers.base import Verifier
from routellm_core.verifiers.fitted import FittedVerifier
from routellm_core.verifiers.judge import JudgeVerifier
from routellm_core.verifiers.loading import VERIFIERS, load_verifier

__all__ = ["VERIFIERS", "Answer", "FittedVerifier", "JudgeVerifier", "Verifier", "load_verifier"]
