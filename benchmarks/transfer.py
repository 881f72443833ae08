"""The default router, unchanged, on pairs of models that the paper never saw; and why it works where it works.

    python benchmarks/transfer.py [--data ../shared/data] [--out FILE]

Pairs, by a rule fixed before any was scored: in each family of sources of train/models.parquet the models that were
scored on 95 % of its prompts are put in order of their mean score, and the models at 0, 25, 50, 75 and 100 % of that
order make all ten pairs; then all pairs of train/pairs.parquet. Human votes between models that nobody named are left
out, and so are GSM8K's training questions. A pair is left out, and named, where the better model's lead is within .02.

The router was trained on some of these prompts (mmlu_pro, zeroeval, commongen_lite, llmrouter): there `unseen` is the
same recipe fitted without the family; elsewhere it is the default router itself, which never saw a score of the family,
and questions that stand in the training data too, by another publisher, are left out. `for_the_pair` is no router that
exists: sigmoid(a_strong - d) - sigmoid(a_weak - d) with the difficulty d of `unseen` and each model's ability from all
scores, which shows what knowing two numbers about the pair would change. What a user can have of that, with 20 or 50
scored answers a model, is measured too (transfer_for_pair.py): `own_scores`.

APGR divides by the lead, so figures of leads under .1 are mostly noise: they stand in the table, not in summaries and
regressions. That, the level of a pair (the mean of both means) and `for_the_pair` were thought of after a first look.

Prints tables, writes JSON. Intervals: bootstrap over prompts, 1,000 draws, the same for all pairs of a family that are
scored on the same prompts; for slopes also over families.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import transfer_for_pair
from evaluation_sets import DATA, ROOT, need

from routellm_core import __version__, load_router
from routellm_core.evaluation import apgr, oracle_apgr
from routellm_core.evaluation.resampling import interval, resample
from routellm_core.persistence import digest_of
from routellm_core.routers.linear import sigmoid
from routellm_core.training.rasch import fit_rasch
from routellm_core.training.score_table import ScoreTable, model_key

sys.path.insert(0, str(ROOT / "tools"))
import build_embedded_router as recipe

TRAINED_ON = recipe.FAMILIES
LEFT_OUT = recipe.NEVER_READ  # GSM8K's training questions
NOT_NAMED = "vibecheck_arena"
SCORERS = ("default", "unseen", "for_the_pair", "length")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAST_COVERAGE, LEAST_GAP = 0.95, 0.02
CLEAR_GAP = 0.1
JUDGED = ("alpaca_eval",)  # a preference for one answer over a reference, which says nothing of being right
PAPERS_PAIR = ("gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1")
_OPTIONS = re.compile(r"\n\s*(?:options:|A[.)] ).*", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Family:
    """Prompts of sources that belong together, and every model's scores; NaN where there is none."""

    name: str
    prompts: list[str] = field(repr=False)
    sources: list[str] = field(repr=False)
    models: list[str]
    scores: np.ndarray = field(repr=False)


def read_families(data: Path) -> list[Family]:
    columns = ["prompt", "model", "score", "source"]
    rows = pq.read_table(data / "train" / "models.parquet", columns=columns).to_pylist()
    seen = {question(row["prompt"]) for row in rows if is_trained_on(row["source"])}
    names = dict.fromkeys(row["source"].split("/")[0] for row in rows)
    return [family_of(name, [r for r in rows if r["source"].split("/")[0] == name], seen) for name in names]


def is_trained_on(source: str) -> bool:
    return source.split("/")[0] in TRAINED_ON and source not in LEFT_OUT


