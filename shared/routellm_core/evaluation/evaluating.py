"""One router on one set: every figure that says how good it is, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.calibration import Calibration
from routellm_core.data.files import Source
from routellm_core.data.names import find_model
from routellm_core.errors import ConfigurationError, UnknownKindError
from routellm_core.evaluation.baselines import baseline_scores
from routellm_core.evaluation.costs import Cost, Prices, cost_of, costs_usd
from routellm_core.evaluation.figures import Difference, Figures
from routellm_core.evaluation.many_models import QualityOverCost, quality_over_cost
from routellm_core.evaluation.metrics import WAYS, Curve, curve, pgr, random_apgr_interval
from routellm_core.evaluation.reliability import Reliability, reliability
from routellm_core.evaluation.resampling import Resampled, interval, resample
from routellm_core.evaluation.scoring import RouterLike, Scored, scored
from routellm_core.evaluation.sets import EvaluationSet, as_evaluation_set
from routellm_core.routers.loading import resolve_router

__all__ = ["AtThreshold", "Baseline", "Evaluation", "GroupFigures", "evaluate"]

Floats: TypeAlias = NDArray[np.float64]

FEW_PROMPTS = 200
"""Below this a difference in APGR of .1 is noise, and everything that shows figures says so."""
_ROUTER = ""  # its name among the scorers; baselines have other names


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What needs no training, by both ways.

    Attributes:
        exact: By the exact curve.
        paper: As the paper computes it.
        quality: Mean score; only of the two that send everything one way, which have no curve.
        difference: How much better the router is than this, by the exact curve, over paired resamples.
    """

    exact: Figures | None
    paper: Figures | None
    quality: float | None = None
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, None where undefined."""
        if self.exact is None or self.paper is None:
            undefined = {"apgr": None, "apgr_interval": None, "cpt50": None, "cpt80": None}
            return {**undefined, "paper": dict(undefined), "quality": self.quality}
        difference = None if self.difference is None else self.difference.to_dict()
        return {**self.exact.to_dict(), "paper": self.paper.to_dict(), "difference": difference}


@dataclass(frozen=True, kw_only=True)
class AtThreshold:
    """What the threshold that the router was calibrated to does on this set.

    Attributes:
        threshold: Prompts with at least this win rate go strong.
        calibrated_share: The strong share it was calibrated for, on other prompts.
        strong_share: The share here.
        quality: Mean score of what it routes.
        pgr: Share of the gap that recovers.
    """

    threshold: float
    calibrated_share: float
    strong_share: float
    quality: float
    pgr: float

    @classmethod
    def of(cls, calibration: Calibration, win_rates: Floats, strong: Floats, weak: Floats) -> AtThreshold:
        """Route the set at the calibration's threshold."""
        chosen = win_rates >= calibration.threshold
        quality = float(np.where(chosen, strong, weak).mean())
        return cls(
            threshold=calibration.threshold,
            calibrated_share=calibration.strong_share,
            strong_share=float(chosen.mean()),
            quality=quality,
            pgr=pgr(quality=quality, weak=float(weak.mean()), strong=float(strong.mean())),
        )


