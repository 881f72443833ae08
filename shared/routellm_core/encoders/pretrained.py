"""Hugging Face models and tokenizers: loaded strictly, fed in batches of like length, saved as folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError, RouterFormatError

__all__ = [
    "DTYPES",
    "MayLack",
    "batches_by_length",
    "cast",
    "first_tokens",
    "load_model",
    "load_pair",
    "load_tokenizer",
    "padded",
    "padding_token",
    "resolve_device",
    "resolve_dtype",
    "save_pretrained",
    "token_limit",
    "tokens_at_once",
]

MayLack: TypeAlias = Literal["nothing", "pooler", "head"]
DTYPES = ("float32", "bfloat16", "float16")
_CHARACTERS_A_TOKEN = 16  # far above any language's mean: what is cut off would not have been reached
_UNLIMITED = 1 << 20  # tokenizers without a limit say 1e30


def resolve_device(device: str | None) -> Any:
    """The torch device of that name; None is the GPU if there is one, else the CPU.

    Raises:
        ConfigurationError: torch knows no such device.
    """
    torch = need("torch", extra="torch", why="running a transformer")
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(f"device must be 'cpu', 'cuda' or another name torch knows, got {device!r}") from error


def resolve_dtype(dtype: str) -> Any:
    """The torch dtype of that name.

    Raises:
        ConfigurationError: It is none of `DTYPES`.
    """
    torch = need("torch", extra="torch", why="running a transformer")
    if dtype not in DTYPES:
        raise ConfigurationError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    return getattr(torch, dtype)


def load_tokenizer(source: str | Path, *, local_only: bool = False) -> Any:
    """The tokenizer of a folder or of a repository on the Hugging Face hub.

    Raises:
        RouterFormatError: There is none, or it cannot be read.
    """
    transformers = need("transformers", extra="torch", why="loading a tokenizer")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(source), local_files_only=local_only)
    except Exception as error:
        raise _unreadable("tokenizer", source, error) from error


def load_model(
    architecture: str,
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str = "float32",
    local_only: bool = False,
    may_lack: MayLack = "nothing",
    **options: Any,
) -> Any:
    """A model of a folder or of a repository on the Hugging Face hub, in evaluation mode.

    transformers fills weights that a file lacks with random numbers and goes on; here that is an error.

    Args:
        architecture: Which of transformers' automatic classes, such as "AutoModel".
        source: Folder or hub name.
        device: See `resolve_device`.
        dtype: One of `DTYPES`.
        local_only: Never use the network.
        may_lack: Which weights the source need not have: none, those of BERT's pooler, or all of the head.
        options: For `from_pretrained`, such as `num_labels`.

    Raises:
        RouterFormatError: The source cannot be read as that, or lacks weights.
        ConfigurationError: An unknown device or dtype.
    """
    transformers = need("transformers", extra="torch", why="loading a transformer")
    target = resolve_device(device)
    resolve_dtype(dtype)  # a wrong one is told before the model is loaded
    try:
        model, report = getattr(transformers, architecture).from_pretrained(
            str(source), local_files_only=local_only, output_loading_info=True, **options
        )
    except Exception as error:
        raise _unreadable("model", source, error) from error
    missing = sorted(name for name in report["missing_keys"] if not _dispensable(name, model, may_lack))
    if missing:
        raise RouterFormatError(
            f"{source} lacks weights that {type(model).__name__} needs: {', '.join(missing[:4])}"
            f"{', ...' if len(missing) > 4 else ''}. It is another kind of model, or was not fine-tuned for this"
        )
    return cast(model, dtype).to(target).eval()


def cast(model: Any, dtype: str) -> Any:
    """The model in that precision, except for the frequencies of rotary positions: halved, they would blur long texts.

    Raises:
        ConfigurationError: The dtype is none of `DTYPES`.
    """
    number = resolve_dtype(dtype)
    frequencies = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    model.to(number)
    buffers = dict(model.named_buffers())
    for name, whole in frequencies.items():
        buffers[name].data = whole
    return model


def _dispensable(name: str, model: Any, may_lack: MayLack) -> bool:
    in_pooler = "pooler." in name
    in_head = not name.startswith(f"{model.base_model_prefix}.")
    return (in_pooler and may_lack != "nothing") or (in_head and may_lack == "head")


def load_pair(
    architecture: str,
    model: Any,
    tokenizer: Any,
    *,
    device: str | None,
    dtype: str,
    local_only: bool,
) -> tuple[Any, Any]:
    """Model and tokenizer, each loaded from `model` or taken as it was given.

    Raises:
        ConfigurationError: A loaded model came without its tokenizer.
        RouterFormatError: As `load_model`.
    """
    if isinstance(model, (str, Path)):
        if tokenizer is None:
            tokenizer = load_tokenizer(model, local_only=local_only)
        return load_model(architecture, model, device=device, dtype=dtype, local_only=local_only), tokenizer
    if tokenizer is None:
        raise ConfigurationError(f"a loaded model ({type(model).__name__}) needs tokenizer= too")
    return cast(model, dtype).to(resolve_device(device)).eval(), tokenizer


def save_pretrained(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model (safetensors) and tokenizer to a folder, in the layout that `from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for path in folder.glob("*.safetensors"):
        os.chmod(path, mode)  # some versions write the weights for their owner's eyes only


def token_limit(model: Any, tokenizer: Any) -> int:
    """How many tokens a text may have: what the tokenizer says, and what the model has positions for."""
    torch = need("torch", extra="torch", why="running a transformer")
    limits = [_UNLIMITED, int(min(tokenizer.model_max_length, _UNLIMITED))]
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # models of RoBERTa's family start counting behind the padding's position
            start = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - start)
    return min(limits)


def first_tokens(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text with the tokenizer's special tokens, cut to `max_tokens` at the end."""
    allowed = _CHARACTERS_A_TOKEN * max_tokens
    cleaned = clean_and_cut([text[:allowed] for text in texts], allowed)
    # the same settings at every call: a fast tokenizer whose settings change cannot be used by two threads
    ids: list[list[int]] = tokenizer(
        cleaned, truncation=True, max_length=max_tokens, return_attention_mask=False, return_token_type_ids=False
    )["input_ids"]
    return ids


