"""Routing among many models: predicted quality - lambda * cost, for every lambda, against single models.

    python benchmarks/many_models.py [--data ../shared/data] [--folds 5] [--out FILE]

Two sources of train/models.parquet: `routerbench` (11 models) and `mmlu_pro` (28, and 26 with open weights alone).
`fit_router(scores={model: [...]})` is fitted on four fifths of the prompts and predicts the fifth, in turn;
near-duplicates stay together. "fit_router, task given" gets the task as metadata. Beside them: what the task alone
tells (each model's mean on the other folds' prompts of the same task), single models and their mixes (the Zero
router), and an oracle.

Costs: the data hold none. A call costs its input (four characters of the prompt are a token) and a fixed length of
answer (OUTPUT_TOKENS) at the prices of the package genai-prices; models that it does not list take the price that
PRICES says, marked as assumed. The bootstrap is over prompts; the fits stay as they are. Training data only. Prints a
table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from evaluation_sets import DATA, ROOT, need
from numpy.typing import ArrayLike

from routellm_core import __version__
from routellm_core.data.duplicates import near_duplicate_groups
from routellm_core.evaluation import EvaluationSet, quality_over_cost
from routellm_core.evaluation.many_models import upper_hull
from routellm_core.evaluation.resampling import draws, interval
from routellm_core.persistence import digest_of
from routellm_core.policy import choose_models, tradeoff_within
from routellm_core.prices import cost_usd
from routellm_core.training import fit_router

RESULTS = ROOT / "benchmarks" / "results"
OUTPUT_TOKENS = {"routerbench": 100, "mmlu_pro": 300}
"""Of an answer: a letter or a short function; a chain of thought. The same for every model."""
KEPT = 0.98
"""Of the best single model's quality: what that costs is reported."""
LEAST_COVERAGE = 0.95
"""Share of the prompts a model must be scored on."""


@dataclass(frozen=True)
class Price:
    """What a model's price is read from.

    Attributes:
        listed: "provider:model" in genai-prices; of a model of the same make and size where `assumed`.
        usd: Instead: US dollars per million tokens of input and output.
        assumed: Why it is not the model's own.
    """

    listed: str | None = None
    usd: tuple[float, float] | None = None
    assumed: str | None = None

    def of(self, input_tokens: int, output_tokens: int) -> float:
        if self.listed is not None:
            return cost_usd(self.listed, input_tokens=input_tokens, output_tokens=output_tokens)
        assert self.usd is not None
        return (self.usd[0] * input_tokens + self.usd[1] * output_tokens) / 1e6


_SAME_SIZE = "listed for another version of this make and size"
_BY_SIZE = "not listed; the price that together asks for this many parameters"
_SMALL, _LARGE = "together:mistralai/Mistral-7B-Instruct-v0.1", "together:meta-llama/Llama-2-70b-chat-hf"