@dataclass(frozen=True, kw_only=True)
class GroupFigures:
    """One topic, domain or category.

    Attributes:
        name: Of the group.
        n_prompts: In it.
        strong: Mean score of the strong model there.
        weak: Mean score of the weak model.
        apgr: Exact; None where the strong model is no better there.
        apgr_interval: Likewise.
        strong_share: Share of the group among those that go strong when half of all prompts do.
    """

    name: str
    n_prompts: int
    strong: float
    weak: float
    apgr: float | None
    apgr_interval: tuple[float, float] | None
    strong_share: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "n_prompts": self.n_prompts,
            "strong": self.strong,
            "weak": self.weak,
            "apgr": self.apgr,
            "apgr_interval": None if self.apgr_interval is None else list(self.apgr_interval),
            "strong_share": self.strong_share,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How good a router is on a set, beside baselines.

    Attributes:
        router: Its name.
        data: The set, without contaminated rows.
        scored: Its win rates and how long they took.
        exact: Figures by the exact curve.
        paper: Figures as the paper computes them.
        baselines: By name.
        groups: By name; empty without groups.
        reliability: None where the scores are not in 0..1 and so no probabilities.
        cost: None where neither data nor prices say what answers cost.
        over_cost: Choosing among all models of the set by quality and cost; None unless there are more than two,
            with costs, and the router scores each of them.
        at_threshold: What the router's own threshold does here; None for one that is not calibrated.
        drawn: The router's figures in each resample, for paired differences.
        curves: Exact curves of the baselines that put prompts in an order, by name.
        bands: Lower and upper end of PGR at `resampling.SHARES`, each shape (2, 101), by name of the baseline;
            the router's own under "".
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        level: Of every interval.
    """

    router: str
    data: EvaluationSet
    scored: Scored = field(repr=False)
    exact: Figures
    paper: Figures
    baselines: dict[str, Baseline] = field(repr=False)
    groups: dict[str, GroupFigures] = field(repr=False)
    reliability: Reliability | None = field(repr=False)
    cost: Cost | None
    over_cost: QualityOverCost | None = field(repr=False)
    at_threshold: AtThreshold | None
    drawn: Resampled = field(repr=False)
    curves: dict[str, Curve] = field(repr=False)
    bands: dict[str, Floats] = field(repr=False)
    n_resamples: int
    seed: int
    level: float

    @property
    def win_rates(self) -> Floats:
        """Shape (n,), in the order of the prompts."""
        return self.scored.win_rates

    @property
    def curve(self) -> Curve:
        """The exact curve."""
        return curve(self.win_rates, *self.data.checked_pair())

    @property
    def paper_curve(self) -> Curve:
        """The curve of eleven points."""
        return curve(self.win_rates, *self.data.checked_pair(), way="paper")

    @property
    def note(self) -> str:
        """What a reader must know before comparing figures; may be empty."""
        if len(self.data) < FEW_PROMPTS:
            return f"{self.data.name}: on {len(self.data)} prompts a difference in APGR under 0.1 is noise"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, None where undefined; no prompt text."""
        data, reliable = self.data, self.reliability
        return {
            "router": self.router,
            "n_prompts": len(data),
            "n_contaminated": data.n_contaminated,
            "n_incomplete": data.n_incomplete,
            "strong_model": data.strong,
            "weak_model": data.weak,
            "strong": float(data.strong_scores.mean()),
            "weak": float(data.weak_scores.mean()),
            **self.exact.to_dict(),
            "paper": self.paper.to_dict(),
            "baselines": {name: baseline.to_dict() for name, baseline in self.baselines.items()},
            "group_column": data.group_column,
            "groups": {name: group.to_dict() for name, group in self.groups.items()},
            "reliability": None if reliable is None else reliable.to_dict(),
            "cost": None if self.cost is None else self.cost.to_dict(),
            "over_cost": None if self.over_cost is None else self.over_cost.to_dict(),
            "at_threshold": None if self.at_threshold is None else asdict(self.at_threshold),
            "latency_ms": None
            if self.scored.batch_ms is None
            else {"batch": self.scored.batch_ms, "single": self.scored.single_ms},
            "data_digest": data.digest,
            "router_digest": self.scored.digest,
            "n_resamples": self.n_resamples,
            "seed": self.seed,
            "level": self.level,
            "note": self.note or None,
        }

    def to_frame(self) -> Any:
        """A pandas table: one row for the router, each baseline, and the router in each group.

        Raises:
            MissingExtraError: pandas is not installed (extra `eval`).
        """
        pandas = need("pandas", extra="eval", why="Evaluation.to_frame")
        rows = [self._row(self.router, "all", len(self.data), self.exact, self.paper)]
        for name, baseline in self.baselines.items():
            rows.append(self._row(name, "all", len(self.data), baseline.exact, baseline.paper))
        for name, group in self.groups.items():
            row = self._row(self.router, name, group.n_prompts, None, None)
            row["apgr"] = group.apgr
            row["apgr_low"], row["apgr_high"] = group.apgr_interval or (None, None)
            rows.append(row)
        frame = pandas.DataFrame(rows)
        numbers = [column for column in frame.columns if column not in ("set", "scorer", "group", "n_prompts")]
        return frame.astype({column: "Float64" for column in numbers})  # its missing value is no NaN

    def _row(
        self, scorer: str, group: str, n_prompts: int, exact: Figures | None, paper: Figures | None
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"set": self.data.name, "scorer": scorer, "group": group, "n_prompts": n_prompts}
        for prefix, figures in (("", exact), ("paper_", paper)):
            for name in ("apgr", "cpt50", "cpt80"):
                value = None if figures is None else getattr(figures, name)
                low, high = (None if figures is None else getattr(figures, f"{name}_interval")) or (None, None)
                row |= {f"{prefix}{name}": value, f"{prefix}{name}_low": low, f"{prefix}{name}_high": high}
        return row

    def plot(self) -> Any:
        """A matplotlib figure: quality over strong share with its band, beside the baselines.

        Raises:
            MissingExtraError: matplotlib is not installed (extra `eval`).
        """
        from routellm_core.evaluation.plots import curves_figure

        return curves_figure([self])


