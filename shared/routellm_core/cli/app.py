"""The `routellm` application: its commands, and how their errors are shown."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from routellm_core._version import __version__
from routellm_core.cli.augment import augment
from routellm_core.cli.calibrate import calibrate
from routellm_core.cli.compare import compare
from routellm_core.cli.drift import drift
from routellm_core.cli.evaluate import evaluate
from routellm_core.cli.fit import fit
from routellm_core.cli.fit_verifier import fit_verifier_command
from routellm_core.cli.recorded import recorded
from routellm_core.cli.report import report
from routellm_core.cli.score import score
from routellm_core.cli.train import train
from routellm_core.errors import RouteLLMError

__all__ = ["app", "run"]

app = typer.Typer(
    name="routellm",
    help="Send each prompt to the cheapest model that answers it as well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"routellm-integrations {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(calibrate)
app.command()(compare)
app.command()(drift)
app.command()(evaluate)
app.command()(fit)
app.command("fit-verifier")(fit_verifier_command)
app.command()(recorded)
app.command()(report)
app.command()(score)
app.command()(train)
app.add_typer(augment, name="augment")


def run() -> None:
    """Run the application; our own errors become one line and exit code 2."""
    if sys.stderr is None or not sys.stderr.isatty():  # transformers' bars and reports, in a log file
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except RouteLLMError as error:
        print(f"routellm: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        raise SystemExit(2) from None
    except OSError as error:  # a full disk behind standard output, for example
        print(f"routellm: cannot write the result: {error.strerror or error}", file=sys.stderr)  # noqa: T201 - as above
        if sys.stdout is not None:  # what it still holds would fail once more when Python ends, with exit code 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(2) from None
