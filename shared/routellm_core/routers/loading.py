"""A router from its name: an embedded one, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from routellm_core._lazy import Registry, need
from routellm_core.calibration import Calibration
from routellm_core.encoders import as_encoder
from routellm_core.encoders.base import Encoder, load_encoder
from routellm_core.errors import ConfigurationError, RouteLLMError, RouterFormatError, UnknownKindError
from routellm_core.folders import is_interrupted
from routellm_core.persistence import FILES, check_files, read_config, read_tensors
from routellm_core.routers.base import Router
from routellm_core.routers.upstream import check_has_checkpoint, layout_of, official, router_and_threshold

__all__ = ["EMBEDDED", "ROUTERS", "load_router", "resolve_router"]

ROUTERS = Registry(
    "router kind",
    {
        "bert": "routellm_core.routers.bert:BertRouter",
        "causal": "routellm_core.routers.causal:CausalLLMRouter",
        "difficulty": "routellm_core.routers.difficulty:DifficultyRouter",
        "difficulty_pair": "routellm_core.routers.pair:DifficultyPairRouter",
        "fitted": "routellm_core.routers.fitted:FittedRouter",
        "llm": "routellm_core.routers.llm:LLMRouter",
        "mf": "routellm_core.routers.mf:MatrixFactorizationRouter",
        "random": "routellm_core.routers.random:RandomRouter",
        "sw": "routellm_core.routers.sw:SimilarityWeightedRouter",
    },
    group="routellm_core.routers",
)

# "*" means slashes too: an ONNX encoder may be one of several, but other exports of a model are left there
_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "encoder/*.onnx")

EMBEDDED = ("default", "contextual")
"""Routers that ship inside the package, one folder of `models/` each."""


def load_router(source: str | Path, *, encoder: Any = None) -> Router:
    """Load a router.

    Args:
        source: "default" (the embedded router: no key, no network, no GPU), "contextual" (the other one, which
            reads the prompt with a small language model, some milliseconds each; needs the extra `onnx`),
            "random", the folder of a saved router or of a checkpoint that the paper's authors published,
            "owner/name" of either on the Hugging Face hub, or "mf", "bert" or "causal" for the published ones
            ("routellm/mf_gpt4_augmented", ...), which have no calibration: give their policy a threshold.
            "llm:openai:gpt-4.1-nano" asks a chat model for ratings, see `LLMRouter`.
        encoder: Use this encoder instead of the saved one; it must have the digest the router was
            trained with. Routers on embeddings from a service need it: LangChain embeddings, a LlamaIndex
            embedding, an OpenAI client (see `RemoteEncoder`), or a name such as "openai:text-embedding-3-small".

    Raises:
        UnknownKindError: `source` is none of these.
        ConfigurationError: `encoder` is missing, superfluous, or no encoder.
        RouterFormatError: The folder is damaged, written by a newer version, or tied to another encoder.
        MissingExtraError: A dependency that this kind of router needs is not installed.
    """
    router = _load(source, encoder)
    # embedded and published ones go by their names even where a folder is called the same
    named = isinstance(source, str) and (source in EMBEDDED or getattr(official(source), "hub", None) == source)
    router.source = str(source) if named or not _is_folder(str(source)) else str(Path(source).resolve())
    return router


def _load(source: str | Path, encoder: Any) -> Router:
    name = str(source)
    if name in EMBEDDED and isinstance(source, str):
        with as_file(files("routellm_core") / "models" / name) as folder:
            return _load_folder(folder, encoder)
    if name == "random" and not Path(name).exists():
        if encoder is not None:
            raise ConfigurationError("the router 'random' uses no encoder, but encoder= was given")
        random: Router = ROUTERS.load("random")()
        return random
    if isinstance(source, str) and name.startswith("llm:") and not _is_folder(name):
        if encoder is not None:
            raise ConfigurationError(f"the router {name!r} uses no encoder, but encoder= was given")
        llm: Router = ROUTERS.load("llm")(name.removeprefix("llm:"))
        return llm
    if not isinstance(source, (str, Path)):
        raise ConfigurationError(f"load_router takes a name or a folder, got {type(source).__name__}")
    published = official(name) if isinstance(source, str) else None
    if published is not None and (name == published.hub or not _is_folder(name)):
        published.encoder(encoder)  # before hours of download
        folder = Path(published.hub).resolve() if _is_folder(published.hub) else _download(published.hub)
        router = _load_folder(folder, encoder)
        router.name = published.hub
        return router
    if name and (_is_folder(name) or is_interrupted(Path(name))):
        return _load_folder(Path(name).resolve(), encoder)
    if isinstance(source, str):
        check_has_checkpoint(name)
    if isinstance(source, str) and router_and_threshold(name) is not None:
        raise ConfigurationError(
            f"{name!r} names a router and a threshold; a router by itself has none. Give the name to RoutingPolicy, "
            "ChatRouteLLM or RouteLLM, or load the router without the threshold"
        )
    if isinstance(source, str) and name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return _load_folder(_download(name), encoder)
    raise UnknownKindError(
        f"no router {name!r}: give {', '.join(map(repr, EMBEDDED))}, 'random', 'mf', 'bert', 'causal', "
        "'llm:provider:model', an existing folder, or owner/name of a router on the Hugging Face hub"
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # too long for a path, or with a NUL: a name that is nothing
        return False


def resolve_router(router: Router | str | Path, *, encoder: Any = None) -> Router:
    """A router as it is, or loaded by its name. What every `router=` argument accepts.

    Raises:
        ConfigurationError: Something else was given, or `encoder` for a router that is loaded already.
        RouteLLMError: As `load_router`.
    """
    if isinstance(router, Router):
        if encoder is not None:
            raise ConfigurationError(
                "encoder= goes with a router's name; a Router that is loaded already has its encoder: "
                "load_router(name, encoder=...)"
            )
        return router
    if isinstance(router, (str, Path)):
        return load_router(router, encoder=encoder)
    raise ConfigurationError(
        f"router must be a Router, 'default', a folder or a hub name, not {type(router).__name__};"
        " a scorer of your own subclasses routellm_core.Router"
    )


def _load_folder(folder: Path, given: Any) -> Router:
    published = layout_of(folder)
    if published is not None:
        return published.load(folder, given)
    config = read_config(folder)
    if config.get("part") == "verifier":
        raise RouterFormatError(f"{folder} holds a verifier, no router; load_verifier loads it, for EscalationPolicy")
    try:
        cls: type[Router] = ROUTERS.load(str(config.get("kind")))
        tensors = read_tensors(folder, config.get("tensors_sha256"), mapped=cls.maps_tensors)
        sample = {
            name.removeprefix("calibration."): tensors.pop(name)
            for name in list(tensors)
            if name.startswith("calibration.")
        }
        check_files(folder / FILES, config.get("files_sha256") or {})
        encoder = _encoder(config.get("encoder"), folder, given)
        router = cls.restore_with_files(config["settings"], tensors, encoder, folder / FILES)
        router.name = str(config.get("name") or router.kind)
        if config.get("calibration") and sample:
            router.calibration = Calibration.restore(config["calibration"], sample)
    except UnknownKindError as error:
        raise RouterFormatError(f"{folder} cannot be loaded: {error}") from error
    except RouteLLMError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        raise RouterFormatError(f"{folder} is damaged or incomplete: {type(error).__name__}: {error}") from error
    return router


def _encoder(described: Any, folder: Path, given: Any) -> Encoder | None:
    if described is None:
        if given is not None:
            raise ConfigurationError(f"the router in {folder} uses no encoder, but encoder= was given")
        return None
    if given is None:
        encoder = load_encoder(described, folder / "encoder")
    elif described["kind"] == "remote":
        encoder = as_encoder(given, **described["settings"])
    else:
        encoder = as_encoder(given)
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
        folder = Path(hub.snapshot_download(name, allow_patterns=list(_FETCHED)))
        if not any(folder.rglob("*.safetensors")):  # torch's own files only where there is nothing else
            folder = Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.bin", "*.pt", "*.txt", "*.model"]))
        return folder
    except Exception as error:
        raise RouterFormatError(
            f"{name!r} is not a folder here, and could not be fetched from the Hugging Face hub: "
            f"{type(error).__name__}: {error}"
        ) from error
