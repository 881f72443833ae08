"""`routellm evaluate`: how good a router is on scored prompts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routellm_core.errors import CalibrationError, ConfigurationError, DataError

if TYPE_CHECKING:
    from routellm_core.evaluation import Evaluation, EvaluationSet
    from routellm_core.routers import Router

__all__ = ["evaluate"]

# as a word of a message, not as part of a path; with "=" only where no value follows
_ARGUMENTS = re.compile(r"(?<![\w/.-])(?:score_range(?![\w/.=-])|(?:strong|weak|calls|strong_usd|weak_usd)=(?![\w.]))")

Files = Annotated[
    list[str],
    typer.Argument(
        help="Prompts with strong_score and weak_score, or one column of scores a model, or a row (prompt, model, "
        "score) for each prompt and model: JSONL, CSV or Parquet.",
        show_default=False,
    ),
]
Strong = Annotated[str | None, typer.Option(help="Strong model, where a file has more than two.")]
Weak = Annotated[str | None, typer.Option(help="Weak model, likewise.")]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option(help="Lowest and highest possible score. Default: 0 1, or 1 10 if most scores are above 1."),
]
Resamples = Annotated[int, typer.Option(help="Bootstrap samples behind every interval.", min=2)]
Seed = Annotated[int, typer.Option(help="Of the bootstrap.")]
Level = Annotated[float, typer.Option(help="Coverage of the intervals, 0..1.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps win rates, so that nothing is scored twice.")]
Price = Annotated[
    list[str] | None,
    typer.Option(
        help="MODEL=IN/OUT: US dollars per million tokens; MODEL may be 'strong' or 'weak'. Repeatable. Needs the "
        "tokens of every answer: columns strong_input_tokens, strong_output_tokens, weak_input_tokens and "
        "weak_output_tokens, or MODEL_input_tokens and MODEL_output_tokens; input_tokens alone if both models count "
        "alike."
    ),
]


def evaluate(
    files: Files,
    router: Annotated[
        str, typer.Option(help="'default', 'contextual', 'random', a folder, or owner/name on the Hugging Face hub.")
    ] = "default",
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
    """Measure a router: how much of the strong model's lead does it keep, at which share of strong calls?

    APGR is the area under that curve (chance: .5), CPT the share that recovers 50 or 80 % of the lead. Rows marked
    as contaminated are dropped and counted. Baselines stand beside the router; what they are is said below the table.
    """
    from routellm_core.evaluation import evaluate as measure
    from routellm_core.routers import load_router

    loaded, (name,) = load_router(router), names_of([router])  # first: it says which columns it wants
    sets = read_sets(files, strong=strong, weak=weak, score_range=score_range, routers=[loaded])
    prices = read_prices(price)
    found = {
        data.name: measure(
            loaded, data, n_resamples=resamples, seed=seed, level=level, prices=prices, cache=cache, name=name
        )
        for data in sets
    }
    if as_json:
        print_json({name: evaluation.to_dict() for name, evaluation in found.items()})
    else:
        for evaluation in found.values():
            _print_table(evaluation)
        _print_legend(list(found.values()))


def read_sets(
    files: Sequence[str],
    *,
    strong: str | None,
    weak: str | None,
    score_range: tuple[float, float] | None,
    routers: Iterable[Router] = (),
) -> list[EvaluationSet]:
    """Every file as a set, checked before anything is scored, with the metadata that the routers want.

    Raises:
        ConfigurationError: Two files of one name without suffix.
        DataError: As `read_evaluation_set`.
    """
    from routellm_core.evaluation import read_evaluation_set

    columns = tuple(dict.fromkeys(column for router in routers for column in router.metadata_columns))
    with in_words_of_options():
        sets = [
            read_evaluation_set(file, strong=strong, weak=weak, score_range=score_range, metadata=columns)
            for file in files
        ]
    names = [data.name for data in sets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two files are called {name!r} without their suffix; rename one")
    for data in sets:
        data.checked_pair()
    return sets


@contextmanager
def in_words_of_options() -> Iterator[None]:
    """What an error of the library calls `score_range` is called `--score-range` on the command line."""
    try:
        yield
    except (CalibrationError, ConfigurationError, DataError) as error:
        words = _ARGUMENTS.sub(lambda found: "--" + found[0].rstrip("=").replace("_", "-"), str(error))
        raise type(error)(words) from error


def names_of(sources: list[str]) -> dict[str, str]:
    """Routers by a short name: the last part of a folder or hub name, in full where two would be alike.

    Raises:
        ConfigurationError: One is given twice.
    """
    if len(set(sources)) < len(sources):
        raise ConfigurationError("a router is given twice; it would be held against itself")
    short = [source.rstrip("/").rsplit("/", 1)[-1] or source for source in sources]
    return {name if short.count(name) == 1 else source: source for name, source in zip(short, sources, strict=True)}


def read_prices(given: Sequence[str] | None) -> dict[str, tuple[float, float]] | None:
    """`--price MODEL=IN/OUT`.

    Raises:
        ConfigurationError: Another form.
    """
    if not given:
        return None
    prices = {}
    for text in given:
        model, _, amounts = text.rpartition("=")
        asked, _, answered = amounts.partition("/")
        try:
            prices[model] = (float(asked), float(answered))
        except ValueError:
            raise ConfigurationError(f"--price is MODEL=IN/OUT, such as 'gpt-4.1=2/8', got {text!r}") from None
        if not model:
            raise ConfigurationError(f"--price is MODEL=IN/OUT, such as 'gpt-4.1=2/8', got {text!r}")
    return prices


def print_json(content: dict[str, Any]) -> None:
    """One object on standard output.

    Raises:
        DataError: Standard output is closed, or a figure is too large for a number of JSON.
    """
    if sys.stdout is None:
        raise DataError("cannot write the result: standard output is closed")
    try:
        text = json.dumps(content, ensure_ascii=True, allow_nan=False, indent=2)
    except ValueError:
        raise DataError(
            "a figure of the result is not finite: are there costs, calls or prices beyond all bounds?"
        ) from None
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.flush()


def number(value: float | None, bounds: tuple[float, float] | None = None) -> str:
    """For tables: three digits, with the interval; a dash for what is not defined or never reached."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds is not None else "")


