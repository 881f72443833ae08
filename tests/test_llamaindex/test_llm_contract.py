"""The public contract of LLMs: RouteLLM keeps it, and bare backends and broken ones show that it bites."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Union, get_origin

import httpx
import pytest
import pytest_socket
from llama_index.core.base.llms.types import LLMMetadata, ToolCallBlock
from llama_index.core.llms import LLM, ChatMessage, ChatResponse, CompletionResponse, MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from pydantic import PrivateAttr

from llamaindex_routellm import RouteLLM, _contract_tools, testing
from llamaindex_routellm.testing import WAYS, LLMContract, LoopbackLLMContract
from routellm_core.testing import LoopbackAnthropic, LoopbackOllama, ScriptedRouter

KEY = "sk-a-secret-of-the-contract"
USAGE = {"usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}
PREPARED = ("verbose", "allow_parallel_tool_calls", "tool_required")
STOP = threading.Event()
ARGUMENTS = "test_arguments_of_the_call_reach_the_backend"
ONE_EVENT = "test_a_call_is_one_llm_event"
TOKENS = "test_tokens_are_counted_once_and_as_the_backend_counted_them"
APPENDED = {
    f"test_what_it_is_given_is_left_as_it_was[{way}]": "upstream appends the question to the caller's chat_history"
    for way in (*testing.TOOL_CHATS, *testing.TOOL_CALLS)
}
DOUBLED_COMPLETIONS = {
    f"{test}[{way}]": "upstream completes by its own decorated chat, so that one call is two events"
    for test in (ONE_EVENT, TOKENS)
    for way in testing.COMPLETIONS
}


@pytest.fixture(autouse=True)
def open_sockets(socket_enabled: None) -> Iterator[None]:
    """The contract starts servers of its own."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"])
    yield
    pytest_socket._remove_restrictions()


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[httpx.Client, httpx.AsyncClient]]:
    """For clients of providers that take them; without connections kept, each event loop can use them."""
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(limits=limits, verify=False) as blocking:  # noqa: S501 - certificates take long to read
        yield blocking, httpx.AsyncClient(limits=limits, verify=False)  # noqa: S501


def routed(weak: Any, strong: Any) -> RouteLLM:
    return RouteLLM(weak=weak, strong=strong, router=ScriptedRouter(0.9), threshold=0.5)


