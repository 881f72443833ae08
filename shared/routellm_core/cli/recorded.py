"""`routellm recorded`: what the calls written down by a recorder say, and files made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routellm_core.cli.evaluate import print_json
from routellm_core.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from routellm_core.policy import Saving

__all__ = ["recorded"]


def recorded(
    file: Annotated[Path, typer.Argument(help="What a recorder wrote: *.jsonl or *.sqlite.", show_default=False)],
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="What a route costs, weakest first: weak=openai:gpt-4.1-nano, or dollars per million tokens in/out: "
            "strong=2.00/8.00. With all of them, the saving against all strong is worked out.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Write the recorded prompts to a JSONL file, for `routellm calibrate`.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Write prompt, model and feedback to a JSONL file, for training."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Sum up recorded calls: shares, tokens, latencies, feedback and the saving, by route."""
    from routellm_core.recording import read_recording

    places = [path.resolve() for path in (file, prompts, scores) if path is not None]
    if len(set(places)) < len(places):
        raise ConfigurationError("the recording, --prompts and --scores are different files; one would replace another")
    recording = read_recording(file)
    report: dict[str, Any] = {"file": str(file), **recording.summary()}
    try:
        saving = recording.saving(_prices(price)) if price else None
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("prices=", "--price")) from error
    if saving is not None:
        report["saving"] = {
            "usd": saving.usd,
            "all_strong_usd": saving.all_strong_usd,
            "fraction": saving.fraction if saving.all_strong_usd > 0 else None,
            "without_usage": saving.without_usage,
        }
    if prompts is not None:
        _write(prompts, [{"prompt": text} for text in recording.prompts()], "prompt", "prompts=True")
    if scores is not None:
        _write(scores, recording.scores(), "prompt with feedback", "prompts=True, and give it feedback")
    if as_json:
        print_json(report)
        return
    for line in _lines(report, saving):
        typer.echo(line)


def _prices(given: Sequence[str]) -> dict[str, str | tuple[float, float]]:
    prices: dict[str, str | tuple[float, float]] = {}
    for text in given:
        route, equals, price = text.partition("=")
        if not equals or not route or not price:
            raise ConfigurationError(f"--price is written route=provider:model or route=in/out, got {text!r}")
        into, slash, out = price.partition("/")
        try:
            prices[route] = (float(into), float(out)) if slash else price
        except ValueError:
            prices[route] = price  # a model's name may hold a slash
    return prices


def _write(path: Path, rows: Sequence[Mapping[str, Any]], what: str, how: str) -> None:
    from routellm_core.persistence import write_bytes

    if not rows:
        raise DataError(f"the recording holds no {what}: record with {how}")
    try:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(path, lines.encode("utf-8", "backslashreplace"))  # half a surrogate pair as JSON's own escape
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    typer.echo(f"written: {path}, {len(rows):,} rows", err=True)


def _lines(report: Mapping[str, Any], saving: Saving | None) -> list[str]:
    lines = [
        f"{report['calls']:,} calls, {report['answers']:,} answers, {report['failed_attempts']:,} failed attempts, "
        f"{report['scorer_errors']:,} without a win rate because scoring failed"
    ]
    if report["torn_lines"]:
        lines.append(f"{report['torn_lines']:,} torn lines left out")
    for route, own in report["routes"].items():
        parts = [
            f"{own['share']:6.1%} {route}: {own['answers']:,} answers",
            f"{own['input_tokens']:,} tokens in, {own['output_tokens']:,} out",
        ]
        if own["without_usage"]:
            parts.append(f"{own['without_usage']:,} without a count")
        if own["median_latency_s"] is not None:
            parts.append(f"median {own['median_latency_s']:.3g} s")
        if own["feedback"]:
            parts.append(f"feedback {own['mean_feedback']:.2f} ({own['feedback']:,} answers)")
        lines.append(", ".join(parts))
    if saving is not None:
        lines.append(str(saving))
    return lines
