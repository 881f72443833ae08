"""A verifier from the folder it was saved to."""

from __future__ import annotations

from pathlib import Path

from routellm_core._lazy import Registry
from routellm_core.encoders.base import load_encoder
from routellm_core.errors import ConfigurationError, RouteLLMError, RouterFormatError, UnknownKindError
from routellm_core.persistence import read_config, read_tensors
from routellm_core.verifiers.base import Verifier

__all__ = ["VERIFIERS", "load_verifier"]

VERIFIERS = Registry(
    "verifier kind",
    {
        "fitted_verifier": "routellm_core.verifiers.fitted:FittedVerifier",
        "judge_verifier": "routellm_core.verifiers.judge:JudgeVerifier",
    },
    group="routellm_core.verifiers",
)


def load_verifier(folder: str | Path) -> Verifier:
    """Load a verifier that `Verifier.save` wrote.

    Raises:
        RouterFormatError: The folder holds no verifier, is damaged, or was written by a newer version.
        MissingExtraError: A dependency that this kind needs is not installed.
    """
    if not isinstance(folder, (str, Path)):
        raise ConfigurationError(f"load_verifier takes a folder, got {type(folder).__name__}")
    folder = Path(folder).resolve()
    config = read_config(folder)
    if config.get("part") != "verifier":
        raise RouterFormatError(f"{folder} holds no verifier; a router is loaded by load_router")
    try:
        cls: type[Verifier] = VERIFIERS.load(str(config.get("kind")))
        tensors = read_tensors(folder, config.get("tensors_sha256"))
        encoder = None
        if config.get("encoder") is not None:
            encoder = load_encoder(config["encoder"], folder / "encoder")
            if encoder.digest != config["encoder"]["digest"]:
                raise RouterFormatError(f"the encoder in {folder} is not the one that the verifier was fitted with")
        verifier = cls.restore(config["settings"], tensors, encoder)
        verifier.name = str(config.get("name") or verifier.kind)
    except UnknownKindError as error:
        raise RouterFormatError(f"{folder} cannot be loaded: {error}") from error
    except RouteLLMError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        raise RouterFormatError(f"{folder} is damaged or incomplete: {type(error).__name__}: {error}") from error
    return verifier
