"""The similarity-weighted router from battles: nothing is fitted beforehand, but it is measured and calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from routellm_core.calibration import Calibration
from routellm_core.data import Battles, Tiers, labels_for_pair
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.vectors import vectors_of
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.folders import check_replaceable
from routellm_core.routers.sw import SimilarityWeightedRouter
from routellm_core.training.run import TrainingResult, TrainingRun, check_seed
from routellm_core.training.validation import log_loss, validation_apgr

__all__ = ["train_sw"]


def train_sw(
    battles: Battles,
    *,
    encoder: Encoder,
    tiers: Tiers | Mapping[str, int],
    strong: str,
    weak: str,
    vectors: ArrayLike | None = None,
    drop_unrated: bool = True,
    sample: int = 2000,
    seed: int = 0,
    name: str | None = None,
    out: Path | None = None,
) -> TrainingResult:
    """Build a similarity-weighted router, measure it and calibrate it on a sample of its own prompts.

    Each prompt of the sample is scored as if the battles of its group did not exist: with them it would meet
    itself at cosine 1, which no new prompt does.

    Args:
        battles: n verdicts over Q distinct prompts.
        encoder: Of any kind.
        tiers: Of the models. Those that the rating found no battles to rate by have none.
        strong: Model that the router is saved with as the strong one.
        weak: The same for the weak one.
        vectors: The encoder's vectors of `battles.prompts`, such as the published embeddings of the Arena battles,
            shape (Q, dim); None encodes them.
        drop_unrated: Leave out battles of models without a tier, and count them in the log; False raises.
        sample: Prompts to calibrate on, all if there are fewer; at least 1.
        seed: Of the sample.
        name: What records call the router; None calls it by its kind.
        out: Save the router here.

    Returns:
        The log has one row: counts (`unrated_battles` were left out), and over those prompts of the sample on which
        the pair met, the mean cross-entropy `validation_loss` and `validation_apgr`, None where they cannot be had.

    Raises:
        ConfigurationError: Strong and weak are of one tier, an option is out of range, or `out` cannot be written.
        UnknownKindError: `strong` or `weak` has no tier, or, with `drop_unrated=False`, another model of the battles.
        DataError: As `SimilarityWeightedRouter`.
        EncoderError: The encoder failed.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 (similarity-weighted ranking).
    """
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise ConfigurationError(f"sample is a positive integer, got {sample!r}")
    if not isinstance(drop_unrated, bool):
        raise ConfigurationError(f"drop_unrated is true or false, got {drop_unrated!r}")
    check_seed(seed)
    if out is not None:
        check_replaceable(out)
    run = TrainingRun(None, {"kind": "sw"})
    if isinstance(tiers, Tiers):
        tiers = {model: tiers.tier_of(model) for model in tiers.models}
    given = None if vectors is None else vectors_of(battles.prompts, encoder, vectors)
    unrated = 0
    if drop_unrated:
        rated = np.array([model in tiers for model in battles.models], dtype=bool)
        keep = rated[battles.model_a] & rated[battles.model_b]
        unrated = int((~keep).sum())
        if unrated:
            if given is not None:
                given = given[np.unique(battles.prompt_index[keep])]  # the order in which `take` leaves prompts
            battles = battles.take(keep)
    router = SimilarityWeightedRouter.from_battles(
        battles, encoder=encoder, tiers=tiers, strong=strong, weak=weak, vectors=given, name=name
    )
    rows = np.random.default_rng(seed).permutation(len(battles.prompts))[:sample]
    win_rates = router.own_win_rates(rows)
    router.calibration = Calibration.from_win_rates(
        win_rates, source=f"{len(rows)} prompts of the battles, each scored without its own"
    )
    loss, apgr = _measured(battles, dict(zip((battles.prompts[i] for i in rows), win_rates, strict=True)), strong, weak)
    run.log(
        step=0,
        battles=len(battles),
        unrated_battles=unrated,
        prompts=len(battles.prompts),
        models=len(battles.models),
        loss=None,
        validation_loss=loss,
        validation_apgr=apgr,
    )
    if out is not None:
        router.save(out)
        run.finish(out)
    return TrainingResult(router=router, log=run.rows)


def _measured(
    battles: Battles, win_rates: Mapping[str, float], strong: str, weak: str
) -> tuple[float | None, float | None]:
    try:
        labels = labels_for_pair(battles, strong, weak)
    except (DataError, UnknownKindError):  # the pair never met
        return None, None
    labels = labels.take([prompt in win_rates for prompt in labels.prompts])
    if not len(labels):
        return None, None
    rates = np.array([win_rates[prompt] for prompt in labels.prompts])
    return log_loss(rates, labels), validation_apgr(rates, labels)
