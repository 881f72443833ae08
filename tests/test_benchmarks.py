"""The arithmetic of the benchmark scripts, on inputs small enough to do by hand; nothing is trained here."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from routellm_core.evaluation import apgr

for _module in ("matplotlib", "pyarrow", "genai_prices", "scipy"):
    pytest.importorskip(_module)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    """Import a script by name; the environment and the path are afterwards as they were."""
    before, path = dict(os.environ), list(sys.path)
    sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]
    yield importlib.import_module
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(before)


# -- many_models
def test_a_model_costs_its_input_and_a_fixed_answer_at_listed_prices(script):
    many = script("many_models")
    # gpt-4-1106-preview: 10 and 30 dollars per million tokens; 8 characters are 2 tokens, 9 are 3
    costs = many.costs_of(("x" * 8, "x" * 9), ("gpt-4-1106-preview", "claude-instant-v1"), 100)
    assert costs[:, 0] == pytest.approx([(2 * 10 + 100 * 30) / 1e6, (3 * 10 + 100 * 30) / 1e6])
    # assumed: .8 and 2.4
    assert costs[0, 1] == pytest.approx((2 * 0.8 + 100 * 2.4) / 1e6)


def test_every_price_is_listed_or_says_what_was_assumed(script):
    for model, price in script("many_models").PRICES.items():
        assert price.of(1000, 100) > 0, model
        assert price.listed is not None or price.assumed, model


def test_models_with_many_gaps_go_before_prompts_with_any(script):
    many = script("many_models")
    names = ["claude-v1", "claude-v2", "gpt-4-1106-preview"]
    scores = np.ones((40, 3))
    scores[:20, 0] = np.nan  # half: the model goes
    scores[3, 2] = np.nan  # one of 40: the prompt goes
    kept = many.complete("routerbench", [f"prompt {i}" for i in range(40)], names, scores, ["task"] * 40)
    assert kept.models == ("claude-v2", "gpt-4-1106-preview")
    assert len(kept) == 39 and "prompt 3" not in kept.prompts


def test_near_duplicates_are_never_parted_and_folds_are_even(script):
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 5, 6, 7])
    folds = script("many_models").folds_of(groups, 4, np.random.default_rng(0))
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert np.bincount([folds[groups == g][0] for g in np.unique(groups)]).tolist() == [2, 2, 2, 2]


def test_the_task_alone_is_the_mean_of_the_other_folds(script):
    many = script("many_models")
    scores = np.array([[1, 0], [0, 0], [1, 1], [1, 0.0]])
    data = many.complete("routerbench", list("abcd"), ["claude-v1", "claude-v2"], scores, ["x", "x", "y", "x"])
    found = many.by_task(data, np.array([0, 1, 1, 1]))
    assert found[0].tolist() == [0.5, 0.0]  # the x of fold 1: rows 1 and 3
    assert found[1].tolist() == [1.0, 0.0]  # the x of fold 0: row 0
    assert found[2].tolist() == [1.0, 0.0]  # no y elsewhere: all of fold 0


def test_what_a_quality_costs_lies_on_the_hull_of_the_points(script):
    usd_for = script("many_models").usd_for
    # from (1, 0) to (3, 1) a mix of quality .5 costs 2; the point (2, .2) lies below that line
    assert usd_for(0.5, [1, 2, 3], [0.0, 0.2, 1.0]) == pytest.approx(2.0)
    assert usd_for(1.1, [1, 2, 3], [0.0, 0.2, 1.0]) is None


def test_against_the_best_model_the_gain_is_that_of_the_choices(script):
    many = script("many_models")
    # claude-v1 costs the same as claude-v2 and is right on three of four; knowing all makes it four
    scores = np.array([[1, 0], [1, 0], [1, 0], [0, 1.0]])
    data = many.complete("routerbench", list("abcd"), ["claude-v1", "claude-v2"], scores, ["x"] * 4)
    found = many.at_best(scores, data, n_resamples=50)
    assert found["model"] == "claude-v1"
    assert found["gain"] == pytest.approx(0.25)
    assert found["usd_for_the_same_quality"] == pytest.approx(found["usd"])


# -- transfer
def family(transfer, scores, name="routerbench"):
    scores = np.asarray(scores, dtype=float)
    prompts = [f"prompt {i}" for i in range(len(scores))]
    models = [f"m{i}" for i in range(scores.shape[1])]
    return transfer.Family(name, prompts, ["task"] * len(prompts), models, scores)


def test_pairs_are_drawn_from_five_places_in_the_order_of_the_means(script):
    transfer = script("transfer")
    # model i is right on i of 8 prompts, but for m8, which was scored on half of them
    scores = np.array([[float(row < model) for model in range(9)] for row in range(8)])
    scores[:4, 8] = np.nan
    pairs = transfer.pairs_by_rule(family(transfer, scores))
    # of m0..m7 the places 0, 1.75, 3.5, 5.25 and 7, rounded: 0, 2, 4, 5, 7
    assert len(pairs) == 10
    assert {model for pair in pairs for model in pair} == {"m0", "m2", "m4", "m5", "m7"}
    assert all(int(strong[1]) > int(weak[1]) for strong, weak in pairs)


def test_a_lead_within_the_limit_is_named_and_not_measured(script):
    transfer = script("transfer")
    rng = np.random.default_rng(0)
    scores = np.column_stack([np.arange(100) < 50, np.arange(100) < 51, rng.random(100) < 0.9])
    ability = {"m0": 0.0, "m1": 0.0, "m2": 2.0}
    difficulty = np.linspace(-1, 1, 100)
    scorers = {"default": difficulty, "unseen": difficulty, "length": difficulty}
    near, clear = transfer.measure(family(transfer, scores), [("m1", "m0"), ("m2", "m0")], scorers, difficulty, ability)
    assert "within 0.02" in near["left_out"] and "draws" not in near
    # the weak model fails on exactly the harder half, so that difficulty is a good router
    assert clear["default"]["apgr"] == pytest.approx(apgr(difficulty, scores[:, 2], scores[:, 0]))
    assert clear["default"]["interval"][0] > 0.5
    assert clear["level"] == pytest.approx((scores[:, 2].mean() + 0.5) / 2)
    assert clear["ability_gap"] == 2.0


def test_questions_that_two_publishers_share_are_found_without_their_options(script):
    question = script("transfer").question
    one = question("Which gas do plants take in?\nA. Oxygen\nB. Carbon dioxide\nAnswer:")
    assert one == question("which gas do plants take  in") == "which gas do plants take in"


def test_the_gain_is_largest_between_the_two_abilities(script):
    gain = script("transfer").gain_by_ability(np.array([-3.0, 0.0, 1.0, 2.0, 5.0]), strong=2.0, weak=0.0)
    assert gain.argmax() == 2
    assert gain[1] == pytest.approx(gain[3])
    assert gain[2] == pytest.approx(2 / (1 + np.exp(-1.0)) - 1)


def test_a_slope_within_families_ignores_what_a_family_has_in_common(script):
    regression = script("transfer").regression

    def row(family, x, y):
        return {"family": family, "gap": x, "default": {"apgr": y}, "draws": {"default": np.full(5, y)}}

    # within each family APGR rises by 1 a unit of gap; the family with larger gaps lies lower
    rows = [row("a", 0.1, 0.6), row("a", 0.2, 0.7), row("b", 0.5, 0.2), row("b", 0.6, 0.3)]
    assert regression(rows, "default", "gap", within=True)["slope"] == pytest.approx(1.0)
    # without: x - .35 = -.25, -.15, .15, .25 and y - .45 = .15, .25, -.25, -.15 give -.15 / .17
    assert regression(rows, "default", "gap", within=False)["slope"] == pytest.approx(-0.15 / 0.17)


# -- limits
def test_an_oracle_of_one_sample_sees_more_than_the_chances_hold(script):
    found = script("limits").lead_of_samples(np.array([0.9, 0.9]), np.array([0.5, 0.5]))
    # strong better .9 * .5 = .45, weak better .5 * .1 = .05, lead .4: PGR rises to .45 / .4 = 1.125 over a share
    # of .45, stays for .5, and falls to 1 over .05: .253125 + .5625 + .053125
    assert found["one_sample"] == pytest.approx(0.86875)
    # both questions have the same chances: knowing them tells nothing
    assert found["chances"] == pytest.approx(0.5)
    assert found["luck"] == pytest.approx(1.0)


def test_certain_answers_hold_no_luck(script):
    found = script("limits").lead_of_samples(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    assert found["luck"] == pytest.approx(0.0)


def test_places_within_groups_keep_the_order_and_nothing_else(script):
    ranks = script("limits").ranks_within(np.array([5.0, 6.0, 100.0, 50.0]), np.array([0, 0, 1, 1]))
    assert ranks.tolist() == [0.25, 0.75, 0.75, 0.25]


@pytest.mark.parametrize(("share", "ratio", "bill"), [(1.0, 10, 1.0), (0.0, 10, 0.1), (0.5, 5, 0.6), (0.3, 1, 1.0)])
def test_the_bill_is_the_strong_share_and_what_the_weak_calls_cost(script, share, ratio, bill):
    assert script("limits").bill(share, ratio) == pytest.approx(bill)
