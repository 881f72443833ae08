"""An encoder from what a caller gives for one: its name, as on command lines, or somebody else's object."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from routellm_core._lazy import need
from routellm_core.encoders.base import ENCODERS, Encoder, load_encoder
from routellm_core.encoders.remote import RemoteEncoder
from routellm_core.errors import ConfigurationError, RouteLLMError, RouterFormatError
from routellm_core.persistence import read_config

__all__ = ["as_encoder", "resolve_encoder"]

_ACCEPTED = (
    "'default' or 'contextual' (an embedded router's), 'hashing' or 'hashing:WIDTH', 'transformer:NAME or FOLDER', "
    "'static:FOLDER' (model2vec), 'onnx:FOLDER', 'openai:MODEL' (reads OPENAI_API_KEY and OPENAI_BASE_URL), "
    "or the folder of a saved router, of a model2vec model or of an ONNX encoder"
)


def as_encoder(source: Any, *, name: str | None = None, dim: int | None = None, **options: Any) -> Encoder:
    """What every `encoder=` argument accepts, as an encoder.

    Args:
        source: An `Encoder`, a name for `resolve_encoder`, or an embedding object for `RemoteEncoder`.
        name: What the object's model is called if the object does not say.
        dim: How wide its vectors are if the object does not say.
        **options: Further arguments of `RemoteEncoder`.

    Raises:
        ConfigurationError: It is none of these, or nothing says its name.
        RouteLLMError: As `resolve_encoder`.
    """
    if isinstance(source, Encoder):
        return source
    if isinstance(source, (str, Path)):
        return resolve_encoder(source)
    return RemoteEncoder.around(source, name=name, dim=dim, **options)


def resolve_encoder(spec: str | Path) -> Encoder:
    """The encoder that a name stands for.

    Args:
        spec: "default" or "contextual": that embedded router's own. "hashing" or "hashing:1024": no files needed.
            "transformer:NAME": a Hugging Face model, by hub name or folder. "static:FOLDER": a model2vec
            model. "onnx:FOLDER": an ONNX encoder, see `OnnxEncoder`. "openai:text-embedding-3-small": through
            the package openai. A folder: a saved router's encoder, a model2vec model or an ONNX encoder.

    Raises:
        ConfigurationError: It is none of these; the message lists them.
        RouterFormatError: The folder is damaged, or its router has no encoder.
        MissingExtraError: A package that it needs is not installed.
    """
    if not isinstance(spec, (str, Path)):
        raise ConfigurationError(f"an encoder's name is a str or a folder, got {type(spec).__name__}: {_ACCEPTED}")
    text = str(spec)
    if text in ("default", "contextual"):
        with as_file(files("routellm_core") / "models" / text) as folder:
            return _of_router(folder)
    kind, _, argument = text.partition(":")
    if kind == "hashing":
        return _hashing(text, argument)
    if kind == "transformer" and argument:
        transformer: Encoder = ENCODERS.load("transformer")(argument)
        return transformer
    if kind == "static" and argument:
        static: Encoder = ENCODERS.load("static")(argument)
        return static
    if kind == "onnx" and argument:
        onnx: Encoder = ENCODERS.load("onnx")(argument)
        return onnx
    if kind == "openai" and argument:
        return _openai(argument)
    if os.path.isdir(text):  # not Path.is_dir(), which raises for what is too long for a path
        if (Path(text) / "tokenizer.json").is_file():  # a saved router has none beside its config.json
            return resolve_encoder(f"{'onnx' if (Path(text) / 'model.onnx').is_file() else 'static'}:{text}")
        return _of_router(Path(text))
    raise ConfigurationError(f"no encoder {text!r}: give {_ACCEPTED}")


def _hashing(text: str, argument: str) -> Encoder:
    if argument and not argument.isdecimal():
        raise ConfigurationError(f"the width in {text!r} must be a whole number, as in 'hashing:1024'")
    cls: type[Encoder] = ENCODERS.load("hashing")
    return cls(int(argument)) if argument else cls()  # type: ignore[call-arg] # HashingEncoder's, not the base's


def _openai(model: str) -> Encoder:
    openai = need("openai", extra="openai", why=f"the encoder 'openai:{model}'")
    try:
        client = openai.OpenAI()
    except Exception as error:
        raise ConfigurationError(f"no OpenAI client can be made: {error}") from error
    return RemoteEncoder(client, name=model)


def _of_router(folder: Path) -> Encoder:
    described = read_config(folder).get("encoder")
    if described is None:
        raise RouterFormatError(f"the router in {folder} uses no encoder")
    try:
        return load_encoder(described, folder / "encoder")
    except RouteLLMError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise RouterFormatError(f"the encoder in {folder} is damaged: {type(error).__name__}: {error}") from error
