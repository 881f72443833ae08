"""A LlamaIndex embedding model as an encoder."""

from __future__ import annotations

from llama_index.core.base.embeddings.base import BaseEmbedding

from routellm_core.encoders import RemoteEncoder
from routellm_core.errors import ConfigurationError

__all__ = ["LlamaIndexEncoder"]


class LlamaIndexEncoder(RemoteEncoder):
    """A LlamaIndex `BaseEmbedding` as the encoder of a router.

    `encoder=` takes the embedding model itself too; this class is for where it does not say what it is, and for the
    settings below. Prompts are embedded with `get_text_embedding_batch` and its awaited twin, which send
    `embed_batch_size` texts at a time. A saved router keeps the model's name and width, not the model: give it again
    when you load it, be it LangChain's or OpenAI's client, for the same model.

    Args:
        embed_model: Any `BaseEmbedding`, such as `Settings.embed_model`.
        name: The embedding model, such as "text-embedding-3-small". Default: its `model_name`; give it where that
            says nothing or something else (a deployment).
        dim: Width of the vectors. Default: what the model says, else the first call tells.
        batch_size: Texts in one call, at least 1.
        max_characters: Longer texts are cut, keeping both ends.

    Raises:
        ConfigurationError: This is no embedding model, it has no name and none is given, or a number is out of range.

    Example:
        >>> from llama_index.core import MockEmbedding
        >>> encoder = LlamaIndexEncoder(MockEmbedding(embed_dim=8), name="mock-embedding")
        >>> encoder.encode(["What is the capital of France?"]).shape
        (1, 8)
    """

    def __init__(
        self,
        embed_model: BaseEmbedding,
        *,
        name: str | None = None,
        dim: int | None = None,
        batch_size: int = 128,
        max_characters: int = 8000,
    ) -> None:
        if not isinstance(embed_model, BaseEmbedding):
            raise ConfigurationError(
                f"LlamaIndexEncoder takes a LlamaIndex BaseEmbedding, got {type(embed_model).__name__}; for any other "
                "object there is routellm_core.encoders.RemoteEncoder"
            )
        super().__init__(embed_model, name=name, dim=dim, batch_size=batch_size, max_characters=max_characters)
