"""`routellm fit-verifier`: a verifier from labelled answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from routellm_core.cli.evaluate import print_json
from routellm_core.errors import DataError
from routellm_core.folders import check_replaceable

__all__ = ["fit_verifier_command"]


def fit_verifier_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="Rows with answer, weak_score, and best also strong_score and prompt: JSONL, CSV or Parquet.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the fitted verifier.", show_default=False)],
    base: Annotated[str, typer.Option(help="Router that gives the prompt's difficulty.")] = "default",
    name: Annotated[
        str | None, typer.Option(help="What records call the verifier. Default: its folder's name.", show_default=False)
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option(help="Also fit on parts of the labels, to see whether more would help.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a verifier to labelled answers of your weak model: which of them the strong model would better.

    All figures come from 5-fold cross-validation. `EscalationPolicy` uses the folder.
    """
    check_replaceable(out, part="verifier")
    from routellm_core.data.files import blocks
    from routellm_core.training import fit_verifier

    columns: dict[str, list[Any]] = {column: [] for column in ("answer", "weak_score", "strong_score", "prompt")}
    for block in blocks(file, frozenset(columns)):
        for column, values in columns.items():
            values += block.columns.get(column, [None] * len(block.numbers))
    for column in ("answer", "weak_score"):
        if not columns[column] or any(value is None for value in columns[column]):
            raise DataError(f"{file} needs a value in the column {column!r} of every row")
    has_strong = any(value is not None for value in columns["strong_score"])
    result = fit_verifier(
        columns["answer"],
        weak_scores=columns["weak_score"],
        strong_scores=columns["strong_score"] if has_strong else None,
        prompts=columns["prompt"],
        base_router=base,
        learning_curve=learning_curve,
        seed=seed,
        name=Path(os.path.abspath(out)).name if name is None else name,
    )
    try:
        result.save(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error
    if as_json:
        report = {
            "file": str(file),
            "saved": str(out),
            "name": result.verifier.name,
            "labels": result.n_labels,
            "learned": result.learned,
            "apgr": result.apgr,
            "apgr_interval": None if result.apgr_interval is None else list(result.apgr_interval),
            "prompt_apgr": result.prompt_apgr,
            "learning_curve": [dict(row) for row in result.learning_curve],
        }
        print_json(report)
        return
    typer.echo(str(result))
    for row in result.learning_curve:
        gain = f", {row['gain']:+.3f} by these labels" if "gain" in row else ""
        typer.echo(
            f"{row['labels']:8,.0f} labels: APGR {row['apgr']:.3f} ({row['low']:.3f} to {row['high']:.3f}){gain}"
        )
    typer.echo(f"saved: {out}", err=True)
