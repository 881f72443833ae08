"""The parts of the quality table: each measures by the protocol of a sibling, and states aims and published figures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import escalation
import many_models
import numpy as np
import own_labels
import speed
import transfer
from evaluation_sets import BENCHMARKS, ROOT, need
from quality_lines import Line

from routellm_core.evaluation import Evaluation, evaluate, read_evaluation_set
from routellm_core.evaluation.figures import Difference
from routellm_core.evaluation.published import published_for
from routellm_core.routers.base import Router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.routers.loading import EMBEDDED

recipe = transfer.recipe

AIMS = {  # router -> benchmark -> (aim, at least)
    "default": {"MMLU": (0.60, 0.56), "GSM8K": (0.60, 0.55), "MT-Bench": (0.75, 0.62)},
    "contextual": {"MMLU": (0.625, 0.59), "GSM8K": (0.622, 0.56), "MT-Bench": (0.80, 0.68)},
}
ABOVE_LENGTH = {"default": ("MT-Bench",), "contextual": ("MMLU", "MT-Bench")}
HELD_OUT_AIM = {"mmlu_pro": 0.54, "zeroeval": 0.54, "llmrouter": 0.54}
OWN_LABELS_AIM = {500: 0.635, 1531: 0.65}
GSM8K_LABELS_AIM, GSM8K_CASCADE_AIM = 0.66, 0.80
WILDBENCH_AIM = {
    "gpt-3.5-turbo-0125": 0.72,
    "Phi-3-mini-128k-instruct": 0.67,
    "gemma-7b-it": 0.60,
    "reka-flash-20240226": 0.56,
}
LEAST_PAIRS = 20
TRANSFER_GROUPS = {
    "all": "all pairs",
    "never trained on": "pairs of families it was not trained on",
    "right or wrong, both models half right or better": "judged right or wrong, both models half right or better",
    "right or wrong, less": "judged right or wrong, both models less than that",
}
LIMITS = {"default": {"ms": 0.25, "MB": 12.0}}
WHEEL_MB = 40.0


@dataclass(frozen=True)
class Given:
    """What was asked for.

    Attributes:
        data: Folder of eval/ and train/.
        routers: By name, those that could be loaded.
        base: The router that cascades start from.
        bases: The routers that own labels start from.
        resamples: Of the intervals of the part routers.
        not_loaded: Why others could not.
    """

    data: Path
    routers: dict[str, Router]
    base: str
    bases: Sequence[str]
    resamples: int
    not_loaded: dict[str, str] = field(default_factory=dict)


# -- parts
def of_routers(given: Given) -> list[Line]:
    need(given.data)
    lines = [Line(what=name, figure=None, remark=f"not loaded: {why}") for name, why in given.not_loaded.items()]
    for title, name in BENCHMARKS:
        data = read_evaluation_set(given.data / "eval" / f"{name}.parquet")
        best = next((each for each in published_for(data) if each.router != "random"), None)
        baselines = {}
        for router_name, router in given.routers.items():
            say(f"  {title}: {router_name}")
            found = evaluate(router, data, n_resamples=given.resamples, name=router_name)
            baselines = found.baselines
            aim, floor = AIMS.get(str(router.name), {}).get(title, (None, None))
            lines.append(
                Line(
                    what=f"{title}: {router_name}",
                    figure=found.exact.apgr,
                    interval=found.exact.apgr_interval,
                    aim=aim,
                    floor=floor,
                    published=best and best.apgr,
                    remark=f"{noted(found)}; by the paper's way {found.paper.apgr:.3f}",
                    details=found.exact.to_dict(),
                )
            )
            ahead = difference_to_length(found.baselines["prompt_length"].difference)
            must = title in ABOVE_LENGTH.get(str(router.name), ())
            lines.append(
                Line(
                    what=f"{title}: {router_name} less prompt length",
                    figure=ahead.apgr,
                    interval=ahead.apgr_interval,
                    aim=0.0 if must else None,
                    signed=True,
                    remark="paired, on the same resamples",
                )
            )
        for name, shown in (("prompt_length", "prompt length"), ("random", "random")):
            if name in baselines:
                exact = baselines[name].exact
                remark = "known without drawing; where most random orders land" if name == "random" else ""
                lines.append(
                    Line(what=f"{title}: {shown}", figure=exact.apgr, interval=exact.apgr_interval, remark=remark)
                )
        if best is not None:
            remark = f"{best.router}, trained with augmentation; by the paper's way"
            lines.append(Line(what=f"{title}: published best", figure=best.apgr, remark=remark))
    return lines


def noted(found: Evaluation) -> str:
    return found.note.partition(": ")[2] or f"{len(found.data):,} prompts"


def difference_to_length(found: Difference | None) -> Difference:
    assert found is not None  # prompt length orders prompts, so evaluate() has compared it
    return found


def of_held_out(given: Given) -> list[Line]:
    need(given.data, "train")
    table, pairs = recipe.read_scores(given.data), recipe.read_pairs(given.data)
    lines = []
    for name in [name for name in given.routers if name in recipe.RECIPES]:
        say(f"  {name}")
        router = cast(DifficultyRouter, given.routers[name])
        for row in recipe.measure(recipe.RECIPES[name], table, pairs, router, np.random.default_rng(recipe.SEED)):
            how = "which never fitted it" if row.held_out == "never fitted" else f"without {row.held_out}"
            length = "" if row.length_apgr is None else f"; prompt length {row.length_apgr:.3f}"
            undefined = "; the source's strong model is not the better one" if row.apgr is None else ""
            lines.append(
                Line(
                    what=f"{row.source}: {name}",
                    figure=row.apgr,
                    interval=row.interval,
                    aim=HELD_OUT_AIM.get(row.source),
                    remark=f"{how}; {row.n:,} prompts{length}{undefined}",
                )
            )
    return lines


def of_own_labels(given: Given) -> list[Line]:
    need(given.data)
    mmlu, gsm8k = best_published(given.data, "mmlu"), best_published(given.data, "gsm8k")
    lines = []
    for base in given.bases:
        for n in own_labels.LABELS:
            for with_topic in (False, True):
                what = f"MMLU, {n:,} labels{', topic given' if with_topic else ''}, on {base}"
                say(f"  {what}")
                found = own_labels.mmlu(given.data, base, n, with_topic=with_topic)
                lines.append(own_labels_line(what, found, OWN_LABELS_AIM.get(n), mmlu))
        say(f"  GSM8K, on {base}")
        found = own_labels.gsm8k(given.data, base)
        lines.append(own_labels_line(f"GSM8K, 5 folds, on {base}", found, GSM8K_LABELS_AIM, gsm8k))
    return lines


def own_labels_line(what: str, found: dict[str, Any], aim: float | None, published: float | None) -> Line:
    return Line(
        what=what,
        figure=found["apgr"],
        interval=pair(found["interval_of_the_first"]),
        aim=aim,
        published=published,
        remark=f"draws {found['lowest']:.3f} to {found['highest']:.3f}; the base router there {found['base']:.3f}",
        details=found,
    )


def best_published(data: Path, name: str) -> float | None:
    lines = published_for(read_evaluation_set(data / "eval" / f"{name}.parquet"))
    return max((each.apgr for each in lines), default=None)


def of_cascade(given: Given) -> list[Line]:
    need(given.data)
    need(given.data, "train")
    sets: dict[str, tuple[Callable[[], escalation.Rows], float | None]] = {
        "GSM8K": (lambda: escalation.gsm8k(given.data), GSM8K_CASCADE_AIM)
    }
    for model in escalation.WILDBENCH:
        sets[f"WildBench, {model}"] = (lambda m=model: escalation.wildbench(given.data, m), WILDBENCH_AIM.get(model))
    sets["AlpacaEval, Mixtral"] = (lambda: escalation.alpaca_eval(given.data), None)
    lines = []
    for name, (rows, aim) in sets.items():
        say(f"  {name}")
        lines += cascade_lines(name, escalation.table(rows(), given.base), aim)
    return lines


def cascade_lines(name: str, found: dict[str, Any], aim: float | None) -> list[Line]:
    """A verifier's APGR; where both models have a price also the least gain over the prompt alone, 20 to 80 %."""
    alone = "" if found["prompt_alone"] is None else f"; prompt alone {found['prompt_alone']:.3f}"
    remark = f"{found['answers']:,} answers, 5 folds; draws {found['lowest']:.3f} to {found['highest']:.3f}{alone}"
    interval = pair(found["interval_of_the_first"])
    lines = [Line(what=name, figure=found["apgr"], interval=interval, aim=aim, remark=remark, details=found)]
    scale = " of a judge's 1 to 10" if name.startswith("WildBench") else ""
    parts = {key: value for key, value in found.get("cost", {}).items() if key.startswith("at ")}
    ways = {
        "cascade": ("cascade_gain", "cascade_gain_interval"),
        "both cuts": ("both_cuts_gain_at_that_cost", "both_cuts_gain_interval"),
    }
    for way, (gain, bounds) in ways.items() if parts else ():
        lowest = min(parts, key=lambda part: parts[part][gain])
        everywhere = ", ".join(f"{part.split()[1]} {parts[part][gain]:+.3f}" for part in parts)
        lines.append(
            Line(
                what=f"{name}: quality{scale} at equal cost, {way} less prompt alone",
                figure=parts[lowest][gain],
                interval=pair(parts[lowest][bounds]),
                aim=0.0,
                signed=True,
                remark=f"the least, {lowest} ({everywhere})",
            )
        )
    return lines


