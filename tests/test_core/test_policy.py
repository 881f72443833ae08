"""The rules of routing: order of reasons, cuts, errors, fallback."""

import asyncio
import concurrent.futures
import copy
import errno
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from routellm_core import Decision, RandomRouter, RoutingPolicy, collect_decisions
from routellm_core.errors import ConfigurationError, DataError, ScoringError, UnknownKindError
from routellm_core.policy import RouteRequest, conversation_text, may_fall_back, observe, routing_text
from routellm_core.testing import ScriptedRouter


def decide(policy, **request):
    return policy.decide([RouteRequest(**{"text": "a question", **request})])[0]


def both_ways(policy, **request):
    """The decision, after checking that the async twin takes the same one."""
    sync = decide(policy, **request)
    twin = asyncio.run(policy.adecide([RouteRequest(**{"text": "a question", **request})]))[0]
    assert (sync.route, sync.reason, sync.win_rate) == (twin.route, twin.reason, twin.win_rate)
    return sync


# -- cuts
@pytest.mark.parametrize(
    ("win_rate", "threshold", "route"),
    [
        (0.7, 0.7, "strong"),
        (0.699, 0.7, "weak"),
        (0.0, 0.0, "strong"),
        (0.999, 1.0, "weak"),
        (1.0, 1.0, "strong"),
        (1, 0, "strong"),
    ],
)
def test_a_win_rate_that_reaches_the_threshold_is_strong(win_rate, threshold, route):
    assert both_ways(RoutingPolicy(ScriptedRouter(win_rate), threshold=threshold)).route == route


@pytest.mark.parametrize(
    ("win_rate", "route", "cut"),
    [(0.1, "small", 0.3), (0.3, "mid", 0.3), (0.69, "mid", 0.3), (0.7, "large", 0.7), (1.0, "large", 0.7)],
)
def test_n_routes_are_cut_by_ascending_thresholds(win_rate, route, cut):
    policy = RoutingPolicy(ScriptedRouter(win_rate), routes=("small", "mid", "large"), threshold=[0.3, 0.7])
    decision = both_ways(policy)
    assert (decision.route, decision.threshold) == (route, cut)


def test_without_a_threshold_the_routers_own_calibration_sends_half_to_strong():
    policy = RoutingPolicy(RandomRouter(seed=1))
    decisions = policy.decide([RouteRequest(text=f"prompt {i}") for i in range(2000)])
    assert 0.46 < sum(d.route == "strong" for d in decisions) / 2000 < 0.54


def test_a_strong_share_of_zero_is_all_weak_and_of_one_all_strong():
    certain = ScriptedRouter(1.0)
    assert decide(RoutingPolicy(certain, strong_share=0.0)).route == "weak"
    assert decide(RoutingPolicy(ScriptedRouter(0.0), strong_share=1.0)).route == "strong"


def test_three_routes_without_thresholds_get_equal_shares():
    policy = RoutingPolicy(RandomRouter(), routes=("a", "b", "c"))
    assert policy.thresholds == pytest.approx((1 / 3, 2 / 3), abs=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": 1.5},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"threshold": [0.2, 0.4]},
        {"threshold": "high"},
        {"threshold": True},
        {"threshold": 0.5, "strong_share": 0.5},
        {"routes": ("only",)},
        {"routes": ("same", "same")},
        {"routes": ("a", "b", "c"), "threshold": [0.7, 0.3]},
        {"routes": ("a", "b", "c"), "threshold": 0.5},
        {"routes": ("a", "b", "c"), "strong_share": 0.5},
        {"on_error": "strongest"},
        {"fallback": "up"},
        {"stickiness": "forever"},
        {"router_timeout_s": 0},
        {"router_timeout_s": -1},
        {"router_timeout_s": float("nan")},
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ConfigurationError):
        RoutingPolicy(ScriptedRouter(), **arguments)


def test_a_router_without_calibration_asks_for_a_threshold():
    router = ScriptedRouter()
    router.calibration = None
    with pytest.raises(ConfigurationError, match="threshold="):
        RoutingPolicy(router)
    assert RoutingPolicy(router, threshold=0.5).thresholds == (0.5,)


def test_what_is_no_router_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="not function"):
        RoutingPolicy(lambda prompts: [0.5])


