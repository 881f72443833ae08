"""N routes by quality and cost: the route with the highest predicted quality - tradeoff * cost."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.data.names import find_model
from routellm_core.errors import ConfigurationError, DataError, RouteLLMError, ScoringError, UnknownKindError
from routellm_core.policy.threshold import RouteRequest, RoutingPolicy
from routellm_core.routers import Router, router_and_threshold
from routellm_core.routers.metadata import Metadata, asked, check_takes_metadata
from routellm_core.types import Decision, Fallback, OnError, Stickiness

__all__ = ["CostAwarePolicy", "choose_models", "tradeoff_within"]

Floats = NDArray[np.float64]

_HALVINGS = 200


class _ScoresModels(Protocol):
    models: tuple[str, ...]

    def model_scores(self, prompts: Sequence[str]) -> Floats: ...


class CostAwarePolicy(RoutingPolicy):
    """Decides by quality_M(prompt) - tradeoff * cost_M instead of by thresholds; all other rules are the same.

    A decision holds the predicted quality of each route (`Decision.qualities`, from which other tradeoffs can be tried
    on recorded calls), and no win rate and no threshold: none was asked for. With two routes and tradeoffs from 0
    upwards it takes the very decisions that thresholds on the quality gap do.

    Args:
        router: Has `model_scores`: made by `fit_router(scores={...})`, or a matrix factorization; its folder or itself.
        costs_usd: What an average call of each route costs in US dollars, weakest route first, such as from
            `prices.cost_usd`. The keys are the routes.
        tradeoff: Quality that one US dollar a call must bring, on the scale of the router's scores; 0 takes the best
            whatever it costs. `tradeoff_within` finds the one that keeps to a mean cost.
        model_ids: Which of the router's models each route is, where it is not called the same.
        encoder: As for `RoutingPolicy`.
        stickiness: Likewise.
        fallback: Likewise; "stronger" goes by the order of the routes.
        on_error: Likewise; "strong" is the last route.
        router_timeout_s: Likewise.

    Raises:
        ConfigurationError: A router without scores by model, a cost or tradeoff that is negative or not finite, or two
            routes that are one model.
        UnknownKindError: A route that the router has no model for.
        RouteLLMError: The router cannot be loaded.

    Example:
        >>> policy = CostAwarePolicy("my-router", costs_usd={"small": 0.0002, "large": 0.004}, tradeoff=30.0)

    Source: Hu et al. 2024, arXiv:2403.12031 (RouterBench), the predictive routers.
    """

    def __init__(
        self,
        router: Router | str | Path,
        *,
        costs_usd: Mapping[str, float],
        tradeoff: float,
        model_ids: Mapping[str, str] | None = None,
        encoder: Any = None,
        stickiness: Stickiness = "tool_loop",
        fallback: Fallback = "none",
        on_error: OnError = "strong",
        router_timeout_s: float | None = None,
    ) -> None:
        if not isinstance(costs_usd, Mapping):
            raise ConfigurationError("costs_usd= is a dict of US dollars a call by route, weakest first")
        for route, cost in costs_usd.items():
            if not _is_amount(cost):
                raise ConfigurationError(f"the cost of route {route!r} must be US dollars from 0, got {cost!r}")
        if not _is_amount(tradeoff):
            raise ConfigurationError(f"tradeoff is a number from 0, got {tradeoff!r}")
        if isinstance(router, str) and router_and_threshold(router) is not None:
            raise ConfigurationError(f"{router!r} names a threshold, which a policy by cost has none of: give a folder")
        super().__init__(
            router,
            encoder=encoder,
            routes=tuple(costs_usd),
            stickiness=stickiness,
            fallback=fallback,
            on_error=on_error,
            router_timeout_s=router_timeout_s,
        )
        self.costs_usd = {route: float(cost) for route, cost in costs_usd.items()}
        self.tradeoff = float(tradeoff)
        self._costs = np.array(list(self.costs_usd.values()))
        if not callable(getattr(self.router, "model_scores", None)):
            raise ConfigurationError(
                f"router {self.router.name!r} of kind {self.router.kind!r} has no scores by model; "
                'fit_router(prompts, scores={model: ...}) makes one that has; "default" has those of its models'
            )
        self._scorer = cast(_ScoresModels, self.router)
        check_takes_metadata(self._scorer.model_scores, self.router.metadata_columns, self.router.name)
        ids = dict(model_ids or {})
        if unknown := [route for route in ids if route not in self.routes]:
            raise UnknownKindError(f"model_ids= names {unknown[0]!r}; the routes are {', '.join(self.routes)}")
        known = self._scorer.models
        try:
            found = [find_model(ids.get(route, route), known) for route in self.routes]
        except UnknownKindError as error:
            raise UnknownKindError(f"{error}; {_about_names(self.router)}") from None
        if len(set(found)) < len(found):
            raise ConfigurationError(f"two routes are one model: {dict(zip(self.routes, found, strict=True))}")
        self._columns = [known.index(model) for model in found]

    # -- no thresholds
    def _own_cuts(self, threshold: float | Sequence[float] | None, wanted: dict[str, Any]) -> tuple[float, ...]:
        return ()

    def _checked_cuts(self, threshold: float | Sequence[float]) -> tuple[float, ...]:
        raise ConfigurationError("this policy weighs quality against cost and has no threshold to change for a call")

    # -- scoring
    def _score(self, texts: list[str], metadata: Metadata | None) -> Floats:
        try:
            scores = asked(self._scorer.model_scores, texts, metadata)
        except RouteLLMError:
            raise
        except Exception as error:
            # the type only: somebody else's message may quote the prompt
            raise ScoringError(f"router {self.router.name!r} failed with {type(error).__name__}") from error
        return self._checked(scores, len(texts))

    def _ascore(self, texts: list[str], metadata: Metadata | None) -> None:
        return None

    def _checked(self, scores: Any, n_prompts: int) -> Floats:
        try:
            array = np.asarray(scores, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ScoringError(f"router {self.router.name!r} gave {type(scores).__name__}, not scores") from error
        if array.shape != (n_prompts, len(self._scorer.models)) or not np.isfinite(array).all():
            raise ScoringError(
                f"router {self.router.name!r} gave scores of shape {array.shape}, expected finite ones of shape "
                f"{(n_prompts, len(self._scorer.models))}"
            )
        return array

    def _fill(
        self,
        decisions: list[Decision | None],
        waiting: list[int],
        requests: Sequence[RouteRequest],
        win_rates: Floats,
        seconds: float,
    ) -> None:
        scorer_ms = round(seconds * 1e3 / len(waiting), 4)
        qualities = win_rates[:, self._columns]  # `_score` gave scores by model in their place
        chosen = choose_models(qualities, self._costs, self.tradeoff)
        for i, column, of_routes in zip(waiting, chosen.tolist(), qualities.tolist(), strict=True):
            decisions[i] = Decision(
                route=self.routes[column],
                reason="score",
                router=self.router.name,
                scorer_ms=scorer_ms,
                qualities=dict(zip(self.routes, of_routes, strict=True)),
            )

    def settings(self) -> dict[str, Any]:
        """As `RoutingPolicy.settings`; the threshold is None."""
        settings = super().settings()
        return {**settings, "threshold": None, "costs_usd": dict(self.costs_usd), "tradeoff": self.tradeoff}

    def __repr__(self) -> str:
        return f"CostAwarePolicy(router={self.router.name!r}, costs_usd={self.costs_usd}, tradeoff={self.tradeoff})"


def _about_names(router: Router) -> str:
    told = "the names in costs_usd= (or what model_ids= gives for them) must be names of the router's models"
    with_model = getattr(router, "with_model", None)
    if not callable(with_model):
        return told
    return f"{told}; router.with_model({', '.join(inspect.signature(with_model).parameters)}) adds one"


def choose_models(model_scores: ArrayLike, costs_usd: ArrayLike, tradeoff: float) -> NDArray[np.intp]:
    """For each prompt the model with the highest score - tradeoff * cost; of equals the cheaper.

    Args:
        model_scores: Predicted quality, shape (n, N).
        costs_usd: Of an average call, shape (N,).
        tradeoff: Quality that one US dollar a call must bring, from 0.

    Returns:
        Columns, shape (n,).

    Raises:
        DataError: Shapes that do not fit.
    """
    scores, costs = _checked_table(model_scores, costs_usd)
    by_cost = np.argsort(costs, kind="stable")
    chosen: NDArray[np.intp] = by_cost[np.argmax((scores - tradeoff * costs)[:, by_cost], axis=1)]
    return chosen


def tradeoff_within(model_scores: ArrayLike, costs_usd: ArrayLike, *, usd_per_call: float) -> float:
    """The smallest tradeoff whose choices cost at most `usd_per_call` on average.

    Args:
        model_scores: Of a sample of prompts like those to come, columns in the order of the costs, shape (n, N);
            `router.model_scores(prompts)` gives them. No labels are needed.
        costs_usd: Of an average call, shape (N,).
        usd_per_call: In US dollars.

    Raises:
        DataError: Shapes that do not fit, or no prompts.
        ConfigurationError: Less than the cheapest model costs.
    """
    scores, costs = _checked_table(model_scores, costs_usd)
    if len(scores) == 0:
        raise DataError("no prompts to find a tradeoff on")
    if not _is_amount(usd_per_call) or usd_per_call < costs.min():
        raise ConfigurationError(
            f"usd_per_call={usd_per_call!r} is less than the cheapest model's {costs.min():.4g} US dollars"
        )

    def mean_cost(tradeoff: float) -> float:
        return float(costs[choose_models(scores, costs, tradeoff)].mean())

    if mean_cost(0.0) <= usd_per_call:
        return 0.0
    # beyond the last turn the cheapest model answers everything
    low, high = 0.0, float(2 * np.ptp(scores) / np.diff(np.unique(costs)).min() + 1)
    for _ in range(_HALVINGS):  # the mean cost never rises with the tradeoff
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if mean_cost(middle) <= usd_per_call else (middle, high)
    return high


def _checked_table(model_scores: ArrayLike, costs_usd: ArrayLike) -> tuple[Floats, Floats]:
    scores, costs = np.asarray(model_scores, dtype=np.float64), np.asarray(costs_usd, dtype=np.float64)
    if scores.ndim != 2 or costs.shape != scores.shape[1:] or costs.size == 0:
        raise DataError(f"scores of shape {scores.shape} and costs of shape {costs.shape}: (n, N) and (N,) are needed")
    return scores, costs


def _is_amount(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < float("inf")
