"""Static embeddings: one vector a token, averaged. No neural network runs, so a prompt takes about 0.1 ms."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.base import Encoder
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.persistence import digest_of

if TYPE_CHECKING:
    from model2vec import StaticModel

__all__ = ["StaticEncoder"]

_FILES = ("config.json", "model.safetensors", "tokenizer.json")  # model2vec's own layout


class StaticEncoder(Encoder):
    """A model2vec model: tokenise, look up, average.

    Args:
        folder: A folder in model2vec's layout (`StaticModel.save_pretrained` writes it).
        max_characters: Longer texts are cut before the tokenizer sees them, keeping both ends.

    Raises:
        RouterFormatError: The folder is not in that layout.
        ConfigurationError: `max_characters` is below 2.
    """

    kind: ClassVar[str] = "static"
    is_quick = True

    def __init__(self, folder: str | Path, *, max_characters: int = 4096) -> None:
        if max_characters < 2:
            raise ConfigurationError(f"max_characters must be at least 2, got {max_characters}")
        self.folder = Path(folder)
        self.max_characters = int(max_characters)
        self._model = _load(self.folder)
        self._digest = digest_of(
            "static", str(self.max_characters),
            *(hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in _FILES),
        )

    @property
    def dim(self) -> int:
        return int(self._model.dim)

    @property
    def digest(self) -> str:
        return self._digest

    def settings(self) -> dict[str, Any]:
        return {"max_characters": self.max_characters}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = self._model.encode(clean_and_cut(texts, self.max_characters), use_multiprocessing=False)
        return np.asarray(vectors, dtype=np.float32)

    def save_files(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            shutil.copyfile(self.folder / name, folder / name)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> StaticEncoder:
        return cls(folder, **settings)


def _load(folder: Path) -> StaticModel:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise RouterFormatError(f"{folder} is not a model2vec folder: {', '.join(missing)} missing")
    from model2vec import StaticModel

    try:
        # float32 once here: averaging 8-bit rows would convert them again at every call
        return StaticModel.from_pretrained(folder, quantize_to="float32")
    except Exception as error:
        raise RouterFormatError(f"{folder} cannot be loaded as a model2vec model: "
                                f"{type(error).__name__}: {error}") from error