# -- order of reasons
def test_a_forced_route_wins_over_everything_and_nothing_is_scored():
    router = ScriptedRouter(0.9)
    decision = both_ways(RoutingPolicy(router, threshold=0.5), forced="weak", tool_loop="strong", text=None)
    assert (decision.route, decision.reason, router.calls) == ("weak", "forced", [])


def test_an_open_tool_loop_stays_where_it_began():
    policy = RoutingPolicy(ScriptedRouter(0.9), threshold=0.5)
    assert both_ways(policy, tool_loop="weak").reason == "tool_loop"
    assert both_ways(policy, tool_loop="weak", stickiness="none").reason == "score"
    assert both_ways(policy, tool_loop="a route of another router").reason == "score"


def test_a_conversation_stays_only_where_asked():
    policy = RoutingPolicy(ScriptedRouter(0.9), threshold=0.5, stickiness="conversation")
    assert both_ways(policy, conversation="weak") == Decision(route="weak", reason="conversation")
    assert both_ways(RoutingPolicy(ScriptedRouter(0.9), threshold=0.5), conversation="weak").route == "strong"


def test_a_call_can_bring_its_own_threshold_zero_included():
    policy = RoutingPolicy(ScriptedRouter(0.2), threshold=0.5)
    assert both_ways(policy, threshold=0.0).route == "strong"
    assert both_ways(policy, threshold=0.1).threshold == 0.1
    with pytest.raises(ConfigurationError):
        decide(policy, threshold=7)
    with pytest.raises(ConfigurationError):
        decide(policy, stickiness="glue")


def test_an_unknown_forced_route_lists_the_known_ones():
    with pytest.raises(UnknownKindError, match="weak, strong"):
        decide(RoutingPolicy(ScriptedRouter()), forced="gpt-4")


def test_what_the_scored_route_cannot_do_moves_to_the_next_stronger_else_weaker():
    policy = RoutingPolicy(ScriptedRouter(0.4), routes=("small", "mid", "large"), threshold=[0.3, 0.7])
    up = both_ways(policy, capable=lambda route: route == "large")
    assert (up.route, up.reason, up.win_rate) == ("large", "capability", 0.4)
    assert both_ways(policy, capable=lambda route: route == "small").route == "small"
    assert both_ways(policy, capable=lambda route: False).route == "mid"  # the provider shall say so
    assert both_ways(policy, forced="small", capable=lambda route: route == "large").route == "small"


@pytest.mark.parametrize("text", [None, "", "  \n\t"])
def test_without_text_the_on_error_route_answers(text):
    router = ScriptedRouter(0.5)
    assert both_ways(RoutingPolicy(router), text=text).route == "strong"
    weak = both_ways(RoutingPolicy(router, on_error="weak"), text=text)
    assert (weak.route, weak.reason, weak.win_rate) == ("weak", "no_text", None)
    with pytest.raises(ScoringError, match="no text"):
        decide(RoutingPolicy(router, on_error="raise"), text=text)
    assert router.calls == []


# -- scoring
def test_a_batch_is_scored_in_one_call_and_only_where_needed():
    router = ScriptedRouter(lambda text: len(text) / 10)
    policy = RoutingPolicy(router, threshold=0.5)
    decisions = policy.decide(
        [
            RouteRequest(text="abc"),
            RouteRequest(text="x", forced="strong"),
            RouteRequest(text="abcdefgh"),
            RouteRequest(text=""),
        ]
    )
    assert router.calls == [["abc", "abcdefgh"]]
    assert [d.route for d in decisions] == ["weak", "strong", "strong", "strong"]
    assert [d.reason for d in decisions] == ["score", "forced", "score", "no_text"]


@pytest.mark.parametrize(
    "router",
    [
        ScriptedRouter(error=RuntimeError("secret prompt")),
        ScriptedRouter(float("nan")),
        ScriptedRouter(1.5),
        ScriptedRouter(-0.1),
        ScriptedRouter(error=ScoringError("out of order", is_retryable=True)),
    ],
)
def test_a_router_that_fails_leaves_the_call_to_the_on_error_route(router, caplog):
    with caplog.at_level(logging.WARNING, logger="routellm_core.policy"):
        decision = both_ways(RoutingPolicy(router, threshold=0.5, on_error="weak"))
    assert (decision.route, decision.reason, decision.win_rate) == ("weak", "scorer_error", None)
    assert decision.error.startswith("ScoringError: ")
    assert len(caplog.records) == 2  # one a decision
    assert "secret" not in caplog.text + json.dumps(decision.to_dict())


