"""What an LLM owes whoever holds it, as a test class: subclass it and say how to `make` yours.

LlamaIndex has no such tests of its own. Those here hold for any `LLM`, routed or not; needs pytest. In your
conftest.py, `pytest.register_assert_rewrite("llamaindex_routellm.testing")` makes the failures readable.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import gc
import json
import pickle  # noqa: TID251 - of what the test itself made
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.llms import LLM, ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_routellm._calling import RECORD_KEY
from llamaindex_routellm._contract_tools import (
    ain_time,
    aread,
    asked_of,
    heard,
    holds_value,
    in_time,
    run_watched,
    shown,
    text_of,
)
from llamaindex_routellm._open_calls import usage_of
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, LoopbackServer, Reply, ToolCall

__all__ = ["ENDPOINTS", "WAYS", "City", "LLMContract", "LoopbackLLMContract"]

CHATS = ("chat", "achat", "stream_chat", "astream_chat")
COMPLETIONS = ("complete", "acomplete", "stream_complete", "astream_complete")
ENDPOINTS = CHATS + COMPLETIONS
"""The eight methods that every LLM has for itself."""
PREDICTIONS = ("predict", "apredict", "stream", "astream")
TOOL_CHATS = ("chat_with_tools", "achat_with_tools", "stream_chat_with_tools", "astream_chat_with_tools")
TOOL_CALLS = ("predict_and_call", "apredict_and_call")
STRUCTURED = ("structured_predict", "astructured_predict", "stream_structured_predict", "astream_structured_predict")
WAYS = ENDPOINTS + PREDICTIONS + TOOL_CHATS + TOOL_CALLS + STRUCTURED
"""All methods that answer."""

_STREAMS = tuple(way for way in (*ENDPOINTS, *PREDICTIONS, *TOOL_CHATS) if "stream" in way)
_AWAITED = tuple(way for way in (*ENDPOINTS, *PREDICTIONS, *TOOL_CHATS) if way.startswith("a"))
_QUESTION = "What is the weather like in Rome?"
_CONTEXT = "You are a meteorologist in Ostia."
_EARLIER = "And which season is it there?"
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class City(BaseModel):
    """A city; what structured output is asked for."""

    name: str


def _weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class LLMContract:
    """Subclass it in a test module, implement `make`, and as many of the hooks below it as you can.

    The backend behind the LLM is yours: a server on the loopback (see `LoopbackLLMContract`), a fake. It answers
    plain questions with a text of several words; where tools are offered it calls the first with any arguments that
    fit; where a JSON schema is asked for it gives an object of it. A test whose hook is missing is skipped.

    Attributes:
        supports_tools: It is a `FunctionCallingLLM` that calls tools.
        supports_structured: `structured_predict` and its twins work with the backend of the tests.
        supports_images: Messages may hold pictures.
        can_be_copied: It can be copied deeply and pickled.
        closes_at_once: Closing its streams leaves the backend; False: only once garbage is collected, as with a
            client whose streams refer to themselves.
        is_router: Each answer has a record, and `collect_decisions` hears of it.
        model_name: What its metadata says; None: anything.
        call_kwargs: Arguments of a single call; they must be somewhere in what the backend received.
        secrets: Keys and passwords it was made with; no dump may hold them.
        deviations: What it does otherwise and why, by the name of a test or of a test with its case, such as
            "test_a_call_is_one_llm_event[chat]". These must fail.
    """

    supports_tools: ClassVar[bool] = False
    supports_structured: ClassVar[bool] = False
    supports_images: ClassVar[bool] = False
    can_be_copied: ClassVar[bool] = True
    closes_at_once: ClassVar[bool] = True
    is_router: ClassVar[bool] = False
    model_name: ClassVar[str | None] = None
    call_kwargs: ClassVar[Mapping[str, Any]] = {"temperature": 0.25}
    secrets: ClassVar[Sequence[str]] = ()
    deviations: ClassVar[Mapping[str, str]] = {}

    # -- what a subclass says
    def make(self) -> LLM:
        """A new LLM over the backend of this test."""
        raise NotImplementedError("subclasses of LLMContract say how to make their LLM")

    def received(self) -> Sequence[Any]:
        """What the backend was asked so far, as JSON has it; oldest first."""
        pytest.skip("received() does not say what the backend was asked")

    def open_requests(self) -> int:
        """How many requests the backend still works on, with somebody there to read the answer."""
        pytest.skip("open_requests() does not say what the backend works on")

    def fail(self) -> BaseException | type[BaseException]:
        """Let the backend fail from now on; the error that callers get, or its type."""
        pytest.skip("fail() does not break the backend")

    def hang(self) -> None:
        """Let the backend begin each stream from now on and never end it, and answer nothing else at all."""
        pytest.skip("hang() does not hold up the backend")

    @pytest.fixture(autouse=True)
    def _unfreeze(self) -> Iterator[None]:
        yield
        gc.unfreeze()

    @pytest.fixture(autouse=True)
    def _know_deviations(self, request: pytest.FixtureRequest) -> None:
        name = request.node.name
        reason = self.deviations.get(name) or self.deviations.get(name.partition("[")[0])
        if reason:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    # -- what it says of itself
    def test_every_deviation_names_a_test(self) -> None:
        assert [name for name in self.deviations if not hasattr(self, name.partition("[")[0])] == []

    def test_its_metadata_can_be_read(self) -> None:
        metadata = self.make().metadata
        assert isinstance(metadata, LLMMetadata)
        assert metadata.context_window > 0
        assert metadata.is_function_calling_model == self.supports_tools
        assert self.model_name in (None, metadata.model_name)
        assert metadata == self.make().metadata

    def test_no_dump_holds_a_secret(self) -> None:
        llm = self.make()
        dumps = [repr(llm), str(llm), llm.to_json(), json.dumps(llm.to_dict(), default=str)]
        # since llama-index-core 0.14.23 events have a payload of their own instead of a dump
        dumps += [json.dumps(llm.to_payload(), default=str)] if hasattr(llm, "to_payload") else []
        assert [secret for secret in self.secrets if any(secret in dump for dump in dumps)] == []

    def test_a_copy_answers_alike(self) -> None:
        if not self.can_be_copied:
            pytest.skip("it cannot be copied")
        text = text_of(self.answers(self.make(), "chat"))
        assert text_of(self.answers(copy.deepcopy(self.make()), "chat")) == text
        assert text_of(self.answers(pickle.loads(pickle.dumps(self.make())), "chat")) == text  # noqa: S301

    # -- answers
    @pytest.mark.parametrize("endpoint", ENDPOINTS)
    def test_an_endpoint_answers_with_its_kind_of_response(self, endpoint: str) -> None:
        pieces = self.answers(self.make(), endpoint)
        kind = ChatResponse if endpoint in CHATS else CompletionResponse
        assert [type(piece) for piece in pieces if not isinstance(piece, kind)] == []
        assert text_of(pieces).strip()
        if endpoint in CHATS:
            assert pieces[-1].message.role == "assistant"

    @pytest.mark.parametrize("names", [CHATS, COMPLETIONS, PREDICTIONS, STRUCTURED], ids=lambda names: names[0])
    def test_the_twins_of_a_method_answer_alike(self, names: tuple[str, ...]) -> None:
        if not self.supports(names[0]):
            pytest.skip(f"{names[0]} is not supported")
        answers = {name: text_of(self.answers(self.make(), name)).strip() for name in names}
        assert len(set(answers.values())) == 1, answers

    @pytest.mark.parametrize("endpoint", [name for name in ENDPOINTS if "stream" in name])
    def test_the_pieces_of_a_stream_add_up_to_its_text(self, endpoint: str) -> None:
        pieces = self.answers(self.make(), endpoint)
        said = ""
        for piece in pieces:
            said += piece.delta or ""
            assert text_of([piece]) == said  # each piece has what was said so far
        assert len(pieces) > 1

    @pytest.mark.parametrize("way", (*TOOL_CHATS, *TOOL_CALLS))
    def test_a_tool_call_is_made_and_can_be_read(self, way: str) -> None:
        llm, pieces = self._asked(way)
        if way in TOOL_CALLS:
            assert str(pieces[0]).startswith("sunny in ")
            return
        [selected] = llm.get_tool_calls_from_response(pieces[-1])  # type: ignore[attr-defined] # of a FunctionCallingLLM
        assert (selected.tool_name, set(selected.tool_kwargs)) == ("weather", {"city"})
        assert selected.tool_id

    @pytest.mark.parametrize("way", STRUCTURED)
    def test_structured_output_is_an_object_of_its_class(self, way: str) -> None:
        last = self._asked(way)[1][-1]
        assert isinstance(last, City)
        assert last.name

    def test_a_structured_llm_answers_with_the_object(self) -> None:
        if not self.supports_structured:
            pytest.skip("structured output is not supported")
        answer = self.make().as_structured_llm(City).chat([ChatMessage(role="user", content=_QUESTION)])
        assert isinstance(answer.raw, City)

    # -- what the backend gets, and what it leaves alone
    @pytest.mark.parametrize("way", WAYS)
    def test_what_it_is_given_is_left_as_it_was(self, way: str) -> None:
        self._needs(way)
        positional, named = self.arguments(way)
        before = shown((positional, named))
        self._read(getattr(self.make(), way)(*positional, **named), way)
        assert shown((positional, named)) == before

    @pytest.mark.parametrize("way", (*CHATS, *TOOL_CHATS))
    def test_every_message_reaches_the_backend(self, way: str) -> None:
        self._asked(way)
        sent = json.dumps(list(self.received()), default=str)
        assert [text for text in (_CONTEXT, _EARLIER, "It is summer.", _QUESTION) if text not in sent] == []

    @pytest.mark.parametrize("way", (*ENDPOINTS, *TOOL_CHATS, *STRUCTURED))
    def test_arguments_of_the_call_reach_the_backend(self, way: str) -> None:
        self._needs(way)
        given = dict(self.call_kwargs)
        self.answers(self.make(), way, **({"llm_kwargs": given} if way in STRUCTURED else given))
        request = self.received()[-1]
        assert {name: value for name, value in self.call_kwargs.items() if not holds_value(request, name, value)} == {}
        assert given == self.call_kwargs

    @pytest.mark.parametrize("chat", CHATS)
    def test_a_picture_reaches_the_backend(self, chat: str) -> None:
        if not self.supports_images:
            pytest.skip("pictures are not supported")
        blocks = [ImageBlock(image=_PNG, image_mimetype="image/png"), TextBlock(text=_QUESTION)]
        self._read(getattr(self.make(), chat)([ChatMessage(role="user", blocks=blocks)]), chat)
        sent = json.dumps(list(self.received()), default=str)
        assert base64.b64encode(_PNG).decode() in sent
        assert _QUESTION in sent

    # -- who hears of it
    @pytest.mark.parametrize("way", WAYS)
    def test_a_call_is_one_llm_event(self, way: str) -> None:
        self._needs(way)
        llm, handler = self.make(), LlamaDebugHandler(print_trace_on_end=False)
        llm.callback_manager = CallbackManager([handler])
        with heard() as events:
            pieces = self.answers(llm, way)
        assert [len(pair) for pair in handler.get_event_pairs(CBEventType.LLM)] == [2]  # a start and an end
        starts = [e for e in events if isinstance(e, (LLMChatStartEvent, LLMCompletionStartEvent))]
        ends = [e for e in events if isinstance(e, (LLMChatEndEvent, LLMCompletionEndEvent))]
        assert (len(starts), len(ends)) == (1, 1)
        assert asked_of(starts[0]) == asked_of(ends[0])
        if way in CHATS:
            assert asked_of(starts[0]) == shown(self.arguments(way)[0][0])
        else:
            assert _QUESTION in str(asked_of(starts[0]))
        if way in ENDPOINTS:
            assert text_of([ends[0].response]) == text_of(pieces)
        dump = json.dumps(starts[0].model_dict, default=str)
        assert [secret for secret in self.secrets if secret in dump] == []

    @pytest.mark.parametrize("way", WAYS)
    def test_tokens_are_counted_once_and_as_the_backend_counted_them(self, way: str) -> None:
        self._needs(way)
        llm, counter = self.make(), TokenCountingHandler()
        llm.callback_manager = CallbackManager([counter])
        with heard() as events:
            self.answers(llm, way)
        assert len(counter.llm_token_counts) == 1
        [counted] = counter.llm_token_counts
        assert min(counted.prompt_token_count, counted.completion_token_count) > 0
        [response] = [e.response for e in events if isinstance(e, (LLMChatEndEvent, LLMCompletionEndEvent))]
        usage = usage_of(response)
        if usage is not None and usage.output_tokens:
            assert counted.prompt_token_count == usage.input_tokens
            assert counted.completion_token_count == usage.output_tokens

    @pytest.mark.parametrize("way", WAYS)
    def test_a_router_records_each_call_once(self, way: str) -> None:
        if not self.is_router:
            pytest.skip("it is no router")
        self._needs(way)
        with collect_decisions() as decisions, heard() as events:
            pieces = self.answers(self.make(), way)
        [decision] = decisions
        record = decision.to_dict()
        assert {"route", "reason"} <= set(record)
        assert not {_QUESTION, text_of(pieces)} & set(map(str, record.values()))
        assert json.loads(json.dumps(record)) == record
        for piece in pieces:
            if isinstance(piece, (ChatResponse, CompletionResponse)):
                assert piece.additional_kwargs[RECORD_KEY] == record
            if isinstance(piece, ChatResponse):  # what is on a message goes over the wire
                assert RECORD_KEY not in piece.message.additional_kwargs
        ends = [e for e in events if isinstance(e, (LLMChatEndEvent, LLMCompletionEndEvent))]
        assert decisions.usage_of(decision) == usage_of(ends[-1].response if ends else None)

    # -- when it does not end well
    @pytest.mark.parametrize("way", WAYS)
    def test_an_error_of_the_backend_comes_out_as_it_is(self, way: str) -> None:
        self._needs(way)
        llm, error = self.make(), self.fail()
        kind = error if isinstance(error, type) else type(error)
        with pytest.raises(kind) as caught:
            self.answers(llm, way)
        assert caught.value is error if isinstance(error, BaseException) else type(caught.value) is kind

    @pytest.mark.parametrize("way", _STREAMS)
    def test_a_stream_that_is_left_early_leaves_the_backend(self, way: str) -> None:
        self._needs(way)
        self.hang()
        gc.freeze()  # what was there before need not be searched when garbage is collected
        positional, named = self.arguments(way)
        if not way.startswith("a"):
            stream = getattr(self.make(), way)(*positional, **named)
            next(stream)
            assert self.open_requests() == 1
            stream.close()
            assert in_time(self._is_left), "close() left the backend's stream open"
            return

        async def leave() -> None:
            stream = await getattr(self.make(), way)(*positional, **named)
            await stream.__anext__()
            assert self.open_requests() == 1
            await stream.aclose()
            assert await ain_time(self._is_left), "aclose() left the backend's stream open"

        run_watched(leave)

    @pytest.mark.parametrize("way", _AWAITED)
    def test_a_call_that_is_cancelled_leaves_the_backend(self, way: str) -> None:
        self._needs(way)
        self.hang()
        gc.freeze()

        async def cancel() -> None:
            others = asyncio.all_tasks()
            positional, named = self.arguments(way)
            reading = asyncio.Event()
            call = asyncio.create_task(aread(getattr(self.make(), way)(*positional, **named), reading.set))
            assert await ain_time(lambda: self.open_requests() == 1 and (reading.is_set() or "stream" not in way))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await ain_time(self._is_left), "the cancelled call is still at work"
            assert await ain_time(lambda: asyncio.all_tasks() == others), "the cancelled call left tasks behind"

        run_watched(cancel)

    # -- asking
    def supports(self, way: str) -> bool:
        """Whether this LLM has a method: one of `WAYS`."""
        if way in (*TOOL_CHATS, *TOOL_CALLS):
            return self.supports_tools
        return self.supports_structured if way in STRUCTURED else True

    def arguments(self, way: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments for a method that ask the same of all; new objects each time."""
        history = [
            ChatMessage(role="system", content=_CONTEXT),
            ChatMessage(role="user", content=_EARLIER),
            ChatMessage(role="assistant", content="It is summer."),
        ]
        if way in CHATS:
            return ([*history, ChatMessage(role="user", content=_QUESTION)],), {}
        if way in COMPLETIONS:
            return (_QUESTION,), {}
        prompt = PromptTemplate("{context_str}\n{query_str}")
        words = {"context_str": _CONTEXT, "query_str": _QUESTION}
        if way in PREDICTIONS:
            return (prompt,), words
        if way in STRUCTURED:
            return (City, prompt), words
        tool = FunctionTool.from_defaults(fn=_weather, name="weather")
        return ([tool],), {"user_msg": _QUESTION, "chat_history": history}

    def answers(self, llm: LLM, way: str, **more: Any) -> list[Any]:
        """All pieces of one answer; a list of one where the method does not stream."""
        positional, named = self.arguments(way)
        return self._read(getattr(llm, way)(*positional, **named, **more), way)

    def _is_left(self) -> bool:
        if self.open_requests() and not self.closes_at_once:
            gc.collect()
        return self.open_requests() == 0

    def _needs(self, way: str) -> None:
        if not self.supports(way):
            pytest.skip(f"{way} is not supported")

    def _asked(self, way: str) -> tuple[LLM, list[Any]]:
        self._needs(way)
        llm = self.make()
        return llm, self.answers(llm, way)

    def _read(self, out: Any, way: str) -> list[Any]:
        if way.startswith("a"):
            return asyncio.run(aread(out))
        return list(out) if "stream" in way else [out]


