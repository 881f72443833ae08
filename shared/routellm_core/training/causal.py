"""Fine-tune a Hugging Face causal model into a router: five label tokens, one forward pass a prompt."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.data.labels import STRONG_WINS, TIED, WEAK_WINS, LabelledPrompts
from routellm_core.encoders.pretrained import load_model, load_tokenizer, padding_token, resolve_device
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.causal import (
    ANSWER_PREFIX,
    CLASSIFIER_TEXT,
    LABEL_TOKENS,
    SYSTEM_TEXT,
    CausalLLMRouter,
    next_token_logits,
)
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

__all__ = ["label_targets", "train_causal"]

_LORA_RANK = 16
_LORA_RATE, _FULL_RATE = 2e-4, 1e-6


def train_causal(
    labels: LabelledPrompts,
    *,
    base: str | Path = "HuggingFaceTB/SmolLM2-135M-Instruct",
    steps: int = 2000,
    batch_size: int = 8,
    max_length: int = 2048,
    lora: bool = True,
    learning_rate: float | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    system_text: str = SYSTEM_TEXT,
    classifier_text: str = CLASSIFIER_TEXT,
    answer_prefix: str = ANSWER_PREFIX,
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
    """Teach a causal model to answer with one of five tokens how good the weak model's answer would be.

    The label tokens are added to the vocabulary where they are missing. A prompt's target comes from the shares
    of its verdicts, see `label_targets`; how often it is drawn, see `prompt_weights`.

    With `out`, a run that was killed continues from its last checkpoint when it is called again with the same
    arguments: on a CPU to the same weights as one that was not.

    Args:
        labels: Verdicts on Q distinct prompts, from one source or several.
        base: Folder or hub name of any causal model, or a .gguf file (needs the package gguf), whose weights are
            unpacked to float32.
        steps: Of the optimiser, at most.
        batch_size: Prompts a step.
        max_length: Tokens of a prompt with the texts around it; the middle of longer prompts is left out.
        lora: Train low-rank additions to all linear layers (rank 16, through peft) and the label tokens' rows; they
            are merged into the weights at the end. False trains everything.
        learning_rate: At its highest, after the warm-up; from there it falls to 0. None is 2e-4 with LoRA, else 1e-6.
        weight_decay: Of AdamW, on matrices.
        warmup: Share of the steps over which the rate rises.
        system_text: As `CausalLLMRouter`.
        classifier_text: As `CausalLLMRouter`.
        answer_prefix: As `CausalLLMRouter`.
        validation: Share of the groups of prompts that is held out; 0 holds nothing out and keeps the last weights.
        evaluate_every: Steps between two rows of the log.
        checkpoint_every: Steps between two checkpoints.
        patience: Stop after that many evaluations in a row that were no better; None goes on to the end.
        dtype: "float32", or "bfloat16" for the matrix products alone: about half the time where the processor has
            instructions for it. The router is float32 either way.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        seed: Of the split, the additions, the batches and dropout.
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
        MissingExtraError: torch, transformers, or with LoRA peft, is not installed.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 and appendix (causal LLM classifier); Hu et al. 2021,
    arXiv:2106.09685 (LoRA).
    """
    settings = FineTuning(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate if learning_rate is not None else (_LORA_RATE if lora else _FULL_RATE),
        weight_decay=weight_decay,
        warmup=warmup,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        patience=patience,
        dtype=dtype,
        seed=seed,
    )
    learn, held = held_out(labels, validation, seed=seed)
    with seeded(seed):  # making room for new tokens draws random rows
        model, tokenizer = _base(base, device=device)
        base_digest = digest_of_base(base, model)
        _add_label_tokens(model, tokenizer)
    router = CausalLLMRouter(
        model,
        tokenizer=tokenizer,
        system_text=system_text,
        classifier_text=classifier_text,
        answer_prefix=answer_prefix,
        max_tokens=max_length,
        device=device,
        name=name,
    )
    started_with = {
        "kind": "causal",
        "labels": digest_of_labels(labels),
        "base": base_digest,
        "lora_rank": _LORA_RANK if lora else None,
        "rendered": [router.template.head, router.template.tail],
        "max_length": router.template.max_tokens,
        "validation": validation,
        **settings.to_dict(),
    }
    with seeded(seed, device=model.device):
        trained = _with_lora(model, router.label_ids) if lora else model
    pad = padding_token(tokenizer)

    def examples(part: LabelledPrompts) -> Examples:
        return Examples(labels=part, ids=router.template.ids(part.prompts), targets=label_targets(part))

    def logits(ids: Sequence[Sequence[int]]) -> Any:
        return next_token_logits(trained, ids, pad)[:, router.label_ids]

    with TrainingRun(out, started_with, restart=restart) as run:
        fine_tune(
            trained,
            logits=logits,
            n_wins=3,
            training=examples(learn),
            validation=None if held is None else examples(held),
            settings=settings,
            run=run,
        )
        if lora:
            router.model = trained.merge_and_unload().eval()
        calibrated(router, learn, held, out=out, run=run)
    return TrainingResult(router=router, log=run.rows)


def label_targets(labels: LabelledPrompts) -> NDArray[np.float32]:
    """Wanted probability of each label token: how good the weak model's answer is, worst first.

    Where the strong side wins the answer is not good enough, [[1]] to [[3]] alike (a verdict does not say by how
    much); a tie is [[4]], and where the weak side wins it is [[5]]. So 1 - P(score >= 4) is P(strong wins).

    Returns:
        Shape (len(labels), 5), rows sum to 1.
    """
    shares = labels.shares
    lost = shares[:, [STRONG_WINS]] / 3
    return np.hstack([lost, lost, lost, shares[:, [TIED]], shares[:, [WEAK_WINS]]]).astype(np.float32)


def _base(base: str | Path, *, device: str | None) -> tuple[Any, Any]:
    """Model and tokenizer."""
    if Path(base).suffix != ".gguf":
        return load_model("AutoModelForCausalLM", base, device=device), load_tokenizer(base)
    path = Path(base)
    if not path.is_file():
        raise RouterFormatError(f"no file {str(path)!r}")
    transformers = need("transformers", extra="train", why="training a router of kind 'causal'")
    need("gguf", extra="train", why=f"reading {path.name}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        unpacked = transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name)
        config = unpacked.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are plain now, but the model would refuse to be saved
        model = transformers.AutoModelForCausalLM.from_config(config)
        model.load_state_dict(unpacked.state_dict())
        model.tie_weights()
    except Exception as error:
        raise RouterFormatError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return model.float().to(resolve_device(device)).eval(), tokenizer


def _add_label_tokens(model: Any, tokenizer: Any) -> None:
    """Make each label one token; its rows begin as those of the digit it shows."""
    torch = need("torch", extra="train", why="training a router of kind 'causal'")
    known = tokenizer.get_vocab()
    new = [label for label in LABEL_TOKENS if label not in known]
    if not new:
        return
    tokenizer.add_tokens(new, special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for label in new:
            digit = tokenizer(label.strip("[]"), add_special_tokens=False)["input_ids"]
            for embedding in embeddings:
                embedding.weight[tokenizer.convert_tokens_to_ids(label)] = embedding.weight[digit].mean(dim=0)


def _with_lora(model: Any, label_ids: list[int]) -> Any:
    peft = need("peft", extra="train", why="training with LoRA (lora=False goes without)")
    places = [model.get_input_embeddings(), model.get_output_embeddings()]
    if places[1] is None:
        raise ConfigurationError(f"{type(model).__name__} has no output embeddings to teach label tokens to")
    tied = places[0].weight is places[1].weight
    names = [name for name, module in model.named_modules() if module is (places[0] if tied else places[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers 5 renames
        return peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=_LORA_RANK,
                lora_alpha=2 * _LORA_RANK,
                target_modules="all-linear",
                trainable_token_indices={names[0]: label_ids},
            ),
        )
