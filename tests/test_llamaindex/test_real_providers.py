"""The clients of three providers against endpoints that refuse what the providers refuse."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, Union, get_origin

import httpx
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from routellm_core import collect_decisions
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

anthropic = pytest.importorskip("llama_index.llms.anthropic")
ollama = pytest.importorskip("llama_index.llms.ollama")
types = pytest.importorskip("anthropic.types")
openai_like = pytest.importorskip("llama_index.llms.openai_like")

PROVIDERS = ("openai", "anthropic", "ollama")
MODELS = {"openai": "gpt-4.1", "anthropic": "claude-sonnet-5-5", "ollama": "llama3.1"}
CALLS = ("chat", "achat", "stream_chat", "astream_chat")


class City(BaseModel):
    """A city."""

    name: str


class Providers:
    """An endpoint and a client of each protocol."""

    def __init__(self, servers: dict[str, LoopbackServer], blocking: Any, asynchronous: Any) -> None:
        self.servers = servers
        self._http = {"http_client": blocking, "async_http_client": asynchronous}
        self._open: list[Any] = []

    def client(self, provider: str) -> Any:
        if provider == "anthropic" and get_origin(types.MessageParam) is Union:
            pytest.skip("this llama-index-llms-anthropic cannot work with an anthropic package as new as this one")
        url, model = self.servers[provider].url, MODELS[provider]
        if provider == "anthropic":
            made = anthropic.Anthropic(model=model, base_url=url, api_key="sk-none", max_retries=0)
            self._open += [made._client, made._aclient]
            return made
        if provider == "ollama":
            from ollama import AsyncClient, Client

            clients = {"client": Client(url, verify=False), "async_client": AsyncClient(url, verify=False)}
            self._open += [client._client for client in clients.values()]
            return ollama.Ollama(model=model, base_url=url, **clients)
        return openai_like.OpenAILike(
            model=model,
            api_base=url,
            api_key="sk-none",
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=8000,
            max_retries=0,
            additional_kwargs={"stream_options": {"include_usage": True}},
            **self._http,
        )

    async def close(self) -> None:
        for client in self._open:
            closing = client.aclose() if hasattr(client, "aclose") else client.close()
            if inspect.isawaitable(closing):
                await closing

    def asked(self) -> dict[str, int]:
        return {name: len(server.requests) for name, server in self.servers.items() if server.requests}


@pytest.fixture
async def providers(loopback: LoopbackOpenAI) -> AsyncIterator[Providers]:
    limits = httpx.Limits(max_keepalive_connections=0)
    with LoopbackAnthropic() as claude, LoopbackOllama() as llama:
        with httpx.Client(limits=limits, verify=False) as blocking:  # noqa: S501 - certificates take long to read
            async with httpx.AsyncClient(limits=limits, verify=False) as asynchronous:  # noqa: S501
                servers: dict[str, LoopbackServer] = {"openai": loopback, "anthropic": claude, "ollama": llama}
                made = Providers(servers, blocking, asynchronous)
                yield made
                await made.close()


def over(kit: Any, providers: Providers, weak: str, strong: str, **words: Any) -> Any:
    return kit.pair(weak=providers.client(weak), strong=providers.client(strong), **words).llm


def other(provider: str) -> str:
    return "ollama" if provider != "ollama" else "openai"


async def ask(llm: Any, how: str, messages: Any, into: list[str] | None = None) -> Any:
    """The (last) response of any of the four calls; `into` gets the pieces as they come."""
    got = [] if into is None else into
    call = getattr(llm, how)(messages)
    if how == "chat":
        return call
    if how == "achat":
        return await call
    response: Any = None
    if how == "stream_chat":
        for response in call:
            got.append(response.delta or "")
    else:
        async for response in await call:
            got.append(response.delta or "")
    return response


def looks_first(body: dict[str, Any]) -> Reply:
    """Think, call the tool, then say what it gave."""
    if ends_in_tool_result(body):
        return Reply(text=f"{body['model']} says {last_text(body)}", thinking="now I know")
    call = ToolCall(name="look", arguments={"q": "Oslo"}, id=f"call_{body['model'][:4]}")
    return Reply(tool_calls=(call,), thinking="I must look")


# -- one provider
@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_its_record_and_its_usage(provider: str, how: str, kit: Any, providers: Providers):
    providers.servers[provider].reply = lambda body: Reply(text="one two three", thinking="hm")
    llm, got = over(kit, providers, provider, other(provider)), []
    with collect_decisions() as decisions:
        response = await ask(llm, how, [kit.user(kit.EASY)], got)
    assert response.message.content == "one two three"
    assert "".join(got) == ("one two three" if "stream" in how else "")
    assert response.additional_kwargs["routellm"]["route"] == "weak"
    assert providers.asked() == {provider: 1}
    usage = decisions.usage_of(decisions[0])
    assert usage is not None
    assert usage.output_tokens == 3
    assert usage.input_tokens > 0


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_whole_tool_loop_of_an_agent(provider: str, streaming: bool, kit: Any, providers: Providers):
    providers.servers[provider].reply = looks_first
    llm = over(kit, providers, provider, other(provider))
    with collect_decisions() as decisions:
        answer = await FunctionAgent(tools=[kit.LOOK], llm=llm, streaming=streaming).run(kit.EASY)
    assert str(answer) == f"{MODELS[provider]} says they prove things here"
    assert [(d.route, d.reason) for d in decisions] == [("weak", "score"), ("weak", "tool_loop")]
    assert providers.asked() == {provider: 2}


@pytest.mark.filterwarnings("ignore:The 'output_format' parameter:DeprecationWarning")  # upstream's own
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_structured_output_is_the_providers_own(provider: str, kit: Any, providers: Providers):
    def reply(body: dict[str, Any]) -> Reply:
        if body.get("tools"):
            return Reply(tool_calls=(ToolCall(name="City", arguments={"name": "Rome"}),))
        return Reply(text='{"name": "Rome"}')

    providers.servers[provider].reply = reply
    llm = over(kit, providers, provider, other(provider))
    prompt = PromptTemplate("{context_str} {query_str}")
    words = {"context_str": kit.CONTEXT, "query_str": kit.EASY}
    assert llm.structured_predict(City, prompt, **words) == City(name="Rome")
    assert await llm.astructured_predict(City, prompt, **words) == City(name="Rome")
    assert providers.asked() == {provider: 2}


# -- failures
BEFORE_THE_FIRST_BYTE = {
    "busy": Reply(status=429, retry_after_s=1),
    "broken": Reply(status=500),
    "overloaded": Reply(status=503),
    "gone": Reply(hang_up=True),
    "cut": Reply(text="one two", cut_after=0, cut_inside=True),
}


@pytest.mark.parametrize("how", ["chat", "astream_chat"])
@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure_before_the_first_token_is_survived_by_another_provider(
    provider: str, fault: str, how: str, kit: Any, providers: Providers
):
    providers.servers[provider].reply = lambda body: BEFORE_THE_FIRST_BYTE[fault]
    llm = over(kit, providers, provider, other(provider), fallback="stronger")
    response = await ask(llm, how, [kit.user(kit.EASY)])
    assert response.message.content == f"{MODELS[other(provider)]} answers: {kit.EASY}"
    record = response.additional_kwargs["routellm"]
    assert (record["route"], record["fallback_from"]) == ("strong", "weak")
    assert providers.asked() == {provider: 1, other(provider): 1}


@pytest.mark.parametrize("how", ["chat", "astream_chat"])
@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_wrong_key_or_request_is_never_papered_over(
    provider: str, status: int, how: str, kit: Any, providers: Providers
):
    providers.servers[provider].reply = lambda body: Reply(status=status)
    llm = over(kit, providers, provider, other(provider), fallback="any")
    with pytest.raises(Exception, match=f"scripted {status}"):
        await ask(llm, how, [kit.user(kit.EASY)])
    assert providers.asked() == {provider: 1}


@pytest.mark.parametrize("how", ["stream_chat", "astream_chat"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_connection_cut_before_the_first_word_is_survived_by_another_provider(
    provider: str, how: str, kit: Any, providers: Providers
):
    # these events say that there is an answer, and who gives it
    opens = {"openai": 1, "anthropic": 2, "ollama": 0}[provider]
    providers.servers[provider].reply = lambda body: Reply(text="one two three", cut_after=opens, cut_inside=True)
    got: list[str] = []
    llm = over(kit, providers, provider, other(provider), fallback="any")
    response = await ask(llm, how, [kit.user(kit.EASY)], got)
    assert response.message.content == "".join(got) == f"{MODELS[other(provider)]} answers: {kit.EASY}"
    record = response.additional_kwargs["routellm"]
    assert (record["route"], record["fallback_from"]) == ("strong", "weak")


@pytest.mark.parametrize("how", ["stream_chat", "astream_chat"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_connection_cut_in_the_middle_is_an_error_after_what_was_said(
    provider: str, how: str, kit: Any, providers: Providers
):
    # where the second word ends, in the protocol's events
    words_end = {"openai": 3, "anthropic": 4, "ollama": 2}[provider]
    providers.servers[provider].reply = lambda body: Reply(text="one two three", cut_after=words_end, cut_inside=True)
    got: list[str] = []
    with pytest.raises(Exception, match="peer closed connection|[Cc]onnection error"):
        await ask(over(kit, providers, provider, other(provider), fallback="any"), how, [kit.user(kit.EASY)], got)
    assert "".join(got) == "one two"
    assert providers.asked() == {provider: 1}


# -- one after the other
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("weak", "strong"), list(itertools.permutations(PROVIDERS, 2)))
async def test_a_conversation_wanders_between_providers_with_thinking_and_tools(
    weak: str, strong: str, streaming: bool, kit: Any, providers: Providers
):
    for server in providers.servers.values():
        server.reply = looks_first
    agent = FunctionAgent(tools=[kit.LOOK], llm=over(kit, providers, weak, strong), streaming=streaming)
    memory = ChatMemoryBuffer.from_defaults(token_limit=10**6)
    with collect_decisions() as decisions:
        for turn, (question, provider) in enumerate([(kit.EASY, weak), (kit.HARD, strong), (kit.EASY, weak)]):
            answer = await agent.run(f"{question} Turn {turn}.", memory=memory)
            assert str(answer) == f"{MODELS[provider]} says they prove things here"
    assert [d.route for d in decisions] == ["weak", "weak", "strong", "strong", "weak", "weak"]
    assert providers.asked() == {weak: 4, strong: 2}
    for name, turns in ((weak, 3), (strong, 2)):
        requests = providers.servers[name].requests
        last = json.dumps(requests[-1])  # holds every turn before it, whoever answered
        assert [f"Turn {turn}." in last for turn in range(3)] == [turn < turns for turn in range(3)]
        assert [f"{MODELS[n]} says they prove" in last for n in (weak, strong)] == [True, name == weak]
        wire = json.dumps(requests) + json.dumps(providers.servers[name].headers)
        assert "routellm" not in wire
        if "anthropic" in (weak, strong) and name != "anthropic":
            assert "signed-on" not in wire
