"""Models that answer, as the core sees them. Frameworks come in through resolvers that the adapters register."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

from routellm_core._lazy import Registry
from routellm_core.errors import ConfigurationError, MissingExtraError, RouteLLMError, UnknownKindError

__all__ = ["RESOLVERS", "Backend", "Generation", "Message", "is_passing", "resolve_backend", "status_of"]

RESOLVERS = Registry("framework", {}, group="routellm_core.backends")
"""Framework to `resolve(spec) -> Backend | None`; None says that the object or string is not its own."""

_CONFLICT_OR_BUSY = (408, 409, 429)
# before Python 3.11 the timeouts of asyncio and of futures are classes of their own
_UNREACHABLE = (ConnectionError, TimeoutError, asyncio.TimeoutError, FutureTimeoutError, socket.gaierror)
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_CLIENT_ERRORS = {
    "httpx": ("TransportError",),
    "httpx2": ("TransportError",),
    "requests": ("ConnectionError", "Timeout"),
    "aiohttp": ("ClientConnectionError", "ServerTimeoutError"),
}


class Message(TypedDict):
    """One turn of a conversation.

    Keys:
        role: Who speaks.
        content: What is said.
    """

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """An answer with what it used.

    Attributes:
        text: The answer.
        input_tokens: As the provider counted them; None if it did not say.
        output_tokens: The same for the answer.
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


@runtime_checkable
class Backend(Protocol):
    """A chat model of any framework.

    Attributes:
        name: What labels and bills call it; with a price list "provider:model".
    """

    name: str

    def generate(self, messages: Sequence[Message]) -> Generation:
        """Answer. Whatever error the provider's client raises comes out as it is."""
        ...

    async def agenerate(self, messages: Sequence[Message]) -> Generation:
        """`generate` without blocking the event loop."""
        ...


def resolve_backend(spec: Any, *, framework: str | None = None) -> Backend:
    """A backend as it is; a framework's chat model, or a "provider:model" string, as a backend.

    Args:
        spec: A `Backend`, a LangChain chat model, a LlamaIndex LLM, or a string such as "openai:gpt-4.1".
        framework: Ask only this resolver ("langchain", "llama-index"). None asks all in the order of their
            names, so a string that both can make becomes LangChain's.

    Raises:
        UnknownKindError: No framework of that name is registered, or none knows such an object or string.
        MissingExtraError: What the string needs is not installed; says what to install.
        ConfigurationError: A framework knows it and refuses it, for want of a key for example.
    """
    if spec is None or spec == "":
        raise ConfigurationError("a backend is a chat model or a 'provider:model' string, got nothing")
    refusals: list[RouteLLMError] = []
    for name in [framework] if framework is not None else RESOLVERS.kinds():
        try:
            resolve: Callable[[Any], Backend | None] = RESOLVERS.load(name)
            backend = resolve(spec)
        except RouteLLMError as error:  # not installed, or no key: perhaps the next one can
            if framework is not None:
                raise
            refusals.append(error)
            continue
        if backend is not None:
            return backend
    # only now: LangChain's chat models have methods of these names too, with other arguments
    if isinstance(spec, Backend) and not isinstance(spec, type):
        return spec
    what = repr(spec) if isinstance(spec, str) else f"an object of type {type(spec).__name__}"
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        kinds = {type(error) for error in refusals}
        cls = kinds.pop() if len(kinds) == 1 else ConfigurationError
        raise cls(f"no framework can make {what}: {'; '.join(str(error) for error in refusals)}")
    if not RESOLVERS.kinds():
        raise MissingExtraError(
            f"nothing here turns {what} into a backend: install this package (its adapters register themselves) with "
            "pip install 'routellm-integrations[langchain]' or 'routellm-integrations[llama-index]'"
        )
    raise UnknownKindError(
        f"no framework knows {what} (asked: {framework or ', '.join(RESOLVERS.kinds())}); give a LangChain chat model, "
        "a LlamaIndex LLM, a 'provider:model' string such as 'openai:gpt-4.1', or an object with name, generate() "
        "and agenerate()"
    )


def is_passing(error: BaseException) -> bool:
    """Whether a client's error is a passing one: busy, unreachable, late, or broken inside (5xx).

    An allow-list, because everything else (bad requests, wrong keys, parser errors, bugs, control
    flow of agent frameworks, cancellation) must reach the caller. Client libraries are recognised
    by what their errors carry, so none is imported.
    """
    if not isinstance(error, Exception):
        return False
    status = status_of(error)
    if status is not None:
        return status in _CONFLICT_OR_BUSY or status >= 500
    retryable = getattr(error, "is_retryable", None)
    if isinstance(retryable, bool):
        return retryable
    # client libraries raise an error of their own from the one their HTTP client met
    return _is_out_of_reach(error) or _is_out_of_reach(error.__cause__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status (400..599) an error carries, wherever its library puts it."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status_code"), (error, "code"), (error, "status"), (response, "status_code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return status
    return None


def _is_out_of_reach(error: BaseException | None) -> bool:
    if isinstance(error, _UNREACHABLE) or (isinstance(error, OSError) and error.errno in _NO_WAY):
        return True
    # some integrations let their HTTP client's errors out as they are
    for module, names in _CLIENT_ERRORS.items():
        client = sys.modules.get(module)
        if client is not None and isinstance(error, tuple(getattr(client, name) for name in names)):
            return True
    return False
