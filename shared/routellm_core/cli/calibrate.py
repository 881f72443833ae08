"""`routellm calibrate`: the threshold for a strong share, a budget or a quality floor, from one's own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routellm_core.cli.evaluate import in_words_of_options, print_json
from routellm_core.cli.prompts import any_file
from routellm_core.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from routellm_core.calibration import Budget, Calibration
    from routellm_core.routers import Router
    from routellm_core.routers.metadata import Metadata

__all__ = ["calibrate", "read_prompts_of", "recorded_win_rates"]

_TABLES = (".csv", ".tsv", ".json", ".parquet")


def calibrate(
    file: Annotated[
        str,
        typer.Argument(
            help="Your prompts: JSONL, CSV, Parquet or plain lines; '-' is standard input. A quality floor also needs "
            "strong_score and weak_score, or one column of scores a model.",
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
            "--recorded", help="The file is what a recorder wrote: its win rates count, and no prompt is scored."
        ),
    ] = False,
    column: Annotated[str, typer.Option(help="Field that holds the prompt, in a file without scores.")] = "prompt",
    strong_share: Annotated[float | None, typer.Option(help="Wanted share of strong calls, 0..1.")] = None,
    quality_floor: Annotated[
        float | None, typer.Option(help="Fraction of the strong model's mean quality that must be kept, 0..1.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Probability that the floor is missed all the same. Default: 0.05.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="US dollars a call, day or month: 100/month. With --calls and costs.")
    ] = None,
    calls: Annotated[float | None, typer.Option(help="Calls expected in the budget's day or month.")] = None,
    strong_usd: Annotated[
        float | None, typer.Option(help="Mean cost of a strong call. Default: the file's costs.")
    ] = None,
    weak_usd: Annotated[float | None, typer.Option(help="Mean cost of a weak call, likewise.")] = None,
    strong_model: Annotated[
        str | None, typer.Option(help="provider:model whose list price counts. With --tokens.")
    ] = None,
    weak_model: Annotated[str | None, typer.Option(help="The same of the weak model.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Mean tokens of prompt and answer: 400/250.")] = None,
    strong: Annotated[
        str | None, typer.Option(help="Strong model, where the file has one column of scores a model.")
    ] = None,
    weak: Annotated[str | None, typer.Option(help="Weak model, likewise.")] = None,
    score_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest possible score. Default: 0 1.")
    ] = None,
    level: Annotated[float, typer.Option(help="Coverage of the intervals, 0..1.")] = 0.95,
    next_prompts: Annotated[
        int, typer.Option("--next", help="Predict the strong share among this many coming prompts.")
    ] = 1000,
    save: Annotated[
        Path | None, typer.Option(help="Write the router with this calibration to a folder.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the threshold: for a share of strong calls, for a budget, or for a quality that is guaranteed.

    Give one of --strong-share, --budget and --quality-floor. Where the file has scores of both models, the knee is
    shown, too: where the curve of quality over strong share lies farthest above the line from all weak to all strong,
    which is what a random mix of the two gives; a choice where nothing else decides. With --save, the folder is a
    router that decides by this threshold; it keeps win rates and scores, no prompts.
    """
    if sum(value is not None for value in (strong_share, quality_floor, budget)) != 1:
        raise ConfigurationError("give one of --strong-share, --budget and --quality-floor")
    if delta is not None and quality_floor is None:
        raise ConfigurationError("--delta belongs to --quality-floor")
    if recorded and quality_floor is not None:
        raise ConfigurationError("--quality-floor needs scores of both models, and a recording has answers of one")
    from routellm_core.routers import load_router
    from routellm_core.routers.metadata import asked

    loaded = load_router(router, encoder=encoder)  # first: it says which columns it wants
    with in_words_of_options():
        sample = (
            _Sample(prompts=[])
            if recorded
            else _read(
                file,
                column,
                strong,
                weak,
                score_range,
                loaded.metadata_columns,
                labels_needed=quality_floor is not None,
            )
        )
    money = None
    if budget is not None:
        money = _budget(budget, calls, (strong_usd, weak_usd), (strong_model, weak_model), tokens, sample.costs_usd)

    from routellm_core.calibration import calibrate as calibrated

    if save is not None:
        _check_same_router(loaded, save)
    win_rates = (
        recorded_win_rates(file, loaded.name) if recorded else asked(loaded.win_rate, sample.prompts, sample.metadata)
    )
    with in_words_of_options():
        result = calibrated(
            win_rates,
            strong_scores=sample.strong_scores,
            weak_scores=sample.weak_scores,
            strong_share=strong_share,
            budget=money,
            quality_floor=quality_floor,
            delta=delta,
            score_range=sample.score_range,
            source=f"{len(win_rates)} prompts of {Path(file).name if file != '-' else 'standard input'}",
            vectors=None if recorded else _vectors(loaded, sample.prompts),
        )
    if sample.n_incomplete:
        typer.echo(f"{sample.n_incomplete:,} prompts left out that lack a score of one of the two models", err=True)
    report = _report(result, level, next_prompts)
    if save is not None:
        loaded.calibration = result
        try:
            loaded.save(save)
        except OSError as error:
            raise DataError(f"cannot write {save}: {error.strerror or error}") from error
    if as_json:
        print_json({"file": file, "router": router, "saved": str(save) if save is not None else None, **report})
        return
    for line in _lines(result, report, level, next_prompts):
        typer.echo(line)
    if save is not None:
        typer.echo(f"saved: {save}", err=True)


