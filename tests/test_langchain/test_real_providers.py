"""The clients of three providers, four protocols, against endpoints that refuse what the providers refuse."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelAuthenticationError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langchain_routellm import ChatRouteLLM
from routellm_core.testing import (
    LoopbackAnthropic,
    LoopbackOllama,
    LoopbackOpenAI,
    LoopbackServer,
    Reply,
    ToolCall,
    ends_in_tool_result,
    last_text,
)
from tests.test_langchain.fakes import RECORD, get_weather, routed

langchain_anthropic = pytest.importorskip("langchain_anthropic")
langchain_ollama = pytest.importorskip("langchain_ollama")
langchain_openai = pytest.importorskip("langchain_openai")

PROVIDERS = ("openai", "responses", "anthropic", "ollama")
MODELS = {"openai": "gpt-4.1", "responses": "gpt-5", "anthropic": "claude-of-the-loopback", "ollama": "llama3.1"}
CALLS = ("invoke", "ainvoke", "stream", "astream")


class City(BaseModel):
    """A city."""

    name: str


@pytest.fixture
def servers(loopback: LoopbackOpenAI) -> Iterator[dict[str, LoopbackServer]]:
    """One endpoint a protocol."""
    with LoopbackOpenAI() as responses, LoopbackAnthropic() as anthropic, LoopbackOllama() as ollama:
        yield {"openai": loopback, "responses": responses, "anthropic": anthropic, "ollama": ollama}


def client(provider: str, servers: dict[str, LoopbackServer]) -> Any:
    url, model = servers[provider].url, MODELS[provider]
    if provider == "anthropic":
        return langchain_anthropic.ChatAnthropic(model=model, base_url=url, api_key="sk-none", max_retries=0)
    if provider == "ollama":
        # nothing closes its connections
        once = {"limits": httpx.Limits(max_keepalive_connections=0), "verify": False}
        return langchain_ollama.ChatOllama(model=model, base_url=url, client_kwargs=once)
    responses = {"use_responses_api": True} if provider == "responses" else {}
    return langchain_openai.ChatOpenAI(
        model=model, base_url=url, api_key="sk-none", max_retries=0, stream_usage=True, **responses
    )


def over(weak: str, strong: str, servers: dict[str, LoopbackServer], **options: Any) -> ChatRouteLLM:
    return routed(weak=client(weak, servers), strong=client(strong, servers), **options)


def other(provider: str) -> str:
    return "ollama" if provider != "ollama" else "openai"


async def ask(llm: Any, how: str, messages: Any, config: Any = None, into: list[str] | None = None) -> Any:
    """The answer of any of the four calls; `into` gets the pieces as they come."""
    if how == "invoke":
        return llm.invoke(messages, config)
    if how == "ainvoke":
        return await llm.ainvoke(messages, config)
    whole: Any = None
    got = [] if into is None else into
    if how == "stream":
        for chunk in llm.stream(messages, config):
            got.append(chunk.text)
            whole = chunk if whole is None else whole + chunk
    else:
        async for chunk in llm.astream(messages, config):
            got.append(chunk.text)
            whole = chunk if whole is None else whole + chunk
    return whole


def looks_first(body: dict[str, Any]) -> Reply:
    """Think, call the tool, then say what it gave."""
    if ends_in_tool_result(body):
        return Reply(text=f"{body['model']} says {last_text(body)}", thinking="now I know")
    call = ToolCall(name="get_weather", arguments={"city": "Oslo"}, id=f"call_{body['model'][:4]}")
    return Reply(tool_calls=(call,), thinking="I must look")


# -- one provider
@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_its_record_and_its_usage(provider: str, how: str, servers: dict[str, LoopbackServer]) -> None:
    servers[provider].reply = lambda body: Reply(text="one two three", thinking="hm")
    llm, usage, got = over(provider, other(provider), servers), UsageMetadataCallbackHandler(), []
    answer = await ask(llm, how, "easy", {"callbacks": [usage]}, got)
    assert answer.text == "one two three"
    assert len([piece for piece in got if piece]) == (3 if "stream" in how else 0)
    assert answer.response_metadata[RECORD]["route"] == "weak"
    assert answer.usage_metadata["output_tokens"] == 3
    assert answer.usage_metadata["input_tokens"] > 0
    assert [counts["output_tokens"] for counts in usage.usage_metadata.values()] == [3]
    assert [len(server.requests) for server in servers.values()] == [int(name == provider) for name in servers]


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_whole_tool_loop(provider: str, how: str, servers: dict[str, LoopbackServer]) -> None:
    servers[provider].reply = looks_first
    llm = over(provider, other(provider), servers).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage("easy: what is the weather in Oslo?")]
    asked = await ask(llm, how, messages)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    messages += [asked, ToolMessage("hard rain", tool_call_id=call["id"])]
    answer = await ask(llm, how, messages)
    assert answer.text == f"{MODELS[provider]} says hard rain"
    assert answer.response_metadata[RECORD] == {"route": "weak", "reason": "tool_loop"}
    assert len(servers[provider].requests) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_agent_on_one_provider_after_another(provider: str, servers: dict[str, LoopbackServer]) -> None:
    for server in servers.values():
        server.reply = looks_first
    agent = create_agent(over(provider, other(provider), servers), [get_weather])
    state = await agent.ainvoke({"messages": [HumanMessage("easy: the weather in Oslo?")]})
    assert state["messages"][-1].text == f"{MODELS[provider]} says sunny in Oslo"
    state = agent.invoke({"messages": [*state["messages"], HumanMessage("hard: and what does that mean for me?")]})
    assert state["messages"][-1].text == f"{MODELS[other(provider)]} says sunny in Oslo"
    assert [len(servers[name].requests) for name in (provider, other(provider))] == [2, 2]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_structured_output_is_the_providers_own(provider: str, servers: dict[str, LoopbackServer]) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if body.get("tools"):  # Anthropic's way
            return Reply(tool_calls=(ToolCall(name="City", arguments={"name": "Rome"}),))
        return Reply(text='{"name": "Rome"}')

    servers[provider].reply = reply
    structured = over(provider, other(provider), servers).with_structured_output(City, include_raw=True)
    for answer in (structured.invoke("easy"), await structured.ainvoke("easy")):
        assert answer["parsed"] == City(name="Rome")
        assert answer["raw"].response_metadata[RECORD]["route"] == "weak"


# -- failures
BEFORE_THE_FIRST_BYTE = {
    "busy": Reply(status=429, retry_after_s=1),
    "broken": Reply(status=500),
    "overloaded": Reply(status=503),
    "gone": Reply(hang_up=True),
    "cut": Reply(text="one two", cut_after=0, cut_inside=True),
}


@pytest.mark.parametrize("how", ["invoke", "astream"])
@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure_before_the_first_token_is_survived_by_another_provider(
    provider: str, fault: str, how: str, servers: dict[str, LoopbackServer]
) -> None:
    servers[provider].reply = lambda body: BEFORE_THE_FIRST_BYTE[fault]
    llm = over(provider, other(provider), servers, fallback="stronger")
    answer = await ask(llm, how, "easy")
    assert answer.text == f"{MODELS[other(provider)]} answers: easy"
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["fallback_from"]) == ("strong", "weak")
    assert [len(servers[name].requests) for name in (provider, other(provider))] == [1, 1]


@pytest.mark.parametrize("how", ["invoke", "astream"])
@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_wrong_key_or_request_is_never_papered_over(
    provider: str, status: int, how: str, servers: dict[str, LoopbackServer]
) -> None:
    servers[provider].reply = lambda body: Reply(status=status)
    llm = over(provider, other(provider), servers, fallback="any")
    with pytest.raises(Exception, match=f"scripted {status}") as caught:
        await ask(llm, how, "easy")
    if status == 401 and provider != "ollama":
        assert isinstance(caught.value, ModelAuthenticationError)
    assert servers[other(provider)].requests == []


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_connection_cut_before_the_first_word_is_survived_by_another_provider(
    provider: str, how: str, servers: dict[str, LoopbackServer]
) -> None:
    # these events say that there is an answer, and who gives it
    opens = {"openai": 1, "responses": 3, "anthropic": 2, "ollama": 0}[provider]
    servers[provider].reply = lambda body: Reply(text="one two three", cut_after=opens, cut_inside=True)
    got: list[str] = []
    answer = await ask(over(provider, other(provider), servers, fallback="any"), how, "easy", into=got)
    assert answer.text == "".join(got) == f"{MODELS[other(provider)]} answers: easy"
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["fallback_from"]) == ("strong", "weak")


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_connection_cut_in_the_middle_is_an_error_after_what_was_said(
    provider: str, how: str, servers: dict[str, LoopbackServer]
) -> None:
    # where the second word ends, in the protocol's events
    words_end = {"openai": 3, "responses": 5, "anthropic": 4, "ollama": 2}[provider]
    servers[provider].reply = lambda body: Reply(text="one two three", cut_after=words_end, cut_inside=True)
    got: list[str] = []
    with pytest.raises(Exception, match="peer closed connection|[Cc]onnection error"):
        await ask(over(provider, other(provider), servers, fallback="any"), how, "easy", into=got)
    assert "".join(got) == "one two"
    assert servers[other(provider)].requests == []


# -- one after the other
@pytest.mark.parametrize("how", ["invoke", "astream"])
@pytest.mark.parametrize(("weak", "strong"), list(itertools.permutations(PROVIDERS, 2)))
async def test_a_conversation_wanders_between_providers_with_thinking_and_tools(
    weak: str, strong: str, how: str, servers: dict[str, LoopbackServer]
) -> None:
    for server in servers.values():
        server.reply = looks_first
    llm = over(weak, strong, servers).bind_tools([get_weather])
    messages: list[Any] = []
    for turn, level in enumerate(("easy", "hard", "easy")):
        messages.append(HumanMessage(f"{level}: the weather of day {turn}, please, in this town"))
        for _ in range(2):
            answer = await ask(llm, how, messages)
            messages.append(answer)
            messages += [ToolMessage(f"rain on day {turn}", tool_call_id=call["id"]) for call in answer.tool_calls]
        assert answer.text == f"{MODELS[strong if level == 'hard' else weak]} says rain on day {turn}"
    routes = [message.response_metadata[RECORD]["route"] for message in messages if isinstance(message, AIMessage)]
    assert routes == ["weak", "weak", "strong", "strong", "weak", "weak"]
    for name, turns in ((weak, 3), (strong, 2)):
        server = servers[name]
        assert len(server.requests) == (4 if name == weak else 2)
        # the last request holds every turn before it, whoever answered
        last = json.dumps(server.requests[-1])
        assert [f"rain on day {turn}" in last for turn in range(3)] == [turn < turns for turn in range(3)]
        assert [f"{MODELS[n]} says rain on day" in last for n in (weak, strong)] == [True, name == weak]
        wire = json.dumps(server.requests) + json.dumps(server.headers)
        assert "routellm" not in wire
        foreign = {"anthropic": "signed-on", "responses": "encrypted-on"}.get(strong if name == weak else weak)
        assert foreign is None or foreign not in wire
