"""Battles and prompts from files, rows in memory and Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from routellm_core.data.battles import A_WINS, B_WINS, TIE, Battles
from routellm_core.data.files import Block, Source, blocks
from routellm_core.data.layouts import COLUMNS, PAIR_SCORES, BadRow, layout_of, model_of, score_of, text_of
from routellm_core.data.names import find_model
from routellm_core.data.steps import Step
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["read_battles", "read_prompts"]


def read_battles(
    source: Source,
    *,
    on_bad: Literal["raise", "drop"] = "raise",
    tie_margin: float = 0.0,
    between: Sequence[str] | None = None,
    max_pairs_per_prompt: int = 10,
    sides: bool = False,
    rng: np.random.Generator | None = None,
    split: str = "train",
) -> tuple[Battles, Step]:
    """Read battles in any of the usual layouts, recognised by their columns.

    - Arena with winner columns (the 55k release): prompt (a JSON list of turns), model_a, model_b,
      winner_model_a, winner_model_b, winner_tie (0 or 1).
    - Arena with conversations (the 33k release): conversation_a (a list of role and content), model_a,
      model_b, winner.
    - Battles: prompt, model_a, model_b, winner ("model_a", "A", "tie", "tie (bothbad)", a model's name, ...).
    - Scores of pairs: prompt, strong_model, weak_model, strong_score, weak_score.
    - Scores of models: prompt, model, score; models that have a score for one prompt in one source are paired.

    Files are JSONL, JSON, CSV, TSV or Parquet. Of several turns only the first is read. A column "source" is
    kept; without one the file's or data set's name is the source.

    Args:
        source: A path, a Hugging Face data set as "owner/name", rows (list of dicts, pandas, polars or pyarrow
            table), or a list of these.
        on_bad: What to do with a row that cannot be used: raise, or drop it and count it in the step. A file
            that cannot be parsed always raises.
        tie_margin: Scores that differ by no more than this tie.
        between: For scores of models: pair only these, found by their usual spellings. None: all.
        max_pairs_per_prompt: For scores of models: where there are more pairs on a prompt, this many are drawn.
        sides: Take scores of pairs only, so that model_a is the strong side of every battle; the other layouts
            do not say which side that is.
        rng: Draws them; None seeds with 0.
        split: Which split of a Hugging Face data set.

    Returns:
        The battles, and what was dropped. `Step.rows` counts rows over all sources from 0.

    Raises:
        DataError: No known layout, one without sides where they are needed, nothing left, or (with on_bad="raise") a
            row with an unknown winner, an empty prompt, a model against itself, a score that is not finite and the
            like. Names file, row and reason.
        ConfigurationError: An option that is none.
        UnknownKindError: `between` names a model without scores.
        MissingExtraError: Parquet needs the extra "fit"; a data set by name needs `datasets`.
    """
    if on_bad not in ("raise", "drop"):
        raise ConfigurationError(f"on_bad is 'raise' or 'drop', got {on_bad!r}")
    if not tie_margin >= 0.0:
        raise ConfigurationError(f"the tie margin is 0 or more, got {tie_margin!r}")
    if max_pairs_per_prompt < 1:
        raise ConfigurationError(f"max_pairs_per_prompt is 1 or more, got {max_pairs_per_prompt!r}")
    reading = _Reading(drops=on_bad == "drop", tie_margin=tie_margin, sides=sides)
    for block in blocks(source, COLUMNS, split=split):
        reading.add(block)
    note = ""
    if reading.scores:
        note = reading.pair_scores(between, max_pairs_per_prompt, np.random.default_rng(0) if rng is None else rng)
    step = Step(
        name="read",
        before=reading.rows,
        rows=np.array(reading.bad, dtype=np.int64),
        reasons=tuple(reading.reasons),
        note=note,
    )
    if not reading.prompts:
        raise DataError(f"no battle could be read; {step}")
    battles = Battles.from_columns(
        reading.prompts, reading.model_a, reading.model_b, reading.outcome, sources=reading.sources
    )
    return battles, step


def read_prompts(source: Source, column: str = "prompt", *, split: str = "train") -> tuple[str, ...]:
    """One column of texts, such as the prompts of an evaluation set; repeats and order are kept.

    Args:
        source: As for `read_battles`.
        column: Its name.
        split: Which split of a Hugging Face data set.

    Raises:
        DataError: No such column, or a text that is empty or none.
    """
    prompts = []
    for block in blocks(source, frozenset({column}), split=split):
        if column not in block.columns:
            raise DataError(f"{block.name}: no column {column!r}; it has {', '.join(block.columns) or 'none'}")
        for i, value in enumerate(block.columns[column]):
            try:
                prompts.append(text_of(value))
            except BadRow as error:
                raise DataError(f"{block.where(i)}: {error}") from None
    return tuple(prompts)


class _Reading:
    """Columns that grow a block at a time."""

    def __init__(self, *, drops: bool, tie_margin: float, sides: bool) -> None:
        self.drops = drops
        self.sides = sides
        self.tie_margin = tie_margin
        self.rows = 0
        self.bad: list[int] = []
        self.reasons: list[str] = []
        self.prompts: list[str] = []
        self.model_a: list[str] = []
        self.model_b: list[str] = []
        self.outcome: list[int] = []
        self.sources: list[str] = []
        self.scores: dict[
            tuple[str, str, str | None], dict[str, float]
        ] = {}  # by source, prompt and its id: score by model
        self._shared: dict[str, str] = {}

    def add(self, block: Block) -> None:
        layout = layout_of(block.columns, block.name)
        if self.sides and layout is not PAIR_SCORES:
            raise DataError(
                f"{block.name}: in the layout {layout.name!r} no side is the strong one; these labels need the columns "
                f"{', '.join(PAIR_SCORES.columns)}"
            )
        read = layout.read
        sources = block.columns.get("source")
        ids = block.columns.get("prompt_id")
        for i, row in enumerate(zip(*(block.columns[column] for column in layout.columns), strict=True)):
            source = self._once(str(sources[i])) if sources is not None and sources[i] is not None else block.label
            try:
                if read is None:
                    self._add_score(row, source, None if ids is None else str(ids[i]))
                    continue
                prompt, a, b, outcome = read(row, self.tie_margin)
            except BadRow as error:
                if not self.drops:
                    raise DataError(f"{block.where(i)}: {error}") from None
                self.bad.append(self.rows + i)
                self.reasons.append(error.reason)
                continue
            self._add_battle(self._once(prompt), self._once(a), self._once(b), outcome, source)
        self.rows += len(block.numbers)

    def _add_battle(self, prompt: str, a: str, b: str, outcome: int, source: str) -> None:
        self.prompts.append(prompt)
        self.model_a.append(a)
        self.model_b.append(b)
        self.outcome.append(outcome)
        self.sources.append(source)

    def _add_score(self, row: tuple[Any, ...], source: str, prompt_id: str | None) -> None:
        prompt, model, score = self._once(text_of(row[0])), self._once(model_of(row[1])), score_of(row[2])
        scores = self.scores.setdefault((source, prompt, prompt_id), {})
        if model in scores:
            raise BadRow("a second score of a model for one prompt", repr(model))
        scores[model] = score

    def pair_scores(self, between: Sequence[str] | None, max_pairs: int, rng: np.random.Generator) -> str:
        """Add the battles that the scores make, and say how many scores and pairs they are of."""
        chosen = None
        if between is not None:
            models = sorted({model for scores in self.scores.values() for model in scores})
            chosen = {find_model(name, models) for name in between}
            if len(chosen) < 2:
                raise ConfigurationError(f"battles are between two models at least, got {', '.join(sorted(chosen))}")
        total = alone = possible = made = 0
        for (source, prompt, _), scores in self.scores.items():
            names = [model for model in scores if chosen is None or model in chosen]
            pairs = list(combinations(names, 2))
            total, possible, made = total + len(scores), possible + len(pairs), made + min(len(pairs), max_pairs)
            alone += len(scores) - (len(names) if pairs else 0)
            if len(pairs) > max_pairs:
                pairs = [pairs[i] for i in np.sort(rng.choice(len(pairs), size=max_pairs, replace=False))]
            for a, b in pairs:
                better = scores[a] - scores[b]
                outcome = TIE if abs(better) <= self.tie_margin else A_WINS if better > 0 else B_WINS
                self._add_battle(prompt, a, b, outcome, source)
        drawn = f", {max_pairs} drawn at most a prompt" if made < possible else ""
        return f"{made} of {possible} pairs of {total} scores{drawn}" + (
            f", {alone} without an opponent" if alone else ""
        )

    def _once(self, text: str) -> str:
        """One object for equal texts: 96k verdicts may share 2,000 prompts."""
        return self._shared.setdefault(text, text)
