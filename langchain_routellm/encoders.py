"""LangChain embeddings as an encoder."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from routellm_core.encoders import RemoteEncoder
from routellm_core.errors import ConfigurationError

__all__ = ["LangChainEncoder"]


class LangChainEncoder(RemoteEncoder):
    """LangChain `Embeddings` as the encoder of a router.

    `encoder=` takes the embeddings themselves too; this class is for where they do not say what they are, and for
    the settings below. Prompts are embedded with `embed_documents` and its awaited twin `aembed_documents`, in
    batches. A saved router keeps the model's name and width, not the embeddings: give them again when you load it,
    be it those of LlamaIndex or OpenAI's client, for the same model.

    Args:
        embeddings: Any `Embeddings`.
        name: The embedding model, such as "text-embedding-3-small". Default: what the embeddings say; give it where
            they say nothing (`CacheBackedEmbeddings`, fakes) or something else (a deployment).
        dim: Width of the vectors. Default: what the embeddings say, else the first call tells.
        batch_size: Texts in one request, at least 1.
        max_characters: Longer texts are cut, keeping both ends.

    Raises:
        ConfigurationError: These are no embeddings, they have no name and none is given, or a number is out of range.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> encoder = LangChainEncoder(DeterministicFakeEmbedding(size=8), name="fake-embedding")
        >>> encoder.encode(["What is the capital of France?"]).shape
        (1, 8)
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        name: str | None = None,
        dim: int | None = None,
        batch_size: int = 128,
        max_characters: int = 8000,
    ) -> None:
        if not isinstance(embeddings, Embeddings):
            raise ConfigurationError(
                f"LangChainEncoder takes LangChain Embeddings, got {type(embeddings).__name__}; for any other object "
                "there is routellm_core.encoders.RemoteEncoder"
            )
        super().__init__(embeddings, name=name, dim=dim, batch_size=batch_size, max_characters=max_characters)
