"""Which columns of a table hold the prompt, the models' scores and the rest, and whether their values will do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core.data.files import Block, Source, blocks
from routellm_core.data.layouts import BadRow, model_of, score_of, text_of
from routellm_core.data.names import find_model
from routellm_core.errors import DataError
from routellm_core.evaluation.long_layout import paired, side_by_side
from routellm_core.routers.metadata import known_category

__all__ = ["Table", "read_table"]

Floats: TypeAlias = NDArray[np.float64]
Row: TypeAlias = "dict[str, Any]"

PROMPTS = ("prompt", "question", "query", "input", "instruction", "text", "messages")
GROUPS = ("domain", "category", "topic", "subject", "eval_name")
IDS = ("id", "sample_id", "example_id", "prompt_id")
NESTED = ("inputs", "outputs", "reference_outputs", "scores", "feedback", "metadata")
PREFIXES = ("input.", "inputs.", "metadata.", "outputs.", "reference.", "scores.", "feedback.")
_WITHOUT_SCORES = ("inputs", "input.", "inputs.", "metadata", "metadata.")  # a number in there is no model's score
ROUTERBENCH_COST, ROUTERBENCH_ANSWER = "|total_cost", "|model_response"
_NO_MODELS = (
    *PROMPTS, *GROUPS, *IDS, "contaminated", "label", "index", "level_0", "source", "split", "execution_time",
    "win_rate", "latency_ms", "cost", "tokens", "n_tokens", "input_tokens", "prompt_tokens", "output_tokens",
)  # fmt: skip
_NO_MODEL_ENDINGS = ("_tokens", "_cost", "_cost_usd", "_ms", "_s", "_turn1", "_turn2", "_count", ROUTERBENCH_COST)
_SHARED = ("_input_tokens", "_prompt_tokens")  # one column may hold for all models
_OF_ANSWERS = (
    "score", "cost", "cost_usd", "input_tokens", "prompt_tokens", "output_tokens", "completion_tokens",
)  # fmt: skip
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # how pandas stores it in Parquet
ASSUMED = "strong_assumed"
"""Column that marks strong scores which nobody has seen: the weak model was right, and the strong one was not asked."""
_TRUE, _FALSE = (True, 1, "true", "1", "yes"), (False, 0, "false", "0", "no", "", None)


class _AllButAnswers(frozenset[str]):
    """Every column is wanted, but for the models' answers: they are most of a RouterBench table."""

    def __contains__(self, column: object) -> bool:
        return not str(column).endswith(ROUTERBENCH_ANSWER)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What `EvaluationSet` is made of; see there."""

    prompts: tuple[str, ...] = field(repr=False)
    models: tuple[str, ...]
    scores: Floats = field(repr=False)
    strong: str | None
    weak: str | None
    ids: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    group_column: str | None
    costs_usd: Floats | None
    input_tokens: Floats | None
    output_tokens: Floats | None
    metadata: Mapping[str, tuple[str | None, ...]] | None
    n_contaminated: int
    n_incomplete: int
    n_assumed: int


def read_table(
    source: Source,
    *,
    strong: str | None,
    weak: str | None,
    score_range: tuple[float, float] | None,
    metadata: Collection[str] = (),
) -> Table:
    """See `sets.read_evaluation_set`."""
    rows = _Rows.read(source, metadata)
    kept, n_contaminated = rows.without_contaminated()
    if not kept.places:
        raise DataError(
            f"{rows.name}: no rows in it" + (f" but {n_contaminated} contaminated ones" if n_contaminated else "")
        )
    n_incomplete = 0
    if kept.is_long():
        kept, n_incomplete = kept.paired(strong, weak)
    prompts = kept.prompts()
    models = _Models.of(kept, strong, weak, metadata)
    scores = np.stack([kept.numbers(column) for column in models.columns], axis=1)
    _check_range(kept, scores, models.columns, score_range)
    strong, weak = models.chosen(scores, strong, weak)
    group_column = next((column for column in GROUPS if column in kept.columns), None)

    def beside(*endings: str) -> Floats | None:
        return _beside_scores(kept, models, strong, weak, endings)

    return Table(
        prompts=prompts,
        models=models.names,
        scores=scores,
        strong=strong,
        weak=weak,
        ids=kept.ids(),
        groups=None if group_column is None else tuple(map(_group, kept.columns[group_column])),
        group_column=group_column,
        costs_usd=beside("_cost_usd", "_cost", ROUTERBENCH_COST),
        input_tokens=beside("_input_tokens", "_prompt_tokens"),
        output_tokens=beside("_output_tokens", "_completion_tokens"),
        metadata={
            c: tuple(known_category(c, value) for value in kept.columns[c]) for c in metadata if c in kept.columns
        }
        or None,
        n_contaminated=n_contaminated,
        n_incomplete=n_incomplete,
        n_assumed=sum(value in _TRUE for value in kept.columns.get(ASSUMED, ())),
    )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Columns of all blocks together, each value with the place it came from."""

    name: str
    places: list[tuple[Block, int]]
    columns: dict[str, list[Any]]
    second_places: list[tuple[Block, int]] | None = None  # of the weak model's row, where it is a row of its own

    @classmethod
    def read(cls, source: Source, metadata: Collection[str] = ()) -> _Rows:
        name = "the rows given"
        places: list[tuple[Block, int]] = []
        columns: dict[str, list[Any]] = {}
        for block in blocks(_plain_rows(source), _AllButAnswers()):
            name, before = block.name, len(places)
            places += [(block, i) for i in range(len(block.numbers))]
            for column, values in _flat(block.columns, len(block.numbers), metadata).items():
                if _PANDAS_INDEX.fullmatch(column):
                    continue
                columns.setdefault(column, [None] * before).extend(values)
            for values in columns.values():
                values.extend([None] * (len(places) - len(values)))
        return cls(name=name, places=places, columns=columns)

    def where(self, row: int) -> str:
        block, i = self.places[row]
        if self.second_places is None:
            return block.where(i)
        other, j = self.second_places[row]
        return f"{block.where(i)} and {other.unit} {other.numbers[j]}"

    def is_long(self) -> bool:
        """Whether there is a row for each prompt and model."""
        if not {"model", "score"} <= self.columns.keys() or "strong_score" in self.columns:
            return False
        named = any(isinstance(value, str) for value in self.columns["model"])
        return named and not any(column.endswith(ROUTERBENCH_COST) for column in self.columns)

    def paired(self, strong: str | None, weak: str | None) -> tuple[_Rows, int]:
        """Rows of the long layout as one row a prompt, and how many prompts lack one of the two models."""
        pairing = paired(
            self.prompts(),
            tuple(self._each("model", model_of)),
            self.numbers("score").tolist(),
            strong=strong,
            weak=weak,
            name=self.name,
            where=self.where,
        )
        rows = _Rows(
            name=self.name,
            places=[self.places[row] for row, _ in pairing.rows],
            second_places=[self.places[row] for _, row in pairing.rows],
            columns=side_by_side(self.columns, pairing, _OF_ANSWERS),
        )
        return rows, pairing.n_incomplete

    def without_contaminated(self) -> tuple[_Rows, int]:
        flags = self.columns.get("contaminated")
        if flags is None:
            return self, 0
        keep = []
        for row, flag in enumerate(flags):
            value = flag.lower() if isinstance(flag, str) else None if _is_missing(flag) else flag
            if value not in (*_TRUE, *_FALSE):
                raise DataError(f"{self.where(row)}: contaminated is {flag!r}, not true or false")
            if value in _FALSE:
                keep.append(row)
        return (
            _Rows(
                name=self.name,
                places=[self.places[row] for row in keep],
                columns={column: [values[row] for row in keep] for column, values in self.columns.items()},
            ),
            len(flags) - len(keep),
        )

    def prompts(self) -> tuple[str, ...]:
        column = next((column for column in PROMPTS if column in self.columns), None)
        if column is None:
            raise DataError(
                f"{self.name}: no prompts; a column {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]} is needed, there are "
                f"{', '.join(self.columns) or 'none'}"
            )
        return tuple(self._each(column, lambda value: text_of(_newest_human(value))))

    def numbers(self, column: str) -> Floats:
        """Finite numbers."""
        return np.fromiter(self._each(column, score_of), dtype=np.float64, count=len(self.places))

    def ids(self) -> tuple[str, ...] | None:
        column = next((column for column in IDS if column in self.columns), None)
        if column is None or any(_is_missing(value) for value in self.columns[column]):
            return None
        seen: dict[str, int] = {}
        for row, value in enumerate(map(str, self.columns[column])):
            if seen.setdefault(value, row) != row:
                raise DataError(
                    f"{self.where(row)}: {column} {value[:40]!r} stands twice, first in {self.where(seen[value])}"
                )
        return tuple(seen)

    def _each(self, column: str, convert: Callable[[Any], Any]) -> Iterable[Any]:
        for row, value in enumerate(self.columns[column]):
            try:
                yield convert(value)
            except BadRow as error:
                raise DataError(f"{self.where(row)}: {column}: {error}") from None


