"""How well a router in training sends held-out prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routellm_core.data.labels import LabelledPrompts
from routellm_core.evaluation.metrics import apgr

__all__ = ["log_loss", "validation_apgr"]


def validation_apgr(win_rates: NDArray[np.float64], labels: LabelledPrompts) -> float | None:
    """APGR with verdicts as scores: 1 for the side that won, half each for a tie.

    Args:
        win_rates: Of `labels.prompts`, shape (Q,).
        labels: Verdicts on held-out prompts.

    Returns:
        None where the strong side does not win more often than the weak one, so that APGR is undefined.
    """
    strong = labels.strong_scores
    if not strong.mean() > 0.5:
        return None
    return apgr(win_rates, strong, 1 - strong)


def log_loss(win_rates: NDArray[np.float64], labels: LabelledPrompts) -> float:
    """Mean cross-entropy of "the strong side wins" over the verdicts; ties count for the weak side."""
    p = np.clip(win_rates, 1e-12, 1 - 1e-12)
    wins, rest = labels.counts[:, 0], labels.counts[:, 1:].sum(axis=1)
    return float(-(wins * np.log(p) + rest * np.log1p(-p)).sum() / labels.counts.sum())
