"""Fewer labels for the same router? Prompts chosen by `select_prompts` against prompts drawn at random.

    python benchmarks/label_selection.py [--data ../shared/data] [--seeds 40] [--workers 2]

One more way needs answers, not only prompts (`routellm augment gold --weak-first`): the weak model answers prompts
drawn at random until n of its answers are wrong, and the strong model is asked about those n alone; where the weak one
is right, the strong one is taken for as good. Its n counts the strong answers, as for the other ways.

Training data only; the evaluation sets are not touched. Per seed, the prompts of a source are split in halves: one is
the pool, from which n are chosen and their labels (strong score minus weak score) revealed; a ridge regression on the
default router's encoder, its penalty chosen by leave-one-out on the chosen labels, ranks the other half, and APGR says
how well. Win rates, which choosing needs, come from a ridge regression on the mean scores of all models over the
*other* sources, so they have seen nothing of the source. The way to choose was picked on llmrouter, routerbench and
zeroeval, vectors scaled over all sources together; mmlu_pro, routerdc and alpaca_eval report it. Scaled per source,
as here and as a user would, random prompts do better and the gain that picked it is gone on its own sources too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.cluster import KMeans

from routellm_core import load_router
from routellm_core._version import __version__
from routellm_core.augmentation import select_prompts
from routellm_core.augmentation.selection import _shares, _standardised
from routellm_core.evaluation import apgr
from routellm_core.persistence import digest_of

ROOT = Path(__file__).resolve().parent.parent
PAIRS = {
    "llmrouter": ("llama-3.1-nemotron-51b-instruct", "mistral-7b-instruct-v0.3"),
    "routerbench": ("gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    "zeroeval": ("gpt-4-turbo-2024-04-09", "gpt-3.5-turbo-0125"),
    "mmlu_pro": ("gemini-1.5-pro-002", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    "routerdc": ("cognitivecomputations/dolphin-2.9-llama3-8b", "itpossible/Chinese-Mistral-7B-v0.1"),
    "alpaca_eval": ("gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
}
CHOSEN_ON = ("llmrouter", "routerbench", "zeroeval")
REPORTED = ("mmlu_pro", "routerdc", "alpaca_eval")
MIXTURES = {"chosen_on": CHOSEN_ON, "reported": REPORTED}
LABELS = (50, 100, 200, 400)
RANDOM_LABELS = (25, 50, 75, 100, 150, 200, 300, 400, 600, 800)
PENALTIES = np.logspace(0, 5, 11)
LARGEST_POOL = 2500


def read(data: Path) -> dict[str, dict[str, np.ndarray]]:
    """Per source: vectors, both scores, and win rates of a router without the source."""
    columns = ["prompt", "model", "score", "source"]
    table = pq.read_table(data / "train" / "models.parquet", columns=columns).to_pydict()
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for prompt, model, score, source in zip(*(table[c] for c in columns), strict=True):
        scores[source.partition("/")[0]][prompt][model] = score
    pairs = pq.read_table(data / "train" / "pairs.parquet").to_pydict()
    judged: dict[str, dict[str, float]] = {}
    for prompt, source, strong, weak in zip(
        pairs["prompt"], pairs["source"], pairs["strong_score"], pairs["weak_score"], strict=True
    ):
        if source.partition("/")[0] == "alpaca_eval":  # models.parquet has scores against a reference instead
            judged[prompt] = dict(zip(PAIRS["alpaca_eval"], (strong, weak), strict=True))
    encoder = load_router("default").encoder
    assert encoder is not None
    # how hard a prompt is within its source: how far all models' mean score lies under the source's mean
    hardness = {}
    for source, prompts in scores.items():
        means = np.array([np.mean(list(models.values())) for models in prompts.values()])
        hardness[source] = (_standardised(encoder.encode(list(prompts)).astype(np.float64)), means.mean() - means)
    sources = {}
    for source, (strong, weak) in PAIRS.items():
        rows = judged if source == "alpaca_eval" else scores[source]
        prompts = [p for p, models in rows.items() if strong in models and weak in models]
        vectors = encoder.encode(prompts).astype(np.float64)
        others = [hardness[other] for other in hardness if other != source]
        x, y = np.concatenate([v for v, _ in others]), np.concatenate([h for _, h in others])
        weights = np.linalg.solve(x.T @ x + 3000.0 * np.eye(x.shape[1]), x.T @ y)
        s, w = (np.array([rows[p][model] for p in prompts]) for model in (strong, weak))
        difficulty = _standardised(vectors) @ weights
        sources[source] = {"x": vectors, "strong": s, "weak": w, "rate": 1 / (1 + np.exp(-difficulty))}
    return sources


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights with the penalty whose leave-one-out error is smallest."""
    centred, wanted = x - x.mean(axis=0), y - y.mean()
    u, d, v = np.linalg.svd(centred, full_matrices=False)
    u, d, v = u[:, d > 1e-8], d[d > 1e-8], v[d > 1e-8]
    inner = u.T @ wanted

    def left_out(penalty: float) -> float:
        shrunk = d**2 / (d**2 + penalty)
        leverage = np.minimum((u**2) @ shrunk + 1 / len(y), 0.999)
        return float(np.mean(((wanted - u @ (shrunk * inner)) / (1 - leverage)) ** 2))

    penalty = min(PENALTIES, key=left_out)
    return v.T @ (d / (d**2 + penalty) * inner)


