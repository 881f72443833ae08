"""A published router behind a chat model: named with its threshold, fed by the caller's embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from safetensors.numpy import save_file

from langchain_routellm import ChatRouteLLM
from routellm_core import RandomRouter, RoutingPolicy
from routellm_core.encoders import RemoteEncoder
from routellm_core.errors import ConfigurationError, EncoderError
from routellm_core.testing import LoopbackOpenAI, Reply
from tests.test_langchain.fakes import RECORD, fake

QUESTIONS = [f"question {i}" for i in range(12)]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A checkpoint of the published shape where its hub name is looked for first: the working directory."""
    shapes = {"P.weight": (64, 128), "text_proj.0.weight": (128, 1536), "classifier.0.weight": (1, 128)}
    rng = np.random.default_rng(8)
    tensors = {name: rng.normal(scale=2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    folder = tmp_path / "routellm" / "mf_gpt4_augmented"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tensors


@pytest.fixture
async def embeddings(loopback: LoopbackOpenAI) -> AsyncIterator[OpenAIEmbeddings]:
    with httpx.Client() as sync:
        async with httpx.AsyncClient() as asynchronous:
            yield OpenAIEmbeddings(
                model="text-embedding-3-small",
                base_url=loopback.url,
                api_key="none",  # type: ignore[arg-type]
                max_retries=0,
                check_embedding_ctx_length=False,  # else it sends token ids, for which a vocabulary is downloaded
                http_client=sync,
                http_async_client=asynchronous,
            )


def win_rate(tensors: dict[str, Any], text: str) -> float:
    """The published formula, from the endpoint's vector of the text."""
    strong, weak = (row / np.linalg.norm(row) for row in tensors["P.weight"][[24, 36]].astype(float))
    projected = tensors["text_proj.0.weight"] @ LoopbackOpenAI.vector(text).astype(float)
    delta = tensors["classifier.0.weight"][0].astype(float) @ ((strong - weak) * projected)
    return float(1 / (1 + np.exp(-delta)))


def over(server: LoopbackOpenAI, **options: Any) -> ChatRouteLLM:
    def client(model: str) -> ChatOpenAI:
        return ChatOpenAI(model=model, base_url=server.url, api_key="none", max_retries=0)  # type: ignore[arg-type]

    return ChatRouteLLM(strong=client("large"), weak=client("small"), router="router-mf-0.11593", **options)


async def test_it_routes_by_the_embeddings_of_an_openai_endpoint(
    checkpoint: Any, embeddings: OpenAIEmbeddings, loopback: LoopbackOpenAI
) -> None:
    llm = over(loopback, encoder=embeddings)
    answers = [*llm.batch(list(QUESTIONS[:6])), *[await llm.ainvoke(q) for q in QUESTIONS[6:]]]
    routes = set()
    for question, answer in zip(QUESTIONS, answers, strict=True):
        expected, record = win_rate(checkpoint, question), answer.response_metadata[RECORD]
        assert record["win_rate"] == pytest.approx(expected, abs=1e-6)
        assert record["threshold"] == 0.11593
        assert record["router"] == "routellm/mf_gpt4_augmented"
        assert record["route"] == ("strong" if expected >= 0.11593 else "weak")
        assert answer.text.startswith("large" if expected >= 0.11593 else "small")
        routes.add(record["route"])
    assert routes == {"strong", "weak"}
    asked = [request["input"] for request in loopback.requests if "input" in request]
    assert asked == [QUESTIONS[:6], *([q] for q in QUESTIONS[6:])]  # a batch is embedded in one request


async def test_a_busy_embedding_endpoint_sends_the_call_strong_and_says_why(
    checkpoint: Any, embeddings: OpenAIEmbeddings, loopback: LoopbackOpenAI
) -> None:
    loopback.reply = lambda body: Reply(status=429) if "input" in body else Reply(text=body["model"])
    llm = over(loopback, encoder=embeddings)
    for answer in (await asyncio.to_thread(llm.invoke, "secret words"), await llm.ainvoke("secret words")):
        record = answer.response_metadata[RECORD]
        assert (answer.text, record["route"], record["reason"]) == ("large", "strong", "scorer_error")
        assert "RateLimitError" in record["error"]
        assert "secret" not in str(record)
    assert over(loopback, encoder=embeddings, on_error="weak").invoke("q").text == "small"
    with pytest.raises(EncoderError) as caught:
        await over(loopback, encoder=embeddings, on_error="raise").ainvoke("q")
    assert caught.value.is_retryable


def made(**options: Any) -> ChatRouteLLM:
    return ChatRouteLLM(**{"strong": fake("strong"), "weak": fake("weak"), "router": "router-mf-0.11593", **options})


def encoder() -> RemoteEncoder:
    return RemoteEncoder(DeterministicFakeEmbedding(size=1536), name="text-embedding-3-small")


def test_copies_keep_the_threshold_that_the_name_gave(checkpoint: Any) -> None:
    llm = made(encoder=encoder())
    copies = [llm.model_copy(), llm.model_copy(update={"on_error": "weak"}), deepcopy(llm)]
    for each in (llm, *copies):
        assert each.threshold == 0.11593
        assert each.routing_policy.thresholds == (0.11593,)
    assert llm.model_copy(update={"threshold": 0.5}).routing_policy.thresholds == (0.5,)
    again = made(router=RandomRouter(), threshold=0.3).model_copy(update={"router": "mf", "encoder": encoder()})
    assert again.routing_policy.router.name == "routellm/mf_gpt4_augmented"
    assert again.routing_policy.thresholds == (0.3,)


def test_the_encoder_stays_out_of_dumps_and_names(checkpoint: Any) -> None:
    llm = made(encoder=encoder())
    assert "encoder" not in llm.model_dump()
    assert "Embedding" not in repr(llm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"'text-embedding-3-small' \(1536 dimensions\): give encoder="),
        ({"encoder": DeterministicFakeEmbedding(size=1536), "threshold": 0.2}, "names its threshold"),
        ({"encoder": DeterministicFakeEmbedding(size=1536), "strong_share": 0.2}, "names its threshold"),
        ({"encoder": 3}, "an encoder is"),
        ({"encoder": "hashing", "router": RandomRouter()}, "goes with a router's name"),
        ({"encoder": "hashing", "router": "default", "policy": RoutingPolicy(RandomRouter())}, "encoder"),
        ({"router": "router-mf"}, r"router-mf-0\.11593"),
        ({"router": "router-sw_ranking-0.3"}, "no checkpoint"),
    ],
)
def test_what_does_not_go_together_is_refused(checkpoint: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        made(**options)
