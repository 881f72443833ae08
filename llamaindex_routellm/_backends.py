"""The LLMs behind the routes: resolved on first use, and told what the router is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, MessageRole
from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM

from llamaindex_routellm._providers import check_spec, make_llm
from routellm_core.errors import ConfigurationError
from routellm_core.policy import named_routes

__all__ = ["Backends", "as_function_calling", "checked_models", "own_messages"]


def checked_models(
    strong: LLM | str | None, weak: LLM | str | None, models: Mapping[str, LLM | str] | None
) -> dict[str, LLM | str]:
    """The routes, weakest first, from either form of the arguments.

    Raises:
        ConfigurationError: Both forms, half of one, or something that is no backend.
        UnknownKindError: A string names a provider that nobody knows.
    """
    chosen = named_routes(strong, weak, models)
    for name, backend in chosen.items():
        if isinstance(backend, str):
            check_spec(backend)
        elif not isinstance(backend, LLM):
            raise ConfigurationError(
                f"the backend of route {name!r} must be a LlamaIndex LLM or a string "
                f"'provider:model', got {type(backend).__name__}"
            )
    return chosen


def as_function_calling(backend: LLM) -> FunctionCallingLLM:
    """The backend as one that has the tool methods.

    Raises:
        ConfigurationError: It has none.
    """
    if not isinstance(backend, FunctionCallingLLM):
        raise ConfigurationError(
            f"{backend.class_name()} cannot call tools, and no other route was open to this call; "
            "give at least one backend that is a FunctionCallingLLM"
        )
    return backend


def own_messages(backend: LLM, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """A copy of the history, which backends append to, with the system role that this backend uses."""
    if all(message.role != MessageRole.SYSTEM for message in messages):
        return list(messages)
    role = backend.metadata.system_role
    if role == MessageRole.SYSTEM:
        return list(messages)
    return [m.model_copy(update={"role": role}) if m.role == MessageRole.SYSTEM else m for m in messages]


class Backends:
    """Route names to LLMs.

    Args:
        models: As given, weakest first; strings are resolved when their route is first used.
    """

    def __init__(self, models: Mapping[str, LLM | str]) -> None:
        self._models = models
        self._resolved: dict[str, LLM] = {name: llm for name, llm in models.items() if isinstance(llm, LLM)}
        self._shared: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> LLM:
        llm = self._resolved.get(name)
        return llm if llm is not None else self._resolve(name)

    async def aget(self, name: str) -> LLM:
        """The LLM of a route; what a string names is imported in a thread."""
        llm = self._resolved.get(name)
        return llm if llm is not None else await asyncio.to_thread(self._resolve, name)

    async def aresolve_all(self) -> None:
        """Resolve every route, so that reading metadata imports nothing on the event loop."""
        for name in self._models:
            if name not in self._resolved:
                await asyncio.to_thread(self._resolve, name)

    def all(self) -> dict[str, LLM]:
        """Every route's LLM, weakest first."""
        return {name: self[name] for name in self._models}

    def can_call_tools(self, name: str) -> bool:
        """Whether a route's model calls tools natively."""
        llm = self[name]
        return isinstance(llm, FunctionCallingLLM) and llm.metadata.is_function_calling_model

    def reader_of(self, name: str | None) -> FunctionCallingLLM | None:
        """Who reads the tool calls of a route's answer: its backend, if that has any.

        An answer without a record came from a caller who built it: the strongest that can reads it.
        """
        if name is not None and name in self._models:
            llm = self[name]
            return llm if isinstance(llm, FunctionCallingLLM) else None
        candidates = (self[route] for route in reversed(list(self._models)))
        return next((llm for llm in candidates if isinstance(llm, FunctionCallingLLM)), None)

    def share(self, attribute: str, value: Any) -> None:
        """Set an attribute on every backend, on those still to be resolved too."""
        with self._lock:
            self._shared[attribute] = value
            for llm in self._resolved.values():
                setattr(llm, attribute, value)

    def metadata(self) -> LLMMetadata:
        """What holds for every backend, because a prompt is packed before its route is known."""
        each = [llm.metadata for llm in self.all().values()]
        window = min(m.context_window for m in each)
        # The pair must leave what the tightest backend leaves for the prompt: the smallest window with the
        # largest output can leave less than nothing, and LlamaIndex then refuses to pack.
        room = min(m.context_window - (m.num_output if m.num_output > 0 else DEFAULT_NUM_OUTPUTS) for m in each)
        roles = {m.system_role for m in each}
        return LLMMetadata(
            context_window=window,
            num_output=window - room,
            is_chat_model=any(m.is_chat_model for m in each),  # a completion model's chat() works too
            is_function_calling_model=all(m.is_function_calling_model for m in each),
            model_name=f"routellm({'|'.join(m.model_name for m in each)})",
            system_role=roles.pop() if len(roles) == 1 else MessageRole.SYSTEM,
        )

    def _resolve(self, name: str) -> LLM:
        with self._lock:
            llm = self._resolved.get(name)
            if llm is None:
                llm = make_llm(str(self._models[name]))
                for attribute, value in self._shared.items():
                    setattr(llm, attribute, value)
                self._resolved[name] = llm
        return llm
