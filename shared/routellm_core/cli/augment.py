"""`routellm augment`: choose prompts to label, and label them by known answers or by a judge model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routellm_core.cli.prompts import from_file
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.persistence import write_bytes

if TYPE_CHECKING:
    from routellm_core.augmentation import Estimate, Journal, LabellingResult

__all__ = ["augment"]

augment = typer.Typer(
    help="Get more labels to train on: choose prompts, run both models on them, compare the answers.",
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(help="Prompts: JSONL, or plain lines; '-' is standard input.")]
Strong = Annotated[str, typer.Option(help="Strong model, as 'provider:model'.")]
Weak = Annotated[str, typer.Option(help="Weak model, as 'provider:model'.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Write labels here as JSONL, whole or not at all.", dir_okay=False)
]
Column = Annotated[str, typer.Option(help="Field that holds the prompt.")]
JournalPath = Annotated[
    Path | None,
    typer.Option(
        help="Where paid calls are kept, so that an interrupted run goes on. Default: OUT with '.journal.jsonl' added.",
        dir_okay=False,
    ),
]
Budget = Annotated[
    float | None, typer.Option(help="US dollars, what the journal holds already included; stops before more is spent.")
]
Concurrency = Annotated[int, typer.Option(help="Calls under way at once.")]
Price = Annotated[
    list[str] | None,
    typer.Option(help="MODEL=IN/OUT: US dollars per million tokens of a model that the price list lacks. Repeatable."),
]
Framework = Annotated[
    str | None, typer.Option(help="Make models with 'langchain' or 'llama-index'. Default: the first that can.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Spend without being asked.")]


@augment.command()
def gold(
    file: File,
    strong: Strong,
    weak: Weak,
    out: Out,
    checker: Annotated[str, typer.Option(help="How answers are checked: 'choice', 'numeric' or 'exact'.")] = "exact",
    answer_column: Annotated[str, typer.Option(help="Field that holds the right answer.")] = "answer",
    strong_column: Annotated[
        str | None, typer.Option(help="Field with the strong model's score: then no model is called.")
    ] = None,
    weak_column: Annotated[str | None, typer.Option(help="Field with the weak model's score.")] = None,
    column: Column = "prompt",
    journal: JournalPath = None,
    budget_usd: Budget = None,
    concurrency: Concurrency = 8,
    weak_first: Annotated[
        bool,
        typer.Option(
            "--weak-first",
            help="Ask the strong model only where the weak one is wrong: about half the strong calls for the same "
            "router. For training; not for --quality-floor or evaluation.",
        ),
    ] = False,
    price: Price = None,
    framework: Framework = None,
    yes: Yes = False,
) -> None:
    """Label prompts whose right answers are known: both models answer, a checker compares.

    With --strong-column and --weak-column the scores are taken from the file.
    """
    from routellm_core.augmentation import estimate_gold, label_from_scores, label_gold

    _check_kept(file, out, journal)
    rows = from_file(file, column)
    if strong_column is not None or weak_column is not None:
        if strong_column is None or weak_column is None:
            raise ConfigurationError("give both --strong-column and --weak-column, or none of them")
        labels = label_from_scores(
            rows,
            strong_model=strong,
            weak_model=weak,
            strong_column=strong_column,
            weak_column=weak_column,
            prompt_column=column,
        )
        _write(out, labels)
        typer.echo(f"{len(labels)} labels from the scores in {file}: {out}", err=True)
        return
    shared: dict[str, Any] = {"strong": strong, "weak": weak, "framework": framework, "prices": _prices(price)}
    _labelled(
        out,
        journal,
        lambda kept: estimate_gold(rows, prompt_column=column, journal=kept, **shared),
        lambda kept: label_gold(
            rows,
            checker=checker,
            prompt_column=column,
            answer_column=answer_column,
            journal=kept,
            budget_usd=budget_usd,
            concurrency=concurrency,
            weak_first=weak_first,
            progress=True,
            **shared,
        ),
        budget_usd=budget_usd,
        yes=yes,
    )


@augment.command()
def judge(
    file: File,
    strong: Strong,
    weak: Weak,
    judge: Annotated[str, typer.Option(help="Judge, as 'provider:model'; a third model.")],
    out: Out,
    column: Column = "prompt",
    journal: JournalPath = None,
    budget_usd: Budget = None,
    concurrency: Concurrency = 8,
    price: Price = None,
    framework: Framework = None,
    yes: Yes = False,
) -> None:
    """Label prompts by a judge: both models answer, the judge compares the answers in both orders.

    Orders that disagree make a tie.
    """
    from routellm_core.augmentation import estimate_judge, label_by_judge

    _check_kept(file, out, journal)
    prompts = [row[column] for row in from_file(file, column)]
    shared: dict[str, Any] = {
        "strong": strong,
        "weak": weak,
        "judge": judge,
        "framework": framework,
        "prices": _prices(price),
    }
    _labelled(
        out,
        journal,
        lambda kept: estimate_judge(prompts, journal=kept, **shared),
        lambda kept: label_by_judge(
            prompts, journal=kept, budget_usd=budget_usd, concurrency=concurrency, progress=True, **shared
        ),
        budget_usd=budget_usd,
        yes=yes,
    )


@augment.command()
def select(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the chosen rows here as JSONL.", dir_okay=False)],
    n: Annotated[int, typer.Option("--n", help="How many prompts to choose.")],
    router: Annotated[
        str, typer.Option(help="Says where it is unsure, and how prompts are alike: 'default', a folder, a hub name.")
    ] = "default",
    column: Column = "prompt",
    seed: Annotated[int, typer.Option(help="Of the clusters.")] = 0,
) -> None:
    """Choose prompts to label: spread over what is asked, and where the router is least sure.

    They are no random sample: train on them, calibrate and evaluate on others. On the data it was measured on it
    saved no labels against drawing at random.
    """
    import numpy as np

    from routellm_core.augmentation import select_prompts
    from routellm_core.routers import load_router
    from routellm_core.routers.metadata import asked, known_metadata

    _check_kept(file, out)
    rows = from_file(file, column)
    prompts = [row[column] for row in rows]
    loaded = load_router(router)
    if loaded.encoder is None:
        raise ConfigurationError(
            f"router {router!r} has no encoder, so it cannot say which prompts are alike; try 'default'"
        )
    win_rates = asked(loaded.win_rate, prompts, known_metadata(loaded.metadata_columns, rows))
    chosen = select_prompts(prompts, win_rates, n, rng=np.random.default_rng(seed), encoder=loaded.encoder)
    _write(out, [rows[i] for i in chosen])
    typer.echo(f"{len(chosen)} of {len(rows)} prompts chosen: {out}", err=True)


def _check_kept(file: str, *written: Path | None) -> None:
    if any(path is not None and os.path.realpath(path) == os.path.realpath(file) for path in written):
        raise ConfigurationError(f"{file} would be replaced by what is written: give another file")


def _labelled(
    out: Path,
    journal: Path | None,
    estimate: Callable[[Journal], Estimate],
    label: Callable[[Journal], LabellingResult],
    *,
    budget_usd: float | None,
    yes: bool,
) -> None:
    from routellm_core.augmentation import Journal

    path = journal if journal is not None else out.with_name(out.name + ".journal.jsonl")
    if os.path.realpath(path) == os.path.realpath(out):
        raise ConfigurationError(
            f"the labels would replace the journal {path}, which holds what was paid; give two files"
        )
    if not out.parent.is_dir():  # before anything is paid
        raise DataError(f"cannot write {out}: no such folder")
    with Journal(path) as kept:
        expected = estimate(kept)
        known = f"; {len(kept)} calls are in {path} already" if len(kept) else ""
        typer.echo(f"Estimate: {expected}{known}", err=True)
        if expected.calls and not yes and sys.stdin.isatty():
            if not typer.confirm("Go on?", err=True):
                raise ConfigurationError("nothing was called")
        elif budget_usd is None and not yes and not expected.is_free:
            raise ConfigurationError(
                "nothing was called: it costs money, and there is no terminal to ask at; give --yes, or a limit "
                "with --budget-usd"
            )
        result = label(kept)
    for reason, count in result.dropped.counts().items():
        typer.echo(f"{count} without a label: {reason}", err=True)
    typer.echo(f"Spent: {result.spending}", err=True)
    if not result.rows:
        raise DataError(f"no prompt got a label, so {out} was not written; the calls are in {path}")
    _write(out, result.rows)
    typer.echo(f"{len(result.rows)} of {result.dropped.before} prompts labelled: {out}", err=True)
    if result.is_over_budget:
        typer.echo("The budget stopped it; the same command with a larger one goes on from there", err=True)


def _prices(given: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    prices = {}
    for text in given or ():
        model, _, amounts = text.rpartition("=")
        asked, slash, answered = amounts.partition("/")
        try:
            prices[model] = (float(asked), float(answered))
        except ValueError:
            slash = ""
        if not (model and slash):
            raise ConfigurationError(f"--price is MODEL=IN/OUT, such as 'ollama:llama3.2=0/0', got {text!r}")
    return prices


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    # ASCII, since prompts may hold lone surrogates, which can only be written as escapes
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    try:
        write_bytes(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
