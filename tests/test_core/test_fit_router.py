"""A router from one's own labels."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routellm_core import RandomRouter, RoutingPolicy, fit_router, load_router
from routellm_core.encoders.ngrams import count_ngrams
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.evaluation import apgr
from routellm_core.policy import RouteRequest
from routellm_core.routers.fitted import FittedRouter
from routellm_core.testing import RouterContract
from routellm_core.training import add_fitted_model

pytest.importorskip("scipy")

HARD = ("prove", "derive", "integrate")
EASY = ("greet", "list", "name")
THINGS = ("the theorem", "a formula", "three cities", "my friend", "some colours", "the series", "a poem", "this code")


def task(n, seed=0, noise=0.1):
    """Prompts of one hard or easy verb; the weak model fails at hard ones. The base router knows nothing of verbs."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    verbs = [rng.choice(HARD if h else EASY) for h in hard]
    prompts = [f"{verb} {rng.choice(THINGS)} number {rng.integers(1000)}" for verb in verbs]
    flip = rng.random((2, n)) < noise
    strong = np.where(flip[0], 0.0, 1.0)
    weak = np.where(hard ^ flip[1], 0.0, 1.0)
    return prompts, strong, weak


@pytest.fixture(scope="module")
def fitted():
    prompts, strong, weak = task(300)
    return fit_router(prompts, strong_scores=strong, weak_scores=weak)


def test_what_was_learned_holds_for_prompts_not_seen(fitted):
    prompts, strong, weak = task(500, seed=1)
    win_rates = fitted.router.win_rate(prompts)
    base = load_router("default").win_rate(prompts)
    # half of the prompts are hard: .75 is what the best order reaches without noise
    assert apgr(win_rates, strong, weak) > 0.7 > 0.6 > apgr(base, strong, weak)
    # the figure of the cross-validation is about what new prompts show
    assert abs(fitted.apgr - apgr(win_rates, strong, weak)) < 0.06
    assert fitted.apgr_interval[0] < fitted.apgr < fitted.apgr_interval[1]


def test_win_rates_are_probabilities_of_winning(fitted):
    prompts, strong, weak = task(2000, seed=2)
    win_rates, wins = fitted.router.win_rate(prompts), strong > weak
    # hard: strong right (.9) and weak wrong (.9) = .81; easy: .9 * .1 = .09
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        part = (win_rates >= low) & (win_rates < high)
        assert abs(win_rates[part].mean() - wins[part].mean()) < 0.07


def test_more_labels_are_seen_to_help_and_the_curve_says_by_how_much(fitted):
    sizes = [row["labels"] for row in fitted.learning_curve]
    assert sizes == [60.0, 120.0, 240.0]  # quarter, half and all of the four fifths that a fold leaves
    assert fitted.learning_curve[0]["apgr"] < fitted.learning_curve[-1]["apgr"] == pytest.approx(fitted.apgr, abs=0.02)
    assert (
        fitted.learning_curve[1]["gain_low"]
        <= fitted.learning_curve[1]["gain"]
        <= fitted.learning_curve[1]["gain_high"]
    )
    assert "labels" in str(fitted) and "base router alone" in str(fitted)


def test_the_router_is_calibrated_and_routes(fitted):
    prompts, _, _ = task(400, seed=3)
    policy = RoutingPolicy(fitted.router, strong_share=0.5)
    decisions = policy.decide([RouteRequest(text=prompt) for prompt in prompts])
    assert 0.4 < sum(d.route == "strong" for d in decisions) / 400 < 0.6
    strong = [p.split()[0] for p, d in zip(prompts, decisions, strict=True) if d.route == "strong"]
    assert sum(verb in HARD for verb in strong) / len(strong) > 0.9


def test_the_same_labels_and_seed_give_the_same_router():
    prompts, strong, weak = task(60)
    one, other = (
        fit_router(prompts, strong_scores=strong, weak_scores=weak, learning_curve=False, seed=3) for _ in range(2)
    )
    assert one.router.win_rate(prompts).tolist() == other.router.win_rate(prompts).tolist()
    assert one.apgr == other.apgr and one.learning_curve == []


def test_with_few_labels_the_base_router_decides():
    """Labels of pure noise: 20 of them move nothing, and the base's order of prompts stays."""
    rng = np.random.default_rng(0)
    prompts, _, _ = task(20)
    result = fit_router(
        prompts, strong_scores=rng.permutation(np.arange(20) % 2), weak_scores=np.full(20, 0.4), learning_curve=False
    )
    others, _, _ = task(300, seed=5)
    base, own = load_router("default").difficulty(others), result.router.win_rate(others)
    assert np.corrcoef(base, np.log(own / (1 - own)))[0, 1] > 0.95
    assert result.router.blend == pytest.approx(400 / 22900)  # 20^2 / (20^2 + 150^2)


