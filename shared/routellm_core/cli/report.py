"""`routellm report`: an evaluation as a page."""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routellm_core.cli.evaluate import (
    Cache,
    Files,
    Level,
    Price,
    Range,
    Resamples,
    Seed,
    Strong,
    Weak,
    names_of,
    read_prices,
    read_sets,
)
from routellm_core.errors import ConfigurationError

if TYPE_CHECKING:
    from routellm_core.evaluation import Comparison, Evaluation

__all__ = ["report"]


def report(
    files: Files,
    out: Annotated[
        Path,
        typer.Option(help="The page; its plots come beside it, named after it.", show_default=False, dir_okay=False),
    ],
    router: Annotated[
        list[str] | None,
        typer.Option(
            help="'default', 'contextual', 'random', a folder, or owner/name. Repeatable. Default: 'default'."
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "How good is this router?",
    examples: Annotated[
        bool, typer.Option(help="Show the prompts with the highest and lowest win rates, shortened.")
    ] = True,
    images: Annotated[bool, typer.Option(help="Write each plot as PNG and SVG beside the page, too.")] = True,
    strong: Strong = None,
    weak: Weak = None,
    score_range: Range = None,
    price: Price = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    level: Level = 0.95,
    cache: Cache = None,
) -> None:
    """Write one HTML file about routers on scored prompts. It loads nothing and can be sent to anyone.

    With several routers their differences are shown, too. The paper's published points are drawn where the file is
    called mmlu, gsm8k or mt_bench and the models are gpt-4-1106-preview and mixtral-8x7b-instruct-v0.1.
    """
    from routellm_core.evaluation import compare, evaluate
    from routellm_core.evaluation.report import write_report
    from routellm_core.routers import load_router

    if any(out.resolve() == Path(file).resolve() for file in files):
        raise ConfigurationError(f"--out {out} is the file to report on, which the page would replace: give another")
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work: a wrong path should not cost it
    names = names_of(router or ["default"])
    routers = {name: load_router(source) for name, source in names.items()}  # first: they say which columns they want
    sets = read_sets(files, strong=strong, weak=weak, score_range=score_range, routers=routers.values())
    prices = read_prices(price)
    results: list[Evaluation | Comparison] = []
    for data in sets:
        typer.echo(f"{data.name}: {len(data)} prompts ...", err=True)
        if len(routers) == 1:
            ((name, only),) = routers.items()
            results.append(
                evaluate(
                    only, data, n_resamples=resamples, seed=seed, level=level, prices=prices, cache=cache, name=name
                )
            )
        else:
            results.append(
                compare(routers, data, n_resamples=resamples, seed=seed, level=level, prices=prices, cache=cache)
            )
    written = write_report(
        results,
        out,
        title=title,
        command=shlex.join(["routellm", *sys.argv[1:]]),
        made_on=date.today().isoformat(),
        with_examples=examples,
        with_images=images,
    )
    typer.echo(f"{written[0]}" + (f" and {len(written) - 1} images" if images else ""), err=True)
