"""Routing among N models by quality and cost: whom it chooses, and that all other rules stay."""

import asyncio
import json
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core import CostAwarePolicy, RoutingPolicy, load_router
from routellm_core.errors import ConfigurationError, DataError, ScoringError, UnknownKindError
from routellm_core.policy import POLICY_DEFAULTS, RouteRequest, choose_models, policy_from, tradeoff_within
from routellm_core.recording import RecordedCall, open_sink, read_recording
from routellm_core.testing import ScriptedRouter
from routellm_core.types import Decision

COSTS = {"small": 0.001, "mid": 0.01, "large": 0.1}


class ManyModels(ScriptedRouter):
    """Scores of three models, by a function of the prompt; the columns are not in the order of the costs."""

    models = ("large", "small", "mid")

    def __init__(self, scores=lambda prompt: (0.9, 0.2, 0.6), **options):
        super().__init__(**options)
        self.scores = scores

    def model_scores(self, prompts):
        self.calls.append(list(prompts))
        if self.error is not None:
            raise self.error
        return np.array([self.scores(prompt) for prompt in prompts], dtype=np.float64)


def policy(router=None, **options):
    return CostAwarePolicy(router or ManyModels(), **{"costs_usd": COSTS, "tradeoff": 0.0, **options})


def both_ways(policy, **request):
    """The decision, after checking that the async twin takes the same one."""
    sync = policy.decide([RouteRequest(**{"text": "a question", **request})])[0]
    twin = asyncio.run(policy.adecide([RouteRequest(**{"text": "a question", **request})]))[0]
    assert (sync.route, sync.reason) == (twin.route, twin.reason)
    return sync


# -- whom it chooses
@pytest.mark.parametrize(
    ("tradeoff", "route"),
    [
        # small .2 at .001, mid .6 at .01, large .9 at .1: large over mid is worth .3 / .09 = 3.33 a dollar, mid over
        # small .4 / .009 = 44.4
        (0.0, "large"),
        (3.3, "large"),
        (3.4, "mid"),
        (44.4, "mid"),
        (44.5, "small"),
        (1e9, "small"),
    ],
)
def test_the_dearer_route_answers_while_its_quality_is_worth_the_money(tradeoff, route):
    decision = both_ways(policy(tradeoff=tradeoff))
    assert (decision.route, decision.reason, decision.router) == (route, "score", "scripted")
    assert decision.win_rate is None and decision.threshold is None
    # the router's columns are large, small, mid; the record is by route, weakest first
    assert set(decision.to_dict()) == {"route", "reason", "router", "scorer_ms", "qualities"}
    assert list(decision.qualities.items()) == [("small", 0.2), ("mid", 0.6), ("large", 0.9)]


def test_the_record_keeps_what_every_route_was_worth_wherever_the_call_went():
    moved = both_ways(policy(), capable=lambda route: route != "large")
    assert (moved.route, moved.reason, moved.qualities["large"]) == ("mid", "capability", 0.9)
    fallen = policy(fallback="any", tradeoff=10.0).attempts(both_ways(policy(tradeoff=10.0)))
    assert [(d.route, d.qualities["mid"]) for d in fallen] == [("mid", 0.6), ("large", 0.6), ("small", 0.6)]
    # nothing was scored
    assert both_ways(policy(), forced="mid").qualities is None
    assert both_ways(policy(), text="").qualities is None
    assert both_ways(policy(ManyModels(error=ValueError()))).qualities is None


def test_a_decision_with_qualities_is_a_value_like_any_other():
    decision = both_ways(policy(costs_usd={"cheap": 0.001, "dear": 0.01}, model_ids={"cheap": "small", "dear": "mid"}))
    assert decision.qualities == {"cheap": 0.2, "dear": 0.6}
    record = decision.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert Decision(**record) == decision
    assert hash(Decision(**record)) == hash(decision)
    record["qualities"]["dear"] = 0.0  # a record is the caller's to change
    assert decision.qualities["dear"] == 0.6


@pytest.mark.parametrize("ending", ["jsonl", "sqlite"])
def test_from_recorded_calls_another_tradeoff_can_be_tried(tmp_path, ending):
    router = ManyModels(lambda prompt: (0.9, 0.8 if "easy" in prompt else 0.1, 0.2))
    decisions = policy(router, tradeoff=2.0).decide([RouteRequest(text="easy"), RouteRequest(text="hard")])
    with open_sink(tmp_path / f"calls.{ending}") as sink:
        for name, decision in zip("ab", decisions, strict=True):
            sink.write(RecordedCall(id=name, root_id=name, time=0.0, decision=decision.to_dict(), prompt=name))
    recording = read_recording(tmp_path / f"calls.{ending}")
    assert list(recording.decisions()) == decisions
    assert recording.prompts() == ["a", "b"]
    table = [list(call.qualities.values()) for call in recording.calls]
    assert table == [[0.8, 0.2, 0.9], [0.1, 0.2, 0.9]]
    # a dollar brings, easy, large for small: .1 / .099 = 1.01; hard, large for mid: .7 / .09 = 7.8, mid for small: 11.1
    for tradeoff, routes in ((1.0, [2, 2]), (1.1, [0, 2]), (7.9, [0, 1]), (11.2, [0, 0])):
        assert choose_models(table, list(COSTS.values()), tradeoff).tolist() == routes
    with pytest.raises(DataError, match="no win rate; it has calls that were routed by quality and cost"):
        recording.win_rates()


