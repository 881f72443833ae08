"""One chain run per call, one child run per attempt: the plumbing every routing runnable shares.

An LLM run cannot have children, so a router that called its backends from `_generate` would show up as two
sibling LLM runs, count usage twice and stream every token twice. Hence the public entry points are routed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    CallbackManager,
    CallbackManagerForChainRun,
)
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list, patch_config, var_child_runnable_config
from routellm_core.policy import RouteRequest, RoutingPolicy, may_fall_back, observe
from routellm_core.types import Decision

from langchain_routellm._config import DECISION, for_child, split, with_defaults
from langchain_routellm._record import run_metadata, stamped

__all__ = ["Call", "Host", "adecided", "ainvoke", "astream", "decided", "invoke", "stream"]

_logger = logging.getLogger("routellm_core.langchain")

_NOTHING = object()


class Host(ABC):
    """A routing runnable, as the plumbing sees it. Holds no state of a call.

    Attributes:
        policy: What decides.
        name: Of the chain run.
        defaults: Callbacks, tags and metadata given to the constructor.
        verbose: Whether the chain run is printed.
    """

    policy: RoutingPolicy
    name: str
    defaults: RunnableConfig
    verbose: bool = False

    @abstractmethod
    def request(self, value: Any, settings: Mapping[str, Any], kwargs: Mapping[str, Any], *,
                may_wait: bool) -> RouteRequest:
        """What the policy needs to know; `may_wait` is False on an event loop."""

    @abstractmethod
    def target(self, route: str, kwargs: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        """What to call for a route, and the keyword arguments of that call."""

    def child_input(self, value: Any, route: str) -> Any:
        """The input as the route's target takes it."""
        return value

    def is_ready(self, route: str) -> bool:
        """Whether `target` is quick for this route; if not, async calls run `make_ready` in a thread first."""
        return True

    def make_ready(self, route: str) -> None:  # noqa: B027 - nothing to do unless a host says otherwise
        """Do what makes `target` slow the first time."""