def _plain_rows(source: Source) -> Source:
    """Objects of LangSmith and LlamaIndex as rows; anything else as it is."""
    if hasattr(source, "to_pandas") and not any(hasattr(source, name) for name in ("columns", "column_names")):
        return source.to_pandas()  # a data set of LlamaIndex
    if isinstance(source, Iterable) and not isinstance(source, (str, Mapping)) and not hasattr(source, "columns"):
        rows = list(source) if not isinstance(source, Sequence) else source
        if rows and hasattr(rows[0], "inputs") and hasattr(rows[0], "outputs"):  # examples of LangSmith
            names = ("id", *NESTED)
            return [{n: getattr(row, n) for n in names if getattr(row, n, None) is not None} for row in rows]
        return rows
    return source


def _flat(columns: Mapping[str, Sequence[Any]], n: int, metadata: Collection[str] = ()) -> dict[str, list[Any]]:
    """Columns with what is nested or prefixed brought out; a column that is there already stays."""
    flat = {column: list(values) for column, values in columns.items() if column not in NESTED}
    for column in NESTED:
        for row, value in enumerate(columns.get(column, ())):
            for key, inner in (value if isinstance(value, Mapping) else {}).items():
                if key not in columns and (key in metadata or _may_come_out(column, key)):
                    flat.setdefault(str(key), [None] * n)[row] = inner
    for column in list(flat):
        prefix = next((prefix for prefix in PREFIXES if column.startswith(prefix)), "")
        bare = column.removeprefix(prefix)
        if prefix:
            values = flat.pop(column)
            if bare not in flat and (bare in metadata or _may_come_out(prefix, bare)):
                flat[bare] = values
    return flat


