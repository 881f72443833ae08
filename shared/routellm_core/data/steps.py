"""What a step of the pipeline dropped, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Step"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A record of one step; nothing leaves the data without standing in one.

    Attributes:
        name: Of the step, such as "length" or "duplicates".
        before: Rows that went in.
        rows: Numbers of the rows that were dropped, in the step's input, ascending, shape (d,).
        reasons: Why, one a dropped row, shape (d,).
        changed: Rows that stay but were changed (merged, grouped).
        note: What else there is to say, for people.
    """

    name: str
    before: int
    rows: NDArray[np.int64] = field(repr=False)
    reasons: Sequence[str] = field(repr=False)
    changed: int = 0
    note: str = ""

    @property
    def after(self) -> int:
        """Rows that are left."""
        return self.before - int(self.rows.size)

    def counts(self) -> dict[str, int]:
        """Dropped rows by reason, most frequent first."""
        return dict(Counter(self.reasons).most_common())

    def __str__(self) -> str:
        why = [f"{count} {reason}" for reason, count in self.counts().items()]
        if self.changed and not self.note:
            why.append(f"{self.changed} changed")
        if self.note:
            why.append(self.note)
        return f"{self.name}: {self.before} -> {self.after}" + (f" ({', '.join(why)})" if why else "")
