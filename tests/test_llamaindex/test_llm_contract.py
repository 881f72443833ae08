"""The public contract of LLMs: RouteLLM keeps it, and bare backends show that it bites."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Union, get_origin

import httpx
import openai
import pytest
from llama_index.core.llms import LLM, MockLLM

from llamaindex_routellm import RouteLLM
from llamaindex_routellm.testing import ENDPOINTS, LLMContract, LoopbackLLMContract
from routellm_core.testing import LoopbackAnthropic, LoopbackOllama, ScriptedRouter

KEY = "sk-a-secret-of-the-contract"


@pytest.fixture(autouse=True)
def open_sockets(loopback: Any) -> None:
    """The contract starts servers of its own."""


class OpenAILikeBase(LoopbackLLMContract):
    failure = openai.BadRequestError
    supports_tools = supports_structured = supports_images = True
    secrets = (KEY,)

    @pytest.fixture(autouse=True)
    def _clients(self) -> Any:
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(limits=limits, verify=False) as self.blocking:  # noqa: S501 - certificates take long to read
            self.asynchronous = httpx.AsyncClient(limits=limits, verify=False)  # noqa: S501
            yield

    def backend(self, model: str) -> LLM:
        like = pytest.importorskip("llama_index.llms.openai_like").OpenAILike
        return like(
            model=model,
            api_base=self.server.url,
            api_key=KEY,
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=8000,
            max_retries=0,
            additional_kwargs={"stream_options": {"include_usage": True}},
            http_client=self.blocking,
            async_http_client=self.asynchronous,
        )


class TestOpenAILike(OpenAILikeBase):
    def make(self) -> LLM:
        return self.backend("gpt-4.1")


class TestRouteLLMOverOpenAILike(OpenAILikeBase):
    is_router = True
    model_name = "routellm(gpt-4.1-mini|gpt-4.1)"

    def make(self) -> LLM:
        weak, strong = self.backend("gpt-4.1-mini"), self.backend("gpt-4.1")
        return RouteLLM(weak=weak, strong=strong, router=ScriptedRouter(0.9), threshold=0.5)
