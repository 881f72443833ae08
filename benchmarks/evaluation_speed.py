"""How long evaluation takes: the default router on the paper's three benchmarks, intervals and report included.

    python benchmarks/evaluation_speed.py [--data ../shared/data] [--resamples 1000]

Prints one JSON object: seconds by part and in all, with the machine they were measured on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
from evaluation_sets import BENCHMARKS, DATA, need

from routellm_core import load_router
from routellm_core.evaluation import evaluate, read_evaluation_set
from routellm_core.evaluation.report import write_report
from routellm_core.evaluation.resampling import resample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    need(arguments.data)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[part] = round(time.perf_counter() - start, 2)

    with timed("all"):
        with timed("load the router"):
            router = load_router("default")
        with timed("read"):
            sets = [read_evaluation_set(arguments.data / "eval" / f"{name}.parquet") for _, name in BENCHMARKS]
        found = []
        for data in sets:
            with timed(f"evaluate {data.name}"):
                found.append(evaluate(router, data, n_resamples=arguments.resamples))
        with timed("report"), tempfile.TemporaryDirectory() as folder:
            write_report(found, Path(folder) / "report.html")
    largest = found[0]
    with timed(f"of which {arguments.resamples} resamples of {len(largest.data)} prompts, one scorer"):
        resample(
            {"": largest.win_rates},
            *largest.data.checked_pair(),
            rng=np.random.default_rng(0),
            n_resamples=arguments.resamples,
        )
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"date": str(date.today()), **machine, "numpy": np.__version__, "seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()