def test_on_error_raise_raises_what_went_wrong_with_its_cause():
    policy = RoutingPolicy(ScriptedRouter(error=RuntimeError("boom")), on_error="raise")
    with pytest.raises(ScoringError, match="RuntimeError") as caught:
        decide(policy)
    assert str(caught.value.__cause__) == "boom"


def test_a_late_router_is_not_waited_for():
    release = threading.Event()
    # were it waited for, the first call would come back with a score after the half minute
    policy = RoutingPolicy(ScriptedRouter(lambda text: float(release.wait(30))), threshold=0.5, router_timeout_s=0.05)
    decision = both_ways(policy)
    release.set()
    assert (decision.route, decision.reason) == ("strong", "scorer_error")
    assert "within 0.05 s" in decision.error


async def test_a_slow_router_does_not_block_the_event_loop():
    released = threading.Event()
    policy = RoutingPolicy(ScriptedRouter(lambda text: float(released.wait(30)), is_quick=False), threshold=0.5)

    async def release():  # runs only if the loop is free while the router waits
        released.set()

    decisions, _ = await asyncio.gather(policy.adecide([RouteRequest(text="q")]), release())
    assert decisions[0].win_rate == 1.0


async def test_a_quick_router_scores_few_prompts_inline_and_many_in_a_thread():
    threads = []

    def score(text):
        threads.append(threading.current_thread())
        return 0.5

    policy = RoutingPolicy(ScriptedRouter(score), threshold=0.5)
    await policy.adecide([RouteRequest(text="q")])
    assert set(threads) == {threading.main_thread()}
    threads.clear()
    await policy.adecide([RouteRequest(text="q")] * 100)
    assert threading.main_thread() not in threads


async def test_a_router_with_its_own_async_client_is_awaited():
    class Remote(ScriptedRouter):
        async def awin_rate(self, prompts):
            await asyncio.sleep(0)
            import numpy as np

            return np.full(len(prompts), 0.25)

    decision = (await RoutingPolicy(Remote(0.9, is_quick=False), threshold=0.5).adecide([RouteRequest(text="q")]))[0]
    assert decision.win_rate == 0.25


# -- fallback
def test_attempts_follow_the_fallback_rule():
    def routes(policy, decision):
        return [d.route for d in policy.attempts(decision)]

    three = {"router": ScriptedRouter(), "routes": ("small", "mid", "large")}
    scored = Decision(route="mid", reason="score")
    assert routes(RoutingPolicy(**three), scored) == ["mid"]
    assert routes(RoutingPolicy(**three, fallback="stronger"), scored) == ["mid", "large"]
    assert routes(RoutingPolicy(**three, fallback="any"), scored) == ["mid", "large", "small"]
    assert routes(RoutingPolicy(**three, fallback="any"), Decision(route="large", reason="score")) == [
        "large",
        "mid",
        "small",
    ]
    second = RoutingPolicy(**three, fallback="any").attempts(scored)[1]
    assert second.fallback_from == "mid"


@pytest.mark.parametrize("reason", ["forced", "tool_loop"])
def test_an_order_and_an_open_tool_loop_have_no_fallback(reason):
    policy = RoutingPolicy(ScriptedRouter(), fallback="any")
    assert len(policy.attempts(Decision(route="weak", reason=reason))) == 1


class WithStatus(Exception):
    def __init__(self, status_code):
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (WithStatus(429), True),
        (WithStatus(500), True),
        (WithStatus(503), True),
        (WithStatus(408), True),
        (WithStatus(400), False),
        (WithStatus(401), False),
        (WithStatus(404), False),
        (ConnectionError(), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (ScoringError("x", is_retryable=True), True),
        (ScoringError("x"), False),
        (ValueError(), False),
        (NotImplementedError(), False),
        (KeyboardInterrupt(), False),
        (asyncio.CancelledError(), False),
        (GeneratorExit(), False),
    ],
)
def test_only_passing_failures_may_fall_back(error, passing):
    assert may_fall_back(error) is passing