def percent(share: float | None) -> str:
    """For tables: a share of calls; a dash for one that is never reached."""
    return "–" if share is None else f"{100 * share:.1f} %"


def left_out(data: EvaluationSet) -> str:
    """How many rows and prompts of a file do not count, to be added to a sentence; may be empty."""
    parts = [
        f", {data.n_contaminated} contaminated ones dropped" if data.n_contaminated else "",
        f", {data.n_incomplete:,} left out that lack a score of one of the two models" if data.n_incomplete else "",
        # the weak model was right there, and where only it is right nobody has looked
        f"; mind: {data.n_assumed:,} strong scores are assumed, the quality is too good" if data.n_assumed else "",
    ]
    return "".join(parts)


def _print_table(evaluation: Evaluation) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from routellm_core.evaluation.baselines import shown

    data = evaluation.data
    strong, weak = float(data.strong_scores.mean()), float(data.weak_scores.mean())
    console = Console()
    console.print(
        Text(
            f"{data.name}: {len(data)} prompts{left_out(data)}"
            f"\n{data.strong} scores {strong:.3f}, {data.weak} {weak:.3f}",
            style="bold",
        )
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # 80 columns are enough
    table.add_column("")
    interval = f"{evaluation.level:.0%} interval"
    for column in ("APGR", interval, "CPT\n50 %", "CPT\n80 %", "paper:\nAPGR", "CPT\n50 %", "CPT\n80 %"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [(evaluation.router, evaluation.exact, evaluation.paper)]
    rows += [(shown(name), b.exact, b.paper) for name, b in evaluation.baselines.items() if b.exact and b.paper]
    for i, (name, exact, paper) in enumerate(rows):
        low, high = exact.apgr_interval or (None, None)
        table.add_row(
            Text(name),
            number(exact.apgr),
            f"{number(low)} .. {number(high)}",
            percent(exact.cpt50),
            percent(exact.cpt80),
            number(paper.apgr),
            percent(paper.cpt50),
            percent(paper.cpt80),
            style="" if i else "bold",
        )
    console.print(table)
    if evaluation.note:
        console.print(f"Mind: {evaluation.note}.")
    if evaluation.cost is not None and evaluation.cost.at_cpt80 is not None:
        cost = evaluation.cost
        console.print(
            f"USD per 1,000 prompts: all strong {cost.all_strong:.2f}, all weak {cost.all_weak:.2f}, "
            f"at CPT 80 % {cost.at_cpt80:.2f}."
        )
    took = evaluation.scored
    if took.single_ms is not None:
        console.print(f"A decision takes {took.single_ms:.2f} ms alone, {took.batch_ms:.2f} ms in a batch.\n")


def _print_legend(evaluations: Sequence[Evaluation]) -> None:
    from rich.console import Console
    from rich.text import Text

    lines = [
        "APGR: the share of the strong model's lead that is kept, on average over all shares of strong calls.",
        "CPT 50 %, 80 %: the share of calls that must go strong to keep 50 or 80 % of the lead; lower is cheaper, a "
        "dash: never reached.",
        "paper: the same by the paper's eleven thresholds instead of the whole curve; not to be mixed with it.",
        "chance: a random order. prompt length: longer goes strong first. rules: a rule of thumb by words that sound "
        "hard, code, numbers and length.",
    ]
    if any("topic" in evaluation.baselines for evaluation in evaluations):
        lines.append("topic: all that is known of a prompt is its group, and what the strong model gains there.")
    lines.append(
        "oracle: knows both scores. It may exceed 1, as it also takes the weak model where that is the better one."
    )
    Console().print(Text("\n".join(lines), style="dim"))