def _may_come_out(outside: str, key: str) -> bool:
    return outside not in _WITHOUT_SCORES or key in _NO_MODELS or key.endswith(_NO_MODEL_ENDINGS)


@dataclass(frozen=True, kw_only=True)
class _Models:
    """The models of a table, the columns of their scores, and which two are meant if nobody says."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    pair: tuple[str, str] | None

    @classmethod
    def of(cls, rows: _Rows, strong: str | None, weak: str | None, metadata: Collection[str] = ()) -> _Models:
        columns = rows.columns
        if "strong_score" in columns and "weak_score" in columns:
            first, second = (_only_value(columns.get(f"{side}_model")) for side in ("strong", "weak"))
            pair = (first, second) if first and second and first != second else ("strong", "weak")
            return cls(names=pair, columns=("strong_score", "weak_score"), pair=pair)
        priced = [column.removesuffix(ROUTERBENCH_COST) for column in columns if column.endswith(ROUTERBENCH_COST)]
        scored = {name: name for name in priced if name in columns}
        if not scored:
            scored = {
                column.removesuffix("_score") or column: column
                for column, values in columns.items()
                if column not in (*_NO_MODELS, *metadata)
                and not column.endswith(_NO_MODEL_ENDINGS)
                and _holds_numbers(values)
            }
            if strong is not None and weak is not None:
                named = {_found(strong, tuple(scored)), _found(weak, tuple(scored))}
                scored = {name: column for name, column in scored.items() if name in named}
        if len(scored) < 2:
            raise DataError(
                f"{rows.name}: no scores of two models among the columns {', '.join(columns) or '(none)'}; give "
                "strong_score and weak_score, or one column of numbers a model"
            )
        return cls(names=tuple(scored), columns=tuple(scored.values()), pair=None)

    def chosen(self, scores: Floats, strong: str | None, weak: str | None) -> tuple[str | None, str | None]:
        """The strong and the weak model; None where nobody says and there are more than two."""
        strong = None if strong is None else _found(strong, self.names)
        weak = None if weak is None else _found(weak, self.names)
        if len(self.names) == 2:
            if strong is None and weak is None:
                better = int(np.argmax(scores.mean(axis=0)))
                return self.pair or (self.names[better], self.names[1 - better])
            strong = strong or next(name for name in self.names if name != weak)
            weak = weak or next(name for name in self.names if name != strong)
        if strong is not None and strong == weak:
            raise DataError(f"strong and weak are the same model, {strong!r}")
        return strong, weak


def _found(name: str, names: tuple[str, ...]) -> str:
    return name if name in names else find_model(name, names)


def _only_value(values: Sequence[Any] | None) -> str | None:
    """The one text that stands in every row."""
    if not values or not isinstance(values[0], str) or not values[0].strip():
        return None
    return values[0] if all(value == values[0] for value in values) else None


def _holds_numbers(values: Sequence[Any]) -> bool:
    """Whether the first value that is there is a number, also as text; the others are checked when they are read."""
    first = next((value for value in values if not _is_missing(value)), None)
    if first is None or isinstance(first, (Mapping, Sequence)) and not isinstance(first, str):
        return False
    try:
        float(first)
    except (TypeError, ValueError):
        return False
    return True


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _newest_human(value: Any) -> Any:
    """The text of a chat's newest human message; anything that is no chat as it is."""
    if not isinstance(value, (list, tuple)) and not hasattr(value, "tolist"):
        return value
    for message in reversed(list(value)):
        if isinstance(message, Mapping) and message.get("role", message.get("type")) in ("user", "human"):
            return message.get("content")
    raise BadRow("a chat without a human message")