def tokens_at_once(model: Any) -> int:
    """How many tokens, padding included, one pass should have: few on a CPU, whose caches are small."""
    return 1 << 10 if model.device.type == "cpu" else 1 << 14


def batches_by_length(lengths: Sequence[int], tokens_a_batch: int) -> Iterator[NDArray[np.int64]]:
    """Rows in batches of like length, shortest first; no batch has more tokens, padding included, or one row."""
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    ascending = np.maximum(sizes[order], 1)
    start = 0
    while start < order.size:
        tokens = ascending[start:] * np.arange(1, order.size - start + 1)
        count = max(1, int(np.searchsorted(tokens, tokens_a_batch, side="right")))
        yield order[start : start + count]
        start += count


def padded(ids: Sequence[Sequence[int]], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids as a matrix, padded at the end, and the mask that is 1 where a token stands."""
    lengths = np.array([len(row) for row in ids])
    mask = (np.arange(max(1, lengths.max())) < lengths[:, None]).astype(np.int64)
    matrix = np.full(mask.shape, pad, dtype=np.int64)
    matrix[mask.astype(bool)] = [token for row in ids for token in row]
    return matrix, mask


def padding_token(tokenizer: Any) -> int:
    """What stands in for missing tokens; causal models often name none."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _unreadable(what: str, source: str | Path, error: Exception) -> RouterFormatError:
    where = "" if Path(source).is_dir() else ", which is no folder here"
    return RouterFormatError(f"no {what} can be loaded from {str(source)!r}{where}: {type(error).__name__}: {error}")