@pytest.mark.parametrize("qualities", [[0.1, 0.2], {"small": "good"}, {"small": None}, {"small": True}, "high"])
def test_a_record_with_other_qualities_is_refused(qualities):
    record = {"id": "a", "root_id": "a", "time": 0.0}
    record["decision"] = {"route": "small", "reason": "score", "qualities": qualities}
    with pytest.raises(DataError, match="qualities"):
        RecordedCall.from_dict(record)


def test_of_equals_the_cheaper_answers():
    assert both_ways(policy(ManyModels(lambda prompt: (0.5, 0.5, 0.5)))).route == "small"


def test_each_prompt_of_a_batch_gets_its_own_route_from_one_call_of_the_router():
    router = ManyModels(lambda prompt: (0.9, 0.8 if "easy" in prompt else 0.1, 0.2))
    decisions = policy(router, tradeoff=2.0).decide(
        [
            RouteRequest(text="easy"),
            RouteRequest(text="hard"),
            RouteRequest(text="x", forced="mid"),
            RouteRequest(text=""),
        ]
    )
    # easy: small .798, large .7; hard: small .098, large .7
    assert [d.route for d in decisions] == ["small", "large", "mid", "large"]
    assert [d.reason for d in decisions] == ["score", "score", "forced", "no_text"]
    assert router.calls == [["easy", "hard"]]


def test_routes_are_named_freely_and_only_those_given_are_chosen_from():
    two = policy(costs_usd={"cheap": 0.001, "dear": 0.01}, model_ids={"cheap": "small", "dear": "mid"})
    assert both_ways(two).route == "dear"  # large is better still, but no route


@given(
    scores=st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=20),
    tradeoff=st.floats(0, 100),
)
def test_with_two_models_it_is_a_threshold_on_the_quality_gap(scores, tradeoff):
    table = np.array(scores)
    costs = np.array([0.001, 0.02])
    value = table - tradeoff * costs
    assert choose_models(table, costs, tradeoff).tolist() == (value[:, 1] > value[:, 0]).astype(int).tolist()


# -- which tradeoff
def test_the_tradeoff_within_a_budget_is_the_smallest_that_keeps_to_it():
    scores = np.array([[0.2, 0.6], [0.2, 0.4], [0.2, 0.3], [0.2, 0.1]])  # worth .4, .2, .1, -.1 over .01 dollars
    costs = np.array([0.01, 0.02])
    # all may be paid for: the best answers everywhere, at (3 * .02 + .01) / 4 = .0175
    assert tradeoff_within(scores, costs, usd_per_call=0.0175) == 0.0
    # two dear calls of four cost .015: the third is given up, worth .1 / .01 = 10 a dollar
    assert tradeoff_within(scores, costs, usd_per_call=0.016) == pytest.approx(10.0)
    assert tradeoff_within(scores, costs, usd_per_call=0.01) == pytest.approx(40.0)
    for budget in (0.01, 0.012, 0.016):
        chosen = choose_models(scores, costs, tradeoff_within(scores, costs, usd_per_call=budget))
        assert costs[chosen].mean() <= budget


@given(
    scores=st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=30),
    budget=st.floats(0.001, 0.1),
)
def test_no_budget_is_ever_exceeded(scores, budget):
    costs = np.array(list(COSTS.values()))
    tradeoff = tradeoff_within(scores, costs, usd_per_call=budget)
    assert costs[choose_models(scores, costs, tradeoff)].mean() <= budget * (1 + 1e-12)


def test_a_budget_below_the_cheapest_model_is_refused():
    with pytest.raises(ConfigurationError, match="cheapest"):
        tradeoff_within([[0.1, 0.2]], [0.01, 0.02], usd_per_call=0.005)
    with pytest.raises(DataError):
        tradeoff_within(np.zeros((0, 2)), [0.01, 0.02], usd_per_call=1)
    with pytest.raises(DataError):
        choose_models([[0.1, 0.2]], [0.01], 1.0)


# -- the other rules
def test_sticky_calls_keep_their_route():
    dear = policy(stickiness="conversation")
    assert both_ways(dear, tool_loop="small").reason == "tool_loop"
    assert both_ways(dear, pinned="small").route == "small"
    assert both_ways(dear, conversation="mid").reason == "conversation"


def test_a_route_that_cannot_take_the_call_is_passed_over():
    moved = both_ways(policy(tradeoff=10.0), capable=lambda route: route != "mid")
    assert (moved.route, moved.reason) == ("large", "capability")


def test_fallback_goes_by_the_order_of_the_routes():
    first = policy(tradeoff=10.0, fallback="any")
    assert [d.route for d in first.attempts(both_ways(first))] == ["mid", "large", "small"]


