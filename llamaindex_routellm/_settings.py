"""Arguments that LlamaIndex LLMs take and a router does not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from llamaindex_routellm._capability import ContextPolicy, ToolPolicy
from routellm_core.errors import ConfigurationError
from routellm_core.policy import POLICY_DEFAULTS

__all__ = ["SETTINGS_OF_BACKENDS", "check_choices", "refuse_settings"]

SETTINGS_OF_BACKENDS = (
    "system_prompt",
    "output_parser",
    "query_wrapper_prompt",
    "messages_to_prompt",
    "completion_to_prompt",
    "rate_limiter",
)


_OPTIONS = (
    *POLICY_DEFAULTS,
    *("strong", "weak", "models", "policy", "text", "normalize_history"),
    *("tool_policy", "context_policy", "utility_backend", "callback_manager", "pydantic_program_mode"),
)


def refuse_settings(others: Mapping[str, Any], text: object) -> None:
    """Refuse arguments that would have no effect here.

    Raises:
        ConfigurationError: Says where they take effect, or that they are unknown.
    """
    for name, value in others.items():
        if name == "escalation":  # of a dump; its threshold alone would keep weak answers unverified
            raise ConfigurationError(
                "a dump holds no verifier: restore a cascade as RouteLLM(models=..., policy=EscalationPolicy(...))"
            )
        if name not in SETTINGS_OF_BACKENDS:
            meant = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.75)
            raise ConfigurationError(
                f"RouteLLM has no argument {name!r}; "
                + (f"did you mean {meant[0]!r}?" if meant else "set what concerns the answer on its backends")
            )
        if value is not None:
            raise ConfigurationError(f"set {name} on the backends, where it takes effect, not on RouteLLM")
    if text is not None and not callable(text):
        raise ConfigurationError(f"text= is a function from messages to a str, got {type(text).__name__}")


def check_choices(tool_policy: Any, context_policy: Any) -> None:
    """Refuse words that are none of the choices.

    Raises:
        ConfigurationError: Lists the choices.
    """
    for name, value, kind in (
        ("tool_policy", tool_policy, ToolPolicy),
        ("context_policy", context_policy, ContextPolicy),
    ):
        if value not in get_args(kind):
            raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}")
