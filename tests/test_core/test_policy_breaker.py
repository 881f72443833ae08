"""A scorer that hangs is left alone for a while."""

from __future__ import annotations

import asyncio
import copy
import math
import threading

import pytest

from routellm_core import RoutingPolicy
from routellm_core.errors import ConfigurationError, ScoringError
from routellm_core.policy import RouteRequest
from routellm_core.policy.breaker import Breaker
from routellm_core.testing import ScriptedRouter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hangs():
    """A router that hangs until told otherwise, and answers at once from then on."""
    release = threading.Event()
    yield ScriptedRouter(lambda text: 0.9 if release.wait(20) else 0.0), release
    release.set()


def policy_with(router, clock, **options):
    policy = RoutingPolicy(router, threshold=0.5, router_timeout_s=0.01, **options)
    policy._breaker = Breaker(misses=3, pause_s=30.0, clock=clock)
    return policy


def ask(policy, is_async):
    request = [RouteRequest(text="a question")]
    return (asyncio.run(policy.adecide(request)) if is_async else policy.decide(request))[0]


@pytest.mark.parametrize("is_async", [False, True])
def test_after_three_late_answers_nobody_waits_and_the_record_says_so(hangs, clock, is_async):
    router, _ = hangs
    policy = policy_with(router, clock)
    late = [ask(policy, is_async) for _ in range(3)]
    assert all("within 0.01 s" in decision.error for decision in late)
    asked = len(router.calls)
    alone = [ask(policy, is_async) for _ in range(5)]
    assert len(router.calls) == asked <= 3  # on a busy machine a late one may not have begun
    assert {(d.route, d.reason) for d in alone} == {("strong", "scorer_error")}
    assert alone[0].error == (
        "ScoringError: router 'scripted' was late 3 times in a row and is left alone for 30 s more"
    )


@pytest.mark.parametrize("is_async", [False, True])
def test_after_the_pause_one_call_tries_and_its_success_ends_it(hangs, clock, is_async):
    router, release = hangs
    policy = policy_with(router, clock)
    for _ in range(3):
        ask(policy, is_async)
    clock.now += 29.9
    assert "left alone for 0 s" in ask(policy, is_async).error
    clock.now += 0.2
    assert "within 0.01 s" in ask(policy, is_async).error  # the one that tries
    assert "left alone for 30 s" in ask(policy, is_async).error
    release.set()
    policy.router_timeout_s = 5.0
    clock.now += 30.1
    assert [ask(policy, is_async).reason for _ in range(3)] == ["score"] * 3


def test_only_one_caller_gets_through_after_a_pause(clock):
    breaker = Breaker(misses=1, pause_s=10.0, clock=clock)
    breaker.late()
    clock.now += 10.0
    assert [breaker.blocked_s() for _ in range(3)] == [0.0, 10.0, 10.0]


def test_an_answer_in_time_starts_the_count_anew_and_so_does_an_error_in_time(clock):
    release = threading.Event()
    what = ""

    def scripted(text):  # on a busy machine a late one may not have begun, so nothing hangs on the number of calls
        if what == "fails":
            raise ValueError("no")
        return 0.9 if what == "answers" or release.wait(20) else 0.0

    policy = policy_with(ScriptedRouter(scripted), clock)
    reasons = []
    for what in ("hangs", "hangs", "answers", "hangs", "hangs", "fails", "hangs", "hangs"):
        policy.router_timeout_s = 0.01 if what == "hangs" else 5.0
        decision = ask(policy, False)
        reasons.append(decision.reason if decision.error is None else decision.error.split(" ")[1])
    release.set()
    assert reasons == ["no", "no", "score", "no", "no", "router", "no", "no"]


def test_on_error_raise_raises_a_retryable_error_while_left_alone(hangs, clock):
    policy = policy_with(hangs[0], clock, on_error="raise")
    for _ in range(3):
        with pytest.raises(ScoringError, match="within"):
            ask(policy, False)
    with pytest.raises(ScoringError, match="left alone") as caught:
        ask(policy, False)
    assert caught.value.is_retryable


def test_without_a_time_limit_nothing_is_ever_late():
    policy = RoutingPolicy(ScriptedRouter(0.9), threshold=0.5)
    policy._breaker.late(), policy._breaker.late(), policy._breaker.late()
    assert ask(policy, False).reason == ask(policy, True).reason == "score"


def test_a_breaker_travels_closed():
    breaker = Breaker(misses=2, pause_s=5.0)
    breaker.late(), breaker.late()
    twin = copy.deepcopy(breaker)
    assert (twin.misses, twin.pause_s, twin.blocked_s()) == (2, 5.0, 0.0)
    assert breaker.blocked_s() > 0.0


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e12, 10**400, 0, True, "1"])
def test_a_timeout_that_no_clock_can_wait_for_is_refused(seconds):
    """With infinity every wait failed, and every call silently took the strong route."""
    with pytest.raises(ConfigurationError, match="router_timeout_s must be"):
        RoutingPolicy(ScriptedRouter(0.1), threshold=0.5, router_timeout_s=seconds)