# -- clients of providers
class OpenAILike(LoopbackLLMContract):
    supports_tools = supports_structured = supports_images = True
    secrets = (KEY,)
    can_be_copied = False  # http clients from outside hold locks
    closes_at_once = False  # the client's streams and their generators refer to each other

    @pytest.fixture(autouse=True)
    def _clients(self, clients: tuple[httpx.Client, httpx.AsyncClient]) -> None:
        self.blocking, self.asynchronous = clients

    @property
    def failure(self) -> Any:
        return pytest.importorskip("openai").BadRequestError

    def client(self, model: str) -> Any:
        return pytest.importorskip("llama_index.llms.openai_like").OpenAILike(
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


class TestOpenAILike(OpenAILike):
    model_name = "gpt-4.1"
    deviations: ClassVar = {
        "test_no_dump_holds_a_secret": "upstream's to_dict has the api_key in clear",
        **APPENDED,
    }

    def make(self) -> LLM:
        return self.client("gpt-4.1")


class TestRouteLLMOverOpenAILike(OpenAILike):
    is_router = True
    model_name = "routellm(gpt-4.1-mini|gpt-4.1)"

    def make(self) -> LLM:
        return routed(self.client("gpt-4.1-mini"), self.client("gpt-4.1"))


class Ollama(LoopbackLLMContract):
    protocol = LoopbackOllama
    supports_tools = supports_structured = supports_images = True
    can_be_copied = False
    call_kwargs: ClassVar = {"think": True}  # upstream drops any but think, format and tools
    deviations: ClassVar = DOUBLED_COMPLETIONS | {
        f"{ARGUMENTS}[{way}]": "upstream prepares tool calls without the arguments of the call"
        for way in testing.TOOL_CHATS
    }

    @property
    def failure(self) -> Any:
        return pytest.importorskip("ollama").ResponseError

    def client(self, model: str) -> Any:
        llm = pytest.importorskip("llama_index.llms.ollama").Ollama
        from ollama import AsyncClient, Client

        limits, url = httpx.Limits(max_keepalive_connections=0), self.server.url
        return llm(
            model=model,
            base_url=url,
            context_window=8000,
            client=Client(url, verify=False, limits=limits),
            async_client=AsyncClient(url, verify=False, limits=limits),
        )


class TestOllama(Ollama):
    deviations: ClassVar = {
        **Ollama.deviations,
        **APPENDED,
        **{f"{ARGUMENTS}[{way}]": "upstream writes into the caller's llm_kwargs" for way in testing.STRUCTURED},
    }

    def make(self) -> LLM:
        return self.client("llama3.1")


class TestRouteLLMOverOllama(Ollama):
    is_router = True

    def make(self) -> LLM:
        return routed(self.client("llama3.2"), self.client("llama3.1"))


def anthropic_works() -> bool:
    try:
        from anthropic.types import MessageParam
    except ImportError:
        return False
    return get_origin(MessageParam) is not Union


@pytest.mark.skipif(not anthropic_works(), reason="llama-index-llms-anthropic cannot work with so new an anthropic")
def test_anthropics_client_is_held_to_the_contract_too():
    assert TestAnthropic.__test__


@pytest.mark.filterwarnings("ignore:The 'output_format' parameter:DeprecationWarning")  # upstream's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nobody closes the client itself
class Anthropic(LoopbackLLMContract):
    protocol = LoopbackAnthropic
    supports_tools = supports_structured = supports_images = True
    secrets = (KEY,)
    can_be_copied = False
    closes_at_once = False
    deviations: ClassVar = {
        "test_the_pieces_of_a_stream_add_up_to_its_text": "each piece's text is one word behind its delta",
        **DOUBLED_COMPLETIONS,
        **{
            f"{test}[{way}]": "upstream reports no event where it asks the provider itself for structured output"
            for test in (ONE_EVENT, TOKENS)
            for way in testing.STRUCTURED
        },
    }

    @property
    def failure(self) -> Any:
        return pytest.importorskip("anthropic").BadRequestError

    def client(self, model: str) -> Any:
        llm = pytest.importorskip("llama_index.llms.anthropic").Anthropic
        return llm(model=model, base_url=self.server.url, api_key=KEY, max_retries=0)


class TestAnthropic(Anthropic):
    __test__ = anthropic_works()
    deviations: ClassVar = {**Anthropic.deviations, **APPENDED}

    def make(self) -> LLM:
        return self.client("claude-sonnet-5-5")


class TestRouteLLMOverAnthropic(Anthropic):
    __test__ = anthropic_works()
    is_router = True

    def make(self) -> LLM:
        return routed(self.client("claude-haiku-4-5"), self.client("claude-sonnet-5-5"))


# -- fakes
class TestMock(LLMContract):
    deviations: ClassVar = {
        "test_the_pieces_of_a_stream_add_up_to_its_text": "each piece's text is one word behind its delta",
        "test_the_twins_of_a_method_answer_alike[chat]": "the last word of a stream is in its delta alone",
        "test_the_twins_of_a_method_answer_alike[complete]": "the last word of a stream is in its delta alone",
        **{
            f"{test}[{way}]": "chat is made of complete and awaited methods of the others; all report the call"
            for test in (ONE_EVENT, TOKENS)
            for way in (*testing.CHATS, "acomplete", "astream_complete", "apredict", "astream")
        },
    }

    def make(self) -> LLM:
        return MockLLM(max_tokens=4)


@dataclass
class State:
    """Of the backend behind a strict fake."""

    hangs: bool = False
    open: int = 0
    error: Exception | None = None
    requests: list[Any] = field(default_factory=list)


class Strict(FunctionCallingLLM):
    """Keeps the contract in every point: the fake of which the broken ones below are made."""

    model: str = "strict"
    _state: State = PrivateAttr(default_factory=State)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True, model_name=self.model)

    def _message(self, asked: Any, kwargs: dict[str, Any]) -> ChatMessage:
        if self._state.error is not None:
            raise self._state.error
        self._state.requests.append({"asked": [str(each.blocks) for each in asked], **kwargs})
        if not kwargs.get("tools"):
            return ChatMessage(role="assistant", content="It is sunny today.")
        metadata = kwargs["tools"][0].metadata
        arguments = dict.fromkeys(metadata.get_parameters_dict()["properties"], "Rome")
        block = ToolCallBlock(tool_call_id="1", tool_name=metadata.name, tool_kwargs=arguments)
        # streaming structured output upstream looks only at the legacy key
        return ChatMessage(role="assistant", blocks=[block], additional_kwargs={"tool_calls": ["legacy"]})

    def _pieces(self, asked: Any, kwargs: dict[str, Any]) -> Iterator[ChatResponse]:
        message, said = self._message(asked, kwargs), ""
        for delta in ("It is", " sunny", " today.") if message.content else ():
            said += delta
            yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta=delta, raw=USAGE)
        if not message.content:
            yield ChatResponse(message=message, delta="", raw=USAGE)

    def _stream(self, asked: Any, kwargs: dict[str, Any]) -> Iterator[ChatResponse]:
        self._state.open += 1
        try:
            for piece in self._pieces(asked, kwargs):
                while True:
                    yield piece
                    if not self._state.hangs:
                        break
        finally:
            self._state.open -= 1

    async def _wait(self) -> None:
        self._state.open += 1
        try:
            if self._state.hangs:
                await asyncio.Event().wait()
        finally:
            self._state.open -= 1

    async def _astream(self, asked: Any, kwargs: dict[str, Any]) -> Any:
        self._state.open += 1
        try:
            for piece in self._pieces(asked, kwargs):
                yield piece
                if self._state.hangs:
                    await asyncio.Event().wait()
        finally:
            self._state.open -= 1

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        return ChatResponse(message=self._message(messages, kwargs), raw=USAGE)

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> Any:
        await self._wait()
        return ChatResponse(message=self._message(messages, kwargs), raw=USAGE)

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        return self._stream(messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        return self._astream(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return CompletionResponse(text=self._message(one(prompt), kwargs).content or "", raw=USAGE)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        await self._wait()
        return CompletionResponse(text=self._message(one(prompt), kwargs).content or "", raw=USAGE)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def read() -> Any:
            with contextlib.closing(self._stream(one(prompt), kwargs)) as pieces:  # type: ignore[type-var]
                for piece in pieces:
                    yield CompletionResponse(text=piece.message.content or "", delta=piece.delta, raw=USAGE)

        return read()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        async def read() -> Any:
            async with contextlib.aclosing(self._astream(one(prompt), kwargs)) as pieces:
                async for piece in pieces:
                    yield CompletionResponse(text=piece.message.content or "", delta=piece.delta, raw=USAGE)

        return read()

    def _prepare_chat_with_tools(
        self, tools: Any, user_msg: Any = None, chat_history: Any = None, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        asked = one(user_msg) if isinstance(user_msg, str) else [user_msg] if user_msg else []
        kwargs = {name: value for name, value in kwargs.items() if name not in PREPARED}
        return {"messages": [*(chat_history or []), *asked], "tools": tools, **kwargs}

    def get_tool_calls_from_response(
        self, response: Any, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        return [
            ToolSelection(tool_id=b.tool_call_id, tool_name=b.tool_name, tool_kwargs=b.tool_kwargs)
            for b in response.message.blocks
            if isinstance(b, ToolCallBlock)
        ]


def one(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=prompt)]


class StrictContract(LLMContract):
    supports_tools = supports_structured = True
    secrets = (KEY,)

    @pytest.fixture(autouse=True)
    def _backend(self) -> None:
        self.state = State()

    def fake(self, kind: type[Strict] = Strict) -> Strict:
        made = kind()
        made._state = self.state
        return made

    def make(self) -> LLM:
        return self.fake()

    def received(self) -> Any:
        return self.state.requests

    def open_requests(self) -> int:
        return self.state.open

    def fail(self) -> Exception:
        self.state.error = ConnectionError("the backend is down")
        return self.state.error

    def hang(self) -> None:
        self.state.hangs = True


class TestStrict(StrictContract):
    model_name = "strict"


class TestRouteLLMOverStrict(StrictContract):
    is_router = True
    model_name = "routellm(strict|strict)"

    def make(self) -> LLM:
        return routed(self.fake(), self.fake())


# -- what is broken is found
class Appends(Strict):
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        messages.append(ChatMessage(role="user", content="and be brief"))
        return super().chat(messages, **kwargs)


class Rewrites(Strict):
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        messages[0].additional_kwargs["seen"] = True
        return super().chat(messages, **kwargs)


class Writes(Strict):
    def structured_predict(self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **words: Any) -> Any:
        llm_kwargs["format"] = "json"
        return super().structured_predict(output_cls, prompt, {}, **words)


class Doubles(Strict):
    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        return super().chat(messages, **kwargs)


class Silent(Strict):
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return CompletionResponse(text="It is sunny today.")


class Forgetful(Strict):
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        return super().chat(messages[-1:])


class Wraps(Strict):
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        try:
            return super().chat(messages, **kwargs)
        except ConnectionError as error:
            raise RuntimeError("something went wrong") from error


class Stubborn(Strict):
    async def achat(self, messages: Any, **kwargs: Any) -> Any:
        try:
            return await super().achat(messages, **kwargs)
        except asyncio.CancelledError:
            return ChatResponse(message=ChatMessage(role="assistant", content="never mind"))


class Detached(Strict):
    async def achat(self, messages: Any, **kwargs: Any) -> Any:
        return await asyncio.shield(asyncio.ensure_future(super().achat(messages, **kwargs)))


class Blocking(Strict):
    async def achat(self, messages: Any, **kwargs: Any) -> Any:
        self._state.open += 1
        STOP.wait()


class Keeps(Strict):
    _kept: list[Any] = PrivateAttr(default_factory=list)

    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        self._kept.append(super().stream_chat(messages, **kwargs))
        yield from iter(self._kept[-1].__next__, None)

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        self._kept.append(await super().astream_chat(messages, **kwargs))

        async def read() -> Any:
            async for piece in self._kept[-1]:
                yield piece

        return read()


class Cumulative(Strict):
    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        for piece in super().stream_chat(messages, **kwargs):
            yield piece.model_copy(update={"delta": piece.message.content})


class Lags(Strict):
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return (await super().acomplete(prompt, **kwargs)).model_copy(update={"text": "It is sunny"})


class Leaks(Strict):
    api_key: str = KEY


class Unread(Strict):
    def get_tool_calls_from_response(self, *args: Any, **kwargs: Any) -> Any:
        return []


class Unnamed(Strict):
    model: str = "another"


class Unrecorded(RouteLLM):
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        return super().chat(messages, **kwargs).model_copy(update={"additional_kwargs": {}})


class Uncollected(RouteLLM):
    def chat(self, messages: Any, **kwargs: Any) -> Any:
        return self.models["strong"].chat(messages, **kwargs)


LEFT = "test_a_stream_that_is_left_early_leaves_the_backend"
CANCELLED = "test_a_call_that_is_cancelled_leaves_the_backend"
GIVEN, ADD_UP = "test_what_it_is_given_is_left_as_it_was", "test_the_pieces_of_a_stream_add_up_to_its_text"


@pytest.mark.parametrize(
    ("broken", "test", "case"),
    [
        (Appends, GIVEN, "chat"),
        (Rewrites, GIVEN, "chat"),
        (Writes, ARGUMENTS, "structured_predict"),
        (Doubles, ONE_EVENT, "chat"),
        (Doubles, TOKENS, "chat"),
        (Silent, ONE_EVENT, "complete"),
        (Silent, TOKENS, "complete"),
        (Forgetful, "test_every_message_reaches_the_backend", "chat"),
        (Forgetful, ARGUMENTS, "chat"),
        (Wraps, "test_an_error_of_the_backend_comes_out_as_it_is", "chat"),
        (Stubborn, CANCELLED, "achat"),
        (Detached, CANCELLED, "achat"),
        (Blocking, CANCELLED, "achat"),
        (Keeps, LEFT, "stream_chat"),
        (Keeps, LEFT, "astream_chat"),
        (Cumulative, ADD_UP, "stream_chat"),
        (Lags, "test_the_twins_of_a_method_answer_alike", testing.COMPLETIONS),
        (Leaks, "test_no_dump_holds_a_secret", None),
        (Unread, "test_a_tool_call_is_made_and_can_be_read", "chat_with_tools"),
        (Unnamed, "test_its_metadata_can_be_read", None),
        (Unrecorded, "test_a_router_records_each_call_once", "chat"),
        (Uncollected, "test_a_router_records_each_call_once", "chat"),
    ],
)
def test_the_contract_finds_what_is_broken(broken: Any, test: str, case: Any, monkeypatch: Any):
    class Contract(StrictContract):
        is_router = issubclass(broken, RouteLLM)
        model_name = "strict"

        def make(self) -> Any:
            if self.is_router:
                words = {"router": ScriptedRouter(0.9), "threshold": 0.5}
                return broken(weak=self.fake(), strong=self.fake(), **words)
            return self.fake(broken)

    contract = Contract()
    contract.state = State()
    monkeypatch.setattr(_contract_tools, "LIMIT_S", 0.2)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception, ValueError, RuntimeError, KeyError)):
            getattr(contract, test)(*([] if case is None else [case]))
    finally:
        STOP.set()
        STOP.clear()


def test_a_contract_without_a_maker_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="how to make their LLM"):
        LLMContract().make()


@pytest.mark.parametrize("hook", ["received", "open_requests", "fail", "hang"])
def test_a_hook_that_is_missing_skips_its_tests(hook: str):
    with pytest.raises(pytest.skip.Exception, match=rf"{hook}\(\) does not"):
        getattr(LLMContract(), hook)()


def test_a_deviation_that_names_no_test_is_found():
    class Contract(StrictContract):
        deviations: ClassVar = {"test_that_is_none[chat]": "no reason"}

    with pytest.raises(AssertionError):
        Contract().test_every_deviation_names_a_test()


def test_the_contract_knows_all_methods_that_answer():
    own = {name for name in vars(RouteLLM) if not name.startswith("_")}
    helpers = {"class_name", "metadata", "to_payload", "custom_model_dump", "model_copy", "utility", "rewriting"}
    others = {"as_structured_llm", "get_tool_calls_from_response", "model_config", "model_post_init"}
    assert {name for name in own if callable(getattr(RouteLLM, name))} - helpers - others == set(WAYS)
