"""The checkpoints that the paper's authors published: their names, their layouts, and how to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from routellm_core._lazy import load, need
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.pretrained import load_tokenizer
from routellm_core.encoders.remote import embedding_examples
from routellm_core.encoders.resolve import as_encoder
from routellm_core.errors import ConfigurationError, RouterFormatError, UnknownKindError
from routellm_core.persistence import CONFIG, TENSORS, read_tensors
from routellm_core.routers.base import Router

__all__ = ["ARENA_MODELS", "OFFICIAL", "OfficialRouter", "layout_of", "official", "router_and_threshold"]

ARENA_MODELS = (
    "RWKV-4-Raven-14B",
    "alpaca-13b",
    "chatglm-6b",
    "chatglm2-6b",
    "chatglm3-6b",
    "claude-1",
    "claude-2.0",
    "claude-2.1",
    "claude-instant-1",
    "codellama-34b-instruct",
    "deepseek-llm-67b-chat",
    "dolly-v2-12b",
    "dolphin-2.2.1-mistral-7b",
    "falcon-180b-chat",
    "fastchat-t5-3b",
    "gemini-pro",
    "gemini-pro-dev-api",
    "gpt-3.5-turbo-0125",
    "gpt-3.5-turbo-0314",
    "gpt-3.5-turbo-0613",
    "gpt-3.5-turbo-1106",
    "gpt-4-0125-preview",
    "gpt-4-0314",
    "gpt-4-0613",
    "gpt-4-1106-preview",
    "gpt4all-13b-snoozy",
    "guanaco-33b",
    "koala-13b",
    "llama-13b",
    "llama-2-13b-chat",
    "llama-2-70b-chat",
    "llama-2-7b-chat",
    "llama2-70b-steerlm-chat",
    "mistral-7b-instruct",
    "mistral-7b-instruct-v0.2",
    "mistral-medium",
    "mixtral-8x7b-instruct-v0.1",
    "mpt-30b-chat",
    "mpt-7b-chat",
    "nous-hermes-2-mixtral-8x7b-dpo",
    "oasst-pythia-12b",
    "openchat-3.5",
    "openchat-3.5-0106",
    "openhermes-2.5-mistral-7b",
    "palm-2",
    "pplx-70b-online",
    "pplx-7b-online",
    "qwen-14b-chat",
    "qwen1.5-4b-chat",
    "qwen1.5-72b-chat",
    "qwen1.5-7b-chat",
    "solar-10.7b-instruct-v1.0",
    "stablelm-tuned-alpha-7b",
    "starling-lm-7b-alpha",
    "stripedhyena-nous-7b",
    "tulu-2-dpo-70b",
    "vicuna-13b",
    "vicuna-33b",
    "vicuna-7b",
    "wizardlm-13b",
    "wizardlm-70b",
    "yi-34b-chat",
    "zephyr-7b-alpha",
    "zephyr-7b-beta",
)
"""The Arena's names of the 64 models, in the order of the rows of P (ASCII order)."""

_STRONG, _WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"
_CAUSAL_TEXTS = ("system_ft_v5.txt", "classifier_ft_v5.txt")  # system message, and the user's around the prompt
_BEGIN, _END = "<|begin_of_text|>", "<|eot_id|>"  # Llama 3's
_TORCH_WEIGHTS = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialRouter:
    """One published router.

    Attributes:
        names: What its authors call it, ours first.
        hub: Its repository on the Hugging Face hub.
        embedding: The embedding model it reads; None if it reads the text itself.
        dim: Width of that model's vectors.
        tensors: Names and shapes of its weights, where the whole checkpoint is these.
        architecture: End of the name that its config.json gives, where transformers reads it.
        read: From its folder and encoder to the router.
    """

    names: tuple[str, ...]
    hub: str
    read: Callable[[OfficialRouter, Path, Encoder | None], Router]
    embedding: str | None = None
    dim: int | None = None
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    architecture: str | None = None

    def encoder(self, given: Any) -> Encoder | None:
        """The encoder to use, from what the caller gave.

        Raises:
            ConfigurationError: It is missing, superfluous, no encoder, or another embedding model.
        """
        if self.embedding is None:
            if given is not None:
                raise ConfigurationError(f"the router {self.hub!r} uses no encoder, but encoder= was given")
            return None
        wanted = f"{self.embedding!r} ({self.dim} dimensions)"
        if given is None:
            raise ConfigurationError(
                f"the router {self.hub!r} reads the embeddings of {wanted}: give encoder=, one of "
                f"{embedding_examples(self.embedding)} (on the command line: --encoder openai:{self.embedding})"
            )
        encoder = as_encoder(given, name=self.embedding, dim=self.dim)
        if (encoder.name, encoder.dim) != (self.embedding, self.dim):
            raise ConfigurationError(
                f"the router {self.hub!r} reads the embeddings of {wanted}, but encoder= gives {encoder.name!r} "
                f"({encoder.dim} dimensions): its win rates would be nonsense. If that is the same model under another "
                f"name, say so with RemoteEncoder(your_object, name={self.embedding!r}, dim={self.dim})"
            )
        return encoder

    def load(self, folder: Path, given: Any) -> Router:
        """The router in a folder of this layout. It has no calibration: its authors published none with it.

        Raises:
            ConfigurationError: As `encoder`.
            RouterFormatError: The folder is not of this layout after all.
            MissingExtraError: A package that it needs is not installed.
        """
        return self.read(self, folder, self.encoder(given))


