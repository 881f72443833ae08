"""Steering calls that other components make: context managers around them.

Every scope is a context variable, never a thread local: agent steps, workflow steps and asynchronous
synthesizers run in copied contexts, and so see the scope they were started in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from llama_index.core.instrumentation.dispatcher import active_instrument_tags  # type: ignore[attr-defined] # re-exported silently

from routellm_core.errors import ConfigurationError

__all__ = [
    "current_pins",
    "current_query",
    "force_route",
    "forced_route",
    "holding",
    "metadata_here",
    "metadata_scope",
    "pinned",
    "query_scope",
    "query_stack",
    "scope_query",
    "unsteered",
]

T = TypeVar("T")

_forced: ContextVar[str | None] = ContextVar("llamaindex_routellm_forced", default=None)
_metadata: ContextVar[Mapping[str, Any] | None] = ContextVar("llamaindex_routellm_metadata", default=None)
_pins: ContextVar[dict[object, str] | None] = ContextVar("llamaindex_routellm_pins", default=None)

query_stack: ContextVar[tuple[tuple[str | None, str], ...]] = ContextVar("llamaindex_routellm_query", default=())
"""Questions in force, innermost last, each with the span that set it (None: `query_scope` did)."""


@contextlib.contextmanager
def holding(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable this value inside."""
    token = variable.set(value)
    try:
        yield
    finally:
        # a generator that is left early, such as a streamed web response, is closed in another context
        with contextlib.suppress(ValueError):
            variable.reset(token)


@contextlib.contextmanager
def force_route(name: str) -> Iterator[None]:
    """Send every call inside to the route of this name; nothing is scored and nothing falls back.

    An answer that is streamed must be read inside the scope: streaming response synthesizers call the
    LLM only when they are read.

    Args:
        name: A route of every `RouteLLM` called inside.

    Raises:
        UnknownKindError: At the first call inside, when its router has no such route.

    Example:
        >>> with force_route("strong"):
        ...     llm.complete("hi")
    """
    with holding(_forced, name):
        yield


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep every `RouteLLM` on the route of its first call inside, such as a whole agent run.

    A fallback moves the pin to the route that answered; a forced call neither sets nor obeys it.

    Example:
        >>> with pinned():
        ...     handler = agent.run("Compare the two reports")
        >>> await handler
    """
    # one mapping for the scope, shared by reference: tasks started inside read and write the same pins
    with holding(_pins, {}):
        yield


@contextlib.contextmanager
def query_scope(text: str) -> Iterator[None]:
    """Score this text instead of the messages of every call inside.

    For calls whose messages hold more than the question, such as those of programs that fill their
    template before they call the LLM. A question that a prompt template carries still goes first.

    Args:
        text: The question being worked on.

    Example:
        >>> with query_scope(question):
        ...     program(context_str=documents)
    """
    with holding(query_stack, (*query_stack.get(), (None, text))):
        yield


@contextlib.contextmanager
def metadata_scope(metadata: Mapping[str, Any]) -> Iterator[None]:
    """Say what is known of every call inside, to routers that were fitted with metadata.

    Routers take the columns they know and leave the rest; scopes inside scopes add to each other. Nothing of it is sent
    to a backend. What LlamaIndex's own `instrument_tags` says is taken, too, where no scope says otherwise.

    An answer that is streamed must be read inside the scope, as with `force_route`.

    Args:
        metadata: Values by column: str, int, bool, an enum's member, or None where unknown.

    Raises:
        ConfigurationError: It is no mapping.

    Example:
        >>> with metadata_scope({"topic": "law", "tier": "paid"}):
        ...     index.as_query_engine(llm=llm).query("Who is liable?")
    """
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata_scope takes a mapping of columns to values, got {type(metadata).__name__}")
    with holding(_metadata, {**(_metadata.get() or {}), **metadata}):
        yield


def metadata_here() -> Mapping[str, Any]:
    """What is known of calls here."""
    return {**active_instrument_tags.get(), **(_metadata.get() or {})}


def forced_route() -> str | None:
    """The route forced here, if any."""
    return _forced.get()


def current_pins() -> dict[object, str] | None:
    """Routes pinned here by router; None outside `pinned`."""
    return _pins.get()


def current_query() -> str | None:
    """The question in force here, if any."""
    stack = query_stack.get()
    return stack[-1][1] if stack else None


def scope_query() -> str | None:
    """The question of the innermost `query_scope`, whatever a synthesis around this call is about."""
    return next((text for owner, text in reversed(query_stack.get()) if owner is None), None)


@contextlib.contextmanager
def unsteered() -> Iterator[None]:
    """No scope from outside reaches in: an LLM that scores is not what the caller meant to steer."""
    with holding(_forced, None), holding(_pins, None), holding(query_stack, ()):
        yield
