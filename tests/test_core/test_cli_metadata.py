"""Commands that score a file read the columns of metadata that the router was fitted with."""

import json
import logging

import numpy as np
import pytest
from typer.testing import CliRunner

from routellm_core import compare, evaluate, fit_router, load_router
from routellm_core.cli.app import app
from routellm_core.errors import DataError
from routellm_core.evaluation import read_evaluation_set
from routellm_core.routers.fitted import FittedRouter

N = 120
SAME = "please help me with the item"
TIER = np.random.default_rng(0).permutation([1, 2] * 60)  # numbers: they must not be taken for a model's scores
ROUTES = ["strong" if tier == 2 else "weak" for tier in TIER]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A router that knows who pays, and files in which every other user does; prompts say nothing."""
    pytest.importorskip("sklearn")  # the extra fit
    folder = tmp_path_factory.mktemp("metadata")
    tier = TIER
    prompts = [f"{SAME} {i}" for i in range(N)]
    weak = (tier == 1).astype(int)
    result = fit_router(
        prompts, strong_scores=np.ones(N), weak_scores=weak, metadata={"tier": tier}, learning_curve=False
    )
    parts = result.router._parts()  # of it only the tier is to count
    nothing = {name: np.zeros_like(array) for name, array in parts.items() if name.endswith("weights")}
    nothing["metadata_weights"][:, parts["models"].index("weak")] = 0.5, -0.5
    router = FittedRouter(**{**parts, **nothing, "blend": 1.0}, strong="strong", weak="weak")
    router.save(folder / "router")
    rows = [{"prompt": p, "tier": int(t), "note": "x"} for p, t in zip(prompts, tier, strict=True)]
    labelled = [{**row, "large": 1, "small": int(w)} for row, w in zip(rows, weak, strict=True)]
    for name, table in (("prompts", rows), ("labelled", labelled)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
        lines = [",".join(table[0]), *(",".join(map(str, row.values())) for row in table)]
        (folder / f"{name}.csv").write_text("\n".join(lines))
    all_pay = [{**row, "tier": 2} for row in rows]
    (folder / "all_pay.jsonl").write_text("".join(json.dumps(row) + "\n" for row in all_pay))
    (folder / "plain.txt").write_text("\n".join(prompts))
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.parametrize("file", ["prompts.csv", "prompts.jsonl"])
def test_score_knows_who_pays(folder, file):
    rows = [
        json.loads(line)
        for line in run(
            "score", "--file", folder / file, "--router", folder / "router", "--threshold", 0.5
        ).splitlines()
    ]
    assert [row["route"] for row in rows] == ROUTES
    assert rows[0]["note"] == "x"


@pytest.mark.parametrize("file", ["prompts.csv", "prompts.jsonl", "labelled.csv", "labelled.jsonl"])
def test_calibrate_knows_who_pays(folder, file, tmp_path):
    # half of the users pay: the threshold for them parts the two, so that win rates stand far apart
    pair = ("--strong", "large", "--weak", "small") if file.startswith("labelled") else ()
    report = json.loads(
        run(
            *("calibrate", folder / file, "--router", folder / "router", "--strong-share", 0.5),
            *("--save", tmp_path / "router", *pair),
        )
    )
    assert report["realised_share"] == pytest.approx(0.5)
    if pair:  # the weak model is right for those who do not pay, and only they go there
        assert report["quality"] == {"strong": 1.0, "weak": 0.5, "routed": 1.0}
    scored = run("score", "--file", folder / "prompts.csv", "--router", tmp_path / "router").splitlines()
    assert [json.loads(row)["route"] for row in scored] == ROUTES


@pytest.mark.parametrize("reference", [True, False])
def test_drift_sees_that_more_users_pay(folder, reference, tmp_path):
    if reference:
        against = ("--reference", folder / "prompts.csv", "--router", folder / "router")
    else:
        calibration = ("--strong-share", 0.5, "--save", tmp_path / "router")
        run("calibrate", folder / "prompts.csv", "--router", folder / "router", *calibration)
        against = ("--router", tmp_path / "router")
    before = json.loads(run("drift", folder / "prompts.jsonl", *against))
    assert (before["strong_share"], before["win_rate_p_value"]) == (0.5, 1.0)
    found = json.loads(run("drift", folder / "all_pay.jsonl", *against))
    assert (
        found["strong_share"] == 1.0 and found["win_rate_p_value"] <= 0.001
    )  # the least that 999 permutations can say


@pytest.mark.parametrize("file", ["labelled.csv", "labelled.jsonl"])
def test_evaluate_and_compare_know_who_pays(folder, file, tmp_path):
    # the router is right about everybody: at half strong calls all of the gap is closed, APGR is .75
    options = ("--resamples", 2, "--cache", tmp_path)
    for _ in range(2):  # measured, then from the cache
        found = json.loads(run("evaluate", folder / file, "--router", folder / "router", *options))["labelled"]
        assert found["apgr"] == pytest.approx(0.75)
    both = json.loads(
        run("compare", folder / file, "--router", folder / "router", "--router", "random", "--resamples", 2)
    )["labelled"]
    assert "0.75" in json.dumps(both)


def test_the_functions_behind_them_find_the_columns_themselves_and_the_cache_tells_them_apart(folder, tmp_path):
    apgr = evaluate(folder / "router", folder / "labelled.csv", n_resamples=2, cache=tmp_path).exact.apgr
    assert apgr == pytest.approx(0.75)
    plain = read_evaluation_set(folder / "labelled.csv", strong="large", weak="small")
    assert plain.metadata is None
    blind = evaluate(folder / "router", plain, n_resamples=2, cache=tmp_path).exact.apgr
    assert blind == pytest.approx(0.5)  # all win rates are one
    routers = {"own": load_router(folder / "router"), "random": load_router("random")}
    found = compare(routers, folder / "labelled.csv", n_resamples=2)
    assert found.evaluations["own"].exact.apgr == pytest.approx(0.75)


def test_a_set_keeps_the_columns_asked_for_and_they_are_no_models(folder):
    data = read_evaluation_set(folder / "labelled.csv", metadata=("tier", "nowhere"))
    assert data.models == ("large", "small")
    assert data.metadata == {"tier": tuple(map(str, TIER))}
    assert data.take([1, 5]).metadata == {"tier": (str(TIER[1]), str(TIER[5]))}
    nested = [
        {"inputs": {"question": f"q {i}"}, "metadata": {"tier": [i]}, "outputs": {"a": i % 2, "b": 1}} for i in range(4)
    ]
    assert read_evaluation_set(nested, metadata=("tier",)).metadata == {"tier": (None,) * 4}


def test_columns_to_keep_are_no_single_word(folder):
    with pytest.raises(DataError, match=r"list of columns.*\['tier'\]"):  # whose letters would be looked for
        read_evaluation_set(folder / "labelled.csv", metadata="tier")


def test_choosing_prompts_to_label_knows_who_pays(folder, tmp_path, caplog):
    chosen = tmp_path / "chosen.jsonl"
    command = ("augment", "select", folder / "prompts.jsonl", "--router", folder / "router", "--n", 10, "-o", chosen)
    with caplog.at_level(logging.WARNING):
        assert CliRunner().invoke(app, [*map(str, command)]).exit_code == 0
    assert len(chosen.read_text().splitlines()) == 10
    assert "scores without" not in caplog.text


def test_a_file_without_the_column_is_scored_all_the_same_and_that_is_said(folder, caplog):
    with caplog.at_level(logging.WARNING):
        lines = run(
            "score", "--file", folder / "plain.txt", "--router", folder / "router", "--threshold", 0.5
        ).splitlines()
    assert len(lines) == N
    assert [r.getMessage() for r in caplog.records if "scores without it" in r.getMessage()]


@pytest.mark.parametrize("file", ["labelled.csv", "labelled.jsonl"])
def test_fit_learns_from_named_columns(folder, file, tmp_path):
    run("fit", folder / file, "--out", tmp_path / "router", "--metadata", "tier", "--metadata", "note")
    router = load_router(tmp_path / "router")
    assert dict(router.metadata_values) == {"tier": ("1", "2"), "note": ("x",)}
    with pytest.raises(DataError, match="has no column 'team'"):
        run("fit", folder / file, "--out", tmp_path / "other", "--metadata", "tier", "--metadata", "team")
