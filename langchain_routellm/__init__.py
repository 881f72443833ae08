"""langchain_routellm: send each prompt to the cheapest LangChain chat model that answers it as well.

Importing does nothing but define names; each is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routellm_core._version import __version__

if TYPE_CHECKING:
    from langchain_routellm.chat_models import ChatRouteLLM as ChatRouteLLM
    from langchain_routellm.encoders import LangChainEncoder as LangChainEncoder
    from langchain_routellm.middleware import RouteLLMMiddleware as RouteLLMMiddleware
    from langchain_routellm.recorder import CallRecorder as CallRecorder
    from langchain_routellm.runnables import RouterRunnable as RouterRunnable

_NAMES = {
    "CallRecorder": "langchain_routellm.recorder",
    "ChatRouteLLM": "langchain_routellm.chat_models",
    "LangChainEncoder": "langchain_routellm.encoders",
    "RouteLLMMiddleware": "langchain_routellm.middleware",
    "RouterRunnable": "langchain_routellm.runnables",
}

__all__ = [
    "CallRecorder",
    "ChatRouteLLM",
    "LangChainEncoder",
    "RouteLLMMiddleware",
    "RouterRunnable",
    "__version__",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _NAMES:
        from routellm_core._lazy import need

        need("langchain_core", extra="langchain", why="langchain_routellm")
        if name == "RouteLLMMiddleware":
            need("langchain", extra="langchain", why=name)
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'langchain_routellm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
