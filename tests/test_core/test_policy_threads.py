"""Scoring threads end with the policy that made them."""

from __future__ import annotations

import gc
import threading

import pytest

from routellm_core import RoutingPolicy
from routellm_core.policy import RouteRequest
from routellm_core.policy.threads import ScoringThreads
from routellm_core.testing import ScriptedRouter


@pytest.fixture
def new_threads():
    """The threads that a test has started and that still run."""
    before = set(threading.enumerate())
    return lambda: [t for t in threading.enumerate() if t not in before and t.name.startswith("routellm-router")]


def test_threads_end_when_nobody_has_their_pool_any_more(new_threads):
    pool = ScoringThreads()
    assert pool.submit(int, "7").result(5) == 7
    (thread,) = new_threads()
    del pool
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_policy_for_each_call_leaves_no_threads(new_threads):
    """As `configurable_fields` makes them: a copy with another threshold for every call."""
    started = []
    for _ in range(5):
        policy = RoutingPolicy(ScriptedRouter(0.9), threshold=0.5, router_timeout_s=5.0)
        assert policy.decide([RouteRequest(text="x")])[0].reason == "score"
        started += new_threads()
        del policy
        gc.collect()
    for thread in started:
        thread.join(5)
    assert len(started) >= 5 and not new_threads()


def test_a_job_that_still_runs_ends_before_its_thread_does(new_threads):
    pool, go, done = ScoringThreads(), threading.Event(), []
    pending = pool.submit(lambda: (go.wait(5), done.append(1)))
    (thread,) = new_threads()
    del pool
    gc.collect()
    assert thread.is_alive()
    go.set()
    thread.join(5)
    assert done == [1] and pending.done() and not thread.is_alive()
