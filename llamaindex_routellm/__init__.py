"""RouteLLM for LlamaIndex: an LLM that sends each call to the weakest backend that answers it as well.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routellm_core._version import __version__

if TYPE_CHECKING:
    from llamaindex_routellm._scopes import force_route as force_route
    from llamaindex_routellm._scopes import metadata_scope as metadata_scope
    from llamaindex_routellm._scopes import pinned as pinned
    from llamaindex_routellm._scopes import query_scope as query_scope
    from llamaindex_routellm.encoders import LlamaIndexEncoder as LlamaIndexEncoder
    from llamaindex_routellm.events import RoutingDecisionEvent as RoutingDecisionEvent
    from llamaindex_routellm.events import SynthesisQueryTracker as SynthesisQueryTracker
    from llamaindex_routellm.llm import RouteLLM as RouteLLM
    from llamaindex_routellm.selectors import RouteLLMSelector as RouteLLMSelector

_NAMES = {
    "LlamaIndexEncoder": "llamaindex_routellm.encoders",
    "RouteLLM": "llamaindex_routellm.llm",
    "RouteLLMSelector": "llamaindex_routellm.selectors",
    "RoutingDecisionEvent": "llamaindex_routellm.events",
    "SynthesisQueryTracker": "llamaindex_routellm.events",
    "force_route": "llamaindex_routellm._scopes",
    "metadata_scope": "llamaindex_routellm._scopes",
    "pinned": "llamaindex_routellm._scopes",
    "query_scope": "llamaindex_routellm._scopes",
}

__all__ = [
    "LlamaIndexEncoder",
    "RouteLLM",
    "RouteLLMSelector",
    "RoutingDecisionEvent",
    "SynthesisQueryTracker",
    "__version__",
    "force_route",
    "metadata_scope",
    "pinned",
    "query_scope",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'llamaindex_routellm' has no attribute {name!r}")
    import importlib

    from routellm_core._lazy import need

    need("llama_index.core", extra="llama-index", why="llamaindex_routellm")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
