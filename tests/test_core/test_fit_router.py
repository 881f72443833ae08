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
from routellm_core.recording import Feedback, RecordedCall, open_sink
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
    assert "over 300 labels; the base router default alone 0." in str(fitted) and "metadata" not in str(fitted)


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
    assert "over 300 labels with metadata (tier); the base router default alone " in str(result)
    router = result.router
    same = ["please help me with item 7"] * 4
    with caplog.at_level("WARNING"):
        router.win_rate(same), router.win_rate(same)
    assert [record.message for record in caplog.records if "without it" in record.message] == [
        "router 'fitted' was fitted with metadata (tier) and scores without it, which can be worse than a fit without; "
        'it comes with the call: config={"metadata": {...}} in LangChain, metadata_scope() in LlamaIndex, metadata= '
        "elsewhere"
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
    with pytest.raises(DataError, match="prompt 0 is nan"):
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
        ({"strong_scores": [1] * 29 + [np.inf], "weak_scores": [0] * 30}, DataError, "prompt 29 is inf"),
        ({"strong_scores": [1] * 29 + [None], "weak_scores": [0] * 29 + [None]}, DataError, "prompt 29 has no score"),
        ({"strong_scores": [1] * 19 + [None] * 11, "weak_scores": [0] * 30}, DataError, "'strong' has 19 scores"),
        ({"strong_scores": [1] * 29 + [None], "weak_scores": [1] * 30}, DataError, "never differ"),
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
    named = load_router("default").with_model("another", 0.0)
    named.name = "my-base"
    metadata = {"tier": ["free", "paid"] * 30, "topic": ["law"] * 60}
    result = fit_router(prompts, strong_scores=weak * 0.5, weak_scores=strong, base=named, metadata=metadata)
    assert result.base == "my-base"
    assert str(result).startswith("fitted on 60 labels with metadata (tier, topic) to the base router my-base; ")


# -- scores with gaps
def answered_by_one(strong, weak, seed=100):
    """Scores as feedback leaves them: of each prompt the score of one model, drawn by a coin, and NaN of the other."""
    is_strong = np.random.default_rng(seed).random(len(strong)) < 0.5
    return np.where(is_strong, strong, np.nan), np.where(is_strong, np.nan, weak)


@pytest.fixture(scope="module")
def one_sided():
    prompts, strong, weak = task(600)
    of_strong, of_weak = answered_by_one(strong, weak)
    return fit_router(prompts, strong_scores=of_strong, weak_scores=of_weak)


def test_feedback_to_one_answer_a_prompt_nearly_reaches_complete_labels(one_sided):
    prompts, strong, weak = task(1000, seed=1)
    complete, s, w = task(600)
    both = fit_router(complete, strong_scores=s, weak_scores=w, learning_curve=False)
    full, half = (apgr(result.router.win_rate(prompts), strong, weak) for result in (both, one_sided))
    assert full - 0.03 < half and half > 0.72  # .75 is what the best order reaches without noise


def test_without_pairs_of_scores_there_is_no_apgr_but_a_rank_correlation_of_each_model(one_sided):
    assert one_sided.apgr is one_sided.apgr_interval is one_sided.base_apgr is None
    assert one_sided.learning_curve == [] and sum(one_sided.n_scores.values()) == one_sided.n_labels == 600
    # the weak model fails at hard prompts and nowhere else, but for a tenth of noise: 1 - 2 * .1 = .8 at best, less
    # where predictions of one kind are no ties; the strong model's failures are noise
    assert 0.6 < one_sided.quality_correlation["weak"] <= 0.8
    assert abs(one_sided.quality_correlation["strong"]) < 0.2
    assert "to the base router default; " in str(one_sided)
    assert "no APGR" in str(one_sided) and f"{one_sided.n_scores['weak']} of weak" in str(one_sided)


def test_win_rates_from_qualities_alone_are_about_the_chance_of_winning(one_sided):
    prompts, strong, weak = task(2000, seed=2)
    win_rates, wins = one_sided.router.win_rate(prompts), strong > weak
    # as with complete labels .81 and .09, and here independent given the prompt, as is assumed; shrunk to the middle
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        part = (win_rates >= low) & (win_rates < high)
        assert abs(win_rates[part].mean() - wins[part].mean()) < 0.15
    assert 0.3 < np.mean(one_sided.router.win_rate(prompts) >= one_sided.router.calibration.threshold) < 0.7


def test_feedback_that_hangs_on_nothing_gives_win_rates_that_hardly_differ():
    """Predictions that were checked against themselves alone would look right and be spread."""
    rng = np.random.default_rng(7)
    prompts, _, _ = task(400)
    of_strong, of_weak = answered_by_one(*(rng.random((2, 400)) < 0.6))
    router = fit_router(prompts, strong_scores=of_strong, weak_scores=of_weak).router
    assert router.arrays["link"][0, 1, 0] == 0.05  # the least slope


def test_prompts_with_both_scores_give_the_apgr_from_fifty_on():
    prompts, strong, weak = task(300)
    of_strong, of_weak = answered_by_one(strong, weak)
    for n, has_figure in ((49, False), (50, True)):
        some_strong, some_weak = of_strong.copy(), of_weak.copy()
        some_strong[:n], some_weak[:n] = strong[:n], weak[:n]
        result = fit_router(prompts, strong_scores=some_strong, weak_scores=some_weak)
        assert (result.apgr is not None) == has_figure
    assert result.apgr > 0.6 and result.apgr_interval[0] < result.apgr < result.apgr_interval[1]
    assert "prompts with both scores" in str(result) and result.learning_curve == []


def test_the_base_counts_by_the_model_with_fewer_scores():
    prompts, strong, weak = task(100)
    result = fit_router(prompts, strong_scores=[*strong[:40], *[None] * 60], weak_scores=weak)
    assert result.n_scores == {"weak": 100, "strong": 40}
    assert result.router.blend == pytest.approx(1600 / 24100)  # 40^2 / (40^2 + 150^2)


def test_the_better_model_is_the_one_that_would_be_better_on_the_same_prompts():
    """The router gave the hard prompts to the strong model, so its mean score is lower; a few went the other way."""
    rng = np.random.default_rng(100)
    prompts, _, _ = task(600)
    hard = np.array([prompt.split()[0] in HARD for prompt in prompts])
    strong = np.where(rng.random(600) < np.where(hard, 0.6, 1.0), 1.0, 0.0)
    weak = np.where(rng.random(600) < np.where(hard, 0.1, 0.9), 1.0, 0.0)
    to_strong = hard ^ (rng.random(600) < 0.2)
    scores = {"one": np.where(to_strong, strong, np.nan), "other": np.where(to_strong, np.nan, weak)}
    assert np.nanmean(scores["one"]) < np.nanmean(scores["other"])
    result = fit_router(prompts, scores=scores)
    assert (result.router.strong, result.router.weak) == ("one", "other")


def test_scores_of_one_model_in_one_group_are_fitted_without_a_warning():
    """When that group's fold is left out, nothing is known of the model."""
    prompts, strong, weak = task(100)
    of_strong = np.where(np.arange(100) < 20, strong, np.nan)
    groups = np.maximum(np.arange(100), 19)
    result = fit_router(prompts, strong_scores=of_strong, weak_scores=weak, groups=groups)
    assert np.isfinite(result.router.win_rate(prompts)).all()


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
    assert (report["name"], report["base"], report["metadata"]) == ("router", "default", ["topic"])
    shown = run("fit", path, "--out", tmp_path / "router")
    assert "APGR" in shown.stdout and "by these labels" in shown.stdout
    assert "over 100 labels; the base router default alone" in shown.stdout


def test_the_command_calls_a_router_by_its_name_or_else_its_folder(tmp_path, monkeypatch):
    prompts, strong, weak = task(30)
    path = tmp_path / "labels.csv"
    lines = [f'"{p}",{s},{w}' for p, s, w in zip(prompts, strong, weak, strict=True)]
    path.write_text("\n".join(["prompt,strong_score,weak_score", *lines]))
    monkeypatch.chdir(tmp_path)
    for out, folder, options, name in (
        (tmp_path / "billing.v2", "billing.v2", (), "billing.v2"),
        (tmp_path / "other", "other", ("--name", "legal"), "legal"),
        ("nested/support", "nested/support", (), "support"),
    ):
        assert run("fit", path, "--out", out, "--no-learning-curve", *options).exit_code == 0
        router = load_router(tmp_path / folder)
        assert router.name == name
        decision = RoutingPolicy(router, threshold=0.5).decide([RouteRequest(text="Prove this.")])[0]
        assert decision.router == name  # what records hold


def test_the_command_fits_into_the_empty_folder_one_stands_in(tmp_path, monkeypatch):
    prompts, strong, weak = task(30)
    path = tmp_path / "labels.csv"
    lines = [f'"{p}",{s},{w}' for p, s, w in zip(prompts, strong, weak, strict=True)]
    path.write_text("\n".join(["prompt,strong_score,weak_score", *lines]))
    (tmp_path / "billing").mkdir()
    monkeypatch.chdir(tmp_path / "billing")
    result = run("fit", path, "--out", ".", "--no-learning-curve")
    assert result.exit_code == 0, result.output
    assert load_router(".").name == "billing"
    again = run("fit", tmp_path / "no-such-file", "--out", ".")
    assert isinstance(again.exception, ConfigurationError)  # before the labels are read
    assert "cd .." in str(again.exception)


@pytest.mark.parametrize("base", ["mf", "routellm/bert_gpt4_augmented", "random"])
def test_a_base_without_a_difficulty_is_refused_before_anything_is_fetched(tmp_path, base):
    file = tmp_path / "labels.csv"
    file.write_text("prompt,strong_score,weak_score\n" + "".join(f"question {i},1,{i % 2}\n" for i in range(30)))
    refused = run("fit", file, "--out", tmp_path / "router", "--base", base)
    kind = base.removeprefix("routellm/").removesuffix("_gpt4_augmented")
    assert isinstance(refused.exception, ConfigurationError)
    assert str(refused.exception) == (
        "the base of a fit is 'default', 'contextual' or a router of kind 'difficulty', which learned a difficulty; "
        f"{base!r} is of kind {kind!r}"
    )


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


def recording(path, n=200, *, feedback=True, with_prompts=True, routes=("small", "large")):
    """Calls of which every other one went to the second route, as a recorder writes them."""
    prompts, strong, weak = task(n)
    with open_sink(path) as sink:
        for i, (prompt, *scores) in enumerate(zip(prompts, weak, strong, strict=True)):
            route = i % len(routes)
            decision = {"route": routes[route], "reason": "score", "router": "default", "win_rate": 0.5}
            prompt = prompt if with_prompts else None
            sink.write(RecordedCall(id=f"c{i}", root_id=f"r{i}", time=float(i), decision=decision, prompt=prompt))
            if feedback:
                sink.feedback(Feedback(id=f"c{i}", score=scores[route], time=float(i)))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "sqlite"])
