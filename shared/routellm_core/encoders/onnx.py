"""Sentence embeddings by a transformer in an ONNX file: contextual, a few milliseconds a text, no torch."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.pretrained import batches_by_length, padded
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError, EncoderError, RouterFormatError
from routellm_core.persistence import digest_of, read_config, write_bytes

__all__ = ["OnnxEncoder"]

_VERSION = "1"  # part of the digest; change it with anything that changes a vector
_CONFIG, _MODEL, _TOKENIZER = _FILES = ("config.json", "model.onnx", "tokenizer.json")
_LEAST = {"head_tokens": 1, "tail_tokens": 0, "max_characters": 2}  # what config.json says, and the least allowed
_INPUTS = ["attention_mask tensor(int64)", "input_ids tensor(int64)"]
_TOKENS_AT_ONCE = 1 << 10  # padding included: few, since a CPU's caches are small
_EXTERNAL = b"\n\x08location"  # protobuf's bytes for the key under which ONNX names a file of weights


class OnnxEncoder(Encoder):
    """An encoder whose whole graph, pooling included, lies in one ONNX file. Needs the extra "onnx".

    `tools/export_encoder.py` writes such folders from Hugging Face BERT models. The graph must treat the rows of
    a batch apart from each other: one that `onnxruntime.quantization.quantize_dynamic` made does not, since it
    takes the range of its activations over the whole batch.

    Threads may share it. It starts none of its own, and a forked process opens the model anew when it first
    encodes. Of a text with more tokens than `head_tokens + tail_tokens` the first and the last ones are kept.

    Args:
        folder: Holds model.onnx (inputs input_ids and attention_mask, int64, shape (batch, tokens); one float32
            output of shape (batch, dim)), tokenizer.json, and config.json: `head_tokens` and `tail_tokens`, the
            special tokens counted, and `max_characters`, to which texts are cut before the tokenizer sees them.
        threads: How many compute one batch. No part of the digest.

    Raises:
        RouterFormatError: A file is missing, damaged, or no such model.
        ConfigurationError: `threads` is below 1.
        MissingExtraError: onnxruntime or tokenizers is not installed.
    """

    kind: ClassVar[str] = "onnx"

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        if threads < 1:
            raise ConfigurationError(f"threads must be at least 1, got {threads}")
        self.folder = Path(folder).resolve()
        self.threads = int(threads)
        config = read_config(self.folder)
        self.head_tokens, self.tail_tokens, self.max_characters = (_number(config, key, self.folder) for key in _LEAST)
        self._digests = {name: hashlib.sha256(_read(self.folder / name)).hexdigest() for name in _FILES}
        self._digest = digest_of("onnx", _VERSION, *self._digests.values())
        self._tokenizer = _tokenizer(self.folder / _TOKENIZER)
        session = self._session()
        self._dim = _width(session, self.folder / _MODEL)
        self._try(session)
        # by process: after a fork neither a session's threads are there, nor who might hold a lock
        self._sessions = {os.getpid(): session}
        self._locks: dict[int, threading.Lock] = {}

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def digest(self) -> str:
        return self._digest

    def settings(self) -> dict[str, Any]:
        return {}  # config.json has them

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        ids = self.token_ids(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        lengths = np.array([len(row) for row in ids])
        some = np.flatnonzero(lengths)  # a text without tokens stays zero
        session = self._here()
        for batch in batches_by_length(lengths[some].tolist(), _TOKENS_AT_ONCE):
            rows = some[batch]
            found = _run(session, *padded([ids[row] for row in rows], 0))
            if found.shape != (len(rows), self.dim):
                raise EncoderError(f"{self.folder / _MODEL} gave shape {found.shape}, not {(len(rows), self.dim)}")
            vectors[rows] = found
        return vectors

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """What the model sees of each text: its token ids, of a long one those of both ends."""
        most = self.head_tokens + self.tail_tokens
        ids = [each.ids for each in self._tokenizer.encode_batch_fast(clean_and_cut(texts, self.max_characters))]
        return [
            row if len(row) <= most else row[: self.head_tokens] + row[len(row) - self.tail_tokens :] for row in ids
        ]

    def _try(self, session: Any) -> None:
        """Run the longest text there can be, of the tokenizer's last token: better now than at some prompt.

        Raises:
            RouterFormatError: The graph cannot.
        """
        last = self._tokenizer.get_vocab_size(with_added_tokens=True) - 1
        ids = np.full((1, self.head_tokens + self.tail_tokens), last, dtype=np.int64)
        try:
            shape = _run(session, ids, np.ones_like(ids)).shape
        except Exception as error:
            raise RouterFormatError(
                f"{self.folder / _MODEL} cannot run {ids.size} tokens ({_CONFIG}: head_tokens + tail_tokens) with ids "
                f"up to {last} ({_TOKENIZER}): {type(error).__name__}: {error}"
            ) from error
        if shape != (1, self.dim):
            raise RouterFormatError(f"{self.folder / _MODEL} gives shape {shape} for one text, not {(1, self.dim)}")

    def _here(self) -> Any:
        """The session of this process.

        Raises:
            EncoderError: In a forked process: the file has changed, or cannot be read any more.
        """
        process = os.getpid()
        if process not in self._sessions:
            with self._locks.setdefault(process, threading.Lock()):
                if process not in self._sessions:
                    try:
                        self._sessions[process] = self._session()
                    except RouterFormatError as error:
                        raise EncoderError(f"in a forked process: {error}") from error
        return self._sessions[process]

    def _session(self) -> Any:
        path = self.folder / _MODEL
        onnxruntime = need("onnxruntime", extra="onnx", why="the ONNX encoder")
        if _EXTERNAL in self._unchanged(_MODEL):
            raise RouterFormatError(
                f"{path} keeps weights in files beside it, which no digest covers: write it as one file, "
                "onnx.save_model(model, path, save_as_external_data=False)"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors come back as exceptions
        try:
            # by its path: given bytes, a session keeps them for as long as it lives
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RouterFormatError(
                f"{path} cannot be loaded as an ONNX model: {type(error).__name__}: {error}"
            ) from error

    def _unchanged(self, name: str) -> bytes:
        content = _read(self.folder / name)
        if hashlib.sha256(content).hexdigest() != self._digests[name]:
            raise RouterFormatError(f"the encoder's file {self.folder / name} has changed since it was loaded")
        return content

    def save_files(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            write_bytes(folder / name, self._unchanged(name))

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> OnnxEncoder:
        return cls(folder, **settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxEncoder:
        return self  # nothing in it changes, and a session cannot be copied

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return functools.partial(type(self), threads=self.threads), (self.folder,)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RouterFormatError(f"the ONNX encoder's file {path} cannot be read: {error.strerror or error}") from error


def _number(config: Mapping[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[key]:
        raise RouterFormatError(
            f"{folder / _CONFIG} must give {key!r} as a whole number of at least {_LEAST[key]}, not {value!r}"
        )
    return value


def _tokenizer(path: Path) -> Any:
    tokenizers = need("tokenizers", extra="onnx", why="the ONNX encoder")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise RouterFormatError(f"{path} cannot be loaded as a tokenizer: {type(error).__name__}: {error}") from error
    tokenizer.no_truncation()  # would cut the end, where questions stand
    tokenizer.no_padding()
    return tokenizer


def _width(session: Any, path: Path) -> int:
    """How wide the model's vectors are.

    Raises:
        RouterFormatError: Its inputs and outputs are others than `OnnxEncoder` says.
    """
    inputs = sorted(f"{each.name} {each.type}" for each in session.get_inputs())
    outputs = [(each.type, list(each.shape)) for each in session.get_outputs()]
    if inputs == _INPUTS and len(outputs) == 1:
        kind, shape = outputs[0]
        if kind == "tensor(float)" and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 0:
            return shape[1]
    raise RouterFormatError(
        f"{path} has the inputs {inputs} and the outputs {outputs}; expected {_INPUTS} and one tensor(float) of shape "
        "(batch, width), the width a number: pooling belongs into the graph"
    )


def _run(session: Any, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return found
