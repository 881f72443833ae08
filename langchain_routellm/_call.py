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
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForChainRun,
)
from langchain_core.exceptions import ContextOverflowError
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_routellm._config import (
    DECISION,
    aside,
    for_child,
    joined_callbacks,
    metadata_of,
    split,
    with_defaults,
    without_record,
)
from langchain_routellm._escalated import Cascade
from langchain_routellm._first_token import FirstToken
from langchain_routellm._record import run_metadata
from langchain_routellm._usage import AnswerUsage, RunsUsage
from routellm_core.policy import (
    EscalationPolicy,
    RouteRequest,
    RoutingPolicy,
    Turns,
    error_to_raise,
    is_collecting,
    may_fall_back,
    observe,
)
from routellm_core.types import Decision

__all__ = ["Call", "Host", "adecide", "scoring", "turns"]

_logger = logging.getLogger("routellm_core.langchain")

turns = Turns()
"""Asynchronous calls pass here before they do anything: a thousand at once must not hold up their event loop."""


class Host(ABC):
    """A routing runnable, as the plumbing sees it. Holds no state of a call.

    Attributes:
        policy: What decides.
        name: Of the chain run.
        defaults: Callbacks, tags and metadata given to the constructor.
        verbose: Whether the chain run is printed.
        model_names_route: Whether the call argument `model=` is ours.
        decides_in_run: Whether a decision needs its call's own run, so that a batch cannot decide beforehand.
        hides_usage: Whether answers carry no token counts, so that a collector needs those of the runs below.
        escalates: Whether answers can be verified, as an `EscalationPolicy` asks for.
    """

    policy: RoutingPolicy
    name: str
    defaults: RunnableConfig
    verbose: bool = False
    model_names_route: bool = True
    decides_in_run: bool = False
    hides_usage: bool = False
    escalates: bool = False

    @abstractmethod
    def request(
        self,
        value: Any,
        settings: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        *,
        may_wait: bool,
        metadata: Mapping[str, Any] | None = None,
    ) -> RouteRequest:
        """What the policy needs to know; `may_wait` is False on an event loop."""

    def metadata(self, config: RunnableConfig) -> Mapping[str, Any] | None:
        """The metadata of a call's run, if the router wants to know of any."""
        return metadata_of(config, self.defaults) if self.policy.router.metadata_columns else None

    @abstractmethod
    def target(self, route: str, kwargs: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        """What to call for a route, and the keyword arguments of that call."""

    def in_tool_loop(self, value: Any) -> bool:
        """Whether the input ends in an open tool loop, be its beginning on record or not."""
        return False

    def child_input(self, value: Any, route: str) -> Any:
        """The input as the route's target takes it."""
        return value

    def override(self, call: Call, run: CallbackManagerForChainRun) -> Decision | None:
        """A decision that nothing has to be scored for."""
        return None

    async def aoverride(self, call: Call, run: AsyncCallbackManagerForChainRun) -> Decision | None:
        """`override`, awaiting what it calls."""
        return None

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
        self.settings, self.kwargs = split(self.config, kwargs, model_names_route=host.model_names_route)
        self.metadata = host.metadata(self.config)
        self.failures: list[tuple[str, Exception]] = []
        self.queue: list[Decision] | None = None
        self._first_token = None if host.policy.fallback == "none" else FirstToken()
        self._runs_usage: RunsUsage | None = None
        policy = host.policy
        self.cascade = Cascade(self, policy) if host.escalates and isinstance(policy, EscalationPolicy) else None

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
        return self.host.request(self.value, self.settings, self.kwargs, may_wait=may_wait, metadata=self.metadata)

    def decide(self, run: CallbackManagerForChainRun) -> Decision:
        """The first attempt; a batch has decided before."""
        given = self.settings.get(DECISION)
        if isinstance(given, Decision):
            return given
        override = self.host.override(self, run)
        if override is not None:
            return override
        with scoring(self.host.policy, self.config, run):
            return self.host.policy.decide([self.request(may_wait=True)])[0]

    async def adecide(self, run: AsyncCallbackManagerForChainRun) -> Decision:
        """`decide` without blocking the event loop."""
        given = self.settings.get(DECISION)
        if isinstance(given, Decision):
            return given
        override = await self.host.aoverride(self, run)
        if override is not None:
            return override
        with scoring(self.host.policy, self.config, run):
            return (await adecide(self.host, [self.request(may_wait=False)]))[0]

    # -- the attempts
    def marked(self, config: RunnableConfig, decision: Decision) -> RunnableConfig:
        """A child's config with the record in its metadata, and the watch for its first token."""
        # the record of a router around this one must not mix with ours: not every record has every field
        config = without_record(config)
        config["metadata"] = {**config["metadata"], **run_metadata(decision)}
        if self._first_token is not None:
            config["callbacks"] = joined_callbacks([self._first_token], config.get("callbacks"))
        if is_collecting():
            self._collecting(config)
        return config

    def _collecting(self, config: RunnableConfig) -> None:
        callbacks = config.get("callbacks") or []
        for handler in callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks:
            if isinstance(handler, RunsUsage):
                handler.is_nested = True  # what we take is said by us
        if self.host.hides_usage:
            self._runs_usage = RunsUsage()
            config["callbacks"] = joined_callbacks([self._runs_usage], callbacks)

    def observed(self, decision: Decision) -> AnswerUsage | None:
        """Tell the collectors whose answer it is; what adds up its token counts, if anybody wants them."""
        if not is_collecting():
            return None
        observe(decision)
        if self.cascade is not None:
            self.cascade.observe(decision)
        return self._runs_usage or AnswerUsage()

    def answered(self, decision: Decision, answer: Any) -> None:
        """Tell the collectors, once the whole answer is there."""
        usage = self.observed(decision)
        if usage is not None:
            usage.add(answer)
            usage.report(decision)

    def child(
        self,
        decision: Decision,
        run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
    ) -> tuple[Runnable[Any, Any], Any, RunnableConfig, dict[str, Any]]:
        """What to call for an attempt: target, input, config and keyword arguments."""
        config = self.marked(for_child(self.config, run.get_child()), decision)
        if self.cascade is not None:
            kept = self.cascade.before(decision, config, may_wait=not isinstance(run, AsyncCallbackManagerForChainRun))
            if kept is not None:
                return kept, self.value, config, {}
        target, kwargs = self.host.target(decision.route, self.kwargs)
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

    # -- once the answer is there
    def buffers(self, decision: Decision) -> bool:
        """Whether this attempt's answer is to be verified as a whole before anybody sees it."""
        return self.cascade is not None and self.cascade.buffers(decision)

    def verified(
        self, run: CallbackManagerForChainRun, decision: Decision, answer: Any, parts: list[Any] | None = None
    ) -> Decision:
        """The decision for the answer that the caller gets; it names another route where that must answer instead.

        Args:
            run: The chain run.
            decision: Of the attempt.
            answer: The whole of it.
            parts: Its chunks or events, if it came as such.
        """
        if self.cascade is None:
            return decision
        return self.cascade.verified(run, decision, answer, answer if parts is None else parts)

    async def averified(
        self, run: AsyncCallbackManagerForChainRun, decision: Decision, answer: Any, parts: list[Any] | None = None
    ) -> Decision:
        """`verified` without blocking the event loop."""
        if self.cascade is None:
            return decision
        return await self.cascade.averified(run, decision, answer, answer if parts is None else parts)

    def next_attempt(self, decision: Decision, error: Exception, *, may_wait: bool) -> Decision:
        """The attempt after a failed one.

        Raises:
            Exception: `error`, when it is not one that another route could survive; the first error of
                this call, with the others attached, when no route is left.
        """
        self.failures.append((decision.route, error))
        if self._first_token is not None and self._first_token.seen:
            raise error_to_raise(self.failures, last_is_passing=False)  # the reader has the beginning of an answer
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
    """A router that is itself built on a chat model runs `aside`."""
    if policy.router.is_quick:  # then it calls no model
        yield
        return
    with aside(config, run):
        yield


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
