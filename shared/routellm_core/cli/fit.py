"""`routellm fit`: a router from one's own labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from routellm_core.cli.evaluate import Range, in_words_of_options, print_json
from routellm_core.errors import DataError
from routellm_core.persistence import check_replaceable

__all__ = ["fit"]


def fit(
    file: Annotated[
        str,
        typer.Argument(
            help="Prompts with strong_score and weak_score, or one column of scores a model: JSONL, CSV or Parquet.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the fitted router.", show_default=False)],
    base: Annotated[str, typer.Option(help="Router that serves as prior: 'default', or a folder.")] = "default",
    strong: Annotated[
        str | None, typer.Option(help="Strong model, where there are several. Default: the best on average.")
    ] = None,
    weak: Annotated[str | None, typer.Option(help="Weak model, likewise. Default: the worst on average.")] = None,
    score_range: Range = None,
    topic: Annotated[
        bool,
        typer.Option(
            "--topic",
            help="Learn from the file's column of topics (topic, domain, category, ...), too. Scoring then wants it as "
            "well: FittedRouter.win_rate(prompts, metadata=...).",
        ),
    ] = False,
    learning_curve: Annotated[
        bool, typer.Option(help="Also fit on parts of the labels, to see whether more would help.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the folds.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a router to your own labels: prompts, and how good two or more models' answers to them were.

    The base router is the prior, so that few labels do no harm. All figures come from 5-fold cross-validation. To
    choose which prompts to label next: `routellm augment select`.
    """
    check_replaceable(out)
    from routellm_core.evaluation import read_evaluation_set
    from routellm_core.training import fit_router

    with in_words_of_options():
        data = read_evaluation_set(file, strong=strong, weak=weak, score_range=score_range)
    if topic and (data.groups is None or data.group_column is None):
        raise DataError(f"{file} has no column of topics")
    result = fit_router(
        data.prompts,
        scores={model: data.scores[:, i] for i, model in enumerate(data.models)},
        strong=data.strong,
        weak=data.weak,
        base=base,
        metadata={str(data.group_column): data.groups} if topic and data.groups is not None else None,
        learning_curve=learning_curve,
        seed=seed,
    )
    try:
        result.save(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error
    if as_json:
        report = {
            "file": file,
            "saved": str(out),
            "strong": result.router.strong,
            "weak": result.router.weak,
            "labels": result.n_labels,
            "apgr": result.apgr,
            "apgr_interval": result.apgr_interval,
            "base_apgr": result.base_apgr,
            "learning_curve": list(result.learning_curve),
        }
        print_json(json.loads(json.dumps(report)))
        return
    typer.echo(f"{result.router.strong} against {result.router.weak}: {result}")
    for row in result.learning_curve:
        gain = ""
        if "gain" in row:
            gain = f", {row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f}) by these labels"
        typer.echo(
            f"{row['labels']:8,.0f} labels: APGR {row['apgr']:.3f} ({row['low']:.3f} to {row['high']:.3f}){gain}"
        )
    typer.echo(f"saved: {out}", err=True)