def of_many_models(given: Given) -> list[Line]:
    need(given.data, "train")
    lines = []
    for source, found in many_models.of_all_sources(given.data, n_folds=5).items():
        for way in ("fit_router", "fit_router, task given"):
            figures = found[way]
            lines.append(
                Line(
                    what=f"{source}, {len(found['models'])} models, {way}",
                    figure=figures["aiq"] - figures["aiq_of_single_models"],
                    interval=pair(figures["gain_interval"]),
                    aim=0.0,
                    signed=True,
                    remark=f"quality over cost {figures['aiq']:.3f}, single models "
                    f"{figures['aiq_of_single_models']:.3f}, oracle {figures['aiq_of_oracle']:.3f}",
                )
            )
    return lines


def of_transfer(given: Given) -> list[Line]:
    need(given.data, "train")
    report, _ = transfer.report_of(given.data)
    lines = []
    for label, shown in TRANSFER_GROUPS.items():
        found = report["summary"][f"{label}: default"]
        others = [report["summary"][f"{label}: {name}"]["mean"] for name in ("length", "for_the_pair")]
        lines.append(
            Line(
                what=f"mean APGR, {shown}",
                figure=found["mean"],
                interval=pair(found["interval"]),
                remark=f"{found['pairs']} pairs, {found['lowest']:.3f} to {found['highest']:.3f}; "
                f"intervals of {found['above_chance']} above chance, of {found['below_chance']} below; "
                "prompt length {:.3f}, abilities known {:.3f}".format(*others),
            )
        )
    n_pairs = report["summary"]["all: default"]["pairs"]
    lines.insert(0, Line(what="pairs that the paper never saw", figure=n_pairs, aim=LEAST_PAIRS, digits=0))
    for what in ("ability_gap", "level"):
        slope = report["regressions"][f"right or wrong: unseen over {what}, within families"]
        interval = pair(slope["interval_over_families"])
        what = {"ability_gap": "the ability gap", "level": "how often both are right"}[what]
        lines.append(
            Line(
                what=f"slope of APGR over {what}, within families",
                figure=slope["slope"],
                interval=interval,
                signed=True,
                remark=f"{slope['pairs']} pairs judged right or wrong; interval over families",
            )
        )
    return lines


