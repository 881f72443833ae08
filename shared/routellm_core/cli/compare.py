"""`routellm compare`: routers against each other on the same prompts."""

from __future__ import annotations

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
    left_out,
    names_of,
    number,
    percent,
    print_json,
    read_prices,
    read_sets,
)
from routellm_core.errors import ConfigurationError

if TYPE_CHECKING:
    from routellm_core.evaluation import Comparison

__all__ = ["compare"]


def compare(
    files: Files,
    router: Annotated[
        list[str],
        typer.Option(
            help="'default', 'contextual', 'random', a folder, or owner/name; at least twice.", show_default=False
        ),
    ],
    strong: Strong = None,
    weak: Weak = None,
    score_range: Range = None,
    price: Price = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    level: Level = 0.95,
    cache: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, by file name.")] = False,
) -> None:
    """Hold routers against each other: differences in APGR, with intervals and p-values from the same resamples."""
    from routellm_core.evaluation import compare as hold_against
    from routellm_core.routers import load_router

    names = names_of(router)
    if len(names) < 2:
        raise ConfigurationError("give --router at least twice; `routellm evaluate` measures one")
    routers = {name: load_router(source) for name, source in names.items()}  # first: they say which columns they want
    sets = read_sets(files, strong=strong, weak=weak, score_range=score_range, routers=routers.values())
    prices = read_prices(price)
    found = {
        data.name: hold_against(
            routers, data, n_resamples=resamples, seed=seed, level=level, prices=prices, cache=cache
        )
        for data in sets
    }
    if as_json:
        print_json({name: comparison.to_dict() for name, comparison in found.items()})
    else:
        for comparison in found.values():
            _print_table(comparison)


def _print_table(comparison: Comparison) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    data = comparison.data
    first = next(iter(comparison.evaluations.values()))
    console = Console()
    table = Table(title=Text(f"{data.name}: {len(data)} prompts{left_out(data)}"), box=SIMPLE_HEAD)
    for column in ("router", "APGR", "CPT 50 %", "CPT 80 %", "APGR (paper)"):
        table.add_column(column, justify="left" if column == "router" else "right")
    for name, each in comparison.evaluations.items():
        exact = each.exact
        table.add_row(
            Text(name),
            number(exact.apgr, exact.apgr_interval),
            percent(exact.cpt50),
            percent(exact.cpt80),
            number(each.paper.apgr),
        )
    console.print(table)
    table = Table(box=SIMPLE_HEAD, caption=first.note or f"paired, {first.n_resamples} resamples; p one-sided")
    for column in ("difference", "APGR", "p"):
        table.add_column(column, justify="left" if column == "difference" else "right")
    for difference in comparison.differences:
        if difference.way == "exact":
            p = "–" if difference.p_value is None else f"{difference.p_value:.3g}"
            bounds = number(difference.apgr, difference.apgr_interval)
            table.add_row(Text(f"{difference.a} - {difference.b}"), bounds, p)
    console.print(table)