PRICES = {
    # routerbench
    "claude-v2": Price("anthropic:claude-2"),
    "WizardLM/WizardLM-13B-V1.2": Price("together:WizardLM/WizardLM-13B-V1.2"),
    "mistralai/mistral-7b-chat": Price(_SMALL),
    "meta/code-llama-instruct-34b-chat": Price("together:codellama/CodeLlama-34b-Instruct-hf"),
    "meta/llama-2-70b-chat": Price(_LARGE),
    "claude-instant-v1": Price(usd=(0.8, 2.4), assumed="not listed; what Amazon Bedrock asked in 2024"),
    "claude-v1": Price("anthropic:claude-v1"),
    "gpt-3.5-turbo-1106": Price("openai:gpt-3.5-turbo-1106"),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": Price("together:mistralai/Mixtral-8x7B-Instruct-v0.1"),
    "zero-one-ai/Yi-34B-Chat": Price("together:zero-one-ai/Yi-34B", assumed=_SAME_SIZE),
    "gpt-4-1106-preview": Price("openai:gpt-4-1106-preview"),
    # mmlu_pro
    "Llama-2-7b-hf": Price("together:meta-llama/Llama-2-7b-chat-hf", assumed=_SAME_SIZE),
    "Llama-2-13b-hf": Price("together:meta-llama/Llama-2-13b-chat-hf", assumed=_SAME_SIZE),
    "Llama-2-70b-hf": Price(_LARGE, assumed=_SAME_SIZE),
    "Yi-6B": Price("together:zero-one-ai/Yi-6B"),
    "Yi-6b-Chat": Price("together:zero-one-ai/Yi-6B", assumed=_SAME_SIZE),
    "Yi-34B": Price("together:zero-one-ai/Yi-34B"),
    "Mistral-7B-Instruct-v0.1": Price(_SMALL),
    "Mistral-7B-Instruct-v0.2": Price("together:mistralai/Mistral-7B-Instruct-v0.2"),
    "Mistral-7B-v0.1": Price("together:mistralai/Mistral-7B-v0.1"),
    "Mistral-7B-v0.2-hf": Price("together:mistralai/Mistral-7B-v0.1", assumed=_SAME_SIZE),
    "Mixtral-8x7B-v0.1": Price("together:mistralai/Mixtral-8x7B-v0.1"),
    "Qwen1.5-7B-Chat": Price("together:Qwen/Qwen1.5-7B", assumed=_SAME_SIZE),
    "Qwen1.5-72B-Chat": Price("together:Qwen/Qwen1.5-72B", assumed=_SAME_SIZE),
    "Qwen1.5-110B": Price(usd=(1.8, 1.8), assumed="not listed; twice that of 70 billion parameters"),
    "gemma-7b": Price("together:google/gemma-7b"),
    "Meta-Llama-3-8B": Price("together:meta-llama/Llama-3-8b-chat-hf", assumed=_SAME_SIZE),
    "Meta-Llama-3-70B": Price("together:meta-llama/Llama-3-70b-chat-hf", assumed=_SAME_SIZE),
    "Meta-Llama-3_1-8B": Price("together:meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", assumed=_SAME_SIZE),
    "Meta-Llama-3_1-8B-Instruct": Price("together:meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"),
    "Meta-Llama-3_1-70B": Price("together:meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo", assumed=_SAME_SIZE),
    "Meta-Llama-3_1-70B-Instruct": Price("together:meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo"),
    "Phi-3-mini-4k-instruct": Price("openrouter:microsoft/phi-3-mini-128k-instruct", assumed=_SAME_SIZE),
    "mathstral-7B": Price(_SMALL, assumed=_BY_SIZE),
    "c4ai-command-r-v01": Price("cohere:command-r"),
    "jamba-1.5-large": Price("openrouter:ai21/jamba-1-5-large"),
    "gemini-1.5-flash-002": Price("google:gemini-1.5-flash-002"),
    "gemini-1.5-pro-002": Price("google:gemini-1.5-pro-002"),
}
CLOSED = ("gemini-1.5-flash-002", "gemini-1.5-pro-002")
"""Cheaper for their quality than all others of `mmlu_pro`: with them there is little left to choose."""


def read_source(data: Path, source: str) -> EvaluationSet:
    """The prompts that every model with enough scores was scored on, with what each answer costs."""
    columns = ["prompt", "model", "score", "source"]
    rows = [
        row
        for row in pq.read_table(data / "train" / "models.parquet", columns=columns).to_pylist()
        if row["source"].split("/")[0] == source
    ]
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    models = sorted({row["model"] for row in rows})
    tasks = {row["prompt"]: row["source"] for row in rows}
    place = {prompt: i for i, prompt in enumerate(prompts)}
    scores = np.full((len(prompts), len(models)), np.nan)
    for row in rows:
        scores[place[row["prompt"]], models.index(row["model"])] = row["score"]
    return complete(source, prompts, models, scores, [tasks[prompt] for prompt in prompts])


def complete(name: str, prompts: list[str], models: list[str], scores: np.ndarray, tasks: list[str]) -> EvaluationSet:
    """Without the models that lack many scores, then without the prompts that lack any."""
    kept = np.flatnonzero(np.isfinite(scores).mean(axis=0) >= LEAST_COVERAGE)
    scores = scores[:, kept]
    rows = np.flatnonzero(np.isfinite(scores).all(axis=1))
    texts = tuple(prompts[i] for i in rows)
    names = tuple(models[i] for i in kept)
    return EvaluationSet(
        name=name,
        prompts=texts,
        models=names,
        scores=scores[rows],
        groups=tuple(tasks[i] for i in rows),
        group_column="task",
        costs_usd=costs_of(texts, names, OUTPUT_TOKENS[name]),
    )


