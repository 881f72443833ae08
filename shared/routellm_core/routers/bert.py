"""A sequence classifier over the prompt: strong wins, tie, weak wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.calibration import Calibration
from routellm_core.data.labels import LABELS, STRONG_WINS
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.encoders.pretrained import (
    batches_by_length,
    first_tokens,
    load_pair,
    padded,
    padding_token,
    token_limit,
    tokens_at_once,
)
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.transformer import TransformerRouter

__all__ = ["BertRouter"]


class BertRouter(TransformerRouter):
    """win_rate = softmax(logits)[strong wins] = 1 - P(tie) - P(weak wins).

    Needs the extra "torch". In float32 a prompt's win rate does not depend on the batch it is scored in
    (to 1e-5); in bfloat16 it does, by about 1e-2.

    Args:
        model: Folder or hub name of a Hugging Face sequence classifier with three labels in the order of
            `LABELS`, or a loaded model; then `tokenizer` is needed too.
        tokenizer: A loaded tokenizer; None loads the model's own.
        max_tokens: Longer prompts are cut at the end. Never more than the model has positions for.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16".
        local_files_only: Never use the network.
        name: What records call it.
        calibration: Win rates of a sample of prompts.

    Raises:
        RouterFormatError: The model cannot be loaded, lacks weights, or has another number of labels.
        ConfigurationError: An unknown device or dtype, a loaded model without tokenizer, or `max_tokens` below 2.
        MissingExtraError: torch or transformers is not installed.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 (BERT classifier).
    """

    kind: ClassVar[str] = "bert"

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        max_tokens: int = 512,
        device: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = False,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if max_tokens < 2:
            raise ConfigurationError(f"max_tokens must be at least 2, got {max_tokens}")
        self.model, self.tokenizer = load_pair(
            "AutoModelForSequenceClassification",
            model,
            tokenizer,
            device=device,
            dtype=dtype,
            local_only=local_files_only,
        )
        if self.model.config.num_labels != len(LABELS):
            raise RouterFormatError(
                f"a router of kind 'bert' needs a classifier with {len(LABELS)} labels ({', '.join(LABELS)}); this "
                f"{type(self.model).__name__} has {self.model.config.num_labels}"
            )
        self.dtype = dtype
        self.max_tokens = min(int(max_tokens), token_limit(self.model, self.tokenizer))
        self._pad = padding_token(self.tokenizer)
        first_tokens(self.tokenizer, [""], self.max_tokens)  # sets the limit while no second thread is at work
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = self._pad  # classifiers on causal models look for the last other token
        super().__init__(name=name, calibration=calibration)

    def logits(self, ids: Sequence[Sequence[int]]) -> Any:
        """The model's output on rows of token ids, a tensor of shape (len(ids), 3)."""
        torch = need("torch", extra="torch", why="BertRouter")
        tokens, mask = (torch.from_numpy(array).to(self.model.device) for array in padded(ids, self._pad))
        return self.model(input_ids=tokens, attention_mask=mask).logits

    def label_probabilities(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """P(strong wins), P(tie), P(weak wins) of each prompt, shape (len(prompts), 3)."""
        torch = need("torch", extra="torch", why="BertRouter")
        texts = checked_texts(prompts, what="prompt")
        ids = first_tokens(self.tokenizer, texts, self.max_tokens) if texts else []
        probabilities = np.zeros((len(texts), len(LABELS)))
        for rows in batches_by_length([len(row) for row in ids], tokens_at_once(self.model)):
            with torch.inference_mode():
                logits = self.logits([ids[row] for row in rows])
                probabilities[rows] = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        return probabilities

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        return self.label_probabilities(prompts)[:, STRONG_WINS]

    def settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "dtype": self.dtype}

    @classmethod
    def restore_with_files(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        encoder: Encoder | None,
        files: Path,
    ) -> BertRouter:
        return cls(files, max_tokens=settings["max_tokens"], dtype=settings["dtype"], local_files_only=True)
