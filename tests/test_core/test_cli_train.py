"""`routellm train`, run as a user runs it: a process, its output, its exit code, and its death."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from routellm_core import RandomRouter, load_router
from routellm_core.cli.app import app
from routellm_core.training import trainers
from routellm_core.training.run import TrainingResult

pytest.importorskip("scipy")

COMMAND = [sys.executable, "-m", "routellm_core", "train"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
MODELS = [f"model-{i:02d}" for i in range(12)]


def run(*arguments, cwd=None):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=cwd
    )


@pytest.fixture(scope="module")
def battles(tmp_path_factory):
    """2,200 battles of twelve models, where a model wins the more often the better it is."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("battles") / "battles.jsonl"
    with path.open("w") as file:
        for number in range(2200):
            a, b = rng.choice(12, 2, replace=False)
            better = rng.random() < 1 / (1 + np.exp((a - b) / 3))
            row = {
                "prompt": f"question {number % 220}: what follows from {' '.join(map(str, rng.integers(0, 99, 3)))}?",
                "model_a": MODELS[a],
                "model_b": MODELS[b],
                "winner": "model_a" if better else "model_b",
            }
            file.write(json.dumps(row) + "\n")
    return path


def test_from_a_file_of_battles_to_a_router_that_loads(battles, tmp_path):
    out = tmp_path / "router"
    done = run(
        "mf", "--data", battles, "--encoder", "hashing:64", "--epochs", 2, "--tiers", 4, "--out", out,
        "--near-duplicates", "ignore",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    router = load_router(out)
    assert (router.strong, router.weak) == (summary["strong"], summary["weak"])
    assert router.name == summary["name"] == "router"  # the folder's
    assert router.calibration is not None
    assert [json.loads(line)["step"] for line in (out / "training_log.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert "duplicates: 2200 -> " in done.stderr
    assert "question 1" not in done.stderr  # no prompt text


def test_it_trains_into_the_empty_folder_one_stands_in(battles, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    line = [
        "mf", "--data", battles, "--encoder", "hashing:64", "--epochs", 1, "--tiers", 4, "--out", ".",
        "--near-duplicates", "ignore",
    ]  # fmt: skip
    there = os.open(out, os.O_RDONLY)  # as a shell that stands in it
    try:
        done = run(*line, cwd=out)
        assert done.returncode == 0, done.stderr
        assert sorted(os.listdir(there)) == ["config.json", "model.safetensors", "training_log.jsonl"]
        assert load_router(out).name == "mine"
    finally:
        os.close(there)
    assert os.listdir(tmp_path) == ["mine"]
    again = run(*line, cwd=out)
    assert again.returncode == 2
    assert "cd .." in again.stderr
    assert "step" not in again.stderr  # said before the work


def test_killed_in_the_middle_the_same_command_continues_to_the_same_router(battles, tmp_path):
    line = [
        "mf", "--data", battles, "--encoder", "hashing:64", "--epochs", 12, "--tiers", 4, "--near-duplicates", "ignore",
        "--name", "legal",
    ]  # fmt: skip
    assert run(*line, "--out", tmp_path / "whole").returncode == 0
    out = tmp_path / "killed"
    with subprocess.Popen(
        [*COMMAND, *map(str, line), "--out", out], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        for logged in process.stderr:
            if logged.startswith("step 4,"):
                process.send_signal(signal.SIGKILL)
                break
    assert not out.exists()
    done = run(*line, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "step 1," not in done.stderr  # it did not begin again
    assert not out.with_name("killed.training").exists()
    assert load_router(tmp_path / "whole").name == load_router(out).name == "legal"
    for name, tensor in load_router(tmp_path / "whole").tensors().items():
        np.testing.assert_array_equal(tensor, load_router(out).tensors()[name])


def test_an_unfinished_run_with_other_settings_is_refused_until_restarted(battles, tmp_path):
    line = [
        "mf", "--data", battles, "--encoder", "hashing:64", "--tiers", 4, "--near-duplicates", "ignore",
        "--out", tmp_path / "router",
    ]  # fmt: skip
    with subprocess.Popen(
        [*COMMAND, *map(str, line), "--epochs", "50"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        for logged in process.stderr:
            if logged.startswith("step 3,"):
                process.send_signal(signal.SIGKILL)
                break
    refused = run(*line, "--epochs", 3, "--learning-rate", "0.001")
    assert refused.returncode == 2
    assert "learning_rate" in refused.stderr
    assert "--restart" in refused.stderr
    assert run(*line, "--epochs", 3, "--learning-rate", "0.001", "--restart").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mf", "--steps", "5"], "takes no --steps"),
        (["sw", "--base", "x"], "takes no --base"),
        (["mf", "--set", "name=legal"], "no option 'name' to --set"),
        (["mf", "--encoder", "hashing:64", "--strong", "nobody"], "nobody"),
        (["mf", "--encoder", "hashing:64", "--tiers", "40"], "40 tiers"),
        (["what"], "unknown trainer"),
        (["mf", "--near-duplicates", "perhaps"], "group, drop, ignore"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(battles, tmp_path, arguments, says):
    done = run(*arguments, "--data", battles, "--out", tmp_path / "router")
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "router").exists()


def test_a_trainer_that_knows_no_names_is_given_none(battles, tmp_path, monkeypatch):
    def train_mine(battles, *, strong, weak, out=None):
        return TrainingResult(router=RandomRouter(), log=[])

    monkeypatch.setattr(trainers.TRAINERS, "load", lambda kind: train_mine)
    monkeypatch.setattr("routellm_core.cli.train._log_to_stderr", lambda: None)  # outlives the command
    line = ["train", "mine", "--data", battles, "--near-duplicates", "ignore", "--tiers", "4", "--out", tmp_path / "r"]
    done = CliRunner().invoke(app, [str(argument) for argument in line])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "random"
    refused = CliRunner().invoke(app, [str(argument) for argument in [*line, "--name", "legal"]])
    assert "takes no --name" in str(refused.exception)


def test_a_bad_row_stops_and_names_it_or_is_counted_when_asked(battles, tmp_path):
    path = tmp_path / "bad.jsonl"
    bad = {
        "prompt": "who is the winner of this one?",
        "model_a": "model-00",
        "model_b": "model-01",
        "winner": "perhaps",
    }
    path.write_text(battles.read_text() + json.dumps(bad) + "\n")
    line = [
        "mf", "--data", path, "--encoder", "hashing:64", "--epochs", 1, "--tiers", 4, "--near-duplicates", "ignore",
        "--out", tmp_path / "router",
    ]  # fmt: skip
    stopped = run(*line)
    assert stopped.returncode == 2
    assert "2201" in stopped.stderr or "2200" in stopped.stderr
    assert "winner" in stopped.stderr
    dropped = run(*line, "--drop-bad")
    assert dropped.returncode == 0, dropped.stderr
    assert "2201 -> 2200" in dropped.stderr


def test_augmentation_in_an_arena_layout_is_refused_and_not_misread(battles, tmp_path):
    done = run("mf", "--data", battles, "--augment", battles, "--encoder", "hashing:64", "--out", tmp_path / "router")
    assert done.returncode == 2
    assert "no side is the strong one" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("out", [".", "notes", "notes/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(battles, tmp_path, out):
    (tmp_path / "notes").write_text("mine")
    done = run("mf", "--data", battles, "--encoder", "hashing:64", "--out", tmp_path / out)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
