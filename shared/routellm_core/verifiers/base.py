"""What every verifier promises: answers in, win rates in [0, 1] out, saved and restored without loss."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, RouteLLMError, ScoringError
from routellm_core.folders import replace_folder
from routellm_core.persistence import FORMAT, write_config, write_tensors
from routellm_core.verifiers.answer import Answer, checked_answers

__all__ = ["Verifier"]


class Verifier(ABC):
    """Estimates, for each answer of the weak model, the chance that the strong model's would beat it.

    That is a router's `win_rate`, asked again once the answer is there: the same scale, so that thresholds, shares
    and costs mean the same. A new verifier implements `_score`; to be saved also `settings`, `tensors` and `restore`.

    Attributes:
        kind: Its name in the table of verifiers.
        name: What records and messages call it.
        encoder: What turns texts into vectors; None for verifiers that need none.
        is_quick: A single answer takes a few milliseconds at most, so it may be scored on an event loop.
        needs_prompt: Whether answers without their prompts cannot be scored.
    """

    kind: ClassVar[str]
    is_quick: bool = False
    needs_prompt: ClassVar[bool] = False
    encoder: Encoder | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "kind"):
            cls.kind = cls.__name__

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name or self.kind

    @abstractmethod
    def _score(self, answers: list[Answer], prompts: list[str | None]) -> NDArray[np.float64]:
        """Win rates of at least one answer, shape (len(answers),)."""

    async def _ascore(self, answers: list[Answer], prompts: list[str | None]) -> NDArray[np.float64]:
        """`_score` without blocking the event loop; in a thread unless a verifier knows better."""
        return await asyncio.to_thread(self._score, answers, prompts)

    @property
    def is_async(self) -> bool:
        """Whether `awin_rate` awaits a service of its own accord; else it takes a thread."""
        return type(self)._ascore is not Verifier._ascore

    def win_rate(
        self, answers: Sequence[str | Answer], prompts: Sequence[str | None] | None = None
    ) -> NDArray[np.float64]:
        """Chance that the strong model's answer would beat this one; a tie counts for this one.

        Args:
            answers: The weak model's answers, as text or with what else is known of them.
            prompts: What they answer; None, or a None among them, where that is not known.

        Returns:
            Shape (len(answers),), float64, each in [0, 1].

        Raises:
            DataError: An element of another type, lists of different lengths, or a prompt that is needed and missing.
            ScoringError: Scoring failed, or gave something that is no win rate.
        """
        records, questions = self._checked(answers, prompts)
        if not records:
            return np.zeros(0)
        try:
            found = self._score(records, questions)
        except RouteLLMError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return self._as_win_rates(found, len(records))

    async def awin_rate(
        self, answers: Sequence[str | Answer], prompts: Sequence[str | None] | None = None
    ) -> NDArray[np.float64]:
        """`win_rate` without blocking the event loop."""
        records, questions = self._checked(answers, prompts)
        if not records:
            return np.zeros(0)
        try:
            found = await self._ascore(records, questions)
        except RouteLLMError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return self._as_win_rates(found, len(records))

    def _checked(
        self, answers: Sequence[str | Answer], prompts: Sequence[str | None] | None
    ) -> tuple[list[Answer], list[str | None]]:
        records, questions = checked_answers(answers, prompts)
        if self.needs_prompt and None in questions:
            raise ConfigurationError(f"verifier {self.name!r} needs the prompt of every answer: give prompts=")
        return records, questions

    def _failure(self, error: Exception) -> ScoringError:
        # the type only: somebody else's message may quote the answer, and ours go into records and logs
        return ScoringError(f"verifier {self.name!r} failed with {type(error).__name__}")

    def _as_win_rates(self, found: Any, n: int) -> NDArray[np.float64]:
        try:
            array = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ScoringError(f"verifier {self.name!r} gave {type(found).__name__}, not win rates") from error
        if array.shape != (n,) or not ((array >= 0.0) & (array <= 1.0)).all():
            raise ScoringError(f"verifier {self.name!r} gave something else than {n} values in [0, 1]")
        return array

    # -- saving
    def settings(self) -> dict[str, Any]:
        """What config.json keeps beside the tensors; plain JSON."""
        raise ConfigurationError(f"a verifier of kind {self.kind!r} cannot be saved")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What model.safetensors keeps."""
        return {}

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> Verifier:
        """The verifier that had these settings and tensors. Reads known keys only."""
        raise ConfigurationError(f"a verifier of kind {cls.kind!r} cannot be loaded")

    def save(self, folder: str | Path) -> None:
        """Write the verifier to a folder, whole or not at all; what was saved there is replaced.

        Raises:
            ConfigurationError: The folder holds something else, or this kind cannot be saved.
        """
        config: dict[str, Any] = {
            "format": FORMAT,
            "part": "verifier",
            "kind": self.kind,
            "name": self.name,
            "settings": self.settings(),
            "encoder": self.encoder.describe() if self.encoder else None,
        }
        tensors = self.tensors()

        def fill(target: Path) -> None:
            config["tensors_sha256"] = write_tensors(target, tensors)
            if self.encoder is not None:
                self.encoder.save_files(target / "encoder")
            write_config(target, config)

        replace_folder(Path(folder), fill, part="verifier")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"
