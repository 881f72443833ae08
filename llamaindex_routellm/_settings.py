"""The words about routing: from arguments to a policy, and back into dumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routellm_core.errors import ConfigurationError
from routellm_core.policy import RoutingPolicy

__all__ = ["make_policy", "refuse_settings", "settings_of"]

_OF_BACKENDS = ("system_prompt", "output_parser", "query_wrapper_prompt", "messages_to_prompt", "completion_to_prompt",
                "rate_limiter")


def refuse_settings(others: Mapping[str, Any], text: object) -> None:
    """Refuse arguments that would have no effect here.

    Raises:
        ConfigurationError: Says where they take effect, or that they are unknown.
    """
    for name, value in others.items():
        if name not in _OF_BACKENDS:
            raise ConfigurationError(f"RouteLLM has no argument {name!r}")
        if value is not None:
            raise ConfigurationError(f"set {name} on the backends, where it takes effect, not on RouteLLM")
    if text is not None and not callable(text):
        raise ConfigurationError(f"text= is a function from messages to a str, got {type(text).__name__}")


def make_policy(policy: RoutingPolicy | None, routes: tuple[str, ...], words: Mapping[str, Any]) -> RoutingPolicy:
    """The given policy, or one from the words that were given.

    Raises:
        ConfigurationError: Both were given, or the policy is about other routes.
    """
    given = {name: value for name, value in words.items() if value is not None}
    if policy is None:
        return RoutingPolicy(routes=routes, **given)
    if not isinstance(policy, RoutingPolicy):
        raise ConfigurationError(f"policy= is a RoutingPolicy, got {type(policy).__name__}")
    if given:
        raise ConfigurationError(f"give policy=, or {', '.join(given)}; the policy already says it")
    if policy.routes != routes:
        raise ConfigurationError(f"the policy is about the routes {list(policy.routes)}, the models are "
                                 f"{list(routes)}; they must be the same, weakest first")
    return policy


def settings_of(policy: RoutingPolicy) -> dict[str, Any]:
    """The words that make such a policy again, as plain JSON."""
    cuts = list(policy.thresholds)
    return {
        "router": policy.router.name,
        "threshold": cuts[0] if len(cuts) == 1 else cuts,
        "stickiness": policy.stickiness,
        "fallback": policy.fallback,
        "on_error": policy.on_error,
        "router_timeout_s": policy.router_timeout_s,
    }
