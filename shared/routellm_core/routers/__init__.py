"""Prompts to win rates. `ROUTERS` maps a kind to its class; other distributions add theirs by entry point."""

from __future__ import annotations

from routellm_core.routers.base import Router
from routellm_core.routers.loading import ROUTERS, load_router, resolve_router
from routellm_core.routers.upstream import router_and_threshold

__all__ = ["ROUTERS", "Router", "load_router", "resolve_router", "router_and_threshold"]
