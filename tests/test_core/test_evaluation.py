"""`evaluate` and `compare`: every figure of a router on a set, as a record."""

import json
import math

import numpy as np
import pytest

from routellm_core import Calibration, load_router
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.evaluation import (
    EvaluationSet,
    aiq,
    apgr,
    compare,
    evaluate,
    paper_apgr,
    quality_over_cost,
    read_evaluation_set,
)
from routellm_core.evaluation.baselines import baseline_scores, rules
from routellm_core.evaluation.many_models import upper_hull
from routellm_core.evaluation.published import published_for
from routellm_core.testing import ScriptedRouter


def make_set(n=200, *, seed=0, **changes):
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    strong = (rng.random(n) > 0.2 * hard).astype(float)
    weak = (rng.random(n) > 0.2 + 0.6 * hard).astype(float)
    arguments = {
        "name": "made",
        "prompts": tuple(f"prompt {i} " + "x" * int(50 * hard[i]) for i in range(n)),
        "models": ("large", "small"),
        "scores": np.stack([strong, weak], axis=1),
        "strong": "large",
        "weak": "small",
        "groups": tuple("ab"[i % 2] for i in range(n)),
        "group_column": "domain",
    }
    return EvaluationSet(**{**arguments, **changes})


def no_nan(value):
    """Whether plain JSON has no NaN anywhere."""
    if isinstance(value, dict):
        return all(map(no_nan, value.values()))
    if isinstance(value, list):
        return all(map(no_nan, value))
    return not (isinstance(value, float) and not math.isfinite(value))


def test_a_record_has_the_figures_of_both_ways_and_no_prompt_text():
    data = make_set()
    scores = np.random.default_rng(1).random(len(data))
    found = evaluate(scores, data, n_resamples=50)
    record = found.to_dict()
    assert record["apgr"] == pytest.approx(apgr(scores, data.strong_scores, data.weak_scores))
    assert record["paper"]["apgr"] == pytest.approx(paper_apgr(scores, data.strong_scores, data.weak_scores))
    assert record["apgr_interval"][0] < record["apgr"] < record["apgr_interval"][1]
    assert record["strong"] == data.strong_scores.mean()
    assert record["weak"] == data.weak_scores.mean()
    assert record["router"] == "given"
    assert record["latency_ms"] is None
    assert set(record["baselines"]) == {
        "random",
        "oracle",
        "prompt_length",
        "rules",
        "topic",
        "always_strong",
        "always_weak",
    }
    text = json.dumps(record, allow_nan=False)
    assert "prompt 1" not in text


def test_the_same_seed_gives_the_same_record():
    data = make_set()
    scores = np.random.default_rng(1).random(len(data))
    records = [evaluate(scores, data, n_resamples=20, seed=seed).to_dict() for seed in (3, 3, 4)]
    assert records[0] == records[1]
    assert records[0]["apgr_interval"] != records[2]["apgr_interval"]


def test_baselines_by_hand():
    data = make_set(groups=None)
    found = evaluate(np.zeros(len(data)), data, n_resamples=20).baselines
    assert found["random"].exact.apgr == 0.5
    assert (found["random"].exact.cpt50, found["random"].exact.cpt80) == (0.5, 0.8)
    assert found["prompt_length"].exact.apgr == pytest.approx(
        apgr([len(p) for p in data.prompts], data.strong_scores, data.weak_scores)
    )
    assert found["always_strong"].quality == data.strong_scores.mean()
    assert found["always_weak"].to_dict()["apgr"] is None
    assert "topic" not in found
    # a router without any order is chance: its difference to it is nought, and p says nothing for it
    difference = found["random"].difference
    assert difference.apgr == pytest.approx(0)
    assert difference.p_value == 1


def test_no_router_beats_the_oracle():
    data = make_set()
    difference = (
        evaluate(np.random.default_rng(0).random(len(data)), data, n_resamples=50).baselines["oracle"].difference
    )
    assert difference.apgr_interval[1] < 0
    assert difference.p_value == 1


def test_the_topic_baseline_never_sees_the_prompts_own_score():
    # every prompt its own group: others say nothing about it, so all are average
    data = make_set(groups=None, seed=2)
    alone = EvaluationSet(
        name="alone",
        prompts=data.prompts,
        models=data.models,
        scores=data.scores,
        strong="large",
        weak="small",
        groups=tuple(map(str, range(len(data)))),
    )
    assert not baseline_scores(alone)["topic"].any()