def official(name: str) -> OfficialRouter | None:
    """The published router of that name ("mf", "causal_llm") or repository, if there is one."""
    return next((each for each in OFFICIAL if name == each.hub or name in each.names), None)


def layout_of(folder: Path) -> OfficialRouter | None:
    """Which published router's layout a folder has; None if none of these, or if we wrote it."""
    config = _config(folder)
    if "format" in config:
        return None
    for each in OFFICIAL:
        if each.architecture is not None:
            names = config.get("architectures")
            if isinstance(names, list) and any(str(name).endswith(each.architecture) for name in names):
                return each
        elif not each.tensors.keys().isdisjoint(_tensor_names(folder)):
            return each
    return None


def router_and_threshold(name: str) -> tuple[str, float] | None:
    """The router and the threshold that a name like "router-mf-0.11593" gives; None for other names and folders.

    Returns:
        What `load_router` takes, and the threshold.

    Raises:
        ConfigurationError: It begins like one, but has no router or no threshold in [0, 1].
        UnknownKindError: There is no such router.
    """
    if not name.startswith("router-") or "/" in name or os.path.isdir(name):
        return None
    known = ["random", *_NEED_DATA, *(each for router in OFFICIAL for each in router.names)]
    _, router, number = [*name.split("-", 2), ""][:3]
    try:
        threshold = float(number)
    except ValueError:
        threshold = -1.0
    if not router or not 0.0 <= threshold <= 1.0:
        raise ConfigurationError(
            f"{name!r} is no router-NAME-THRESHOLD, such as 'router-mf-0.11593' with a threshold from 0 to 1, "
            "and no folder either"
        )
    if router not in known:
        raise UnknownKindError(f"unknown router {router!r} in {name!r}; known: {', '.join(sorted(known))}")
    found = official(router)
    return (found.hub if found is not None else router), threshold


_NEED_DATA = ("sw", "sw_ranking")


def check_has_checkpoint(name: str) -> None:
    """Refuse names of routers that are their data.

    Raises:
        ConfigurationError: It is one of those; says how to make it.
    """
    if name in _NEED_DATA:
        raise ConfigurationError(
            f"{name!r} has no checkpoint: the similarity-weighted router is its battles and their embeddings. Make it "
            "with `routellm train sw`, or from published embeddings with training.train('sw', material, "
            "vectors=encoders.vectors_by_text(...)), and give the folder it was saved to"
        )


# -- reading
def _read_mf(layout: OfficialRouter, folder: Path, encoder: Encoder | None) -> Router:
    tensors = _weights(folder)
    found = {name: tuple(int(n) for n in array.shape) for name, array in tensors.items()}
    if found != dict(layout.tensors):
        raise RouterFormatError(
            f"{folder} is no checkpoint of {layout.hub!r}: it holds {_shapes(found)}; "
            f"expected {_shapes(layout.tensors)}"
        )
    try:
        router: Router = load("routellm_core.routers.mf:MatrixFactorizationRouter")(
            encoder=encoder,
            model_vectors=tensors["P.weight"],
            projection=tensors["text_proj.0.weight"],
            classifier=tensors["classifier.0.weight"][0],
            models=ARENA_MODELS,
            strong=_STRONG,
            weak=_WEAK,
        )
    except ConfigurationError as error:  # the shapes fit, so it is the file's values
        raise RouterFormatError(f"{folder} is no checkpoint of {layout.hub!r}: {error}") from error
    return router


