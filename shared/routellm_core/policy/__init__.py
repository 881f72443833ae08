"""Win rates to decisions. All routing rules stand here; adapters only ask and obey."""

from __future__ import annotations

from routellm_core.policy.collect import collect_decisions, observe
from routellm_core.policy.fallback import may_fall_back
from routellm_core.policy.text import routing_text
from routellm_core.policy.threshold import RouteRequest, RoutingPolicy

__all__ = ["RouteRequest", "RoutingPolicy", "collect_decisions", "may_fall_back", "observe", "routing_text"]
