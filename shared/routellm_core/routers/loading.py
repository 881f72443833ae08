"""A router from its name: an embedded one, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from routellm_core._lazy import Registry, need
from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder, load_encoder
from routellm_core.errors import ConfigurationError, RouteLLMError, RouterFormatError, UnknownKindError
from routellm_core.persistence import FILES, check_files, read_config, read_tensors
from routellm_core.routers.base import Router

__all__ = ["EMBEDDED", "ROUTERS", "load_router", "resolve_router"]

ROUTERS = Registry(
    "router kind",
    {
        "difficulty": "routellm_core.routers.difficulty:DifficultyRouter",
        "mf": "routellm_core.routers.mf:MatrixFactorizationRouter",
        "random": "routellm_core.routers.random:RandomRouter",
    },
    group="routellm_core.routers",
)

EMBEDDED = ("default",)
"""Routers that ship inside the package, one folder of `models/` each."""


def load_router(source: str | Path, *, encoder: Encoder | None = None) -> Router:
    """Load a router.

    Args:
        source: "default" (the embedded router: no key, no network, no GPU), "random", the folder of a
            saved router, or "owner/name" of one on the Hugging Face hub.
        encoder: Use this encoder instead of the saved one; it must have the digest the router was
            trained with.

    Raises:
        UnknownKindError: `source` is none of these.
        RouterFormatError: The folder is damaged, written by a newer version, or tied to another encoder.
        MissingExtraError: A dependency that this kind of router needs is not installed.
    """
    name = str(source)
    if name in EMBEDDED and isinstance(source, str):
        with as_file(files("routellm_core") / "models" / name) as folder:
            return _load_folder(folder, encoder)
    if name == "random" and not Path(name).exists():
        router: Router = ROUTERS.load("random")()
        return router
    if not isinstance(source, (str, Path)):
        raise ConfigurationError(f"load_router takes a name or a folder, got {type(source).__name__}")
    if name and _is_folder(name):
        return _load_folder(Path(name).resolve(), encoder)
    if isinstance(source, str) and name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return _load_folder(_download(name), encoder)
    raise UnknownKindError(
        f"no router {name!r}: give {', '.join(map(repr, EMBEDDED))}, 'random', an existing folder, "
        "or owner/name of a router on the Hugging Face hub"
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # too long for a path, or with a NUL: a name that is nothing
        return False


def resolve_router(router: Router | str | Path) -> Router:
    """A router as it is, or loaded by its name. What every `router=` argument accepts.

    Raises:
        ConfigurationError: Something else was given.
        RouteLLMError: As `load_router`.
    """
    if isinstance(router, Router):
        return router
    if isinstance(router, (str, Path)):
        return load_router(router)
    raise ConfigurationError(
        f"router must be a Router, 'default', a folder or a hub name, not {type(router).__name__};"
        " a scorer of your own subclasses routellm_core.Router"
    )


def _load_folder(folder: Path, given: Encoder | None) -> Router:
    config = read_config(folder)
    try:
        cls: type[Router] = ROUTERS.load(str(config.get("kind")))
        tensors = read_tensors(folder, config.get("tensors_sha256"))
        sample = tensors.pop("calibration.win_rates", None)
        check_files(folder / FILES, config.get("files_sha256") or {})
        encoder = _encoder(config.get("encoder"), folder, given)
        router = cls.restore_with_files(config["settings"], tensors, encoder, folder / FILES)
        router.name = str(config.get("name") or router.kind)
        if config.get("calibration") and sample is not None:
            router.calibration = Calibration.restore(config["calibration"], sample)
    except UnknownKindError as error:
        raise RouterFormatError(f"{folder} cannot be loaded: {error}") from error
    except RouteLLMError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        raise RouterFormatError(f"{folder} is damaged or incomplete: {type(error).__name__}: {error}") from error
    return router


def _encoder(described: Any, folder: Path, given: Encoder | None) -> Encoder | None:
    if described is None:
        if given is not None:
            raise ConfigurationError(f"the router in {folder} uses no encoder, but encoder= was given")
        return None
    encoder = given or load_encoder(described, folder / "encoder")
    if encoder.digest != described["digest"]:
        raise RouterFormatError(
            f"the router in {folder} was trained with encoder {described['name']!r}, digest "
            f"{described['digest'][:12]}, but got {encoder.name!r}, digest {encoder.digest[:12]}: its win rates would "
            "be nonsense. Give the encoder it was trained with, or train the router again"
        )
    return encoder


def _download(name: str) -> Path:
    hub = need("huggingface_hub", extra="hub", why=f"loading the router {name!r} from the Hugging Face hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise RouterFormatError(
            f"{name!r} is not a folder here, and could not be fetched from the Hugging Face hub: "
            f"{type(error).__name__}: {error}"
        ) from error
