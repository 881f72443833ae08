"""langchain_routellm: send each prompt to the cheapest LangChain chat model that answers it as well.

Importing does nothing but define names; each is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routellm_core._version import __version__

if TYPE_CHECKING:
    from langchain_routellm.chat_models import ChatRouteLLM as ChatRouteLLM

_NAMES = {"ChatRouteLLM": "langchain_routellm.chat_models"}

__all__ = ["ChatRouteLLM", "__version__"]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _NAMES:
        from routellm_core._lazy import need

        need("langchain_core", extra="langchain", why="langchain_routellm")
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'langchain_routellm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
