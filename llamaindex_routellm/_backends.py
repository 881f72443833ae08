"""The LLMs behind the routes: resolved on first use, and told what the router is told."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, MessageRole
from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM

from llamaindex_routellm._providers import check_spec, make_llm
from routellm_core.errors import ConfigurationError
from routellm_core.policy import may_fall_back, named_routes

__all__ = ["Backends", "as_function_calling", "checked_models", "checked_utility", "own_messages"]

_UTILITY = ""  # no route has an empty name
_PAUSE_S = 30.0  # for which a server that could not say what it runs is not asked again
_clock = time.monotonic
_logger = logging.getLogger("routellm_core.llama_index")


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


def checked_utility(utility: LLM | str | None, routes: Sequence[str]) -> LLM | str | None:
    """A route's name, or an LLM, or what names one.

    Raises:
        ConfigurationError: Something else.
        UnknownKindError: A string names a provider that nobody knows.
    """
    if isinstance(utility, str):
        if utility not in routes and ":" not in utility:
            raise ConfigurationError(
                f"utility_backend= is a route ({', '.join(routes)}), an LLM or 'provider:model', got {utility!r}"
            )
        if utility not in routes:
            check_spec(utility)
    elif utility is not None and not isinstance(utility, LLM):
        raise ConfigurationError(f"utility_backend= is a route, an LLM or a string, got {type(utility).__name__}")
    return utility


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
        utility: One that is behind no route.
    """

    def __init__(self, models: Mapping[str, LLM | str], utility: LLM | str | None = None) -> None:
        self._models = models
        self._specs = {**models, **({} if utility is None else {_UTILITY: utility})}
        self._resolved: dict[str, LLM] = {name: llm for name, llm in self._specs.items() if isinstance(llm, LLM)}
        self._prepared: set[str] = set()
        self._silent_until: dict[str, float] = {}
        self._lock = threading.Lock()
        self.shared: dict[str, Any] = {}

    def __getitem__(self, name: str) -> LLM:
        llm = self._resolved.get(name)
        return llm if llm is not None else self._resolve(name)

    async def aget(self, name: str) -> LLM:
        """The LLM of a route; what a string names is imported in a thread."""
        llm = self._resolved.get(name)
        return llm if llm is not None else await asyncio.to_thread(self._resolve, name)

    async def aprepare(self) -> None:
        """Import every route's LLM and let it learn its metadata in a thread: some ask their server, once."""
        for name in self._models:
            if name not in self._prepared:
                await asyncio.to_thread(self._prepare, name)

    def _prepare(self, name: str) -> None:
        try:
            known = self._told(name) is not None
        except Exception:  # noqa: BLE001 - who needs it will hear of it
            known = True
        if known:
            self._prepared.add(name)

    def _told(self, name: str) -> LLMMetadata | None:
        """What a route's model says of itself; None: its server cannot be asked now.

        A call to it will find out too, and another route may then answer.
        """
        llm = self[name]
        if self._silent_until.get(name, 0.0) > _clock():
            return None
        try:
            return llm.metadata
        except Exception as error:
            if not may_fall_back(error):
                raise
            _logger.warning("route %r does not say what its model can do: %s", name, type(error).__name__)
            self._silent_until[name] = _clock() + _PAUSE_S
            return None

    def told(self, name: str) -> LLMMetadata:
        """What a route's model says of itself; of one whose server cannot be asked, what is safe to assume."""
        return self._told(name) or self._assumed(self[name])

    @staticmethod
    def _assumed(llm: LLM) -> LLMMetadata:
        return LLMMetadata(  # and the smallest window that LlamaIndex knows
            is_chat_model=True,
            is_function_calling_model=isinstance(llm, FunctionCallingLLM),
            model_name=str(getattr(llm, "model", llm.class_name())),
        )

    @property
    def utility(self) -> LLM:
        """The LLM behind no route."""
        return self[_UTILITY]

    def room(self, name: str) -> int:
        """Tokens that a route's model leaves for the prompt."""
        return _room(self.told(name))

    def can_call_tools(self, name: str) -> bool:
        """Whether a route's model calls tools natively."""
        return isinstance(self[name], FunctionCallingLLM) and self.told(name).is_function_calling_model

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
            self.shared[attribute] = value
            for llm in self._resolved.values():
                setattr(llm, attribute, value)

    def metadata(self, *, tools: str, context: str) -> LLMMetadata:
        """What a prompt is packed and an agent chosen by, before the route is known.

        Args:
            tools: "all": every backend must call tools; "capable": one is enough.
            context: "min": what the tightest backend leaves; "escalate": what the widest does.
        """
        told = {name: self._told(name) for name in self._models}
        if not any(told.values()):
            _ = self[next(iter(self._models))].metadata  # raises, unless it is back
            self._silent_until.clear()
            return self.metadata(tools=tools, context=context)
        each = [said or self._assumed(self[name]) for name, said in told.items()]
        pick = min if context == "min" else max
        window = pick(m.context_window for m in each)
        # The pair must leave what that backend leaves for the prompt: the smallest window with the largest
        # output can leave less than nothing, and LlamaIndex then refuses to pack.
        room = pick(_room(m) for m in each)
        call_tools = [m.is_function_calling_model for m in each]
        roles = {m.system_role for m in each}
        return LLMMetadata(
            context_window=window,
            num_output=window - room,
            is_chat_model=any(m.is_chat_model for m in each),  # a completion model's chat() works too
            is_function_calling_model=all(call_tools) if tools == "all" else any(call_tools),
            model_name=f"routellm({'|'.join(m.model_name for m in each)})",
            system_role=roles.pop() if len(roles) == 1 else MessageRole.SYSTEM,
        )

    def _resolve(self, name: str) -> LLM:
        with self._lock:
            llm = self._resolved.get(name)
            if llm is None:
                llm = make_llm(str(self._specs[name]))
                for attribute, value in self.shared.items():
                    setattr(llm, attribute, value)
                self._resolved[name] = llm
        return llm


def _room(metadata: LLMMetadata) -> int:
    return metadata.context_window - (metadata.num_output if metadata.num_output > 0 else DEFAULT_NUM_OUTPUTS)
