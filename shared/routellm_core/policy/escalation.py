"""Deciding twice: before the weak model answers, and once its answer is there."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration.escalation import Escalation
from routellm_core.calibration.thresholds import ABOVE_ALL
from routellm_core.errors import ConfigurationError, RouteLLMError, ScoringError
from routellm_core.policy.breaker import Breaker
from routellm_core.policy.threads import ScoringThreads
from routellm_core.policy.threshold import RouteRequest, RoutingPolicy
from routellm_core.routers import Router
from routellm_core.types import Decision
from routellm_core.verifiers import Answer, Verifier, load_verifier

__all__ = ["EscalationPolicy"]

_logger = logging.getLogger("routellm_core.policy")

_INLINE_CHARACTERS = 4096  # of answer and prompt: what a quick verifier reads in a millisecond or two


class EscalationPolicy(RoutingPolicy):
    """A `RoutingPolicy` of two routes whose weak answers are verified before anybody sees them.

    `win_rate >= threshold` goes straight to the strong model. Else the weak model answers, and where the verifier
    gives that answer `escalation_threshold` or more the strong model answers after all, reason "escalated". What an
    adapter does:

        decision = policy.decide([request])[0]
        answer = ...                                      # of the decision's route
        if policy.may_escalate(decision, request):        # else: done
            final = policy.verified(decision, answer, prompt)
            if final.route != decision.route:
                answer = ...                              # of the strong model, for `final`

    Forced, pinned, sticky and tool-loop calls never escalate, nor a weak answer that stood in for a strong model that
    had failed. A verifier that fails or is late counts as `on_error` says: "strong" escalates, "weak" keeps the
    answer (both with reason "scorer_error"), "raise" raises.

    Args:
        verifier: What reads the weak answers: a `Verifier`, or a folder that one was saved to.
        router: As for `RoutingPolicy`; not asked where nothing goes straight to the strong model and all is verified.
        escalation: Cuts from `calibrate_escalation`; instead of the three below.
        threshold: Prompts of this win rate or more go straight to the strong model. None: none does.
        escalation_threshold: Weak answers of this win rate or more are escalated.
        verify_from: Weak answers to prompts below this win rate are kept unasked; for verifiers that cost money.
        verifier_timeout_s: Seconds that verifying may take. None: no limit. After three late answers in a row the
            verifier is left alone for half a minute.
        **options: `encoder`, `routes` (two), `stickiness`, `fallback`, `on_error` and `router_timeout_s`, as for
            `RoutingPolicy`.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range, or other than two routes.
        RouteLLMError: Router or verifier cannot be loaded.
    """

    def __init__(
        self,
        verifier: Verifier | str | Path,
        router: Router | str | Path = "default",
        *,
        escalation: Escalation | None = None,
        threshold: float | None = None,
        escalation_threshold: float | None = None,
        verify_from: float | None = None,
        verifier_timeout_s: float | None = None,
        **options: Any,
    ) -> None:
        own = {"threshold": threshold, "escalation_threshold": escalation_threshold, "verify_from": verify_from}
        given = [name for name, value in own.items() if value is not None]
        if escalation is not None:
            if given:
                raise ConfigurationError(f"escalation= holds the cuts: give no {', '.join(given)} beside it")
            own = {name: getattr(escalation, name) for name in own}
        elif escalation_threshold is None:
            raise ConfigurationError("give escalation=calibrate_escalation(...), or escalation_threshold=")
        allowed = ("encoder", "routes", "stickiness", "fallback", "on_error", "router_timeout_s")
        unknown = [name for name in options if name not in allowed]
        if unknown:
            raise ConfigurationError(
                f"an EscalationPolicy takes no {', '.join(unknown)}: its cuts come from escalation= or threshold= and "
                "escalation_threshold="
            )
        straight = own["threshold"]
        super().__init__(router, threshold=ABOVE_ALL if straight is None else straight, **options)
        if len(self.routes) != 2:
            raise ConfigurationError(f"escalation is between two routes, got {', '.join(self.routes)}")
        self.verifier = verifier if isinstance(verifier, Verifier) else load_verifier(verifier)
        self.escalation_threshold = _cut("escalation_threshold", own["escalation_threshold"])
        self.verify_from = _cut("verify_from", 0.0 if own["verify_from"] is None else own["verify_from"])
        if verifier_timeout_s is not None and not (_is_number(verifier_timeout_s) and verifier_timeout_s > 0):
            raise ConfigurationError(f"verifier_timeout_s must be None or seconds above 0, got {verifier_timeout_s!r}")
        self.verifier_timeout_s = verifier_timeout_s
        self._verifier_threads = ScoringThreads()
        self._verifier_breaker = Breaker()

    # -- after the weak answer
    def may_escalate(
        self, decision: Decision, request: RouteRequest | None = None, *, in_tool_loop: bool = False
    ) -> bool:
        """Whether the answer of this decision's route is to be verified before anybody sees it.

        So the adapter knows before it streams. False for all but scored calls to the weak route.

        Args:
            decision: That the answer came from, or will come from.
            request: That it was made for, so that the strong route's fitness is looked at; its open tool loop too.
            in_tool_loop: The history ends in an open tool loop, be its beginning on record or not.
        """
        if decision.reason != "score" or decision.route != self.routes[0] or decision.fallback_from is not None:
            return False
        if in_tool_loop or (decision.win_rate is not None and decision.win_rate < self.verify_from):
            return False
        if request is None:
            return True
        # with stickiness "none" a call in an open tool loop is scored like any other
        return request.tool_loop is None and (request.capable is None or request.capable(self.routes[1]))

    def verified(self, decision: Decision, answer: str | Answer, prompt: str | None = None) -> Decision:
        """The decision itself where the weak answer is kept; else the one that the strong model answers for.

        Args:
            decision: One that `may_escalate`.
            answer: Of the weak model.
            prompt: The text that was routed on.

        Raises:
            ScoringError: The verifier failed or was late, and `on_error` is "raise".
        """
        started = time.perf_counter()
        try:
            win_rate = self._verify(answer, prompt)
        except Exception as error:  # noqa: BLE001 - on_error says what a failure means
            return self._verifier_failed(decision, error)
        return self._after(decision, win_rate, time.perf_counter() - started)

    async def averified(self, decision: Decision, answer: str | Answer, prompt: str | None = None) -> Decision:
        """`verified` without blocking the event loop; only a quick verifier reads short answers inline."""
        started = time.perf_counter()
        try:
            win_rate = await self._averify(answer, prompt)
        except Exception as error:  # noqa: BLE001 - on_error says what a failure means
            return self._verifier_failed(decision, error)
        return self._after(decision, win_rate, time.perf_counter() - started)

    def _after(self, decision: Decision, win_rate: float, seconds: float) -> Decision:
        if win_rate < self.escalation_threshold:
            return decision
        return Decision(
            route=self.routes[1],
            reason="escalated",
            win_rate=win_rate,
            threshold=self.escalation_threshold,
            router=self.verifier.name,
            scorer_ms=round(seconds * 1e3, 4),
        )

    def _verifier_failed(self, decision: Decision, error: Exception) -> Decision:
        if self.on_error == "raise":
            raise error
        # only our own messages are known to hold no prompt or answer text
        what = f"{type(error).__name__}: {error}" if isinstance(error, RouteLLMError) else type(error).__name__
        _logger.warning("verifier %r failed, taking the %s route: %s", self.verifier.name, self.on_error, what)
        route = self.routes[0] if self.on_error == "weak" else self.routes[1]
        return Decision(
            route=route, reason="scorer_error", win_rate=decision.win_rate, router=self.verifier.name, error=what
        )

    def _verify(self, answer: str | Answer, prompt: str | None) -> float:
        if self.verifier_timeout_s is None:
            return float(self.verifier.win_rate([answer], [prompt])[0])
        self._check_verifier()
        run = contextvars.copy_context().run
        pending: Future[NDArray[np.float64]] = self._verifier_threads.submit(
            run, self.verifier.win_rate, [answer], [prompt]
        )
        try:
            found = pending.result(self.verifier_timeout_s)
        except FutureTimeoutError as error:
            if not pending.cancel() and pending.done():
                self._verifier_breaker.answered()
                raise  # the verifier's own
            raise self._verifier_late() from error
        except Exception:
            self._verifier_breaker.answered()
            raise
        self._verifier_breaker.answered()
        return float(found[0])

    async def _averify(self, answer: str | Answer, prompt: str | None) -> float:
        characters = len(answer if isinstance(answer, str) else answer.text) + len(prompt or "")
        if self.verifier_timeout_s is None and self.verifier.is_quick and characters <= _INLINE_CHARACTERS:
            return float(self.verifier.win_rate([answer], [prompt])[0])
        if self.verifier_timeout_s is not None:
            self._check_verifier()
        waiting: Awaitable[Any]
        if self.verifier.is_async:
            waiting = self.verifier.awin_rate([answer], [prompt])
        else:
            run = contextvars.copy_context().run
            waiting = asyncio.wrap_future(
                self._verifier_threads.submit(run, self.verifier.win_rate, [answer], [prompt])
            )
        if self.verifier_timeout_s is None:
            return float((await waiting)[0])
        try:
            found = await asyncio.wait_for(waiting, self.verifier_timeout_s)
        except asyncio.TimeoutError as error:  # noqa: UP041 - the builtin only from 3.11
            raise self._verifier_late() from error
        except Exception:
            self._verifier_breaker.answered()
            raise
        self._verifier_breaker.answered()
        return float(found[0])

    def _check_verifier(self) -> None:
        seconds = self._verifier_breaker.blocked_s()
        if seconds > 0.0:
            raise ScoringError(
                f"verifier {self.verifier.name!r} was late {self._verifier_breaker.misses} times in a row and is left "
                f"alone for {seconds:.0f} s more",
                is_retryable=True,
            )

    def _verifier_late(self) -> ScoringError:
        self._verifier_breaker.late()
        return ScoringError(
            f"no win rate from verifier {self.verifier.name!r} within {self.verifier_timeout_s} s", is_retryable=True
        )

    def __repr__(self) -> str:
        return (
            f"EscalationPolicy(verifier={self.verifier.name!r}, router={self.router.name!r}, routes={self.routes}, "
            f"thresholds={self.thresholds}, escalation_threshold={self.escalation_threshold})"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _cut(name: str, value: Any) -> float:
    if not _is_number(value) or not 0.0 <= value <= ABOVE_ALL:
        raise ConfigurationError(f"{name} is a win rate from 0 to 1, got {value!r}")
    return float(value)