def costs_of(prompts: tuple[str, ...], models: tuple[str, ...], output_tokens: int) -> np.ndarray:
    """US dollars of every answer, shape (n, N)."""
    tokens = [-(-len(prompt) // 4) for prompt in prompts]
    columns = []
    for model in models:
        once = {n: PRICES[model].of(n, output_tokens) for n in set(tokens)}
        columns.append([once[n] for n in tokens])
    return np.array(columns).T


def subset(data: EvaluationSet, models: list[str], name: str) -> EvaluationSet:
    columns = [data.models.index(model) for model in models]
    assert data.costs_usd is not None
    return EvaluationSet(
        name=name,
        prompts=data.prompts,
        models=tuple(models),
        scores=data.scores[:, columns],
        groups=data.groups,
        group_column=data.group_column,
        costs_usd=data.costs_usd[:, columns],
    )


def folds_of(groups: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each prompt; those of one group share it."""
    names, members = np.unique(groups, return_inverse=True)
    return rng.permutation(np.arange(len(names)) % n_folds)[members]


def predicted(data: EvaluationSet, folds: np.ndarray, groups: np.ndarray, *, with_task: bool) -> np.ndarray:
    """Every model's quality on every prompt, by a fit to the other folds; shape (n, N)."""
    found = np.zeros_like(data.scores)

    def task_of(rows: np.ndarray) -> dict[str, list[str]] | None:
        return {"task": [data.groups[i] for i in rows]} if with_task and data.groups is not None else None

    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit_router(
            [data.prompts[i] for i in train],
            scores={model: data.scores[train, column] for column, model in enumerate(data.models)},
            groups=groups[train].tolist(),
            metadata=task_of(train),
            learning_curve=False,
        )
        found[test] = fitted.router.model_scores([data.prompts[i] for i in test], metadata=task_of(test))
    return found


def by_task(data: EvaluationSet, folds: np.ndarray) -> np.ndarray:
    """The mean of each model on the other folds' prompts of the same task; shape (n, N)."""
    assert data.groups is not None
    tasks = np.array(data.groups)
    found = np.zeros_like(data.scores)
    for fold in np.unique(folds):
        for task in np.unique(tasks):
            test, train = (folds == fold) & (tasks == task), (folds != fold) & (tasks == task)
            found[test] = data.scores[train if train.any() else folds != fold].mean(axis=0)
    return found


def at_best(model_scores: np.ndarray, data: EvaluationSet, *, n_resamples: int = 1000) -> dict[str, Any]:
    """Against the best single model: quality for no more money, and the money for no less quality.

    The tradeoff is the one whose predicted choices cost, on average, what the model does; the second is the largest
    whose quality still is the model's. Both are found on the prompts that they are measured on.
    """
    assert data.costs_usd is not None
    costs = data.costs_usd.mean(axis=0)
    best = int(data.scores.mean(axis=0).argmax())
    row = np.arange(len(data))
    tradeoff = tradeoff_within(model_scores, costs, usd_per_call=float(costs[best]))
    chosen = choose_models(model_scores, costs, tradeoff)
    gain = data.scores[row, chosen] - data.scores[:, best]
    drawn = np.concatenate([counts @ gain / len(gain) for counts in draws(len(gain), n_resamples, rng())])
    cheapest, saved = float(costs[best]), None
    for budget in np.linspace(costs.min(), costs[best], 60):
        cheaper = choose_models(model_scores, costs, tradeoff_within(model_scores, costs, usd_per_call=float(budget)))
        if data.scores[row, cheaper].mean() >= data.scores[:, best].mean():
            saved, cheapest = cheaper, float(data.costs_usd[row, cheaper].mean())
            break
    return {
        "model": data.models[best],
        "quality": float(data.scores[:, best].mean()),
        "usd": float(costs[best]),
        "router_quality_for_no_more": float(data.scores[row, chosen].mean()),
        "router_usd": float(data.costs_usd[row, chosen].mean()),
        "gain": float(gain.mean()),
        "gain_interval": interval(drawn),
        "usd_for_the_same_quality": cheapest if saved is not None else None,
        "shares_there": shares(saved, data.models) if saved is not None else None,
    }


def usd_for(quality: float, costs: ArrayLike, qualities: ArrayLike) -> float | None:
    """The mean cost at which a mix of these points has the quality; None if none has."""
    x, y = upper_hull(costs, qualities)
    return None if y[-1] < quality else float(np.interp(quality, y, x))


def shares(chosen: np.ndarray, models: tuple[str, ...]) -> dict[str, float]:
    """Share of the prompts by model, the largest first, those under 1 % left out."""
    count = np.bincount(chosen, minlength=len(models)) / len(chosen)
    return {models[i]: round(float(count[i]), 3) for i in np.argsort(-count) if count[i] >= 0.01}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def measured(data: EvaluationSet, ways: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One source's figures, by way of predicting quality."""
    assert data.costs_usd is not None
    result: dict[str, Any] = {
        "prompts": len(data),
        "models": {
            model: {
                "quality": round(float(data.scores[:, i].mean()), 4),
                "usd": float(data.costs_usd[:, i].mean()),
                "price_of": PRICES[model].listed or f"{PRICES[model].usd} US dollars per million tokens",
                **({"assumed": PRICES[model].assumed} if PRICES[model].assumed else {}),
            }
            for i, model in enumerate(data.models)
        },
    }
    for name, model_scores in ways.items():
        found = quality_over_cost(model_scores, data).to_dict()
        kept = KEPT * data.scores.mean(axis=0).max()
        found[f"usd_for_{KEPT:.0%}_of_the_best"] = {
            "router": usd_for(kept, found["costs"], found["qualities"]),
            "mix of single models": usd_for(kept, data.costs_usd.mean(axis=0), data.scores.mean(axis=0)),
        }
        points = np.unique(np.linspace(0, len(found["costs"]) - 1, 41).astype(int))
        for axis in ("costs", "qualities"):
            found[axis] = [found[axis][i] for i in points]
        result[name] = {**found, "at_the_best_single_model": at_best(model_scores, data)}
    return result


def of_all_sources(folder: Path, n_folds: int) -> dict[str, Any]:
    """Every source's figures."""
    found: dict[str, Any] = {}
    for source in OUTPUT_TOKENS:
        data = read_source(folder, source)
        groups = near_duplicate_groups(data.prompts)
        folds = folds_of(groups, n_folds, rng())
        ways = {
            "fit_router": predicted(data, folds, groups, with_task=False),
            "fit_router, task given": predicted(data, folds, groups, with_task=True),
            "task alone": by_task(data, folds),
        }
        found[source] = {"groups": int(np.unique(groups).size), **measured(data, ways)}
        if source == "mmlu_pro":
            open_ones = [model for model in data.models if model not in CLOSED]
            columns = [data.models.index(model) for model in open_ones]
            part = subset(data, open_ones, "mmlu_pro, open weights")
            found[part.name] = measured(part, {way: scores[:, columns] for way, scores in ways.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / f"{date.today()}-many-models.json")
    given = parser.parse_args()
    need(given.data, "train")
    report: dict[str, Any] = {
        "date": str(date.today()),
        "version": __version__,
        "prices": f"genai-prices {version('genai-prices')}",
        "output_tokens": OUTPUT_TOKENS,
        "data_digest": digest_of((given.data / "train" / "models.parquet").read_bytes())[:12],
        "folds": given.folds,
        "interval": "95 %, percentile bootstrap over prompts; the fits stay as they are",
        "sources": of_all_sources(given.data, given.folds),
    }
    print("| source (models) | quality from | AIQ | single models | gain | oracle | at the best's cost | 98 % costs |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for source, figures in report["sources"].items():
        for way in ("fit_router", "fit_router, task given", "task alone"):
            print(line(source, len(figures["models"]), way, figures[way]))
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def line(source: str, n_models: int, way: str, found: Mapping[str, Any]) -> str:
    best, cost = found["at_the_best_single_model"], found[f"usd_for_{KEPT:.0%}_of_the_best"]
    router = "-" if cost["router"] is None else f"{cost['router'] / best['usd']:.2f}"
    return (
        f"| {source} ({n_models}) | {way} | {spread(found['aiq'], found['aiq_interval'], '.3f')} | "
        f"{found['aiq_of_single_models']:.3f} | "
        f"{spread(found['aiq'] - found['aiq_of_single_models'], found['gain_interval'], '+.3f')} | "
        f"{found['aiq_of_oracle']:.3f} | {spread(best['gain'], best['gain_interval'], '+.3f')} | "
        f"{router}; {cost['mix of single models'] / best['usd']:.2f} |"
    )


def spread(value: float, bounds: tuple[float, float], form: str) -> str:
    return f"{value:{form}} ({bounds[0]:{form}} to {bounds[1]:{form}})"


if __name__ == "__main__":
    main()