def test_the_topic_baseline_knows_which_group_gains_more():
    scores = np.array([[1, 0], [0, 0]] * 30, dtype=float)  # group a gains 1, group b nothing
    topic = baseline_scores(make_set(60, scores=scores))["topic"]
    assert topic[::2].min() > 0 > topic[1::2].max()
    assert apgr(topic, *scores.T) == pytest.approx(0.75)  # all of it at share .5: .25 + .5


def test_the_rule_finds_code_and_reasons_harder_than_greetings():
    easy, hard, code = rules(("hi there", "Prove that the algorithm is optimal, and explain why.", "def f(x):\n  ..."))
    assert easy < code
    assert easy < hard


def test_groups_have_their_own_figures_and_none_where_strong_is_no_better():
    n = 40
    gain = np.array([1.0] * 10 + [0.0] * 10 + [-1.0] * 2 + [0.0] * 18)
    scores = np.stack([np.maximum(gain, 0), np.maximum(-gain, 0)], axis=1)
    data = make_set(n, scores=scores, groups=tuple("a" * 20 + "b" * 20))
    win_rates = np.linspace(0.9, 0.1, n)
    found = evaluate(win_rates, data, n_resamples=20)
    # in a the ten that gain come first: PGR rises to 1 at share .5, area .25 + .5
    assert found.groups["a"].apgr == pytest.approx(0.75)
    assert found.groups["a"].strong_share == 1  # the upper half of all prompts is a
    assert found.groups["b"].apgr is None
    assert found.groups["b"].apgr_interval is None
    assert no_nan(found.to_dict())


def test_what_the_routers_own_threshold_does_here():
    data = make_set(100)
    router = ScriptedRouter(lambda prompt: len(prompt) / 100)
    router.calibration = Calibration.from_win_rates([0.1, 0.2, 0.3, 0.4])  # threshold midway: .25
    found = evaluate(router, data, n_resamples=20)
    strong = np.array([len(p) / 100 for p in data.prompts]) >= 0.25
    at = found.at_threshold
    assert (at.threshold, at.calibrated_share) == (0.25, 0.5)
    assert at.strong_share == strong.mean()
    assert at.quality == pytest.approx(np.where(strong, data.strong_scores, data.weak_scores).mean())
    assert found.scored.batch_ms >= 0
    assert found.scored.single_ms >= 0


def test_costs_by_hand():
    n = 4
    data = make_set(
        n,
        scores=np.array([[1, 0], [1, 0], [1, 1], [1, 1]], dtype=float),
        groups=None,
        input_tokens=np.full((n, 2), 1000.0),
        output_tokens=np.array([[3000.0, 500.0]] + [[1000.0, 500.0]] * 3),
    )
    # strong 1,000 in at $10 and 1,000 out at $30 a million: $.04, and $.1 for the first; weak $.0005 + $.0005 = $.001
    prices = {"large": (10, 30), "weak": (0.5, 1)}
    cost = evaluate([0.8, 0.9, 0.2, 0.1], data, n_resamples=10, prices=prices).cost
    assert cost.all_strong == pytest.approx(1000 * 0.22 / 4)
    assert cost.all_weak == pytest.approx(1)
    # half of the gap after one of four prompts, the second: (.04 + 3 * .001) / 4 a prompt
    assert cost.at_cpt50 == pytest.approx(1000 * 0.043 / 4)
    assert cost.saving_at_cpt50 == pytest.approx(1 - 10.75 / 55)
    with pytest.raises(UnknownKindError, match="no price for 'small'; given: large"):
        evaluate(np.zeros(n), data, prices={"large": (10, 30)})
    with pytest.raises(ConfigurationError, match="two amounts"):
        evaluate(np.zeros(n), data, prices={"large": (10, -1), "small": (1, 1)})
    with pytest.raises(DataError, match="prices need token counts"):
        evaluate(np.zeros(n), make_set(n, scores=data.scores, groups=None), prices=prices)


def test_win_rates_that_do_not_fit_are_refused():
    data = make_set(10)
    with pytest.raises(DataError, match=r"win rates of shape \(9,\) for 10 prompts"):
        evaluate(np.zeros(9), data)
    with pytest.raises(DataError, match="win rate of prompt 3 is not finite"):
        evaluate([0, 0, 0, np.nan, 0, 0, 0, 0, 0, 0], data)
    with pytest.raises(DataError, match="expected a router, its name or folder, or an array"):
        evaluate(object(), data)
    with pytest.raises(ConfigurationError, match="level of an interval"):
        evaluate(np.zeros(10), data, level=95)
    with pytest.raises(ConfigurationError, match="at least 2 resamples"):
        evaluate(np.zeros(10), data, n_resamples=1)


