"""The three benchmarks of the paper, as `ROUTELLM_DATA` holds them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from routellm_core.evaluation import read_evaluation_set
from routellm_core.persistence import digest_of

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ROUTELLM_DATA") or ROOT / ".." / "shared" / "data")
BENCHMARKS = (("MMLU", "mmlu"), ("GSM8K", "gsm8k"), ("MT-Bench", "mt_bench"))


def read(data: Path, name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Prompts, strong and weak scores, without the contaminated rows (as the paper evaluates)."""
    found = read_evaluation_set(data / "eval" / f"{name}.parquet")
    return list(found.prompts), found.strong_scores, found.weak_scores


def need(data: Path, part: str = "eval") -> None:
    """Stop with a clear message where the data are not."""
    if not (data / part).is_dir():
        raise SystemExit(f"no data in {data / part}; see benchmarks/README.md, or give --data")


def digest(data: Path) -> str:
    """Twelve digits over the three files."""
    return digest_of(*((data / "eval" / f"{name}.parquet").read_bytes() for _, name in BENCHMARKS))[:12]
