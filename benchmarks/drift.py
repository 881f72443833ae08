"""How soon does the drift monitor see another kind of prompts, and how often is it wrong?

    python benchmarks/drift.py [--orders 1000] [--processes 2]

The default router is calibrated on a random part of MMLU. Fed the rest of MMLU in random order, every alarm is false:
the rate is held against alpha, with the horizon set to the length of the stream, so that nothing of alpha is left for
later. Fed GSM8K, the number of prompts until the alarm is counted, with the monitor's usual horizon; at once, and
after 2,000 prompts of MMLU. The batch test (`drift`) is tried on 200 prompts in the same ways. Nothing is
chosen by these figures. Prints Markdown and writes benchmarks/results/DATE-drift.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from calibration_guarantees import markdown
from evaluation_sets import DATA, ROOT, digest, need, read

from routellm_core import Calibration, load_router
from routellm_core.calibration import DriftMonitor, drift
from routellm_core.persistence import write_bytes

Scored = dict[str, tuple[np.ndarray, np.ndarray]]  # win rates and embeddings by set
CALIBRATED = (500, 3000)
STREAM = 1000
BATCH = 200
ALPHAS = (0.01, 0.05)
BEFORE = 2000


def scored(data: Path) -> Scored:
    router = load_router("default")
    assert router.encoder is not None
    found = {}
    for name in ("mmlu", "gsm8k"):
        prompts, _, _ = read(data, name)
        found[name] = (router.win_rate(prompts), router.encoder.encode(prompts))
    return found


def alarm_at(monitor: DriftMonitor, win_rates: np.ndarray, vectors: np.ndarray | None) -> int | None:
    for i, win_rate in enumerate(win_rates.tolist()):
        if monitor.observe(win_rate, vector=None if vectors is None else vectors[i]):
            return i + 1
    return None


def one_order(sets: Scored, m: int, embedded: bool, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, m])
    order, other = rng.permutation(sets["mmlu"][0].size), rng.permutation(sets["gsm8k"][0].size)
    mmlu, gsm8k = (tuple(array[o] for array in sets[name]) for name, o in (("mmlu", order), ("gsm8k", other[:STREAM])))
    calibration = Calibration.from_win_rates(mmlu[0][:m], vectors=mmlu[1][:m] if embedded else None)

    def part(arrays: tuple[np.ndarray, ...], start: int, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        return arrays[0][start : start + n], arrays[1][start : start + n] if embedded else None

    found: dict[str, Any] = {}
    for alpha in ALPHAS:
        monitor = DriftMonitor(calibration, alpha=alpha, horizon=STREAM, seed=seed)
        found[f"false {alpha}"] = alarm_at(monitor, *part(mmlu, m, STREAM)) is not None
    monitor = DriftMonitor(calibration, seed=seed)
    found["at once"] = alarm_at(monitor, *part(gsm8k, 0, STREAM))
    if seed % 10 == 0:  # the long stream is slow
        monitor = DriftMonitor(calibration, seed=seed)
        early = alarm_at(monitor, *part(mmlu, m, BEFORE))
        found["later"] = None if early else alarm_at(monitor, *part(gsm8k, 0, STREAM))
        for name, arrays, start in (("batch false", mmlu, m), ("batch true", gsm8k, 0)):
            win_rates, vectors = part(arrays, start, BATCH)
            found[name] = drift(calibration, win_rates, vectors=vectors, rng=rng).drifted
    return found


def summary(results: list[dict[str, Any]], m: int, embedded: bool) -> dict[str, Any]:
    def values(name: str) -> list[Any]:
        return [result[name] for result in results if name in result]

    def delays(name: str) -> np.ndarray:
        return np.array([np.inf if at is None else at for at in values(name)])

    return {
        "calibrated_on": m,
        "embeddings": embedded,
        "orders": len(results),
        **{f"false_alarms_at_{alpha}": float(np.mean(values(f"false {alpha}"))) for alpha in ALPHAS},
        "flagged_within_200": float((delays("at once") <= 200).mean()),
        "median_prompts": float(np.median(delays("at once"))),
        "most_prompts": float(delays("at once").max()),
        "later_flagged_within_200": float((delays("later") <= 200).mean()),
        "later_median_prompts": float(np.median(delays("later"))),
        "batch_false_alarms_at_0.05": float(np.mean(values("batch false"))),
        "batch_flagged": float(np.mean(values("batch true"))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    need(arguments.data)
    started = time.monotonic()
    sets = scored(arguments.data)
    rows = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for m in CALIBRATED:
            for embedded in (False, True):
                orders = range(arguments.orders if not embedded else arguments.orders // 5)
                task = partial(one_order, sets, m, embedded)
                results = pool.map(task, orders, chunksize=max(1, len(orders) // (4 * arguments.processes)))
                rows.append(summary(results, m, embedded))
    result = {
        "date": str(date.today()),
        "data": digest(arguments.data),
        "seconds": round(time.monotonic() - started),
        "rows": rows,
    }
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{date.today()}-drift.json"
    write_bytes(output, (json.dumps(result, indent=1) + "\n").encode())
    print(markdown(rows), f"{result['seconds']} s: {output}", sep="\n\n")


if __name__ == "__main__":
    main()
