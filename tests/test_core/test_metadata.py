"""What is known of a call beside its text, on its way to the router."""

import asyncio
import copy
import logging
import pickle
from enum import Enum

import numpy as np
import pytest

from routellm_core import CostAwarePolicy, EscalationPolicy, RoutingPolicy, fit_router, load_router
from routellm_core.encoders import HashingEncoder
from routellm_core.errors import ConfigurationError, DataError, ScoringError
from routellm_core.policy import RouteRequest
from routellm_core.routers.metadata import category, known_metadata
from routellm_core.testing import ScriptedRouter
from tests.by_tier import ByTier, Never


class Tier(Enum):
    PAID = "paid"
    FIRST = 1


def decided(policy, requests, how):
    if how == "decide":
        return policy.decide(requests)
    return asyncio.run(policy.adecide(requests))


def policies(router):
    """One of each kind; all are strong for "paid" and for no other tier."""
    costs = {"small": 0.0, "large": 0.5}
    return {
        "threshold": RoutingPolicy(router, threshold=0.5, on_error="raise"),
        # .9 - .5 * .5 = .65 > .1, but .3 - .25 < .7
        "costs": CostAwarePolicy(router, costs_usd=costs, tradeoff=0.5, on_error="raise"),
        "escalation": EscalationPolicy(Never(), router, threshold=0.5, escalation_threshold=0.5, on_error="raise"),
        "timeout": RoutingPolicy(router, threshold=0.5, on_error="raise", router_timeout_s=30.0),
    }


KINDS = ("threshold", "costs", "escalation", "timeout")
STRONG = ("strong", "large")


# -- from the request to the router
@pytest.mark.parametrize("how", ["decide", "adecide"])
@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_hands_over_what_its_router_wants_in_one_call(kind, is_quick, how):
    router = ByTier(is_quick=is_quick)
    requests = [
        RouteRequest(text="a", metadata={"tier": "paid", "tenant": object()}),
        RouteRequest(text="b", metadata={"tier": "free", "topic": "law"}),
        RouteRequest(text="c"),
        RouteRequest(text="d", metadata={"tier": None, "langgraph_step": 3}),
    ]
    decisions = decided(policies(router)[kind], requests, how)
    assert [d.route in STRONG for d in decisions] == [True, False, False, False]
    assert router.calls == [["a", "b", "c", "d"]]
    assert router.given == [{"tier": ["paid", "free", None, None], "topic": [None, "law", None, None]}]


@pytest.mark.parametrize("how", ["decide", "adecide"])
@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_know_nothing_of_it_are_scored_without(kind, how):
    router = ByTier()
    decided(policies(router)[kind], [RouteRequest(text="a", metadata={"tenant": "x"}), RouteRequest(text="b")], how)
    assert router.given == [None]


@pytest.mark.parametrize("how", ["decide", "adecide"])
def test_only_the_requests_that_are_scored_count(how):
    router = ByTier()
    requests = [
        RouteRequest(text="a", forced="weak", metadata={"tier": "free"}),
        RouteRequest(text="b", metadata={"tier": "paid"}),
        RouteRequest(text=" ", metadata={"tier": "free"}),
    ]
    policy = RoutingPolicy(router, threshold=0.5)
    assert [d.route for d in decided(policy, requests, how)] == ["weak", "strong", "strong"]
    assert router.given == [{"tier": ["paid"]}]


@pytest.mark.parametrize("how", ["decide", "adecide"])
def test_a_router_that_wants_none_is_never_given_any(how):
    router = ScriptedRouter(0.9)  # its win_rate takes nothing but prompts
    request = RouteRequest(text="a", metadata={"tier": "paid"})
    assert decided(RoutingPolicy(router, threshold=0.5, on_error="raise"), [request], how)[0].route == "strong"


def test_a_router_that_awaits_its_service_is_given_it_there():
    class Awaiting(ByTier):
        kind = "awaiting"

        async def awin_rate(self, prompts, *, metadata=None):
            await asyncio.sleep(0)
            return self.win_rate(prompts, metadata=metadata)

    router = Awaiting(is_quick=False)
    policy = RoutingPolicy(router, threshold=0.5, on_error="raise")
    decisions = asyncio.run(policy.adecide([RouteRequest(text="a", metadata={"tier": "paid"})]))
    assert decisions[0].win_rate == 0.9
    asyncio.run(policy.adecide([RouteRequest(text="a")]))
    assert router.given == [{"tier": ["paid"]}, None]


def test_a_router_on_vectors_from_a_service_is_given_it_in_a_thread():
    class Vectors(HashingEncoder):
        is_async = True  # as an encoder that awaits its service says

    class OnVectors(ByTier):
        kind = "on-vectors"
        encoder = Vectors(8)

        def _score_vectors(self, vectors):
            return np.full(len(vectors), 0.3)

    router = OnVectors(is_quick=False)
    policy = RoutingPolicy(router, threshold=0.5, on_error="raise")
    decisions = asyncio.run(policy.adecide([RouteRequest(text="a", metadata={"tier": "paid"})]))
    assert decisions[0].win_rate == 0.9
    assert asyncio.run(router.awin_rate(["a"])) == [0.3]


