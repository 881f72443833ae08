"""Tables with a row for each prompt and model: which two rows belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from routellm_core.data.names import find_model
from routellm_core.errors import DataError

__all__ = ["Pairing", "paired", "side_by_side"]

_SHOWN = 5  # models in a message


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The strong and the weak model's row of each prompt that has both.

    Attributes:
        strong: Name of the strong model.
        weak: Name of the weak model.
        rows: Row numbers of the two, for each prompt in the order of the table.
        n_incomplete: Prompts left out, as they lack a score of one of the two.
    """

    strong: str
    weak: str
    rows: list[tuple[int, int]] = field(repr=False)
    n_incomplete: int


def paired(
    prompts: Sequence[str],
    models: Sequence[str],
    scores: Sequence[float],
    *,
    strong: str | None,
    weak: str | None,
    name: str,
    where: Callable[[int], str],
) -> Pairing:
    """Find the two rows of each prompt.

    Args:
        prompts: Of each row.
        models: Of each row.
        scores: Of each row; of two models that nobody names the better one on common prompts is strong.
        strong: The strong model; may be None where there are only two.
        weak: The weak model, likewise.
        name: Of the table, for messages.
        where: The place of a row, for messages.

    Raises:
        DataError: One model only, more than two and none named, two scores of one model for a prompt, or no prompt
            with scores of both.
        UnknownKindError: `strong` or `weak` is no model of the table.
    """
    counts = Counter(models)
    long = f"{name}: this is the long layout, a row for each prompt and model,"
    if len(counts) < 2:
        raise DataError(f"{long} with {models[0]!r} as the only model; two are needed")
    if len(counts) > 2 and (strong is None or weak is None):
        most = ", ".join(f"{model} ({n:,} rows)" for model, n in counts.most_common(_SHOWN))
        raise DataError(f"{long} with {len(counts)} models; name two by strong= and weak=, such as {most}")
    known = list(counts)
    first = None if strong is None else find_model(strong, known)
    second = None if weak is None else find_model(weak, known)
    first = first or next(model for model in known if model != second)
    second = second or next(model for model in known if model != first)
    if first == second:
        raise DataError(f"strong and weak are the same model, {first!r}")

    found: dict[str, dict[str, int]] = {}
    for row, (prompt, model) in enumerate(zip(prompts, models, strict=True)):
        of_prompt = found.setdefault(prompt, {})
        if model in (first, second) and of_prompt.setdefault(model, row) != row:
            raise DataError(
                f"{where(row)}: a second score of {model!r} for one prompt, the first is in {where(of_prompt[model])}; "
                "keep one, or average them"
            )
    rows = [(each[first], each[second]) for each in found.values() if len(each) == 2]
    if not rows:
        raise DataError(f"{long} and none of its {len(found):,} prompts has scores of both {first!r} and {second!r}")
    if strong is None and weak is None and sum(scores[b] - scores[a] for a, b in rows) > 0:
        first, second, rows = second, first, [(b, a) for a, b in rows]
    return Pairing(strong=first, weak=second, rows=rows, n_incomplete=len(found) - len(rows))


def side_by_side(columns: dict[str, list[Any]], pairing: Pairing, of_answers: Sequence[str]) -> dict[str, list[Any]]:
    """The table with one row a prompt: what belongs to answers as strong_X and weak_X, the rest of the strong row.

    Args:
        columns: Values of all rows, by column.
        pairing: Of the rows.
        of_answers: Columns that differ between the models.
    """
    wide: dict[str, list[Any]] = {}
    for column, values in columns.items():
        if column in of_answers:
            wide[f"strong_{column}"] = [values[a] for a, _ in pairing.rows]
            wide[f"weak_{column}"] = [values[b] for _, b in pairing.rows]
        elif column != "model":
            wide[column] = [values[a] for a, _ in pairing.rows]
    n = len(pairing.rows)
    return {**wide, "strong_model": [pairing.strong] * n, "weak_model": [pairing.weak] * n}