def of_speed(given: Given) -> list[Line]:
    lines = []
    for name, router in given.routers.items():
        found, limits = speed.single(router), LIMITS.get(str(router.name), {})
        theirs = found.get("minilm_median_ms")
        remark = f"median of 400 calls, 200 characters; 95 % of them within {found['p95_ms']:.3f} ms"
        remark += "" if theirs is None else f"; MiniLM by sentence-transformers {theirs:.1f} ms"
        decision = {"what": f"{name}: one decision", "figure": found["median_ms"], "unit": "ms", "details": found}
        lines.append(Line(**decision, aim=limits.get("ms"), at_most=True, remark=remark))
        folder = folder_of(router)
        if folder is not None:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
            lines.append(
                Line(what=f"{name}: size", figure=size, aim=limits.get("MB"), at_most=True, unit="MB", digits=2)
            )
    return [*lines, wheel_line()]


def folder_of(router: Router) -> Path | None:
    """Where it was loaded from, if that is a folder here."""
    source = str(router.source)
    folder = Path(str(files("routellm_core") / "models" / source)) if source in EMBEDDED else Path(source)
    return folder if folder.is_dir() else None


def wheel_line() -> Line:
    line = {"what": "wheel", "aim": WHEEL_MB, "at_most": True, "unit": "MB", "digits": 2}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if built.returncode or not wheels:
            return Line(**line, figure=None, remark="not built: `pip wheel` failed")
        return Line(**line, figure=wheels[0].stat().st_size / 1e6)


def pair(bounds: Sequence[float]) -> tuple[float, float] | None:
    return (float(bounds[0]), float(bounds[1])) if len(bounds) else None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


PARTS: dict[str, tuple[str, Callable[[Given], list[Line]]]] = {
    "routers": ("Embedded routers, exact APGR", of_routers),
    "held-out": ("Sources left out of the fit, exact APGR", of_held_out),
    "own-labels": ("Labels of one's own, exact APGR", of_own_labels),
    "cascade": ("Cascade: a verifier of the weak answer, exact APGR", of_cascade),
    "many-models": ("Many models: area under quality over cost, less that of single models", of_many_models),
    "transfer": ("The default router on other pairs of models, exact APGR", of_transfer),
    "speed": ("Speed and size", of_speed),
}
