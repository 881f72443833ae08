"""Win rates to decisions. All routing rules stand here; adapters only ask and obey."""

from __future__ import annotations

from routellm_core.policy.arguments import POLICY_DEFAULTS, named_routes, policy_from, refuse_escalation
from routellm_core.policy.collect import (
    CollectedDecisions,
    Saving,
    collect_decisions,
    is_collecting,
    observe,
    observe_discarded,
    observe_usage,
)
from routellm_core.policy.escalation import EscalationPolicy
from routellm_core.policy.fallback import error_to_raise, may_fall_back
from routellm_core.policy.many_models import CostAwarePolicy, choose_models, tradeoff_within
from routellm_core.policy.text import conversation_text, routing_text
from routellm_core.policy.threshold import RouteRequest, RoutingPolicy
from routellm_core.policy.turns import Turns

__all__ = [
    "POLICY_DEFAULTS",
    "CollectedDecisions",
    "CostAwarePolicy",
    "EscalationPolicy",
    "RouteRequest",
    "RoutingPolicy",
    "Saving",
    "Turns",
    "choose_models",
    "collect_decisions",
    "conversation_text",
    "error_to_raise",
    "is_collecting",
    "may_fall_back",
    "named_routes",
    "observe",
    "observe_discarded",
    "observe_usage",
    "policy_from",
    "refuse_escalation",
    "routing_text",
    "tradeoff_within",
]
