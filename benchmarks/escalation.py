"""What a verifier sees in the weak model's answer, and what a cascade then costs.

    python benchmarks/escalation.py [--data ../shared/data] [--base default] [--out FILE]

The protocol: 5 folds over the questions, each answer scored by a verifier that was fitted on the other four, seeds 0 to
4. APGR with the strong share on the horizontal axis (the weak calls not charged); then quality over total cost, every
call charged, at 20 to 80 % of the way from all-weak to all-strong, against routing on the prompt alone:

- `cascade`: the weak model answers every prompt, the verifier escalates;
- `both cuts`: `calibrate_escalation` on four folds, its cuts applied to the fifth;
- `prompt alone`: `fit_router` on the same labels in the same folds (GSM8K, AlpacaEval); WildBench comes without its
  prompts, there it is the straight line between the two models.

Prices are those of the package genai-prices, tokens are characters / 4. WildBench holds neither prompts nor the strong
answers, so a call there costs the price of a token; where the weak model's is not listed, or not the lower one, there
is no curve. Prints JSON; intervals are 95 % bootstrap intervals over questions, of the first seed.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from evaluation_sets import DATA, need

from routellm_core.calibration import calibrate_escalation
from routellm_core.evaluation import apgr, apgr_interval
from routellm_core.persistence import digest_of
from routellm_core.prices import cost_usd
from routellm_core.training import fit_router, fit_verifier

SEEDS = range(5)
PARTS = (0.2, 0.4, 0.5, 0.6, 0.8)
RESAMPLES = 1000
WILDBENCH = {
    "gpt-3.5-turbo-0125": None,  # dearer today than the strong model
    "Phi-3-mini-128k-instruct": "openrouter:microsoft/phi-3-mini-128k-instruct",
    "gemma-7b-it": "groq:gemma-7b-it",
    "reka-flash-20240226": None,  # no longer sold
}
QWEN, GPT4, MIXTRAL = (
    "together:Qwen/Qwen1.5-72B",
    "openai:gpt-4-1106-preview",
    "together:mistralai/Mixtral-8x7B-Instruct-v0.1",
)


class Rows(NamedTuple):
    answers: list[str]
    prompts: list[str] | None
    strong: np.ndarray
    weak: np.ndarray
    strong_usd: np.ndarray | None
    weak_usd: np.ndarray | None


def gsm8k(data: Path) -> Rows:
    labels = pq.read_table(data / "eval" / "gsm8k.parquet").to_pylist()
    texts = {row["id"]: row for row in pq.read_table(data / "eval" / "gsm8k_responses.parquet").to_pylist()}
    rows = [{**row, **texts[row["id"]]} for row in labels if not row["contaminated"]]
    return with_prompts(rows, [row["weak_response"] for row in rows], [row["strong_response"] for row in rows])


def alpaca_eval(data: Path) -> Rows:
    rows = [row for row in pq.read_table(data / "train" / "answers.parquet").to_pylist() if row["prompt"]]
    rows = [row for row in rows if row["source"] == "alpaca_eval"]
    answers = [row["answer"] for row in rows]
    return with_prompts(rows, answers, answers)  # the strong answers are not there: as long as the weak ones


def with_prompts(rows: list[dict[str, Any]], answers: list[str], strong_answers: list[str]) -> Rows:
    prompts = [row["prompt"] for row in rows]
    return Rows(
        answers,
        prompts,
        np.array([row["strong_score"] for row in rows], dtype=float),
        np.array([row["weak_score"] for row in rows], dtype=float),
        usd(GPT4, prompts, strong_answers),
        usd(MIXTRAL, prompts, answers),
    )


def wildbench(data: Path, model: str) -> Rows:
    rows = [row for row in pq.read_table(data / "train" / "answers.parquet").to_pylist() if row["weak_model"] == model]
    rows = [row for row in rows if row["source"] == "wildbench"]
    n, name = len(rows), WILDBENCH[model]
    return Rows(
        [row["answer"] for row in rows],
        None,
        np.array([row["strong_score"] for row in rows], dtype=float),
        np.array([row["weak_score"] for row in rows], dtype=float),
        np.full(n, cost_usd(QWEN, input_tokens=0, output_tokens=1000)) if name else None,
        np.full(n, cost_usd(name, input_tokens=0, output_tokens=1000)) if name else None,
    )


def usd(model: str, prompts: list[str], answers: list[str]) -> np.ndarray:
    return np.array(
        [
            cost_usd(model, input_tokens=-(-len(prompt) // 4), output_tokens=-(-len(answer) // 4))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    )


def prompt_win_rates(rows: Rows, seed: int, base: str) -> np.ndarray:
    """Held out, in five folds over the prompts."""
    if rows.prompts is None:
        return np.full(len(rows.answers), 0.5)
    _, member = np.unique(rows.prompts, return_inverse=True)
    folds = np.random.default_rng(seed).permutation(np.arange(member.max() + 1) % 5)[member]
    found = np.zeros(len(folds))
    for fold in range(5):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit_router(
            [rows.prompts[i] for i in train],
            strong_scores=rows.strong[train],
            weak_scores=rows.weak[train],
            base=base,
            learning_curve=False,
            seed=seed,
        )
        found[test] = fitted.router.win_rate([rows.prompts[i] for i in test])
    return found


# -- cost
def curve(
    order: np.ndarray, before_usd: np.ndarray, extra_usd: np.ndarray, rows: Rows, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cost and quality as one after the other goes strong; `drawn` says how often each question counts."""
    count = drawn[order]
    cost = (drawn * before_usd).sum() + np.append(0.0, np.cumsum(count * extra_usd[order]))
    gain = (rows.strong - rows.weak)[order]
    quality = (drawn * rows.weak).sum() + np.append(0.0, np.cumsum(count * gain))
    return cost / drawn.sum(), quality / drawn.sum()