class LoopbackLLMContract(LLMContract):
    """`LLMContract` for clients of a protocol that `routellm_core.testing` speaks: only `make` is left to write.

    Attributes:
        protocol: The endpoint's class.
        server: It runs during each test; `make` points the client at `server.url`. Give the client no retries, and
            let it keep no idle connections.
        failure: The client's error for status 400.

    Example:
        >>> class TestMyLLM(LoopbackLLMContract):
        ...     failure = openai.BadRequestError
        ...     def make(self):
        ...         return MyLLM(base_url=self.server.url, api_key="none", max_retries=0)
    """

    protocol: ClassVar[type[LoopbackServer]] = LoopbackOpenAI
    failure: ClassVar[type[BaseException] | None] = None
    server: LoopbackServer

    @pytest.fixture(autouse=True)
    def _serve(self) -> Iterator[None]:
        with self.protocol(_reply) as self.server:
            yield

    def received(self) -> Sequence[Any]:
        return self.server.requests

    def open_requests(self) -> int:
        # a connection is there before its request, and a client that is cancelled between the two may not close it
        return self.server.open_connections() if self.server.requests else 0

    def fail(self) -> BaseException | type[BaseException]:
        if self.failure is None:
            pytest.skip("failure does not say which error the client makes of status 400")
        self.server.reply = lambda body: Reply(status=400)
        return self.failure

    def hang(self) -> None:
        # in each protocol the fifth chunk holds words, and more would come
        self.server.reply = lambda body: Reply(
            text="one two three four five six", hang=True, cut_after=5 if body.get("stream") else None
        )


def _reply(body: dict[str, Any]) -> Reply:
    if body.get("tools"):
        tool = body["tools"][0]
        tool = tool.get("function", tool)
        schema = tool.get("parameters") or tool["input_schema"]
        return Reply(tool_calls=(ToolCall(name=tool["name"], arguments=dict.fromkeys(schema["properties"], "Rome")),))
    if any(body.get(name) for name in ("format", "response_format", "output_format", "output_config")):
        return Reply(text='{"name": "Rome"}')
    return Reply(text="It is sunny today.")
