"""What the default router does with prompts that are not English: twelve prompts in nine languages, our own.

    python benchmarks/languages.py [--card]

Six of the prompts are easy and six hard. Per language: how often a hard one gets a higher win rate than an
easy one (of 36 pairs), the rank correlation with the same prompts in English, and the share of prompts that
the default threshold sends to the strong model. Twelve prompts show gross failures, not fine differences.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
from card import fill

from routellm_core import RoutingPolicy, load_router
from routellm_core.routers.loading import EMBEDDED

HERE = Path(__file__).resolve().parent


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def table(name: str) -> list[str]:
    router = load_router(name)
    threshold = RoutingPolicy(router).thresholds[0]
    rows = [json.loads(line) for line in (HERE / "data" / "multilingual.jsonl").read_text("utf-8").splitlines()]
    win_rates = router.win_rate([row["prompt"] for row in rows])
    by_language: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
    for row, win_rate in zip(rows, win_rates, strict=True):
        by_language[row["language"]][row["id"]] = (row["difficulty"], float(win_rate))
    english = by_language["en"]
    lines = [
        "| language | hard above easy | rank correlation with English | mean win rate | strong share at the "
        "default threshold |",
        "|---|---|---|---|---|",
    ]
    for language, scored in by_language.items():
        easy = np.array([w for d, w in scored.values() if d == "easy"])
        hard = np.array([w for d, w in scored.values() if d == "hard"])
        all_of_them = np.array([scored[key][1] for key in english])
        above = float((hard[:, None] > easy[None, :]).mean())
        correlation = rank_correlation(all_of_them, np.array([english[key][1] for key in english]))
        lines.append(
            f"| {language} | {above:.2f} | {correlation:.2f} | {all_of_them.mean():.3f} | "
            f"{(all_of_them >= threshold).mean():.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("router", nargs="?", default="default", choices=EMBEDDED)
    parser.add_argument("--card", action="store_true", help="put the table into the licence card")
    arguments = parser.parse_args()
    text = "\n".join(
        [
            *table(arguments.router),
            "",
            f"Measured on {date.today()} by `python benchmarks/languages.py {arguments.router}`: six easy and six "
            "hard prompts of our own in each language (benchmarks/data/multilingual.jsonl). In every language the "
            "hard ones are also the longer ones, so this shows that length, numbers and marks count as in English; it "
            "does not show that subject or wording is understood.",
        ]
    )
    print(text)
    if arguments.card:
        fill("languages", text, router=arguments.router)


if __name__ == "__main__":
    main()
