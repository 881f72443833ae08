"""The embedded router that reads the prompt: there, licensed, calibrated, and as good as its card says."""

import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from routellm_core import RoutingPolicy, fit_router, load_router
from routellm_core.evaluation import apgr
from routellm_core.testing import RouterContract

pytest.importorskip("onnxruntime")

FOLDER = Path(str(files("routellm_core") / "models" / "contextual"))


@pytest.fixture(scope="module")
def router():
    return load_router("contextual")


class TestContextual(RouterContract):
    made = None

    def make(self):
        TestContextual.made = TestContextual.made or load_router("contextual")
        return self.made


def test_what_anybody_would_call_hard_is_harder_than_what_anybody_would_call_easy(router):
    easy = router.win_rate(
        ["hi", "thanks!", "What is the capital of France?", "Write a short thank-you note to a friend."]
    )
    hard = router.win_rate(
        [
            "Let G be a group of order 2p with p an odd prime. Classify G up to isomorphism, with proof.",
            "Compute the de Rham cohomology of the complement of two linked circles in R^3.",
            "A tank fills in 6 hours and drains in 9. Both valves are opened at noon, the drain sticks half open at "
            "14:20 and is freed at 16:05. When is the tank full, to the minute?",
        ]
    )
    assert hard.min() > easy.max()


def test_it_is_calibrated_and_its_thresholds_descend_with_the_share():
    thresholds = json.loads((FOLDER / "config.json").read_text())["calibration"]["thresholds"]
    values = list(thresholds.values())
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[0] < 1
    assert RoutingPolicy("contextual").thresholds[0] == thresholds["0.50"]


def test_both_embedded_routers_fit_into_a_wheel_of_forty_megabytes_unpacked_and_the_card_says_what_is_in_it():
    models = FOLDER.parent
    assert sum(file.stat().st_size for file in models.rglob("*") if file.is_file()) <= 36_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for fact in (
        "rated_prompts",
        "language model",
        "mmlu_pro",
        "llmrouter",
        "Apache-2.0",
        "MIT",
        "Brier",
        "seed",
    ):
        assert fact in card, fact


@pytest.mark.parametrize(("title", "name"), [("GSM8K", "gsm8k"), ("MT-Bench", "mt_bench")])
def test_the_cards_figures_are_those_that_are_measured(title, name, data_folder, router):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(data_folder / "eval" / f"{name}.parquet")
    table = table.filter([not c for c in table["contaminated"].to_pylist()])
    measured = apgr(router.win_rate(table["prompt"].to_pylist()), table["strong_score"], table["weak_score"])
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = re.search(rf"^\| {title} \| \d+ \| contextual \| ([0-9.]+) \|", card, re.MULTILINE)
    assert stated, "the card has no line for this benchmark"
    assert measured == pytest.approx(float(stated.group(1)), abs=0.01)  # another processor rounds otherwise


def test_it_needs_no_torch_and_no_transformers():
    code = (
        "import sys; from routellm_core import load_router; load_router('contextual').win_rate(['hi']); "
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_path(), timeout=120)


def test_labels_of_ones_own_are_fitted_on_it():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    kinds = [("Write a poem about the sea", 0.0), ("Solve the integral of x to the power", 1.0)]
    prompts = [f"{kinds[i % 2][0]} {rng.integers(1000)}" for i in range(80)]
    needs = np.array([kinds[i % 2][1] for i in range(80)])
    fitted = fit_router(
        prompts, strong_scores=np.ones(80), weak_scores=1 - needs, base="contextual", learning_curve=False
    ).router
    poem, integral = fitted.win_rate(["Write a poem about the wind", "Solve the integral of x to the power 7"])
    assert integral > poem


def _path():
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "shared"), os.environ.get("PYTHONPATH", "")])}