def cost_table(rows: Rows, prompt: np.ndarray, answer: np.ndarray, seed: int) -> dict[str, Any]:
    assert rows.strong_usd is not None and rows.weak_usd is not None
    n = len(prompt)
    by_prompt, by_answer = np.argsort(-prompt, kind="stable"), np.argsort(-answer, kind="stable")
    folds = np.random.default_rng(seed).permutation(np.arange(n) % 5)
    weak_mean, strong_mean = rows.weak_usd.mean(), rows.strong_usd.mean()
    both = {}
    for part in PARTS:
        quality, cost = np.zeros(n), np.zeros(n)
        for fold in range(5):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            chosen = calibrate_escalation(
                prompt[train],
                answer[train],
                strong_scores=rows.strong[train],
                weak_scores=rows.weak[train],
                strong_usd=rows.strong_usd[train],
                weak_usd=rows.weak_usd[train],
                budget_usd=weak_mean + part * (strong_mean - weak_mean),
            )
            at_once = prompt[test] >= chosen.threshold
            strong = at_once | (answer[test] >= chosen.escalation_threshold)
            quality[test] = np.where(strong, rows.strong[test], rows.weak[test])
            cost[test] = np.where(at_once, 0, rows.weak_usd[test]) + np.where(strong, rows.strong_usd[test], 0)
        both[part] = quality, cost

    def figures(drawn: np.ndarray) -> dict[float, list[float]]:
        low, high = (drawn @ rows.weak_usd) / drawn.sum(), (drawn @ rows.strong_usd) / drawn.sum()
        if rows.prompts is None:
            alone = np.array([low, high]), np.array([drawn @ rows.weak, drawn @ rows.strong]) / drawn.sum()
        else:
            alone = curve(by_prompt, rows.weak_usd, rows.strong_usd - rows.weak_usd, rows, drawn)
        cascade = curve(by_answer, rows.weak_usd, rows.strong_usd, rows, drawn)
        found = {}
        for part in PARTS:
            budget = low + part * (high - low)
            prompt_quality, cascade_quality = np.interp(budget, *alone), np.interp(budget, *cascade)
            quality, cost = (drawn @ each / drawn.sum() for each in both[part])
            against = np.interp(cost, *alone)
            found[part] = [
                budget,
                prompt_quality,
                cascade_quality,
                cascade_quality - prompt_quality,
                cost,
                quality,
                quality - against,
            ]
        return found

    point = figures(np.ones(n))
    rng = np.random.default_rng(0)
    resampled = [figures(np.bincount(rng.integers(0, n, n), minlength=n).astype(float)) for _ in range(RESAMPLES)]
    table: dict[str, Any] = {
        "usd_a_call": {"weak": float(f"{weak_mean:.4g}"), "strong": float(f"{strong_mean:.4g}")},
        "quality": {"weak": round(float(rows.weak.mean()), 4), "strong": round(float(rows.strong.mean()), 4)},
    }
    for part in PARTS:
        budget, alone, cascade, gain, cost, quality, both_gain = point[part]
        interval = [np.quantile([each[part][column] for each in resampled], [0.025, 0.975]) for column in (3, 6)]
        table[f"at {part:.0%} of the cost range"] = {
            "usd": float(f"{budget:.4g}"),
            "prompt_alone": round(alone, 4),
            "cascade": round(cascade, 4),
            "cascade_gain": round(gain, 4),
            "cascade_gain_interval": [round(bound, 4) for bound in interval[0].tolist()],
            "both_cuts_usd": float(f"{cost:.4g}"),
            "both_cuts": round(quality, 4),
            "both_cuts_gain_at_that_cost": round(both_gain, 4),
            "both_cuts_gain_interval": [round(bound, 4) for bound in interval[1].tolist()],
        }
    return table


