"""What difficulty is learned from: scores of many models, and labels of a pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from routellm_core.data.names import model_key
from routellm_core.errors import DataError

__all__ = ["PairLabels", "ScoreTable", "model_key"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """Scores of models on prompts, long format.

    Attributes:
        prompts: Distinct within a source, shape (Q,).
        sources: Where each prompt comes from, shape (Q,). A source is the unit that is held out whole, so
            it should be one task: "exams/physics" rather than "exams".
        models: Keys of the models, ascending, shape (M,).
        prompt_index: Row's prompt, shape (n,).
        model_index: Row's model, shape (n,).
        scores: Row's score, 0 (wrong) to 1 (right), shape (n,).
    """

    prompts: tuple[str, ...] = field(repr=False)
    sources: tuple[str, ...] = field(repr=False)
    models: tuple[str, ...]
    prompt_index: NDArray[np.intp] = field(repr=False)
    model_index: NDArray[np.intp] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, float, str]]) -> ScoreTable:
        """Build the table from rows (prompt, model, score, source).

        Model names are reduced to `model_key`, so that one model counts as one in all sources.

        Raises:
            DataError: No rows, or a score outside 0..1.
        """
        prompt_of: dict[tuple[str, str], int] = {}
        key_of: dict[str, str] = {}
        prompt_index: list[int] = []
        keys: list[str] = []
        scores: list[float] = []
        for number, (prompt, model, score, source) in enumerate(rows):
            if not 0.0 <= score <= 1.0:
                raise DataError(f"row {number}: score {score} is not in [0, 1]")
            prompt_index.append(prompt_of.setdefault((source, prompt), len(prompt_of)))
            keys.append(key_of.setdefault(model, model_key(model)))
            scores.append(score)
        if not scores:
            raise DataError("no rows to learn difficulty from")
        models, model_index = np.unique(np.array(keys), return_inverse=True)
        return cls(
            prompts=tuple(prompt for _, prompt in prompt_of),
            sources=tuple(source for source, _ in prompt_of),
            models=tuple(str(model) for model in models),
            prompt_index=np.array(prompt_index, dtype=np.intp),
            model_index=model_index.astype(np.intp).ravel(),
            scores=np.array(scores, dtype=np.float64),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PairLabels:
    """Whether the strong model of one pair (or of pairs about as far apart) beat the weak one.

    Attributes:
        prompts: Shape (n,).
        sources: Named as in the `ScoreTable`, shape (n,).
        strong_wins: A tie counts as False, shape (n,).
    """

    prompts: Sequence[str] = field(repr=False)
    sources: Sequence[str] = field(repr=False)
    strong_wins: NDArray[np.bool_] = field(repr=False)
