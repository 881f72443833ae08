"""Do calibrations keep what they promise, on real labels?

    python benchmarks/calibration_guarantees.py [--samples 1000] [--processes 2]

Quality floors: many samples of several sizes are drawn (with replacement, so that the whole set is the population
the guarantee speaks of); a violation is a whole-set quality below the floor at the threshold a sample gave. Samples
that certify nothing route all strong. Beside it, on the same samples: the older recipe (Clopper-Pearson bounds on
the losses alone and on the strong model's mean, half of delta each), the plain normal test, which promises nothing for
a finite sample, and the strong share of the threshold that an oracle who knows the whole set would take.
Shares: half of a set is calibrated on, and the share of the other half held against its prediction interval.
Nothing is chosen by these figures. Prints Markdown and writes benchmarks/results/DATE-calibration-guarantees.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from evaluation_sets import DATA, ROOT, digest, need, read
from scipy import stats

from routellm_core import Calibration, load_router
from routellm_core.calibration.floor import LabelledSample
from routellm_core.calibration.thresholds import between, possible_cuts
from routellm_core.persistence import write_bytes

SIZES = (250, 500, 1000, 2000)
FLOORS = (0.90, 0.95, 0.98)
DELTAS = (0.05, 0.10)
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
LEVELS = (0.80, 0.95)
METHODS = ("betting", "loss", "normal")
JUDGED = ("gemma-7b-it", (1.0, 10.0))  # a weak model of train/answers.parquet, and its judge's scale


@dataclass(frozen=True)
class Population:
    """One set of labels with one scorer's win rates."""

    name: str
    scorer: str
    win_rates: np.ndarray
    strong: np.ndarray
    weak: np.ndarray
    score_range: tuple[float, float] = (0.0, 1.0)

    def quality(self, threshold: float) -> float:
        return float(np.where(self.win_rates >= threshold, self.strong, self.weak).mean())

    def share(self, threshold: float) -> float:
        return float((self.win_rates >= threshold).mean())

    def oracle_share(self, floor: float) -> float:
        order = np.argsort(self.win_rates, kind="stable")
        quality = np.append(0.0, np.cumsum((self.weak - self.strong)[order])) / order.size + self.strong.mean()
        cuts = possible_cuts(self.win_rates[order])
        return 1 - float(cuts[quality[cuts] >= floor * self.strong.mean()].max()) / order.size