def test_a_http_clients_own_transport_errors_may_fall_back():
    httpx = pytest.importorskip("httpx")
    assert may_fall_back(httpx.ConnectError("refused"))
    assert not may_fall_back(httpx.InvalidURL("no"))


def test_a_client_librarys_error_may_fall_back_when_a_lost_connection_caused_it():
    openai, httpx = pytest.importorskip("openai"), pytest.importorskip("httpx")
    for cause, passing in ((httpx.ConnectError("refused"), True), (TimeoutError(), True), (ValueError(), False)):
        error = openai.APIConnectionError(request=httpx.Request("POST", "http://127.0.0.1/"))
        error.__cause__ = cause  # as `raise ... from` does; the error itself carries no status
        assert may_fall_back(error) is passing


# -- the rest
def test_a_decision_is_plain_json_without_empty_fields_and_cannot_be_changed():
    decision = decide(RoutingPolicy(ScriptedRouter(0.25), threshold=0.5))
    record = json.loads(json.dumps(decision.to_dict()))
    assert record.pop("scorer_ms") >= 0
    assert record == {"route": "weak", "reason": "score", "win_rate": 0.25, "threshold": 0.5, "router": "scripted"}
    with pytest.raises(AttributeError):
        decision.route = "strong"
    with pytest.raises(TypeError):
        Decision("weak", "score")


def test_a_policy_that_has_used_its_threads_still_pickles_and_copies():
    policy = RoutingPolicy(RandomRouter(seed=3), threshold=0.5, router_timeout_s=1.0)
    expected = decide(policy).win_rate
    for copied in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):  # noqa: S301 - our own bytes
        assert decide(copied).win_rate == expected


def test_collectors_nest_and_see_tasks_and_threads_started_inside():
    with collect_decisions() as outer:
        observe(Decision(route="a", reason="score"))
        with collect_decisions() as inner:

            async def task():
                await asyncio.to_thread(observe, Decision(route="b", reason="score"))

            asyncio.run(task())
        observe(Decision(route="c", reason="score"))
    observe(Decision(route="d", reason="score"))
    assert [d.route for d in inner] == ["b"]
    assert [d.route for d in outer] == ["a", "b", "c"]


LONG = "Explain how a B-tree keeps its height low."


@pytest.mark.parametrize(
    ("humans", "scored"),
    [
        ([], ""),
        (["", "  "], ""),
        (["hi"], "hi"),
        ([LONG], LONG),
        ([LONG, "why?"], f"{LONG}\nwhy?"),
        ([LONG, "ok", "yes, go on"], f"{LONG}\nyes, go on"),
        (["hi", "hello"], "hello"),
        ([LONG, "And now write it in Haskell, please."], "And now write it in Haskell, please."),
        ([LONG, ""], LONG),
    ],
)
def test_a_short_follow_up_is_scored_with_the_last_substantial_message(humans, scored):
    assert routing_text(humans) == scored


@pytest.mark.parametrize(
    ("humans", "everyone", "scored"),
    [
        ([LONG, "why?"], ["Be brief.", LONG, "It is balanced.", "why?"], f"{LONG}\nwhy?"),
        ([""], ["Be brief.", ""], ""),  # somebody has spoken, and said nothing
        ([], ["Be brief. ", "", "Hello."], "Be brief. \n\nHello."),
        ([], ["", " "], ""),
        ([], [], ""),
    ],
)
def test_all_of_a_conversation_is_scored_when_nobody_human_has_spoken(humans, everyone, scored):
    assert conversation_text(humans, iter(everyone)) == scored


def test_a_wrong_type_of_text_is_the_callers_error_not_a_crash():
    with pytest.raises((DataError, AttributeError)):
        decide(RoutingPolicy(ScriptedRouter(), on_error="raise"), text=42)


# -- threads
def test_waiting_calls_of_a_quick_router_are_not_late_because_others_are_many():
    policy = RoutingPolicy(ScriptedRouter(0.1, delay_s=0.02), threshold=0.5, router_timeout_s=2.0)

    async def many():
        return await asyncio.gather(*(policy.adecide([RouteRequest(text=str(i))]) for i in range(100)))

    assert {d[0].reason for d in asyncio.run(many())} == {"score"}


