"""RouteLLMSelector: which of several query engines or retrievers a question is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata

from llamaindex_routellm._open_calls import OpenCall, current_call
from llamaindex_routellm._scopes import current_pins, forced_route, metadata_here, scope_query
from llamaindex_routellm._scoring import scoring
from llamaindex_routellm.events import announce, current_span
from routellm_core.calibration import Budget
from routellm_core.errors import ConfigurationError, UnknownKindError
from routellm_core.policy import EscalationPolicy, RouteRequest, RoutingPolicy, observe, policy_from
from routellm_core.routers import Router, router_and_threshold
from routellm_core.types import Decision, OnError

__all__ = ["RouteLLMSelector", "RoutedSelection"]


class RoutedSelection(SelectorResult):
    """What `RouteLLMSelector` selects; `RouterQueryEngine` puts it into `metadata["selector_result"]`.

    Attributes:
        routellm: The record, as `Decision.to_dict()` gives it; its route is the name of the choice.
    """

    routellm: dict[str, Any] = Field(default_factory=dict)


class RouteLLMSelector(BaseSelector):
    """Sends each question to the cheapest choice that is good enough for it, by its win rate.

    For `RouterQueryEngine` and `RouterRetriever`: simple questions to a plain index, hard ones to sub-questions, an
    agent or a larger index. It looks at the question alone, never at the choices' descriptions: what differs
    between them is how much they can do, not what they are about. No text is parsed, so no selection can be misread.

    A choice's route is called by its tool's name, where the tools have different ones; else "weak" and "strong", or
    "choice_1", "choice_2", ... `force_route` takes these names, and "weak" and "strong" for the first and the last
    choice. `pinned` keeps the choice of the first question; `query_scope(text)` has that text scored;
    `metadata_scope(...)` says what else is known of the question.

    Args:
        router: What scores: "default", a folder, a hub name or a `Router`; "router-mf-0.11593" names a published
            router together with its threshold, "llm:openai:gpt-4.1-nano" a chat model.
        encoder: With a router's name: the embedding model it reads, see `RouteLLM`.
        threshold: Win rates from here on go to the stronger choice, in [0, 1]; for N choices N-1 ascending numbers.
        strong_share: Instead, for two choices: the share of questions that should go to the stronger one.
        budget: Instead, for two choices: money and what calls cost, turned into such a share.
        quality_floor: Instead, for two choices: the fraction of the stronger one's mean quality to keep.
        policy: Instead of all words about routing: a `RoutingPolicy`; its routes are the choices' names, or stand
            for them in order.
        order: Names of the tools, weakest first. Default: the choices are in that order.
        on_error: The choice when scoring fails or there is nothing to score: "strong" (default, the last), "weak" (the
            first), or "raise".
        router_timeout_s: Seconds scoring may take; None: no limit, and a quick router scores inline.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range. When it selects: the number of
            choices is not that of the routes, or `order` names others.
        RouteLLMError: The router cannot be loaded.

    Example:
        >>> from routellm_core.testing import ScriptedRouter
        >>> selector = RouteLLMSelector(ScriptedRouter(lambda text: 0.9 if "prove" in text else 0.1), threshold=0.5)
        >>> selector.select(["one index", "sub-questions over all of them"], "prove it").reason
        'strong: win rate 0.9 of router scripted reaches 0.5'
    """

    def __init__(
        self,
        router: Router | str | Path = "default",
        *,
        encoder: Any = None,
        threshold: float | Sequence[float] | None = None,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        policy: RoutingPolicy | None = None,
        order: Sequence[str] | None = None,
        on_error: OnError | None = None,
        router_timeout_s: float | None = None,
    ) -> None:
        self._order = _checked_order(order)
        options = {
            "router": router,
            "encoder": encoder,
            "threshold": threshold,
            "strong_share": strong_share,
            "budget": budget,
            "quality_floor": quality_floor,
            "on_error": on_error,
            "router_timeout_s": router_timeout_s,
        }
        cut = [name for name in ("threshold", "strong_share", "budget", "quality_floor") if options[name] is not None]
        if isinstance(policy, EscalationPolicy):
            raise ConfigurationError(
                "policy= is an EscalationPolicy, which reads the weak answer; a selector chooses before anything is "
                "answered. Give it a RoutingPolicy, and the EscalationPolicy to the RouteLLM inside"
            )
        if isinstance(policy, RoutingPolicy):
            routes = policy.routes
        elif self._order is not None:
            routes = _places(len(self._order))
        else:
            routes = _places(1 + np.size(np.asarray(threshold, dtype=object)) if threshold is not None else 2)
        self._policy = policy_from(policy, routes, options)
        if self._order is not None and len(self._order) != len(routes):
            raise ConfigurationError(f"order= names {len(self._order)} choices, but policy= has {len(routes)} routes")
        named = isinstance(router, str) and router_and_threshold(router) is not None
        # with nothing said about cuts, those saved with the router serve any number of choices
        self._is_flexible = policy is None and self._order is None and not cut and not named
        self._by_number = {len(routes): self._policy}

    @property
    def routing_policy(self) -> RoutingPolicy:
        """What decides; its routes stand for the choices, weakest first."""
        return self._policy

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts_dict: Mapping[str, Any]) -> None:
        """There are none."""

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        ranked = self._ranked(choices)
        policy, request = self._asked(ranked, query)
        with scoring(policy.router):
            decision = policy.decide([request])[0]
        return self._selected(policy, ranked, decision)

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        ranked = self._ranked(choices)
        policy, request = self._asked(ranked, query)
        with scoring(policy.router):
            decision = (await policy.adecide([request]))[0]
        return self._selected(policy, ranked, decision)

    def _ranked(self, choices: Sequence[ToolMetadata]) -> list[tuple[str, int]]:
        """The name of each choice and its place among those given, weakest first."""
        names = [choice.name or "" for choice in choices]
        distinct = all(names) and len(set(names)) == len(names)
        order = self._order
        if order is None and distinct and set(self._policy.routes) == set(names):
            order = self._policy.routes
        if order is None:
            return list(zip(names if distinct else _places(len(names)), range(len(names)), strict=True))
        if not distinct or set(order) != set(names):
            raise ConfigurationError(
                f"order= names {', '.join(order)}, but the choices are {', '.join(names)}: give the tools names of "
                "their own, QueryEngineTool.from_defaults(..., name=...), and order= each of these once, weakest first"
            )
        return [(name, names.index(name)) for name in order]

    def _asked(self, ranked: list[tuple[str, int]], query: QueryBundle) -> tuple[RoutingPolicy, RouteRequest]:
        policy = self._policy_for(len(ranked))
        names = [name for name, _ in ranked]
        pins = current_pins()
        pin = None if pins is None else pins.get(self)
        forced = forced_route()
        text = scope_query()
        return policy, RouteRequest(
            text=query.query_str if text is None else text,
            forced=None if forced is None else policy.routes[_place_of(forced, names)],
            pinned=policy.routes[names.index(pin)] if pin in names else None,
            metadata=metadata_here() if policy.router.metadata_columns else None,
        )

    def _policy_for(self, n_choices: int) -> RoutingPolicy:
        policy = self._by_number.get(n_choices)
        if policy is None:
            if not self._is_flexible or n_choices < 2:
                n_routes = len(self._policy.routes)
                more = f", or threshold=[{n_choices - 1} ascending numbers]" if n_choices > 2 else ""
                raise ConfigurationError(
                    f"RouteLLMSelector got {n_choices} choice(s), but routes between {n_routes}: "
                    f"give it {n_routes} tools, weakest first{more}"
                )
            same = {name: getattr(self._policy, name) for name in ("router", "on_error", "router_timeout_s")}
            policy = self._by_number.setdefault(n_choices, RoutingPolicy(routes=_places(n_choices), **same))
        return policy

    def _selected(self, policy: RoutingPolicy, ranked: list[tuple[str, int]], decision: Decision) -> SelectorResult:
        name, index = ranked[policy.routes.index(decision.route)]
        qualities = decision.qualities
        if qualities is not None:  # by the choices' names, too
            qualities = {ranked[policy.routes.index(route)][0]: quality for route, quality in qualities.items()}
        decision = replace(decision, route=name, qualities=qualities)
        pins = current_pins()
        if pins is not None and decision.reason != "forced":
            pins.setdefault(self, name)
        announce(decision, OpenCall(current_call.get(), name, current_span()))
        observe(decision)
        selection = SingleSelection(index=index, reason=_in_words(decision))
        return RoutedSelection(selections=[selection], routellm=decision.to_dict())


def _in_words(decision: Decision) -> str:
    if decision.reason == "score" and decision.win_rate is None:  # of a policy that weighs quality against cost
        return f"{decision.route}: the best quality for its cost, by router {decision.router}"
    if decision.reason == "score":
        win_rate, threshold = cast(float, decision.win_rate), cast(float, decision.threshold)
        held = "reaches" if win_rate >= threshold else "is below"
        return f"{decision.route}: win rate {win_rate:.4g} of router {decision.router} {held} {threshold:.4g}"
    words = {
        "forced": "forced by the caller",
        "pinned": "pinned to the choice of the first question",
        "no_text": "nothing to score",
        "scorer_error": f"scoring failed ({decision.error})",
    }
    return f"{decision.route}: {words.get(decision.reason, decision.reason)}"


def _place_of(forced: str, names: list[str]) -> int:
    if forced in names:
        return names.index(forced)
    ends = {"weak": 0, "strong": len(names) - 1}  # so that one scope reaches a RouteLLM inside too
    if forced not in ends:
        raise UnknownKindError(
            f"unknown route {forced!r}; the choices are {', '.join(names)} (weak is the first, strong the last)"
        )
    return ends[forced]


def _places(n_routes: int) -> tuple[str, ...]:
    return ("weak", "strong") if n_routes == 2 else tuple(f"choice_{i}" for i in range(1, n_routes + 1))


def _checked_order(order: Sequence[str] | None) -> tuple[str, ...] | None:
    if order is None:
        return None
    names = () if isinstance(order, str) else tuple(order)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(n, str) and n for n in names):
        raise ConfigurationError(f"order= is at least two different names of tools, weakest first, got {order!r}")
    return names
