"""Several encoders side by side, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.base import Encoder, load_encoder
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.persistence import digest_of

__all__ = ["StackedEncoder"]


class StackedEncoder(Encoder):
    """The vectors of several encoders, concatenated in order.

    Args:
        encoders: At least one.

    Raises:
        ConfigurationError: No encoder given.
    """

    kind: ClassVar[str] = "stacked"

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        if not encoders:
            raise ConfigurationError("StackedEncoder needs at least one encoder")
        self.encoders = tuple(encoders)
        self.is_quick = all(encoder.is_quick for encoder in self.encoders)

    @property
    def dim(self) -> int:
        return sum(encoder.dim for encoder in self.encoders)

    @property
    def digest(self) -> str:
        return digest_of("stacked", *(encoder.digest for encoder in self.encoders))

    @property
    def name(self) -> str:
        return "+".join(encoder.name for encoder in self.encoders)

    def settings(self) -> dict[str, Any]:
        return {"encoders": [encoder.describe() for encoder in self.encoders]}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return np.concatenate([encoder._encode(texts) for encoder in self.encoders], axis=1)  # checked once, by us

    def save_files(self, folder: Path) -> None:
        for position, encoder in enumerate(self.encoders):
            encoder.save_files(folder / str(position))

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> StackedEncoder:
        descriptions = settings.get("encoders")
        if not isinstance(descriptions, list):
            raise RouterFormatError(f"the stacked encoder's settings lack the list 'encoders': {dict(settings)}")
        return cls([load_encoder(each, folder / str(position)) for position, each in enumerate(descriptions)])