def evaluate(
    router: RouterLike,
    data: EvaluationSet | Source,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    prices: Prices | None = None,
    cache: str | Path | None = None,
    name: str | None = None,
) -> Evaluation:
    """Measure a router on prompts whose strong and weak answers are scored.

    Args:
        router: A `Router`, "default", a folder or hub name, or an array of win rates in the order of the prompts.
        data: A set, or anything `read_evaluation_set` reads.
        n_resamples: Bootstrap samples of the prompts.
        seed: Of the bootstrap and of the topic baseline's folds.
        level: Coverage of the intervals, 0..1.
        prices: US dollars per million tokens in and out, by model (or "strong" and "weak").
        cache: Folder that keeps win rates, see `scoring.scored`.
        name: What tables call the router; default: its own name.

    Raises:
        DataError: Data that cannot be read, a strong model that is no better than the weak one, the same
            difference on every prompt, or win rates that do not fit the prompts.
        ConfigurationError: An option out of range.
        RouteLLMError: As `load_router` and `Router.win_rate`.
    """
    if not 0.0 < level < 1.0:
        raise ConfigurationError(f"the level of an interval lies between 0 and 1, got {level!r}")
    if isinstance(router, (str, Path)):
        router = resolve_router(router)
    data = as_evaluation_set(data, getattr(router, "metadata_columns", ()))
    strong, weak = data.checked_pair()
    costs = costs_usd(data, prices)
    found = scored(router, data, cache=cache)
    win_rates = found.win_rates
    ordered = baseline_scores(data, seed=seed)
    drawn = resample(
        {_ROUTER: win_rates, **ordered},
        strong,
        weak,
        rng=np.random.default_rng(seed),
        n_resamples=n_resamples,
        with_curves=True,
    )

    exact, paper = _both_ways(win_rates, strong, weak, drawn[_ROUTER], level)
    if name is None:
        name = found.router if found.router is not None else "given"
    return Evaluation(
        router=name,
        data=data,
        scored=found,
        exact=exact,
        paper=paper,
        baselines=_baselines((name, exact, drawn[_ROUTER]), ordered, drawn, strong, weak, level),
        groups=_groups(data, win_rates, n_resamples=n_resamples, seed=seed, level=level),
        reliability=reliability(win_rates, strong, weak) if _are_probabilities(win_rates) else None,
        cost=None if costs is None else cost_of(curve(win_rates, strong, weak), win_rates, *costs),
        over_cost=_over_cost(router, data, n_resamples=n_resamples, seed=seed, level=level),
        at_threshold=None if found.calibration is None else AtThreshold.of(found.calibration, win_rates, strong, weak),
        drawn=replace(drawn[_ROUTER], pgr=drawn[_ROUTER].pgr[:0]),
        curves={name: curve(scores, strong, weak) for name, scores in ordered.items()},
        bands={name: _band(each.pgr, level) for name, each in drawn.items()},
        n_resamples=n_resamples,
        seed=seed,
        level=level,
    )


