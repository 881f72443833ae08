"""Matrix factorisation: a vector for every model, scored against the prompt's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, RouterFormatError, UnknownKindError
from routellm_core.routers.base import Router, pair_name
from routellm_core.routers.linear import sigmoid

__all__ = ["MatrixFactorizationRouter"]


class MatrixFactorizationRouter(Router):
    """delta(M, q) = c . (normalise(P_M) * (W e_q)); win_rate = sigmoid(delta(strong) - delta(weak)).

    For one pair this is a linear function of the prompt's vector e_q, computed once when the router
    is made; a decision is then one dot product.

    Args:
        encoder: Gives e_q; of width E.
        model_vectors: P, shape (N, D), one row a model; no row may be zero.
        projection: W, shape (D, E).
        classifier: c, shape (D,).
        models: The N models' names, in the order of the rows.
        strong: Which of them is the strong one.
        weak: Which of them is the weak one.
        calibration: Win rates of a sample of prompts.

    Raises:
        ConfigurationError: Shapes that do not fit together, values that are not finite, a zero row,
            a model named twice, or strong and weak the same.
        UnknownKindError: `strong` or `weak` is not among `models`.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 (matrix factorization).
    """

    kind: ClassVar[str] = "mf"
    encoder: Encoder

    def __init__(
        self,
        *,
        encoder: Encoder,
        model_vectors: NDArray[Any],
        projection: NDArray[Any],
        classifier: NDArray[Any],
        models: Sequence[str],
        strong: str,
        weak: str,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(name=name, calibration=calibration)
        self.encoder = encoder
        self.is_quick = encoder.is_quick
        self.model_vectors = np.asarray(model_vectors, dtype=np.float32)
        self.projection = np.asarray(projection, dtype=np.float32)
        self.classifier = np.asarray(classifier, dtype=np.float32)
        self.models = tuple(models)
        self._check_shapes()
        self.strong, self.weak = strong, weak
        norms = np.linalg.norm(self.model_vectors.astype(np.float64), axis=1, keepdims=True)
        if not norms.all():
            raise ConfigurationError(f"the vector of model {self.models[int(np.argmin(norms))]!r} is zero")
        # delta(M, q) = directions[M] . e_q, with everything that does not depend on the prompt folded in
        self._directions = (self.model_vectors / norms * self.classifier) @ self.projection.astype(np.float64)
        if strong == weak:
            raise ConfigurationError(f"strong and weak are the same model, {strong!r}")
        self._pair = self._directions[self._row(strong)] - self._directions[self._row(weak)]

    def _check_shapes(self) -> None:
        n, d, e = len(self.models), self.classifier.size, self.encoder.dim
        for what, array, shape in (
            ("model_vectors", self.model_vectors, (n, d)),
            ("projection", self.projection, (d, e)),
            ("classifier", self.classifier, (d,)),
        ):
            if array.shape != shape:
                raise ConfigurationError(
                    f"{what} has shape {array.shape}, expected {shape} for {n} models, "
                    f"{d} factors and encoder {self.encoder.name!r} of width {e}"
                )
            if not np.isfinite(array).all():
                raise ConfigurationError(f"{what} holds values that are not finite")
        if len(set(self.models)) != n:
            raise ConfigurationError(f"a model is named twice in {list(self.models)}")

    def _row(self, model: str) -> int:
        try:
            return self.models.index(model)
        except ValueError:
            raise UnknownKindError(f"unknown model {model!r}; this router knows: {', '.join(self.models)}") from None

    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        return self._score_vectors(self.encoder.encode(prompts))

    def _score_vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return sigmoid(vectors @ self._pair)

    def model_scores(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """delta(M, q) of every model: comparable between models for one prompt, no unit.

        Returns:
            Shape (len(prompts), N), columns in the order of `models`.

        Raises:
            DataError: An element is not a str.
            EncoderError: The encoder failed.
        """
        scores: NDArray[np.float64] = self.encoder.encode(prompts).astype(np.float64) @ self._directions.T
        return scores

    def for_pair(self, strong: str, weak: str, *, name: str | None = None) -> MatrixFactorizationRouter:
        """The same router for two other of its models. It is not calibrated: thresholds differ by pair.

        Args:
            strong: One of `models`.
            weak: Another.
            name: What records call it. Default: this router's name and the pair, "mf (large over small)".

        Raises:
            UnknownKindError: A model it does not know; the message lists those it does.
            ConfigurationError: Both are the same model.
        """
        called = name or pair_name(self.name, strong, weak, own=(self.strong, self.weak))
        return MatrixFactorizationRouter(**{**self._parts(), "name": called}, strong=strong, weak=weak)

    def with_model(self, name: str, vector: ArrayLike) -> MatrixFactorizationRouter:
        """The router with one more model, last of `models`; pair and calibration stay.

        `routellm_core.training.mf.add_model` finds a vector from battles.

        Args:
            name: The new model.
            vector: Its row of `model_vectors`, shape (D,), not zero.

        Raises:
            ConfigurationError: The router has that model already, or the vector does not fit.
        """
        row = np.asarray(vector, dtype=np.float32)
        if row.shape != (self.classifier.size,):
            raise ConfigurationError(
                f"the vector of {name!r} has shape {row.shape}, expected ({self.classifier.size},)"
            )
        parts = self._parts()
        parts["model_vectors"] = np.concatenate([self.model_vectors, row[None]])
        parts["models"] = (*self.models, name)
        return MatrixFactorizationRouter(**parts, strong=self.strong, weak=self.weak, calibration=self.calibration)

    def _parts(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "models": self.models, "name": self.name, **self.tensors()}

    def settings(self) -> dict[str, Any]:
        return {"models": list(self.models), "strong": self.strong, "weak": self.weak}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"model_vectors": self.model_vectors, "projection": self.projection, "classifier": self.classifier}

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> MatrixFactorizationRouter:
        if encoder is None:
            raise RouterFormatError("a router of kind 'mf' was saved without its encoder")
        return cls(
            encoder=encoder,
            model_vectors=tensors["model_vectors"],
            projection=tensors["projection"],
            classifier=tensors["classifier"],
            models=settings["models"],
            strong=settings["strong"],
            weak=settings["weak"],
        )
