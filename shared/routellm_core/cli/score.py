"""`routellm score`: win rates and routes of prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from routellm_core.cli.prompts import any_file, from_arguments
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.persistence import write_bytes

__all__ = ["score"]

_BLOCK = 1000  # prompts scored between two steps of the progress bar
_SHOWN = 60  # characters of a prompt in the table


def score(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts to score.", show_default=False)] = None,
    file: Annotated[
        str | None,
        typer.Option(help="Read prompts from here: JSONL, CSV, Parquet or plain lines; '-' is standard input."),
    ] = None,
    column: Annotated[str, typer.Option(help="Field that holds the prompt.")] = "prompt",
    router: Annotated[
        str,
        typer.Option(
            help="'default', 'contextual', 'random', a folder, owner/name on the Hugging Face hub, or a published one "
            "with its threshold: router-mf-0.11593."
        ),
    ] = "default",
    encoder: Annotated[
        str | None,
        typer.Option(help="The embedding model, for a router that needs one given: openai:text-embedding-3-small."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Strong from this win rate on, 0..1. Default: the one for a strong share of .5."),
    ] = None,
    strong_share: Annotated[
        float | None,
        typer.Option(help="Instead: the share, 0..1, of the router's own calibration prompts that would go strong."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write JSONL here, whole or not at all; '-' is standard output.", dir_okay=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSONL instead of a table.")] = False,
) -> None:
    """Score prompts: how likely does the strong model beat the weak one, and which of them should answer?

    A table on a terminal, JSONL with --json, into a file, or down a pipe. The fields of the input are
    kept; win_rate and route are added. A router that was fitted with metadata reads its columns from the
    file, here and in the other commands.
    """
    if bool(prompts) == (file is not None):
        raise ConfigurationError(
            "give prompts as arguments, or --file PATH, or --file - for standard input; one of the three"
        )
    if sys.stdout is None and (output is None or str(output) == "-"):
        raise DataError("cannot write the result: standard output is closed")
    rows = (
        any_file(file, column, added=("win_rate", "route"))
        if file is not None
        else from_arguments(prompts or [], column)
    )

    from routellm_core.policy import RoutingPolicy

    policy = RoutingPolicy(router, encoder=encoder, threshold=threshold, strong_share=strong_share, on_error="raise")
    scored = _scored(rows, column, policy)
    if output is not None and str(output) != "-":
        try:
            write_bytes(output, _jsonl(scored).encode())
        except OSError as error:
            raise DataError(f"cannot write {output}: {error.strerror or error}") from error
        typer.echo(f"{_summary(scored, policy)}: {output}", err=True)
    elif as_json or output is not None or not sys.stdout.isatty():
        sys.stdout.buffer.write(_jsonl(scored).encode())
        sys.stdout.flush()
    else:
        _print_table(scored, column, _summary(scored, policy))


def _scored(rows: list[dict[str, Any]], column: str, policy: Any) -> list[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import track

    from routellm_core.policy import RouteRequest

    # to stderr, so that a bar never ends up in somebody's JSONL
    console = Console(stderr=True)
    starts = track(
        range(0, len(rows), _BLOCK),
        description="Scoring",
        console=console,
        transient=True,
        disable=not console.is_terminal or len(rows) <= _BLOCK,
    )
    scored: list[dict[str, Any]] = []
    for start in starts:
        block = rows[start : start + _BLOCK]
        requests = [RouteRequest(text=row[column], metadata=row) for row in block]
        for row, decision in zip(block, policy.decide(requests), strict=True):
            scored.append({**row, "win_rate": round(decision.win_rate, 6), "route": decision.route})
    return scored


def _jsonl(rows: list[dict[str, Any]]) -> str:
    # lone surrogates can come in as JSON escapes; they can leave only as such
    return "".join(f"{_encodable(row)}\n" for row in rows)


def _encodable(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


def _share(rows: list[dict[str, Any]]) -> float:
    strong: int = sum(row["route"] == "strong" for row in rows)
    return strong / len(rows)


def _summary(rows: list[dict[str, Any]], policy: Any) -> str:
    prompts = "1 prompt" if len(rows) == 1 else f"{len(rows)} prompts"
    return f"{prompts} scored, {_share(rows):.0%} strong at threshold {policy.thresholds[0]:.4f}"


def _print_table(rows: list[dict[str, Any]], column: str, summary: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=summary)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis")
    table.add_column("win_rate", justify="right")
    table.add_column("route")
    for row in rows:
        shown = " ".join(row[column].split())
        shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
        # control characters could drive the terminal, and lone surrogates cannot be printed
        shown = "".join(character if character.isprintable() else "\ufffd" for character in shown)
        style = "bold" if row["route"] == "strong" else ""
        table.add_row(Text(shown), f"{row['win_rate']:.4f}", Text(row["route"], style=style))
    Console().print(table)
