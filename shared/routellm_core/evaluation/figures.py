"""The figures of one scorer, with their intervals, as tables show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from routellm_core.evaluation.metrics import Curve, Way
from routellm_core.evaluation.resampling import CPTS, Interval, Resampled, beats, interval

__all__ = ["Difference", "Figures"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """APGR and CPT by one of the two ways; None where they are not defined.

    Attributes:
        way: By which curve.
        apgr: Area under PGR over strong share.
        apgr_interval: Of the bootstrap over prompts; for chance: where most random orders land.
        cpt50: Strong share at which half the gap is recovered; None if it never is.
        cpt50_interval: Of the resamples that reach it.
        cpt80: Likewise for 80 %.
        cpt80_interval: Likewise.
    """

    way: Way
    apgr: float
    apgr_interval: Interval | None
    cpt50: float | None
    cpt50_interval: Interval | None
    cpt80: float | None
    cpt80_interval: Interval | None

    @classmethod
    def of(cls, curve: Curve, drawn: Resampled, *, level: float) -> Figures:
        """Of a curve and its resamples, by the curve's way."""
        paper = curve.way == "paper"
        areas, shares = (drawn.paper_apgr, drawn.paper_cpt) if paper else (drawn.apgr, drawn.cpt)
        cpt50, cpt80 = (curve.cpt(pgr) for pgr in CPTS)
        return cls(
            way=curve.way,
            apgr=curve.apgr,
            apgr_interval=interval(areas, level),
            cpt50=cpt50,
            cpt50_interval=None if cpt50 is None else interval(shares[:, 0], level),
            cpt80=cpt80,
            cpt80_interval=None if cpt80 is None else interval(shares[:, 1], level),
        )

    @classmethod
    def of_chance(cls, apgr_interval: Interval, way: Way) -> Figures:
        """Of routing at random, on average over all orders."""
        return cls(
            way=way,
            apgr=0.5,
            apgr_interval=apgr_interval,
            cpt50=0.5,
            cpt50_interval=None,
            cpt80=0.8,
            cpt80_interval=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, None where undefined."""
        return {
            "apgr": self.apgr,
            "apgr_interval": _list(self.apgr_interval),
            "cpt50": self.cpt50,
            "cpt80": self.cpt80,
            "cpt50_interval": _list(self.cpt50_interval),
            "cpt80_interval": _list(self.cpt80_interval),
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much router `a` is better than router `b`, in APGR, on the same prompts.

    Attributes:
        a: Its name.
        b: Its name.
        way: By which curve.
        apgr: APGR of `a` minus that of `b`.
        apgr_interval: Of the difference, over paired resamples.
        p_value: Of "a is no better than b", one-sided; small speaks for `a`.
    """

    a: str
    b: str
    way: Way
    apgr: float
    apgr_interval: Interval | None
    p_value: float | None

    @classmethod
    def of(
        cls, ours: tuple[str, Figures, Resampled], theirs: tuple[str, Figures, Resampled | None], *, level: float
    ) -> Difference:
        """Of two scorers on the same resamples, each with its name and figures of one way.

        Without resamples of the second one its APGR is taken as known: that of chance.
        """
        (a, our_figures, our_draws), (b, their_figures, their_draws) = ours, theirs
        name = "paper_apgr" if our_figures.way == "paper" else "apgr"
        other = their_figures.apgr if their_draws is None else getattr(their_draws, name)
        drawn = getattr(our_draws, name) - other
        return cls(
            a=a,
            b=b,
            way=our_figures.way,
            apgr=our_figures.apgr - their_figures.apgr,
            apgr_interval=interval(drawn, level),
            p_value=beats(drawn),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "way": self.way,
            "apgr": self.apgr,
            "apgr_interval": None if self.apgr_interval is None else list(self.apgr_interval),
            "p_value": self.p_value,
        }


def _list(found: Interval | None) -> list[float] | None:
    return None if found is None else list(found)