# -- metadata
def test_metadata_is_learned_from_and_unknown_values_count_as_nothing(caplog):
    rng = np.random.default_rng(0)
    prompts = [f"please help me with item {rng.integers(10_000)}" for _ in range(300)]
    tier = rng.choice(["free", "paid"], 300)
    weak = np.where(tier == "paid", 0.0, 1.0)
    result = fit_router(
        prompts, strong_scores=np.ones(300), weak_scores=weak, metadata={"tier": tier}, learning_curve=False
    )
    assert result.apgr > 0.72  # .75 is the best
    router = result.router
    same = ["please help me with item 7"] * 4
    with caplog.at_level("WARNING"):
        router.win_rate(same), router.win_rate(same)
    assert [record.message for record in caplog.records if "without it" in record.message] == [
        "router 'fitted' was fitted with metadata (tier) and scores without it, which is worse than a fit without: "
        "adapters and policies pass none on"
    ]
    free, paid, unknown, none = router.win_rate(same, metadata={"tier": ["free", "paid", "vip", None]})
    assert free < unknown == none < paid
    assert router.win_rate(same[:1])[0] == unknown == router.win_rate(same[:1], metadata={})[0]
    with pytest.raises(DataError, match="knows: tier"):
        router.win_rate(same, metadata={"topic": ["a"] * 4})
    with pytest.raises(DataError, match="list of 4"):
        router.win_rate(same, metadata={"tier": ["free"]})


# -- many models
@pytest.fixture(scope="module")
def three():
    prompts, strong, weak = task(300)
    scores = {"big": strong, "mid": (strong + weak) / 2, "small": weak}
    return prompts, scores, fit_router(prompts, scores=scores, learning_curve=False)


def test_the_best_and_the_worst_model_are_the_pair_unless_others_are_named(three):
    prompts, scores, result = three
    assert (result.router.strong, result.router.weak) == ("big", "small")
    named = fit_router(prompts, scores=scores, strong="mid", weak="small", learning_curve=False)
    assert (named.router.strong, named.router.weak) == ("mid", "small")


def test_qualities_of_all_models_are_estimated_and_any_pair_can_be_routed(three):
    _, _, result = three
    prompts, strong, weak = task(400, seed=7)
    qualities = result.router.model_scores(prompts)
    assert qualities.shape == (400, 3)
    hard = np.array([p.split()[0] in HARD for p in prompts])
    small = result.router.models.index("small")
    assert qualities[hard, small].mean() < 0.3 < 0.7 < qualities[~hard, small].mean()
    pair = result.router.for_pair("mid", "small")
    assert pair.calibration is None
    assert apgr(pair.win_rate(prompts), (strong + weak) / 2, weak) > 0.7
    with pytest.raises(UnknownKindError, match="big, mid, small"):
        result.router.for_pair("huge", "small")


def test_a_model_is_added_from_a_few_dozen_scores(three):
    _, _, result = three
    prompts, strong, weak = task(40, seed=11)
    added = add_fitted_model(result.router, prompts, weak, "tiny")
    assert added.models == ("big", "mid", "small", "tiny")
    others, strong, weak = task(400, seed=12)
    assert added.win_rate(others).tolist() == result.router.win_rate(others).tolist()
    pair = added.for_pair("big", "tiny")
    win_rates, wins = pair.win_rate(others), strong > weak
    assert apgr(win_rates, strong, weak) > 0.7
    assert abs(win_rates.mean() - wins.mean()) < 0.2  # its link is guessed from those of the known pairs


def test_a_model_is_added_to_a_router_to_which_all_prompts_are_the_same():
    prompts, _, _ = task(40)
    router = fit_router(prompts, strong_scores=np.ones(40), weak_scores=np.zeros(40), learning_curve=False).router
    added = add_fitted_model(router, prompts, np.arange(40) % 2, "new")
    assert np.isfinite(added.for_pair("new", "weak").win_rate(prompts)).all()


@pytest.mark.parametrize(
    ("scores", "name", "error"),
    [(["good"] * 10, "new", DataError), ([1e300] * 10, "new", DataError), ([1.0] * 10, "", ConfigurationError)],
)
def test_a_model_is_not_added_from_scores_that_are_none(three, scores, name, error):
    with pytest.raises(error):
        add_fitted_model(three[2].router, [f"prompt {i}" for i in range(10)], scores, name)


