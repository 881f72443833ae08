"""`routellm calibrate` and `routellm drift`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from routellm_core import RoutingPolicy, load_router
from routellm_core.cli.app import app
from routellm_core.errors import RouteLLMError

pytest.importorskip("scipy")

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "100"}


def run(*arguments, stdin=None):
    """Standard output of a run that must succeed."""
    done = CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
    if isinstance(done.exception, RouteLLMError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments):
    with pytest.raises(RouteLLMError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Labelled prompts on which the random router's high win rates are those where the weak model fails."""
    folder = tmp_path_factory.mktemp("prompts")
    prompts = [f"prompt number {i}" for i in range(400)]
    weak = (load_router("random").win_rate(prompts) < 0.8).astype(int).tolist()
    rows = [{"prompt": p, "strong_score": 1, "weak_score": w} for p, w in zip(prompts, weak, strict=True)]
    (folder / "labelled.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "plain.txt").write_text("".join(f"another prompt {i}\n" for i in range(300)))
    csv = ["prompt,strong_score,weak_score", *(f"{r['prompt']},1,{r['weak_score']}" for r in rows)]
    (folder / "labelled.csv").write_text("\n".join(csv))
    (folder / "prompts.csv").write_text("\n".join(["question", *prompts]))
    judged = [{**row, "strong_score": 9, "weak_score": 1 + 8 * row["weak_score"]} for row in rows]
    (folder / "judged.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in judged))
    return folder


def calibrated(file, *arguments):
    return json.loads(run("calibrate", file, "--router", "random", "--json", *arguments))


def test_a_share_from_plain_lines(files):
    found = calibrated(files / "plain.txt", "--strong-share", 0.3, "--next", 50)
    assert found["realised_share"] == pytest.approx(0.3)
    low, high = found["share_interval"]
    next_low, next_high = found["predicted_share"]["interval"]
    assert next_low < low < 0.3 < high < next_high  # 50 prompts scatter more than the long run
    assert found["predicted_share"]["n"] == 50
    assert "quality is not promised" in found["guarantee"]


@pytest.mark.parametrize("name", ["labelled.jsonl", "labelled.csv"])
def test_a_floor_from_labels(files, name):
    found = calibrated(files / name, "--quality-floor", 0.95, "--delta", 0.1)
    assert (found["quality_floor"], found["delta"], found["n_prompts"]) == (0.95, 0.1, 400)
    # the weak model fails on the highest fifth only, so most of the rest can go weak
    assert 0.15 < found["realised_share"] < 0.25
    assert found["quality"]["routed"] >= 0.95
    assert found["knee"]["threshold"] == pytest.approx(0.8, abs=0.02)


def test_scores_of_another_scale_need_their_range(files):
    words = refused("calibrate", files / "judged.jsonl", "--router", "random", "--quality-floor", 0.9)
    assert "give --score-range" in words
    found = calibrated(files / "judged.jsonl", "--quality-floor", 0.9, "--score-range", 1, 10)
    assert found["score_range"] == [1, 10]


def test_a_budget_in_money(files):
    # $.0028 a call between .001 and .01 is a share of .2
    found = calibrated(
        files / "prompts.csv", "--column", "question", "--budget", "56/month", "--calls", 20000,
        "--strong-usd", 0.01, "--weak-usd", 0.001,
    )  # fmt: skip
    assert found["realised_share"] == pytest.approx(0.2)
    assert found["budget"]["usd"] == 56
    # 20,000 calls at .001, at .01, and a fifth of them at the one price
    assert found["costs_usd"] == pytest.approx({"per": "month", "all_weak": 20, "all_strong": 200, "chosen": 56})


def test_people_read_what_a_budget_buys(files):
    shown = run(
        "calibrate", files / "plain.txt", "--router", "random", "--budget", "0.0055/call", "--strong-usd", 0.01,
        "--weak-usd", 0.001,
    )  # fmt: skip
    assert "costs         $0.0055 per call; all weak $0.001, all strong $0.01" in shown


def test_a_budget_at_list_prices(files):
    pytest.importorskip("genai_prices")
    found = calibrated(
        files / "plain.txt", "--budget", "0.00168/call", "--strong-model", "openai:gpt-4.1",
        "--weak-model", "openai:gpt-4.1-nano", "--tokens", "400/300",
    )  # fmt: skip
    assert found["realised_share"] == pytest.approx(0.5)  # halfway between $.0032 and $.00016


def test_a_saved_router_decides_by_what_was_calibrated(files, tmp_path):
    found = calibrated(files / "labelled.jsonl", "--quality-floor", 0.95, "--save", tmp_path / "mine")
    assert found["saved"] == str(tmp_path / "mine")
    assert RoutingPolicy(str(tmp_path / "mine")).thresholds == (found["threshold"],)
    assert RoutingPolicy(str(tmp_path / "mine"), quality_floor=0.9).thresholds[0] > found["threshold"]
    assert "prompt number" not in (tmp_path / "mine" / "config.json").read_text()


def test_people_read_a_guarantee_in_words(files):
    shown = run("calibrate", files / "labelled.jsonl", "--router", "random", "--quality-floor", 0.95)
    assert "guarantee     With probability at least 0.95 over the choice of the 400 labelled prompts" in shown
    assert "strong share" in shown
    assert "(where quality is farthest above a random mix of the two models)" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --strong-share, --budget and --quality-floor"),
        (["--strong-share", 0.3, "--quality-floor", 0.9], "give one of"),
        (["--strong-share", 0.3, "--delta", 0.1], "--delta belongs to"),
        (["--strong-share", 30], "fraction from 0 to 1"),
        (["--quality-floor", 0.9], "strong"),  # no scores in the file
        (["--budget", "100/month"], "--strong-usd"),
        (["--budget", "100/month", "--strong-usd", 1, "--weak-usd", 0.1], "needs --calls, the"),
        (["--budget", "1/month", "--calls", 100, "--strong-usd", 1, "--weak-usd", 0.1], "does not even pay"),
        (["--budget", "much", "--strong-usd", 1, "--weak-usd", 0.1], "written like 100/month"),
        (["--budget", "1/call", "--strong-model", "openai:gpt-4.1"], "--tokens"),
        (["--budget", "1/call", "--strong-usd", 1, "--strong-model", "x"], "not both"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(files, arguments, said):
    assert said in refused("calibrate", files / "plain.txt", "--router", "random", *arguments)


def test_too_few_labels_are_one_line_and_exit_code_2(tmp_path):
    rows = [{"prompt": f"p{i}", "strong_score": 1, "weak_score": i % 2} for i in range(20)]
    (tmp_path / "few.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-c", "from routellm_core.cli import main; main()", "calibrate", tmp_path / "few.jsonl"]
    done = subprocess.run(
        [*command, "--router", "random", "--quality-floor", "0.99", "--json"],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "20 labelled prompts cannot certify quality_floor=0.99" in done.stderr


# -- drift
def drifted(file, *arguments):
    return json.loads(run("drift", file, "--router", "random", "--json", *arguments))


def test_prompts_like_the_calibrations_have_not_drifted(files):
    # the random router's win rates are uniform for any prompts
    found = drifted(files / "plain.txt")
    assert not found["drifted"]
    assert (found["n_prompts"], found["n_calibration"], found["target_share"]) == (300, 1000, 0.5)


def test_another_target_share_is_missed(files):
    found = drifted(files / "plain.txt", "--target-share", 0.2)
    assert found["drifted"]
    assert found["target_share"] == 0.2
    assert found["win_rate_p_value"] > 0.05


def test_traffic_is_compared_with_a_reference(files, tmp_path):
    win_rates = load_router("random").win_rate([f"another prompt {i}" for i in range(300)])
    (tmp_path / "high.txt").write_text("".join(f"another prompt {i}\n" for i in np.flatnonzero(win_rates > 0.5)))
    found = drifted(tmp_path / "high.txt", "--reference", files / "plain.txt", "--threshold", 0.9)
    assert found["drifted"]
    assert found["n_calibration"] == 300
    assert found["target_share"] == pytest.approx(float((win_rates >= 0.9).mean()))


def test_people_read_what_was_compared(files):
    shown = run("drift", files / "prompts.csv", "--column", "question", "--router", "random")
    assert shown.startswith("no drift shown (false alarms: at most 0.05); 400 prompts against 1000 calibrated")
    assert "meant to be 50.0%" in shown


def test_drift_is_an_exit_code_where_that_is_asked_for(files):
    plain = ["drift", str(files / "plain.txt"), "--router", "random"]
    for arguments, code in (
        ([*plain, "--exit-code"], 0),  # not drifted
        ([*plain, "--target-share", "0.2"], 0),  # drifted, but not asked for
        ([*plain, "--target-share", "0.2", "--exit-code"], 1),
        ([*plain, "--target-share", "0.2", "--exit-code", "--json"], 1),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code, arguments
        assert done.stdout  # what was found is printed all the same


def test_a_reference_of_few_prompts_is_mentioned(files, tmp_path):
    for n, warned in ((99, True), (100, False)):
        (tmp_path / "few.txt").write_text("".join(f"prompt {i}\n" for i in range(n)))
        done = CliRunner().invoke(
            app,
            [
                "drift",
                str(files / "plain.txt"),
                "--router",
                "random",
                "--reference",
                str(tmp_path / "few.txt"),
                "--json",
            ],
        )
        assert ("99 reference prompts are few" in done.stderr) == warned
        assert json.loads(done.stdout)["n_calibration"] == n


def test_missing_files_and_columns_are_refused(files, tmp_path):
    assert "No such file" in refused("drift", tmp_path / "none.txt", "--router", "random")
    assert "'prompt'" in refused("drift", files / "prompts.csv", "--router", "random")


def test_another_router_in_the_folder_is_not_replaced(tmp_path):
    from routellm_core import RandomRouter

    RandomRouter(seed=1, name="mine").save(tmp_path / "mine")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"prompt {i}" for i in range(20)))
    before = (tmp_path / "mine" / "config.json").read_bytes()
    run = [str(prompts), "--strong-share", "0.5", "--save", str(tmp_path / "mine")]
    refused = CliRunner().invoke(app, ["calibrate", *run])
    assert "holds another router ('mine', kind 'random')" in str(refused.exception)
    assert (tmp_path / "mine" / "config.json").read_bytes() == before
    assert CliRunner().invoke(app, ["calibrate", *run, "--router", str(tmp_path / "mine")]).exit_code == 0
    assert CliRunner().invoke(app, ["calibrate", *run, "--router", str(tmp_path / "mine")]).exit_code == 0


def test_another_pair_of_the_same_router_in_the_folder_is_not_replaced(tmp_path):
    for strong in (2.0, 3.0):
        load_router("default").for_pair(strong, -1.0).save(tmp_path / f"{strong}")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"prompt {i}" for i in range(20)))
    run = [str(prompts), "--strong-share", "0.5", "--router", str(tmp_path / "2.0"), "--save"]
    refused = CliRunner().invoke(app, ["calibrate", *run, str(tmp_path / "3.0")])
    assert "holds another router ('default (3 over -1)', kind 'difficulty_pair')" in str(refused.exception)
    assert load_router(tmp_path / "3.0").strong_ability == 3.0
    assert CliRunner().invoke(app, ["calibrate", *run, str(tmp_path / "2.0")]).exit_code == 0


def test_no_quality_is_guaranteed_on_assumed_scores(tmp_path):
    rows = [
        {"prompt": f"p{i}", "strong_score": 1.0, "weak_score": float(i % 2), "strong_assumed": i % 2 == 1}
        for i in range(40)
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = CliRunner().invoke(app, ["calibrate", str(path), "--quality-floor", "0.9"])
    assert "20 of the strong scores are assumed" in str(refused.exception)
    assert CliRunner().invoke(app, ["calibrate", str(path), "--strong-share", "0.5"]).exit_code == 0
    shown = CliRunner().invoke(app, ["evaluate", str(path)], env={"COLUMNS": "200"})
    assert "20 strong scores are assumed" in shown.stdout
