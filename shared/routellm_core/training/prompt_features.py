"""What a fitted router sees of a prompt, in blocks, and the way back from their weights to a router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.encoders import SurfaceEncoder
from routellm_core.encoders.ngrams import TokenCounts, count_ngrams
from routellm_core.encoders.topics import Topics
from routellm_core.errors import DataError
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.routers.fitted import FittedRouter, metadata_columns, tokenizing_part
from routellm_core.routers.metadata import Metadata, category, check_column
from routellm_core.training.additive import Blocks
from routellm_core.training.base_router import stacked_on_surface
from routellm_core.training.find_topics import find_topics

__all__ = ["PromptFeatures"]

Floats = NDArray[np.float64]

_WIDTH = 1 << 16
_FEW = 20  # values that may all differ by chance
_CLIP = 3.0  # standard deviations of a surface feature


class PromptFeatures:
    """Blocks of features of the labelled prompts, and the way back from their weights to a router.

    Args:
        base: Gives the encoder, and the difficulty that serves as prior.
        texts: The prompts.
        metadata: Columns beside them.
        rng: For the topics.

    Attributes:
        blocks: Of the prompts: embedding, counts, n-grams, topics where the embedding is contextual, and each column
            of metadata.
        difficulty: Of the prompts as the fitted router works it out, without the base's bias, shape (n,).
    """

    def __init__(
        self, base: DifficultyRouter, texts: list[str], metadata: Metadata, *, rng: np.random.Generator
    ) -> None:
        sparse = need("scipy.sparse", extra="fit", why="fit_router")
        self.encoder, self.base_weights, self.n_embedding = stacked_on_surface(base)
        vectors = self.encoder.encode(texts).astype(np.float64)
        self.difficulty = vectors @ self.base_weights.astype(np.float32).astype(np.float64)
        # the embedding as it is, but for its size; surface features standardised and clipped
        self.mean = np.zeros(self.encoder.dim)
        self.size = np.ones(self.encoder.dim)
        embedding, surface = slice(0, self.n_embedding), slice(self.n_embedding, None)
        self.size[embedding] = np.sqrt((vectors[:, embedding] ** 2).sum(axis=1).mean()) or 1.0
        self.mean[surface] = vectors[:, surface].mean(axis=0)
        self.size[surface] = (vectors[:, surface].std(axis=0) + 1e-3) * np.sqrt(SurfaceEncoder().dim)
        reach = _CLIP * self.size / np.sqrt(SurfaceEncoder().dim)
        self.lowest = np.where(np.arange(self.encoder.dim) < self.n_embedding, -np.inf, self.mean - reach)
        self.highest = np.where(np.arange(self.encoder.dim) < self.n_embedding, np.inf, self.mean + reach)
        scaled = (np.clip(vectors, self.lowest, self.highest) - self.mean) / self.size

        counts = count_ngrams(tokenizing_part(self.encoder).tokens(texts), width=_WIDTH)
        # rare n-grams say more; those never seen keep the weight of the rarest, and have no say
        self.importance = np.log((1 + len(texts)) / (1 + counts.document_counts())) + 1
        grams = counts.weighted(self.importance)
        matrices = [scaled[:, embedding], scaled[:, surface], _matrix(grams, sparse)]
        # clusters of averaged word vectors gain nothing; found without the labels, so once for all folds
        self.topics = Topics.none() if self.encoder.is_quick else find_topics(vectors[:, embedding], rng=rng)
        if self.topics.n_clusters:
            matrices.append(self.topics.memberships(vectors[:, embedding]))

        self.metadata_values = {column: _values(column, given, len(texts)) for column, given in metadata.items()}
        self.n_values = sum(map(len, self.metadata_values.values()))
        for rows in metadata_columns(metadata, self.metadata_values, len(texts)):
            known = np.flatnonzero(rows >= 0)
            ones = np.ones(len(known))
            matrices.append(sparse.csr_matrix((ones, (known, rows[known])), shape=(len(texts), self.n_values)))
        self.blocks = Blocks(matrices)

    def router(
        self,
        weights: Sequence[Floats],
        *,
        bias: Floats,
        models: tuple[str, ...],
        pair: tuple[str, str],
        base: DifficultyRouter,
        **others: Any,
    ) -> FittedRouter:
        """The router of these weights, shape (d_b, M) for each block; `bias` is each model's mean, shape (M,)."""
        embedding, surface, ngrams, *metadata = weights
        topics = metadata.pop(0) if self.topics.n_clusters else None
        over_vectors = np.concatenate([embedding, surface]) / self.size[:, None]
        return FittedRouter(
            encoder=self.encoder,
            models=models,
            strong=pair[0],
            weak=pair[1],
            weights=over_vectors.T,
            ngram_weights=ngrams,
            ngram_importance=self.importance,
            topics=self.topics,
            topic_weights=topics,
            metadata_weights=np.sum(metadata, axis=0) if metadata else np.zeros((0, len(models))),
            metadata_values=self.metadata_values,
            bias=bias - self.mean @ over_vectors,
            lowest=self.lowest,
            highest=self.highest,
            base_weights=self.base_weights,
            **others,
        )


def _values(column: str, given: Sequence[Any], n_prompts: int) -> tuple[str, ...]:
    """The categories of a column of metadata, sorted.

    Raises:
        DataError: It has not one value a prompt, one that is no category, or another one for every prompt.
    """
    check_column(column, given, n_prompts)
    known = [value for value in map(category, given) if value is not None]
    values = tuple(sorted(set(known)))
    if len(values) == len(known) >= _FEW:
        raise DataError(
            f"metadata {column!r} has another value for every prompt, which says nothing of the next one: give "
            "categories that come again"
        )
    return values


def _matrix(counts: TokenCounts, sparse: Any) -> Any:
    return sparse.csr_matrix((counts.values, (counts.rows, counts.columns)), shape=(counts.n_texts, counts.width))