def test_adding_a_model_says_what_is_wrong(three):
    router = three[2].router
    with pytest.raises(ConfigurationError, match="already"):
        add_fitted_model(router, ["a"] * 20, np.zeros(20), "big")
    with pytest.raises(DataError, match="too few"):
        add_fitted_model(router, ["a"] * 5, np.zeros(5), "new")
    with pytest.raises(DataError, match="finite"):
        add_fitted_model(router, ["a"] * 20, np.full(20, np.nan), "new")


# -- labels that cannot be used
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigurationError, "strong_scores= and weak_scores="),
        ({"strong_scores": [1] * 30}, ConfigurationError, "not both"),
        ({"strong_scores": [1] * 30, "weak_scores": [0] * 30, "scores": {}}, ConfigurationError, "not both"),
        ({"scores": {"one": [1] * 30}}, ConfigurationError, "two or more"),
        ({"strong_scores": [1] * 29, "weak_scores": [0] * 30}, DataError, "there are 30 prompts"),
        ({"strong_scores": [1] * 29 + [None], "weak_scores": [0] * 30}, DataError, "prompt 29 is nan"),
        ({"strong_scores": ["a"] * 30, "weak_scores": [0] * 30}, DataError, "not numbers"),
        ({"strong_scores": [1] * 30, "weak_scores": [1] * 30}, DataError, "never differ"),
        ({"scores": {"a": [1, 0] * 15, "b": [0] * 30}, "strong": "c"}, UnknownKindError, "a, b"),
        ({"scores": {"a": [1, 0] * 15, "b": [0] * 30}, "strong": "a", "weak": "a"}, ConfigurationError, "same model"),
        ({"strong_scores": [1, 0] * 15, "weak_scores": [0] * 30, "groups": ["g"] * 30}, DataError, "5 are the least"),
        ({"strong_scores": [1, 0] * 15, "weak_scores": [0] * 30, "groups": ["g"]}, DataError, "one value a prompt"),
        ({"strong_scores": [1, 0] * 15, "weak_scores": [0] * 30, "base": RandomRouter()}, ConfigurationError, "random"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fit_router([f"prompt {i}" for i in range(30)], **options)


def test_a_constant_difference_is_nothing_to_learn_from_but_no_error():
    prompts, _, _ = task(30)
    rng = np.random.default_rng(0)
    weak = rng.random(30)
    result = fit_router(prompts, strong_scores=weak + 0.5, weak_scores=weak, learning_curve=False)
    assert np.isfinite(result.router.win_rate(prompts)).all()


@pytest.mark.parametrize("strong", [np.ones(40), np.eye(40)[0]], ids=["always better", "better once"])
def test_labels_that_hardly_ever_differ_give_a_router_without_a_warning(strong):
    """In some fold, or in all, no difference is left to learn from."""
    prompts, _, _ = task(40)
    result = fit_router(prompts, strong_scores=strong, weak_scores=np.zeros(40))
    assert np.isfinite(result.router.win_rate(prompts)).all()
    assert result.apgr is not None


def test_labels_of_any_scale_are_fitted_or_refused():
    prompts, strong, weak = task(40)
    rates = [
        fit_router(
            prompts, strong_scores=strong * scale - 3, weak_scores=weak * scale - 3, learning_curve=False
        ).router.win_rate(prompts)
        for scale in (1.0, 1e6)
    ]
    np.testing.assert_allclose(*rates, atol=1e-3)
    with pytest.raises(DataError, match="smaller scale"):
        fit_router(prompts, strong_scores=strong * 1e200, weak_scores=weak)


def test_too_few_labels_are_refused():
    with pytest.raises(DataError, match="20 are the least"):
        fit_router(["a"] * 19, strong_scores=[1] * 19, weak_scores=[0] * 19)


def test_groups_are_never_split():
    """Prompts of a group are the same text with the same label, by chance alone: split, it would look learnable."""
    rng = np.random.default_rng(0)
    names = [f"question {rng.integers(1e9)} of kind {rng.integers(1e9)}" for _ in range(60)]
    label = rng.permutation(np.arange(60) % 2)
    prompts, weak = [n for n in names for _ in range(5)], np.repeat(label, 5).astype(float)
    strong = np.ones(300)
    apart = fit_router(
        prompts, strong_scores=strong, weak_scores=weak, groups=np.repeat(np.arange(60), 5), learning_curve=False
    )
    split = fit_router(prompts, strong_scores=strong, weak_scores=weak, learning_curve=False)
    assert split.apgr > 0.7 > 0.6 > apart.apgr


def test_if_the_strong_model_is_no_better_there_is_no_figure():
    prompts, strong, weak = task(60)
    result = fit_router(prompts, strong_scores=weak * 0.5, weak_scores=strong)
    assert result.apgr is None and result.learning_curve == [] and "no APGR" in str(result)


# -- n-grams
def test_tokens_and_pairs_are_counted_and_weighted():
    counts = count_ngrams([[5, 6, 5], [], [7]], width=1 << 16)
    # 5 (twice), 6, 5-6, 6-5 in the first; nothing in the second; 7 in the third
    assert counts.rows.tolist() == [0, 0, 0, 0, 2]
    assert sorted(counts.values[:4].tolist()) == pytest.approx([1, 1, 1, 1 + np.log(2)])
    weighted = counts.weighted(np.full(1 << 16, 3.0))
    norms = np.sqrt(np.bincount(weighted.rows, weighted.values**2, minlength=3))
    assert norms.tolist() == pytest.approx([1.0, 0.0, 1.0])
    table = np.zeros((1 << 16, 2))
    table[counts.columns[4]] = (2.0, -1.0)
    assert weighted.times(table).tolist() == [[0, 0], [0, 0], [2, -1]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40_000), max_size=12), max_size=6))
