"""A verifier fitted to labelled answers of the weak model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders import StackedEncoder
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.ngrams import TokenCounts
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.routers.linear import sigmoid
from routellm_core.verifiers.answer import Answer
from routellm_core.verifiers.base import Verifier
from routellm_core.verifiers.checks import CHECKS
from routellm_core.verifiers.features import N_SIGNS, RawFeatures, raw_features, static_part

__all__ = ["FittedVerifier"]

Floats = NDArray[np.float64]

REACH = 3.0  # standard deviations that a sign is clipped to, so that no strange answer runs away


class FittedVerifier(Verifier):
    """gain = W . [e_a, s_a, n_a, o_a, e_q, s_q, d_q, n_q] + b; win_rate = sigmoid(slope * gain + intercept).

    Of the answer: embedding e_a, signs s_a (`checks.CHECKS` and counts), hashed n-grams n_a, n-grams of its opening
    o_a. Of the prompt: embedding, counts, the base router's difficulty d_q, n-grams; without a prompt they have no say.
    The gain is strong - weak, which is what an escalation buys. A verifier that learned from the weak scores alone
    (see `routellm_core.fit_verifier`, which makes one) has the weak score's shortfall in the gain's place: good for the
    order and for the win rate, whose link was fitted to what the gains were, but not for their size.

    Args:
        encoder: A static encoder with all surface features behind it.
        embedding_weights: Of answer and prompt, shape (2, D).
        embedding_mean: Likewise, shape (2, D).
        sign_weights: Shape (N_SIGNS,).
        sign_scale: Mean and standard deviation, shape (2, N_SIGNS).
        prompt_sign_weights: Of counts and difficulty, shape (S + 1,).
        prompt_sign_scale: Shape (2, S + 1).
        base_weights: Of the difficulty over embedding and counts, shape (D + S,).
        ngram_weights: Of answer, opening and prompt, shape (3, width), width a power of two.
        ngram_importance: Weight of each n-gram before a text's are scaled to unit length, shape (3, width).
        bias: Mean gain.
        link: Slope and intercept.
        learned: "gain" or "weak_score". None: not known, as it was saved before that was kept.

    Raises:
        ConfigurationError: Shapes that do not fit, values that are not finite, or another `learned`.
    """

    kind: ClassVar[str] = "fitted_verifier"
    is_quick = True
    encoder: StackedEncoder

    def __init__(
        self,
        *,
        encoder: StackedEncoder,
        embedding_weights: NDArray[Any],
        embedding_mean: NDArray[Any],
        sign_weights: NDArray[Any],
        sign_scale: NDArray[Any],
        prompt_sign_weights: NDArray[Any],
        prompt_sign_scale: NDArray[Any],
        base_weights: NDArray[Any],
        ngram_weights: NDArray[Any],
        ngram_importance: NDArray[Any],
        bias: float,
        link: NDArray[Any],
        learned: Literal["gain", "weak_score"] | None = "gain",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name or "fitted")
        self.encoder = encoder
        self.bias = float(bias)
        self.learned = learned
        self.arrays: dict[str, NDArray[Any]] = {
            "embedding_weights": np.asarray(embedding_weights, dtype=np.float64),
            "embedding_mean": np.asarray(embedding_mean, dtype=np.float64),
            "sign_weights": np.asarray(sign_weights, dtype=np.float64),
            "sign_scale": np.asarray(sign_scale, dtype=np.float64),
            "prompt_sign_weights": np.asarray(prompt_sign_weights, dtype=np.float64),
            "prompt_sign_scale": np.asarray(prompt_sign_scale, dtype=np.float64),
            "base_weights": np.asarray(base_weights, dtype=np.float64),
            "ngram_weights": np.asarray(ngram_weights, dtype=np.float32),
            "ngram_importance": np.asarray(ngram_importance, dtype=np.float32),
            "link": np.asarray(link, dtype=np.float64),
        }
        self._check()

    def _check(self) -> None:
        embedding = static_part(self.encoder).dim
        surface = self.encoder.dim - embedding
        width = self.arrays["ngram_weights"].shape[-1] if self.arrays["ngram_weights"].ndim == 2 else 0
        expected = {
            "embedding_weights": (2, embedding),
            "embedding_mean": (2, embedding),
            "sign_weights": (N_SIGNS,),
            "sign_scale": (2, N_SIGNS),
            "prompt_sign_weights": (surface + 1,),
            "prompt_sign_scale": (2, surface + 1),
            "base_weights": (embedding + surface,),
            "ngram_weights": (3, width),
            "ngram_importance": (3, width),
            "link": (2,),
        }
        for name, shape in expected.items():
            if self.arrays[name].shape != shape:
                raise ConfigurationError(f"{name} has shape {self.arrays[name].shape}, expected {shape}")
            if not np.isfinite(self.arrays[name]).all():
                raise ConfigurationError(f"{name} holds values that are not finite")
        if width < 2 or width & (width - 1) or not np.isfinite(self.bias):
            raise ConfigurationError(f"n-grams are hashed into a power of two of columns, got {width}")
        if self.learned not in ("gain", "weak_score", None):
            raise ConfigurationError(f"learned is 'gain', 'weak_score' or None, got {self.learned!r}")

    # -- scoring
    def _score(self, answers: list[Answer], prompts: list[str | None]) -> Floats:
        slope, intercept = self.arrays["link"]
        return sigmoid(slope * self._predicted(answers, prompts) + intercept)

    def gain(self, answers: Sequence[str | Answer], prompts: Sequence[str | None] | None = None) -> Floats:
        """Expected score of the strong model's answer less that of this one, on the scale of the labels, shape (n,).

        Args:
            answers: As for `win_rate`.
            prompts: Likewise.

        Raises:
            ConfigurationError: It learned the weak scores, and so knows of gains only which are larger.
            DataError: As `win_rate`.
        """
        if self.learned == "weak_score":
            raise ConfigurationError(
                f"verifier {self.name!r} learned the weak scores, not the gains: it knows which answers gain more, and "
                "win_rate() how likely they gain, but not how much; fit_verifier() with strong_scores= may learn that"
            )
        if self.learned is None:
            raise ConfigurationError(
                f"verifier {self.name!r} was saved by a version that did not keep whether it learned the gains or the "
                "weak scores, so its gains cannot be told: fit it again"
            )
        records, questions = self._checked(answers, prompts)
        return self._predicted(records, questions) if records else np.zeros(0)

    def _predicted(self, answers: list[Answer], prompts: list[str | None]) -> Floats:
        a = self.arrays
        raw = raw_features(self.encoder, answers, prompts, width=a["ngram_weights"].shape[1])
        total = (raw.answer - a["embedding_mean"][0]) @ a["embedding_weights"][0] + self.bias
        total += np.nan_to_num(raw.prompt - a["embedding_mean"][1]) @ a["embedding_weights"][1]
        total += scaled(raw.signs, a["sign_scale"]) @ a["sign_weights"]
        total += scaled(prompt_signs(raw, a["base_weights"]), a["prompt_sign_scale"]) @ a["prompt_sign_weights"]
        for counts, weights, importance in zip(grams(raw), a["ngram_weights"], a["ngram_importance"], strict=True):
            total += counts.weighted(importance).times(weights[:, None])[:, 0]
        predicted: Floats = total
        return predicted

    def _signs_of(self, answer: Answer, prompt: str | None) -> Floats:
        raw = raw_features(self.encoder, [answer], [prompt], width=2)
        return np.asarray(scaled(raw.signs, self.arrays["sign_scale"])[0] * self.arrays["sign_weights"])

    def explain(self, answer: str | Answer, prompt: str | None = None, *, most: int = 5) -> dict[str, float]:
        """The checks that say most about this answer, and by how much each moves the expected gain.

        Where it learned the weak scores (`learned`), by how much each lowers the expected score of this answer.
        The embedding and the n-grams, which have no names, have a say too.
        """
        records, questions = self._checked([answer], [prompt])
        says = self._signs_of(records[0], questions[0])[N_SIGNS - len(CHECKS) :]
        order = np.argsort(-np.abs(says), kind="stable")[:most]
        return {CHECKS[i]: round(float(says[i]), 4) for i in order if says[i] != 0.0}

    # -- saving
    def settings(self) -> dict[str, Any]:
        return {"bias": self.bias, "checks": list(CHECKS), "learned": self.learned}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return dict(self.arrays)

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> FittedVerifier:
        if not isinstance(encoder, StackedEncoder):
            raise RouterFormatError("a fitted verifier was saved without its encoder")
        if list(settings["checks"]) != list(CHECKS):
            raise RouterFormatError("this verifier was fitted with other checks than this version makes: fit it again")
        arrays: dict[str, Any] = dict(tensors)
        return cls(encoder=encoder, bias=settings["bias"], learned=settings.get("learned"), **arrays)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, learned={self.learned!r})"


def scaled(signs: Floats, scale: Floats) -> Floats:
    """In standard deviations, clipped; 0 where there is nothing to look at. Same shape."""
    clipped: Floats = np.nan_to_num(np.clip((signs - scale[0]) / scale[1], -REACH, REACH))
    return clipped


def prompt_signs(raw: RawFeatures, base_weights: Floats) -> Floats:
    """Counts in the prompt, and the base router's difficulty, shape (n, S + 1)."""
    difficulty = np.concatenate([raw.prompt, raw.prompt_signs], axis=1) @ base_weights
    return np.concatenate([raw.prompt_signs, difficulty[:, None]], axis=1)


def grams(raw: RawFeatures) -> tuple[TokenCounts, TokenCounts, TokenCounts]:
    """N-grams of the answer, of its opening, and of the prompt."""
    return raw.grams, raw.opening, raw.prompt_grams
