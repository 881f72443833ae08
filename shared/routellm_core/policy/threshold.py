"""Two or N routes, cut by thresholds on the win rate."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Budget
from routellm_core.calibration.thresholds import check_thresholds
from routellm_core.errors import ConfigurationError, DataError, RouteLLMError, ScoringError, UnknownKindError
from routellm_core.policy.breaker import Breaker
from routellm_core.policy.threads import ScoringThreads
from routellm_core.policy.turns import Turns
from routellm_core.routers import Router, resolve_router, router_and_threshold
from routellm_core.routers.base import checked_win_rates
from routellm_core.routers.metadata import Metadata, asked, check_takes_metadata, known_metadata
from routellm_core.types import Decision, Fallback, OnError, Reason, Stickiness

__all__ = ["RouteRequest", "RoutingPolicy"]

_logger = logging.getLogger("routellm_core.policy")

# what a quick router may score on an event loop; it reads 8 prompts, or one of 16,000 characters, in a millisecond
_INLINE_PROMPTS = 8
_INLINE_CHARACTERS = 262_144
_turns = Turns(_INLINE_PROMPTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteRequest:
    """What an adapter knows about one call before it is scored.

    Attributes:
        text: What to score; None or blank: there is nothing.
        forced: Route the caller named.
        tool_loop: Route that began the tool loop the history ends in, if its answer is on record.
        pinned: Route that the caller pinned the calls of a scope to.
        conversation: Route of the newest answer on record.
        threshold: Cut or cuts for this call instead of the policy's.
        stickiness: For this call instead of the policy's.
        metadata: What else is known of the call, by column, such as {"topic": "law", "tier": None}: whatever the router
            wants of it (`Router.metadata_columns`) is handed over, the rest is left alone. A value is a str, int, bool
            or an enum's member, which counts as its value; anything else is unknown, and logged once.
        capable: Whether a route can take the request at all (tools, images, length); None: all can.
    """

    text: str | None
    forced: str | None = None
    tool_loop: str | None = None
    pinned: str | None = None
    conversation: str | None = None
    threshold: float | Sequence[float] | None = None
    stickiness: Stickiness | None = None
    capable: Callable[[str], bool] | None = None
    metadata: Mapping[str, Any] | None = None


class RoutingPolicy:
    """Decides, per call, which route answers. `win_rate >= threshold` is strong.

    The order of a decision: forced, open tool loop, pinned, conversation, win rate against the cuts,
    capability (which never moves a forced call or an open tool loop).

    Args:
        router: What scores: "default", a folder, a hub name or a `Router`; "router-mf-0.11593" names a published
            router together with its threshold.
        encoder: With a router's name: the embedding model it reads, see `load_router`.
        routes: Names, weakest first, at least two.
        threshold: Cut in [0, 1]; with N routes N-1 ascending cuts. 0.0 (all strong) and 1.0 are values.
        strong_share: Instead of `threshold`, for two routes: the share of prompts like those the
            router was calibrated on that should go strong. None of the four given: the threshold saved with
            the router, which is that of share .5 unless it was calibrated otherwise (N routes: equal shares).
        budget: Instead, for two routes: money, turned into a strong share by what calls cost.
        quality_floor: Instead, for two routes: fraction of the strong model's mean quality that must be kept,
            see `Calibration.at`; the router's calibration must have kept its labels.
        stickiness: Which earlier decisions are kept: "none", "tool_loop" or "conversation".
        fallback: Routes tried when one fails before its first token: "none", "stronger" or "any".
        on_error: The route when scoring fails or is late, or there is nothing to score; "raise" raises.
        router_timeout_s: Seconds scoring may take. None: no limit, and a quick router scores inline. After three
            late answers in a row the router is left alone for half a minute, then tried with one call.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range.
        RouteLLMError: The router cannot be loaded.
    """

    def __init__(
        self,
        router: Router | str | Path = "default",
        *,
        encoder: Any = None,
        routes: Sequence[str] = ("weak", "strong"),
        threshold: float | Sequence[float] | None = None,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        stickiness: Stickiness = "tool_loop",
        fallback: Fallback = "none",
        on_error: OnError = "strong",
        router_timeout_s: float | None = None,
    ) -> None:
        self.routes = () if isinstance(routes, str) else tuple(routes)
        if len(set(self.routes)) < max(2, len(self.routes)) or not all(isinstance(r, str) and r for r in self.routes):
            raise ConfigurationError(f"routes are at least two different names, weakest first, got {routes!r}")
        _one_of("stickiness", stickiness, Stickiness)
        _one_of("fallback", fallback, Fallback)
        _one_of("on_error", on_error, OnError)
        limit = threading.TIMEOUT_MAX  # some 292 years; infinity would make every wait fail
        if router_timeout_s is not None and not (_is_number(router_timeout_s) and 0 < router_timeout_s <= limit):
            raise ConfigurationError(f"router_timeout_s must be None or seconds above 0, got {router_timeout_s!r}")
        wanted = {"strong_share": strong_share, "budget": budget, "quality_floor": quality_floor}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        cuts = [f"{name}=" for name in (*(["threshold"] if threshold is not None else []), *wanted)]
        if len(cuts) > 1:
            raise ConfigurationError(f"give {' or '.join(cuts)}, not {'both' if len(cuts) == 2 else 'several'}")
        named = router_and_threshold(router) if isinstance(router, str) else None
        if named is not None:
            if cuts:
                raise ConfigurationError(f"{router!r} names its threshold: give no {cuts[0]} beside it")
            router, threshold = named
        self.router = resolve_router(router, encoder=encoder)
        check_takes_metadata(self.router.win_rate, self.router.metadata_columns, self.router.name)
        self.stickiness: Stickiness = stickiness
        self.fallback: Fallback = fallback
        self.on_error: OnError = on_error
        self.router_timeout_s = router_timeout_s
        self.thresholds = self._own_cuts(threshold, wanted)
        self._threads = ScoringThreads()
        self._breaker = Breaker()

    # -- cuts
    def _own_cuts(self, threshold: float | Sequence[float] | None, wanted: dict[str, Any]) -> tuple[float, ...]:
        if threshold is not None:
            return self._checked_cuts(threshold)
        calibration = self.router.calibration
        if wanted and len(self.routes) > 2:
            raise ConfigurationError(
                f"{next(iter(wanted))} is for two routes; for {len(self.routes)} give "
                f"threshold=[{len(self.routes) - 1} ascending numbers]"
            )
        if calibration is None:
            natural = self.router.natural_threshold
            if natural is not None and not wanted and len(self.routes) == 2:
                return (natural,)
            raise ConfigurationError(
                f"router {self.router.name!r} has no calibration: give threshold=, "
                "or set router.calibration = Calibration.from_win_rates(...)"
            )
        if len(self.routes) > 2:
            return tuple(calibration.cuts(len(self.routes)))
        return ((calibration.at(**wanted) if wanted else calibration).threshold,)

    def _checked_cuts(self, threshold: float | Sequence[float]) -> tuple[float, ...]:
        try:
            cuts = (_number(threshold),) if np.ndim(threshold) == 0 else tuple(map(_number, threshold))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise ConfigurationError(f"threshold must be a number or a list of numbers, got {threshold!r}") from None
        if len(cuts) != len(self.routes) - 1 or not check_thresholds(cuts):
            if len(self.routes) == 2 and len(cuts) == 1:
                raise ConfigurationError(f"threshold is a win rate from 0 to 1, got {threshold!r}")
            raise ConfigurationError(
                f"{len(self.routes)} routes need {len(self.routes) - 1} ascending threshold(s) "
                f"in [0, 1], got {threshold!r}"
            )
        return cuts

    # -- deciding
    def decide(self, requests: Sequence[RouteRequest]) -> list[Decision]:
        """A decision for each request; all that need a win rate are scored in one call.

        Raises:
            UnknownKindError: A request forces a route that does not exist.
            ConfigurationError: A request's threshold or stickiness is no valid one.
            DataError: A request's text is no str, or its metadata no mapping.
            ScoringError: Scoring failed or there was nothing to score, and `on_error` is "raise".
        """
        decisions, waiting = self._without_scoring(requests)
        if waiting:
            texts = [str(requests[i].text) for i in waiting]
            metadata = self._metadata(requests, waiting)
            started = time.perf_counter()
            try:
                win_rates = self._scored(texts, metadata)
            except Exception as error:  # noqa: BLE001 - on_error says what a failure means
                self._fail_open(decisions, waiting, error)
            else:
                self._fill(decisions, waiting, requests, win_rates, time.perf_counter() - started)
        return [self._capable(d, r) for d, r in zip(decisions, requests, strict=True) if d is not None]

    async def adecide(self, requests: Sequence[RouteRequest]) -> list[Decision]:
        """`decide` without blocking the event loop: only a quick router scores few and short prompts inline."""
        decisions, waiting = self._without_scoring(requests)
        if waiting:
            texts = [str(requests[i].text) for i in waiting]
            metadata = self._metadata(requests, waiting)
            characters = sum(map(len, texts))
            is_inline = (
                self.router_timeout_s is None
                and self.router.is_quick
                and len(texts) <= _INLINE_PROMPTS
                and characters <= _INLINE_CHARACTERS
            )
            if is_inline:
                await _turns.take(max(len(texts), characters // 2048))
            started = time.perf_counter()
            try:
                win_rates = self._score(texts, metadata) if is_inline else await self._ascored(texts, metadata)
            except Exception as error:  # noqa: BLE001 - on_error says what a failure means
                self._fail_open(decisions, waiting, error)
            else:
                self._fill(decisions, waiting, requests, win_rates, time.perf_counter() - started)
        return [self._capable(d, r) for d, r in zip(decisions, requests, strict=True) if d is not None]

    def _without_scoring(self, requests: Sequence[RouteRequest]) -> tuple[list[Decision | None], list[int]]:
        decisions = [self._preset(request) for request in requests]
        return decisions, [i for i, decision in enumerate(decisions) if decision is None]

    def _preset(self, request: RouteRequest) -> Decision | None:
        if request.threshold is not None:
            self._checked_cuts(request.threshold)  # a bad one is the caller's error, never a scoring failure
        stickiness = self.stickiness if request.stickiness is None else request.stickiness
        _one_of("stickiness", stickiness, Stickiness)
        if request.metadata is not None and not isinstance(request.metadata, Mapping):
            raise DataError(f"metadata is a mapping of columns to values, got {type(request.metadata).__name__}")
        if request.forced is not None:
            if request.forced not in self.routes:
                raise UnknownKindError(f"unknown route {request.forced!r}; the routes are {', '.join(self.routes)}")
            return Decision(route=request.forced, reason="forced")
        if stickiness != "none" and request.tool_loop in self.routes:
            return Decision(route=str(request.tool_loop), reason="tool_loop")
        if request.pinned in self.routes:
            return Decision(route=str(request.pinned), reason="pinned")
        if stickiness == "conversation" and request.conversation in self.routes:
            return Decision(route=str(request.conversation), reason="conversation")
        if request.text is not None and not isinstance(request.text, str):
            raise DataError(f"the text to score is {type(request.text).__name__}, not str")
        if request.text is None or not request.text.strip():
            if self.on_error == "raise":
                raise ScoringError(
                    "the call holds no text to score; give text=, force a route, or set on_error='strong' or 'weak'"
                )
            return self._error_route("no_text", None)
        return None

    def _error_route(self, reason: Reason, error: str | None) -> Decision:
        route = self.routes[0] if self.on_error == "weak" else self.routes[-1]
        return Decision(route=route, reason=reason, router=self.router.name, error=error)

    def _fail_open(self, decisions: list[Decision | None], waiting: list[int], error: Exception) -> None:
        if self.on_error == "raise":
            raise error
        # only our own messages are known to hold no prompt text
        what = f"{type(error).__name__}: {error}" if isinstance(error, RouteLLMError) else type(error).__name__
        _logger.warning("router %r failed, taking the %s route: %s", self.router.name, self.on_error, what)
        for i in waiting:
            decisions[i] = self._error_route("scorer_error", what)

    def _fill(
        self,
        decisions: list[Decision | None],
        waiting: list[int],
        requests: Sequence[RouteRequest],
        win_rates: NDArray[np.float64],
        seconds: float,
    ) -> None:
        scorer_ms = round(seconds * 1e3 / len(waiting), 4)
        for i, win_rate in zip(waiting, win_rates.tolist(), strict=True):
            threshold = requests[i].threshold
            cuts = self.thresholds if threshold is None else self._checked_cuts(threshold)
            reached = sum(win_rate >= cut for cut in cuts)
            decisions[i] = Decision(
                route=self.routes[reached],
                reason="score",
                win_rate=win_rate,
                threshold=cuts[max(reached - 1, 0)],
                router=self.router.name,
                scorer_ms=scorer_ms,
            )

    def _capable(self, decision: Decision, request: RouteRequest) -> Decision:
        if request.capable is None or decision.reason in ("forced", "tool_loop") or request.capable(decision.route):
            return decision
        for route in self._others(decision.route, "any"):
            if request.capable(route):
                return replace(decision, route=route, reason="capability")
        return decision  # none can: let the provider say so

    # -- after a failure
    def attempts(self, decision: Decision, request: RouteRequest | None = None) -> list[Decision]:
        """The decision, then those to try when its backend fails before the first token.

        Stronger routes come in order, then (with "any") weaker ones, nearest first; with the request
        at hand, only those that can take it. A forced route is an order and an open tool loop cannot
        change provider: both have no other.
        """
        if decision.reason in ("forced", "tool_loop"):
            return [decision]
        others = self._others(decision.route, self.fallback)
        if request is not None and request.capable is not None:
            others = [route for route in others if request.capable(route)]
        return [decision, *(replace(decision, route=route, fallback_from=decision.route) for route in others)]

    def _others(self, route: str, fallback: Fallback) -> list[str]:
        if fallback == "none":
            return []
        position = self.routes.index(route)
        stronger = list(self.routes[position + 1 :])
        return stronger if fallback == "stronger" else [*stronger, *reversed(self.routes[:position])]

    # -- scoring: what a policy asks its router, then when and for how long
    def _metadata(self, requests: Sequence[RouteRequest], waiting: list[int]) -> Metadata | None:
        """What the requests know that the router wants; None: nothing, or it takes none."""
        columns = self.router.metadata_columns
        return known_metadata(columns, [requests[i].metadata for i in waiting]) if columns else None

    def _score(self, texts: list[str], metadata: Metadata | None) -> NDArray[np.float64]:
        return asked(self.router.win_rate, texts, metadata)

    def _ascore(self, texts: list[str], metadata: Metadata | None) -> Awaitable[Any] | None:
        """None: the router awaits nothing, so it takes a thread."""
        return asked(self.router.awin_rate, texts, metadata) if self.router.is_async else None

    def _checked(self, scores: Any, n_prompts: int) -> NDArray[np.float64]:
        return checked_win_rates(scores, n_prompts, self.router.name)

    def _scored(self, texts: list[str], metadata: Metadata | None) -> NDArray[np.float64]:
        if self.router_timeout_s is None:
            return self._score(texts, metadata)
        self._check_breaker()
        run = contextvars.copy_context().run
        pending: Future[NDArray[np.float64]] = self._threads.submit(run, self._score, texts, metadata)
        try:
            win_rates = pending.result(self.router_timeout_s)
        except FutureTimeoutError as error:
            if not pending.cancel() and pending.done():
                self._breaker.answered()
                raise  # the router's own
            raise self._late() from error
        except Exception:
            self._breaker.answered()
            raise
        self._breaker.answered()
        return win_rates

    async def _ascored(self, texts: list[str], metadata: Metadata | None) -> NDArray[np.float64]:
        if self.router_timeout_s is not None:
            self._check_breaker()
        waiting = self._ascore(texts, metadata)
        if waiting is None:
            run = contextvars.copy_context().run
            waiting = asyncio.wrap_future(self._threads.submit(run, self._score, texts, metadata))
        if self.router_timeout_s is None:
            return self._checked(await waiting, len(texts))
        try:
            win_rates = await asyncio.wait_for(waiting, self.router_timeout_s)
        except asyncio.TimeoutError as error:  # noqa: UP041 - the builtin only from 3.11
            raise self._late() from error
        except Exception:
            self._breaker.answered()
            raise
        self._breaker.answered()
        return self._checked(win_rates, len(texts))

    def _check_breaker(self) -> None:
        seconds = self._breaker.blocked_s()
        if seconds > 0.0:
            raise ScoringError(
                f"router {self.router.name!r} was late {self._breaker.misses} times in a row and is left alone "
                f"for {seconds:.0f} s more",
                is_retryable=True,
            )

    def _late(self) -> ScoringError:
        self._breaker.late()
        return ScoringError(
            f"no win rate from router {self.router.name!r} within {self.router_timeout_s} s", is_retryable=True
        )

    def settings(self) -> dict[str, Any]:
        """The options that make such a policy again, as plain JSON; the router by its name."""
        cuts = list(self.thresholds)
        return {
            "router": self.router.name,
            "threshold": cuts[0] if len(cuts) == 1 else cuts,
            "stickiness": self.stickiness,
            "fallback": self.fallback,
            "on_error": self.on_error,
            "router_timeout_s": self.router_timeout_s,
        }

    def __repr__(self) -> str:
        return f"RoutingPolicy(router={self.router.name!r}, routes={self.routes}, thresholds={self.thresholds})"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _number(value: Any) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not _is_number(value):  # float("0.5") would work, and so would float(b"1")
        raise TypeError(value)
    return float(value)


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, get_args(allowed)))}, got {value!r}")
