"""The embedded router: there, licensed, calibrated, and as good as its card says."""

import copy
import json
import pickle
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core import RoutingPolicy, load_router
from routellm_core.evaluation import apgr
from routellm_core.testing import RouterContract

FOLDER = Path(str(files("routellm_core") / "models" / "default"))
ROUTER = load_router("default")


class TestDefault(RouterContract):
    def make(self):
        return ROUTER


def test_copies_and_pickles_of_it_and_of_its_pairs_give_the_same_win_rates():
    prompts = ["hello", "Prove that there are infinitely many primes."]
    for router in (ROUTER, ROUTER.for_pair(2.0, -1.0), ROUTER.with_model("new", 0.5), RoutingPolicy(ROUTER).router):
        for made in (copy.deepcopy(router), pickle.loads(pickle.dumps(router))):  # noqa: S301 - made here
            np.testing.assert_array_equal(made.win_rate(prompts), router.win_rate(prompts))


@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=300), max_size=6))
def test_any_text_gets_a_probability(prompts):
    win_rates = ROUTER.win_rate(prompts)
    assert win_rates.shape == (len(prompts),)
    assert ((win_rates >= 0) & (win_rates <= 1)).all()


def test_a_megabyte_is_scored_by_its_cut():
    beginning, end = "Prove that " * 1000, " is a field? Answer:" * 1000
    one = ROUTER.win_rate([beginning + "x" * 1_000_000 + end])
    assert one == ROUTER.win_rate([beginning + "y" * 10 + "x" * 1_000_000 + end])


def test_what_anybody_would_call_hard_is_harder_than_what_anybody_would_call_easy():
    easy = ROUTER.win_rate(
        ["hi", "thanks!", "What is the capital of France?", "Name a red fruit.", "Translate cat into Spanish."]
    )
    hard = ROUTER.win_rate(
        [
            "Prove the Riemann hypothesis",
            "Let G be a group of order 2p with p an odd prime. Classify G up to isomorphism, with proof.",
            "Compute the de Rham cohomology of the complement of two linked circles in R^3.",
        ]
    )
    assert hard.min() > easy.max()


def test_it_is_calibrated_and_its_thresholds_descend_with_the_share():
    thresholds = json.loads((FOLDER / "config.json").read_text())["calibration"]["thresholds"]
    assert list(thresholds) == [f"{0.05 * step:.2f}" for step in range(1, 20)]
    values = list(thresholds.values())
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[0] < 1
    assert RoutingPolicy("default").thresholds[0] == thresholds["0.50"]


def test_it_is_small_and_has_its_licence_card():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) <= 12_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for fact in ("mmlu_pro", "zeroeval", "commongen_lite", "llmrouter", "Apache-2.0", "MIT", "Brier", "seed"):
        assert fact in card, fact


@pytest.mark.parametrize(("title", "name"), [("MMLU", "mmlu"), ("GSM8K", "gsm8k"), ("MT-Bench", "mt_bench")])
def test_the_cards_figures_are_those_that_are_measured(title, name, data_folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(data_folder / "eval" / f"{name}.parquet")
    table = table.filter([not c for c in table["contaminated"].to_pylist()])
    measured = apgr(ROUTER.win_rate(table["prompt"].to_pylist()), table["strong_score"], table["weak_score"])
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = re.search(rf"^\| {title} \| \d+ \| default \| ([0-9.]+) \|", card, re.MULTILINE)
    assert stated, "the card has no line for this benchmark"
    assert measured == pytest.approx(float(stated.group(1)), abs=0.001)


def test_every_language_gets_usable_win_rates():
    rows = [
        json.loads(line)
        for line in (Path(__file__).parents[2] / "benchmarks" / "data" / "multilingual.jsonl")
        .read_text("utf-8")
        .splitlines()
    ]
    win_rates = ROUTER.win_rate([row["prompt"] for row in rows])
    assert np.isfinite(win_rates).all()
    for language in {row["language"] for row in rows}:
        of_it = [w for w, row in zip(win_rates, rows, strict=True) if row["language"] == language]
        assert max(of_it) - min(of_it) > 0.01, f"{language}: every prompt gets the same win rate"
