"""Fine-tune a Hugging Face encoder into a router: three labels, one forward pass a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from routellm_core._lazy import need
from routellm_core.data.labels import LABELS, LabelledPrompts
from routellm_core.encoders.pretrained import first_tokens, load_model, load_tokenizer
from routellm_core.routers.bert import BertRouter
from routellm_core.training.fine_tuning import (
    Examples,
    FineTuning,
    calibrated,
    digest_of_base,
    digest_of_labels,
    fine_tune,
    held_out,
    seeded,
)
from routellm_core.training.run import TrainingResult, TrainingRun

__all__ = ["train_bert"]


def train_bert(
    labels: LabelledPrompts,
    *,
    base: str | Path = "FacebookAI/xlm-roberta-base",
    steps: int = 2000,
    batch_size: int = 16,
    max_length: int = 512,
    learning_rate: float = 1e-5,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    validation: float = 0.1,
    evaluate_every: int = 100,
    checkpoint_every: int = 100,
    patience: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    seed: int = 0,
    name: str | None = None,
    out: Path | None = None,
    restart: bool = False,
) -> TrainingResult:
    """Fine-tune all weights of a sequence classifier on the labels of prompts.

    A prompt's target is the share of its verdicts with each label; how often it is drawn, see `prompt_weights`.

    With `out`, a run that was killed continues from its last checkpoint when it is called again with the same
    arguments: on a CPU to the same weights as one that was not.

    Args:
        labels: Verdicts on Q distinct prompts, from one source or several.
        base: Folder or hub name of any model that transformers can load as a sequence classifier. A head with
            another number of labels is replaced.
        steps: Of the optimiser, at most.
        batch_size: Prompts a step.
        max_length: Tokens of a prompt; the rest is cut.
        learning_rate: At its highest, after the warm-up; from there it falls to 0.
        weight_decay: Of AdamW, on matrices.
        warmup: Share of the steps over which the rate rises.
        validation: Share of the groups of prompts that is held out; 0 holds nothing out and keeps the last weights.
        evaluate_every: Steps between two rows of the log.
        checkpoint_every: Steps between two checkpoints.
        patience: Stop after that many evaluations in a row that were no better; None goes on to the end.
        dtype: "float32", or "bfloat16" for the matrix products alone: about half the time where the processor has
            instructions for it. The router is float32 either way.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        seed: Of the split, the new head, the batches and dropout.
        name: What records call the router; None calls it by its kind. A continued run may be given another.
        out: Save the router here.
        restart: Throw an unfinished run away instead of continuing it.

    Returns:
        The router with the weights that were best on the held-out prompts, calibrated on those. Log rows as
        `fine_tune` writes them.

    Raises:
        RouterFormatError: The base cannot be loaded, or a checkpoint is damaged.
        ConfigurationError: An argument is out of range, or an unfinished run had others.
        DataError: No labels, or nothing can be held out.
        MissingExtraError: torch or transformers is not installed.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 and appendix (BERT classifier).
    """
    settings = FineTuning(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        patience=patience,
        dtype=dtype,
        seed=seed,
    )
    learn, held = held_out(labels, validation, seed=seed)
    router = BertRouter(
        _with_three_labels(base, device=device, seed=seed),
        tokenizer=load_tokenizer(base),
        max_tokens=max_length,
        device=device,
        name=name,
    )
    started_with = {
        "kind": "bert",
        "labels": digest_of_labels(labels),
        "base": digest_of_base(base, router.model),
        "max_length": router.max_tokens,
        "validation": validation,
        **settings.to_dict(),
    }

    def examples(part: LabelledPrompts) -> Examples:
        ids = first_tokens(router.tokenizer, part.prompts, router.max_tokens)
        return Examples(labels=part, ids=ids, targets=part.shares.astype(np.float32))

    with TrainingRun(out, started_with, restart=restart) as run:
        fine_tune(
            router.model,
            logits=router.logits,
            n_wins=1,
            training=examples(learn),
            validation=None if held is None else examples(held),
            settings=settings,
            run=run,
        )
        calibrated(router, learn, held, out=out, run=run)
    return TrainingResult(router=router, log=run.rows)


def _with_three_labels(base: str | Path, *, device: str | None, seed: int) -> Any:
    need("torch", extra="train", why="training a router of kind 'bert'")
    with seeded(seed):  # a new head begins with random weights
        return load_model(
            "AutoModelForSequenceClassification",
            base,
            device=device,
            may_lack="head",
            num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
            ignore_mismatched_sizes=True,
        )