@pytest.mark.parametrize(
    "router",
    [
        ManyModels(error=RuntimeError("secret prompt")),
        ManyModels(error=ScoringError("out of order")),
        ManyModels(lambda prompt: (0.5, float("nan"), 0.5)),
        ManyModels(lambda prompt: (0.5, 0.5)),
    ],
)
def test_a_router_that_fails_leaves_the_call_to_the_on_error_route(router):
    decision = both_ways(policy(router, on_error="weak"))
    assert (decision.route, decision.reason) == ("small", "scorer_error")
    assert decision.error.startswith("ScoringError: ") and "secret" not in decision.error
    with pytest.raises(ScoringError):
        policy(router, on_error="raise").decide([RouteRequest(text="a question")])


def test_a_late_router_is_not_waited_for_and_then_left_alone():
    release = threading.Event()
    router = ManyModels(lambda prompt: (release.wait(30), 0.5, 0.5))
    late = policy(router, router_timeout_s=0.05)
    reasons = [late.decide([RouteRequest(text="a question")])[0] for _ in range(4)]
    release.set()
    assert {d.reason for d in reasons} == {"scorer_error"}
    assert "left alone" in reasons[-1].error


async def test_a_slow_router_does_not_block_the_event_loop():
    released = threading.Event()
    slow = policy(ManyModels(lambda prompt: (released.wait(30), 0.2, 0.6), is_quick=False))

    async def release():  # runs only if the loop is free while the router waits
        released.set()

    decisions, _ = await asyncio.gather(slow.adecide([RouteRequest(text="q")]), release())
    assert decisions[0].route == "large"


# -- in place of a RoutingPolicy
def test_adapters_take_it_as_their_policy():
    given = policy(tradeoff=2.0)
    assert policy_from(given, tuple(COSTS), POLICY_DEFAULTS) is given
    assert isinstance(given, RoutingPolicy)
    assert policy_from(given, tuple(COSTS), {**POLICY_DEFAULTS, "router": given.router, "threshold": None}) is given
    with pytest.raises(ConfigurationError, match="small, mid, large"):
        policy_from(given, ("weak", "strong"), POLICY_DEFAULTS)
    settings = json.loads(json.dumps(given.settings()))
    assert settings["threshold"] is None
    assert settings["costs_usd"] == COSTS and settings["tradeoff"] == 2.0


def test_a_threshold_for_a_call_is_refused():
    with pytest.raises(ConfigurationError, match="no threshold"):
        both_ways(policy(), threshold=0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tradeoff": -1.0},
        {"tradeoff": float("inf")},
        {"tradeoff": True},
        {"costs_usd": {"small": -0.1, "mid": 0.1}},
        {"costs_usd": {"small": "free", "mid": 0.1}},
        {"costs_usd": {"small": 0.1}},
        {"costs_usd": ["small", "mid"]},
        {"costs_usd": {"small": 0.1, "other": 0.2}, "model_ids": {"other": "small"}},
        {"router": "random"},
        {"router": "router-mf-0.11593"},
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ConfigurationError):
        policy(**arguments)


@pytest.mark.parametrize("arguments", [{"costs_usd": {"small": 0.1, "huge": 1.0}}, {"model_ids": {"huge": "large"}}])
def test_a_model_or_route_that_is_not_known_is_named(arguments):
    with pytest.raises(UnknownKindError, match="huge") as caught:
        policy(**arguments)
    assert "with_model" not in str(caught.value)  # this router has none


def test_a_route_that_is_no_model_of_the_router_is_told_how_it_becomes_one():
    with pytest.raises(UnknownKindError) as caught:
        CostAwarePolicy("default", costs_usd={"weak": 0.1, "strong": 1.0}, tradeoff=1.0)
    assert str(caught.value) == (
        "unknown model 'weak'; 88 are known; the names in costs_usd= (or what model_ids= gives for them) must be names "
        "of the router's models; router.with_model(name, ability) adds one"
    )
    router = load_router("default").with_model("weak", -1.0).with_model("strong", 1.0)
    assert CostAwarePolicy(router, costs_usd={"weak": 0.1, "strong": 1.0}, tradeoff=1.0).routes == ("weak", "strong")


def test_a_router_fitted_to_scores_of_three_models_decides():
    pytest.importorskip("scipy")
    from routellm_core import fit_router

    rng = np.random.default_rng(0)
    hard = rng.random(120) < 0.5
    prompts = [f"{'prove' if h else 'greet'} number {i}" for i, h in enumerate(hard)]
    scores = {"small": np.where(hard, 0.0, 1.0), "mid": np.where(hard, 0.5, 1.0), "large": np.ones(120)}
    fitted = fit_router(prompts, scores=scores, learning_curve=False).router
    decides = CostAwarePolicy(fitted, costs_usd=COSTS, tradeoff=1.0)
    taken = decides.decide([RouteRequest(text=prompt) for prompt in ("prove number 500", "greet number 500")])
    assert [d.route for d in taken] == ["large", "small"]
    share = Counter(d.route for d in decides.decide([RouteRequest(text=prompt) for prompt in prompts]))
    assert share["large"] == hard.sum()
