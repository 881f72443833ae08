"""Sentence embeddings by a transformer: contextual, and hundreds of times slower than static ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.pretrained import (
    batches_by_length,
    first_tokens,
    load_model,
    load_tokenizer,
    padded,
    padding_token,
    token_limit,
    tokens_at_once,
)
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.persistence import check_files, digest_of, digests_of_files

__all__ = ["Pooling", "TransformerEncoder"]

Pooling: TypeAlias = Literal["mean", "cls"]

_VERSION = "1"  # part of the digest; change it with anything that changes a vector
_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)


class TransformerEncoder(Encoder):
    """A Hugging Face encoder: tokenise, run, average the vectors of the tokens.

    Needs the extra "torch". Weights are float32 whatever the files hold, so that vectors do not depend on the batch.

    Args:
        model: Folder or hub name of an encoder with safetensors weights; sentence-transformers' folders too.
        max_tokens: Longer texts are cut at the end. Never more than the model has positions for.
        pooling: "mean" of all tokens, or the first token's vector ("cls").
        normalise: Scale vectors to unit length.
        device: "cpu", "cuda", ...; None takes a GPU if there is one. No part of the digest.

    Raises:
        RouterFormatError: There is no such model, or it lacks weights.
        ConfigurationError: Settings out of range, or a sentence-transformers folder that asks for others.
        MissingExtraError: torch or transformers is not installed.
    """

    kind: ClassVar[str] = "transformer"

    def __init__(
        self,
        model: str | Path,
        *,
        max_tokens: int = 256,
        pooling: Pooling = "mean",
        normalise: bool = True,
        device: str | None = None,
    ) -> None:
        if max_tokens < 2:
            raise ConfigurationError(f"max_tokens must be at least 2, got {max_tokens}")
        if pooling not in get_args(Pooling):
            raise ConfigurationError(f"pooling is one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        self.folder = _transformer_folder(_local(model), pooling)
        self._files = {
            name: digest
            for name, digest in digests_of_files(self.folder).items()
            if any(Path(name).match(pattern) for pattern in _MODEL_FILES + _TOKENIZER_FILES) and "/" not in name
        }
        if not any(name.endswith(".safetensors") for name in self._files):
            raise RouterFormatError(
                f"{self.folder} has no *.safetensors; load it with transformers' AutoModel and write it with "
                "save_pretrained, then give that folder"
            )
        self.tokenizer = load_tokenizer(self.folder, local_only=True)
        self.model = load_model("AutoModel", self.folder, device=device, local_only=True, may_lack="pooler")
        self.max_tokens = min(int(max_tokens), token_limit(self.model, self.tokenizer))
        self.pooling: Pooling = pooling
        self.normalise = bool(normalise)
        self._pad = padding_token(self.tokenizer)
        first_tokens(self.tokenizer, [""], self.max_tokens)  # sets the limit while no second thread is at work
        settings = json.dumps(self.settings(), sort_keys=True)
        self._digest = digest_of("transformer", _VERSION, settings, json.dumps(self._files, sort_keys=True))

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def digest(self) -> str:
        return self._digest

    def settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "pooling": self.pooling, "normalise": self.normalise}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        torch = need("torch", extra="torch", why="TransformerEncoder")
        ids = first_tokens(self.tokenizer, texts, self.max_tokens)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for rows in batches_by_length([len(row) for row in ids], tokens_at_once(self.model)):
            tokens, mask = (
                torch.from_numpy(a).to(self.model.device) for a in padded([ids[r] for r in rows], self._pad)
            )
            with torch.inference_mode():
                states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
                if self.pooling == "cls":
                    pooled = states[:, 0]
                else:
                    weights = mask.unsqueeze(-1).to(states.dtype)
                    pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
                if self.normalise:
                    pooled = torch.nn.functional.normalize(pooled, dim=-1)
            vectors[rows] = pooled.cpu().numpy()
        return vectors

    def save_files(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._files:
            try:
                shutil.copyfile(self.folder / name, folder / name)
            except OSError as error:
                raise RouterFormatError(f"the encoder's file {self.folder / name} is gone: {error}") from error
        check_files(folder, self._files)  # they may have changed since they were loaded

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> TransformerEncoder:
        return cls(folder, **settings)


def _local(model: str | Path) -> Path:
    """The folder itself, or the hub's repository fetched to this machine."""
    if Path(model).is_dir():
        return Path(model).resolve()
    name = str(model)
    if isinstance(model, Path) or name.count("/") > 1 or name.startswith((".", "~", "/")):
        raise RouterFormatError(f"no folder {name!r}; give a folder or a name on the Hugging Face hub")
    hub = need("huggingface_hub", extra="torch", why=f"loading the encoder {name!r} from the Hugging Face hub")
    wanted = [*_MODEL_FILES, *_TOKENIZER_FILES, "modules.json", "*/config.json"]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise RouterFormatError(
            f"{name!r} is not a folder here, and could not be fetched from the Hugging Face hub: "
            f"{type(error).__name__}: {error}"
        ) from error


def _transformer_folder(folder: Path, pooling: Pooling) -> Path:
    """Where the transformer lies in a sentence-transformers folder; any other folder is one itself.

    Raises:
        ConfigurationError: Its other parts do something that this encoder, so set, does not.
        RouterFormatError: Its list of parts cannot be read.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return folder
    found = folder
    try:
        for module in json.loads(listing.read_text(encoding="utf-8")):
            kind, path = module["type"].rpartition(".")[2], folder / module["path"]
            if kind == "Transformer":
                found = path
            elif kind == "Pooling":
                wanted = _pooling(json.loads((path / "config.json").read_text(encoding="utf-8")))
                if wanted != pooling:
                    raise ConfigurationError(f"{folder} was trained with pooling {wanted!r}, not {pooling!r}")
            elif kind != "Normalize":
                raise ConfigurationError(f"{folder} has a part {kind!r}, which TransformerEncoder does not know")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise RouterFormatError(f"{listing} cannot be read: {type(error).__name__}: {error}") from error
    return found


def _pooling(config: Mapping[str, Any]) -> str:
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    chosen = sorted(k for k, v in config.items() if k.startswith("pooling_mode_") and v is True)
    short = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    return " and ".join(short.get(name, name) for name in chosen) or "mean"
