"""The words every adapter takes, turned into routes and a policy; so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from routellm_core.errors import ConfigurationError
from routellm_core.policy.escalation import EscalationPolicy
from routellm_core.policy.threshold import RoutingPolicy

__all__ = ["POLICY_DEFAULTS", "named_routes", "policy_from", "refuse_escalation"]

Backend = TypeVar("Backend")

POLICY_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "router": "default",
        "encoder": None,
        "threshold": None,
        "strong_share": None,
        "budget": None,
        "quality_floor": None,
        "stickiness": "tool_loop",
        "fallback": "none",
        "on_error": "strong",
        "router_timeout_s": None,
    }
)
"""The routing options, and what they are when nobody gives them."""


def named_routes(
    strong: Backend | None, weak: Backend | None, models: Mapping[str, Backend] | None
) -> dict[str, Backend]:
    """The backends by route name, weakest first, from either form: `strong` and `weak`, or `models`.

    Raises:
        ConfigurationError: Neither, both, or half of a form; fewer than two routes; a name that is no text.
    """
    if models is not None and (strong is not None or weak is not None):
        raise ConfigurationError("give strong= and weak=, or models={name: backend} weakest first, not both")
    if models is None:
        if strong is None or weak is None:
            given = [name for name, value in (("strong", strong), ("weak", weak)) if value is not None]
            raise ConfigurationError(
                "give both strong= and weak=, or models={name: backend} weakest first; "
                f"got {' and '.join(given) or 'neither'}"
            )
        return {"weak": weak, "strong": strong}
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ConfigurationError("models= is a dict of at least two backends by name, weakest first")
    for name in models:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a route's name is a str that is not empty, got {name!r}")
    return dict(models)


def refuse_escalation(policy: object) -> None:
    """For adapters that decide by the prompt alone.

    Raises:
        ConfigurationError: The policy decides again once the weak answer is there.
    """
    if isinstance(policy, EscalationPolicy):
        # its first cut sends few prompts, or none, to the strong model at once: the rest would stay with the weak one
        raise ConfigurationError(
            "policy= is an EscalationPolicy, which decides again once the weak answer is there; here only the prompt "
            "decides, which would keep weak answers unverified. Give a RoutingPolicy, or use ChatRouteLLM (LangChain) "
            "or RouteLLM (LlamaIndex), which carry it out, or call both models yourself around EscalationPolicy.decide "
            "and .verified (docs/escalation.md)"
        )


def policy_from(
    policy: RoutingPolicy | None, routes: tuple[str, ...], options: Mapping[str, Any], *, escalates: bool = False
) -> RoutingPolicy:
    """The given policy, or a new one from the options that were given.

    Args:
        policy: Decides everything; then no option may say something else.
        routes: Names of the backends, weakest first.
        options: Any of `POLICY_DEFAULTS`; None, or the default, counts as not given.
        escalates: The adapter verifies weak answers, so that an `EscalationPolicy` may be given.

    Raises:
        ConfigurationError: The policy is none, is about other routes, decides again after the weak answer, which the
            adapter does not ask it to, or an option contradicts it.
        RouteLLMError: As `RoutingPolicy`.
    """
    given = {n: v for n, v in options.items() if v is not None and not _equal(v, POLICY_DEFAULTS[n])}
    if policy is None:
        return RoutingPolicy(routes=routes, **given)
    if not isinstance(policy, RoutingPolicy):
        raise ConfigurationError(f"policy= is a RoutingPolicy, got {type(policy).__name__}")
    if not escalates:
        refuse_escalation(policy)
    if policy.routes != routes:
        raise ConfigurationError(
            f"policy= routes between {', '.join(policy.routes)}, but the backends are "
            f"{', '.join(routes)} (weakest first)"
        )
    own = {**policy.settings(), "router": policy.router}
    extra = [name for name, value in given.items() if not _equal(value, own.get(name))]
    if extra:
        raise ConfigurationError(f"policy= decides it all: give {', '.join(extra)} to the RoutingPolicy instead")
    return policy


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one is other or one == other)
    except ValueError:  # an array of thresholds has no truth value
        return False
