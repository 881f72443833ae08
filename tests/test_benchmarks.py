"""The arithmetic of the benchmark scripts, on inputs small enough to do by hand; nothing is trained here."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from routellm_core import load_router
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


# -- transfer_for_pair
def test_a_pair_by_own_scores_is_the_router_that_a_user_gets_on_the_prompts_that_were_not_scored(script):
    module = script("transfer_for_pair")
    router = load_router("default")
    prompts = [f"What is {'the proof of ' * (i % 4)}{i} + {i * i}?" for i in range(80)]
    rng = np.random.default_rng(3)
    weak = (rng.random(80) < 0.3).astype(float)
    strong = np.maximum(weak, rng.random(80) < 0.6)  # midway between the two lie prompts, so that the order is another
    found = module.by_own_scores(router.difficulty(prompts), strong, weak)
    for seed in module.SEEDS:
        order = np.random.default_rng(seed).permutation(80)
        scored, rest = order[:20], np.sort(order[20:])
        abilities = [router.ability_from_scores([prompts[i] for i in scored], s[scored]) for s in (strong, weak)]
        texts = [prompts[i] for i in rest]
        for way, win_rates in (
            ("unchanged", router.win_rate(texts)),
            ("for_pair", router.for_pair(*abilities).win_rate(texts)),
        ):
            assert found["20"][way][seed] == pytest.approx(apgr(win_rates, strong[rest], weak[rest])), (seed, way)
    assert found["20"]["unchanged"] != found["20"]["for_pair"]
    assert found["50"]["for_pair"] != found["20"]["for_pair"]


def test_pairs_weigh_the_same_and_their_differences_are_paired(script):
    module = script("transfer_for_pair")

    def row(family, level, unchanged, for_pair):
        return {
            "family": family,
            "level": level,
            "own_scores": {str(n): {"unchanged": unchanged, "for_pair": for_pair} for n in module.SCORED},
        }

    # means over the seeds: .4, .5, .6 unchanged and .5, .6, .7 with the pair; one draw of six is worse
    rows = [
        row("a", 0.3, [0.3, 0.5], [0.55, 0.45]),
        row("a", 0.4, [0.5, 0.5], [0.6, 0.6]),
        row("b", 0.6, [0.6, 0.6], [0.7, 0.7]),
    ]
    found = module.summaries(rows)
    every = found["all: 50"]
    assert (every["pairs"], every["families"]) == (3, 2)
    assert every["unchanged"]["mean"] == pytest.approx(0.5)
    assert every["difference"]["mean"] == pytest.approx(0.1)
    # every pair gains .1, so that the difference is surer than either figure
    assert every["difference"]["interval_over_pairs"] == pytest.approx([0.1, 0.1])
    assert every["unchanged"]["interval_over_pairs"] == pytest.approx([0.4, 0.6])
    # two families drawn are a twice (.45), b twice (.6), or one of each
    assert every["unchanged"]["interval_over_families"] == pytest.approx([0.45, 0.6])
    assert every["worse_draws"] == pytest.approx(1 / 6)
    assert found["under .5: 50"]["pairs"] == 2 and found[".5 to .7: 20"]["pairs"] == 1
    assert ".7 or more: 50" not in found


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


def test_a_router_is_held_against_prompt_length_on_the_prompts_that_are_kept(script):
    prompts = ["a", "bbb", "cc", "dddd"]
    strong, weak = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])
    kept = np.array([True, True, True, False])
    found = script("limits").beside_length({"router": np.array([0.9, 0.1, 0.2, 1.0])}, prompts, strong, weak, kept)
    # one of three prompts gains. First in order, PGR is 1 from a share of 1/3: 1/6 + 2/3; last, it rises over the
    # last 1/3: 1/6
    assert found["router"]["apgr"] == pytest.approx(5 / 6)
    assert found["prompt length"]["apgr"] == pytest.approx(1 / 6)
    assert found["router"]["difference"] == pytest.approx(2 / 3)
    low, high = found["router"]["interval_of_the_difference"]
    assert 0 <= low <= high <= 2 / 3 + 1e-9


@pytest.mark.parametrize(("share", "ratio", "bill"), [(1.0, 10, 1.0), (0.0, 10, 0.1), (0.5, 5, 0.6), (0.3, 1, 1.0)])
def test_the_bill_is_the_strong_share_and_what_the_weak_calls_cost(script, share, ratio, bill):
    assert script("limits").bill(share, ratio) == pytest.approx(bill)


# -- quality_table
def cells(row):
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_a_line_says_whether_the_figure_reaches_its_aim_and_the_published_one(script):
    lines = script("quality_lines")
    near = lines.Line(what="MMLU", figure=0.574, interval=(0.55, 0.598), aim=0.6, floor=0.56, published=0.573)
    assert cells(lines.row_of(near.cells())) == [
        *("MMLU", "0.574", "0.550 to 0.598", "0.600, at least 0.560", "no, but the least", "0.573", "yes", "")
    ]
    # it is the figure that decides, although the interval's upper end is above
    assert lines.Line(what="x", figure=0.55, interval=(0.5, 0.61), aim=0.6, floor=0.56).cells()[4] == (
        "no, nor the least"
    )
    assert lines.Line(what="x", figure=0.6, aim=0.6).cells()[4] == "yes"


def test_a_limit_is_kept_from_below_and_a_difference_has_to_be_above_zero(script):
    line = script("quality_lines").Line
    slow = line(what="one decision", figure=0.2501, aim=0.25, at_most=True, unit="ms")
    assert slow.cells()[1:5] == ["0.250 ms", "-", "at most 0.250 ms", "no"]
    assert line(what="one decision", figure=0.0, aim=0.25, at_most=True, unit="ms").cells()[4] == "yes"
    gain = line(what="less prompt length", figure=0.0, interval=(-0.1, 0.1), aim=0.0, signed=True)
    assert gain.cells()[1:5] == ["+0.000", "-0.100 to +0.100", "above 0", "no"]
    assert line(what="not defined", figure=None, aim=0.5, published=0.6).cells()[4:7] == ["-", "0.600", "-"]


def test_a_line_of_numpy_numbers_is_plain_json(script):
    line = script("quality_lines").Line(what="x", figure=np.float64(0.5), interval=(np.float64(0.4), 0.6), aim=0.4)
    found = json.loads(json.dumps(script("transfer").rounded(line.to_dict())))
    assert found["reached"] is True and found["past_it"] is None
    assert found["figure"] == 0.5 and found["interval"] == [0.4, 0.6]


def test_the_table_has_a_heading_for_each_part_and_says_what_is_missing(script):
    lines = script("quality_lines")
    parts = {"Routers": [lines.Line(what="MMLU", figure=0.5)], "Cascade": []}
    table = lines.markdown(parts, {"Cascade": "DataError: no column | here\nnor there"})
    rows = table.splitlines()
    assert cells(rows[0]) == list(lines.HEADER)
    assert [cells(row)[0] for row in rows[2:6]] == ["**Routers**", "MMLU", "**Cascade**", "not measured"]
    assert rows[5].endswith(r"| DataError: no column \| here nor there |")
    assert rows[-1] == lines.VERDICT
    assert all(row.replace("\\|", "").count("|") == len(lines.HEADER) + 1 for row in rows[:6])


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit("no data in x")])
def test_a_part_that_fails_does_not_lose_the_others(script, monkeypatch, capsys, error):
    table, line = script("quality_table"), script("quality_lines").Line

    def fail(given):
        raise error

    monkeypatch.setattr(
        table, "PARTS", {"bad": ("Bad", fail), "good": ("Good", lambda given: [line(what="x", figure=1.0)])}
    )
    lines, failed, seconds = table.measured(["bad", "good"], None)
    assert failed == {"Bad": f"{type(error).__name__}: {error}"}
    assert lines["Bad"] == [] and [each.what for each in lines["Good"]] == ["x"]
    assert list(seconds) == ["bad", "good"]
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_it_has_measured(script, monkeypatch):
    table, line = script("quality_table"), script("quality_lines").Line

    def stop(given):
        raise KeyboardInterrupt

    parts = {"good": ("Good", lambda given: [line(what="x", figure=1.0)]), "slow": ("Slow", stop), "last": ("Last", 0)}
    monkeypatch.setattr(table, "PARTS", parts)
    lines, failed, _ = table.measured(list(parts), None)
    assert [each.what for each in lines["Good"]] == ["x"]
    assert failed == {"Slow": "interrupted"} and "Last" not in lines


def test_a_router_in_a_folder_stands_beside_the_embedded_one_of_its_name(script):
    folder = str(ROOT / "shared" / "routellm_core" / "models" / "default")
    routers, missing = script("quality_table").load(["default", folder])
    assert list(routers) == ["default", f"default in {folder}"] and not missing
    assert [script("quality_parts").folder_of(router).samefile(folder) for router in routers.values()] == [True, True]
    assert script("quality_parts").folder_of(load_router("random")) is None
    with pytest.raises(SystemExit, match="nowhere"):
        script("quality_table").load(["nowhere"])


def test_a_cascade_is_judged_where_it_gains_least(script):
    def at(cascade, both):
        return {
            "cascade_gain": cascade,
            "cascade_gain_interval": [cascade - 0.01, cascade + 0.01],
            "both_cuts_gain_at_that_cost": both,
            "both_cuts_gain_interval": [both - 0.02, both + 0.02],
        }

    found = {"answers": 1200, "apgr": 0.81, "lowest": 0.8, "highest": 0.82, "interval_of_the_first": [0.76, 0.86]}
    cost = {"usd_a_call": {}, "at 20% of the cost range": at(0.03, 0.02), "at 80% of the cost range": at(-0.01, 0.04)}
    verifier, cascade, both = script("quality_parts").cascade_lines(
        "GSM8K", {**found, "prompt_alone": 0.64, "cost": cost}, 0.8
    )
    assert verifier.reaches(verifier.aim) and "prompt alone 0.640" in verifier.remark
    assert cascade.figure == -0.01 and cascade.interval == pytest.approx((-0.02, 0.0))
    assert not cascade.reaches(cascade.aim) and "at 80%" in cascade.remark
    assert both.figure == 0.02 and both.reaches(both.aim)
    # without prices there is no curve
    assert len(script("quality_parts").cascade_lines("WildBench", {**found, "prompt_alone": None}, None)) == 1


# -- build_embedded_router
def test_another_build_is_the_same_router_up_to_the_last_digits_of_a_win_rate(script, tmp_path, capsys):
    recipe = script("build_embedded_router")
    kept = ROOT / "shared" / "routellm_core" / "models" / "default"
    assert recipe.check(kept, kept, ["hello"], 1e-4) == 0
    assert "bit for bit" in capsys.readouterr().out
    router = load_router("default")
    for shift, code in ((1e-5, 0), (1e-2, 1)):
        # a win rate w moves by shift * w * (1 - w), at most a quarter: 2.5e-6 and 2.5e-3
        router.intercept += shift
        router.save(tmp_path / "built")
        assert recipe.check(tmp_path / "built", kept, [], 1e-4) == code
        router.intercept -= shift
        assert "not bit for bit: config.json" in capsys.readouterr().out