def test_scores_that_are_no_probabilities_have_no_reliability():
    data = make_set(20)
    assert evaluate(np.arange(20), data, n_resamples=10).to_dict()["reliability"] is None


def test_few_prompts_come_with_a_warning():
    assert "under 0.1 is noise" in evaluate(np.zeros(20), make_set(20), n_resamples=10).note
    assert evaluate(np.zeros(200), make_set(200), n_resamples=10).to_dict()["note"] is None


def test_frames_have_rows_for_routers_baselines_and_groups():
    pytest.importorskip("pandas")
    found = evaluate(np.random.default_rng(0).random(200), make_set(), n_resamples=20)
    frame = found.to_frame()
    assert list(frame["scorer"][:2]) == ["given", "random"]
    assert set(frame[frame.scorer == "given"]["group"]) == {"all", "a", "b"}
    row = frame[(frame.scorer == "given") & (frame.group == "all")].iloc[0]
    assert row["apgr"] == pytest.approx(found.exact.apgr)
    assert str(frame["apgr"].dtype) == "Float64"  # missing values, no NaN


def test_plots_are_drawn_without_a_window():
    pytest.importorskip("matplotlib")
    data = make_set()
    found = evaluate(np.random.default_rng(0).random(200), data, n_resamples=20)
    labels = [text.get_text() for text in found.plot().legends[0].get_texts()]
    assert labels[:3] == ["chance", "oracle", "prompt length"]
    assert compare({"one": found, "two": np.zeros(200)}, data, n_resamples=20).plot() is not None


def test_win_rates_are_kept_by_content(tmp_path):
    data = make_set(30)
    first = evaluate("random", data, n_resamples=10, cache=tmp_path / "kept")
    files = list((tmp_path / "kept").iterdir())
    assert len(files) == 1
    assert first.scored.digest is not None
    again = evaluate("random", data, n_resamples=10, cache=tmp_path / "kept")
    assert again.to_dict() == first.to_dict()  # the times too: nothing was scored
    other = make_set(30, prompts=tuple(f"other {i}" for i in range(30)))
    evaluate("random", other, n_resamples=10, cache=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    files[0].write_bytes(b"damaged")
    assert evaluate("random", data, n_resamples=10, cache=tmp_path / "kept").exact == first.exact


def test_a_router_that_cannot_be_saved_is_scored_anew(tmp_path):
    found = evaluate(ScriptedRouter(lambda prompt: 0.5), make_set(30), n_resamples=10, cache=tmp_path / "kept")
    assert found.scored.digest is None
    assert not (tmp_path / "kept").exists()


def test_a_clearly_better_router_beats_the_other():
    data = make_set(400)
    gain = data.strong_scores - data.weak_scores
    rng = np.random.default_rng(0)
    found = compare({"good": gain + rng.normal(size=400), "bad": rng.random(400)}, data, n_resamples=200)
    exact, paper = found.differences
    assert (exact.a, exact.b, exact.way, paper.way) == ("good", "bad", "exact", "paper")
    assert exact.apgr == found.evaluations["good"].exact.apgr - found.evaluations["bad"].exact.apgr
    assert exact.apgr_interval[0] > 0
    assert exact.p_value < 0.01
    assert json.dumps(found.to_dict(), allow_nan=False)
    assert list(found.to_frame()["way"]) == ["exact", "paper"]


def test_a_router_does_not_beat_its_own_order():
    data = make_set(100)
    scores = np.random.default_rng(0).random(100)
    difference = compare({"a": scores, "b": scores / 3}, data, n_resamples=50).differences[0]
    assert difference.apgr == 0
    assert difference.p_value == 1


def test_pairing_is_what_makes_the_interval_of_a_small_difference_narrow():
    data = make_set(300)
    gain = data.strong_scores - data.weak_scores
    scores = gain + np.random.default_rng(0).normal(size=300)
    found = compare({"a": scores, "b": scores + np.random.default_rng(1).normal(size=300) / 20}, data, n_resamples=200)
    low, high = found.differences[0].apgr_interval
    own = found.evaluations["a"].exact.apgr_interval
    assert high - low < (own[1] - own[0]) / 3


def test_only_evaluations_of_the_same_prompts_are_compared():
    data = make_set(50)
    found = evaluate(np.zeros(50), data, n_resamples=20)
    with pytest.raises(DataError, match="the evaluation of 'old' is of other prompts or scores"):
        compare({"old": found, "new": np.zeros(50)}, make_set(50, seed=1), n_resamples=20)
    with pytest.raises(DataError, match="has 20 resamples by seed 0, not 30"):
        compare({"old": found, "new": np.zeros(50)}, data, n_resamples=30)
    with pytest.raises(DataError, match="shape"):
        compare({"a": np.zeros(50), "b": np.zeros(49)}, data, n_resamples=20)
    with pytest.raises(ConfigurationError, match="at least two"):
        compare({"a": np.zeros(50)}, data)


def test_the_hull_by_hand():
    # (1, .5) and (3, .9) span it; (2, .6) lies below their line, (4, .8) is dearer and worse
    x, y = upper_hull([4, 2, 1, 3], [0.8, 0.6, 0.5, 0.9])
    assert (x.tolist(), y.tolist()) == ([1, 3], [0.5, 0.9])
    # average over 1..5: two units at a mean of .7, two at .9
    assert aiq([4, 2, 1, 3], [0.8, 0.6, 0.5, 0.9], (1, 5)) == pytest.approx(0.8)


def test_many_models_by_hand():
    # Three models at $1, $2, $3. Prompt 0: all are right; 1: the two dear ones; 2: only the dearest; 3: nobody.
    scores = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=float)
    costs = np.tile([1.0, 2.0, 3.0], (4, 1))
    data = EvaluationSet(name="x", prompts=tuple("abcd"), models=("s", "m", "l"), scores=scores, costs_usd=costs)
    found = quality_over_cost(scores, data, n_resamples=20)
    assert found.cost_range == (1, 3)
    # single models reach 1/4, 2/4, 3/4 on a straight line: average .5
    assert found.aiq_of_single_models == pytest.approx(0.5)
    # knowing everything costs (1 + 2 + 3 + 1) / 4 = 1.75 for 3/4; on the way (1 + 2 + 1 + 1) / 4 = 1.25 for 2/4:
    # .25 * .375 + .5 * .625 + 1.25 * .75 = 1.34375 over a range of 2
    assert found.aiq == pytest.approx(1.34375 / 2)
    assert found.aiq_of_oracle == found.aiq
    assert found.gain_interval[0] > -1e-9
    # a router that knows nothing mixes single models at best
    assert quality_over_cost(np.zeros((4, 3)), data, n_resamples=20).aiq <= 0.5
    assert json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(DataError, match=r"model scores of shape \(4, 2\), expected \(4, 3\)"):
        quality_over_cost(scores[:, :2], data)
    with pytest.raises(DataError, match="no costs"):
        quality_over_cost(scores, EvaluationSet(name="x", prompts=tuple("abcd"), models=("s", "m", "l"), scores=scores))


