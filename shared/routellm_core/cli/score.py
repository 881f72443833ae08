"""`routellm score`: win rates and routes of prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from routellm_core.cli.prompts import from_arguments, from_file
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.persistence import write_bytes

__all__ = ["score"]

_BLOCK = 1000  # prompts scored between two steps of the progress bar
_SHOWN = 60  # characters of a prompt in the table


def score(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts to score.", show_default=False)] = None,
    file: Annotated[
        str | None, typer.Option(help="Read prompts from here: JSONL, or plain lines; '-' is standard input.")
    ] = None,
    column: Annotated[str, typer.Option(help="Field of a JSONL line that holds the prompt.")] = "prompt",
    router: Annotated[
        str, typer.Option(help="'default', 'random', a folder, or owner/name on the Hugging Face hub.")
    ] = "default",
    threshold: Annotated[
        float | None,
        typer.Option(help="Strong from this win rate on, 0..1. Default: the one for a strong share of .5."),
    ] = None,
    strong_share: Annotated[
        float | None, typer.Option(help="Instead: the share of prompts that should go strong, 0..1.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write JSONL here, whole or not at all.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSONL instead of a table.")] = False,
) -> None:
    """Score prompts: how likely does the strong model beat the weak one, and which of them should answer?

    A table on a terminal, JSONL with --json, into a file, or down a pipe. The fields of JSONL input are
    kept; win_rate and route are added.
    """
    if bool(prompts) == (file is not None):
        raise ConfigurationError("give prompts as arguments or --file, one of the two (see routellm score --help)")
    rows = from_file(file, column) if file is not None else from_arguments(prompts or [], column)

    from routellm_core.policy import RoutingPolicy

    policy = RoutingPolicy(router, threshold=threshold, strong_share=strong_share, on_error="raise")
    scored = _scored(rows, column, policy)
    if output is not None:
        try:
            write_bytes(output, _jsonl(scored).encode())
        except OSError as error:
            raise DataError(f"cannot write {output}: {error.strerror or error}") from error
        typer.echo(f"{len(scored)} prompts scored, {_share(scored):.0%} strong: {output}", err=True)
    elif as_json or not sys.stdout.isatty():
        sys.stdout.buffer.write(_jsonl(scored).encode())
        sys.stdout.flush()
    else:
        _print_table(scored, column, policy.thresholds[0])


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
        for row, decision in zip(block, policy.decide([RouteRequest(text=row[column]) for row in block]), strict=True):
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


def _print_table(rows: list[dict[str, Any]], column: str, threshold: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=f"threshold {threshold:.4f}, {_share(rows):.0%} strong")
    table.add_column("prompt")
    table.add_column("win_rate", justify="right")
    table.add_column("route")
    for row in rows:
        shown = " ".join(row[column].split())
        shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
        shown = shown.encode("utf-8", "replace").decode()
        style = "bold" if row["route"] == "strong" else ""
        table.add_row(Text(shown), f"{row['win_rate']:.4f}", Text(row["route"], style=style))
    Console().print(table)