def family_of(name: str, rows: Sequence[Mapping[str, Any]], seen: set[str]) -> Family:
    """`seen`: questions trained on; a family that was not itself trained on goes without them."""
    kept = [row for row in rows if row["source"] not in LEFT_OUT]
    if name not in TRAINED_ON:
        kept = [row for row in kept if question(row["prompt"]) not in seen]
    source_of = {row["prompt"]: row["source"] for row in kept}
    prompts, models = list(source_of), sorted({row["model"] for row in kept})
    place, column = {p: i for i, p in enumerate(prompts)}, {m: i for i, m in enumerate(models)}
    scores = np.full((len(prompts), len(models)), np.nan)
    for row in kept:
        scores[place[row["prompt"]], column[row["model"]]] = row["score"]
    return Family(name, prompts, [source_of[p] for p in prompts], models, scores)


def question(prompt: str) -> str:
    """What two publishers of one question share: its words, without options."""
    return " ".join(re.findall(r"\w+", _OPTIONS.sub("", prompt).lower()))


def pairs_by_rule(family: Family) -> list[tuple[str, str]]:
    """(strong, weak): all pairs of the models at five places in the order of the mean scores."""
    covered = np.flatnonzero(np.isfinite(family.scores).mean(axis=0) >= LEAST_COVERAGE)
    order = covered[np.argsort(np.nanmean(family.scores[:, covered], axis=0), kind="stable")]
    places = sorted({round(q * (len(order) - 1)) for q in QUANTILES})
    return [(family.models[order[high]], family.models[order[low]]) for low, high in combinations(places, 2)]


def named_pairs(data: Path) -> dict[str, list[tuple[str, str]]]:
    """The pairs of pairs.parquet by family."""
    columns = pq.read_table(data / "train" / "pairs.parquet", columns=["source", "strong_model", "weak_model"])
    found: dict[str, list[tuple[str, str]]] = {}
    for row in columns.to_pylist():
        pairs = found.setdefault(row["source"].split("/")[0], [])
        if (pair := (row["strong_model"], row["weak_model"])) not in pairs:
            pairs.append(pair)
    found.pop(NOT_NAMED, None)
    return found


def abilities(data: Path) -> dict[str, float]:
    """Rasch ability of every model on all its scores, by `model_key`, in logits."""
    columns = ["prompt", "model", "score", "source"]
    rows = pq.read_table(data / "train" / "models.parquet", columns=columns).to_pylist()
    kept = (row for row in rows if row["source"] not in LEFT_OUT)
    table = ScoreTable.from_rows((row["prompt"], row["model"], row["score"], row["source"]) for row in kept)
    _, ability = fit_rasch(table.prompt_index, table.model_index, table.scores)
    return dict(zip(table.models, ability.tolist(), strict=True))