def informative(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Win rates that know the labels, through noise: better than any real router."""
    gap = strong - weak
    noise = np.random.default_rng(0).normal(size=gap.size)
    return np.asarray(1 / (1 + np.exp(-(gap / gap.std() + noise))))


def populations(data: Path) -> list[Population]:
    router = load_router("default")
    found = []
    for name, file in (("MMLU", "mmlu"), ("GSM8K", "gsm8k")):
        prompts, strong, weak = read(data, file)
        found.append(Population(name, "default router", router.win_rate(prompts), strong, weak))
        found.append(Population(name, "informative", informative(strong, weak), strong, weak))
    table = pq.read_table(data / "train" / "answers.parquet")
    table = table.filter(pc.and_(pc.equal(table["source"], "wildbench"), pc.equal(table["weak_model"], JUDGED[0])))
    strong, weak = table["strong_score"].to_numpy(), table["weak_score"].to_numpy()
    found.append(Population("WildBench 1-10", "informative", informative(strong, weak), strong, weak, JUDGED[1]))
    return found


def n_weak_by_losses(labels: LabelledSample, floor: float, delta: float) -> int:
    """Fixed-sequence test of P(strong right, weak wrong, routed weak) against (1 - floor) * P(strong right)."""
    n = labels.win_rates.size
    right = int(labels.strong_scores.sum())
    allowed = (1 - floor) * (stats.beta.ppf(delta / 2, right, n - right + 1) if right else 0.0)
    cuts = possible_cuts(labels.win_rates)[1:]
    lost = np.cumsum(np.maximum(labels.strong_scores - labels.weak_scores, 0))[cuts - 1]
    bad = np.append(np.where(lost < n, stats.beta.ppf(1 - delta / 2, lost + 1, n - lost), 1.0) > allowed, True)
    first = int(np.argmax(bad))
    return int(cuts[first - 1]) if first else 0


def n_weak_by_normal(labels: LabelledSample, floor: float, delta: float) -> int:
    n = labels.win_rates.size
    strong, weak = (1 - floor) * labels.strong_scores, labels.weak_scores - floor * labels.strong_scores
    cuts = possible_cuts(labels.win_rates)[1:]
    mean = (strong.sum() + np.cumsum(weak - strong))[cuts - 1] / n
    squares = ((strong**2).sum() + np.cumsum(weak**2 - strong**2))[cuts - 1] / n
    error = np.sqrt(np.maximum(squares - mean**2, 0) / n)
    bad = np.append(mean <= stats.norm.ppf(1 - delta) * error, True)
    first = int(np.argmax(bad))
    return int(cuts[first - 1]) if first else 0


def one_sample(population: Population, n: int, seed: int) -> dict[tuple[str, float, float], tuple[float, float]]:
    """Share and quality on the whole set, for each method, floor and delta; share nan where nothing is certified."""
    drawn = np.random.default_rng([seed, n]).integers(population.win_rates.size, size=n)
    sample = Calibration.from_win_rates(
        population.win_rates[drawn],
        strong_scores=population.strong[drawn],
        weak_scores=population.weak[drawn],
        score_range=population.score_range,
    )
    labels = sample.labels
    assert labels is not None
    found = {}
    for floor in FLOORS:
        for delta in DELTAS:
            n_weak = {"betting": labels.n_weak(floor, delta), "normal": n_weak_by_normal(labels, floor, delta)}
            if population.score_range == (0.0, 1.0):
                n_weak["loss"] = n_weak_by_losses(labels, floor, delta)
            for method, count in n_weak.items():
                threshold = between(sample.win_rates, count)
                share = population.share(threshold) if count else np.nan
                found[method, floor, delta] = (share, population.quality(threshold))
    return found


def floors_of(task: tuple[Population, int, int]) -> list[dict[str, object]]:
    population, n, n_samples = task
    results = [one_sample(population, n, seed) for seed in range(n_samples)]
    rows: list[dict[str, object]] = []
    for method, floor, delta in sorted(results[0], key=lambda key: (key[1], key[2], METHODS.index(key[0]))):
        share, quality = np.array([result[method, floor, delta] for result in results]).T
        certified = ~np.isnan(share)
        rows.append(
            {
                "set": population.name,
                "scorer": population.scorer,
                "labels": n,
                "floor": floor,
                "delta": delta,
                "method": method,
                "violations": float((quality < floor * population.strong.mean() - 1e-12).mean()),
                "certified": float(certified.mean()),
                "strong_share": float(np.where(certified, share, 1.0).mean()),
                "oracle_strong_share": population.oracle_share(floor),
            }
        )
    return rows


def shares_of(population: Population, n_splits: int) -> list[dict[str, object]]:
    m = population.win_rates.size
    inside: dict[tuple[float, float], list[tuple[bool, bool]]] = {}
    known: dict[tuple[int, float, float], tuple[tuple[float, float], tuple[float, float]]] = {}
    for seed in range(n_splits):
        order = np.random.default_rng([seed, 7]).permutation(m)
        sample, others = population.win_rates[order[: m // 2]], population.win_rates[order[m // 2 :]]
        base = Calibration.from_win_rates(sample)
        for share in SHARES:
            calibration = base.at(strong_share=share)
            realised = float((others >= calibration.threshold).mean())
            for level in LEVELS:
                key = (others.size, calibration.realised_share, level)
                if key not in known:  # the intervals depend on nothing else
                    known[key] = calibration.predicted_share(others.size, level), calibration.share_interval(level)
                inside.setdefault((share, level), []).append(
                    tuple(low <= realised <= high for low, high in known[key])  # type: ignore[arg-type]
                )
    rows: list[dict[str, object]] = []
    for (share, level), hits in sorted(inside.items()):
        predicted, long_run = np.mean(hits, axis=0).tolist()
        rows.append(
            {
                "set": population.name,
                "strong_share": share,
                "level": level,
                "inside_prediction_interval": predicted,
                "inside_long_run_interval": long_run,
            }
        )
    return rows


def markdown(rows: list[dict[str, object]]) -> str:
    heads = list(rows[0])
    lines = [f"| {' | '.join(head.replace('_', ' ') for head in heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (f"{row[h]:.3f}" if isinstance(row[h], float) else str(row[h]) for h in heads)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    need(arguments.data)
    started = time.monotonic()
    sets = populations(arguments.data)
    # the largest first, so that no process is left with it at the end
    tasks = [(each, n, arguments.samples) for n in reversed(SIZES) for each in sets if n <= each.win_rates.size]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        floors = [row for rows in pool.map(floors_of, tasks, chunksize=1) for row in rows]
    floors.sort(key=lambda row: [(p.name, p.scorer) for p in sets].index((row["set"], row["scorer"])))
    floors.sort(key=lambda row: row["method"] != "betting")
    shares = [row for each in sets if each.scorer == "default router" for row in shares_of(each, arguments.samples)]
    result = {
        "date": str(date.today()),
        "data": digest(arguments.data),
        "samples": arguments.samples,
        "seconds": round(time.monotonic() - started),
        "quality_floors": floors,
        "shares": shares,
    }
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{date.today()}-calibration-guarantees.json"
    write_bytes(output, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    print(markdown(floors), markdown(shares), f"{result['seconds']} s: {output}", sep="\n\n")


if __name__ == "__main__":
    main()
