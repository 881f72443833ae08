"""A router fitted to one's own labels: how well each model would answer, from the prompt's words."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders import StackedEncoder, StaticEncoder
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.encoders.ngrams import TokenCounts, WordTokens, count_ngrams
from routellm_core.encoders.topics import Topics
from routellm_core.errors import ConfigurationError, DataError, RouteLLMError, RouterFormatError, UnknownKindError
from routellm_core.routers.base import Router, checked_win_rates, pair_name
from routellm_core.routers.linear import sigmoid
from routellm_core.routers.metadata import Metadata, category, check_column

_logger = logging.getLogger("routellm_core.routers")

_UNKNOWN, _UNSEEN = -1, -2  # instead of a row: nothing is said of the prompt; a value that fitting did not see

__all__ = ["FittedRouter", "metadata_columns", "tokenizing_part"]


class FittedRouter(Router):
    """quality(M, q) = W_M . [e_q, n_q, t_q, m_q] + b_M; win_rate = sigmoid(slope * z + intercept).

    e_q is the encoder's vector, n_q the hashed token n-grams, t_q the topics, m_q the metadata. z blends,
    in standard deviations, the quality gap strong - weak with the difficulty that the base router saw: with few labels
    the base decides, with many the labels do. `routellm_core.fit_router` makes one.

    Args:
        encoder: Gives e_q, of width E. Where no part of it can tokenise, n-grams are made of words.
        models: Names of the M models.
        strong: One of them.
        weak: Another.
        weights: Shape (M, E).
        ngram_weights: Shape (width, M), width a power of two.
        ngram_importance: Weight of each n-gram before a text's are scaled to unit length, shape (width,).
        metadata_weights: Shape (K, M).
        metadata_values: The K known values: name of the column to its values, in the order of the rows.
        bias: Shape (M,).
        lowest: The encoder's vectors are clipped here, shape (E,), so that no strange prompt runs away.
        highest: Likewise.
        base_weights: Of the base router's difficulty, over e_q, shape (E,).
        blend: Weight of the labels against the base, 0..1.
        scale: For z: base mean, base standard deviation, shape (2,).
        gap: Mean and standard deviation of the gap for each ordered pair, shape (2, M, M).
        link: Slope and intercept for each ordered pair, shape (2, M, M).
        topics: Gives t_q, of K numbers, from the first columns of e_q. None for none.
        topic_weights: Shape (K, M); None for none.

    Raises:
        ConfigurationError: Shapes that do not fit, or values that are not finite.
        UnknownKindError: `strong` or `weak` is no known model.

    Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, chapter 2 (the weights are the
        posterior mean of a linear Gaussian process).
    """

    kind: ClassVar[str] = "fitted"
    encoder: Encoder

    def __init__(
        self,
        *,
        encoder: Encoder,
        models: Sequence[str],
        strong: str,
        weak: str,
        weights: NDArray[Any],
        ngram_weights: NDArray[Any],
        ngram_importance: NDArray[Any],
        metadata_weights: NDArray[Any],
        metadata_values: Mapping[str, Sequence[str]],
        bias: NDArray[Any],
        lowest: NDArray[Any],
        highest: NDArray[Any],
        base_weights: NDArray[Any],
        blend: float,
        scale: NDArray[Any],
        gap: NDArray[Any],
        link: NDArray[Any],
        topics: Topics | None = None,
        topic_weights: NDArray[Any] | None = None,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(name=name, calibration=calibration)
        self.encoder = encoder
        self.is_quick = encoder.is_quick
        self.models = tuple(models)
        self.metadata_values = {column: tuple(values) for column, values in metadata_values.items()}
        self.metadata_columns = tuple(self.metadata_values)
        self._metadata_rows = _rows_by_value(self.metadata_values)
        self.blend = float(blend)
        self.arrays: dict[str, NDArray[Any]] = {
            "weights": np.asarray(weights, dtype=np.float32),
            "ngram_weights": np.asarray(ngram_weights, dtype=np.float32),
            "ngram_importance": np.asarray(ngram_importance, dtype=np.float32),
            "metadata_weights": np.asarray(metadata_weights, dtype=np.float64),
            "bias": np.asarray(bias, dtype=np.float64),
            "lowest": np.asarray(lowest, dtype=np.float32),
            "highest": np.asarray(highest, dtype=np.float32),
            "base_weights": np.asarray(base_weights, dtype=np.float32),
            "scale": np.asarray(scale, dtype=np.float64),
            "gap": np.asarray(gap, dtype=np.float64),
            "link": np.asarray(link, dtype=np.float64),
            "topic_weights": np.asarray(
                np.zeros((0, len(self.models))) if topic_weights is None else topic_weights, dtype=np.float64
            ),
        }
        self.topics = Topics.none() if topics is None else topics
        self._check()
        self._warned = False
        self._warned_of_values: set[str] = set()
        self._tokenizer = tokenizing_part(encoder)
        self._importance = self.arrays["ngram_importance"].astype(np.float64)
        self.strong, self.weak = strong, weak
        self._s, self._w = self._row(strong), self._row(weak)
        if self._s == self._w:
            raise ConfigurationError(f"strong and weak are the same model, {strong!r}")

    def _check(self) -> None:
        m, e = len(self.models), self.encoder.dim
        width = self.arrays["ngram_importance"].shape[0] if self.arrays["ngram_importance"].ndim == 1 else 0
        n_values = sum(map(len, self.metadata_values.values()))
        expected = {
            "weights": (m, e),
            "ngram_weights": (width, m),
            "ngram_importance": (width,),
            "metadata_weights": (n_values, m),
            "bias": (m,),
            "lowest": (e,),
            "highest": (e,),
            "base_weights": (e,),
            "scale": (2,),
            "gap": (2, m, m),
            "link": (2, m, m),
            "topic_weights": (self.topics.n_clusters, m),
        }
        for name, shape in expected.items():
            if self.arrays[name].shape != shape:
                raise ConfigurationError(f"{name} has shape {self.arrays[name].shape}, expected {shape}")
            if name not in ("lowest", "highest") and not np.isfinite(self.arrays[name]).all():
                raise ConfigurationError(f"{name} holds values that are not finite")
        if len(set(self.models)) != m or m < 2:
            raise ConfigurationError(f"a fitted router needs two or more different models, got {list(self.models)}")
        if width < 2 or width & (width - 1):
            raise ConfigurationError(f"n-grams are hashed into a power of two of columns, got {width}")
        if not 0.0 <= self.blend <= 1.0:
            raise ConfigurationError(f"blend is a weight from 0 to 1, got {self.blend}")
        if self.topics.n_embedding > e:
            raise ConfigurationError(f"topics of {self.topics.n_embedding} numbers do not fit vectors of {e}")

    def _row(self, model: str) -> int:
        try:
            return self.models.index(model)
        except ValueError:
            raise UnknownKindError(f"unknown model {model!r}; this router knows: {', '.join(self.models)}") from None

    # -- scoring
    def _qualities(
        self, prompts: list[str], metadata: Metadata | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quality of every model, shape (n, M), and the base's difficulty, shape (n,)."""
        self._warn_of_missing(metadata)
        columns = _rows_of(metadata or {}, self._metadata_rows, len(prompts))  # before anything is scored
        self._warn_of_unseen(dict(zip(metadata or {}, columns, strict=True)))
        arrays = self.arrays
        raw = self.encoder.encode(prompts)
        vectors = np.clip(raw, arrays["lowest"], arrays["highest"]).astype(np.float64)
        grams = self._grams(prompts)
        qualities = vectors @ arrays["weights"].T.astype(np.float64) + grams.times(arrays["ngram_weights"])
        qualities += self.topics.memberships(raw[:, : self.topics.n_embedding]) @ arrays["topic_weights"]
        qualities += arrays["bias"]
        for rows in columns:
            known = rows >= 0
            qualities[known] += arrays["metadata_weights"][rows[known]]
        return qualities, raw.astype(np.float64) @ arrays["base_weights"].astype(np.float64)

    def _grams(self, prompts: list[str]) -> TokenCounts:
        return count_ngrams(self._tokenizer.tokens(prompts), width=len(self._importance)).weighted(self._importance)

    def _warn_of_missing(self, metadata: Metadata | None) -> None:
        if self._warned or not self.metadata_columns:
            return
        missing = [column for column in self.metadata_columns if not metadata or column not in metadata]
        if missing:
            self._warned = True  # once a router: it may be on a hot path
            _logger.warning(
                "router %r was fitted with metadata (%s) and scores without %s, which can be worse than a fit without; "
                'it comes with the call: config={"metadata": {...}} in LangChain, metadata_scope() in LlamaIndex, '
                "metadata= elsewhere",
                self.name,
                ", ".join(self.metadata_columns),
                "it" if len(missing) == len(self.metadata_columns) else ", ".join(missing),
            )

    def _warn_of_unseen(self, rows_by_column: Mapping[str, NDArray[np.int64]]) -> None:
        for column, rows in rows_by_column.items():
            if column not in self._warned_of_values and (rows == _UNSEEN).any():
                self._warned_of_values.add(column)  # once a column and router
                _logger.warning(  # without the value, which may be personal
                    "metadata %r of a call is none of the %d values that router %r saw in fitting (case counts): the "
                    "call is scored without it; said once",
                    column,
                    len(self.metadata_values[column]),
                    self.name,
                )

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        return self._win_rates(prompts, None)

    def _win_rates(self, prompts: list[str], metadata: Metadata | None) -> NDArray[np.float64]:
        qualities, difficulty = self._qualities(prompts, metadata)
        pair = self._s, self._w
        mean, deviation = self.arrays["gap"][0][pair], self.arrays["gap"][1][pair]
        z = self.blend * (qualities[:, self._s] - qualities[:, self._w] - mean) / deviation
        z += (1.0 - self.blend) * (difficulty - self.arrays["scale"][0]) / self.arrays["scale"][1]
        return sigmoid(self.arrays["link"][0][pair] * z + self.arrays["link"][1][pair])

    def win_rate(self, prompts: Sequence[str], *, metadata: Metadata | None = None) -> NDArray[np.float64]:
        """Chance that the strong model's answer beats the weak one's, see `Router.win_rate`.

        Args:
            prompts: Texts.
            metadata: Columns the router was fitted with, one value a prompt: str, int, bool, or an enum's member,
                which counts as its value. A value not seen in fitting, None, and a column left out all count as
                unknown; the first and the last are logged once.

        Raises:
            DataError: As `Router.win_rate`; also a column the router does not have, one of another length, or a value
                that is no category.
            ScoringError: As `Router.win_rate`.
        """
        if not metadata:
            return super().win_rate(prompts)
        texts = checked_texts(prompts, what="prompt")
        if not texts:
            return np.zeros(0)
        try:
            win_rates = self._win_rates(texts, metadata)
        except RouteLLMError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return checked_win_rates(win_rates, len(texts), self.name)

    @property
    def is_async(self) -> bool:
        """False: `awin_rate` takes a thread."""
        return False

    async def awin_rate(self, prompts: Sequence[str], *, metadata: Metadata | None = None) -> NDArray[np.float64]:
        """`win_rate` in a thread."""
        return await asyncio.to_thread(self.win_rate, prompts, metadata=metadata)

    def model_scores(self, prompts: Sequence[str], *, metadata: Metadata | None = None) -> NDArray[np.float64]:
        """Expected quality of every model's answer, on the scale of the scores it was fitted to.

        Returns:
            Shape (len(prompts), M), columns in the order of `models`.

        Raises:
            DataError: As `win_rate`.
            EncoderError: The encoder failed.
        """
        texts = checked_texts(prompts, what="prompt")
        return self._qualities(texts, metadata)[0] if texts else np.zeros((0, len(self.models)))

    def for_pair(self, strong: str, weak: str, *, name: str | None = None) -> FittedRouter:
        """The same router for two other of its models. It is not calibrated: thresholds differ by pair.

        Args:
            strong: One of `models`.
            weak: Another.
            name: What records call it. Default: this router's name and the pair, "fitted (large over small)".

        Raises:
            UnknownKindError: A model it does not know; the message lists those it does.
            ConfigurationError: Both are the same model.
        """
        called = name or pair_name(self.name, strong, weak, own=(self.strong, self.weak))
        return FittedRouter(**{**self._parts(), "name": called}, strong=strong, weak=weak)

    # -- saving
    def _parts(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "models": self.models,
            "metadata_values": self.metadata_values,
            "blend": self.blend,
            "name": self.name,
            "topics": self.topics,
            **self.arrays,
        }

    def settings(self) -> dict[str, Any]:
        return {
            "models": list(self.models),
            "strong": self.strong,
            "weak": self.weak,
            "blend": self.blend,
            "metadata_values": {column: list(values) for column, values in self.metadata_values.items()},
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {**self.arrays, **self.topics.tensors()}

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> FittedRouter:
        if encoder is None:
            raise RouterFormatError("a router of kind 'fitted' was saved without its encoder")
        names = ("models", "strong", "weak", "blend", "metadata_values")
        arrays: dict[str, Any] = {n: array for n, array in tensors.items() if "." not in n}
        topics = Topics.of_tensors(tensors)
        return cls(encoder=encoder, topics=topics, **{name: settings[name] for name in names}, **arrays)


def tokenizing_part(encoder: Encoder) -> StaticEncoder | WordTokens:
    """The part of an encoder whose tokens n-grams are made of; words where it has none."""
    for part in encoder.encoders if isinstance(encoder, StackedEncoder) else (encoder,):
        if hasattr(part, "tokens"):
            return part  # type: ignore[return-value]  # anything with tokens() will do
    return WordTokens()


def metadata_columns(metadata: Metadata, known: Mapping[str, Sequence[str]], n_prompts: int) -> list[NDArray[np.int64]]:
    """For each column given, the row of `metadata_weights` for each prompt; negative where there is none.

    Raises:
        DataError: A column that is not known, or of another length, or a value that is no category.
    """
    return _rows_of(metadata, _rows_by_value(known), n_prompts)


def _rows_by_value(known: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    numbers = itertools.count()
    return {column: {value: next(numbers) for value in values} for column, values in known.items()}


def _rows_of(metadata: Metadata, known: Mapping[str, Mapping[str, int]], n_prompts: int) -> list[NDArray[np.int64]]:
    found = []
    for column, given in metadata.items():
        if column not in known:
            raise DataError(f"unknown metadata {column!r}; the router knows: {', '.join(known) or 'none'}")
        check_column(column, given, n_prompts)
        rows = known[column]
        names = map(category, given)
        found.append(np.array([_UNKNOWN if n is None else rows.get(n, _UNSEEN) for n in names], dtype=np.int64))
    return found
