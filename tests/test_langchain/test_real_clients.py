"""Real clients over HTTP, against an endpoint on the loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelRateLimitError,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall
from tests.test_langchain.fakes import RECORD, by_words, fake, get_weather, routed


class City(BaseModel):
    """A city."""

    name: str


def over(server: LoopbackOpenAI, **options: Any) -> ChatRouteLLM:
    def client(model: str) -> ChatOpenAI:
        return ChatOpenAI(model=model, base_url=server.url, api_key="none", max_retries=0, stream_usage=True)  # type: ignore[arg-type]

    return routed(**{"weak": client("small"), "strong": client("large"), **options})


def failing(status: int) -> Any:
    """Only the small model fails."""
    return lambda body: Reply(status=status) if body["model"] == "small" else Reply(text="large answers")


async def test_every_way_to_call_reaches_the_chosen_model(loopback: LoopbackOpenAI) -> None:
    llm, usage = over(loopback), UsageMetadataCallbackHandler()
    config: Any = {"callbacks": [usage]}
    assert llm.invoke("hard", config).text == "large answers: hard"
    assert (await llm.ainvoke("easy", config)).text == "small answers: easy"
    merged: Any = None
    for chunk in llm.stream("hard", config):
        merged = chunk if merged is None else merged + chunk
    assert merged.text == "large answers: hard"
    assert merged.response_metadata[RECORD]["route"] == "strong"
    assert merged.response_metadata["model_name"] == "large"
    assert merged.usage_metadata["output_tokens"] == 3
    assert "".join([chunk.text async for chunk in llm.astream("easy", config)]) == "small answers: easy"
    assert [request["model"] for request in loopback.requests] == ["large", "small", "large", "small"]
    counted = {model: counts["output_tokens"] for model, counts in usage.usage_metadata.items()}
    assert counted == {"large": 6, "small": 6}


def test_call_arguments_arrive_in_the_request(loopback: LoopbackOpenAI) -> None:
    over(loopback).invoke("q", stop=["END"], temperature=0.25, seed=7)
    request = loopback.requests[0]
    assert (request["stop"], request["temperature"], request["seed"], request["model"]) == (["END"], 0.25, 7, "small")


def test_a_chain_of_prompt_router_and_parser(loopback: LoopbackOpenAI) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Brief."), ("human", "{q}")])
    chain = prompt | over(loopback) | StrOutputParser()
    assert chain.invoke({"q": "hard"}) == "large answers: hard"
    assert "".join(chain.stream({"q": "easy"})) == "small answers: easy"
    assert loopback.requests[0]["messages"][0] == {"role": "system", "content": "Brief."}


async def test_tools_and_structured_output_over_http(loopback: LoopbackOpenAI) -> None:
    loopback.reply = lambda body: Reply(tool_calls=(ToolCall(name="get_weather", arguments={"city": "Oslo"}),))
    bound = over(loopback).bind_tools([get_weather], tool_choice="any")
    for answer in (bound.invoke("hard"), await bound.ainvoke("hard")):
        assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
        assert answer.response_metadata[RECORD]["route"] == "strong"
    assert loopback.requests[0]["tools"][0]["function"]["name"] == "get_weather"
    assert loopback.requests[0]["tool_choice"] == "required"
    merged: Any = None
    for chunk in bound.stream("easy"):
        merged = chunk if merged is None else merged + chunk
    assert merged.tool_calls[0]["args"] == {"city": "Oslo"}
    loopback.reply = lambda body: Reply(text='{"name": "Rome"}')
    structured = over(loopback).with_structured_output(City, include_raw=True)
    answer = structured.invoke("hard")
    assert answer["parsed"] == City(name="Rome")
    assert answer["raw"].response_metadata[RECORD]["route"] == "strong"
    assert (await structured.ainvoke("easy"))["parsed"] == City(name="Rome")
    assert loopback.requests[-1]["response_format"]["json_schema"]["name"] == "City"


def test_an_agent_over_http_stays_with_one_model_per_turn(loopback: LoopbackOpenAI) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["role"] == "tool":
            return Reply(text="It is " + body["messages"][-1]["content"])
        return Reply(tool_calls=(ToolCall(name="get_weather", arguments={"city": "Oslo"}),))

    loopback.reply = reply
    router = ScriptedRouter(by_words)
    result = create_agent(over(loopback, router=router), [get_weather]).invoke(
        {"messages": [HumanMessage("hard: what is the weather in Oslo?")]}
    )
    assert result["messages"][-1].text == "It is sunny in Oslo"
    records = [m.response_metadata[RECORD] for m in result["messages"] if isinstance(m, AIMessage)]
    assert [(r["route"], r["reason"]) for r in records] == [("strong", "score"), ("strong", "tool_loop")]
    assert [request["model"] for request in loopback.requests] == ["large", "large"]
    assert len(router.calls) == 1


@pytest.mark.parametrize(("status", "error"), [(429, ModelRateLimitError), (500, ModelAPIError)])
async def test_a_busy_or_broken_model_is_replaced_when_that_was_asked_for(
    loopback: LoopbackOpenAI, status: int, error: type[Exception]
) -> None:
    loopback.reply = failing(status)
    llm = over(loopback, fallback="stronger")
    for answer in (llm.invoke("q"), await llm.ainvoke("q"), next(iter(llm.stream("q")))):
        record = answer.response_metadata[RECORD]
        assert (record["route"], record["fallback_from"]) == ("strong", "weak")
    assert "".join([chunk.text async for chunk in llm.astream("q")]) == "large answers"
    with pytest.raises(error):
        over(loopback).invoke("q")


async def test_a_wrong_key_is_never_papered_over(loopback: LoopbackOpenAI) -> None:
    loopback.reply = failing(401)
    llm = over(loopback, fallback="any")
    with pytest.raises(ModelAuthenticationError):
        llm.invoke("q")
    with pytest.raises(ModelAuthenticationError):
        await llm.ainvoke("q")
    assert {request["model"] for request in loopback.requests} == {"small"}


async def test_a_connection_cut_before_the_first_token_is_replaced_and_later_it_is_an_error(
    loopback: LoopbackOpenAI,
) -> None:
    after = 0
    loopback.reply = lambda body: Reply(text="a b c d", cut_after=after if body["model"] == "small" else None)
    llm = over(loopback, fallback="stronger")
    assert "".join(chunk.text for chunk in llm.stream("q")) == "a b c d"
    assert "".join([chunk.text async for chunk in llm.astream("q")]) == "a b c d"
    after = 3
    got: list[str] = []
    cut = (httpx.RemoteProtocolError, ModelConnectionError)  # the second from newer clients
    with pytest.raises(cut):
        for chunk in llm.stream("q"):
            got.append(chunk.text)
    with pytest.raises(cut):
        async for chunk in llm.astream("q"):
            got.append(chunk.text)
    assert "".join(got) == "a b" * 2


def test_a_stopped_ollama_is_replaced(loopback: LoopbackOpenAI) -> None:
    dead = ChatOllama(model="x", base_url="http://127.0.0.1:9")
    with pytest.raises(httpx.ConnectError):
        dead.invoke("q")
    llm = routed(weak=dead, fallback="stronger")
    assert llm.invoke("q").response_metadata[RECORD]["fallback_from"] == "weak"
    assert "".join(chunk.text for chunk in llm.stream("q")) == "fake-strong answers"


def test_a_batch_over_http_is_scored_in_one_call(loopback: LoopbackOpenAI) -> None:
    router = ScriptedRouter(by_words)
    answers = over(loopback, router=router).batch([f"{'hard' if i % 2 else 'easy'} {i}" for i in range(8)])
    assert [answer.text for answer in answers] == [
        f"{'large' if i % 2 else 'small'} answers: {'hard' if i % 2 else 'easy'} {i}" for i in range(8)
    ]
    assert len(router.calls) == 1


async def test_two_hundred_calls_at_once_each_get_their_own_answer_and_record(loopback: LoopbackOpenAI) -> None:
    llm = over(loopback)
    with collect_decisions() as decisions:
        answers = await asyncio.gather(*(llm.ainvoke(f"{'hard' if i % 3 else 'easy'} number {i}") for i in range(200)))
    for i, answer in enumerate(answers):
        assert answer.text.endswith(f" number {i}")
        assert answer.response_metadata[RECORD]["route"] == ("strong" if i % 3 else "weak")
        assert answer.response_metadata["model_name"] == ("large" if i % 3 else "small")
    assert len(decisions) == 200


async def test_two_hundred_calls_at_once_through_a_slow_router(loopback: LoopbackOpenAI) -> None:
    llm = routed(router=ScriptedRouter(by_words, is_quick=False), weak=fake("weak", echo=True))
    answers = await asyncio.gather(*(llm.ainvoke(f"number {i}") for i in range(200)))
    assert [answer.text for answer in answers] == [f"number {i}" for i in range(200)]
