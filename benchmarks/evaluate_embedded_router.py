"""An embedded router on MMLU, GSM8K and MT-Bench: APGR and CPT with intervals, beside prompt length and chance.

    python benchmarks/evaluate_embedded_router.py [default|contextual] [--data ../shared/data] [--card]

Prints a Markdown table. With --card it also replaces the table in the router's licence card. Never tune
on these sets: choose on training data, and run this once per released router.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import numpy as np
from card import fill
from evaluation_sets import BENCHMARKS, DATA, digest, need, read

from routellm_core import load_router
from routellm_core.evaluation import apgr, apgr_interval, cpt, paper_apgr, paper_cpt
from routellm_core.routers.base import Router
from routellm_core.routers.loading import EMBEDDED


def cell(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"


def rows(router: Router, data: Path, resamples: int) -> list[str]:
    lines = [
        "| benchmark | prompts | scored by | APGR (exact) | 95 % interval | CPT 50 % | CPT 80 % | APGR (paper) |"
        " CPT 50 / 80 % (paper) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title, name in BENCHMARKS:
        prompts, strong, weak = read(data, name)
        scorers = {
            router.name: router.win_rate(prompts),
            "prompt length": np.array([float(len(p)) for p in prompts]),
            "chance": np.zeros(len(prompts)),
        }
        for scorer, scores in scorers.items():
            low, high = apgr_interval(scores, strong, weak, rng=np.random.default_rng(0), n_resamples=resamples)
            paper = "–" if scorer == "chance" else f"{paper_apgr(scores, strong, weak):.3f}"
            paper_cpts = (
                "–"
                if scorer == "chance"
                else (
                    f"{paper_cpt(scores, strong, weak, pgr=0.5):.3f} / {paper_cpt(scores, strong, weak, pgr=0.8):.3f}"
                )
            )
            lines.append(
                f"| {title} | {len(prompts)} | {scorer} | {apgr(scores, strong, weak):.3f} | {low:.3f} to {high:.3f} | "
                f"{cell(cpt(scores, strong, weak, pgr=0.5))} | {cell(cpt(scores, strong, weak, pgr=0.8))} | "
                f"{paper} | {paper_cpts} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("router", nargs="?", default="default", choices=EMBEDDED)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--card", action="store_true", help="put the table into the licence card")
    arguments = parser.parse_args()
    need(arguments.data)
    table = rows(load_router(arguments.router), arguments.data, arguments.resamples)
    text = "\n".join(
        [
            *table,
            "",
            f"Measured on {date.today()} by `python benchmarks/evaluate_embedded_router.py {arguments.router}`: "
            "gpt-4-1106-preview against Mixtral-8x7B-Instruct, contaminated prompts dropped, percentile "
            f"bootstrap over prompts ({arguments.resamples} resamples, seed 0), data digest "
            f"{digest(arguments.data)}. A difference under 0.1 on MT-Bench's 72 prompts is noise.",
        ]
    )
    print(text)
    if arguments.card:
        fill("evaluation", text, router=arguments.router)


if __name__ == "__main__":
    main()
