"""One call for every kind of router: material in, trained router out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from routellm_core._lazy import Registry
from routellm_core.errors import ConfigurationError
from routellm_core.training.material import TrainingMaterial
from routellm_core.training.run import TrainingResult

__all__ = ["TRAINERS", "options_of", "train"]

TRAINERS = Registry(
    "trainer",
    {
        "bert": "routellm_core.training.bert:train_bert",
        "causal": "routellm_core.training.causal:train_causal",
        "mf": "routellm_core.training.mf:train_mf",
        "sw": "routellm_core.training.sw:train_sw",
    },
    group="routellm_core.trainers",
)
"""Functions whose first parameter says what they learn from: `battles` or `labels`."""

_FROM_MATERIAL: dict[str, Callable[[TrainingMaterial], Any]] = {
    "strong": lambda material: material.strong,
    "weak": lambda material: material.weak,
    "tiers": lambda material: material.tiers,
}


def options_of(kind: str) -> list[str]:
    """What a trainer can be told besides its material.

    Raises:
        UnknownKindError: No such trainer.
    """
    learns_from, *names = inspect.signature(TRAINERS.load(kind)).parameters
    return [name for name in names if name not in _FROM_MATERIAL]


def train(kind: str, material: TrainingMaterial, *, out: Path | None = None, **options: Any) -> TrainingResult:
    """Train a router of some kind.

    Args:
        kind: "mf", "sw", "bert", "causal", or one that another distribution registered.
        material: Cleaned battles with their tiers and the pair.
        out: Save the router here, and keep checkpoints beside it until then.
        options: Of that kind's trainer, see `options_of`; each of ours has `name`, what records call the router
            (default: its kind). For trainers that learn from labels also `label_sides`: the `over` of
            `TrainingMaterial.labels`.

    Raises:
        UnknownKindError: No such trainer.
        ConfigurationError: An option that this trainer does not have.
        RouteLLMError: As the trainer.
    """
    trainer: Callable[..., TrainingResult] = TRAINERS.load(kind)
    learns_from, *names = inspect.signature(trainer).parameters
    known = options_of(kind) + (["label_sides"] if learns_from == "labels" else [])
    for name in options:
        if name not in known:
            raise ConfigurationError(f"training {kind!r} has no option {name!r}; it has {', '.join(known)}")
    given = {name: take(material) for name, take in _FROM_MATERIAL.items() if name in names}
    if learns_from == "labels":
        learning = material.labels(over=options.pop("label_sides", None))
        return trainer(learning, out=out, **given, **options)
    return trainer(material.battles_of_models(), out=out, **given, **options)
