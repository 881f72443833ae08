"""LangChain embeddings as an encoder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_routellm import ChatRouteLLM, LangChainEncoder
from routellm_core import MatrixFactorizationRouter, load_router
from routellm_core.encoders import ENCODERS, RemoteEncoder
from routellm_core.errors import ConfigurationError, EncoderError, RouterFormatError
from routellm_core.testing import EncoderContract, LoopbackOpenAI, Reply
from tests.test_langchain.fakes import fake

DIM = 8


def deterministic(name: str | None = "fake-embedding", **settings: Any) -> LangChainEncoder:
    return LangChainEncoder(DeterministicFakeEmbedding(size=DIM), name=name, **settings)


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


class TestLangChainEncoder(EncoderContract):
    def make(self) -> LangChainEncoder:
        return deterministic(batch_size=3)

    def test_it_is_restored_from_its_description_and_files(self, tmp_path: Path) -> None:
        """Not without its object; below it is given again."""
        with pytest.raises(ConfigurationError, match="fake-embedding"):
            ENCODERS.load("remote").restore(self.make().settings(), tmp_path)


@pytest.fixture
async def openai(loopback: LoopbackOpenAI) -> Any:
    blocking, asynchronous = httpx.Client(), httpx.AsyncClient()
    yield OpenAIEmbeddings(
        model="text-embedding-3-small",
        dimensions=16,
        base_url=loopback.url,
        api_key="none",  # type: ignore[arg-type]
        max_retries=0,
        check_embedding_ctx_length=False,  # else it wants tokens, and a tokenizer from the network
        http_client=blocking,
        http_async_client=asynchronous,
    )
    blocking.close()
    await asynchronous.aclose()


async def test_a_real_client_gives_its_vectors_in_batches_sync_and_async(openai: Any, loopback: LoopbackOpenAI) -> None:
    encoder = LangChainEncoder(openai, batch_size=2)
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
    encoder = LangChainEncoder(openai)
    with pytest.raises(EncoderError) as caught:
        encoder.encode(["the secret"])
    assert caught.value.is_retryable is passing
    assert "secret" not in str(caught.value)
    with pytest.raises(EncoderError):
        await encoder.aencode(["the secret"])


async def test_a_saved_router_is_loaded_with_the_same_embeddings_however_they_are_given(tmp_path: Path) -> None:
    router = mf(deterministic())
    router.save(tmp_path / "router")
    with pytest.raises(ConfigurationError, match="fake-embedding"):
        load_router(tmp_path / "router")
    expected = router.win_rate(["a", "b"])
    same = DeterministicFakeEmbedding(size=DIM)
    # a fake does not say its name; given bare, the saved one is taken
    for given in (deterministic(), same, RemoteEncoder(same, name="fake-embedding", dim=DIM)):
        loaded = load_router(tmp_path / "router", encoder=given)
        np.testing.assert_array_equal(loaded.win_rate(["a", "b"]), expected)
        np.testing.assert_array_equal(await loaded.awin_rate(["a", "b"]), expected)
    with pytest.raises(RouterFormatError, match="nonsense"):
        load_router(tmp_path / "router", encoder=deterministic("another"))
    llm = ChatRouteLLM(
        strong=fake("strong"),
        weak=fake("weak"),
        router=str(tmp_path / "router"),
        encoder=deterministic(),
        threshold=0.5,
    )
    assert llm.invoke("hi").response_metadata["routellm"]["reason"] == "score"


async def test_embeddings_without_an_awaited_twin_are_asked_in_a_thread() -> None:
    class Blocking(Embeddings):
        model = "blocking"
        threads: set[Any] = set()

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.threads.add(threading.current_thread())
            return [[1.0, float(len(text))] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            raise AssertionError("prompts are embedded as documents")

    encoder = LangChainEncoder(Blocking())
    assert not encoder.is_async
    assert (await encoder.aencode(["abc"])).tolist() == [[1.0, 3.0]]
    assert threading.current_thread() not in Blocking.threads


def test_embeddings_that_do_not_say_their_name_need_one() -> None:
    with pytest.raises(ConfigurationError, match=r"LangChainEncoder\(\.\.\., name="):
        deterministic(None)


@pytest.mark.parametrize("wrong", ["text-embedding-3-small", None, 3, lambda texts: [], OpenAIEmbeddings])
def test_what_is_no_embeddings_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes LangChain Embeddings"):
        LangChainEncoder(wrong, name="m")


def test_its_settings_are_those_of_any_remote_encoder() -> None:
    assert repr(deterministic()) == "LangChainEncoder(name='fake-embedding', dim=None)"
    for setting in ({"batch_size": 0}, {"max_characters": 1}, {"dim": 0}):
        with pytest.raises(ConfigurationError):
            deterministic(**setting)
