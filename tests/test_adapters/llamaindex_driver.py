"""LlamaIndex behind the common face. It has no batches: many calls are made by threads, or gathered."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import httpx
from llama_index.core.base.llms.types import ImageBlock, LLMMetadata, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from llamaindex_routellm import RouteLLM, force_route
from routellm_core.testing import LoopbackServer
from tests.test_adapters.drivers import IMAGE, NOWHERE, PIXEL, Chat, Driver, Outcome

RECORD = "routellm"


def look(q: str) -> str:
    """Look something up."""
    return q


LOOK = FunctionTool.from_defaults(fn=look, name="look")


class Fake(FunctionCallingLLM):
    label: str
    can_call: bool = True

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, is_function_calling_model=self.can_call, model_name=self.label)

    def _answered(self, messages: Any, kwargs: Any) -> ChatResponse:
        message = ChatMessage(role="assistant", content=f"{self.label} answers")
        if kwargs.get("tools") and messages[-1].role != "tool":
            call = ToolCallBlock(tool_call_id=f"call_{len(messages)}", tool_name="look", tool_kwargs={"q": "x"})
            message = ChatMessage(role="assistant", blocks=[call])
        return ChatResponse(message=message, delta=message.content)

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answered(messages, kwargs)

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answered(messages, kwargs)

    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        yield self._answered(messages, kwargs)

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        async def read() -> Any:
            yield self._answered(messages, kwargs)

        return read()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    acomplete = stream_complete = astream_complete = complete  # type: ignore[assignment]

    def _prepare_chat_with_tools(self, tools: Any, chat_history: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"messages": chat_history, "tools": tools}

    def get_tool_calls_from_response(self, response: Any, error_on_no_tool_call: bool = True) -> list[ToolSelection]:
        return [
            ToolSelection(tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]


def _noted(outcome: Outcome, response: Any, text: str | None) -> Any:
    outcome.record = response.additional_kwargs.get(RECORD)  # every chunk has it, an agent parses each
    if text:
        outcome.pieces.append(text)
    return response


class LlamaIndexChat(Chat):
    def system(self, text: str) -> Chat:
        self.messages.append(ChatMessage(role="system", content=text))
        return self

    def human(self, *parts: Any) -> Chat:
        image = ImageBlock(image=base64.b64decode(PIXEL), image_mimetype="image/png")
        blocks = [image if part is IMAGE else TextBlock(text=part) for part in parts]
        self.messages.append(ChatMessage(role="user", blocks=blocks))
        return self

    def answer(self, text: str) -> Chat:
        self.messages.append(ChatMessage(role="assistant", content=text))
        return self

    def tool_results(self, text: str) -> Chat:
        response = ChatResponse(message=self.messages[-1])
        for call in self.llm.get_tool_calls_from_response(response):
            extra = {"tool_call_id": call.tool_id, "name": call.tool_name}
            self.messages.append(ChatMessage(role="tool", content=text, additional_kwargs=extra))
        return self

    def forced(self, route: str | None) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if route is None else force_route(route)

    async def _ask(self, how: str, tools: bool, outcome: Outcome, read: int | None) -> Any:
        name = {"invoke": "chat", "ainvoke": "achat", "stream": "stream_chat", "astream": "astream_chat"}[how]
        if tools:
            call: Any = getattr(self.llm, f"{name}_with_tools")([LOOK], chat_history=list(self.messages))
        else:
            call = getattr(self.llm, name)(list(self.messages))
        response: Any = None
        if how == "stream":
            for response in call:
                _noted(outcome, response, response.delta)
                if len(outcome.pieces) == read:
                    call.close()
        elif how == "astream":
            stream = await call
            async for response in stream:
                _noted(outcome, response, response.delta)
                if len(outcome.pieces) == read:
                    await stream.aclose()
        else:
            response = await call if how == "ainvoke" else call
            _noted(outcome, response, response.message.content)
        if response is None:
            return None
        if tools:
            outcome.calls = len(self.llm.get_tool_calls_from_response(response, error_on_no_tool_call=False))
        return response.message


class LlamaIndexDriver(Driver):
    name = "llama-index"

    def __init__(self) -> None:
        self._http = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))  # noqa: S501
        self._ahttp = httpx.AsyncClient(verify=False, limits=httpx.Limits(max_keepalive_connections=0))  # noqa: S501

    def client(self, server: LoopbackServer | None, model: str, *, timeout_s: float | None = None) -> Any:
        return OpenAILike(
            model=model,
            api_base=NOWHERE if server is None else server.url,
            api_key="none",
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=8000,
            max_retries=0,
            timeout=60.0 if timeout_s is None else timeout_s,
            additional_kwargs={"stream_options": {"include_usage": True}},
            http_client=self._http,
            async_http_client=self._ahttp,
        )

    def fake(self, name: str, *, can_call: bool = True) -> Any:
        return Fake(label=name, can_call=can_call)

    def routed(self, **options: Any) -> Any:
        return RouteLLM(**options)

    def chat(self, llm: Any) -> Chat:
        return LlamaIndexChat(llm)

    async def batch(self, llm: Any, how: str, questions: Sequence[str]) -> list[Outcome]:
        if how == "abatch":
            return list(await asyncio.gather(*(self.chat(llm).human(q).ask("ainvoke") for q in questions)))

        def one(question: str) -> Outcome:
            return asyncio.run(self.chat(llm).human(question).ask("invoke"))

        with ThreadPoolExecutor(len(questions)) as threads:
            # a thread of its own has no context, and so no collect_decisions(), unless it is given a copy
            waiting = [threads.submit(copy_context().run, one, question) for question in questions]
            return [each.result() for each in waiting]

    async def close(self) -> None:
        self._http.close()
        await self._ahttp.aclose()
