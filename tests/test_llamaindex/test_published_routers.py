"""A published router behind an LLM: named with its threshold, fed by the caller's embedding model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from llama_index.core.embeddings import MockEmbedding
from safetensors.numpy import save_file

from llamaindex_routellm import RouteLLM
from routellm_core import RandomRouter, RoutingPolicy
from routellm_core.encoders import RemoteEncoder
from routellm_core.errors import ConfigurationError, EncoderError
from routellm_core.testing import LoopbackOpenAI, Reply

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
async def embedding(loopback: LoopbackOpenAI) -> AsyncIterator[Any]:
    module = pytest.importorskip("llama_index.embeddings.openai")
    with httpx.Client() as sync:
        async with httpx.AsyncClient() as asynchronous:
            yield module.OpenAIEmbedding(
                model="text-embedding-3-small",
                api_base=loopback.url,
                api_key="none",
                max_retries=1,
                http_client=sync,
                async_http_client=asynchronous,
            )


def win_rate(tensors: dict[str, Any], text: str) -> float:
    """The published formula, from the endpoint's vector of the text."""
    strong, weak = (row / np.linalg.norm(row) for row in tensors["P.weight"][[24, 36]].astype(float))
    projected = tensors["text_proj.0.weight"] @ LoopbackOpenAI.vector(text).astype(float)
    delta = tensors["classifier.0.weight"][0].astype(float) @ ((strong - weak) * projected)
    return float(1 / (1 + np.exp(-delta)))


def over(client: Any, **words: Any) -> RouteLLM:
    return RouteLLM(strong=client("big"), weak=client("little"), router="router-mf-0.11593", **words)


async def test_it_routes_by_the_embeddings_of_an_openai_endpoint(
    checkpoint: Any, embedding: Any, client: Any, loopback: LoopbackOpenAI
) -> None:
    llm = over(client, encoder=embedding)
    answers = [*(llm.complete(q) for q in QUESTIONS[:6]), *[await llm.acomplete(q) for q in QUESTIONS[6:]]]
    routes = set()
    for question, answer in zip(QUESTIONS, answers, strict=True):
        expected, record = win_rate(checkpoint, question), answer.additional_kwargs["routellm"]
        assert record["win_rate"] == pytest.approx(expected, abs=1e-6)
        assert (record["threshold"], record["router"]) == (0.11593, "routellm/mf_gpt4_augmented")
        assert record["route"] == ("strong" if expected >= 0.11593 else "weak")
        assert answer.text.startswith("big" if expected >= 0.11593 else "little")
        routes.add(record["route"])
    assert routes == {"strong", "weak"}
    assert [request["input"] for request in loopback.requests if "input" in request] == [[q] for q in QUESTIONS]


async def test_a_busy_embedding_endpoint_sends_the_call_strong_and_says_why(
    checkpoint: Any, embedding: Any, client: Any, loopback: LoopbackOpenAI
) -> None:
    loopback.reply = lambda body: Reply(status=429) if "input" in body else Reply(text=body["model"])
    llm = over(client, encoder=embedding)
    for answer in (llm.complete("secret words"), await llm.acomplete("secret words")):
        record = answer.additional_kwargs["routellm"]
        assert (answer.text, record["route"], record["reason"]) == ("big", "strong", "scorer_error")
        assert "RateLimitError" in record["error"]
        assert "secret" not in str(record)
    with pytest.raises(EncoderError) as caught:
        await over(client, encoder=embedding, on_error="raise").acomplete("q")
    assert caught.value.is_retryable


def encoder() -> RemoteEncoder:
    return RemoteEncoder(MockEmbedding(embed_dim=1536), name="text-embedding-3-small")


def test_copies_and_dumps_keep_the_threshold_that_the_name_gave(checkpoint: Any, kit: Any) -> None:
    backends = {"strong": kit.pair().strong, "weak": kit.pair().weak}
    llm = RouteLLM(**backends, router="router-mf-0.11593", encoder=encoder())
    assert llm.policy.thresholds == deepcopy(llm).policy.thresholds == (0.11593,)
    dump = llm.to_dict()
    assert (dump["router"], dump["threshold"]) == ("routellm/mf_gpt4_augmented", 0.11593)
    again = RouteLLM.from_dict({**dump, **backends, "encoder": encoder()})
    assert again.policy.thresholds == (0.11593,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, r"'text-embedding-3-small' \(1536 dimensions\): give encoder="),
        ({"encoder": "hashing:1536"}, "'hashing'"),
        ({"encoder": "hashing:1536", "threshold": 0.2}, "names its threshold"),
        ({"encoder": "hashing:1536", "strong_share": 0.2}, "names its threshold"),
        ({"encoder": 3}, "an encoder is"),
        ({"encoder": "hashing", "router": RandomRouter()}, "goes with a router's name"),
        ({"encoder": "hashing", "router": None, "policy": RoutingPolicy(RandomRouter())}, "encoder"),
        ({"router": "router-mf"}, r"router-mf-0\.11593"),
    ],
)
def test_what_does_not_go_together_is_refused(checkpoint: Any, kit: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RouteLLM(strong=kit.pair().strong, weak=kit.pair().weak, **{"router": "router-mf-0.11593", **words})
