"""The pieces of a stream that say nothing yet: held back while another route may answer, and never lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall
from tests.test_adapters.drivers import STREAMS, Driver, Outcome

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

RECORD = "routellm"


def over(driver: Driver, server: LoopbackOpenAI, **options: Any) -> Any:
    clients = {"weak": driver.client(server, "little"), "strong": driver.client(server, "big")}
    return driver.routed(**clients, router=ScriptedRouter(0.1), threshold=0.5, **options)


def breaks_after(events: int) -> Any:
    """A reply function: the weak model's connection breaks after so many events, of which the first is the opening."""

    def reply(body: dict[str, Any]) -> Reply:
        if body["model"] == "little":
            return Reply(text="one two", cut_after=events, cut_inside=True)
        return Reply(text="three four")

    return reply


async def pieces(driver: Driver, llm: Any, how: str) -> list[tuple[str, bool]]:
    """Text of every piece as the caller gets it, and whether there is a record on it."""
    messages = driver.chat(llm).human("hello").messages
    if driver.name == "langchain":
        stream = llm.stream(messages) if how == "stream" else llm.astream(messages)
    else:
        stream = llm.stream_chat(messages) if how == "stream" else await llm.astream_chat(messages)
    each = list(stream) if how == "stream" else [piece async for piece in stream]
    if driver.name == "langchain":
        return [(str(piece.text), RECORD in piece.response_metadata) for piece in each]
    return [(piece.delta or "", RECORD in piece.additional_kwargs) for piece in each]


@pytest.mark.parametrize("how", STREAMS)
async def test_every_piece_arrives_in_its_order_whether_it_was_held_back_or_not(
    how: str, driver: Driver, loopback: LoopbackOpenAI
):
    loopback.reply = lambda body: Reply(text="one two")
    plain = await pieces(driver, over(driver, loopback), how)
    held = await pieces(driver, over(driver, loopback, fallback="any"), how)
    assert held == plain
    assert held[0] == ("", True)  # the opening piece, with the record
    assert [text for text, _ in held if text] == ["one", " two"]


@pytest.mark.parametrize("how", STREAMS)
async def test_an_answer_of_nothing_is_one(how: str, driver: Driver, loopback: LoopbackOpenAI):
    loopback.reply = lambda body: Reply(text="")
    with collect_decisions() as decisions:
        got = await pieces(driver, over(driver, loopback, fallback="any"), how)
    assert {text for text, _ in got} == {""}
    assert got[0] == ("", True)
    assert [decision.route for decision in decisions] == ["weak"]


@pytest.mark.parametrize("how", STREAMS)
async def test_a_tool_call_is_something_said(how: str, driver: Driver, loopback: LoopbackOpenAI):
    # two events: who speaks, and the call
    call = ToolCall(name="look", arguments={"q": "x"})
    loopback.reply = lambda body: Reply(tool_calls=(call,), cut_after=2, cut_inside=True)
    outcome = await driver.chat(over(driver, loopback, fallback="any")).human("hello").ask(how, tools=True)
    assert outcome.error is not None
    assert (outcome.record or {})["route"] == "weak"
    assert [body["model"] for body in loopback.requests] == ["little"]


async def test_what_is_held_back_is_nobodys_answer_when_the_caller_leaves(driver: Driver, loopback: LoopbackOpenAI):
    loopback.reply = lambda body: Reply(text="one two", cut_after=1, hang=True)
    outcome = Outcome()
    with collect_decisions() as decisions:
        chat = driver.chat(over(driver, loopback, fallback="any")).human("hello")
        call = asyncio.create_task(chat.ask("astream", into=outcome))
        await asyncio.to_thread(loopback.wait_for, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    loopback.release()
    assert (outcome.pieces, outcome.record, decisions) == ([], None, [])
    assert [body["model"] for body in loopback.requests] == ["little"]


# -- what says something
def test_pieces_that_say_nothing_are_known_in_langchain():
    messages = pytest.importorskip("langchain_core.messages")
    from langchain_routellm._first_token import says_nothing

    def chunk(content: Any = "", **fields: Any) -> Any:
        return messages.AIMessageChunk(content, **fields)

    call = {"name": "look", "args": "", "id": "1", "index": 0, "type": "tool_call_chunk"}
    usage = {"input_tokens": 3, "output_tokens": 0, "total_tokens": 3}
    opening = {"type": "text", "text": "", "index": 0}
    silent = ["", chunk(), chunk([]), chunk([opening]), chunk([""]), chunk(response_metadata={"model_name": "m"})]
    silent += [chunk(usage_metadata=usage), chunk(additional_kwargs={"refusal": None})]
    assert [piece for piece in silent if not says_nothing(piece)] == []
    spoken = ["a", chunk("a"), chunk([{**opening, "text": "a"}]), chunk(["a"]), chunk(tool_call_chunks=[call])]
    spoken += [chunk([{"type": "thinking", "thinking": ""}]), chunk(additional_kwargs={"reasoning_content": "hm"})]
    spoken += [messages.AIMessage(""), {}, None, 0]  # whatever a chain may stream
    assert [piece for piece in spoken if says_nothing(piece)] == []


def test_pieces_that_say_nothing_are_known_in_llama_index():
    types = pytest.importorskip("llama_index.core.base.llms.types")
    from llamaindex_routellm._attempts import says_nothing

    def chat(*blocks: Any, extra: Any = None, **fields: Any) -> Any:
        message = types.ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=extra or {})
        return types.ChatResponse(message=message, **fields)

    silent = [
        "",
        chat(),
        chat(types.TextBlock(text=""), delta=""),
        chat(extra={"thinking_delta": "", "usage": {"in": 3}}),
    ]
    silent += [types.CompletionResponse(text="", delta=""), chat(raw={"usage": {"prompt_tokens": 3}})]
    assert [piece for piece in silent if not says_nothing(piece)] == []
    spoken = ["a", chat(delta="a"), chat(types.TextBlock(text="a")), chat(types.ThinkingBlock(content="hm"))]
    spoken += [chat(types.ToolCallBlock(tool_name="look", tool_kwargs={}))]
    # where some integrations leave calls and thinking
    spoken += [chat(extra={"tool_calls": [{}]}), chat(extra={"function_call": {}, "thinking_delta": "hm"})]
    spoken += [chat(additional_kwargs={"thinking_delta": "hm"}), types.CompletionResponse(text="a"), {}, None]
    assert [piece for piece in spoken if says_nothing(piece)] == []