def measure(
    family: Family,
    pairs: Sequence[tuple[str, str]],
    scorers: Mapping[str, np.ndarray],
    difficulty: np.ndarray,
    ability: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row a pair; `draws` holds the bootstrap and takes no part in the report."""
    found = []
    for strong, weak in pairs:
        both = family.scores[:, [family.models.index(strong), family.models.index(weak)]]
        rows = np.flatnonzero(np.isfinite(both).all(axis=1))
        s, w = both[rows].T
        row: dict[str, Any] = {
            "family": family.name,
            "trained_on": family.name in TRAINED_ON,
            "papers_pair": (strong, weak) == PAPERS_PAIR,
            "strong": strong,
            "weak": weak,
            "prompts": len(rows),
            "strong_mean": float(s.mean()),
            "weak_mean": float(w.mean()),
            "gap": float(s.mean() - w.mean()),
            "ability_gap": ability[model_key(strong)] - ability[model_key(weak)],
            "level": float(s.mean() + w.mean()) / 2,
        }
        if row["gap"] <= LEAST_GAP:
            found.append({**row, "left_out": f"a lead of {row['gap']:.3f}: within {LEAST_GAP}"})
            continue
        own = {name: scores[rows] for name, scores in scorers.items()}
        own["for_the_pair"] = gain_by_ability(difficulty[rows], ability[model_key(strong)], ability[model_key(weak)])
        drawn = resample(own, s, w, rng=np.random.default_rng(0), with_paper=False)
        oracle = oracle_apgr(s, w)
        for name, scores in own.items():
            low, high = interval(drawn[name].apgr) or (np.nan, np.nan)
            row[name] = {"apgr": apgr(scores, s, w), "interval": [low, high]}
        ahead = drawn["default"].apgr - drawn["length"].apgr
        row["ahead_of_length"] = {
            "difference": row["default"]["apgr"] - row["length"]["apgr"],
            "interval": list(interval(ahead) or ()),
        }
        row["oracle"] = oracle
        row["share_of_the_oracles_lead"] = (row["default"]["apgr"] - 0.5) / (oracle - 0.5)
        row["draws"] = {name: drawn[name].apgr for name in own}
        if row["gap"] >= CLEAR_GAP:
            row["own_scores"] = transfer_for_pair.by_own_scores(scorers["unseen"][rows], s, w)
        found.append(row)
    return found


def gain_by_ability(difficulty: np.ndarray, strong: float, weak: float) -> np.ndarray:
    """How much more often the strong model is right, by the Rasch model; shape (n,)."""
    return sigmoid(strong - difficulty) - sigmoid(weak - difficulty)


def regression(rows: Sequence[Mapping[str, Any]], name: str, gap: str, *, within: bool) -> dict[str, Any]:
    """APGR over the gap by least squares; `within`: with an intercept for each family."""
    x = np.array([row[gap] for row in rows])
    families = np.array([row["family"] for row in rows])
    drawn = np.array([row["draws"][name] for row in rows])
    y = np.array([row[name]["apgr"] for row in rows])

    def slope(x: np.ndarray, y: np.ndarray, families: np.ndarray) -> float:
        groups = families if within else np.zeros(len(x))
        centred_x, centred_y = x.copy(), y.copy()
        for group in np.unique(groups):
            centred_x[groups == group] -= x[groups == group].mean()
            centred_y[groups == group] -= y[groups == group].mean()
        return float(centred_x @ centred_y / (centred_x @ centred_x))

    by_prompts = np.array([slope(x, column, families) for column in drawn.T if np.isfinite(column).all()])
    by_families = []
    rng = np.random.default_rng(0)
    names = np.unique(families)
    for _ in range(1000):
        picked = [np.flatnonzero(families == name) for name in rng.choice(names, len(names))]
        label = np.repeat(np.arange(len(picked)), [len(p) for p in picked])
        if len({int(p[0]) for p in picked}) > 1:
            chosen = np.concatenate(picked)
            by_families.append(slope(x[chosen], y[chosen], label))
    return {
        "pairs": len(rows),
        "slope": slope(x, y, families),
        "interval_over_prompts": list(interval(by_prompts) or ()),
        "interval_over_families": list(interval(np.array(by_families)) or ()),
        "correlation": float(np.corrcoef(x, y)[0, 1]),
    }


def summary(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Over pairs: the mean with its interval over prompts, and on how many the interval lies above or below chance."""
    figures = np.array([row[name]["apgr"] for row in rows])
    drawn = np.mean([row["draws"][name] for row in rows], axis=0)
    ahead = [interval(row["draws"][name] - row["draws"]["length"]) or (np.nan, np.nan) for row in rows]
    return {
        "pairs": len(rows),
        "mean": float(figures.mean()),
        "interval": list(interval(drawn) or ()),
        "median": float(np.median(figures)),
        "lowest": float(figures.min()),
        "highest": float(figures.max()),
        "above_chance": sum(row[name]["interval"][0] > 0.5 for row in rows),
        "below_chance": sum(row[name]["interval"][1] < 0.5 for row in rows),
        "ahead_of_length": sum(low > 0 for low, _ in ahead),
        "behind_length": sum(high < 0 for _, high in ahead),
    }


def report_of(data: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is written as JSON, and the measured pairs with their draws, the largest lead first."""
    router = load_router("default")
    assert router.encoder is not None
    table = recipe.read_scores(data)
    features = router.encoder.encode(list(table.prompts))
    named, ability = named_pairs(data), abilities(data)
    rows: list[dict[str, Any]] = []
    for family in read_families(data):
        scorers = {
            "default": router.win_rate(family.prompts),
            "length": np.array([len(prompt) for prompt in family.prompts], dtype=np.float64),
        }
        left_out = {source for source in table.sources if source.split("/")[0] == family.name}
        fit = recipe.RECIPES["default"].fit_without(left_out, table, features, router.encoder)
        difficulty = fit.predict(router.encoder.encode(family.prompts))
        scorers["unseen"] = difficulty if family.name in TRAINED_ON else scorers["default"]
        pairs = list(dict.fromkeys([*pairs_by_rule(family), *named.get(family.name, [])]))
        found = measure(family, pairs, scorers, difficulty, ability)
        by_rule = set(pairs_by_rule(family))
        rows += [{**row, "by": "rule" if (row["strong"], row["weak"]) in by_rule else "pairs.parquet"} for row in found]
    measured = sorted((row for row in rows if "draws" in row), key=lambda row: -row["gap"])
    new = [row for row in measured if not row["papers_pair"] and row["gap"] >= CLEAR_GAP]
    groups = {
        "all": new,
        "never trained on": [row for row in new if not row["trained_on"]],
        "trained on": [row for row in new if row["trained_on"]],
        "right or wrong": [row for row in new if row["family"] not in JUDGED],
        "right or wrong, both models half right or better": [
            row for row in new if row["family"] not in JUDGED and row["level"] >= 0.5
        ],
        "right or wrong, less": [row for row in new if row["family"] not in JUDGED and row["level"] < 0.5],
    }
    report = {
        "date": str(date.today()),
        "version": __version__,
        "data_digest": digest_of(*((data / "train" / f"{name}.parquet").read_bytes() for name in ("models", "pairs")))[
            :12
        ],
        "summary": {f"{label}: {name}": summary(chosen, name) for label, chosen in groups.items() for name in SCORERS},
        "regressions": {
            f"{label}: {name} over {what}{', within families' if within else ''}": regression(
                groups[label], name, what, within=within
            )
            for label, name in (("all", "unseen"), ("right or wrong", "unseen"), ("never trained on", "default"))
            for what in ("gap", "ability_gap", "level")
            for within in (False, True)
        },
        "own_scores": transfer_for_pair.summaries(groups["right or wrong"]),
        "pairs": [reported(row) for row in measured],
        "left_out": [row for row in rows if "draws" not in row],
    }
    return report, measured


def reported(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without the draws, and of the seeds their mean."""
    kept = {key: value for key, value in row.items() if key != "draws"}
    if "own_scores" in row:
        kept["own_scores"] = {
            n: {way: float(np.mean(values)) for way, values in ways.items()} for n, ways in row["own_scores"].items()
        }
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{date.today()}-transfer.json")
    given = parser.parse_args()
    need(given.data, "train")
    report, measured = report_of(given.data)
    print_table(measured)
    transfer_for_pair.print_table(report["own_scores"])
    print(json.dumps({key: report[key] for key in ("summary", "regressions")}, indent=1))
    given.out.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    print("| family | strong | weak | gap | ability gap | level | default | unseen | for the pair | length | oracle |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        mark = "*" if row["papers_pair"] else ""
        unseen = shown(row["unseen"]) if row["trained_on"] else "the same"
        print(
            f"| {row['family']} | {row['strong']}{mark} | {row['weak']} | {row['gap']:.3f} | "
            f"{row['ability_gap']:.2f} | {row['level']:.2f} | {shown(row['default'])} | {unseen} | "
            f"{row['for_the_pair']['apgr']:.3f} | {row['length']['apgr']:.3f} | {row['oracle']:.2f} |"
        )


def shown(figures: Mapping[str, Any]) -> str:
    return f"{figures['apgr']:.3f} ({figures['interval'][0]:.3f} to {figures['interval'][1]:.3f})"


if __name__ == "__main__":
    main()
