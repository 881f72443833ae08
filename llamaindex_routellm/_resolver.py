"""LlamaIndex LLMs as the core's backends; registered in the entry-point group `routellm_core.backends`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from routellm_core._lazy import need
from routellm_core.backends import Generation, Message

if TYPE_CHECKING:
    from llama_index.core.base.llms.types import ChatMessage, ChatResponse
    from llama_index.core.llms.llm import LLM

__all__ = ["LLMBackend", "resolve"]


def resolve(spec: Any) -> LLMBackend | None:
    """An LLM, or a "provider:model" string; None for anything else.

    Raises:
        MissingExtraError: It is a string, and LlamaIndex or the provider's package is not installed.
        UnknownKindError: The provider is not in the table.
        ConfigurationError: The provider refuses.
    """
    if isinstance(spec, str):
        need("llama_index.core", extra="llama-index", why=f"the backend {spec!r}")
        from llamaindex_routellm._providers import check_spec, make_llm

        check_spec(spec)
        return LLMBackend(make_llm(spec), name=spec)
    if "llama_index.core" not in sys.modules:  # then this is nobody's LLM, and the import of seconds can be spared
        return None
    from llama_index.core.llms.llm import LLM

    return LLMBackend(spec) if isinstance(spec, LLM) else None


class LLMBackend:
    """An LLM as the core sees it.

    Args:
        llm: Any.
        name: What labels and bills call it; unless given "provider:model" for the providers that strings
            can name, else the model's name alone, since nobody knows whose server it is.
    """

    def __init__(self, llm: LLM, *, name: str | None = None) -> None:
        self.llm = llm
        self._given = name

    @cached_property
    def name(self) -> str:
        """Asked for late: some integrations call their server to say what they are."""
        return self._given or _name(self.llm)

    def generate(self, messages: Sequence[Message]) -> Generation:
        return _generation(self.llm.chat(_turns(self.llm, messages)))

    async def agenerate(self, messages: Sequence[Message]) -> Generation:
        return _generation(await self.llm.achat(_turns(self.llm, messages)))


def _turns(llm: LLM, messages: Sequence[Message]) -> list[ChatMessage]:
    from llama_index.core.base.llms.types import ChatMessage

    from llamaindex_routellm._backends import own_messages

    return own_messages(llm, [ChatMessage(role=m["role"], content=m["content"]) for m in messages])


def _generation(answer: ChatResponse) -> Generation:
    from llama_index.core.callbacks.token_counting import get_tokens_from_response

    # counts of zero are how that function says that there are none
    asked, answered = get_tokens_from_response(answer)
    return Generation(
        text=answer.message.content or "", input_tokens=asked or None, output_tokens=answered if asked else None
    )


def _name(llm: LLM) -> str:
    from llamaindex_routellm._providers import PROVIDERS

    model = llm.metadata.model_name
    home = type(llm).__module__
    for provider, target in PROVIDERS.table.items():
        package = target.partition(":")[0]
        if home == package or home.startswith(f"{package}."):
            return f"{provider}:{model}"
    return model
