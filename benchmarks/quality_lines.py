"""Lines of the quality table: a figure beside what was aimed at and what is published, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Interval = tuple[float, float]
HEADER = ("what", "figure", "95 % interval", "aim", "reached", "published best", "past it", "remark")
VERDICT = "Reached and past it go by the figure itself, not by its interval."


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure.

    Attributes:
        what: Of what.
        figure: None where it was not measured or is not defined; `remark` says why.
        interval: 95 %.
        aim: What it should reach.
        floor: What it must at least reach, where that is less than the aim.
        published: The best published figure of the same kind.
        at_most: Smaller is better, and the aim a limit.
        signed: A difference, printed with its sign.
        unit: Behind the figure.
        digits: Behind the point.
        details: Goes into the JSON only.
    """

    what: str
    figure: float | None
    interval: Interval | None = None
    aim: float | None = None
    floor: float | None = None
    published: float | None = None
    at_most: bool = False
    signed: bool = False
    unit: str = ""
    digits: int = 3
    remark: str = ""
    details: Any = field(default=None, repr=False)

    def reaches(self, bar: float | None) -> bool | None:
        """Whether the figure is on the right side of the bar; None where one of the two is missing."""
        if bar is None or self.figure is None:
            return None
        if self.signed and bar == 0:  # a difference has to be above it
            return bool(self.figure > 0)
        return bool(self.figure <= bar if self.at_most else self.figure >= bar)

    def number(self, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:{'+' if self.signed else ''}.{self.digits}f}{self.unit and ' ' + self.unit}"

    def cells(self) -> list[str]:
        aim = "above 0" if self.signed and self.aim == 0 else self.number(self.aim)
        if self.aim is not None and self.at_most:
            aim = f"at most {aim}"
        if self.floor is not None:
            aim += f", at least {self.number(self.floor)}"
        reached = word(self.reaches(self.aim))
        if self.reaches(self.aim) is False and self.floor is not None:
            reached += ", but the least" if self.reaches(self.floor) else ", nor the least"
        interval = "-" if self.interval is None else " to ".join(map(self.number, self.interval))
        published = [self.number(self.published), word(self.reaches(self.published))]
        return [self.what, self.number(self.figure), interval, aim, reached, *published, self.remark]

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "figure": self.figure,
            "interval": None if self.interval is None else list(self.interval),
            "aim": self.aim,
            "floor": self.floor,
            "at_most": self.at_most,
            "reached": self.reaches(self.aim),
            "published": self.published,
            "past_it": self.reaches(self.published),
            "remark": self.remark,
            **({} if self.details is None else {"details": self.details}),
        }


def word(verdict: bool | None) -> str:
    return "-" if verdict is None else "yes" if verdict else "no"


def markdown(parts: Mapping[str, Sequence[Line]], failed: Mapping[str, str]) -> str:
    """One table with a heading row a part; a part that failed says so instead of its lines."""
    rows = [row_of(HEADER), row_of(["---"] * len(HEADER))]
    for title, lines in parts.items():
        rows.append(row_of([f"**{title}**", *[""] * (len(HEADER) - 1)]))
        rows += [row_of(line.cells()) for line in lines]
        if title in failed:
            rows.append(row_of(["not measured", *["-"] * (len(HEADER) - 2), failed[title]]))
    return "\n".join([*rows, "", VERDICT])


def row_of(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