def test_a_router_over_many_models_is_measured_over_cost_too():
    from routellm_core import MatrixFactorizationRouter
    from routellm_core.encoders import HashingEncoder

    rng = np.random.default_rng(0)
    encoder = HashingEncoder(32)
    router = MatrixFactorizationRouter(
        encoder=encoder,
        model_vectors=rng.normal(size=(3, 4)),
        projection=rng.normal(size=(4, encoder.dim)),
        classifier=rng.normal(size=4),
        models=("small", "org/large", "medium"),
        strong="org/large",
        weak="small",
    )
    data = make_set(
        models=("large", "small", "medium"),
        scores=rng.integers(0, 2, size=(200, 3)) + np.array([[0.5, 0, 0]]),
        costs_usd=np.tile([3.0, 1.0, 2.0], (200, 1)),
    )
    found = evaluate(router, data, n_resamples=20).over_cost
    predicted = router.model_scores(data.prompts)[:, [1, 0, 2]]  # in the order of the set, other spellings and all
    assert found == quality_over_cost(predicted, data, n_resamples=20)
    assert evaluate(np.zeros(200), data, n_resamples=20).over_cost is None


def test_the_papers_figures_stand_only_beside_its_own_benchmarks(data_folder):
    pytest.importorskip("pyarrow")
    data = read_evaluation_set(data_folder / "eval" / "mt_bench.parquet")
    best = published_for(data)[0]
    assert (best.router, best.cpt50, best.cpt80, best.apgr) == ("matrix factorization", 0.134, 0.3131, 0.802)
    assert published_for(make_set()) == ()
    renamed = read_evaluation_set(data_folder / "eval" / "mt_bench.parquet", name="mine")
    assert published_for(renamed) == ()


def test_the_default_routers_figures_are_the_published_ones(data_folder):
    pytest.importorskip("pyarrow")
    router = load_router("default")
    for name, expected in (("gsm8k", 0.6035), ("mt_bench", 0.743)):
        found = evaluate(router, data_folder / "eval" / f"{name}.parquet", n_resamples=20)
        assert found.exact.apgr == pytest.approx(expected, abs=5e-4)
