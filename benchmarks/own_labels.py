"""What a user's own labels are worth: `fit_router` on parts of MMLU and GSM8K, checked on the rest.

    python benchmarks/own_labels.py [--data ../shared/data] [--base default] [--labels 50 100 500 1531]

The protocols: MMLU, N random labelled questions, seeds 0 to 4, APGR on all others (questions that repeat a labelled
one are left out); GSM8K, 5 folds, each scored by a fit on the other four, seeds 0 to 4. With "topic" each question
comes with its MMLU subject. The base router is the prior. Prints JSON: mean over the seeds, the lowest and the highest,
and a 95 % interval over the questions of the first seed's check. Each row is also printed to the standard error as soon
as it is there. A base with a slow encoder encodes each question once; that time is in no figure.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from evaluation_sets import DATA, digest, need, read

from routellm_core import load_router
from routellm_core.encoders import StackedEncoder
from routellm_core.encoders.base import Encoder
from routellm_core.evaluation import apgr, apgr_interval
from routellm_core.routers import Router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.training import fit_router

SEEDS = range(5)
LABELS = (50, 100, 500, 1531)


class Remembering(Encoder):
    """Another encoder's vectors, each text encoded once."""

    kind = "remembering"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.known = encoder, dict[str, np.ndarray]()

    dim = property(lambda self: self.encoder.dim)
    digest = property(lambda self: self.encoder.digest)

    def settings(self) -> dict[str, Any]:
        return self.encoder.settings()

    def _encode(self, texts: list[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        self.known.update(zip(new, self.encoder.encode(new), strict=True))
        return np.stack([self.known[text] for text in texts])


@functools.cache
def remembering(base: str) -> Router:
    """The router; if it is slow, it encodes no text twice."""
    router = load_router(base)
    if router.is_quick or not isinstance(router, DifficultyRouter):
        return router
    parts = router.encoder.encoders if isinstance(router.encoder, StackedEncoder) else (router.encoder,)
    return DifficultyRouter(
        encoder=StackedEncoder([part if part.is_quick else Remembering(part) for part in parts]),
        weights=router.weights,
        bias=router.bias,
        slope=router.slope,
        intercept=router.intercept,
        abilities=router.abilities,
        name=router.name,
        calibration=router.calibration,
    )


def topics(data: Path, prompts: list[str]) -> list[str]:
    table = pq.read_table(data / "eval" / "mmlu.parquet", columns=["prompt", "domain", "contaminated"]).to_pylist()
    found = [row["domain"] for row in table if not row["contaminated"]]
    assert [row["prompt"] for row in table if not row["contaminated"]] == prompts
    return found


def pick(values: list[str], rows: np.ndarray) -> list[str]:
    return [values[row] for row in rows]


def mmlu(data: Path, base: str, n: int, *, with_topic: bool) -> dict[str, Any]:
    prompts, strong, weak = read(data, "mmlu")
    topic, router = topics(data, prompts), remembering(base)
    unchanged = router.win_rate(prompts)
    figures, bases, seconds, interval = [], [], [], None
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(prompts))
        labelled = set(pick(prompts, order[:n]))
        rows = np.array([row for row in order[n:] if prompts[row] not in labelled])
        started = time.perf_counter()
        metadata = {"topic": pick(topic, order[:n])} if with_topic else None
        fitted = fit_router(
            pick(prompts, order[:n]),
            strong_scores=strong[order[:n]],
            weak_scores=weak[order[:n]],
            base=router,
            metadata=metadata,
            learning_curve=False,
            seed=seed,
        )
        seconds.append(time.perf_counter() - started)
        known = {"topic": pick(topic, rows)} if with_topic else None
        win_rates = fitted.router.win_rate(pick(prompts, rows), metadata=known)
        figures.append(apgr(win_rates, strong[rows], weak[rows]))
        bases.append(apgr(unchanged[rows], strong[rows], weak[rows]))
        if interval is None:
            interval = apgr_interval(win_rates, strong[rows], weak[rows], rng=np.random.default_rng(0))
    return summary(figures, bases, seconds, interval)


def gsm8k(data: Path, base: str) -> dict[str, Any]:
    prompts, strong, weak = read(data, "gsm8k")
    router = remembering(base)
    unchanged = router.win_rate(prompts)
    figures, seconds, interval = [], [], None
    for seed in SEEDS:
        folds = np.random.default_rng(seed).permutation(np.arange(len(prompts)) % 5)
        win_rates = np.zeros(len(prompts))
        for fold in range(5):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            started = time.perf_counter()
            fitted = fit_router(
                pick(prompts, train),
                strong_scores=strong[train],
                weak_scores=weak[train],
                base=router,
                learning_curve=False,
                seed=seed,
            )
            seconds.append(time.perf_counter() - started)
            win_rates[test] = fitted.router.win_rate(pick(prompts, test))
        figures.append(apgr(win_rates, strong, weak))
        if interval is None:
            interval = apgr_interval(win_rates, strong, weak, rng=np.random.default_rng(0))
    return summary(figures, [apgr(unchanged, strong, weak)], seconds, interval)


def summary(figures: list[float], bases: list[float], seconds: list[float], interval: Any) -> dict[str, Any]:
    return {
        "apgr": round(float(np.mean(figures)), 4),
        "lowest": round(min(figures), 4),
        "highest": round(max(figures), 4),
        "interval_of_the_first": [round(bound, 4) for bound in interval],
        "base": float(np.mean(bases)),
        "seconds_a_fit": round(float(np.median(seconds)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--base", default="default", help="a router's name, or its folder")
    parser.add_argument("--labels", type=int, nargs="*", default=LABELS, help="numbers of labels of MMLU")
    given = parser.parse_args()
    need(given.data)
    result: dict[str, Any] = {"date": str(date.today()), "data": digest(given.data), "base": given.base}

    def add(row: str, figures: dict[str, Any]) -> None:
        result[row] = figures
        print(row, figures, file=sys.stderr, flush=True)

    for n in given.labels:
        add(f"MMLU, {n} labels", mmlu(given.data, given.base, n, with_topic=False))
        add(f"MMLU, {n} labels, topic known", mmlu(given.data, given.base, n, with_topic=True))
    add("GSM8K, 5 folds", gsm8k(given.data, given.base))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
