"""`DifficultyRouter.for_pair` with two abilities from a few scored answers, beside the router unchanged.

A part of `python benchmarks/transfer.py`. From the prompts of a pair N are drawn at random; both models' scores on them
give two abilities (`ability_from_scores`), these a router (`for_pair`), and APGR is taken on all other prompts of the
pair, as is that of the router unchanged. Difficulties are those of `unseen`. Twenty draws, averaged for each pair
before anything else; then the mean over pairs. Intervals: percentile bootstrap, 10,000 draws, over pairs and over
families (the few sources that all pairs come from, hence the ones to trust); the difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from routellm_core.evaluation import apgr
from routellm_core.evaluation.resampling import interval
from routellm_core.routers.ability import ability_from_scores
from routellm_core.routers.pair import pair_win_rate

SCORED = (20, 50)
SEEDS = range(20)
N_RESAMPLES = 10_000
LEVELS = {
    "all": (0.0, 1.0),
    "under .5": (0.0, 0.5),
    ".5 to .7": (0.5, 0.7),
    ".7 or more": (0.7, 1.0),
}
"""Of the two models' mean score, the upper end left out."""


def by_own_scores(difficulty: np.ndarray, strong: np.ndarray, weak: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """One pair: by number of scored answers, `unchanged` and `for_pair`, an APGR for each seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for n in SCORED:
        figures = found.setdefault(str(n), {"unchanged": [], "for_pair": []})
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(len(difficulty))
            scored, rest = order[:n], np.sort(order[n:])
            win_rates = pair_win_rate(
                difficulty[rest],
                float(ability_from_scores(difficulty[scored], strong[scored])),
                float(ability_from_scores(difficulty[scored], weak[scored])),
            )
            figures["unchanged"].append(apgr(difficulty[rest], strong[rest], weak[rest]))
            figures["for_pair"].append(apgr(win_rates, strong[rest], weak[rest]))
    return found


def summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By level and number of scored answers; rows with `family`, `level` and `own_scores`, as `by_own_scores` gives."""
    found = {}
    for label, (low, high) in LEVELS.items():
        chosen = [row for row in rows if low <= row["level"] < high]
        for n in SCORED if chosen else ():
            figures = [row["own_scores"][str(n)] for row in chosen]
            found[f"{label}: {n}"] = _summary([row["family"] for row in chosen], figures)
    return found


def _summary(families: Sequence[str], figures: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    unchanged, for_pair = (np.array([each[way] for each in figures]) for way in ("unchanged", "for_pair"))
    found: dict[str, Any] = {
        "pairs": len(figures),
        "families": len(set(families)),
        "worse_draws": float((for_pair < unchanged).mean()),
    }
    for name, values in (("unchanged", unchanged), ("for_pair", for_pair), ("difference", for_pair - unchanged)):
        of_pairs = values.mean(axis=1)
        found[name] = {"mean": float(of_pairs.mean()), **intervals(of_pairs, families)}
    return found


def intervals(values: np.ndarray, families: Sequence[str]) -> dict[str, list[float]]:
    """Of the mean of the pairs' values, shape (n,): over pairs, and over families with all their pairs."""
    rng = np.random.default_rng(0)
    by_pairs = values[rng.integers(0, len(values), (N_RESAMPLES, len(values)))].mean(axis=1)
    _, family = np.unique(families, return_inverse=True)
    sums, sizes = np.bincount(family, values), np.bincount(family)
    drawn = rng.integers(0, len(sizes), (N_RESAMPLES, len(sizes)))
    by_families = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return {
        "interval_over_pairs": list(interval(by_pairs) or ()),
        "interval_over_families": list(interval(by_families) or ()),
    }


def print_table(found: Mapping[str, Mapping[str, Any]]) -> None:
    print(
        "| mean score: answers | pairs (families) | unchanged | for_pair | difference | over families | worse draws |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, each in found.items():
        shown = [
            f"{each[name]['mean']:{sign}.3f} ({each[name][over][0]:{sign}.3f} to {each[name][over][1]:{sign}.3f})"
            for name, over, sign in (
                ("unchanged", "interval_over_pairs", ""),
                ("for_pair", "interval_over_pairs", ""),
                ("difference", "interval_over_pairs", "+"),
                ("difference", "interval_over_families", "+"),
            )
        ]
        print(f"| {label} | {each['pairs']} ({each['families']}) | {' | '.join(shown)} | {each['worse_draws']:.0%} |")
