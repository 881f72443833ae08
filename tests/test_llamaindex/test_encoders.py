"""A LlamaIndex embedding model as an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import MockEmbedding
from llama_index.core.base.embeddings.base import BaseEmbedding

from llamaindex_routellm import LlamaIndexEncoder, RouteLLM
from routellm_core import MatrixFactorizationRouter, load_router
from routellm_core.encoders import ENCODERS, RemoteEncoder
from routellm_core.errors import ConfigurationError, EncoderError, RouterFormatError
from routellm_core.testing import EncoderContract, LoopbackOpenAI, Reply

DIM = 8


class Hashing(BaseEmbedding):
    """Made from the text's hash, so that equal texts have equal vectors."""

    model_name: str = "hashing-embedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return list(map(float, LoopbackOpenAI.vector(text, DIM)))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embedding(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        raise AssertionError("prompts are embedded as texts")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        raise AssertionError("prompts are embedded as texts")


def mf(encoder: Any) -> MatrixFactorizationRouter:
    rng = np.random.default_rng(3)
    return MatrixFactorizationRouter(
        encoder=encoder,
        model_vectors=rng.normal(size=(2, 4)),
        projection=rng.normal(size=(4, encoder.dim)),
        classifier=rng.normal(size=4),
        models=("large", "small"),
        strong="large",
        weak="small",
    )


class TestLlamaIndexEncoder(EncoderContract):
    def make(self) -> LlamaIndexEncoder:
        return LlamaIndexEncoder(Hashing(), batch_size=3)

    def test_it_is_restored_from_its_description_and_files(self, tmp_path: Path) -> None:
        """Not without its object; below it is given again."""
        with pytest.raises(ConfigurationError, match="hashing-embedding"):
            ENCODERS.load("remote").restore(self.make().settings(), tmp_path)


@pytest.fixture
async def openai(loopback: LoopbackOpenAI) -> Any:
    openai = pytest.importorskip("llama_index.embeddings.openai")
    httpx = pytest.importorskip("httpx")
    blocking, asynchronous = httpx.Client(), httpx.AsyncClient()
    yield openai.OpenAIEmbedding(
        model="text-embedding-3-small",
        dimensions=16,
        api_base=loopback.url,
        api_key="sk-secret",
        max_retries=0,
        http_client=blocking,
        async_http_client=asynchronous,
    )
    blocking.close()
    await asynchronous.aclose()


async def test_a_real_client_gives_its_vectors_in_batches_sync_and_async(openai: Any, loopback: LoopbackOpenAI) -> None:
    encoder = LlamaIndexEncoder(openai, batch_size=2)
    assert (encoder.name, encoder.dim, encoder.is_async) == ("text-embedding-3-small", 16, True)
    texts = ["one", "two", "three"]
    expected = np.stack([loopback.vector(text, 16) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-6)
    np.testing.assert_allclose(await encoder.aencode(texts), expected, atol=1e-6)
    assert [request["input"] for request in loopback.requests] == [["one", "two"], ["three"]] * 2


@pytest.mark.parametrize(("status", "passing"), [(429, True), (401, False)])
async def test_a_clients_error_is_an_encoder_error_without_the_text(
    status: int, passing: bool, openai: Any, loopback: LoopbackOpenAI
) -> None:
    loopback.reply = lambda request: Reply(status=status, text=f"refused: {request['input']}")
    encoder = LlamaIndexEncoder(openai)
    with pytest.raises(EncoderError) as caught:
        encoder.encode(["the secret"])
    assert caught.value.is_retryable is passing
    assert "secret" not in str(caught.value)
    with pytest.raises(EncoderError):
        await encoder.aencode(["the secret"])


async def test_a_saved_router_is_loaded_with_the_same_model_however_it_is_given(tmp_path: Path, kit: Any) -> None:
    router = mf(LlamaIndexEncoder(Hashing()))
    router.save(tmp_path / "router")
    with pytest.raises(ConfigurationError, match="hashing-embedding"):
        load_router(tmp_path / "router")
    expected = router.win_rate(["a", "b"])
    for given in (LlamaIndexEncoder(Hashing()), Hashing(), RemoteEncoder(Hashing(), dim=DIM)):
        loaded = load_router(tmp_path / "router", encoder=given)
        np.testing.assert_array_equal(loaded.win_rate(["a", "b"]), expected)
        np.testing.assert_array_equal(await loaded.awin_rate(["a", "b"]), expected)
    with pytest.raises(RouterFormatError, match="nonsense"):
        load_router(tmp_path / "router", encoder=LlamaIndexEncoder(Hashing(), name="another"))
    llm = RouteLLM(
        strong=kit.Fake(),
        weak=kit.Fake(),
        router=tmp_path / "router",
        encoder=LlamaIndexEncoder(Hashing()),
        threshold=0.5,
    )
    assert llm.complete("hi").additional_kwargs["routellm"]["reason"] == "score"


def test_both_frameworks_reach_the_same_model_with_the_same_digest() -> None:
    by_name = RemoteEncoder(lambda texts: [[0.0] * DIM for _ in texts], name="hashing-embedding", dim=DIM)
    assert LlamaIndexEncoder(Hashing()).digest == by_name.digest


def test_a_model_that_does_not_say_its_name_needs_one() -> None:
    with pytest.raises(ConfigurationError, match=r"LlamaIndexEncoder\(\.\.\., name="):
        LlamaIndexEncoder(MockEmbedding(embed_dim=DIM))
    assert LlamaIndexEncoder(MockEmbedding(embed_dim=DIM), name="mock").dim == DIM


@pytest.mark.parametrize("wrong", ["default", None, 3, lambda texts: [], MockEmbedding])
def test_what_is_no_embedding_model_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a LlamaIndex BaseEmbedding"):
        LlamaIndexEncoder(wrong, name="m")


def test_its_settings_are_those_of_any_remote_encoder() -> None:
    assert repr(LlamaIndexEncoder(Hashing())) == "LlamaIndexEncoder(name='hashing-embedding', dim=None)"
    for setting in ({"batch_size": 0}, {"max_characters": 1}, {"dim": 0}):
        with pytest.raises(ConfigurationError):
            LlamaIndexEncoder(Hashing(), **setting)