def _check_same_router(loaded: Router, folder: Path) -> None:
    """A calibration may replace an older one, not another router.

    Raises:
        ConfigurationError: The folder holds a router of another kind or name.
    """
    from routellm_core.folders import check_replaceable
    from routellm_core.persistence import CONFIG, read_config

    check_replaceable(folder)
    if not (folder / CONFIG).exists():
        return
    config = read_config(folder)
    there = config.get("kind"), config.get("name")
    if there != (loaded.kind, loaded.name):
        raise ConfigurationError(
            f"{folder} holds another router ({there[1]!r}, kind {there[0]!r}), which would be lost: give --router "
            f"{folder} to calibrate that one, or another --save"
        )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    prompts: list[str]
    strong_scores: Any = None
    weak_scores: Any = None
    score_range: tuple[float, float] = (0.0, 1.0)
    costs_usd: tuple[float, float] | None = None
    n_incomplete: int = 0
    metadata: Metadata | None = None


def recorded_win_rates(file: str, router: str) -> Any:
    """Win rates of this router's calls in what a recorder wrote, shape (n,).

    Raises:
        DataError: No such file, something else is in it, or no win rate of this router.
    """
    from routellm_core.recording import read_recording

    return read_recording(file).win_rates(router)


def read_prompts_of(file: str, column: str, metadata: Sequence[str] = ()) -> tuple[list[str], Metadata | None]:
    """Prompts of a file in any of the formats, and what it has of these columns of metadata.

    Raises:
        DataError: No such file or column, or a row without a prompt.
    """
    from routellm_core.routers.metadata import known_metadata

    rows = any_file(file, column, beside=metadata)
    return [row[column] for row in rows], known_metadata(metadata, rows)


def _read(
    file: str,
    column: str,
    strong: str | None,
    weak: str | None,
    score_range: tuple[float, float] | None,
    metadata: Sequence[str],
    *,
    labels_needed: bool,
) -> _Sample:
    from routellm_core.routers.metadata import known_metadata

    source: Any = file
    labelled = labels_needed or strong is not None or weak is not None
    if not file.lower().endswith(_TABLES):
        rows = any_file(file, column)
        labelled = labelled or {"strong_score", "weak_score"} <= rows[0].keys()
        if not labelled:
            return _Sample(prompts=[row[column] for row in rows], metadata=known_metadata(metadata, rows))
        source = [{**row, "prompt": row[column]} for row in rows]
    elif not labelled:
        from routellm_core.data.files import blocks

        scores = frozenset({"strong_score", "weak_score"})
        if not any(scores <= block.columns.keys() for block in blocks(file, scores)):
            prompts, known = read_prompts_of(file, column, metadata)
            return _Sample(prompts=prompts, metadata=known)

    from routellm_core.evaluation import read_evaluation_set

    data = read_evaluation_set(source, name=file, strong=strong, weak=weak, score_range=score_range, metadata=metadata)
    if labels_needed and data.n_assumed:
        raise ConfigurationError(
            f"{file}: {data.n_assumed:,} of the strong scores are assumed (augment gold --weak-first), and no quality "
            "can be guaranteed on them; label without --weak-first"
        )
    if score_range is None and data.scores.max() > 1:
        raise ConfigurationError(
            f"{file}: scores reach {data.scores.max():g}; give --score-range LOWEST HIGHEST of the scale, on which the "
            "guarantee rests"
        )
    costs = None
    if data.costs_usd is not None:
        mean = data.costs_usd.mean(axis=0)
        costs = (float(mean[data.sides[0]]), float(mean[data.sides[1]]))
    return _Sample(
        prompts=list(data.prompts),
        strong_scores=data.strong_scores,
        weak_scores=data.weak_scores,
        score_range=score_range or (0.0, 1.0),
        costs_usd=costs,
        n_incomplete=data.n_incomplete,
        metadata=data.metadata,
    )


