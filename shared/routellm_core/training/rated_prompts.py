"""Prompts whose difficulty was judged from the text, for kinds of prompt that nobody has scored models on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.data.files import blocks
from routellm_core.data.layouts import BadRow, text_of
from routellm_core.errors import DataError

__all__ = ["RatedPrompts"]

Floats = NDArray[np.float64]

_EDGE = 0.03  # chances nearer to 0 or 1 than a judge can tell
_NOTHING = 1e-9  # a spread that is rounding alone


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedPrompts:
    """Prompts and how hard they are, by judges who guessed how often two classes of models answer well.

    Attributes:
        prompts: Shape (n,).
        difficulties: Mean 0 and standard deviation 1 over the prompts; higher is harder. Shape (n,).
    """

    prompts: Sequence[str] = field(repr=False)
    difficulties: Floats = field(repr=False)

    @classmethod
    def from_chances(cls, prompts: Sequence[str], *, strong: ArrayLike, weak: ArrayLike) -> RatedPrompts:
        """From guessed chances of a good answer.

        Two things are asked of a difficulty that is to route: that the weak model fails, and that the strong one
        fails less. So it is the sum of -logit(weak) and strong - weak, each brought to unit variance a judge.

        Args:
            prompts: At least two.
            strong: Chance that a strong model's answer is good, 0..1, shape (n, judges).
            weak: The same of a weak model.

        Raises:
            DataError: Shapes that do not agree, chances outside 0..1, or judges that tell no prompt from another.
        """
        try:
            high, low = np.asarray(strong, dtype=np.float64), np.asarray(weak, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError("strong and weak are numbers, one row a prompt and one column a judge") from error
        if high.shape != low.shape or high.ndim != 2 or high.shape[0] != len(prompts) or high.shape[1] == 0:
            raise DataError(
                f"strong has shape {high.shape} and weak {low.shape}; both must be ({len(prompts)}, judges)"
            )
        if not (((high >= 0) & (high <= 1)).all() and ((low >= 0) & (low <= 1)).all()):
            raise DataError("strong and weak are chances from 0 to 1; these hold other values")
        inside = np.clip(low, _EDGE, 1 - _EDGE)
        gain = _standardised(_standardised(high - low).sum(axis=1))
        failing = _standardised(-_standardised(np.log(inside / (1 - inside))).sum(axis=1))
        return cls(prompts=tuple(prompts), difficulties=_standardised(gain + failing))

    @classmethod
    def read(cls, *paths: str | Path) -> RatedPrompts:
        """From files named *.jsonl with `prompt`, and `strong` and `weak`: a list of chances each, one a judge.

        Raises:
            DataError: No such file, no prompts in one, or a line that is not of that form.
        """
        prompts: list[str] = []
        chances: dict[str, list[list[float]]] = {"strong": [], "weak": []}
        for block in blocks([Path(path) for path in paths], frozenset({"prompt", *chances})):
            for i in range(len(block.numbers)):
                row = {column: values[i] for column, values in block.columns.items()}
                try:
                    prompts.append(text_of(row.get("prompt")))
                    for side, given in chances.items():
                        given.append(_numbers(row.get(side)))
                except BadRow as error:
                    raise DataError(f"{block.where(i)}: {error}") from None
        if not prompts:
            raise DataError(f"{_names(paths)}: no prompts in it; expected prompt, strong and weak on every line")
        if len({len(each) for each in (*chances["strong"], *chances["weak"])}) != 1:
            raise DataError(f"{_names(paths)}: every prompt needs a chance by each judge, for strong and for weak")
        return cls.from_chances(prompts, strong=chances["strong"], weak=chances["weak"])


def _names(paths: Sequence[str | Path]) -> str:
    return ", ".join(map(str, paths)) or "no file"


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise BadRow("strong and weak must be lists of numbers")
    return values


def _standardised(values: Floats) -> Floats:
    spread = values.std(axis=0)
    if not (spread > _NOTHING).all():
        raise DataError("a judge, or all of them together, tell no prompt from another; nothing is to be learned there")
    result: Floats = (values - values.mean(axis=0)) / spread
    return result
