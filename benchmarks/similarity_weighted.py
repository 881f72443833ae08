"""Speed, memory and exactness of the similarity-weighted router, measured in one run; JSON to a file.

    python benchmarks/similarity_weighted.py benchmarks/results/DATE-similarity-weighted.json

- 80,000 battles on as many prompts between 64 models in 10 tiers, a third of them ties, vectors of 256 and 384
  entries made at random (their content decides no speed): decisions a second in batches of 256 and singly, vectors
  given, so without encoding
- saving and loading such a router in processes of their own: seconds, and megabytes of memory above the vectors
- the real battles in ROUTELLM_DATA with the default router's encoder: the same, and the largest difference of a win
  rate to a logistic regression of scikit-learn over all battles, with that fit's own time
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core import __version__, load_router
from routellm_core.data import Battles, make_tiers, rate, read_battles
from routellm_core.encoders.base import Encoder
from routellm_core.routers.sw import SimilarityWeightedRouter

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ROUTELLM_DATA") or ROOT / ".." / "shared" / "data").resolve()
STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"
BATCH, SINGLES = 256, 20  # prompts a round


class Given(Encoder):
    """Looks vectors up: the text is the number of a row."""

    kind = "given"
    digest = "0" * 64

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.vectors = vectors

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def settings(self) -> dict[str, Any]:
        return {}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self.vectors[[int(text) for text in texts]]


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def decisions_a_second(router: SimilarityWeightedRouter, texts: list[str]) -> dict[str, Any]:
    """Best and median of several rounds: others may be at work on the machine."""
    router.win_rate(texts[:BATCH])
    batch = [BATCH / seconds(lambda: router.win_rate(texts[:BATCH])) for _ in range(15)]
    single = [SINGLES / seconds(lambda: [router.win_rate([text]) for text in texts[:SINGLES]]) for _ in range(40)]
    return {
        f"batches_of_{BATCH}": {"best": round(max(batch), 1), "median": round(statistics.median(batch), 1)},
        "singly": {"best": round(max(single), 1), "median": round(statistics.median(single), 1)},
    }


def synthetic(dim: int, n: int = 80_000) -> SimilarityWeightedRouter:
    rng = np.random.default_rng(0)
    a = rng.integers(64, size=n)
    b = (a + rng.integers(1, 64, size=n)) % 64
    strength = np.linspace(1.5, -1.5, 64)
    margin = strength[a] - strength[b] + rng.logistic(size=n)
    outcome = np.where(rng.random(n) < 1 / 3, 0, np.where(margin > 0, 1, -1))
    names = [f"m{i}" for i in range(64)]
    battles = Battles.from_columns(list(map(str, range(n))), [names[i] for i in a], [names[i] for i in b], outcome)
    vectors = rng.standard_normal((n, dim), dtype=np.float32) + 1  # not around 0: real cosines are mostly positive
    return SimilarityWeightedRouter.from_battles(
        battles,
        encoder=Given(vectors),
        tiers={name: i * 10 // 64 for i, name in enumerate(names)},
        strong="m0",
        weak="m40",
        vectors=vectors,
    )


FILES = """
import sys, time
from pathlib import Path
from routellm_core import load_router
from routellm_core.encoders import HashingEncoder
from routellm_core.persistence import digest_of
import numpy as np

def megabytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1024

