"""A causal language model that predicts, as one token, how good the weak model's answer would be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.encoders.pretrained import (
    batches_by_length,
    load_pair,
    padded,
    padding_token,
    token_limit,
    tokens_at_once,
)
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.prompt_template import QUESTION, PromptTemplate, rendered_texts
from routellm_core.routers.transformer import TransformerRouter

__all__ = ["ANSWER_PREFIX", "CLASSIFIER_TEXT", "LABEL_TOKENS", "QUESTION", "SYSTEM_TEXT", "CausalLLMRouter"]

LABEL_TOKENS = ("[[1]]", "[[2]]", "[[3]]", "[[4]]", "[[5]]")
"""Expected quality of the weak model's answer, worst first."""
SYSTEM_TEXT = "Rate how well a small language model would answer the question, from 1 (badly) to 5 (perfectly)."
CLASSIFIER_TEXT = "Question: {question}\n\nHow good is the small model's answer?"
ANSWER_PREFIX = "Rating:"

_GOOD_ENOUGH = 3  # labels from this one on, [[4]] and [[5]], mean that the weak model suffices


class CausalLLMRouter(TransformerRouter):
    """win_rate = 1 - P(score >= 4), the softmax of five label tokens behind the answer prefix.

    One forward pass a prompt gives the logits that generating the first answer token would give. The prompt is
    put into the classifier text, that into the tokenizer's chat template where it has one. Text in a prompt
    that spells a special token is read as plain text. Of a prompt that is too long the middle is left out, so
    that instruction and answer prefix always stay.

    Needs the extra "torch". In float32 a prompt's win rate does not depend on the batch it is scored in
    (to 1e-5); in bfloat16 it does, by about 1e-2.

    Args:
        model: Folder or hub name of a Hugging Face causal model whose tokenizer has the label tokens, or a
            loaded model; then `tokenizer` is needed too.
        tokenizer: A loaded tokenizer; None loads the model's own.
        system_text: System message; empty for none.
        classifier_text: User message, with "{question}" where the prompt goes.
        answer_prefix: How the answer begins, up to the label.
        label_tokens: The five labels, worst first; single tokens each.
        max_tokens: Of the whole input. Never more than the model has positions for.
        needs_label: Give 1.0 where the most likely next token is no label, as the original does.
        rendered: What stands before and after the prompt; None takes it from the texts and the chat template.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16".
        local_files_only: Never use the network.
        name: What records call it.
        calibration: Win rates of a sample of prompts.

    Raises:
        RouterFormatError: The model cannot be loaded, lacks weights, or its tokenizer lacks a label token.
        ConfigurationError: A text without its place for the prompt, too few `max_tokens` for the texts, not
            five different labels, an unknown device or dtype, or a loaded model without tokenizer.
        MissingExtraError: torch or transformers is not installed.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 (causal LLM classifier).
    """

    kind: ClassVar[str] = "causal"

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        system_text: str = SYSTEM_TEXT,
        classifier_text: str = CLASSIFIER_TEXT,
        answer_prefix: str = ANSWER_PREFIX,
        label_tokens: Sequence[str] = LABEL_TOKENS,
        max_tokens: int = 2048,
        needs_label: bool = False,
        rendered: tuple[str, str] | None = None,
        device: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = False,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.label_tokens = tuple(label_tokens)
        if len(set(self.label_tokens)) != len(LABEL_TOKENS):
            raise ConfigurationError(f"label_tokens are five different tokens, worst first; got {self.label_tokens!r}")
        self.model, self.tokenizer = load_pair(
            "AutoModelForCausalLM", model, tokenizer, device=device, dtype=dtype, local_only=local_files_only
        )
        self.system_text, self.classifier_text, self.answer_prefix = system_text, classifier_text, answer_prefix
        self.needs_label = bool(needs_label)
        self.dtype = dtype
        self.template = PromptTemplate(
            self.tokenizer,
            *(rendered or rendered_texts(self.tokenizer, system_text, classifier_text, answer_prefix)),
            max_tokens=min(int(max_tokens), token_limit(self.model, self.tokenizer)),
        )
        self.label_ids = label_ids(self.tokenizer, self.label_tokens)
        super().__init__(name=name, calibration=calibration)

    def label_probabilities(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """P of each of the five labels given that it is one of them, worst first, shape (len(prompts), 5)."""
        return self._probabilities(checked_texts(prompts, what="prompt"))[0]

    def _probabilities(self, prompts: list[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Label probabilities, and whether the most likely next token is a label."""
        torch = need("torch", extra="torch", why="CausalLLMRouter")
        probabilities = np.zeros((len(prompts), len(self.label_ids)))
        is_label = np.zeros(len(prompts), dtype=bool)
        ids = self.template.ids(prompts)
        for rows in batches_by_length([len(row) for row in ids], tokens_at_once(self.model)):
            with torch.inference_mode():
                logits = next_token_logits(self.model, [ids[row] for row in rows], padding_token(self.tokenizer))
                probabilities[rows] = torch.softmax(logits[:, self.label_ids].double(), dim=-1).cpu().numpy()
                is_label[rows] = np.isin(logits.argmax(dim=-1).cpu().numpy(), self.label_ids)
        return probabilities, is_label

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        probabilities, is_label = self._probabilities(prompts)
        win_rates = probabilities[:, :_GOOD_ENOUGH].sum(axis=1).clip(max=1.0)  # a sum may round to just above 1
        return np.where(is_label | (not self.needs_label), win_rates, 1.0)

    def settings(self) -> dict[str, Any]:
        return {
            "system_text": self.system_text,
            "classifier_text": self.classifier_text,
            "answer_prefix": self.answer_prefix,
            "label_tokens": list(self.label_tokens),
            "max_tokens": self.template.max_tokens,
            "needs_label": self.needs_label,
            # as rendered: a template may hold today's date, and another version may render otherwise
            "rendered": [self.template.head, self.template.tail],
            "dtype": self.dtype,
        }

    @classmethod
    def restore_with_files(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        encoder: Encoder | None,
        files: Path,
    ) -> CausalLLMRouter:
        head, tail = settings["rendered"]
        return cls(
            files,
            system_text=settings["system_text"],
            classifier_text=settings["classifier_text"],
            answer_prefix=settings["answer_prefix"],
            label_tokens=settings["label_tokens"],
            max_tokens=settings["max_tokens"],
            needs_label=settings["needs_label"],
            rendered=(str(head), str(tail)),
            dtype=settings["dtype"],
            local_files_only=True,
        )


def label_ids(tokenizer: Any, label_tokens: Sequence[str]) -> list[int]:
    """Ids of the label tokens.

    Raises:
        RouterFormatError: One of them is not a single token.
    """
    ids = []
    for label in label_tokens:
        own = tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(own) != 1 or own[0] == tokenizer.unk_token_id:
            raise RouterFormatError(
                f"the tokenizer has no token {label!r}: the model was not fine-tuned as a causal router (or with "
                "other label_tokens)"
            )
        ids.append(int(own[0]))
    return ids


def next_token_logits(model: Any, ids: Sequence[Sequence[int]], pad: int) -> Any:
    """Logits of the token after each row, a tensor of shape (len(ids), vocabulary).

    Rows are padded at their end, where a causal model's earlier positions cannot see it: unlike padding at the
    front this needs no positions to be given, and is exact for every architecture.
    """
    torch = need("torch", extra="torch", why="CausalLLMRouter")
    tokens, mask = (torch.from_numpy(a).to(model.device) for a in padded(ids, pad))
    last = mask.sum(dim=1) - 1
    rows = torch.arange(len(ids), device=model.device)
    if "logits_to_keep" not in inspect.signature(_inner(model).forward).parameters:
        return model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[rows, last]
    # the vocabulary is large: only the positions that are some row's last
    kept, column = torch.unique(last, return_inverse=True)
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    return logits[rows, column]


def _inner(model: Any) -> Any:
    """The model itself, inside what peft wraps around it for training."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
