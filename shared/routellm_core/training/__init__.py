"""Rows to routers. Needs the extra `fit`, or `torch` where a module says so."""

from __future__ import annotations

from routellm_core.training.difficulty import fit_difficulty

__all__ = ["fit_difficulty"]
