"""LangChain chat models as the core's backends; registered in the entry-point group `routellm_core.backends`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routellm_core._lazy import need
from routellm_core.backends import Generation, Message

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

__all__ = ["ChatModelBackend", "resolve"]


def resolve(spec: Any) -> ChatModelBackend | None:
    """A chat model, bound arguments or not, or a "provider:model" string; None for anything else.

    Raises:
        MissingExtraError: It is a string, and LangChain or the provider's package is not installed.
        ConfigurationError: The provider is unknown to LangChain, or refuses.
    """
    if isinstance(spec, str):
        need("langchain_core", extra="langchain", why=f"the backend {spec!r}")
        from langchain_routellm._backends import made

        return ChatModelBackend(made(spec), name=spec)
    if "langchain_core" not in sys.modules:  # then this is nobody's chat model, and the import can be spared
        return None
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.runnables.base import RunnableBindingBase

    model = spec
    while isinstance(model, RunnableBindingBase):  # what bind(stop=...) and with_retry() make
        model = model.bound
    return ChatModelBackend(spec, name=_name(model)) if isinstance(model, BaseChatModel) else None


class ChatModelBackend:
    """A chat model as the core sees it.

    Args:
        model: Any.
        name: What labels and bills call it; "provider:model" as its traces have it unless given.
    """

    def __init__(self, model: BaseChatModel, *, name: str | None = None) -> None:
        self.model = model
        self.name = name or _name(model)

    def generate(self, messages: Sequence[Message]) -> Generation:
        return _generation(self.model.invoke(_turns(messages)))

    async def agenerate(self, messages: Sequence[Message]) -> Generation:
        return _generation(await self.model.ainvoke(_turns(messages)))


def _turns(messages: Sequence[Message]) -> list[Any]:
    return [(message["role"], message["content"]) for message in messages]


def _generation(answer: Any) -> Generation:
    usage = answer.usage_metadata or {}
    return Generation(
        text=answer.text, input_tokens=usage.get("input_tokens"), output_tokens=usage.get("output_tokens")
    )


def _name(model: BaseChatModel) -> str:
    known = model._get_ls_params()
    parts = (known.get("ls_provider"), known.get("ls_model_name"))
    return ":".join(part for part in parts if part) or type(model).__name__
