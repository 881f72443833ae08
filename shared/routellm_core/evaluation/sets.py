"""Evaluation sets: prompts with the scores that models' answers to them got."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.data.files import Source
from routellm_core.errors import DataError, UnknownKindError
from routellm_core.evaluation.columns import read_table
from routellm_core.evaluation.metrics import is_better
from routellm_core.persistence import digest_of

__all__ = ["EvaluationSet", "as_evaluation_set", "read_evaluation_set"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """n prompts, each with the scores of N models' answers.

    Attributes:
        name: What tables call it.
        prompts: Shape (n,).
        models: Names, shape (N,).
        scores: Quality of each model's answer, shape (n, N), on one scale.
        strong: Which of the models is the strong one; None where that was left open.
        weak: Which is the weak one.
        ids: Shape (n,), distinct.
        groups: Topic, domain or category of each prompt, shape (n,).
        group_column: What the groups are called in the data.
        costs_usd: What each answer cost, shape (n, N).
        input_tokens: Of the prompt as each model counts them, shape (n, N).
        output_tokens: Of the answer, shape (n, N).
        metadata: What else is known of each prompt, by column, for routers fitted with it; None where unknown.
        n_contaminated: Rows that were left out because they are marked as contaminated.
        n_incomplete: Prompts that were left out because one of the two models has no score there (long layout only).
        n_assumed: Prompts whose strong score is assumed (`routellm augment gold --weak-first`): fit for training, not
            for judging quality.
    """

    name: str
    prompts: tuple[str, ...] = field(repr=False)
    models: tuple[str, ...]
    scores: Floats = field(repr=False)
    strong: str | None = None
    weak: str | None = None
    ids: tuple[str, ...] | None = field(default=None, repr=False)
    groups: tuple[str, ...] | None = field(default=None, repr=False)
    group_column: str | None = None
    costs_usd: Floats | None = field(default=None, repr=False)
    input_tokens: Floats | None = field(default=None, repr=False)
    output_tokens: Floats | None = field(default=None, repr=False)
    metadata: Mapping[str, tuple[str | None, ...]] | None = field(default=None, repr=False)
    n_contaminated: int = 0
    n_incomplete: int = 0
    n_assumed: int = 0

    def __post_init__(self) -> None:
        n, shape = len(self.prompts), (len(self.prompts), len(self.models))
        for what in ("scores", "costs_usd", "input_tokens", "output_tokens"):
            array = getattr(self, what)
            if array is not None and array.shape != shape:
                raise DataError(f"{self.name}: {what} has shape {array.shape}, expected {shape}")
        for what in ("ids", "groups"):
            values = getattr(self, what)
            if values is not None and len(values) != n:
                raise DataError(f"{self.name}: {len(values)} {what} for {n} prompts")
        for column, known in (self.metadata or {}).items():
            if len(known) != n:
                raise DataError(f"{self.name}: {len(known)} values of metadata {column!r} for {n} prompts")
        if len(set(self.models)) != len(self.models):
            raise DataError(f"{self.name}: a model stands twice in {', '.join(self.models)}")
        for side in (self.strong, self.weak):
            if side is not None and side not in self.models:
                raise UnknownKindError(f"{self.name}: no model {side!r}; there are {', '.join(self.models)}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def strong_scores(self) -> Floats:
        """Scores of the strong model, shape (n,).

        Raises:
            DataError: No pair is chosen.
        """
        return self.scores[:, self.sides[0]]

    @property
    def weak_scores(self) -> Floats:
        """Scores of the weak model, shape (n,).

        Raises:
            DataError: No pair is chosen.
        """
        return self.scores[:, self.sides[1]]

    @property
    def sides(self) -> tuple[int, int]:
        """Columns of the strong and the weak model.

        Raises:
            DataError: No pair is chosen.
        """
        if self.strong is None or self.weak is None:
            means = ", ".join(f"{m} {s:.3f}" for m, s in zip(self.models, self.scores.mean(axis=0), strict=True))
            raise DataError(f"{self.name} has {len(self.models)} models ({means}): name the strong and the weak one")
        return self.models.index(self.strong), self.models.index(self.weak)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over prompts, scores, groups, costs and tokens, in their order."""
        arrays = (self.scores, self.costs_usd, self.input_tokens, self.output_tokens)
        return digest_of(
            self.prompts_digest,
            digest_of(*self.models, str(self.strong), str(self.weak)),
            digest_of(*map(_raw, self.groups if self.groups is not None else ())),
            *(b"" if a is None else np.ascontiguousarray(a).astype("<f8").tobytes() for a in arrays),
        )

    @property
    def prompts_digest(self) -> str:
        """64 hexadecimal digits over the prompts in their order."""
        return digest_of(*map(_raw, self.prompts))

    def for_pair(self, strong: str, weak: str) -> EvaluationSet:
        """The same prompts with another pair of its models.

        Raises:
            UnknownKindError: It has no such model.
        """
        return replace(self, strong=strong, weak=weak)

    def take(self, which: ArrayLike) -> EvaluationSet:
        """Some prompts, by a mask of shape (n,) or by row numbers."""
        rows = np.asarray(which)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64).ravel()

        def texts(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[i] for i in rows)

        def numbers(values: Floats | None) -> Floats | None:
            return None if values is None else values[rows]

        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in rows),
            scores=self.scores[rows],
            ids=texts(self.ids),
            groups=texts(self.groups),
            costs_usd=numbers(self.costs_usd),
            input_tokens=numbers(self.input_tokens),
            output_tokens=numbers(self.output_tokens),
            metadata=self.metadata and {c: tuple(known[i] for i in rows) for c, known in self.metadata.items()},
        )

    def checked_pair(self) -> tuple[Floats, Floats]:
        """Strong and weak scores that a router can be measured on, each of shape (n,).

        Raises:
            DataError: No pair is chosen, the strong model is no better than the weak one on average, or it is
                better by the same on every prompt, so that no choice is better than another.
        """
        strong, weak = self.strong_scores, self.weak_scores
        if not is_better(strong, weak):
            raise DataError(
                f"{self.name}: the strong model's mean score {strong.mean():.4g} is not above the weak one's "
                f"{weak.mean():.4g}, so PGR is undefined; are the two exchanged?"
            )
        gap = strong - weak
        if np.ptp(gap) <= 1e-12 * (np.abs(strong) + np.abs(weak)).max():  # equal but for rounding
            raise DataError(
                f"{self.name}: the strong model is better by {float(gap[0]):.4g} on every prompt, so "
                "every router is as good as chance; give prompts on which the two models differ and agree"
            )
        return strong, weak


