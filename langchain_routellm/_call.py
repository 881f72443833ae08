"""One call on its way: who hosts it, what was decided, and which attempts failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    CallbackManager,
    CallbackManagerForChainRun,
)
from langchain_core.exceptions import ContextOverflowError
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from langchain_routellm._config import DECISION, for_child, split, with_defaults
from langchain_routellm._record import run_metadata
from routellm_core.policy import RouteRequest, RoutingPolicy, error_to_raise, may_fall_back
from routellm_core.types import Decision

__all__ = ["Call", "Host", "adecide", "scoring"]

_logger = logging.getLogger("routellm_core.langchain")


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
    def request(
        self, value: Any, settings: Mapping[str, Any], kwargs: Mapping[str, Any], *, may_wait: bool
    ) -> RouteRequest:
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
        return cls.configure(
            self.config.get("callbacks"),
            None,
            self.host.verbose,
            self.config.get("tags"),
            None,
            self.config.get("metadata"),
        )

    def start(self) -> CallbackManagerForChainRun:
        """Open the chain run."""
        manager: CallbackManager = self._manager(CallbackManager)
        return manager.on_chain_start(
            None, self.value, name=self.config.get("run_name") or self.host.name, run_id=self.run_id
        )

    async def astart(self) -> AsyncCallbackManagerForChainRun:
        """Open the chain run."""
        manager: AsyncCallbackManager = self._manager(AsyncCallbackManager)
        return await manager.on_chain_start(
            None, self.value, name=self.config.get("run_name") or self.host.name, run_id=self.run_id
        )

    # -- the decision
    def request(self, *, may_wait: bool) -> RouteRequest:
        """What the policy needs to know of this call."""
        return self.host.request(self.value, self.settings, self.kwargs, may_wait=may_wait)

    def decide(self, run: CallbackManagerForChainRun) -> Decision:
        """The first attempt; a batch has decided before."""
        given = self.settings.get(DECISION)
        if isinstance(given, Decision):
            return given
        with scoring(self.host.policy, self.config, run):
            return self.host.policy.decide([self.request(may_wait=True)])[0]

    async def adecide(self, run: AsyncCallbackManagerForChainRun) -> Decision:
        """`decide` without blocking the event loop."""
        given = self.settings.get(DECISION)
        if isinstance(given, Decision):
            return given
        with scoring(self.host.policy, self.config, run):
            return (await adecide(self.host, [self.request(may_wait=False)]))[0]

    # -- the attempts
    def child(
        self,
        decision: Decision,
        run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
    ) -> tuple[Runnable[Any, Any], Any, RunnableConfig, dict[str, Any]]:
        """What to call for an attempt: target, input, config and keyword arguments."""
        target, kwargs = self.host.target(decision.route, self.kwargs)
        config = for_child(self.config, run.get_child())
        config["metadata"] = {**config.get("metadata", {}), **run_metadata(decision)}
        return target, self.host.child_input(self.value, decision.route), config, kwargs

    async def achild(
        self,
        decision: Decision,
        run: AsyncCallbackManagerForChainRun,
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
            raise error_to_raise(self.failures, last_is_passing=False)
        if self.queue is None:
            policy = self.host.policy
            request = None if policy.fallback == "none" else self.request(may_wait=may_wait)
            self.queue = policy.attempts(decision, request)[1:]
        if not self.queue:
            raise error_to_raise(self.failures, last_is_passing=True)
        following = self.queue.pop(0)
        _logger.warning("route %r failed with %s, trying %r", decision.route, type(error).__name__, following.route)
        return following


@contextlib.contextmanager
def scoring(
    policy: RoutingPolicy,
    config: RunnableConfig,
    run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun | None,
) -> Iterator[None]:
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


async def adecide(host: Host, requests: list[RouteRequest]) -> list[Decision]:
    """The policy's decisions, with their routes ready to be called."""
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
