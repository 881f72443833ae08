"""LangChain behind the common face."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import httpx
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_routellm import ChatRouteLLM
from routellm_core.testing import LoopbackServer
from tests.test_adapters.drivers import IMAGE, NOWHERE, PIXEL, Chat, Driver, Outcome

RECORD = "routellm"


@tool
def look(q: str) -> str:
    """Look something up."""
    return q


class Fake(BaseChatModel):
    label: str

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        calls = []
        if kwargs.get("tools") and not isinstance(messages[-1], ToolMessage):
            calls = [{"name": "look", "args": {"q": "x"}, "id": f"call_{len(messages)}", "type": "tool_call"}]
        message = AIMessage("" if calls else f"{self.label} answers", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])


def _noted(outcome: Outcome, message: Any) -> Any:
    record = message.response_metadata.get(RECORD)
    if record is not None:
        assert outcome.record is None, "two chunks are stamped"
        outcome.record = record
    if message.text:
        outcome.pieces.append(message.text)
    return message


class LangChainChat(Chat):
    def system(self, text: str) -> Chat:
        self.messages.append(SystemMessage(text))
        return self

    def human(self, *parts: Any) -> Chat:
        if len(parts) == 1 and isinstance(parts[0], str):
            self.messages.append(HumanMessage(parts[0]))
            return self
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
        self.messages.append(HumanMessage([image if p is IMAGE else {"type": "text", "text": p} for p in parts]))
        return self

    def answer(self, text: str) -> Chat:
        self.messages.append(AIMessage(text))
        return self

    def tool_results(self, text: str) -> Chat:
        self.messages += [ToolMessage(text, tool_call_id=call["id"]) for call in self.messages[-1].tool_calls]
        return self

    @contextlib.contextmanager
    def forced(self, route: str | None) -> Any:
        self._config: Any = {} if route is None else {"configurable": {"routellm_route": route}}
        yield

    async def _ask(self, how: str, tools: bool, outcome: Outcome, read: int | None) -> Any:
        llm, messages, config = self.llm.bind_tools([look]) if tools else self.llm, list(self.messages), self._config
        if how == "invoke":
            message = _noted(outcome, llm.invoke(messages, config))
        elif how == "ainvoke":
            message = _noted(outcome, await llm.ainvoke(messages, config))
        else:
            message = None
            if how == "stream":
                stream = llm.stream(messages, config)
                for chunk in stream:
                    message = _noted(outcome, chunk) if message is None else message + _noted(outcome, chunk)
                    if len(outcome.pieces) == read:
                        stream.close()
            else:
                stream = llm.astream(messages, config)
                async for chunk in stream:
                    message = _noted(outcome, chunk) if message is None else message + _noted(outcome, chunk)
                    if len(outcome.pieces) == read:
                        await stream.aclose()
        outcome.calls = len(message.tool_calls)
        return message


class LangChainDriver(Driver):
    name = "langchain"

    def __init__(self) -> None:
        # made once: each new one reads the certificates of the world
        self._http = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))  # noqa: S501
        self._ahttp = httpx.AsyncClient(verify=False, limits=httpx.Limits(max_keepalive_connections=0))  # noqa: S501

    def client(self, server: LoopbackServer | None, model: str, *, timeout_s: float | None = None) -> Any:
        return ChatOpenAI(
            model=model,
            base_url=NOWHERE if server is None else server.url,
            api_key="none",  # type: ignore[arg-type]
            max_retries=0,
            timeout=timeout_s,
            stream_usage=True,
            http_client=self._http,
            http_async_client=self._ahttp,
        )

    def fake(self, name: str, *, can_call: bool = True) -> Any:
        return Fake(label=name, profile=None if can_call else {"tool_calling": False})

    def routed(self, **options: Any) -> Any:
        return ChatRouteLLM(**options)

    def chat(self, llm: Any) -> Chat:
        return LangChainChat(llm)

    async def batch(self, llm: Any, how: str, questions: Sequence[str]) -> list[Outcome]:
        prompts = [[HumanMessage(question)] for question in questions]
        if how == "batch":
            results = llm.batch(prompts, return_exceptions=True)
        else:
            results = await llm.abatch(prompts, return_exceptions=True)
        outcomes = []
        for result in results:
            outcome = Outcome()
            if isinstance(result, Exception):
                outcome.error = result
            else:
                _noted(outcome, result)
            outcomes.append(outcome)
        return outcomes

    async def close(self) -> None:
        self._http.close()
        await self._ahttp.aclose()
