"""Several routers on the same prompts: differences, with intervals from the same resamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from routellm_core._lazy import need
from routellm_core.data.files import Source
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.evaluation.costs import Prices
from routellm_core.evaluation.evaluating import Evaluation, evaluate
from routellm_core.evaluation.figures import Difference
from routellm_core.evaluation.scoring import RouterLike
from routellm_core.evaluation.sets import EvaluationSet, as_evaluation_set

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Routers on one set.

    Attributes:
        evaluations: By name, all on the same prompts and resamples.
        differences: Of every pair, in the order given, by both ways.
    """

    evaluations: dict[str, Evaluation] = field(repr=False)
    differences: tuple[Difference, ...]

    @property
    def data(self) -> EvaluationSet:
        """The set."""
        return next(iter(self.evaluations.values())).data

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, None where undefined; no prompt text."""
        return {
            "routers": {name: evaluation.to_dict() for name, evaluation in self.evaluations.items()},
            "differences": [difference.to_dict() for difference in self.differences],
        }

    def to_frame(self) -> Any:
        """A pandas table with a row for each difference.

        Raises:
            MissingExtraError: pandas is not installed (extra `eval`).
        """
        pandas = need("pandas", extra="eval", why="Comparison.to_frame")
        rows = []
        for difference in self.differences:
            row = {"set": self.data.name, **difference.to_dict()}
            row["apgr_low"], row["apgr_high"] = row.pop("apgr_interval") or (None, None)
            rows.append(row)
        numbers = dict.fromkeys(("apgr", "apgr_low", "apgr_high", "p_value"), "Float64")
        return pandas.DataFrame(rows).astype(numbers)

    def plot(self) -> Any:
        """A matplotlib figure: quality over strong share of every router with its band.

        Raises:
            MissingExtraError: matplotlib is not installed (extra `eval`).
        """
        from routellm_core.evaluation.plots import curves_figure

        return curves_figure(list(self.evaluations.values()), names=list(self.evaluations))


def compare(
    routers: Mapping[str, RouterLike | Evaluation],
    data: EvaluationSet | Source,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    prices: Prices | None = None,
    cache: str | Path | None = None,
) -> Comparison:
    """Measure routers on the same prompts and resamples, and each pair's difference.

    Args:
        routers: At least two by name: what `evaluate` takes, or what it gave for this very set.
        data: A set, or anything `read_evaluation_set` reads.
        n_resamples: Bootstrap samples of the prompts.
        seed: Of the bootstrap.
        level: Coverage of the intervals, 0..1.
        prices: As for `evaluate`.
        cache: As for `evaluate`.

    Raises:
        ConfigurationError: Fewer than two routers.
        DataError: As `evaluate`, or an evaluation of other prompts, or drawn otherwise.
    """
    if not isinstance(routers, Mapping) or len(routers) < 2:
        raise ConfigurationError("give at least two routers, by name: compare({'a': ..., 'b': ...}, data)")
    columns = dict.fromkeys(c for router in routers.values() for c in getattr(router, "metadata_columns", ()))
    data = as_evaluation_set(data, columns)
    evaluations: dict[str, Evaluation] = {}
    for name, router in routers.items():
        if not isinstance(router, Evaluation):
            router = evaluate(
                router, data, n_resamples=n_resamples, seed=seed, level=level, prices=prices, cache=cache, name=name
            )
        elif router.data.digest != data.digest:
            raise DataError(
                f"the evaluation of {name!r} is of other prompts or scores ({router.data.name}, digest "
                f"{router.data.digest[:12]}) than {data.name} (digest {data.digest[:12]}): evaluate both on one set"
            )
        elif (router.n_resamples, router.seed) != (n_resamples, seed):
            raise DataError(
                f"the evaluation of {name!r} has {router.n_resamples} resamples by seed {router.seed}, not "
                f"{n_resamples} by seed {seed}: differences are paired only on the same resamples"
            )
        evaluations[name] = router
    differences = []
    for a, b in combinations(evaluations, 2):
        one, other = evaluations[a], evaluations[b]
        for ours, theirs in ((one.exact, other.exact), (one.paper, other.paper)):
            differences.append(Difference.of((a, ours, one.drawn), (b, theirs, other.drawn), level=level))
    return Comparison(evaluations=evaluations, differences=tuple(differences))