def test_the_command_learns_from_recorded_feedback(tmp_path, ending):
    path = recording(tmp_path / f"calls.{ending}")
    result = run("fit", path, "--recorded", "--out", tmp_path / "router", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["strong"], report["weak"], report["apgr"]) == ("large", "small", None)
    # as often as prompts repeat, fewer than 100
    assert 90 <= report["scores"]["large"] <= 100 and 90 <= report["scores"]["small"] <= 100
    assert report["quality_correlation"]["small"] > 0.5
    assert "small" in load_router(tmp_path / "router").models
    shown = run("fit", path, "--recorded", "--out", tmp_path / "router", "--strong", "small", "--weak", "large")
    assert shown.exit_code == 0 and "small against large" in shown.stdout and "rank correlation" in shown.stdout


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"feedback": False}, "no feedback"),
        ({"with_prompts": False}, "prompts=True"),
        ({"routes": ("small",)}, "all feedback is about the route 'small'"),
        ({"n": 38}, "'large' has 19 scores"),
    ],
)
def test_the_command_says_what_a_recording_lacks(tmp_path, what, message):
    path = recording(tmp_path / "calls.jsonl", **what)
    result = run("fit", path, "--recorded", "--out", tmp_path / "router")
    assert isinstance(result.exception, DataError) and message in str(result.exception)
    assert not (tmp_path / "router").exists()