def test_a_router_that_names_columns_and_takes_none_is_refused_before_it_fails_at_every_call():
    class Forgetful(ByTier):
        kind = "forgetful"

        def win_rate(self, prompts):
            return np.full(len(prompts), 0.9)

    with pytest.raises(ConfigurationError, match=r"win_rate.*metadata=") as caught:
        RoutingPolicy(Forgetful(), threshold=0.5)
    assert "'tier', 'topic'" in str(caught.value)

    class Scoreless(ByTier):
        kind = "scoreless"

        def model_scores(self, prompts):
            return np.zeros((len(prompts), 2))

    RoutingPolicy(Scoreless(), threshold=0.5)
    with pytest.raises(ConfigurationError, match=r"model_scores.*metadata="):
        CostAwarePolicy(Scoreless(), costs_usd={"small": 0.0, "large": 0.5}, tradeoff=0.5)


@pytest.mark.parametrize("columns", ["tier", (1,), {"tier": "paid"}])
def test_columns_are_a_tuple_of_names(columns):
    class Odd(ByTier):
        kind = "odd"
        metadata_columns = columns

    with pytest.raises(ConfigurationError, match="metadata_columns"):
        RoutingPolicy(Odd(), threshold=0.5)


def test_metadata_that_is_no_mapping_is_the_callers_error():
    with pytest.raises(DataError, match="mapping of columns to values, got list"):
        RoutingPolicy(ScriptedRouter(0.9)).decide([RouteRequest(text="a", metadata=["tier"])])


# -- values
@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("paid", "paid"),
        ("", None),  # an empty cell of a CSV file
        (1, "1"),
        (True, "True"),
        (0, "0"),
        (2.0, "2"),  # what pandas makes of integers with gaps
        (2.5, "2.5"),
        (np.float64(3), "3"),
        (np.int64(4), "4"),
        (np.bool_(False), "False"),
        (np.str_("x"), "x"),
        (Tier.PAID, "paid"),
        (Tier.FIRST, "1"),
        (None, None),
        (float("nan"), None),
        (float("inf"), "inf"),
    ],
)
def test_a_category_is_the_text_of_a_plain_value(value, name):
    found = category(value)
    assert found == name and type(found) in (str, type(None))


@pytest.mark.parametrize("value", [["law"], {"a": 1}, object(), b"law"])
def test_what_is_no_category_is_an_error_that_shows_the_type_alone(value):
    with pytest.raises(DataError, match=f"got {type(value).__name__}$"):
        category(value)


def test_an_integer_that_python_does_not_write_is_no_category_and_costs_no_answer(caplog):
    huge = 10**5000
    with pytest.raises(DataError, match="thousands of digits"):
        category(huge)
    assert known_metadata(("tier",), [{"tier": huge}]) == {"tier": [None]}


def test_in_a_call_what_is_no_category_is_unknown_and_logged_once(caplog):
    class Secret(list):
        pass

    calls = [{"topic": Secret(["s3cret"])}, {"topic": "law"}, None]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert known_metadata(("topic", "tier"), calls) == {"topic": [None, "law", None]}
    assert [r.getMessage() for r in caplog.records] == [
        "metadata 'topic' of a call is Secret, which is no category, and counts as unknown"
    ]


# -- a fitted router
@pytest.fixture(scope="module")
def fitted():
    pytest.importorskip("sklearn")  # the extra fit
    rng = np.random.default_rng(0)
    prompts = [f"please help me with item {rng.integers(10_000)}" for _ in range(200)]
    tier = [(Tier.PAID, "free", 1)[i % 3] for i in range(200)]
    weak = np.array([float(value == "free") for value in tier])
    metadata = {"tier": tier, "topic": ["law", "art"] * 100}
    return fit_router(
        prompts, strong_scores=np.ones(200), weak_scores=weak, metadata=metadata, learning_curve=False
    ).router


def test_a_fitted_router_says_which_columns_it_wants_and_its_copies_do(fitted, tmp_path):
    fitted.save(tmp_path / "router")
    for router in (fitted, load_router(tmp_path / "router"), fitted.for_pair("weak", "strong")):
        assert router.metadata_columns == ("tier", "topic")
    assert load_router("default").metadata_columns == ()


def test_copies_and_pickles_know_the_columns(fitted):
    policy = RoutingPolicy(fitted, threshold=0.5, on_error="raise")
    requests = [RouteRequest(text="a question", metadata={"tier": tier}) for tier in ("paid", "free")]
    expected = [decision.win_rate for decision in policy.decide(requests)]
    for made in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):  # noqa: S301 - made here
        assert [decision.win_rate for decision in made.decide(requests)] == expected


