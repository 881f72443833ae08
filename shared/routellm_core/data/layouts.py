"""The column layouts that battles and scores come in, as a table: each turns a row into a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from routellm_core.data.battles import A_WINS, B_WINS, TIE
from routellm_core.errors import DataError

__all__ = ["COLUMNS", "LAYOUTS", "PAIR_SCORES", "BadRow", "Layout", "layout_of", "text_of"]

Verdict: TypeAlias = "tuple[str, str, str, int]"
"""prompt, model a, model b, outcome."""


class BadRow(Exception):
    """A row that cannot be used.

    Args:
        reason: Why, without the row's values: what dropped rows are counted by.
        detail: The value, for the message of the error; never prompt text.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    Attributes:
        name: What messages call it.
        columns: Those it is recognised by, in the order in which `read` takes their values.
        read: From a row's values and the tie margin to its verdict; raises `BadRow`. None for single scores,
            which become battles only together.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[Any], float], Verdict] | None


def _plain(row: Sequence[Any], tie_margin: float) -> Verdict:
    prompt, a, b, winner = row
    names = _models(a, b)
    return text_of(prompt), *names, _outcome(winner, *names)


def _arena_55k(row: Sequence[Any], tie_margin: float) -> Verdict:
    prompt, a, b, *winners = row
    flags = [_flag(value) for value in winners]
    if sum(flags) != 1:
        raise BadRow("unknown winner", f"of the columns a, b, tie {sum(flags)} are 1, not one")
    return _first_turn(prompt), *_models(a, b), (A_WINS, B_WINS, TIE)[flags.index(1)]


def _conversation(row: Sequence[Any], tie_margin: float) -> Verdict:
    conversation, a, b, winner = row
    names = _models(a, b)
    return _first_user_turn(conversation), *names, _outcome(winner, *names)


def _pair_scores(row: Sequence[Any], tie_margin: float) -> Verdict:
    prompt, strong, weak, strong_score, weak_score = row
    better = score_of(strong_score) - score_of(weak_score)
    outcome = TIE if abs(better) <= tie_margin else A_WINS if better > 0 else B_WINS
    return text_of(prompt), *_models(strong, weak), outcome


LAYOUTS = (
    Layout(
        name="Arena with winner columns",
        columns=("prompt", "model_a", "model_b", "winner_model_a", "winner_model_b", "winner_tie"),
        read=_arena_55k,
    ),
    Layout(
        name="Arena with conversations", columns=("conversation_a", "model_a", "model_b", "winner"), read=_conversation
    ),
    Layout(name="battles", columns=("prompt", "model_a", "model_b", "winner"), read=_plain),
    Layout(
        name="scores of pairs",
        columns=("prompt", "strong_model", "weak_model", "strong_score", "weak_score"),
        read=_pair_scores,
    ),
    Layout(name="scores of models", columns=("prompt", "model", "score"), read=None),
)
"""Tried in this order. Every one may have a column "source" as well."""
PAIR_SCORES = LAYOUTS[-2]
COLUMNS = frozenset(column for layout in LAYOUTS for column in layout.columns) | {"source", "prompt_id"}


def layout_of(columns: Mapping[str, Any], where: str) -> Layout:
    """The first layout whose columns are all there.

    Raises:
        DataError: None is; lists what there is and what is known.
    """
    for layout in LAYOUTS:
        if all(column in columns for column in layout.columns):
            return layout
    known = "; ".join(f"{', '.join(layout.columns)}" for layout in LAYOUTS)
    raise DataError(f"{where}: the columns {', '.join(columns) or '(none)'} are no known layout; known: {known}")


def text_of(value: Any) -> str:
    """The prompt, as it is.

    Raises:
        BadRow: Empty, or not text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadRow("empty prompt")
    if not isinstance(value, str):
        raise BadRow("prompt is not text", type(value).__name__)
    if not value.strip():
        raise BadRow("empty prompt")
    return value


def score_of(value: Any) -> float:
    """The score as a number.

    Raises:
        BadRow: Not a finite number.
    """
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):  # the last: an int of hundreds of digits
        raise BadRow("score is no number", repr(value)[:40]) from None
    if not math.isfinite(score):
        raise BadRow("score is not finite", str(score))
    return score


def model_of(value: Any) -> str:
    """The model's name.

    Raises:
        BadRow: Empty, not text, or with half a character, which no saved router could keep.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadRow("model without a name", repr(value)[:40])
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow("model's name is not Unicode text", ascii(value)[:40]) from None
    return value.strip()


def _models(a: Any, b: Any) -> tuple[str, str]:
    names = model_of(a), model_of(b)
    if names[0] == names[1]:
        raise BadRow("a model battles itself", repr(names[0]))
    return names


_WINNERS = {
    A_WINS: ("a", "modela", "left", "leftvote"),
    B_WINS: ("b", "modelb", "right", "rightvote"),
    TIE: ("tie", "tievote", "draw", "c", "bothbad", "tiebothbad", "bothbadvote"),
}
_OUTCOME = {spelling: outcome for outcome, spellings in _WINNERS.items() for spelling in spellings}
_SEPARATORS = str.maketrans("", "", " _-()[]:")  # "tie (bothbad)", "model_a", "[[A]]"


def _outcome(winner: Any, a: str, b: str) -> int:
    if isinstance(winner, str):
        by_word = _OUTCOME.get(winner.lower().translate(_SEPARATORS))
        by_name = {a: A_WINS, b: B_WINS}.get(winner.strip())
        if by_word is not None and by_name is not None and by_word != by_name:  # a model called "b" in first place, say
            raise BadRow("unknown winner", f"{winner[:40]!r} means one side as a word, another as a model's name")
        found = by_word if by_name is None else by_name
        if found is not None:
            return found
    raise BadRow("unknown winner", f"{str(winner)[:40]!r} is not model_a, model_b, tie or one of the two names")


def _flag(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = {"true": 1.0, "false": 0.0}.get(str(value).strip().lower(), math.nan)
    if number not in (0.0, 1.0):
        raise BadRow("unknown winner", f"{str(value)[:40]!r} in a column of 0 and 1")
    return int(number)


def _list(value: Any, what: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            # its own message quotes nothing of the text
            raise BadRow(f"{what} is not JSON", str(error)) from None
    elif value is not None and not isinstance(value, (list, tuple)) and hasattr(value, "tolist"):
        value = value.tolist()  # an array, as pandas holds lists read from Parquet
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"{what} is no list", type(value).__name__)
    return list(value)


def _first_turn(prompt: Any) -> str:
    turns = _list(prompt, "the prompt's list of turns")
    return text_of(turns[0] if turns else None)


def _first_user_turn(conversation: Any) -> str:
    for turn in _list(conversation, "the conversation"):
        if not isinstance(turn, Mapping):
            raise BadRow("a turn without role and content", type(turn).__name__)
        if turn.get("role") in ("user", "human"):
            return text_of(turn.get("content"))
    raise BadRow("no user turn in the conversation")