def _both_ways(scores: Floats, strong: Floats, weak: Floats, drawn: Resampled, level: float) -> tuple[Figures, Figures]:
    exact, paper = (Figures.of(curve(scores, strong, weak, way=way), drawn, level=level) for way in WAYS)
    return exact, paper


def _baselines(
    ours: tuple[str, Figures, Resampled],
    ordered: Mapping[str, Floats],
    drawn: Mapping[str, Resampled],
    strong: Floats,
    weak: Floats,
    level: float,
) -> dict[str, Baseline]:
    """Chance, those that put prompts in an order, and the two that send everything one way."""
    bounds = random_apgr_interval(strong, weak, level=level)
    exact, paper = (Figures.of_chance(bounds, way) for way in WAYS)
    difference = Difference.of(ours, ("random", exact, None), level=level)
    found = {"random": Baseline(exact=exact, paper=paper, difference=difference)}
    for name, scores in ordered.items():
        exact, paper = _both_ways(scores, strong, weak, drawn[name], level)
        difference = Difference.of(ours, (name, exact, drawn[name]), level=level)
        found[name] = Baseline(exact=exact, paper=paper, difference=difference)
    found["always_strong"] = Baseline(exact=None, paper=None, quality=float(strong.mean()))
    found["always_weak"] = Baseline(exact=None, paper=None, quality=float(weak.mean()))
    return found


def _over_cost(
    router: RouterLike, data: EvaluationSet, *, n_resamples: int, seed: int, level: float
) -> QualityOverCost | None:
    known = getattr(router, "models", ())
    if data.costs_usd is None or len(data.models) < 3 or not hasattr(router, "model_scores"):
        return None
    try:
        columns = [known.index(find_model(model, known)) for model in data.models]
    except UnknownKindError:
        return None
    predicted = router.model_scores(data.prompts)[:, columns]
    return quality_over_cost(predicted, data, n_resamples=n_resamples, seed=seed, level=level)


def _groups(
    data: EvaluationSet, win_rates: Floats, *, n_resamples: int, seed: int, level: float
) -> dict[str, GroupFigures]:
    if data.groups is None:
        return {}
    strong, weak = data.strong_scores, data.weak_scores
    chosen = win_rates >= np.quantile(win_rates, 0.5)
    groups = np.asarray(data.groups, dtype=object)
    found = {}
    for name in sorted(set(data.groups)):
        here = np.flatnonzero(groups == name)
        s, w = strong[here], weak[here]
        apgr = bounds = None
        if s.mean() > w.mean():
            apgr = curve(win_rates[here], s, w).apgr
            drawn = resample(
                {"": win_rates[here]},
                s,
                w,
                rng=np.random.default_rng(seed),
                n_resamples=n_resamples,
                with_paper=False,
            )
            bounds = interval(drawn[""].apgr, level)
        found[name] = GroupFigures(
            name=name,
            n_prompts=int(here.size),
            strong=float(s.mean()),
            weak=float(w.mean()),
            apgr=apgr,
            apgr_interval=bounds,
            strong_share=float(chosen[here].mean()),
        )
    return found


def _are_probabilities(win_rates: Floats) -> bool:
    return bool(((win_rates >= 0) & (win_rates <= 1)).all())


def _band(pgr: Floats, level: float) -> Floats:
    defined = pgr[np.isfinite(pgr).all(axis=1)]
    if len(defined) == 0:
        return np.full((2, pgr.shape[1]), np.nan)
    band: Floats = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return band