def test_a_batch_counts_as_its_texts_alone(tokens):
    together = count_ngrams(tokens, width=1 << 10)
    for row, one in enumerate(tokens):
        alone = count_ngrams([one], width=1 << 10)
        own = together.rows == row
        assert together.columns[own].tolist() == alone.columns.tolist()
        assert together.values[own].tolist() == alone.values.tolist()


# -- contract, saving, command line
@functools.cache
def small_fit():
    prompts, strong, weak = task(60)
    return fit_router(prompts, strong_scores=strong, weak_scores=weak, learning_curve=False)


class TestFittedRouterContract(RouterContract):
    def make(self):
        return small_fit().router


def test_a_saved_router_gives_the_same_win_rates(fitted, tmp_path):
    fitted.save(tmp_path / "router")
    prompts, _, _ = task(50, seed=9)
    loaded = load_router(tmp_path / "router")
    assert isinstance(loaded, FittedRouter) and loaded.calibration is not None
    assert loaded.win_rate(prompts).tolist() == fitted.router.win_rate(prompts).tolist()


def run(*arguments):
    from typer.testing import CliRunner

    from routellm_core.cli.app import app

    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_fits_from_a_file(tmp_path):
    prompts, strong, weak = task(100)
    rows = [
        {"prompt": p, "strong_score": s, "weak_score": w, "topic": p.split()[0]}
        for p, s, w in zip(prompts, strong, weak, strict=True)
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("fit", path, "--out", tmp_path / "router", "--topic", "--json", "--no-learning-curve")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["labels"] == 100 and report["apgr"] > 0.6
    assert load_router(tmp_path / "router").metadata_values == {"topic": tuple(sorted({*HARD, *EASY}))}
    shown = run("fit", path, "--out", tmp_path / "router")
    assert "APGR" in shown.stdout and "by these labels" in shown.stdout


def test_the_command_needs_a_column_of_topics_where_it_is_told_to_use_it(tmp_path):
    prompts, strong, weak = task(30)
    path = tmp_path / "labels.csv"
    lines = [f'"{p}",{s},{w}' for p, s, w in zip(prompts, strong, weak, strict=True)]
    path.write_text("\n".join(["prompt,big,small", *lines]))
    assert "no column of topics" in str(run("fit", path, "--out", tmp_path / "r", "--topic").exception)
    result = run("fit", path, "--out", tmp_path / "r", "--no-learning-curve")
    assert result.exit_code == 0 and "big against small" in result.stdout


def test_the_command_takes_another_scale_of_scores(tmp_path):
    file = tmp_path / "labels.csv"
    rows = "".join(f"question {i},{-(i % 3)},{-5 * (i % 2)}\n" for i in range(30))
    file.write_text("prompt,strong_score,weak_score\n" + rows)
    arguments = ("fit", file, "--out", tmp_path / "router", "--no-learning-curve")
    refused = run(*arguments)
    assert isinstance(refused.exception, DataError) and "--score-range" in str(refused.exception)
    assert run(*arguments, "--score-range", "-5", "0").exit_code == 0
    assert run(*arguments, "--seed", "-1").exit_code == 2
