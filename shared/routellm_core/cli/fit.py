"""`routellm fit`: a router from one's own labels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from routellm_core.cli.evaluate import Range, in_words_of_options, print_json
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.folders import check_replaceable

__all__ = ["fit"]


def fit(
    file: Annotated[
        str,
        typer.Argument(
            help="Prompts with strong_score and weak_score, or one column of scores a model: JSONL, CSV or Parquet. "
            "With --recorded what a recorder wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the fitted router.", show_default=False)],
    recorded: Annotated[
        bool,
        typer.Option(
            "--recorded",
            help="The file holds recorded calls with prompts and feedback (JSONL, SQLite); the routes are the models.",
        ),
    ] = False,
    base: Annotated[
        str, typer.Option(help="Router that serves as prior: 'default', 'contextual', or a folder.")
    ] = "default",
    name: Annotated[
        str | None, typer.Option(help="What records call the router. Default: its folder's name.", show_default=False)
    ] = None,
    strong: Annotated[
        str | None, typer.Option(help="Strong model, where there are several. Default: the best on average.")
    ] = None,
    weak: Annotated[str | None, typer.Option(help="Weak model, likewise. Default: the worst on average.")] = None,
    score_range: Range = None,
    topic: Annotated[
        bool,
        typer.Option(
            "--topic",
            help="Learn from the file's column of topics (topic, domain, category, ...), too. Calls then want it as "
            "well.",
        ),
    ] = False,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            help="Learn from this column of categories, too, such as tier. Repeatable. Calls then want it as well: in "
            "config metadata (LangChain), metadata_scope (LlamaIndex), or the scored file.",
        ),
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option(help="Also fit on parts of the labels, to see whether more would help.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the folds.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a router to your own labels: prompts, and how good two or more models' answers to them were.

    The base router is the prior, so that few labels do no harm. All figures come from 5-fold cross-validation. To
    choose which prompts to label next: `routellm augment select`. Feedback to recorded calls (--recorded) says how good
    the answer of one model was; twenty scores of each are the least, a few hundred make a difference. With both
    --strong and --weak named, feedback to other routes is left out.
    """
    check_replaceable(out)
    from routellm_core.training import fit_router

    labels = (
        _recorded(file, strong, weak, metadata or (), topic=topic, score_range=score_range)
        if recorded
        else _labelled(file, strong, weak, metadata or (), topic=topic, score_range=score_range)
    )
    called = Path(os.path.abspath(out)).name if name is None else name
    result = fit_router(**labels, base=base, learning_curve=learning_curve, seed=seed, name=called)
    try:
        result.save(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error
    if as_json:
        report = {
            "file": file,
            "saved": str(out),
            "name": result.router.name,
            "base": result.base,
            "metadata": list(result.router.metadata_columns),
            "strong": result.router.strong,
            "weak": result.router.weak,
            "labels": result.n_labels,
            "apgr": result.apgr,
            "apgr_interval": result.apgr_interval,
            "base_apgr": result.base_apgr,
            "scores": dict(result.n_scores),
            "quality_correlation": dict(result.quality_correlation),
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


def _labelled(
    file: str,
    strong: str | None,
    weak: str | None,
    metadata: Sequence[str],
    *,
    topic: bool,
    score_range: tuple[float, float] | None,
) -> dict[str, Any]:
    from routellm_core.evaluation import read_evaluation_set

    with in_words_of_options():
        data = read_evaluation_set(file, strong=strong, weak=weak, score_range=score_range, metadata=metadata)
    if topic and (data.groups is None or data.group_column is None):
        raise DataError(f"{file} has no column of topics")
    known: dict[str, Any] = {str(data.group_column): data.groups} if topic else {}
    known |= data.metadata or {}
    if missing := [column for column in metadata if column not in known]:
        raise DataError(f"{file} has no column {missing[0]!r}")
    return {
        "prompts": data.prompts,
        "scores": {model: data.scores[:, i] for i, model in enumerate(data.models)},
        "strong": data.strong,
        "weak": data.weak,
        "metadata": known or None,
    }


def _recorded(
    file: str,
    strong: str | None,
    weak: str | None,
    metadata: Sequence[str],
    *,
    topic: bool,
    score_range: tuple[float, float] | None,
) -> dict[str, Any]:
    from routellm_core.recording import read_recording

    if topic or score_range is not None:
        raise ConfigurationError(
            "recorded calls have no topics, and feedback from 0 to 1: give no --topic, no "
            "--score-range beside --recorded"
        )
    # a route that hardly ever answered would stop the fit; naming the two others leaves it out
    pair = None if strong is None or weak is None else (strong, weak)
    labels = read_recording(file).labels(pair, metadata=metadata)
    return {**labels, "strong": strong, "weak": weak}