def at_random(x: np.ndarray, rates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(x))[:n]


def least_sure(x: np.ndarray, rates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return np.argsort(np.abs(rates - np.median(rates)), kind="stable")[:n]


def clusters_only(x: np.ndarray, rates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """As `select_prompts`, but at random within the clusters."""
    labels = KMeans(n // 5, n_init=1, max_iter=20, random_state=int(rng.integers(2**31))).fit(_standardised(x)).labels_
    shares = _shares(np.bincount(labels, minlength=n // 5), n)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:share] for c, share in enumerate(shares)])


def both(x: np.ndarray, rates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return select_prompts(x, rates, n, rng=rng)


WAYS = {
    "random": at_random,
    "clusters": clusters_only,
    "least_sure": least_sure,
    "select_prompts": both,
}
WEAK_FIRST = "weak_first"
JUDGED = ("alpaca_eval", "reported")  # no answer is right or wrong there, or not everywhere
SOURCES: dict[str, dict[str, np.ndarray]] = {}


def prepare(data: Path) -> None:
    SOURCES.update(read(data))
    for name, members in MIXTURES.items():
        SOURCES[name] = {k: np.concatenate([SOURCES[m][k] for m in members]) for k in ("x", "strong", "weak", "rate")}


def one_split(task: tuple[str, int]) -> list[tuple[str, str, int, int, float]]:
    source, seed = task
    data = SOURCES[source]
    rng = np.random.default_rng([seed, len(data["x"])])
    order = rng.permutation(len(data["x"]))
    pool, test = order[: len(order) // 2][:LARGEST_POOL], order[len(order) // 2 :]
    x = _standardised(data["x"])  # of prompts only, no labels
    gain = data["strong"] - data["weak"]
    rows = []
    for way, choose in WAYS.items():
        for n in RANDOM_LABELS if way == "random" else LABELS:
            if n > 0.6 * len(pool):
                continue
            # random prompts of one seed are nested: the first n of one order
            own = np.random.default_rng([seed, 1] if way == "random" else [seed, n, len(way)])
            chosen = pool[choose(data["x"][pool], data["rate"][pool], n, own)]
            scores = x[test] @ ridge(x[chosen], gain[chosen])
            rows.append((source, way, n, seed, apgr(scores, data["strong"][test], data["weak"][test])))
    for n in () if source in JUDGED else LABELS:
        asked = pool[np.random.default_rng([seed, 1]).permutation(len(pool))]  # the order of the random prompts
        wrong = np.flatnonzero(data["weak"][asked] < 1.0)
        if n > 0.6 * len(pool) or len(wrong) < n:
            continue
        chosen = asked[: wrong[n - 1] + 1]
        known = np.where(data["weak"][chosen] < 1.0, gain[chosen], 0.0)
        scores = x[test] @ ridge(x[chosen], known)
        rows.append((source, WEAK_FIRST, n, seed, apgr(scores, data["strong"][test], data["weak"][test])))
    return rows


def labels_at_random(curve: dict[int, float], wanted: float) -> float:
    """How many random labels reach this APGR, by linear interpolation in log n of the curve made monotone."""
    n = np.array(sorted(curve))
    height = np.maximum.accumulate([curve[k] for k in n])
    if wanted > height[-1]:
        return float("inf")
    return float(np.exp(np.interp(wanted, height, np.log(n))))


def summary(values: dict[tuple[str, str, int], np.ndarray], resamples: int = 2000) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    lines = []
    for (source, way, n), reached in values.items():
        if way == "random":
            continue
        curves = {k: values[source, "random", k] for k in RANDOM_LABELS if (source, "random", k) in values}
        difference = reached - curves[n]
        picks = rng.integers(len(reached), size=(resamples, len(reached)))  # the same splits for both
        means = difference[picks].mean(axis=1)
        needed = labels_at_random({k: float(v.mean()) for k, v in curves.items()}, float(reached.mean()))
        spread = [
            labels_at_random({k: float(v[pick].mean()) for k, v in curves.items()}, float(reached[pick].mean()))
            for pick in picks[:500]
        ]
        low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
        lines.append(
            {
                "source": source,
                "way": way,
                "labels": n,
                "apgr": round(float(reached.mean()), 4),
                "apgr_random": round(float(curves[n].mean()), 4),
                "difference": round(float(difference.mean()), 4),
                "interval": [round(float(v), 4) for v in np.quantile(means, [0.025, 0.975])],
                "random_labels_for_the_same": finite(needed),
                "random_labels_interval": [finite(float(low)), finite(float(high))],
            }
        )
    return lines


def finite(value: float) -> float | str:
    return round(value, 1) if np.isfinite(value) else f"more than {RANDOM_LABELS[-1]} or the largest measured"


def pooled(values: dict[tuple[str, str, int], np.ndarray], resamples: int = 2000) -> list[dict[str, object]]:
    """Differences to random averaged over a group's sources and all n; the splits are resampled per source."""
    rng = np.random.default_rng(1)
    lines = []
    for group, members in (("chosen_on", CHOSEN_ON), ("reported", REPORTED)):
        for way in (*WAYS, WEAK_FIRST):
            if way == "random":
                continue
            per_source = [
                np.mean([values[s, way, n] - values[s, "random", n] for n in LABELS if (s, way, n) in values], axis=0)
                for s in members
                if way != WEAK_FIRST or s not in JUDGED
            ]
            means = np.mean(
                [d[rng.integers(len(d), size=(resamples, len(d)))].mean(axis=1) for d in per_source], axis=0
            )
            lines.append(
                {
                    "group": group,
                    "way": way,
                    "difference": round(float(np.mean([d.mean() for d in per_source])), 4),
                    "interval": [round(float(v), 4) for v in np.quantile(means, [0.025, 0.975])],
                }
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("ROUTELLM_DATA") or ROOT / ".." / "shared" / "data")
    )
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{date.today()}-label-selection.json"
    )
    arguments = parser.parse_args()
    if not (arguments.data / "train").is_dir():
        raise SystemExit(f"no training data in {arguments.data}; see benchmarks/README.md, or give --data")
    tasks = [(source, seed) for seed in range(arguments.seeds) for source in (*PAIRS, *MIXTURES)]
    collected: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with ProcessPoolExecutor(arguments.workers, initializer=prepare, initargs=(arguments.data,)) as pool:
        for rows in pool.map(one_split, tasks):
            for source, way, n, _, value in rows:
                collected[source, way, n].append(value)
    values = {key: np.array(found) for key, found in collected.items()}
    together, lines = pooled(values), summary(values)
    for line in together:
        print(f"{line['group']:10s} {line['way']:16s} {line['difference']:+.4f}  {line['interval']}")
    print("| source | way | labels | random | chosen | difference (95 %) | random labels for the same |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        if line["way"] in ("select_prompts", WEAK_FIRST):
            low, high = line["interval"]
            print(
                f"| {line['source']} | {line['way']} | {line['labels']} "
                f"| {line['apgr_random']:.3f} | {line['apgr']:.3f} "
                f"| {line['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {line['random_labels_for_the_same']} |"
            )
    files = [arguments.data / "train" / name for name in ("models.parquet", "pairs.parquet")]
    report = {
        "date": str(date.today()),
        "version": __version__,
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "data_digest": digest_of(*(path.read_bytes() for path in files))[:12],
        "seeds": arguments.seeds,
        "chosen_on": CHOSEN_ON,
        "reported": REPORTED,
        "interval": "95 %, percentile bootstrap over the splits of a source, paired; not over sources",
        "pooled": together,
        "results": lines,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