@pytest.mark.parametrize("driver", ["llamaindex"], indirect=True)
@pytest.mark.parametrize("how", ["stream_complete", "astream_complete", "stream", "astream"])
async def test_llama_indexs_other_streams_follow_the_same_rule(how: str, driver: Driver, loopback: LoopbackOpenAI):
    from llama_index.core.prompts import PromptTemplate

    llm = over(driver, loopback, fallback="any")
    argument = "hello" if "complete" in how else PromptTemplate("hello")
    for events, wanted in ((1, "three four"), (3, "one two")):
        loopback.reply = breaks_after(events)
        got: list[Any] = []
        try:
            if how.startswith("a"):
                async for piece in await getattr(llm, how)(argument):
                    got.append(piece)
            else:
                got.extend(getattr(llm, how)(argument))
        except (httpx.TransportError, openai.APIConnectionError):
            assert events == 3
        assert "".join(piece if isinstance(piece, str) else piece.delta for piece in got) == wanted


# -- LangChain's other streams
LANGCHAIN = pytest.mark.parametrize("driver", ["langchain"], indirect=True)


@LANGCHAIN
@pytest.mark.filterwarnings("ignore:.*beta")
@pytest.mark.parametrize("events", [1, 3])
@pytest.mark.parametrize("fallback", ["none", "any"])
async def test_event_streams_follow_the_same_rule(fallback: str, events: int, driver: Driver, loopback: LoopbackOpenAI):
    loopback.reply = breaks_after(events)
    llm = over(driver, loopback, fallback=fallback)
    streams = (llm.stream_events("hello", version="v3"), await llm.astream_events("hello", version="v3"))
    if (fallback, events) == ("any", 1):
        for output in (streams[0].output, await streams[1]):
            assert output.text == "three four"
            assert output.response_metadata[RECORD]["fallback_from"] == "weak"
        return
    with pytest.raises(Exception, match="peer closed|[Cc]onnection error"):
        _ = streams[0].output
    with pytest.raises(Exception, match="peer closed|[Cc]onnection error"):
        await streams[1]
    assert {body["model"] for body in loopback.requests} == {"little"}


@LANGCHAIN
@pytest.mark.parametrize("events", [1, 3])
def test_a_call_whose_tokens_leave_through_a_graphs_stream_follows_it_too(
    events: int, driver: Driver, loopback: LoopbackOpenAI
):
    graphs = pytest.importorskip("langgraph.graph")
    loopback.reply = breaks_after(events)
    llm = over(driver, loopback, fallback="any")
    graph = graphs.StateGraph(graphs.MessagesState)
    graph.add_node("model", lambda state: {"messages": [llm.invoke(state["messages"])]})
    graph.add_edge(graphs.START, "model")
    said: list[str] = []

    def read() -> None:
        for chunk, _ in graph.compile().stream({"messages": [("human", "hello")]}, stream_mode="messages"):
            said.append(chunk.text)

    if events == 1:
        read()
        assert "".join(said) == "three four"
        return
    with pytest.raises(Exception, match="peer closed|[Cc]onnection error"):
        read()
    assert "".join(said) == "one two"


@LANGCHAIN
@pytest.mark.parametrize("how", STREAMS)
async def test_a_chain_that_ends_in_a_parser_follows_it_too(how: str, driver: Driver, loopback: LoopbackOpenAI):
    from langchain_core.output_parsers import StrOutputParser

    from langchain_routellm import RouterRunnable

    chains = {
        route: driver.client(loopback, model) | StrOutputParser()
        for route, model in (("weak", "little"), ("strong", "big"))
    }
    router = RouterRunnable(chains, router=ScriptedRouter(0.1), threshold=0.5, fallback="any")
    loopback.reply = breaks_after(1)
    got = list(router.stream("hello")) if how == "stream" else [piece async for piece in router.astream("hello")]
    assert "".join(got) == "three four"