def _group(value: Any) -> str:
    return "(none)" if _is_missing(value) else str(value)


def _check_range(rows: _Rows, scores: Floats, columns: Sequence[str], given: tuple[float, float] | None) -> None:
    if given is not None:
        low, high = given
        if not low < high:  # False for NaN too
            raise DataError(f"score_range is the lowest and the highest possible score, got {low:g} and {high:g}")
        what = f"score_range {low:g} to {high:g}"
    else:
        # by most of the scores, so that one stray value is named instead of changing the scale
        low, high = (1.0, 10.0) if np.median(scores) > 1 or np.mean(scores > 1) > 0.5 else (0.0, 1.0)
        what = f"{low:g} to {high:g}, the scale of the other scores (another scale: give score_range)"
    outside = (scores < low) | (scores > high)
    if outside.any():
        row, column = (int(i) for i in np.argwhere(outside)[0])
        raise DataError(f"{rows.where(row)}: {columns[column]} is {scores[row, column]:g}, outside {what}")


def _beside_scores(
    rows: _Rows, models: _Models, strong: str | None, weak: str | None, endings: Sequence[str]
) -> Floats | None:
    """Numbers that stand beside each model's scores under the model's name, or for the pair under its side."""
    found = []
    for name, score in zip(models.names, models.columns, strict=True):
        sides = [side for side, model in (("strong", strong), ("weak", weak)) if model == name]
        stems = [name, score, *sides]
        candidates = [f"{stem}{ending}" for stem in stems for ending in endings]
        candidates += [ending.removeprefix("_") for ending in endings if ending in _SHARED]
        column = next((column for column in candidates if column in rows.columns), None)
        if column is None:
            return None
        numbers = rows.numbers(column)
        if (numbers < 0).any():
            raise DataError(f"{rows.where(int(np.argmax(numbers < 0)))}: {column} is negative")
        found.append(numbers)
    return np.stack(found, axis=1)
