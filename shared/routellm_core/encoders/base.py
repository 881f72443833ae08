"""What every encoder promises, and how one is restored from a saved router."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import Registry
from routellm_core.errors import DataError, EncoderError, RouteLLMError

__all__ = ["ENCODERS", "Encoder", "load_encoder"]


class Encoder(ABC):
    """Texts to float32 vectors; the same text always gives the same vector.

    Subclasses implement `_encode`, `dim`, `digest` and `settings`, and say with `is_quick` whether
    a single call takes well under a millisecond. Those with files also override `save_files`.

    Attributes:
        kind: Its name in the table of encoders.
        is_quick: A single text takes well under a millisecond.
        is_async: `aencode` waits for a service of its own accord; no thread is needed.
    """

    kind: ClassVar[str]
    is_quick: bool = False
    is_async: bool = False

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of a vector."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """64 hexadecimal digits over everything that decides the vectors: weights, tokenizer, settings.

        A router is tied to its encoder's digest: with another one its win rates would be nonsense.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Constructor arguments as plain JSON; with the files of `save_files` enough to restore it."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of at least one text; shape (len(texts), dim). Every element is a str."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.kind

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, in one call for the whole batch.

        Args:
            texts: Any strings; long ones are cut, see `clean_and_cut`.

        Returns:
            Shape (len(texts), dim), float32, all finite. No texts give shape (0, dim).

        Raises:
            DataError: `texts` is one str, or an element is not a str.
            EncoderError: The encoder failed, or gave vectors of a wrong shape or not finite.
        """
        checked = checked_texts(texts, what="text")
        if not checked:
            return np.zeros((0, self.dim), dtype=np.float32)
        try:
            vectors = self._encode(checked)
        except RouteLLMError:
            raise
        except Exception as error:
            # the type only: somebody else's message may quote the prompt, and ours go into records and logs
            raise EncoderError(f"encoder {self.name!r} failed with {type(error).__name__}") from error
        return self._checked(vectors, len(checked))

    def _checked(self, vectors: NDArray[Any], n_texts: int) -> NDArray[np.float32]:
        """What `_encode` gave, as float32.

        Raises:
            EncoderError: It has a wrong shape or is not finite.
        """
        if vectors.shape != (n_texts, self.dim):
            raise EncoderError(f"encoder {self.name!r} gave shape {vectors.shape}, expected {(n_texts, self.dim)}")
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise EncoderError(f"encoder {self.name!r} gave a vector that is not finite for text {row}")
        return vectors.astype(np.float32, copy=False)

    async def aencode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`encode` in a thread; encoders with an asynchronous client override it, and say so with `is_async`."""
        return await asyncio.to_thread(self.encode, texts)

    def save_files(self, folder: Path) -> None:  # noqa: B027 - most encoders have no files
        """Write the files that `settings` alone cannot restore. Nothing by default."""

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Encoder:
        """The encoder that had these settings and wrote its files to `folder`."""
        return cls(**settings)

    def describe(self) -> dict[str, Any]:
        """What config.json keeps of the encoder: kind, name, dim, digest, settings."""
        return {
            "kind": self.kind,
            "name": self.name,
            "dim": self.dim,
            "digest": self.digest,
            "settings": self.settings(),
        }


ENCODERS = Registry(
    "encoder",
    {
        "hashing": "routellm_core.encoders.hashing:HashingEncoder",
        "onnx": "routellm_core.encoders.onnx:OnnxEncoder",
        "remote": "routellm_core.encoders.remote:RemoteEncoder",
        "stacked": "routellm_core.encoders.stacked:StackedEncoder",
        "static": "routellm_core.encoders.static:StaticEncoder",
        "surface": "routellm_core.encoders.surface:SurfaceEncoder",
        "transformer": "routellm_core.encoders.transformer:TransformerEncoder",
    },
    group="routellm_core.encoders",
)


def load_encoder(description: Mapping[str, Any], folder: Path) -> Encoder:
    """Restore an encoder from what `Encoder.describe` said and the folder it wrote its files to.

    Raises:
        UnknownKindError: No encoder of that kind is registered.
        RouterFormatError: Its files are missing or damaged.
    """
    cls: type[Encoder] = ENCODERS.load(str(description.get("kind")))
    return cls.restore(dict(description.get("settings") or {}), folder)


def checked_texts(texts: Sequence[str], *, what: str) -> list[str]:
    """The texts as a list.

    Raises:
        DataError: One str instead of a sequence of them, or an element of another type.
    """
    if isinstance(texts, (str, bytes)):
        raise DataError(f"expected a list of {what}s, got one {type(texts).__name__}; write [{what}]")
    try:
        checked = list(texts)
    except TypeError:
        raise DataError(f"expected a list of {what}s, got {type(texts).__name__}") from None
    for row, text in enumerate(checked):
        if not isinstance(text, str):
            raise DataError(f"{what} {row} is {type(text).__name__}, not str")
    return checked
