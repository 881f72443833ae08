"""`routellm drift`: is today's traffic still what the router was calibrated on?"""

from __future__ import annotations

from typing import Annotated

import typer

from routellm_core.cli.calibrate import read_prompts_of, recorded_win_rates
from routellm_core.cli.evaluate import print_json
from routellm_core.errors import ConfigurationError

__all__ = ["drift"]

_FEW = 100  # reference prompts, under which a share is known to 10 points at best


def drift(
    file: Annotated[
        str,
        typer.Argument(
            help="Prompts of the traffic: JSONL, CSV, Parquet or plain lines; '-' is standard input.",
            show_default=False,
        ),
    ],
    router: Annotated[
        str, typer.Option(help="'default', 'contextual', 'random', a folder, or owner/name on the Hugging Face hub.")
    ] = "default",
    encoder: Annotated[
        str | None,
        typer.Option(help="The embedding model, for a router that needs one given: openai:text-embedding-3-small."),
    ] = None,
    recorded: Annotated[
        bool,
        typer.Option(
            "--recorded", help="The first file is what a recorder wrote: its win rates count, and no prompt is scored."
        ),
    ] = False,
    column: Annotated[str, typer.Option(help="Field that holds the prompt.")] = "prompt",
    reference: Annotated[
        str | None,
        typer.Option(help="Prompts to compare with instead of the router's own calibration: a file like the first."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="The threshold in use. Default: the calibration's.", min=0, max=1)
    ] = None,
    target_share: Annotated[
        float | None,
        typer.Option(
            help="The strong share there should be, 0..1. Default: the calibration's; with --reference the share of "
            "its prompts that reach the threshold."
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Probability of a false alarm, 0..1.")] = 0.05,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if the traffic has drifted (errors exit with 2).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare traffic with what was calibrated: win rates, strong share, and how far off the embeddings lie.

    Give other prompts than those that were calibrated on: against themselves they lie too near, which counts as drift.
    What was found is printed, and the exit code is 0 either way unless --exit-code is given. One file is one test; to
    watch a running service use `DriftMonitor`, whose false-alarm rate holds however often it is looked at.
    """
    from dataclasses import replace

    from routellm_core.calibration import Calibration
    from routellm_core.calibration import drift as compare
    from routellm_core.routers import load_router
    from routellm_core.routers.metadata import asked

    loaded = load_router(router, encoder=encoder)  # first: it says which columns it wants
    prompts, known = ([], None) if recorded else read_prompts_of(file, column, loaded.metadata_columns)
    others, others_known = (
        (None, None) if reference is None else read_prompts_of(reference, column, loaded.metadata_columns)
    )
    calibration = loaded.calibration
    if others is not None:
        if len(others) < _FEW:
            typer.echo(
                f"Mind: {len(others)} reference prompts are few; under {_FEW} only a large drift can be seen.", err=True
            )
        before = None if calibration is None else calibration.threshold
        vectors = loaded.encoder.encode(others) if loaded.encoder is not None and len(others) >= 20 else None
        calibration = Calibration.from_win_rates(asked(loaded.win_rate, others, others_known), vectors=vectors)
        if threshold is None and before is not None:
            threshold = before
    if calibration is None:
        raise ConfigurationError(
            f"router {router!r} has no calibration to compare with: give --reference FILE, or calibrate it first "
            "(`routellm calibrate FILE --save FOLDER`)"
        )
    if threshold is not None:
        share = float((calibration.win_rates >= threshold).mean())
        calibration = replace(calibration, threshold=threshold, realised_share=share)
    vectors = None
    if calibration.embeddings is not None and loaded.encoder is not None and not recorded:
        vectors = loaded.encoder.encode(prompts)
    win_rates = recorded_win_rates(file, loaded.name) if recorded else asked(loaded.win_rate, prompts, known)
    report = compare(calibration, win_rates, vectors=vectors, target_share=target_share, alpha=alpha)
    if as_json:
        print_json({"file": file, "router": router, **report.to_dict()})
    else:
        typer.echo(str(report))
    if exit_code and report.drifted:
        raise typer.Exit(1)