def test_a_call_that_gave_up_waiting_is_not_scored_later():
    release = threading.Event()
    router = ScriptedRouter(lambda text: float(release.wait(5)) / 2)
    policy = RoutingPolicy(router, threshold=0.5, router_timeout_s=0.01)
    policy._threads.limit = 1
    assert [decide(policy, text=str(i)).reason for i in range(2)] == ["scorer_error"] * 2  # a third opens the breaker
    release.set()
    policy.router_timeout_s = 5
    assert decide(policy, text="last").reason == "score"
    # one of the first two held the only thread, if any began in time; the other is not scored
    assert len(router.calls) <= 2 and router.calls[-1] == ["last"]


def test_a_hung_router_does_not_keep_the_process_alive():
    code = (
        "import time\n"
        "from routellm_core import RoutingPolicy\n"
        "from routellm_core.policy import RouteRequest\n"
        "from routellm_core.testing import ScriptedRouter\n"
        "policy = RoutingPolicy(ScriptedRouter(delay_s=60), threshold=0.5, router_timeout_s=0.01)\n"
        "print(policy.decide([RouteRequest(text='q')])[0].reason)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True, env=environment
    )
    assert done.stdout == "scorer_error\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_policy_that_has_used_its_threads_works_in_a_forked_child():
    code = (
        "import os, signal\n"
        "from routellm_core import RoutingPolicy\n"
        "from routellm_core.policy import RouteRequest\n"
        "policy = RoutingPolicy('random', threshold=0.5, router_timeout_s=5)\n"
        "print(policy.decide([RouteRequest(text='q')])[0].reason, flush=True)\n"
        "signal.alarm(20)\n"
        "if os.fork() == 0:\n"
        "    print(policy.decide([RouteRequest(text='q')])[0].reason, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "score\nscore\n"


@pytest.mark.parametrize("gives", [[float("nan")], [7.0], [0.5, 0.5], None, "high"])
async def test_what_an_async_router_gives_is_checked_too(gives):
    class Remote(ScriptedRouter):
        async def awin_rate(self, prompts):
            return gives

    policy = RoutingPolicy(Remote(is_quick=False), threshold=0.5)
    decision = (await policy.adecide([RouteRequest(text="q")]))[0]
    assert (decision.route, decision.reason, decision.win_rate) == ("strong", "scorer_error", None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": "0.5"},
        {"threshold": b"1"},
        {"threshold": ["0.5"]},
        {"router_timeout_s": "5"},
        {"router_timeout_s": True},
        {"routes": "ab"},
        {"routes": (1, 2)},
        {"routes": ("", "b")},
    ],
)
def test_what_only_looks_like_a_number_or_a_name_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        RoutingPolicy(ScriptedRouter(), **arguments)


@pytest.mark.parametrize("threshold", [np.float32(0.5), np.int64(1), np.array(0.5), [np.float64(0.5)], np.array([0.5])])
def test_numpys_numbers_are_numbers(threshold):
    assert RoutingPolicy(ScriptedRouter(), threshold=threshold).thresholds[0] in (0.5, 1.0)


class WithCode(Exception):
    def __init__(self, code):
        self.code = code


class WithResponse(Exception):
    def __init__(self, status_code):
        self.response = type("Response", (), {"status_code": status_code})()


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (WithCode(503), True),
        (WithCode(404), False),
        (WithCode(14), False),
        (WithResponse(502), True),
        (WithResponse(401), False),
        (asyncio.TimeoutError(), True),
        (concurrent.futures.TimeoutError(), True),
        (socket.gaierror(), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
        (OSError(errno.ENOENT, "no file"), False),
    ],
)
def test_passing_failures_are_known_wherever_their_library_says_so(error, passing):
    assert may_fall_back(error) is passing


def test_a_collector_left_open_in_a_generator_does_not_close_others():
    def inside():
        with collect_decisions():
            yield

    with collect_decisions() as outer:
        generator = inside()
        next(generator)
        with collect_decisions() as later:
            generator.close()
            observe(Decision(route="a", reason="score"))
    assert [d.route for d in later] == [d.route for d in outer] == ["a"]