class Call:
    """The state of one call: its configuration, its decision, and the attempts that failed."""

    def __init__(self, host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> None:
        self.host = host
        self.value = value
        self.config = with_defaults(config, host.defaults)
        self.run_id = self.config.pop("run_id", None)
        self.settings, self.kwargs = split(self.config, kwargs)
        self.failures: list[tuple[str, Exception]] = []
        self.queue: list[Decision] | None = None

    # -- the chain run
    def _manager(self, cls: Any) -> Any:
        return cls.configure(self.config.get("callbacks"), None, self.host.verbose, self.config.get("tags"), None,
                             self.config.get("metadata"))

    def start(self) -> CallbackManagerForChainRun:
        """Open the chain run."""
        manager: CallbackManager = self._manager(CallbackManager)
        return manager.on_chain_start(None, self.value, name=self.config.get("run_name") or self.host.name,
                                      run_id=self.run_id)

    async def astart(self) -> AsyncCallbackManagerForChainRun:
        """Open the chain run."""
        manager: AsyncCallbackManager = self._manager(AsyncCallbackManager)
        return await manager.on_chain_start(None, self.value, name=self.config.get("run_name") or self.host.name,
                                            run_id=self.run_id)

    # -- the decision
    def request(self, *, may_wait: bool) -> RouteRequest:
        """What the policy needs to know of this call."""
        return self.host.request(self.value, self.settings, self.kwargs, may_wait=may_wait)

    def decide(self, run: CallbackManagerForChainRun) -> Decision:
        """The first attempt; a batch has decided before."""
        given = self.settings.get(DECISION)
        if isinstance(given, Decision):
            return given
        with _scoring(self.host.policy, self.config, run):
            return self.host.policy.decide([self.request(may_wait=True)])[0]

    async def adecide(self, run: AsyncCallbackManagerForChainRun) -> Decision:
        """`decide` without blocking the event loop."""
        given = self.settings.get(DECISION)
        if isinstance(given, Decision):
            return given
        with _scoring(self.host.policy, self.config, run):
            return (await _adecide(self.host, [self.request(may_wait=False)]))[0]

    # -- the attempts
    def child(self, decision: Decision, run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
              ) -> tuple[Runnable[Any, Any], Any, RunnableConfig, dict[str, Any]]:
        """What to call for an attempt: target, input, config and keyword arguments."""
        target, kwargs = self.host.target(decision.route, self.kwargs)
        config = for_child(self.config, run.get_child())
        config["metadata"] = {**config.get("metadata", {}), **run_metadata(decision)}
        return target, self.host.child_input(self.value, decision.route), config, kwargs

    async def achild(self, decision: Decision, run: AsyncCallbackManagerForChainRun,
                     ) -> tuple[Runnable[Any, Any], Any, RunnableConfig, dict[str, Any]]:
        """`child`, with what is slow the first time in a thread."""
        if not self.host.is_ready(decision.route):
            await asyncio.to_thread(self.host.make_ready, decision.route)
        return self.child(decision, run)

    def next_attempt(self, decision: Decision, error: Exception, *, may_wait: bool) -> Decision:
        """The attempt after a failed one.

        Raises:
            Exception: `error`, when it is not one that another route could survive; the first error of
                this call, with the others attached, when no route is left.
        """
        self.failures.append((decision.route, error))
        # what one model's context cannot hold another's may
        if not (may_fall_back(error) or isinstance(error, ContextOverflowError)):
            raise error
        if self.queue is None:
            policy = self.host.policy
            request = None if policy.fallback == "none" else self.request(may_wait=may_wait)
            self.queue = policy.attempts(decision, request)[1:]
        if not self.queue:
            raise _first_with_the_others(self.failures)
        following = self.queue.pop(0)
        _logger.warning("route %r failed with %s, trying %r", decision.route, type(error).__name__, following.route)
        return following


def _first_with_the_others(failures: list[tuple[str, Exception]]) -> Exception:
    first = failures[0][1]
    others = [(route, error) for route, error in failures[1:] if error is not first]
    for route, error in others:
        if hasattr(first, "add_note"):  # Python 3.11
            first.add_note(f"The fallback route {route!r} failed too: {type(error).__name__}: {error}")
    # the last one becomes the context of the first when that is raised; chain those in between to it
    for (_, earlier), (_, later) in pairwise(others):
        if later is not earlier and later.__context__ is None:
            later.__context__ = earlier
    return first


# -- deciding
@contextlib.contextmanager
def _scoring(policy: RoutingPolicy, config: RunnableConfig,
             run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun | None) -> Iterator[None]:
    """A router that is itself built on a chat model runs as our child, and its tokens stay out of the user's stream."""
    if policy.router.is_quick:  # then it calls no model
        yield
        return
    child = for_child(config, None if run is None else run.get_child())
    child["tags"] = [*child.get("tags", []), "nostream"]
    token = var_child_runnable_config.set(child)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


async def _adecide(host: Host, requests: list[RouteRequest]) -> list[Decision]:
    while True:
        decisions = await host.policy.adecide(requests)
        unready = [d.route for d in decisions if not host.is_ready(d.route)]
        if not unready:
            return decisions
        for route in dict.fromkeys(unready):
            await asyncio.to_thread(host.make_ready, route)
        # only now is it known what these routes can take
        if all(r.capable is None or r.capable(d.route) for d, r in zip(decisions, requests, strict=True)):
            return decisions


def _batch_calls(host: Host, inputs: Sequence[Any], configs: list[RunnableConfig], kwargs: dict[str, Any], *,
                 may_wait: bool) -> list[RouteRequest]:
    requests = []
    for value, config in zip(inputs, configs, strict=True):
        settings, rest = split(config, kwargs)
        requests.append(host.request(value, settings, rest, may_wait=may_wait))
    return requests


def _with_decisions(configs: list[RunnableConfig], decisions: list[Decision]) -> list[RunnableConfig]:
    return [patch_config(c, configurable={DECISION: d}) for c, d in zip(configs, decisions, strict=True)]


def decided(host: Host, inputs: Sequence[Any], config: Any, kwargs: dict[str, Any], *,
            return_exceptions: bool) -> list[RunnableConfig]:
    """One config per item of a batch, with its decision inside: the router is asked once for all of them."""
    configs = get_config_list(config, len(inputs))
    if len(inputs) < 2:
        return configs  # the item itself decides
    try:
        requests = _batch_calls(host, inputs, configs, kwargs, may_wait=True)
        with _scoring(host.policy, configs[0], None):
            return _with_decisions(configs, host.policy.decide(requests))
    except Exception:
        if not return_exceptions:
            raise
        return configs  # each item decides for itself, and only the bad ones fail


async def adecided(host: Host, inputs: Sequence[Any], config: Any, kwargs: dict[str, Any], *,
                   return_exceptions: bool) -> list[RunnableConfig]:
    """`decided` without blocking the event loop."""
    configs = get_config_list(config, len(inputs))
    if len(inputs) < 2:
        return configs
    try:
        requests = _batch_calls(host, inputs, configs, kwargs, may_wait=False)
        with _scoring(host.policy, configs[0], None):
            return _with_decisions(configs, await _adecide(host, requests))
    except Exception:
        if not return_exceptions:
            raise
        return configs


# -- the four ways to call
def invoke(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Any:
    """Decide, call the chosen target, and return its answer with the record."""
    call = Call(host, value, config, kwargs)
    run = call.start()
    try:
        decision = call.decide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = call.child(decision, run)
                answer = target.invoke(child_input, child_config, **child_kwargs)
                break
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=True)
        answer = stamped(answer, decision)
    except BaseException as error:
        run.on_chain_error(error)
        raise
    observe(decision)
    run.on_chain_end(answer)
    return answer


async def ainvoke(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Any:
    """`invoke`, awaiting the target's own asynchronous method."""
    call = Call(host, value, config, kwargs)
    run = await call.astart()
    try:
        decision = await call.adecide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = await call.achild(decision, run)
                answer = await target.ainvoke(child_input, child_config, **child_kwargs)
                break
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=False)
        answer = stamped(answer, decision)
    except BaseException as error:
        await run.on_chain_error(error)
        raise
    observe(decision)
    await run.on_chain_end(answer)
    return answer


def stream(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Iterator[Any]:
    """Decide, and yield the chosen target's chunks; another route is tried only before the first one.

    The first chunk carries the record, and no other: merging two would concatenate their values.
    """
    call = Call(host, value, config, kwargs)
    run = call.start()
    seen: list[Any] = []
    source: Any = None
    try:
        decision = call.decide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = call.child(decision, run)
                source = target.stream(child_input, child_config, **child_kwargs)
                chunk = next(source, _NOTHING)
                break
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=True)
        observe(decision)
        if chunk is not _NOTHING:
            chunk = stamped(chunk, decision)
            if run.handlers:
                seen.append(chunk)
            yield chunk
            for chunk in source:
                if run.handlers:
                    seen.append(chunk)
                yield chunk
    except GeneratorExit:  # the consumer has had enough
        _close(source)
        run.on_chain_end(_joined(seen))
        raise
    except BaseException as error:
        _close(source)
        run.on_chain_error(error)
        raise
    run.on_chain_end(_joined(seen))


async def astream(host: Host, value: Any, config: RunnableConfig | None,
                  kwargs: dict[str, Any]) -> AsyncIterator[Any]:
    """`stream`, over the target's own asynchronous method."""
    call = Call(host, value, config, kwargs)
    run = await call.astart()
    seen: list[Any] = []
    source: Any = None
    try:
        decision = await call.adecide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = await call.achild(decision, run)
                source = target.astream(child_input, child_config, **child_kwargs)
                chunk = await anext(source, _NOTHING)
                break
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=False)
        observe(decision)
        if chunk is not _NOTHING:
            chunk = stamped(chunk, decision)
            if run.handlers:
                seen.append(chunk)
            yield chunk
            async for chunk in source:
                if run.handlers:
                    seen.append(chunk)
                yield chunk
    except GeneratorExit:
        await _aclose(source)
        await run.on_chain_end(_joined(seen))
        raise
    except BaseException as error:
        await _aclose(source)
        await run.on_chain_error(error)
        raise
    await run.on_chain_end(_joined(seen))


def _close(source: Any) -> None:
    if hasattr(source, "close"):
        source.close()


async def _aclose(source: Any) -> None:
    if hasattr(source, "aclose"):
        await source.aclose()


def _joined(chunks: list[Any]) -> Any:
    """What the chunks amount to, for the trace."""
    if not chunks:
        return None
    whole, rest = chunks[0], chunks[1:]
    if isinstance(whole, AIMessageChunk):
        return whole.__add__(rest) if rest else whole  # at once, because pairwise is quadratic
    for chunk in rest:
        try:
            whole = whole + chunk
        except TypeError:  # structured output grows from chunk to chunk
            whole = chunk
    return whole