def read_evaluation_set(
    source: Source,
    *,
    name: str | None = None,
    strong: str | None = None,
    weak: str | None = None,
    score_range: tuple[float, float] | None = None,
    metadata: Collection[str] = (),
) -> EvaluationSet:
    """Read prompts and scores, recognised by their columns.

    - Pairs: a prompt, strong_score, weak_score, and if given strong_model and weak_model.
    - RouterBench: a prompt, one score column a model, "MODEL|total_cost".
    - Any other table with one column of numbers a model, named MODEL or MODEL_score.
    - The long layout, a row for each prompt and model: a prompt, model, score. `strong` and `weak` name the two models
      where there are more; prompts that lack a score of one of them are left out and counted.

    The prompt stands in `prompt`, `question`, `query`, `input`, `instruction`, `text` or `messages` (a chat: the
    newest human message). If there are: `id` (distinct), `domain`, `category`, `topic`, `subject` or `eval_name`
    (groups), `contaminated` (such rows are dropped and counted), MODEL_cost in US dollars, MODEL_input_tokens
    and MODEL_output_tokens, where MODEL may also be `strong` and `weak`. What LangSmith nests under `inputs`,
    `outputs`, `reference_outputs`, `scores`, `feedback` and `metadata`, or prefixes with these names in a
    table, is read as if it stood outside.

    Args:
        source: A Parquet, CSV, TSV, JSON or JSONL file, rows (list of dicts, LangSmith examples, a pandas, polars
            or pyarrow table), or a Hugging Face data set as "owner/name".
        name: Default: the file's name without its suffix.
        strong: The strong model. Default: of two models the one with the higher mean.
        weak: The weak model.
        score_range: Lowest and highest possible score. Default: 0..1, or 1..10 if any score is above 1.
        metadata: Columns that a router was fitted with (`Router.metadata_columns`), kept where the table has them.

    Raises:
        DataError: A missing column, a row without prompt or with a score that is none or out of range, an id
            that stands twice, two scores of one model for a prompt (long layout), no rows, or nothing but
            contaminated ones. Names file, row and reason.
        UnknownKindError: `strong` or `weak` is no model of the table.
        MissingExtraError: Parquet needs the extra "fit".
    """
    if isinstance(metadata, str):
        raise DataError(f"metadata= is a list of columns: [{metadata!r}]")
    if name is None:
        name = Path(source).stem if isinstance(source, (str, os.PathLike)) else "given"
    table = read_table(source, strong=strong, weak=weak, score_range=score_range, metadata=metadata)
    return EvaluationSet(
        name=name,
        prompts=table.prompts,
        models=table.models,
        scores=table.scores,
        strong=table.strong,
        weak=table.weak,
        ids=table.ids,
        groups=table.groups,
        group_column=table.group_column,
        costs_usd=table.costs_usd,
        input_tokens=table.input_tokens,
        output_tokens=table.output_tokens,
        metadata=table.metadata,
        n_contaminated=table.n_contaminated,
        n_incomplete=table.n_incomplete,
        n_assumed=table.n_assumed,
    )


def as_evaluation_set(data: EvaluationSet | Source, metadata: Collection[str] = ()) -> EvaluationSet:
    """A set as it is, or read."""
    return data if isinstance(data, EvaluationSet) else read_evaluation_set(data, metadata=metadata)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