def test_values_mean_the_same_in_fitting_and_in_calls(fitted):
    assert fitted.metadata_values["tier"] == ("1", "free", "paid")
    policy = RoutingPolicy(fitted, threshold=0.5, on_error="raise")
    same = "please help me with item 7"

    def win_rate(tier):
        return policy.decide([RouteRequest(text=same, metadata={"tier": tier, "topic": None})])[0].win_rate

    assert win_rate("paid") == win_rate(Tier.PAID) > win_rate("vip") == win_rate(None) > win_rate("free")
    assert win_rate(1) == win_rate("1") == win_rate(Tier.FIRST) > win_rate("free")
    assert win_rate("paid") == fitted.win_rate([same], metadata={"tier": ["paid"]})[0]
    assert win_rate("paid") == asyncio.run(fitted.awin_rate([same], metadata={"tier": ["paid"]}))[0]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([None, None], "scores without it,"),
        ([{"tier": "paid"}, {"tier": "free"}], "scores without topic,"),
        ([{"topic": "law", "tier": None}, {}], None),
    ],
)
def test_a_fitted_router_warns_once_of_columns_that_a_call_does_not_have(fitted, given, what, caplog):
    router = fitted.for_pair("strong", "weak")  # one that has not warned
    policy = RoutingPolicy(router, threshold=0.5)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            policy.decide([RouteRequest(text="a question", metadata=each) for each in given])
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == (what is not None) and all(what in message for message in told)


def test_a_fitted_router_warns_once_a_column_of_values_never_seen_in_fitting_and_does_not_show_them(fitted, caplog):
    router = fitted.for_pair("strong", "weak", name="fitted")  # one that has not warned
    policy = RoutingPolicy(router, threshold=0.5)
    calls = [
        {"tier": "paid", "topic": "law"},
        {"tier": "", "topic": None},  # not known is no value
        {"tier": "Paid", "topic": "law"},
        {"tier": "s3cret", "topic": "s3cret"},
    ]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            policy.decide([RouteRequest(text="a question", metadata=each) for each in calls])
    assert [r.getMessage() for r in caplog.records] == [
        # fitted with "paid", "free" and 1; with "law" and "art"
        f"metadata {column!r} of a call is none of the {n} values that router 'fitted' saw in fitting (case counts): "
        "the call is scored without it; said once"
        for column, n in (("tier", 3), ("topic", 2))
    ]


def test_values_seen_in_fitting_and_unknown_ones_are_scored_without_a_word(fitted, caplog):
    with caplog.at_level(logging.WARNING):
        fitted.for_pair("strong", "weak").win_rate(
            ["a", "b", "c"], metadata={"tier": [Tier.PAID, 1.0, None], "topic": ["art", float("nan"), ""]}
        )
    assert caplog.records == []


@pytest.mark.parametrize("column", [None, 5, {"paid"}, {"paid": 1}, iter(["paid"]), "p", ["paid", "free"]])
def test_a_column_that_is_no_list_of_one_value_a_prompt_is_a_data_error(fitted, column):
    for method in (fitted.win_rate, fitted.model_scores):
        with pytest.raises(DataError, match="'tier' needs one value a prompt: a list of 1"):
            method(["a"], metadata={"tier": column})


@pytest.mark.parametrize("column", [None, "abcdefghijklmnopqrstuvwxyz"[:25], {"paid"}, ["paid"] * 24])
def test_a_fit_refuses_such_columns_too(column):
    prompts = [f"please help me with item {i}" for i in range(25)]
    with pytest.raises(DataError, match="'tier' needs one value a prompt: a list of 25"):
        fit_router(prompts, strong_scores=[1] * 25, weak_scores=[0, 1] * 12 + [0], metadata={"tier": column})


def test_a_fit_refuses_a_column_that_is_another_one_for_every_prompt():
    # it says nothing of the next prompt, and the saved router would hold all of them: prompts, ids, times
    prompts = [f"please help me with item {i}" for i in range(25)]
    scores = {"strong_scores": [1] * 25, "weak_scores": [0, 1] * 12 + [0], "learning_curve": False}
    with pytest.raises(DataError, match="'prompt'.*another value for every prompt") as caught:
        fit_router(prompts, **scores, metadata={"prompt": prompts})
    assert "item" not in str(caught.value)
    rarely_known = ["free", "paid", *[None] * 23]
    fit_router(prompts, **scores, metadata={"tier": rarely_known})


def test_a_failure_with_metadata_is_a_scoring_error_like_any_other(fitted, monkeypatch):
    def broken(*arguments):
        raise ValueError("the prompt: s3cret")

    monkeypatch.setattr(fitted, "_grams", broken)
    with pytest.raises(ScoringError, match="failed with ValueError") as caught:
        fitted.win_rate(["a"], metadata={"tier": ["paid"]})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(DataError, match="got list"):
        fitted.win_rate(["a"], metadata={"tier": [["paid"]]})
