"""Embedding models behind somebody else's client: LangChain, LlamaIndex, OpenAI, or a plain function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.backends import is_passing
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError, EncoderError, RouteLLMError
from routellm_core.persistence import digest_of

__all__ = ["RemoteEncoder", "embedding_examples"]

_VERSION = "1"  # part of the digest; change it with anything that changes what is sent

Vectors = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Calls:
    """How to ask one client: a call, an awaitable call, or both."""

    sync: Callable[[list[str]], Any] | None
    asynchronous: Callable[[list[str]], Awaitable[Any]] | None


class RemoteEncoder(Encoder):
    """An embedding model that the caller's own object reaches.

    Nobody can hash weights behind an API: name and dim stand for them, so that a router trained with
    one model is not scored with another. A saved router keeps both, and loading it takes the object
    again: `load_router(folder, encoder=...)`.

    Args:
        source: LangChain `Embeddings`, a LlamaIndex `BaseEmbedding`, an OpenAI client (`OpenAI()` or
            `AsyncOpenAI()`), or a function from a list of texts to one vector each; it may be async.
            With an asynchronous one, only async calls work.
        name: The embedding model, such as "text-embedding-3-small". Default: what the object says. Give
            it where the object's word is another (a deployment, a proxy's prefix).
        dim: Width of its vectors. Default: what the object says, else the first call tells.
        batch_size: Texts in one request, at least 1.
        max_characters: Longer texts are cut, keeping both ends. OpenAI's models take 8,191 tokens, of which
            English has one for about four characters, other scripts about one a character.

    Raises:
        ConfigurationError: The object is none of these, it has no name and none is given, its width is
            not the given one, or a number is out of range.
    """

    kind: ClassVar[str] = "remote"

    def __init__(
        self,
        source: Any,
        *,
        name: str | None = None,
        dim: int | None = None,
        batch_size: int = 128,
        max_characters: int = 8000,
    ) -> None:
        declared_name, declared_dim = _declared(source)
        model = name if name is not None else declared_name
        self._calls = _calls(source, model or "")
        if not model:
            raise ConfigurationError(
                f"a {type(source).__name__} does not say which embedding model it calls: "
                f"{type(self).__name__}(..., name='text-embedding-3-small')"
            )
        if not isinstance(model, str):
            raise ConfigurationError(f"name must be a str, got {model!r}")
        if dim is not None and (not isinstance(dim, Integral) or isinstance(dim, bool) or dim < 1):
            raise ConfigurationError(f"dim must be an int of at least 1, got {dim!r}")
        if dim is not None and declared_dim is not None and dim != declared_dim:
            raise ConfigurationError(f"dim={dim}, but the object gives {declared_dim} dimensions; make them agree")
        for what, value, least in (("batch_size", batch_size, 1), ("max_characters", max_characters, 2)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"{what} must be an int of at least {least}, got {value!r}")
        self._name = model
        self._dim = int(dim) if dim is not None else declared_dim
        self.batch_size = int(batch_size)
        self.max_characters = int(max_characters)
        self.is_async = self._calls.asynchronous is not None

    @classmethod
    def around(cls, source: Any, *, name: str | None = None, dim: int | None = None, **options: Any) -> RemoteEncoder:
        """The same, where `name` and `dim` are what to take if the object does not say."""
        declared_name, declared_dim = _declared(source)
        return cls(
            source,
            name=declared_name if declared_name is not None else name,
            dim=declared_dim if declared_dim is not None else dim,
            **options,
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def dim(self) -> int:
        """Width of a vector; asks the model once if neither the caller nor the object said it.

        Raises:
            EncoderError: It was asked and failed.
        """
        if self._dim is None:
            self._dim = self._ask([" "]).shape[1]
        return self._dim

    @property
    def digest(self) -> str:
        return digest_of("remote", _VERSION, self._name, str(self.dim))

    def settings(self) -> dict[str, Any]:
        return {"name": self._name, "dim": self.dim, "max_characters": self.max_characters}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> RemoteEncoder:
        name, dim = settings["name"], settings["dim"]
        raise ConfigurationError(
            f"this router needs the embedding model {name!r} ({dim} dimensions), which is not saved with it: "
            f"give encoder=, one of {embedding_examples(name)}"
        )

    # -- calls
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self._joined([self._ask(batch) for batch in self._batches(texts)])

    async def aencode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`encode` through the object's own asynchronous method; in a thread where it has none."""
        call = self._calls.asynchronous
        if call is None:
            return await super().aencode(texts)
        checked = checked_texts(texts, what="text")
        if not checked and self._dim is not None:
            return np.zeros((0, self._dim), dtype=np.float32)
        parts = []
        for batch in self._batches(checked or [" "]):  # no text and no width: then the model is asked for it
            try:
                answer = await call(batch)
            except Exception as error:
                raise self._failure(error) from error
            parts.append(self._array(answer, len(batch)))
        return self._checked(self._joined(parts)[: len(checked)], len(checked))

    def _batches(self, texts: list[str]) -> list[list[str]]:
        # OpenAI refuses the empty text
        sent = [text or " " for text in clean_and_cut(texts, self.max_characters)]
        return [sent[start : start + self.batch_size] for start in range(0, len(sent), self.batch_size)]

    def _ask(self, batch: list[str]) -> NDArray[np.float32]:
        if self._calls.sync is None:
            raise EncoderError(
                f"encoder {self._name!r} has an asynchronous client only: use the asynchronous calls, or give the "
                "synchronous client"
            )
        try:
            answer = self._calls.sync(batch)
        except Exception as error:
            raise self._failure(error) from error
        return self._array(answer, len(batch))

    def _failure(self, error: Exception) -> RouteLLMError:
        if isinstance(error, RouteLLMError):
            return error
        # the type only: a client's message may quote the prompt, and ours go into records and logs
        return EncoderError(
            f"encoder {self._name!r} failed with {type(error).__name__}", is_retryable=is_passing(error)
        )

    def _array(self, answer: Any, n_texts: int) -> NDArray[np.float32]:
        try:
            vectors = np.asarray(answer, dtype=np.float32)
        except (TypeError, ValueError):
            raise EncoderError(f"encoder {self._name!r} gave no vectors of one width") from None
        if vectors.ndim != 2 or len(vectors) != n_texts:
            raise EncoderError(
                f"encoder {self._name!r} gave shape {vectors.shape} for {n_texts} texts; one vector a text was expected"
            )
        return vectors

    def _joined(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if self._dim is None:
            self._dim = parts[0].shape[1]
        for part in parts:
            if part.shape[1] != self._dim:
                raise EncoderError(f"encoder {self._name!r} gave {part.shape[1]} dimensions, not {self._dim}")
        return np.concatenate(parts)

    def __deepcopy__(self, memo: Any) -> RemoteEncoder:
        return self  # nothing in it changes, and clients cannot be copied

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self._name!r}, dim={self._dim})"