folder, what = Path(sys.argv[1]), sys.argv[2]
if what == "make":
    from routellm_core.routers.sw import SimilarityWeightedRouter
    rng = np.random.default_rng(0)
    n = 80_000
    vectors = rng.standard_normal((n, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    winners = rng.integers(10, size=n)
    router = SimilarityWeightedRouter(
        encoder=HashingEncoder(384), vectors=vectors, prompt_index=np.arange(n), winners=winners,
        losers=(winners + rng.integers(1, 10, size=n)) % 10, counts=np.ones(n),
        tiers={f"m{i}": i for i in range(10)}, strong="m0", weak="m5",
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = megabytes("VmRSS"), time.perf_counter()
    router.save(folder)
    print(time.perf_counter() - started, megabytes("VmHWM") - before)
else:
    before, started = megabytes("RssAnon"), time.perf_counter()
    router = load_router(folder)
    print(time.perf_counter() - started, megabytes("RssAnon") - before)
"""


def files() -> dict[str, Any]:
    """Of 80,000 vectors of 384 entries, 123 MB; `RssAnon` is memory that is no part of a file."""
    with tempfile.TemporaryDirectory() as folder:

        def run(what: str) -> tuple[float, float]:
            done = subprocess.run(
                [sys.executable, "-c", FILES, f"{folder}/router", what], check=True, capture_output=True, text=True
            )
            took, megabytes = map(float, done.stdout.split())
            return round(took, 3), round(megabytes, 1)

        saved, loaded = run("make"), run("load")
    return {
        "save_seconds": saved[0],
        "save_peak_mb_above_before": saved[1],
        "load_seconds_with_sha256": loaded[0],
        "load_anonymous_mb": loaded[1],
    }


def real() -> dict[str, Any]:
    battles, _ = read_battles(DATA / "train" / "battles.parquet")
    tiers = make_tiers(rate(battles))
    number = tiers.index(battles.models)
    battles = battles.take((number[battles.model_a] >= 0) & (number[battles.model_b] >= 0))
    tier = {model: tiers.tier_of(model) for model in battles.models}
    encoder = load_router("default").encoder
    assert encoder is not None
    vectors = encoder.encode(battles.prompts)
    router = SimilarityWeightedRouter.from_battles(
        battles, encoder=encoder, tiers=tier, strong=STRONG, weak=WEAK, vectors=vectors
    )
    queries = [f"{battles.prompts[i]} {battles.prompts[-i]}" for i in range(5)]
    similarity = unit(encoder.encode(queries)) @ unit(vectors).T
    direct, took = [], []
    for row in similarity:
        started = time.perf_counter()
        direct.append(full_fit(battles, row, tier))
        took.append(time.perf_counter() - started)
    given = SimilarityWeightedRouter.from_battles(
        battles, encoder=Given(vectors), tiers=tier, strong=STRONG, weak=WEAK, vectors=vectors
    )
    return {
        "battles": len(battles),
        "prompts": len(battles.prompts),
        "models": len(battles.models),
        "dim": encoder.dim,
        "decisions_a_second": decisions_a_second(given, [str(i) for i in range(len(battles.prompts))]),
        "largest_difference_to_the_full_fit": float(np.abs(router.win_rate(queries) - direct).max()),
        "full_fit_seconds": round(statistics.median(took), 3),
    }


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def full_fit(battles: Battles, similarity: NDArray[np.float64], tier: dict[str, int]) -> float:
    """The paper's regression, written out; its last column is left out, since ratings have no zero of their own."""
    from sklearn.linear_model import LogisticRegression

    of = np.array([tier[model] for model in battles.models])
    n = len(battles)
    x = np.zeros((n, of.max() + 1))
    x[np.arange(n), of[battles.model_a]] += np.log(10)
    x[np.arange(n), of[battles.model_b]] -= np.log(10)
    x = np.concatenate([x, x])[:, :-1]
    y = np.concatenate([battles.outcome >= 0, battles.outcome > 0])
    weights = np.tile((10 * 10 ** (similarity / similarity.max()))[battles.prompt_index], 2)
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    elo = np.append(400 * fit.fit(x, y, sample_weight=weights).coef_[0], 0.0)
    return float(1 / (1 + 10 ** ((elo[tier[WEAK]] - elo[tier[STRONG]]) / 400)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    result: dict[str, Any] = {
        "date": str(date.today()),
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "load_average_at_start": os.getloadavg()[0],
        },
        "versions": {"routellm-integrations": __version__, "numpy": np.__version__},
        "80000_battles_on_as_many_prompts": {},
    }
    for dim in (256, 384):
        router = synthetic(dim)
        speed = decisions_a_second(router, [str(i) for i in range(BATCH)])
        result["80000_battles_on_as_many_prompts"][f"{dim}_dimensions"] = speed
        del router
    result["files_of_80000_by_384"] = files()
    result["real_battles"] = real() if (DATA / "train").is_dir() else f"not measured: no data in {DATA}"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