def test_a_route_that_hardly_answered_is_left_out_by_naming_the_others(tmp_path):
    path = recording(tmp_path / "calls.jsonl")
    with open_sink(path) as sink:
        decision = {"route": "middle", "reason": "forced"}
        sink.write(RecordedCall(id="m", root_id="m", time=0.0, decision=decision, prompt="hi"))
        sink.feedback(Feedback(id="m", score=1.0, time=0.0))
    refused = run("fit", path, "--recorded", "--out", tmp_path / "router")
    assert "model 'middle' has 1 scores" in str(refused.exception)
    named = run("fit", path, "--recorded", "--out", tmp_path / "router", "--strong", "large", "--weak", "small")
    assert named.exit_code == 0 and load_router(tmp_path / "router").models == ("large", "small")
    unknown = run("fit", path, "--recorded", "--out", tmp_path / "router", "--strong", "big", "--weak", "tiny")
    assert "no feedback to an answer of 'big' or 'tiny'" in str(unknown.exception)


def test_options_about_files_of_labels_are_refused_beside_a_recording(tmp_path):
    path = recording(tmp_path / "calls.jsonl")
    for option in (("--topic",), ("--score-range", "0", "1")):
        result = run("fit", path, "--recorded", "--out", tmp_path / "router", *option)
        assert isinstance(result.exception, ConfigurationError) and option[0] in str(result.exception)