def embedding_examples(name: str) -> str:
    """One line for each way to give the embedding model of that name, for messages."""
    return (
        f"langchain_openai.OpenAIEmbeddings(model={name!r}), "
        f"llama_index.embeddings.openai.OpenAIEmbedding(model={name!r}), openai.OpenAI(), "
        f"or routellm_core.encoders.RemoteEncoder(your_object, name={name!r}, dim=...)"
    )


def _calls(source: Any, model: str) -> _Calls:
    """How to ask the object; recognised by its methods, so that no framework is imported."""
    if callable(getattr(source, "embed_documents", None)):  # LangChain
        twin = source.aembed_documents if _has_own(source, "aembed_documents") else None
        return _Calls(sync=source.embed_documents, asynchronous=twin)
    if callable(getattr(source, "get_text_embedding_batch", None)):  # LlamaIndex
        has_twin = _has_own(source, "_aget_text_embeddings") or _has_own(source, "_aget_text_embedding")
        twin = source.aget_text_embedding_batch if has_twin else None
        return _Calls(sync=source.get_text_embedding_batch, asynchronous=twin)
    create = getattr(getattr(source, "embeddings", None), "create", None)
    if callable(create):  # OpenAI's client
        if inspect.iscoroutinefunction(create):
            return _Calls(sync=None, asynchronous=partial(_aask_openai, create, model))
        return _Calls(sync=partial(_ask_openai, create, model), asynchronous=None)
    if callable(source) and not isinstance(source, type):
        if inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(type(source).__call__):
            return _Calls(sync=None, asynchronous=source)
        return _Calls(sync=source, asynchronous=None)
    raise ConfigurationError(
        f"an encoder is a routellm_core Encoder, {embedding_examples('...')} (a function from a list of texts to one "
        f"vector each will do); got {type(source).__name__}"
    )


def _ask_openai(create: Callable[..., Any], model: str, texts: list[str]) -> Vectors:
    return _in_order(create(model=model, input=texts))


async def _aask_openai(create: Callable[..., Any], model: str, texts: list[str]) -> Vectors:
    return _in_order(await create(model=model, input=texts))


def _in_order(response: Any) -> Vectors:
    return [each.embedding for each in sorted(response.data, key=lambda each: int(each.index))]


def _has_own(source: Any, method: str) -> bool:
    """Whether a framework's base class leaves it to another; theirs runs in a thread, or on the event loop itself."""
    owner = next((each for each in type(source).__mro__ if method in vars(each)), None)
    return owner is not None and owner.__name__ not in ("BaseEmbedding", "Embeddings")


def _declared(source: Any) -> tuple[str | None, int | None]:
    """Name and width, as far as the object says them."""
    model: Any = None
    for attribute in ("model_name", "model"):
        value = getattr(source, attribute, None)
        model = value.value if isinstance(value, Enum) else value
        if isinstance(model, str) and model not in ("", "unknown"):  # the second is LlamaIndex's default
            break
        model = None
    dim = getattr(source, "dimensions", None)
    return model, int(dim) if isinstance(dim, int) and not isinstance(dim, bool) and dim > 0 else None
