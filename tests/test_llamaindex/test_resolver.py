"""LlamaIndex LLMs as the core's backends."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.llms import MockLLM
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike

from llamaindex_routellm._resolver import LLMBackend, resolve
from routellm_core.backends import Backend, Generation
from routellm_core.errors import ConfigurationError, UnknownKindError
from routellm_core.testing import LoopbackOpenAI, Reply

ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello"}]


async def test_an_llm_answers_with_its_tokens(client: Any, loopback: LoopbackOpenAI) -> None:
    loopback.reply = lambda request: Reply(text="hello to you")
    backend = resolve(client("gpt-4.1"))
    assert isinstance(backend, Backend)
    # words, as the endpoint counts them: 10 in the messages' JSON, 3 in the answer
    expected = Generation(text="hello to you", input_tokens=10, output_tokens=3)
    assert backend.generate(ASKED) == expected
    assert await backend.agenerate(ASKED) == expected
    assert [m["role"] for m in loopback.requests[0]["messages"]] == ["system", "user"]


def test_a_model_that_counts_no_tokens_says_none() -> None:
    backend = resolve(MockLLM(max_tokens=2))
    assert backend is not None
    answer = backend.generate(ASKED)
    assert (answer.input_tokens, answer.output_tokens) == (None, None)
    assert answer.text


def test_names_are_those_of_price_lists() -> None:
    assert LLMBackend(OpenAI(model="gpt-4.1", api_key="none")).name == "openai:gpt-4.1"
    like = OpenAILike(model="gpt-4.1", api_key="none", api_base="http://127.0.0.1:1/v1", is_chat_model=True)
    assert LLMBackend(like).name == "gpt-4.1"  # nobody knows whose server it is


def test_what_is_not_llamaindexs_is_left_to_others() -> None:
    assert resolve(object()) is None


def test_a_string_becomes_an_llm_and_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    backend = resolve("openai:some-model")
    assert backend is not None
    assert isinstance(backend.llm, OpenAILike)
    assert backend.name == "openai:some-model"


def test_strings_nobody_can_make_are_refused() -> None:
    with pytest.raises(UnknownKindError, match="unknown provider 'nonsense'"):
        resolve("nonsense:model")
    with pytest.raises(ConfigurationError, match="'provider:model'"):
        resolve("gpt-4.1")


def test_errors_come_out_as_the_client_raised_them(client: Any, loopback: LoopbackOpenAI) -> None:
    import openai

    loopback.reply = lambda request: Reply(status=503)
    with pytest.raises(openai.InternalServerError):
        LLMBackend(client("gpt-4.1")).generate(ASKED)
