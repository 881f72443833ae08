"""What routers learn from: which of two models answered a prompt better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError
from routellm_core.persistence import digest_of

__all__ = ["A_WINS", "B_WINS", "TIE", "Battles"]

A_WINS, TIE, B_WINS = 1, 0, -1
"""Values of `Battles.outcome`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Battles:
    """n verdicts over Q distinct prompts and N models, in columns.

    A verdict is a human vote, a judge's preference or a comparison of two scores; all of them train
    routers alike. Prompts and models are kept once, however many verdicts they have.

    Attributes:
        prompts: Distinct, shape (Q,).
        models: Distinct names, shape (N,).
        prompt_index: Prompt of each battle, shape (n,).
        model_a: First model of each battle, shape (n,).
        model_b: Second model of each battle, never the first, shape (n,).
        outcome: `A_WINS`, `TIE` or `B_WINS`, shape (n,).
        sources: Names of where battles came from, shape (S,).
        source_index: Source of each battle, shape (n,).
        groups: Group of each prompt, shape (Q,); prompts of one group are never split between training and
            validation. Every prompt its own group unless near-duplicates were looked for.
    """

    prompts: tuple[str, ...] = field(repr=False)
    models: tuple[str, ...]
    prompt_index: NDArray[np.int64] = field(repr=False)
    model_a: NDArray[np.int64] = field(repr=False)
    model_b: NDArray[np.int64] = field(repr=False)
    outcome: NDArray[np.int8] = field(repr=False)
    sources: tuple[str, ...] = ("",)
    source_index: NDArray[np.int64] = field(repr=False)
    groups: NDArray[np.int64] = field(repr=False)

    @classmethod
    def from_columns(
        cls,
        prompts: Sequence[str],
        model_a: Sequence[str],
        model_b: Sequence[str],
        outcome: ArrayLike,
        *,
        sources: Sequence[str] | None = None,
    ) -> Battles:
        """Battles from one entry a battle.

        Args:
            prompts: Texts, repeats allowed, shape (n,).
            model_a: Names, shape (n,).
            model_b: Names, shape (n,).
            outcome: `A_WINS`, `TIE` or `B_WINS`, shape (n,).
            sources: Names, shape (n,).

        Raises:
            DataError: Lengths differ, or a row has an empty prompt, an empty or repeated model name, or an
                outcome that is none of the three. Names the row.
        """
        n = len(prompts)
        outcomes = np.asarray(outcome)
        lengths = {"prompts": n, "model_a": len(model_a), "model_b": len(model_b), "outcome": outcomes.size}
        if sources is not None:
            lengths["sources"] = len(sources)
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
        for row in np.flatnonzero(~np.isin(outcomes, (A_WINS, TIE, B_WINS)))[:1]:
            raise DataError(f"row {row}: outcome {outcomes[row]} is not 1 (a wins), 0 (tie) or -1 (b wins)")
        for row, (prompt, a, b) in enumerate(zip(prompts, model_a, model_b, strict=True)):
            if not isinstance(prompt, str) or not prompt.strip():
                raise DataError(f"row {row}: the prompt is {'empty' if prompt == '' else repr(type(prompt).__name__)}")
            for side, name in (("model_a", a), ("model_b", b)):
                if not isinstance(name, str) or not name.strip():
                    raise DataError(f"row {row}: {side} is {name!r}, not a model's name")
            if a == b:
                raise DataError(f"row {row}: {a!r} battles itself")
        distinct, prompt_index = _numbered(prompts)
        models, sides = _numbered([*model_a, *model_b])
        names, source_index = _numbered(sources) if sources is not None else (("",), np.zeros(n, dtype=np.int64))
        return cls(
            prompts=distinct,
            models=models,
            prompt_index=prompt_index,
            model_a=sides[:n],
            model_b=sides[n:],
            outcome=outcomes.astype(np.int8).ravel(),
            sources=names,
            source_index=source_index,
            groups=np.arange(len(distinct)),
        )

    def __len__(self) -> int:
        return int(self.prompt_index.size)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over the content and its order."""
        columns = (self.prompt_index, self.model_a, self.model_b, self.outcome, self.source_index, self.groups)
        return digest_of(
            *(digest_of(*map(_raw, names)) for names in (self.prompts, self.models, self.sources)),
            *(np.ascontiguousarray(column).astype("<i8").tobytes() for column in columns),
        )

    def take(self, which: ArrayLike) -> Battles:
        """Some battles, by a mask of shape (n,) or by row numbers; prompts, models and sources left unused go."""
        rows = np.asarray(which)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64).ravel()
        prompts, prompt_index = np.unique(self.prompt_index[rows], return_inverse=True)
        sides = np.concatenate([self.model_a[rows], self.model_b[rows]])
        models, sides = np.unique(sides, return_inverse=True)
        sources, source_index = np.unique(self.source_index[rows], return_inverse=True)
        return Battles(
            prompts=tuple(self.prompts[i] for i in prompts),
            models=tuple(self.models[i] for i in models),
            prompt_index=prompt_index.ravel(),
            model_a=sides.ravel()[: rows.size],
            model_b=sides.ravel()[rows.size :],
            outcome=self.outcome[rows],
            sources=tuple(self.sources[i] for i in sources),
            source_index=source_index.ravel(),
            groups=self.groups[prompts],
        )

    def with_groups(self, groups: ArrayLike) -> Battles:
        """The same battles with these groups of prompts, shape (Q,).

        Raises:
            DataError: Another shape.
        """
        array = np.asarray(groups, dtype=np.int64)
        if array.shape != (len(self.prompts),):
            raise DataError(f"groups have shape {array.shape} for {len(self.prompts)} prompts")
        return replace(self, groups=array)

    def with_outcome(self, outcome: ArrayLike) -> Battles:
        """The same battles with these outcomes, shape (n,).

        Raises:
            DataError: Another shape, or a value that is none of the three.
        """
        array = np.asarray(outcome)
        if array.shape != self.outcome.shape:
            raise DataError(f"outcomes have shape {array.shape} for {len(self)} battles")
        for row in np.flatnonzero(~np.isin(array, (A_WINS, TIE, B_WINS)))[:1]:
            raise DataError(f"row {row}: outcome {array[row]} is not 1 (a wins), 0 (tie) or -1 (b wins)")
        return replace(self, outcome=array.astype(np.int8))

    @classmethod
    def concatenated(cls, parts: Iterable[Battles]) -> Battles:
        """All battles of the parts, in order; equal prompts, models and sources meet.

        Groups are kept; a prompt that stands in several parts joins its groups.

        Raises:
            DataError: No parts.
        """
        given = list(parts)
        if not given:
            raise DataError("no battles to put together")
        prompts, prompt_index = _merged([(part.prompts, part.prompt_index) for part in given])
        models, sides = _merged([(part.models, np.concatenate([part.model_a, part.model_b])) for part in given])
        sources, source_index = _merged([(part.sources, part.source_index) for part in given])
        halves = [np.split(side, 2) for side in np.split(sides, np.cumsum([2 * len(p) for p in given])[:-1])]
        return cls(
            prompts=prompts,
            models=models,
            prompt_index=prompt_index,
            model_a=np.concatenate([a for a, _ in halves]),
            model_b=np.concatenate([b for _, b in halves]),
            outcome=np.concatenate([part.outcome for part in given]),
            sources=sources,
            source_index=source_index,
            groups=_joined_groups(prompts, given),
        )

    def split(self, fraction: float, *, rng: np.random.Generator) -> tuple[Battles, Battles]:
        """Most battles, and those of about `fraction` of the groups; no group stands in both.

        Raises:
            DataError: The fraction is not between 0 and 1, or there are fewer than two groups.
        """
        if not 0.0 < fraction < 1.0:
            raise DataError(f"the fraction to split off lies between 0 and 1, got {fraction!r}")
        distinct = np.unique(self.groups)
        if distinct.size < 2:
            raise DataError("fewer than two groups of prompts, so nothing can be split off")
        count = min(max(1, round(fraction * distinct.size)), distinct.size - 1)
        chosen = np.isin(self.groups, rng.permutation(distinct)[:count])[self.prompt_index]
        return self.take(~chosen), self.take(chosen)


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The distinct names in order of appearance, and the number of each entry."""
    number: dict[str, int] = {}
    index = np.fromiter((number.setdefault(name, len(number)) for name in names), dtype=np.int64, count=len(names))
    return tuple(number), index


def _merged(
    parts: list[tuple[tuple[str, ...], NDArray[np.int64]]],
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    names, number = _numbered([name for names, _ in parts for name in names])
    start = 0
    columns = []
    for own, index in parts:
        columns.append(number[start : start + len(own)][index])
        start += len(own)
    return names, np.concatenate(columns)


def _joined_groups(prompts: tuple[str, ...], parts: list[Battles]) -> NDArray[np.int64]:
    """One group for all prompts that any part groups together, directly or through a shared prompt."""
    row = {prompt: i for i, prompt in enumerate(prompts)}
    parent = list(range(len(prompts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for part in parts:
        first: dict[int, int] = {}
        for prompt, group in zip(part.prompts, part.groups.tolist(), strict=True):
            here = row[prompt]
            parent[root(here)] = root(first.setdefault(group, here))
    return np.array([root(i) for i in range(len(prompts))], dtype=np.int64)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
