"""`routellm train`: from raw battles to a saved router."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from routellm_core.errors import ConfigurationError
from routellm_core.folders import check_replaceable
from routellm_core.persistence import CONFIG

__all__ = ["train"]

_SHOWN = 4  # models of a tier


def train(
    kind: Annotated[str, typer.Argument(help="mf, sw, bert or causal.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Option(
            help="Battles: JSONL, CSV or Parquet in the Arena's layouts, or owner/name of a Hugging Face data set. "
            "Again for more.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the trained router.", show_default=False)],
    augment: Annotated[
        list[str] | None,
        typer.Option(help="Golden or judged labels, as `routellm augment` writes them. Again for more."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What records call the router. Default: its folder's name.", show_default=False)
    ] = None,
    strong: Annotated[
        str | None, typer.Option(help="Strong model, in any usual spelling. Default: the top tier's median.")
    ] = None,
    weak: Annotated[str | None, typer.Option(help="Weak model. Default: the third tier's median.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="mf, sw: 'default', 'contextual', 'hashing[:N]', 'transformer:NAME', 'static:FOLDER', 'onnx:FOLDER', "
            "'openai:MODEL' or a saved router's folder. Default: 'default'."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="bert, causal: model to fine-tune: a hub name, a folder, for causal also a .gguf file. Default: "
            "FacebookAI/xlm-roberta-base, HuggingFaceTB/SmolLM2-135M-Instruct."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="bert, causal: battles that label prompts: 'tiers' (top two against third), 'pair' (between the tiers "
            "of the pair) or 'none' (only --augment). Default: 'tiers' if there are three."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation prompts: what overlaps them is dropped. Again for more."),
    ] = None,
    exclude_model: Annotated[list[str] | None, typer.Option(help="Drop this model's battles. Again for more.")] = None,
    near_duplicates: Annotated[
        str, typer.Option(help="Near-duplicate prompts: 'group' them (never split), 'drop' or 'ignore'.")
    ] = "group",
    tiers: Annotated[
        int | None, typer.Option(help="Number of tiers. Default: 10, or as many as there are models.", min=2)
    ] = None,
    drop_bad: Annotated[
        bool, typer.Option(help="Count and drop rows that cannot be used, instead of stopping.")
    ] = False,
    validation: Annotated[float | None, typer.Option(help="Share of prompts held out, 0..1.")] = None,
    epochs: Annotated[int | None, typer.Option(help="mf: passes over the battles, at most.")] = None,
    steps: Annotated[int | None, typer.Option(help="bert, causal: optimiser steps, at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of one step.")] = None,
    max_length: Annotated[int | None, typer.Option(help="bert, causal: tokens of a prompt.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimiser.")] = None,
    device: Annotated[
        str | None, typer.Option(help="bert, causal: 'cpu', 'cuda', ...; default: a GPU if there is one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option of the trainer: noise=0.05, dtype=bfloat16. Again for more."),
    ] = None,
    restart: Annotated[bool, typer.Option(help="Throw an unfinished training away instead of continuing it.")] = False,
) -> None:
    """Train a router: clean the battles, rate the models, make tiers, learn, calibrate, save.

    What was dropped, and the log of the training, go to standard error. Killed, the same command continues.
    """
    from routellm_core.data.duplicates import NearDuplicates
    from routellm_core.training.material import LabelSides
    from routellm_core.training.trainers import options_of
    from routellm_core.training.trainers import train as train_router

    for flag, value, kinds in (
        ("--labels", labels, LabelSides),
        ("--near-duplicates", near_duplicates, NearDuplicates),
    ):
        if value is not None and value not in get_args(kinds):
            raise ConfigurationError(f"{flag} is one of {', '.join(get_args(kinds))}, got {value!r}")

    options: dict[str, Any] = {
        option: value
        for option, value in {
            "name": name,
            "base": base,
            "validation": validation,
            "epochs": epochs,
            "steps": steps,
            "batch_size": batch_size,
            "max_length": max_length,
            "learning_rate": learning_rate,
            "device": device,
            "seed": seed,
            "restart": restart or None,
        }.items()
        if value is not None
    }
    known = options_of(kind)
    settable = [option for option in known if option not in ("encoder", "name", "vectors", "out")]
    for option, value in map(_setting, more or []):
        if option not in settable:
            raise ConfigurationError(
                f"training {kind!r} has no option {option!r} to --set; it has {', '.join(settable)}"
            )
        options[option] = value
    for option in options:
        if option not in known:
            raise ConfigurationError(f"training {kind!r} takes no --{option.replace('_', '-')}")
    if "name" in known:  # a trainer of somebody else's may have none
        options.setdefault("name", Path(os.path.abspath(out)).name)
    if "encoder" in known:
        from routellm_core.encoders.resolve import resolve_encoder

        options["encoder"] = resolve_encoder(encoder if encoder is not None else "default")
    elif encoder is not None:
        raise ConfigurationError(f"training {kind!r} takes no --encoder")
    if "base" in known:
        options["label_sides"] = labels

    check_replaceable(out)
    if (out / CONFIG).exists():
        _say(f"{out} holds a router, which this one replaces when it is complete")
    _log_to_stderr()
    material = _material(
        data, augment or [], strong, weak, exclude or [], exclude_model or [], near_duplicates, tiers, drop_bad
    )
    result = train_router(kind, material, out=out, **options)
    summary = {
        "router": str(out),
        "kind": kind,
        "name": result.router.name,
        "strong": material.strong,
        "weak": material.weak,
    }
    if result.log:
        summary |= {"log": dict(result.log[-1])}
    typer.echo(json.dumps(summary, ensure_ascii=False))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--set is NAME=VALUE, such as noise=0.05, got {text!r}")
    try:
        return name.strip().replace("-", "_"), json.loads(value)
    except ValueError:
        return name.strip().replace("-", "_"), value  # a word needs no quotes


def _material(
    data: list[str],
    augment: list[str],
    strong: str | None,
    weak: str | None,
    exclude: list[str],
    exclude_models: list[str],
    near: Any,
    tiers: int | None,
    drop_bad: bool,
) -> Any:
    from routellm_core.data import Battles
    from routellm_core.data.readers import read_battles, read_prompts
    from routellm_core.training.material import TrainingMaterial

    on_bad: Any = "drop" if drop_bad else "raise"

    def read(files: list[str], *, sides: bool) -> Battles:
        parts = []
        for file in files:
            battles, step = read_battles(file, on_bad=on_bad, sides=sides)
            _say(f"{file}: {step}")
            parts.append(battles)
        return Battles.concatenated(parts)

    evaluation = [prompt for file in exclude for prompt in read_prompts(file)]
    augmented = read(augment, sides=True) if augment else None
    material = TrainingMaterial.from_battles(
        read(data, sides=False),
        augmented=augmented,
        strong=strong,
        weak=weak,
        n_tiers=tiers,
        exclude_models=exclude_models,
        near_duplicates=near,
        evaluation_prompts=evaluation or None,
    )
    for step in material.steps:
        _say(str(step))
    for model, reason in material.ratings.unrated.items():
        _say(f"not rated: {model}: {reason}")
    for number, (models, ratings) in enumerate(zip(material.tiers.tiers, material.tiers.ratings, strict=True), start=1):
        shown = ", ".join(f"{m} {r:.0f}" for m, r in zip(models[:_SHOWN], ratings, strict=False))
        _say(f"tier {number}: {shown}{f' and {len(models) - _SHOWN} more' if len(models) > _SHOWN else ''}")
    if augmented is not None:
        _say(
            f"augmentation: {len(augmented)} labels of {', '.join(augmented.models)} count as battles of "
            f"{material.strong} and {material.weak}"
        )
    _say(
        f"{len(material.battles)} battles, {len(material.battles.prompts)} prompts; "
        f"strong {material.strong}, weak {material.weak}"
    )
    return material


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _log_to_stderr() -> None:
    logger = logging.getLogger("routellm_core.training")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
