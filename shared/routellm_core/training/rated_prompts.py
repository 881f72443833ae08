"""Prompts whose difficulty was judged from the text, for kinds of prompt that nobody has scored models on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.errors import DataError

__all__ = ["RatedPrompts"]

Floats = NDArray[np.float64]

_EDGE = 0.03  # chances nearer to 0 or 1 than a judge can tell


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
        high, low = np.asarray(strong, dtype=np.float64), np.asarray(weak, dtype=np.float64)
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
    def read(cls, path: str | Path) -> RatedPrompts:
        """From a JSON Lines file with `prompt`, and `strong` and `weak`: a list of chances each, one a judge.

        Raises:
            DataError: No such file, or a line that is not of that form.
        """
        prompts, strong, weak = [], [], []
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"cannot read rated prompts from {path}: {error.strerror}") from error
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                prompts.append(str(row["prompt"]))
                strong.append([float(chance) for chance in row["strong"]])
                weak.append([float(chance) for chance in row["weak"]])
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{path}, line {number}: expected JSON with prompt, strong and weak (lists of numbers)"
                ) from error
        if len({len(row) for row in [*strong, *weak]}) != 1:
            raise DataError(f"{path}: every prompt needs a chance by each judge, for strong and for weak")
        return cls.from_chances(prompts, strong=strong, weak=weak)


def _standardised(values: Floats) -> Floats:
    spread = values.std(axis=0)
    if not (spread > 0).all():
        raise DataError("a judge gave every prompt the same chances; nothing can be learned from that")
    result: Floats = (values - values.mean(axis=0)) / spread
    return result