def _read_bert(layout: OfficialRouter, folder: Path, encoder: Encoder | None) -> Router:
    names = _config(folder).get("id2label")
    labels = [str(name) for _, name in sorted(names.items())] if isinstance(names, dict) else []
    # anybody's classifier may have this architecture; one with names for its labels means something else by them
    if labels != ["LABEL_0", "LABEL_1", "LABEL_2"]:
        raise RouterFormatError(
            f"{folder} is no checkpoint of {layout.hub!r}: its labels are {', '.join(labels) or 'unknown'}; expected "
            "LABEL_0, LABEL_1, LABEL_2 for strong wins, tie, weak wins"
        )
    router: Router = load("routellm_core.routers.bert:BertRouter")(folder)
    return router


def _read_causal(layout: OfficialRouter, folder: Path, encoder: Encoder | None) -> Router:
    texts = {}
    for name in _CAUSAL_TEXTS:
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RouterFormatError(
                f"{folder} is no checkpoint of {layout.hub!r}: {name} beside the weights cannot be read "
                f"({type(error).__name__})"
            ) from None
    system, user = (texts[name].strip() for name in _CAUSAL_TEXTS)
    if user.count("{question}") != 1:
        raise RouterFormatError(
            f"{folder / _CAUSAL_TEXTS[1]} does not say once, as {{question}}, where the prompt goes"
        )
    before, after = user.split("{question}")
    tokenizer = load_tokenizer(folder, local_only=True)
    labels = [f"[[{score}]]" for score in range(1, 6)]
    # the original adds them to the base model's tokenizer, so the folder's own may lack them
    tokenizer.add_tokens([label for label in labels if label not in tokenizer.get_vocab()], special_tokens=True)
    rows = _config(folder).get("vocab_size")
    if isinstance(rows, int) and len(tokenizer) > rows:
        raise RouterFormatError(
            f"{folder} is no checkpoint of {layout.hub!r}: its tokenizer with the labels {labels[0]} to {labels[-1]} "
            f"has {len(tokenizer)} tokens, its model {rows}"
        )
    head = f"{_BEGIN}{_header('system')}{system}{_END}{_header('user')}{before}"
    router: Router = load("routellm_core.routers.causal:CausalLLMRouter")(
        folder,
        tokenizer=tokenizer,
        system_text=system,
        classifier_text=user,
        answer_prefix=_header("assistant"),
        label_tokens=labels,
        needs_label=True,
        rendered=(head, f"{after}{_END}{_header('assistant')}"),
        dtype="bfloat16",  # as it was trained and evaluated
        local_files_only=True,
    )
    return router


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _weights(folder: Path) -> dict[str, NDArray[Any]]:
    if (folder / TENSORS).is_file():
        return read_tensors(folder)
    path = _torch_file(folder)
    if path is None:
        raise RouterFormatError(f"{folder} holds neither {TENSORS} nor one file of {', '.join(_TORCH_WEIGHTS)}")
    torch = need("torch", extra="torch", why=f"reading {path.name}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): np.asarray(tensor.detach().float().numpy()) for name, tensor in state.items()}
    except Exception as error:
        raise RouterFormatError(f"{path} cannot be read as weights: {type(error).__name__}") from error


def _tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in a folder; of torch's files, which say them only when read, those of the table."""
    if (folder / TENSORS).is_file():
        try:
            with safe_open(folder / TENSORS, framework="np") as file:
                return set(file.keys())
        except (OSError, SafetensorError):
            return set()
    return set() if _torch_file(folder) is None else {name for each in OFFICIAL for name in each.tensors}


def _torch_file(folder: Path) -> Path | None:
    paths = [path for pattern in _TORCH_WEIGHTS for path in sorted(folder.glob(pattern))]
    return paths[0] if len(paths) == 1 else None


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "no tensors"


OFFICIAL = (
    OfficialRouter(
        names=("mf",),
        hub="routellm/mf_gpt4_augmented",
        read=_read_mf,
        embedding="text-embedding-3-small",
        dim=1536,
        tensors=MappingProxyType(
            {"P.weight": (64, 128), "text_proj.0.weight": (128, 1536), "classifier.0.weight": (1, 128)}
        ),
    ),
    OfficialRouter(
        names=("bert",),
        hub="routellm/bert_gpt4_augmented",
        read=_read_bert,
        architecture="ForSequenceClassification",
    ),
    OfficialRouter(
        names=("causal", "causal_llm"),
        hub="routellm/causal_llm_gpt4_augmented",
        read=_read_causal,
        architecture="ForCausalLM",
    ),
)
"""The published routers that have a checkpoint; all for gpt-4-1106-preview against mixtral-8x7b-instruct-v0.1."""
