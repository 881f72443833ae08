"""Battles whose prompts an evaluation set holds too: a router trained on them would be judged on what it saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routellm_core.data.battles import Battles
from routellm_core.data.filters import without
from routellm_core.data.steps import Step
from routellm_core.data.words import WordNumbers, shingles, words_of
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["MAX_COSINE", "RUN", "drop_overlap", "overlap_with"]

RUN = 13
"""Words in a row that two texts do not share by chance (Brown et al. 2020, arXiv:2005.14165, appendix C)."""
MAX_COSINE = 0.92
_FEW, _CHANCE = 100, 0.01  # with so many on both sides, more than this share of pairs is no coincidence
_SAME, _RUN = "same text as an evaluation prompt", f"{RUN} words in a row of an evaluation prompt"


def drop_overlap(
    battles: Battles,
    evaluation_prompts: Sequence[str],
    *,
    encoder: Encoder | None = None,
    max_cosine: float = MAX_COSINE,
) -> tuple[Battles, Step]:
    """Leave out battles whose prompt overlaps an evaluation prompt, see `overlap_with`."""
    reasons = overlap_with(battles.prompts, evaluation_prompts, encoder=encoder, max_cosine=max_cosine)
    of_battles = reasons[battles.prompt_index]
    dropped = of_battles != ""
    return without(battles, dropped, "overlap", of_battles[dropped])


def overlap_with(
    prompts: Sequence[str],
    evaluation_prompts: Sequence[str],
    *,
    encoder: Encoder | None = None,
    max_cosine: float = MAX_COSINE,
) -> NDArray[np.object_]:
    """Why each prompt overlaps an evaluation prompt, "" where it does not.

    It does when the words are the same (case, punctuation and spacing aside), when 13 words in a row are
    shared, or when an encoder is given and the cosine of the two vectors exceeds `max_cosine`.

    Args:
        prompts: Shape (Q,).
        evaluation_prompts: Any number.
        encoder: Gives the vectors; None compares words only.
        max_cosine: 0..1.

    Returns:
        The first reason that holds, shape (Q,).

    Raises:
        ConfigurationError: `max_cosine` outside 0..1, or so many pairs of prompts exceed it that the encoder's
            cosine does not tell equal prompts from others.
        DataError: A prompt is not a str, or `evaluation_prompts` is one str.
        EncoderError: The encoder failed.
    """
    if not 0.0 <= max_cosine <= 1.0:
        raise ConfigurationError(f"max_cosine is between 0 and 1, got {max_cosine!r}")
    if isinstance(evaluation_prompts, str):
        raise DataError("expected a list of evaluation prompts, got one str; write [prompt]")
    reasons = np.full(len(prompts), "", dtype=object)
    if not len(prompts) or not len(evaluation_prompts):
        return reasons
    words = [words_of(prompt) for prompt in prompts]
    evaluation_words = [words_of(prompt) for prompt in evaluation_prompts]
    seen = {" ".join(each) for each in evaluation_words}
    reasons[[" ".join(each) in seen for each in words]] = _SAME
    numbers = WordNumbers()
    known, _ = shingles(*numbers.of(evaluation_words), RUN)
    runs, prompt = shingles(*numbers.of(words), RUN)
    shares = np.zeros(len(prompts), dtype=bool)
    shares[prompt[np.isin(runs, known)]] = True
    reasons[shares & (reasons == "")] = _RUN
    if encoder is not None:
        left = np.flatnonzero(reasons == "")
        vectors = _unit(encoder.encode([prompts[int(i)] for i in left]))
        others = _unit(encoder.encode(list(evaluation_prompts)))
        _check_tells_apart(vectors, others, max_cosine, encoder.name)
        close = _largest_cosine(vectors, others) > max_cosine
        reasons[left[close]] = f"cosine over {max_cosine:g} with an evaluation prompt"
    return reasons


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    return unit.astype(np.float32, copy=False)


def _check_tells_apart(
    vectors: NDArray[np.float32], others: NDArray[np.float32], max_cosine: float, encoder: str
) -> None:
    """Vectors with a large common part (measures of the text, say) are all alike: everything would be dropped."""
    some, some_others = (each[:: max(1, len(each) // 1000)] for each in (vectors, others))
    if min(len(some), len(some_others)) < _FEW:
        return
    share = float((some @ some_others.T > max_cosine).mean())
    if share > _CHANCE:
        raise ConfigurationError(
            f"{share:.0%} of all pairs of prompts have a cosine over {max_cosine:g} by encoder {encoder!r}, so it does "
            "not tell the same prompts from others; use a sentence encoder, or a higher max_cosine"
        )


def _largest_cosine(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row, over all others; in blocks of rows, so that memory stays near 100 MB."""
    rows = max(1, 25_000_000 // max(1, len(others)))
    largest = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), rows):
        largest[start : start + rows] = (vectors[start : start + rows] @ others.T).max(axis=1)
    return largest