def table(rows: Rows, base: str) -> dict[str, Any]:
    figures, alone, seconds, first = [], [], [], None
    for seed in SEEDS:
        started = time.perf_counter()
        result = fit_verifier(
            rows.answers,
            weak_scores=rows.weak,
            strong_scores=rows.strong,
            prompts=rows.prompts,
            base_router=base,
            learning_curve=seed == 0,
            seed=seed,
        )
        seconds.append(time.perf_counter() - started)
        prompt = prompt_win_rates(rows, seed, base)
        figures.append(apgr(result.win_rates, rows.strong, rows.weak))
        alone.append(apgr(prompt, rows.strong, rows.weak))
        if first is None:
            first = result, prompt
    assert first is not None
    result, prompt = first
    started = time.perf_counter()
    some = list(zip(rows.answers, rows.prompts or [None] * len(rows.answers), strict=True))[:200]
    for answer, question in some:
        result.verifier.win_rate([answer], [question])
    milliseconds = (time.perf_counter() - started) / len(some) * 1e3
    interval = apgr_interval(result.win_rates, rows.strong, rows.weak, rng=np.random.default_rng(0))
    found: dict[str, Any] = {
        "answers": len(rows.answers),
        "apgr": round(float(np.mean(figures)), 4),
        "lowest": round(min(figures), 4),
        "highest": round(max(figures), 4),
        "interval_of_the_first": [round(bound, 4) for bound in interval],
        "prompt_alone": round(float(np.mean(alone)), 4) if rows.prompts else None,
        "learning_curve": [{name: round(value, 4) for name, value in row.items()} for row in result.learning_curve],
        "seconds_a_fit_and_its_folds": round(float(np.median(seconds[1:])), 1),
        "ms_an_answer": round(milliseconds, 2),
    }
    if rows.strong_usd is not None:
        found["cost"] = cost_table(rows, prompt, result.win_rates, seed=0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--base", default="default")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    need(given.data)
    need(given.data, "train")
    files = ("eval/gsm8k.parquet", "eval/gsm8k_responses.parquet", "train/answers.parquet")
    result: dict[str, Any] = {
        "date": str(date.today()),
        "data": digest_of(*((given.data / name).read_bytes() for name in files))[:12],
        "base": given.base,
        "prices": {"GSM8K and AlpacaEval": [GPT4, MIXTRAL], "WildBench": [QWEN, WILDBENCH]},
        "GSM8K": table(gsm8k(given.data), given.base),
    }
    for model in WILDBENCH:
        result[f"WildBench, {model}"] = table(wildbench(given.data, model), given.base)
    result["AlpacaEval, Mixtral"] = table(alpaca_eval(given.data), given.base)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