def _budget(
    text: str,
    calls: float | None,
    usd: tuple[float | None, float | None],
    models: tuple[str | None, str | None],
    tokens: str | None,
    costs_usd: tuple[float, float] | None,
) -> Budget:
    from routellm_core.calibration import Budget

    given_usd, given_models = [value is not None for value in usd], [value is not None for value in models]
    if any(given_usd) and any(given_models):
        raise ConfigurationError("give --strong-usd and --weak-usd, or --strong-model and --weak-model, not both")
    if any(given_models) or tokens is not None:
        if not all(given_models) or tokens is None:
            raise ConfigurationError("list prices need --strong-model, --weak-model and --tokens PROMPT/ANSWER")
        asked, slash, answered = tokens.partition("/")
        try:
            counts = float(asked), float(answered)
        except ValueError:
            raise ConfigurationError(f"--tokens is PROMPT/ANSWER, such as 400/250, got {tokens!r}") from None
        parsed = Budget.parse(text, calls=calls)
        return Budget.for_models(
            parsed.usd,
            parsed.per,
            calls=calls,
            strong=str(models[0]),
            weak=str(models[1]),
            input_tokens=counts[0],
            output_tokens=counts[1],
        )
    if not any(given_usd) and costs_usd is not None:
        usd = costs_usd
    if usd[0] is None or usd[1] is None:
        raise ConfigurationError(
            "a budget needs what calls cost: --strong-usd and --weak-usd, or --strong-model, --weak-model and --tokens"
        )
    return Budget.parse(text, calls=calls, strong_usd=usd[0], weak_usd=usd[1])


def _vectors(router: Any, prompts: list[str]) -> Any:
    # a second pass over the encoder, where that costs next to nothing
    if router.encoder is None or not router.is_quick or len(prompts) < 20:
        return None
    return router.encoder.encode(prompts)


def _report(calibration: Calibration, level: float, n: int) -> dict[str, Any]:
    report: dict[str, Any] = {
        **calibration.to_dict(),
        "level": level,
        "share_interval": list(calibration.share_interval(level)),
        "predicted_share": {"n": n, "interval": list(calibration.predicted_share(n, level))},
        "guarantee": calibration.guarantee,
    }
    if (budget := calibration.budget) is not None:
        shares = {"all_weak": 0.0, "all_strong": 1.0, "chosen": calibration.realised_share}
        report["costs_usd"] = {"per": budget.per, **{name: budget.usd_at(share) for name, share in shares.items()}}
    labels = calibration.labels
    if labels is not None:
        report["quality"] = {
            "strong": float(labels.strong_scores.mean()),
            "weak": float(labels.weak_scores.mean()),
            "routed": labels.quality(calibration.threshold),
        }
        if report["quality"]["strong"] > report["quality"]["weak"]:
            report["knee"] = calibration.knee(level=level).to_dict()
    return report


def _lines(calibration: Calibration, report: dict[str, Any], level: float, n: int) -> list[str]:
    low, high = report["share_interval"]
    next_low, next_high = report["predicted_share"]["interval"]
    lines = [
        f"threshold     {calibration.threshold:.6f}",
        f"strong share  {calibration.realised_share:.3f} of {calibration.win_rates.size} prompts; in the long run "
        f"{low:.3f} to {high:.3f}, of the next {n} {next_low:.3f} to {next_high:.3f} ({level:.0%})",
    ]
    if "costs_usd" in report:
        costs = report["costs_usd"]
        lines.append(
            f"costs         ${costs['chosen']:.6g} per {costs['per']}; all weak ${costs['all_weak']:.6g}, all strong "
            f"${costs['all_strong']:.6g}"
        )
    if "quality" in report:
        quality = report["quality"]
        lines.append(
            f"quality       {quality['routed']:.4f} on this sample; strong {quality['strong']:.4f}, weak "
            f"{quality['weak']:.4f}"
        )
    if "knee" in report:
        knee = report["knee"]
        low, high = knee["strong_share_interval"]
        lines.append(
            f"knee          strong share {knee['strong_share']:.3f} [{low:.3f}, {high:.3f}], threshold "
            f"{knee['threshold']:.6f}, quality {knee['quality']:.4f}"
        )
        lines.append("              (where quality is farthest above a random mix of the two models)")
    return [*lines, f"guarantee     {report['guarantee']}"]
