"""A strict fake backend, routers made of two of them, and clean instrumentation for every test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import LLMMetadata, MessageRole, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool
from pydantic import PrivateAttr

from llamaindex_routellm import RouteLLM, events
from llamaindex_routellm._scopes import query_stack
from routellm_core.testing import ScriptedRouter

PROPAGATES = events.dispatcher.propagate  # as shipped; a test looks at it
HARD = "Prove the theorem rigorously, step by step"
EASY = "What time is it in the old town of Bern?"
# long, and full of what the router looks for: scoring it instead of the question shows as the wrong route
CONTEXT = ("Prove " + "the archive was catalogued in the usual way. ") * 30

# upstream's own: building a workflow looks at every member of the agent, pydantic's deprecated ones too
UPSTREAM_WARNINGS = (
    "ignore:The `.*` (attribute|method) is deprecated:DeprecationWarning",
    "ignore:Accessing the 'model_.*' attribute on the instance is deprecated:DeprecationWarning",
    "ignore:.*is_running.*:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in UPSTREAM_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


def by_word(text: str) -> float:
    return 0.9 if "prove" in text.lower() else 0.1


class Fake(FunctionCallingLLM):
    """Behaves like the OpenAI integration: decorated, appends to histories, reports usage, can break.

    Its answers come from `script`, else from its tag; with tools it calls the first one.
    """

    tag: str = "x"
    window: int = 4000
    out: int = 256
    can_call: bool = True
    role: MessageRole = MessageRole.SYSTEM
    api_key: str = "sk-fake"
    fail: Any = None  # an exception before the first token, or "after" it
    fail_on_open: bool = False  # raise when a stream is opened, not when it is read
    script: list[Any] = []
    _calls: list[tuple[str, Any, dict[str, Any]]] = PrivateAttr(default_factory=list)
    _closed: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Fake"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.window,
            num_output=self.out,
            is_chat_model=True,
            is_function_calling_model=self.can_call,
            model_name=f"fake-{self.tag}",
            system_role=self.role,
        )

    @property
    def hits(self) -> int:
        return sum(kind != "get_tool_calls" for kind, *_ in self._calls)

    def _reply(self, kind: str, asked: Any, kwargs: dict[str, Any]) -> ChatMessage:
        if isinstance(self.fail, Exception):
            raise self.fail
        self._calls.append((kind, asked, kwargs))
        if self.script:
            item = self.script.pop(0)
            return item if isinstance(item, ChatMessage) else ChatMessage(role="assistant", content=item)
        if kwargs.get("tools"):
            tool = kwargs["tools"][0].metadata
            arguments = {
                name: True if field.get("type") == "boolean" else f"{name} by {self.tag}"
                for name, field in tool.get_parameters_dict()["properties"].items()
            }
            # streaming structured output upstream looks only at the legacy key
            return ChatMessage(
                role="assistant",
                additional_kwargs={"tool_calls": ["legacy"]},
                blocks=[ToolCallBlock(tool_call_id="1", tool_name=tool.name, tool_kwargs=arguments)],
            )
        return ChatMessage(role="assistant", content=f"{self.tag} answer here")

    def _usage(self) -> dict[str, Any]:
        return {"usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}

    def _chunks(self, kind: str, asked: Any, kwargs: dict[str, Any]) -> Any:
        message = self._reply(kind, asked, kwargs)
        if message.content is None:
            yield message, ""
            return
        text = ""
        for i, word in enumerate(message.content.split(" ")):
            if i == 1 and self.fail == "after":
                raise ConnectionError(f"{self.tag} lost mid-stream")
            delta = word if i == 0 else f" {word}"
            text += delta
            yield ChatMessage(role="assistant", content=text), delta

    def _break_on_open(self) -> None:
        if self.fail_on_open and isinstance(self.fail, Exception):
            raise self.fail

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=self._reply("chat", list(messages), kwargs), raw=self._usage())

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=self._reply("achat", list(messages), kwargs), raw=self._usage())

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        self._break_on_open()

        def read() -> Any:
            try:
                for message, delta in self._chunks("stream_chat", list(messages), kwargs):
                    yield ChatResponse(message=message, delta=delta, raw=self._usage())
            finally:
                self._closed.append("stream_chat")

        return read()

    @llm_chat_callback()
    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        self._break_on_open()

        async def read() -> Any:
            try:
                for message, delta in self._chunks("astream_chat", list(messages), kwargs):
                    yield ChatResponse(message=message, delta=delta, raw=self._usage())
            finally:
                self._closed.append("astream_chat")

        return read()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._reply("complete", prompt, kwargs).content or "", raw=self._usage())

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._reply("acomplete", prompt, kwargs).content or "", raw=self._usage())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def read() -> Any:
            try:
                for message, delta in self._chunks("stream_complete", prompt, kwargs):
                    yield CompletionResponse(text=message.content or "", delta=delta, raw=self._usage())
            finally:
                self._closed.append("stream_complete")

        return read()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        async def read() -> Any:
            try:
                for message, delta in self._chunks("astream_complete", prompt, kwargs):
                    yield CompletionResponse(text=message.content or "", delta=delta, raw=self._usage())
            finally:
                self._closed.append("astream_complete")

        return read()

    def _prepare_chat_with_tools(
        self,
        tools: Any,
        user_msg: Any = None,
        chat_history: Any = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role="user", content=user_msg)
        messages = chat_history if chat_history is not None else []
        if user_msg:
            messages.append(user_msg)  # as the OpenAI and Ollama integrations do
        return {"messages": messages, "tools": tools}

    def get_tool_calls_from_response(self, response: Any, error_on_no_tool_call: bool = True) -> list[ToolSelection]:
        self._calls.append(("get_tool_calls", None, {}))
        found = [
            ToolSelection(tool_id=b.tool_call_id or b.tool_name, tool_name=b.tool_name, tool_kwargs=b.tool_kwargs)
            for b in response.message.blocks
            if isinstance(b, ToolCallBlock)
        ]
        if not found and error_on_no_tool_call:
            raise ValueError("no tool call")
        return found


class Catch(BaseEventHandler):
    """Keeps every event."""

    _seen: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Catch"

    @property
    def seen(self) -> list[Any]:
        return self._seen

    def handle(self, event: Any, **kwargs: Any) -> None:
        self._seen.append(event)


def pair(score: Any = by_word, **words: Any) -> SimpleNamespace:
    """A router over two fakes: `.llm`, `.strong`, `.weak` and its `.router`."""
    router = score if isinstance(score, ScriptedRouter) else ScriptedRouter(score)
    strong, weak = words.pop("strong", None) or Fake(tag="strong"), words.pop("weak", None) or Fake(tag="weak")
    if "policy" not in words:
        words = {"router": router, "threshold": 0.5, **words}
    return SimpleNamespace(llm=RouteLLM(strong=strong, weak=weak, **words), strong=strong, weak=weak, router=router)


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def call(name: str, arguments: dict[str, Any], id: str | None = "c1") -> ChatMessage:
    return ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id=id, tool_name=name, tool_kwargs=arguments)])


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def look(q: str) -> str:
    """Look something up."""
    return "they prove things here"  # a tool's result holds what the router looks for, the task does not


def llm_events(handler: LlamaDebugHandler) -> int:
    return len(handler.get_event_pairs(CBEventType.LLM))


def debug() -> tuple[LlamaDebugHandler, CallbackManager]:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    return handler, CallbackManager([handler])


@pytest.fixture
def kit() -> SimpleNamespace:
    """Everything above, because test modules cannot import a conftest."""
    return SimpleNamespace(
        HARD=HARD,
        EASY=EASY,
        CONTEXT=CONTEXT,
        Fake=Fake,
        Catch=Catch,
        pair=pair,
        user=user,
        assistant=assistant,
        call=call,
        by_word=by_word,
        llm_events=llm_events,
        debug=debug,
        ScriptedRouter=ScriptedRouter,
        ADD=FunctionTool.from_defaults(fn=add, name="adder"),
        LOOK=FunctionTool.from_defaults(fn=look, name="look"),
    )


@pytest.fixture(autouse=True)
def clean_instrumentation() -> Any:
    """Handlers are global: put them back, and check that no query leaks out of a test."""
    root = get_dispatcher()
    before = list(root.event_handlers), list(root.span_handlers)
    yield
    root.event_handlers, root.span_handlers = before
    events.dispatcher.event_handlers, events.dispatcher.propagate = [], PROPAGATES
    assert query_stack.get() == ()


@pytest.fixture
async def client(loopback: Any) -> Any:
    """Makes real OpenAI-protocol clients of the loopback endpoint, and closes their connections."""
    like = pytest.importorskip("llama_index.llms.openai_like").OpenAILike
    httpx = pytest.importorskip("httpx")
    blocking, asynchronous = httpx.Client(), httpx.AsyncClient()

    def make(model: str, **settings: Any) -> Any:
        return like(
            **{
                "model": model,
                "api_base": loopback.url,
                "api_key": "sk-secret",
                "is_chat_model": True,
                "max_retries": 0,
                "is_function_calling_model": True,
                "context_window": 8000,
                "http_client": blocking,
                "async_http_client": asynchronous,
                **settings,
            }
        )

    yield make
    blocking.close()
    await asynchronous.aclose()
