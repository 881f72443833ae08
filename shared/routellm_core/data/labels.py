"""Battles to labels of prompts: how often the strong side won, tied and lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.data.battles import A_WINS, TIE, Battles
from routellm_core.data.names import find_model
from routellm_core.data.tiers import Tiers
from routellm_core.errors import DataError

__all__ = [
    "LABELS",
    "STRONG_WINS",
    "TIED",
    "WEAK_WINS",
    "LabelledPrompts",
    "labels_for_pair",
    "labels_for_sides",
    "labels_over_tiers",
]

LABELS = ("strong_wins", "tie", "weak_wins")
"""Order of the three labels everywhere, the classifiers' outputs included."""
STRONG_WINS, TIED, WEAK_WINS = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledPrompts:
    """Distinct prompts with the verdicts on each.

    Attributes:
        prompts: Distinct, shape (Q,).
        counts: Verdicts by label, columns in the order of `LABELS`, shape (Q, 3); every row has one at least.
        groups: As in `Battles`, shape (Q,).
    """

    prompts: tuple[str, ...] = field(repr=False)
    counts: NDArray[np.float64] = field(repr=False)
    groups: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each label among a prompt's verdicts, shape (Q, 3)."""
        shares: NDArray[np.float64] = self.counts / self.counts.sum(axis=1, keepdims=True)
        return shares

    @property
    def strong_scores(self) -> NDArray[np.float64]:
        """Share of verdicts for the strong side, a tie half, shape (Q,); the weak side has the rest."""
        shares = self.shares
        scores: NDArray[np.float64] = shares[:, STRONG_WINS] + shares[:, TIED] / 2
        return scores

    def take(self, which: ArrayLike) -> LabelledPrompts:
        """Some prompts, by a mask of shape (Q,) or by row numbers."""
        rows = np.asarray(which)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64).ravel()
        return LabelledPrompts(
            prompts=tuple(self.prompts[i] for i in rows), counts=self.counts[rows], groups=self.groups[rows]
        )


def labels_for_sides(battles: Battles, strong: ArrayLike, weak: ArrayLike) -> LabelledPrompts:
    """Labels from the battles between a strong and a weak model; the others are left out.

    Args:
        battles: Any.
        strong: Whether each model is a strong one, shape (N,), in the order of `battles.models`.
        weak: Whether each model is a weak one, shape (N,).

    Raises:
        DataError: A mask of another shape, a model on both sides, or no battle between the sides.
    """
    is_strong, is_weak = np.asarray(strong, dtype=bool), np.asarray(weak, dtype=bool)
    n = len(battles.models)
    if is_strong.shape != (n,) or is_weak.shape != (n,):
        raise DataError(f"the sides have shapes {is_strong.shape} and {is_weak.shape} for {n} models")
    if (is_strong & is_weak).any():
        raise DataError(f"model {battles.models[int(np.argmax(is_strong & is_weak))]!r} is on both sides")
    forward = is_strong[battles.model_a] & is_weak[battles.model_b]
    backward = is_weak[battles.model_a] & is_strong[battles.model_b]
    between = forward | backward
    if not between.any():
        raise DataError("no battle between a strong and a weak model, so there is nothing to label prompts with")
    outcome = np.where(forward, battles.outcome, -battles.outcome)[between]
    label = np.where(outcome == A_WINS, STRONG_WINS, np.where(outcome == TIE, TIED, WEAK_WINS))
    prompts, row = np.unique(battles.prompt_index[between], return_inverse=True)
    counts = np.bincount(row.ravel() * 3 + label, minlength=3 * prompts.size).reshape(-1, 3).astype(np.float64)
    return LabelledPrompts(
        prompts=tuple(battles.prompts[i] for i in prompts), counts=counts, groups=battles.groups[prompts]
    )


def labels_for_pair(battles: Battles, strong: str, weak: str) -> LabelledPrompts:
    """Labels from the battles between two named models, found by their usual spellings.

    Raises:
        UnknownKindError: No battle has a model of that name, or several could be meant.
        DataError: They never met, or are one model.
    """
    models = np.array(battles.models, dtype=object)
    return labels_for_sides(
        battles, models == find_model(strong, battles.models), models == find_model(weak, battles.models)
    )


def labels_over_tiers(battles: Battles, tiers: Tiers) -> LabelledPrompts:
    """Labels from the battles between the top two tiers (strong) and the third (weak); the others are left out.

    Raises:
        ConfigurationError: Fewer than three tiers.
        DataError: No battle between those tiers.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.1.
    """
    strong, weak = set(tiers.strong_models()), set(tiers.weak_models())
    try:
        return labels_for_sides(
            battles, [model in strong for model in battles.models], [model in weak for model in battles.models]
        )
    except DataError as error:
        raise DataError(
            f"tiers of {', '.join(str(len(tier)) for tier in tiers.tiers)} models: {error}; "
            "make fewer tiers, or name a pair of models"
        ) from None
