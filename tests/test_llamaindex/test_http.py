"""Real OpenAI-protocol clients against an endpoint on the loopback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ToolCall


class Out(BaseModel):
    answer: str


def routed(kit: Any, client: Any, **words: Any) -> RouteLLM:
    made: RouteLLM = kit.pair(strong=client("big"), weak=client("little"), **words).llm
    return made


def asked(loopback: LoopbackOpenAI) -> list[str]:
    return [request["model"] for request in loopback.requests]


async def test_chat_complete_and_streams_reach_the_chosen_model(kit: Any, client: Any, loopback: LoopbackOpenAI):
    llm = routed(kit, client)
    texts = [
        llm.chat([kit.user(kit.HARD)]).message.content,
        llm.complete(kit.EASY).text,
        (await llm.achat([kit.user(kit.HARD)])).message.content,
        (await llm.acomplete(kit.EASY)).text,
        "".join(chunk.delta for chunk in llm.stream_chat([kit.user(kit.HARD)])),
        "".join([chunk.delta async for chunk in await llm.astream_chat([kit.user(kit.EASY)])]),
        "".join(chunk.delta for chunk in llm.stream_complete(kit.HARD)),
        "".join([chunk.delta async for chunk in await llm.astream_complete(kit.EASY)]),
    ]
    assert asked(loopback) == ["big", "little"] * 4
    assert [text.split()[0] for text in texts] == ["big", "little"] * 4
    assert "routellm" not in json.dumps(loopback.requests)


def test_the_servers_usage_is_counted_once(kit: Any, client: Any):
    counter = TokenCountingHandler()
    llm = routed(kit, client, callback_manager=CallbackManager([counter]))
    usage = llm.chat([kit.user(kit.HARD)]).raw.usage
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_or_broken_server_is_survived_by_another_route(
    status: int, kit: Any, client: Any, loopback: LoopbackOpenAI
):
    def reply(request: dict[str, Any]) -> Reply:
        return Reply(status=status) if request["model"] == "little" else Reply(text="big to the rescue")

    loopback.reply = reply
    llm = routed(kit, client, fallback="stronger")
    answers = [
        llm.complete(kit.EASY),
        (await llm.achat([kit.user(kit.EASY)])),
        *llm.stream_chat([kit.user(kit.EASY)]),
        *[chunk async for chunk in await llm.astream_chat([kit.user(kit.EASY)])],
    ]
    assert {answer.additional_kwargs["routellm"]["fallback_from"] for answer in answers} == {"weak"}
    assert asked(loopback) == ["little", "big"] * 4


def test_a_wrong_key_or_a_bad_request_is_not_tried_elsewhere(kit: Any, client: Any, loopback: LoopbackOpenAI):
    for status in (400, 401, 404):
        loopback.reply = lambda request, status=status: Reply(status=status)
        with pytest.raises(Exception, match=str(status)):
            routed(kit, client, fallback="any").complete(kit.EASY)
    assert asked(loopback) == ["little"] * 3


def test_a_server_that_is_not_there_is_survived(kit: Any, client: Any, loopback: LoopbackOpenAI):
    nowhere = client("nobody", api_base="http://127.0.0.1:9/v1")
    answer = kit.pair(strong=client("big"), weak=nowhere, fallback="stronger").llm.complete(kit.EASY)
    assert answer.additional_kwargs["routellm"]["fallback_from"] == "weak" and asked(loopback) == ["big"]


async def test_a_connection_cut_mid_stream_surfaces_and_is_not_patched_with_another_answer(
    kit: Any, client: Any, loopback: LoopbackOpenAI
):
    loopback.reply = lambda request: Reply(text="one two three four five", cut_after=3)
    llm, got = routed(kit, client, fallback="any"), []
    with pytest.raises(Exception, match="peer closed connection"):
        got.extend(chunk.delta for chunk in llm.stream_chat([kit.user(kit.EASY)]))
    stream = await llm.astream_chat([kit.user(kit.EASY)])
    with pytest.raises(Exception, match="peer closed connection"):
        async for chunk in stream:
            got.append(chunk.delta)
    assert got[-2:] == ["one", " two"] and asked(loopback) == ["little", "little"]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_runs_a_tool_on_one_route_and_nothing_of_ours_goes_over_the_wire(
    streaming: bool, kit: Any, client: Any, loopback: LoopbackOpenAI
):
    def reply(request: dict[str, Any]) -> Reply:
        if any(message["role"] == "tool" for message in request["messages"]):
            return Reply(text="they do prove it")
        return Reply(tool_calls=(ToolCall(name="look", arguments={"q": "x"}),))

    loopback.reply = reply
    llm = routed(kit, client)
    memory = ChatMemoryBuffer.from_defaults(token_limit=10**6)
    with collect_decisions() as taken:
        answer = await FunctionAgent(tools=[kit.LOOK], llm=llm, streaming=streaming).run(kit.EASY, memory=memory)
    assert str(answer) == "they do prove it" and asked(loopback) == ["little", "little"]
    assert [d.reason for d in taken] == ["score", "tool_loop"]
    assert "they prove things here" in json.dumps(loopback.requests[1])  # the tool's result reached the model
    assert "routellm" not in json.dumps(loopback.requests) + json.dumps(loopback.headers)


def test_structured_output_is_filled_by_the_chosen_model(kit: Any, client: Any, loopback: LoopbackOpenAI):
    loopback.reply = lambda request: Reply(
        tool_calls=(ToolCall(name="Out", arguments={"answer": f"from {request['model']}"}),)
    )
    llm = routed(kit, client)
    prompt = PromptTemplate("{context_str} {query_str}")
    answer = llm.structured_predict(Out, prompt, context_str=kit.CONTEXT, query_str=kit.EASY)
    assert answer.answer == "from little" and asked(loopback) == ["little"]


def test_tools_are_described_to_the_chosen_model(kit: Any, client: Any, loopback: LoopbackOpenAI):
    loopback.reply = lambda request: Reply(tool_calls=(ToolCall(name="adder", arguments={"a": 1, "b": 2}),))
    llm = routed(kit, client)
    tool = FunctionTool.from_defaults(fn=lambda a, b: a + b, name="adder")
    answer = llm.chat_with_tools([tool], user_msg=kit.HARD)
    assert llm.get_tool_calls_from_response(answer)[0].tool_kwargs == {"a": 1, "b": 2}
    assert loopback.requests[0]["tools"][0]["function"]["name"] == "adder"
    assert llm.predict_and_call([tool], user_msg=kit.EASY).response == "3"


def test_a_string_backend_reaches_the_server_that_the_environment_names(
    kit: Any, loopback: LoopbackOpenAI, monkeypatch: Any
):
    pytest.importorskip("llama_index.llms.openai_like")
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    llm = RouteLLM(strong="openai:big", weak="openai:little", router=kit.ScriptedRouter(kit.by_word), threshold=0.5)
    assert loopback.requests == []
    assert llm.complete(kit.HARD).text.startswith("big") and llm.complete(kit.EASY).text.startswith("little")
    assert llm.metadata.is_function_calling_model and llm.metadata.model_name == "routellm(little|big)"
    assert loopback.headers[0]["authorization"] == "Bearer none"


def test_no_key_is_in_a_dump_of_real_clients(kit: Any, client: Any):
    llm = routed(kit, client)
    shown = [repr(llm), llm.to_json(), json.dumps(llm.to_payload(), default=str)]
    assert not [text for text in shown if "sk-secret" in text]
    assert "sk-secret" in json.dumps(llm.models["strong"].to_dict(), default=str)
