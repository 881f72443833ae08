"""Everything a fitted verifier looks at, before it is scaled: vectors, signs and n-grams of answer and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders import StackedEncoder, StaticEncoder, SurfaceEncoder
from routellm_core.encoders.ngrams import TokenCounts, count_ngrams
from routellm_core.errors import ConfigurationError
from routellm_core.verifiers.answer import Answer
from routellm_core.verifiers.checks import CHECKS, check_answers

__all__ = ["N_SIGNS", "RawFeatures", "raw_features", "static_part"]

Floats = NDArray[np.float64]

_OPENING = 20  # tokens: "Sure! Here is", "I'm sorry, but", "To solve this"
_FEW = 4  # texts that the tokenizer is given one by one: handing them to its threads takes longer than the work
_N_SURFACE = SurfaceEncoder().dim
N_SIGNS = _N_SURFACE + len(CHECKS)
"""Counts of characters and numbers in the answer, then the checks."""


@dataclass(frozen=True, eq=False)
class RawFeatures:
    """Of n answers, with D the width of the embedding.

    Attributes:
        answer: Embeddings of the answers, shape (n, D).
        signs: Counts and checks, shape (n, N_SIGNS); NaN where there is nothing to look at.
        grams: Of the answers.
        opening: Of how the answers begin.
        prompt: Embeddings of the prompts, shape (n, D); NaN without a prompt.
        prompt_signs: Counts in the prompts, shape (n, S); NaN without a prompt.
        prompt_grams: No entry without a prompt.
    """

    answer: Floats
    signs: Floats
    grams: TokenCounts
    opening: TokenCounts
    prompt: Floats
    prompt_signs: Floats
    prompt_grams: TokenCounts


def raw_features(
    encoder: StackedEncoder, answers: Sequence[Answer], prompts: Sequence[str | None], *, width: int
) -> RawFeatures:
    """Features of answers and prompts; the encoder is a static one with all surface features behind it."""
    static, surface = static_part(encoder), encoder.encoders[1]
    texts = [answer.text for answer in answers]
    asked = [row for row, prompt in enumerate(prompts) if prompt is not None]
    questions = [prompt for prompt in prompts if prompt is not None]
    tokens = _tokens(static, texts)
    of_questions = _tokens(static, questions)
    of_prompts: list[list[int]] = [[] for _ in prompts]
    prompt_vectors = np.full((len(answers), encoder.dim), np.nan)
    if questions:
        prompt_vectors[asked] = np.concatenate([static.vectors_of(of_questions), surface.encode(questions)], axis=1)
        for row, found in zip(asked, of_questions, strict=True):
            of_prompts[row] = found
    counts = surface.encode(texts).astype(np.float64)
    return RawFeatures(
        answer=static.vectors_of(tokens).astype(np.float64),
        signs=np.concatenate([counts, check_answers(list(answers), list(prompts))], axis=1),
        grams=count_ngrams(tokens, width=width),
        opening=count_ngrams([each[:_OPENING] for each in tokens], width=width),
        prompt=prompt_vectors[:, : static.dim],
        prompt_signs=prompt_vectors[:, static.dim :],
        prompt_grams=count_ngrams(of_prompts, width=width),
    )


def _tokens(static: StaticEncoder, texts: list[str]) -> list[list[int]]:
    if len(texts) > _FEW:
        return static.tokens(texts)
    return [static.tokens([text])[0] for text in texts]


def static_part(encoder: StackedEncoder) -> StaticEncoder:
    """The embedding of such an encoder.

    Raises:
        ConfigurationError: The encoder is another one.
    """
    parts = encoder.encoders if isinstance(encoder, StackedEncoder) else ()
    if len(parts) != 2 or not hasattr(parts[0], "tokens") or parts[1].dim != _N_SURFACE:
        raise ConfigurationError("a fitted verifier reads a static embedding with all surface features behind it")
    return parts[0]  # type: ignore[return-value]  # anything with tokens() will do
