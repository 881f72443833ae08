"""Any two models by their abilities: what the difficulty router's abilities are for."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core import Calibration, CostAwarePolicy, DifficultyRouter, RoutingPolicy, fit_router, load_router
from routellm_core.data import Battles
from routellm_core.encoders import HashingEncoder
from routellm_core.errors import ConfigurationError, DataError, RouterFormatError, UnknownKindError
from routellm_core.policy import RouteRequest
from routellm_core.recording import JsonlSink, RecordedCall, read_recording
from routellm_core.routers.ability import DEVIATION, Ability, ability_from_scores, right_rate
from routellm_core.routers.linear import sigmoid
from routellm_core.routers.mf import MatrixFactorizationRouter
from routellm_core.routers.pair import DifficultyPairRouter, pair_win_rate
from routellm_core.routers.sw import SimilarityWeightedRouter
from routellm_core.testing import RouterContract

ABILITIES = {"gpt-4-1106-preview": 2.0, "mixtral-8x7b-instruct-v0.1": -0.5, "llama-3-8b": -1.0}
STRONG, WEAK, SMALL = ABILITIES
PROMPTS = [f"prompt number {i} about {'algebra' if i % 3 else 'cooking'}" for i in range(40)]


def make_difficulty(**changes):
    rng = np.random.default_rng(5)
    arguments = {
        "encoder": HashingEncoder(64),
        "weights": rng.normal(size=64),
        "bias": 0.1,
        "slope": 0.5,
        "intercept": -0.4,
        "abilities": ABILITIES,
    }
    router = DifficultyRouter(**{**arguments, **changes})
    router.calibration = Calibration.from_win_rates(router.win_rate(PROMPTS), strong_share=0.3, source="forty prompts")
    return router


def make_pair(**changes):
    arguments = {
        "encoder": HashingEncoder(64),
        "weights": np.random.default_rng(5).normal(size=64),
        "strong_ability": 1.0,
        "weak_ability": -1.0,
    }
    return DifficultyPairRouter(**{**arguments, **changes})


class TestDifficultyPair(RouterContract):
    def make(self):
        return make_difficulty().for_pair(STRONG, WEAK)

    def test_its_thresholds_come_from_the_same_prompts_scored_for_the_pair(self):
        router = self.make()
        ascending = np.sort(router.win_rate(PROMPTS))
        np.testing.assert_allclose(router.calibration.win_rates, ascending, atol=1e-6)
        assert router.calibration.strong_share == 0.3
        assert (router.win_rate(PROMPTS) >= RoutingPolicy(router).thresholds[0]).mean() == 0.3
        assert router.calibration.source == "forty prompts"

    def test_without_a_calibration_there_is_none_to_take_over(self):
        router = make_difficulty()
        router.calibration = None
        assert router.for_pair(STRONG, WEAK).calibration is None

    def test_settings_hold_the_two_abilities_and_come_back(self, tmp_path):
        router = DifficultyPairRouter(
            encoder=HashingEncoder(64), weights=np.ones(64), strong_ability=2.0, weak_ability=-0.5, deviation=0.25
        )
        router.save(tmp_path / "r")
        settings = json.loads((tmp_path / "r" / "config.json").read_text())["settings"]
        assert settings == {"bias": 0.0, "strong_ability": 2.0, "weak_ability": -0.5, "deviation": 0.25}
        loaded = load_router(tmp_path / "r")
        assert (loaded.strong_ability, loaded.weak_ability, loaded.deviation) == (2.0, -0.5, 0.25)

    def test_without_its_encoder_it_is_not_restored(self):
        router = self.make()
        with pytest.raises(RouterFormatError, match="without its encoder"):
            DifficultyPairRouter.restore(router.settings(), router.tensors(), None)

    @pytest.mark.parametrize(
        "changes",
        [
            {"weights": np.ones(63)},
            {"weights": np.full(64, np.inf)},
            {"bias": float("nan")},
            {"strong_ability": float("inf")},
            {"weak_ability": float("nan")},
            {"deviation": -0.1},
            {"deviation": float("nan")},
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, changes):
        with pytest.raises(ConfigurationError):
            make_pair(**changes)


# -- the win rate
def test_with_a_certain_difficulty_it_is_strong_right_times_weak_wrong():
    # at the middle of 1 and -1: sigmoid(1)^2 = .7311^2 = .5344; at d = 1: .5 * sigmoid(2) = .5 * .8808 = .4404
    win_rates = pair_win_rate(np.array([0.0, 1.0]), 1.0, -1.0, 0.0)
    np.testing.assert_allclose(win_rates, [0.53445, 0.44040], atol=1e-5)


def test_an_uncertain_difficulty_is_averaged_over():
    rng = np.random.default_rng(0)
    drawn = 0.7 + DEVIATION * rng.standard_normal(400_000)
    expected = (sigmoid(2.0 - drawn) * sigmoid(drawn + 0.5)).mean()
    # standard error of the mean about .25 / sqrt(400,000) = .0004
    assert pair_win_rate(np.array([0.7]), 2.0, -0.5)[0] == pytest.approx(expected, abs=0.002)


def test_abilities_far_apart_still_give_win_rates():
    # both factors are 1, and the weights' sum may miss 1 by its last digit
    assert pair_win_rate(np.zeros(1), 200.0, -200.0).tolist() == [pytest.approx(1.0)]
    router = make_difficulty().for_pair(200.0, -200.0)
    assert router.win_rate(PROMPTS).max() <= 1.0
    assert router.calibration.win_rates.max() <= 1.0


def test_a_router_uses_its_own_deviation():
    certain, usual = make_pair(deviation=0.0), make_pair()
    d = certain.difficulty(PROMPTS)
    np.testing.assert_allclose(certain.win_rate(PROMPTS), sigmoid(1.0 - d) * sigmoid(d + 1.0), atol=1e-6)
    np.testing.assert_allclose(usual.win_rate(PROMPTS), pair_win_rate(d, 1.0, -1.0), atol=1e-6)


def test_it_rises_up_to_the_middle_of_the_abilities_and_falls_alike_beyond():
    steps = np.linspace(0.0, 8.0, 50)
    below, above = (pair_win_rate(0.75 + side * steps, 2.0, -0.5) for side in (-1, 1))
    assert (np.diff(above) < 0).all()
    np.testing.assert_allclose(below, above, atol=1e-9)


@given(strong=st.floats(-4, 4), weak=st.floats(-4, 4), difficulty=st.floats(-6, 6))
def test_the_lead_is_the_same_share_of_every_win_rate(strong, weak, difficulty):
    d = np.array([difficulty])
    lead = right_rate([strong], d)[0, 0] - right_rate([weak], d)[0, 0]
    assert pair_win_rate(d, strong, weak)[0] * -np.expm1(weak - strong) == pytest.approx(lead, abs=1e-6)


def test_where_both_models_solve_most_it_is_the_difficulty_routers_order():
    router = make_difficulty()
    pair = router.for_pair(30.0, 28.0)
    assert np.argsort(pair.win_rate(PROMPTS)).tolist() == np.argsort(router.win_rate(PROMPTS)).tolist()


# -- which models
def test_models_are_named_in_any_spelling():
    router = make_difficulty()
    pair = router.for_pair("GPT-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert (pair.strong_ability, pair.weak_ability) == (2.0, -0.5)
    assert pair.name == router.for_pair(STRONG, WEAK).name
    np.testing.assert_allclose(pair.difficulty(PROMPTS), router.difficulty(PROMPTS))


def test_the_encoder_is_shared():
    router = make_difficulty()
    assert router.for_pair(STRONG, WEAK).encoder is router.encoder


def test_a_model_may_be_an_ability_and_zero_is_one():
    pair = make_difficulty().for_pair(Ability(value=1.5, standard_error=0.3, n_scores=20), 0.0)
    assert (pair.strong_ability, pair.weak_ability) == (1.5, 0.0)


def test_an_unknown_model_lists_close_ones():
    with pytest.raises(UnknownKindError, match="gpt-4-1106-preview"):
        load_router("default").for_pair("gpt-4-1105", "mixtral-8x7b-instruct-v0.1")
    with pytest.raises(UnknownKindError, match="llama-3-8b"):
        make_difficulty().for_pair("nobody", WEAK)


@pytest.mark.parametrize(
    "pair",
    [(STRONG, STRONG), (STRONG, STRONG.upper()), (STRONG, None), (STRONG, True), (float("nan"), WEAK), (10**400, WEAK)],
)
def test_one_model_twice_or_no_model_is_refused(pair):
    with pytest.raises(ConfigurationError):
        make_difficulty().for_pair(*pair)


# -- ability from scores
def test_ability_is_where_the_expected_score_is_the_observed_one_but_for_the_prior():
    # a uniform prompt of difficulty d: 2,000 scores, 75 % right. Without the prior right_rate(a, d) = .75
    router = make_difficulty(weights=np.zeros(64), bias=0.6)
    prompts = [str(i) for i in range(2000)]
    found = router.ability_from_scores(prompts, np.arange(2000) % 4 != 0)
    assert right_rate([found.value], np.array([0.6]))[0, 0] == pytest.approx(0.75, abs=0.002)
    assert found.n_scores == 2000
    # information of one score: (dp/da)^2 / (p (1 - p)), taken by a difference
    rate = [right_rate([found.value + step], np.array([0.6]))[0, 0] for step in (-1e-4, 1e-4)]
    information = 2000 * ((rate[1] - rate[0]) / 2e-4) ** 2 / (0.75 * 0.25) + 0.25
    assert found.standard_error == pytest.approx(information**-0.5, rel=0.01)


def test_a_known_ability_is_found_again_within_its_standard_error():
    router = make_difficulty()
    prompts = [f"question {i}" for i in range(400)]
    rng = np.random.default_rng(1)
    errors = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        difficulty = router.difficulty(prompts) + DEVIATION * rng.standard_normal(400)
        found = router.ability_from_scores(prompts, rng.random(400) < sigmoid(1.2 - difficulty))
        errors.append((found.value - 1.2) / found.standard_error)
    # forty standard scores: their mean within 3 / sqrt(40) = .47 of 0, their deviation near 1
    assert abs(np.mean(errors)) < 0.47
    assert 0.7 < np.std(errors) < 1.3


def test_all_right_and_all_wrong_are_far_apart_and_finite():
    router = make_difficulty()
    high, low = (router.ability_from_scores(PROMPTS[:20], np.full(20, score)).value for score in (1.0, 0.0))
    assert 1.0 < high < 6.0 and -6.0 < low < -1.0


@pytest.mark.parametrize("difficulty", [800.0, -800.0])
def test_prompts_beyond_all_measure_say_nothing_of_a_model(difficulty):
    # the chance of a good answer is 0 or 1 to the last bit, whatever the ability: what remains is the prior, N(0, 2^2)
    for score in (0.0, 1.0):
        ability = ability_from_scores(np.full(20, difficulty), np.full(20, score))
        assert (ability.value, ability.standard_error) == (0.0, 2.0)


def test_more_scores_make_it_surer():
    router = make_difficulty()
    scores = np.arange(40) % 2
    few, many = (router.ability_from_scores(PROMPTS[:n], scores[:n]) for n in (10, 40))
    assert many.standard_error < few.standard_error < 2.0  # the prior's


@pytest.mark.parametrize(
    "scores",
    [[1.0] * 9, [1.0] * 11, [2.0] * 10, [-0.1] * 10, [float("nan")] * 10, ["right"] * 10, [None] * 10, [10**400] * 10],
)
def test_scores_that_place_no_model_are_data_errors(scores):
    with pytest.raises(DataError):
        make_difficulty().ability_from_scores(PROMPTS[: 9 if len(scores) == 9 else 10], scores)


def test_one_str_is_no_list_of_prompts():
    for call in (make_difficulty().model_scores, lambda p: make_difficulty().ability_from_scores(p, [1] * 10)):
        with pytest.raises(DataError):
            call("ten chars.")


# -- many models
def test_model_scores_are_each_models_chance_to_be_right():
    router = make_difficulty(weights=np.zeros(64), bias=0.0)
    assert router.models == tuple(ABILITIES)
    scores = router.model_scores(["a", "b"])
    rng = np.random.default_rng(0)
    drawn = DEVIATION * rng.standard_normal(400_000)
    expected = [sigmoid(ability - drawn).mean() for ability in ABILITIES.values()]
    np.testing.assert_allclose(scores, [expected, expected], atol=0.003)
    assert router.model_scores([]).shape == (0, 3)


def test_many_prompts_score_as_each_alone():
    router = make_difficulty()
    prompts = [str(i) for i in range(5000)]  # more than are scored at once
    scores = router.model_scores(prompts)
    for row in (0, 4095, 4096, 4999):
        np.testing.assert_allclose(scores[row], router.model_scores([prompts[row]])[0], atol=1e-6)


def test_a_policy_by_cost_routes_among_known_models_without_labels():
    router = make_difficulty().with_model("mine", Ability(value=0.5, standard_error=0.4, n_scores=30))
    costs = {SMALL: 0.0, "mine": 0.1, STRONG: 1.0}
    # with a tradeoff of 0 the ablest answers everything, with a large one the cheapest
    for tradeoff, route in ((0.0, STRONG), (1e6, SMALL)):
        policy = CostAwarePolicy(router, costs_usd=costs, tradeoff=tradeoff)
        assert {d.route for d in policy.decide([RouteRequest(text=p) for p in PROMPTS])} == {route}
    lead = router.model_scores(PROMPTS) @ np.array([1.0, 0.0, -1.0, 0.0])
    worth = float(np.median(lead))
    policy = CostAwarePolicy(router, costs_usd={SMALL: 0.0, STRONG: 1.0}, tradeoff=worth)
    taken = [d.route for d in policy.decide([RouteRequest(text=p) for p in PROMPTS])]
    assert taken == [STRONG if each > worth else SMALL for each in lead]
    assert len(set(taken)) == 2


def test_a_model_is_added_once_and_nothing_else_changes():
    router = make_difficulty()
    larger = router.with_model("mine", 0.0)
    assert larger.models == (*ABILITIES, "mine") and router.models == tuple(ABILITIES)
    assert larger.abilities["mine"] == 0.0
    np.testing.assert_array_equal(larger.win_rate(PROMPTS), router.win_rate(PROMPTS))
    assert larger.calibration is router.calibration and larger.encoder is router.encoder
    with pytest.raises(ConfigurationError, match="already"):
        larger.with_model("mine", 1.0)


def test_the_embedded_router_scores_any_two_of_its_models():
    router = load_router("default").for_pair("gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert (router.strong_ability, router.weak_ability) == (1.972, -0.5003)
    shares = router.calibration
    assert shares.realised_share == pytest.approx(0.5, abs=0.01)


# -- what records call it
def test_two_pairs_of_one_router_have_two_names_which_records_and_folders_keep(tmp_path):
    router = make_difficulty(name="ours")
    # any spelling of a model gives one name; an ability stands for itself
    one, same = router.for_pair(STRONG, WEAK), router.for_pair("GPT-4-1106-preview", WEAK)
    other = router.for_pair(Ability(value=1.97321, standard_error=0.3, n_scores=20), -0.5)
    assert one.name == same.name == "ours (gpt-4-1106-preview over mixtral-8x7b-instruct-v0.1)"
    assert other.name == "ours (1.973 over -0.5)"
    assert router.for_pair(1.0, -0.0).name == "ours (1 over 0)"
    assert router.for_pair(STRONG, WEAK, name="mine").name == "mine"
    assert router.name == "ours"

    one.save(tmp_path / "pair")
    loaded = load_router(tmp_path / "pair")
    assert loaded.name == one.name
    requests = [RouteRequest(text=prompt) for prompt in PROMPTS]
    decisions, again = RoutingPolicy(one).decide(requests), RoutingPolicy(loaded).decide(requests)
    assert {decision.router for decision in decisions} == {one.name}
    assert [(d.route, d.threshold, d.router) for d in decisions] == [(d.route, d.threshold, d.router) for d in again]


def test_recorded_win_rates_of_two_pairs_are_told_apart(tmp_path):
    router = make_difficulty()
    pairs = router.for_pair(STRONG, WEAK), router.for_pair(STRONG, SMALL)
    with JsonlSink(tmp_path / "calls.jsonl") as sink:
        for number, pair in enumerate(pairs):
            decision = RoutingPolicy(pair).decide([RouteRequest(text="hello")])[0]
            sink.write(RecordedCall(id=str(number), root_id=str(number), time=0.0, decision=decision.to_dict()))
    recording = read_recording(tmp_path / "calls.jsonl")
    with pytest.raises(DataError, match="several routers"):
        recording.win_rates()
    for pair in pairs:
        np.testing.assert_array_equal(recording.win_rates(pair.name), pair.win_rate(["hello"]))


def test_a_router_that_was_saved_under_its_bases_name_keeps_it(tmp_path):
    pair = make_difficulty().for_pair(STRONG, WEAK, name="difficulty")  # as versions before these names saved it
    pair.save(tmp_path / "pair")
    assert load_router(tmp_path / "pair").name == "difficulty"
    assert RoutingPolicy(tmp_path / "pair").thresholds == RoutingPolicy(pair).thresholds


@pytest.mark.parametrize("kind", ["mf", "sw", "fitted"])
def test_pairs_of_routers_over_many_models_are_named_like_it(kind, tmp_path):
    if kind == "mf":
        rng = np.random.default_rng(0)
        router = MatrixFactorizationRouter(
            encoder=HashingEncoder(8), models=("a", "b", "c"), strong="a", weak="c", name="ours",
            model_vectors=rng.normal(size=(3, 4)), projection=rng.normal(size=(4, 8)), classifier=rng.normal(size=4),
        )  # fmt: skip
    elif kind == "sw":
        # each beats each other once
        battles = Battles.from_columns(list("uvwxyz"), list("abbcac"), list("bacbca"), [1] * 6)
        router = SimilarityWeightedRouter.from_battles(
            battles, encoder=HashingEncoder(8), tiers={"a": 0, "b": 1, "c": 2}, strong="a", weak="c"
        )
        router.name = "ours"
    else:
        pytest.importorskip("scipy")
        scores = {m: (np.arange(40) % k == 0).astype(float) for m, k in (("a", 1), ("b", 2), ("c", 3))}
        router = fit_router(PROMPTS, scores=scores, strong="a", weak="c", name="ours", learning_curve=False).router
    pair = router.for_pair("a", "b")
    assert (router.name, pair.name) == ("ours", "ours (a over b)")
    assert pair.for_pair("b", "c").name == "ours (b over c)"  # its own pair is no part of another's name
    assert pair.for_pair("b", "c", name="mine").name == "mine"
    pair.save(tmp_path / "pair")
    assert load_router(tmp_path / "pair").name == "ours (a over b)"
