"""Agents over real clients: what their providers are sent, history across them, and faults in the middle of a turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_anthropic import ChatAnthropic
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelAPIError, ModelError, ModelRateLimitError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from routellm_core.testing import LoopbackAnthropic, LoopbackOllama, LoopbackOpenAI, Reply, ToolCall
from tests.test_langchain.fakes import RECORD, get_weather
from tests.test_langchain.surfaces import (
    CONTEXT_IN_TASKS,
    agent,
    both,
    middleware,
    needs_context,
    never,
    records,
    routes,
    thread,
    turn,
)


class City(BaseModel):
    """A city."""

    name: str


@pytest.fixture
def claude(loopback: LoopbackOpenAI) -> Iterator[LoopbackAnthropic]:
    with LoopbackAnthropic() as server:
        yield server


def small(server: LoopbackOpenAI, **options: Any) -> ChatOpenAI:
    options.setdefault("model", "small")
    return ChatOpenAI(base_url=server.url, api_key="none", max_retries=0, stream_usage=True, **options)


def large(server: LoopbackAnthropic, **options: Any) -> ChatAnthropic:
    options.setdefault("model", "large")
    return ChatAnthropic(base_url=server.url, api_key="none", max_retries=0, **options)


def weather(body: dict[str, Any]) -> Reply:
    """Asks for the weather first, then tells it; in either protocol."""
    last = body["messages"][-1]
    content = last["content"]
    is_result = last["role"] == "tool" or (isinstance(content, list) and content[0].get("type") == "tool_result")
    if is_result:
        return Reply(text="It is sunny there.")
    return Reply(tool_calls=(ToolCall(name="get_weather", arguments={"city": "Oslo"}),))


# -- provider middleware
async def test_caching_middleware_after_ours_marks_claudes_requests_and_no_others(
    loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    made = create_agent(
        never(),
        [get_weather],
        system_prompt="Be brief.",
        middleware=[
            middleware(strong=large(claude), weak=small(loopback)),
            AnthropicPromptCachingMiddleware(unsupported_model_behavior="ignore"),
        ],
    )
    made.invoke(turn("hard"))
    await made.ainvoke(turn("hard"))
    made.invoke(turn("easy"))
    for request in claude.requests:
        assert request["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
        assert request["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
        assert request["tools"][-1]["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert len(claude.requests) == 2
    assert "cache_control" not in json.dumps(loopback.requests)


@pytest.mark.filterwarnings("ignore:AnthropicPromptCachingMiddleware caching middleware only supports")
def test_with_the_router_as_the_model_caching_middleware_does_nothing(
    loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    """The reason for the middleware; when this fails, the documents must say so."""
    caching = AnthropicPromptCachingMiddleware()
    made = agent("model", [get_weather], [caching], strong=large(claude), weak=small(loopback))
    made.invoke(turn("hard"))
    assert "cache_control" not in json.dumps(claude.requests)


def test_markers_that_are_there_already_go_to_claude_only(loopback: LoopbackOpenAI, claude: LoopbackAnthropic) -> None:
    marker = {"type": "ephemeral"}
    made = create_agent(
        large(claude),  # so that the caching middleware, which comes first here, adds its markers
        [get_weather],
        system_prompt="Be brief.",
        middleware=[AnthropicPromptCachingMiddleware(), middleware(strong=large(claude), weak=small(loopback))],
    )
    value = {"messages": [HumanMessage([{"type": "text", "text": "easy", "cache_control": marker}])]}
    result = made.invoke(value)
    assert "cache_control" not in json.dumps(loopback.requests)
    assert loopback.requests[0]["messages"][0]["content"] == [{"type": "text", "text": "Be brief."}]
    assert [t["function"]["name"] for t in loopback.requests[0]["tools"]] == ["get_weather"]
    assert result["messages"][0].content[0]["cache_control"] == marker  # the state keeps its own
    made.invoke({"messages": [HumanMessage([{"type": "text", "text": "hard", "cache_control": marker}])]})
    assert claude.requests[0]["messages"][0]["content"][0]["cache_control"] == marker
    assert claude.requests[0]["system"][0]["cache_control"]
    assert claude.requests[0]["tools"][0]["cache_control"]
    assert claude.requests[0]["cache_control"]
    assert get_weather.extras is None


# -- structured output
def test_the_provider_that_has_native_structured_output_gets_it_and_the_other_a_tool(
    loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    no_native: Any = {"structured_output": False, "tool_calling": True}
    loopback.reply = lambda body: Reply(text='{"name": "Rome"}')
    claude.reply = lambda body: Reply(tool_calls=(ToolCall(name="City", arguments={"name": "Oslo"}),))
    made = create_agent(
        never(),
        [],
        response_format=City,
        middleware=[middleware(strong=large(claude, profile=no_native), weak=small(loopback, model="gpt-4.1-mini"))],
    )
    assert made.invoke(turn("easy"))["structured_response"] == City(name="Rome")
    assert made.invoke(turn("hard"))["structured_response"] == City(name="Oslo")
    assert loopback.requests[0]["response_format"]["json_schema"]["name"] == "City"
    assert "response_format" not in claude.requests[0] and "output_config" not in claude.requests[0]
    assert claude.requests[0]["tool_choice"] == {"type": "any"}


@both
def test_a_structured_answer_that_is_wrong_is_asked_for_again_on_the_same_route(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        arguments = {"nom": "Oslo"} if len(loopback.requests) == 1 else {"name": "Oslo"}
        return Reply(tool_calls=(ToolCall(name="City", arguments=arguments, id=f"call_{len(loopback.requests)}"),))

    loopback.reply = reply
    made = agent(
        surface, strong=large(claude), weak=small(loopback), response_format=ToolStrategy(City), fallback="any"
    )
    result = made.invoke(turn("easy"))
    assert result["structured_response"] == City(name="Oslo")
    assert routes(result) == [("weak", "score"), ("weak", "tool_loop")]
    assert claude.requests == []


# -- a conversation over two providers
@both
async def test_a_conversation_changes_provider_between_turns_and_never_within_one(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    def thinks(body: dict[str, Any]) -> Reply:
        reply = weather(body)
        return Reply(text=reply.text, tool_calls=reply.tool_calls, thinking="Let me see.")

    loopback.reply, claude.reply = weather, thinks
    saver, usage = InMemorySaver(), UsageMetadataCallbackHandler()
    options: Any = {"strong": large(claude), "weak": small(loopback), "checkpointer": saver}
    config = thread(callbacks=[usage])
    agent(surface, [get_weather], **options).invoke(turn("hard: Oslo?"), config)
    await agent(surface, [get_weather], **options).ainvoke(turn("easy: and Rome?"), config)
    # a signature that Anthropic did not make, or a result nobody asked for, would be refused with 400
    result = agent(surface, [get_weather], **options).invoke(turn("hard: and Bonn?"), config)
    assert routes(result) == [
        ("strong", "score"),
        ("strong", "tool_loop"),
        ("weak", "score"),
        ("weak", "tool_loop"),
        ("strong", "score"),
        ("strong", "tool_loop"),
    ]
    assert (len(claude.requests), len(loopback.requests)) == (4, 2)
    sent = json.dumps(loopback.requests[0]["messages"])
    assert "thinking" not in sent and "tool_use" not in sent
    assert loopback.requests[0]["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert "Let me see." in json.dumps(claude.requests[-1]["messages"])  # its own turns came back whole
    counted = {m.response_metadata["model_name"]: 0 for m in result["messages"] if isinstance(m, AIMessage)}
    for message in result["messages"]:
        if isinstance(message, AIMessage):
            counted[message.response_metadata["model_name"]] += message.usage_metadata["total_tokens"]
    assert len(counted) == 2
    if not CONTEXT_IN_TASKS:
        del counted["small"]  # the asynchronous turn
    assert {model: counts["total_tokens"] for model, counts in usage.usage_metadata.items()} == counted


@both
def test_three_providers_take_each_others_turns(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    """A local model with the others; with content blocks in its history, its client would raise, or its server."""

    def thinks(body: dict[str, Any]) -> Reply:
        return replace(weather(body), thinking="Let me see.")

    with LoopbackOllama() as local:
        loopback.reply, claude.reply, local.reply = weather, thinks, weather
        models = {
            "local": ChatOllama(model="local", base_url=local.url),
            "mid": small(loopback),
            "large": large(claude),
        }
        made = agent(surface, [get_weather], models=models, threshold=[0.3, 0.8], checkpointer=InMemorySaver())
        for text in ("hard", "easy", "medium", "hard", "easy"):
            result = made.invoke(turn(f"{text}: Oslo?"), thread())
        asked = (len(local.requests), len(loopback.requests), len(claude.requests))
    assert asked == (4, 2, 4)
    assert [route for route, _ in routes(result)][::2] == ["large", "local", "mid", "large", "local"]
    assert [route for route, _ in routes(result)][1::2] == ["large", "local", "mid", "large", "local"]
    assert result["messages"][-1].text == "It is sunny there."


async def test_a_deep_agent_caches_for_claude_only(loopback: LoopbackOpenAI, claude: LoopbackAnthropic) -> None:
    """Its own caching middleware comes after ours."""
    deepagents = pytest.importorskip("deepagents")
    made = deepagents.create_deep_agent(
        model=never(), middleware=[middleware(strong=large(claude), weak=small(loopback))], system_prompt="Be brief."
    )
    await made.ainvoke(turn("hard"))
    result = made.invoke(turn("easy"))
    assert routes(result) == [("weak", "score")]
    assert "cache_control" in json.dumps(claude.requests[0])
    assert "cache_control" not in json.dumps(loopback.requests[0])


# -- streams
@both
@pytest.mark.parametrize("go", ["sync", pytest.param("async", marks=needs_context)])
async def test_each_token_once_over_http_with_its_route(
    surface: str, go: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    loopback.reply, claude.reply = weather, weather
    made = agent(surface, [get_weather], strong=large(claude), weak=small(loopback))
    if go == "sync":
        parts: Any = list(made.stream(turn("hard"), stream_mode="messages"))
    else:
        parts = [part async for part in made.astream(turn("hard"), stream_mode="messages")]
    answers = [(chunk, metadata) for chunk, metadata in parts if metadata["langgraph_node"] == "model"]
    assert "".join(chunk.text for chunk, _ in answers) == "It is sunny there."
    assert {metadata["routellm_route"] for _, metadata in answers} == {"strong"}
    assert [m.get("routellm_reason") for _, m in answers][0] == "score"
    assert [m.get("routellm_reason") for _, m in answers][-1] == "tool_loop"


# -- faults
def refuses(status: int) -> Callable[[dict[str, Any]], Reply]:
    return lambda body: Reply(status=status)


@both
async def test_a_busy_backend_before_the_first_token_is_replaced(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    loopback.reply = refuses(429)
    made = agent(surface, strong=large(claude), weak=small(loopback), fallback="stronger")
    for result in (made.invoke(turn("easy")), await made.ainvoke(turn("easy"))):
        assert records(result)[0]["fallback_from"] == "weak"
    parts: Any = list(made.stream(turn("easy"), stream_mode="messages"))
    assert "".join(chunk.text for chunk, _ in parts) == "large answers: easy"
    parts = [part async for part in made.astream(turn("easy"), stream_mode="messages")]
    assert "".join(chunk.text for chunk, _ in parts) == "large answers: easy"
    with pytest.raises(ModelRateLimitError):
        agent(surface, strong=large(claude), weak=small(loopback)).invoke(turn("easy"))


@both
async def test_after_its_first_token_a_failing_backend_is_not_replaced(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    """The graph's reader already has the beginning; a second answer behind it would be worse than the error."""
    loopback.reply = lambda body: Reply(text="one two three four", cut_after=3)
    made = agent(surface, strong=large(claude), weak=small(loopback), fallback="any")
    got: list[str] = []
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the client's own, see below
        for chunk, _ in made.stream(turn("easy"), stream_mode="messages"):
            got.append(chunk.text)
    assert isinstance(caught.value, ModelError) or "httpx" in type(caught.value).__module__
    assert "".join(got) == "one two"
    if CONTEXT_IN_TASKS:
        got.clear()
        with pytest.raises(type(caught.value)):
            async for chunk, _ in made.astream(turn("easy"), stream_mode="messages"):
                got.append(chunk.text)
        assert "".join(got) == "one two"
    assert claude.requests == []


@both
def test_a_tool_loop_is_not_moved_when_its_backend_fails(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    loopback.reply = lambda body: weather(body) if len(loopback.requests) == 1 else Reply(status=500)
    saver = InMemorySaver()
    made = agent(surface, [get_weather], strong=large(claude), weak=small(loopback), fallback="any", checkpointer=saver)
    with pytest.raises(ModelAPIError):
        made.invoke(turn("easy"), thread())
    assert claude.requests == []
    loopback.reply = weather
    result = made.invoke(None, thread())  # goes on where it stopped
    assert routes(result) == [("weak", "score"), ("weak", "tool_loop")]
    assert claude.requests == []


@both
async def test_a_cancelled_run_leaves_no_second_request(
    surface: str, loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    loopback.reply = lambda body: Reply(hang=True)
    made = agent(surface, strong=large(claude), weak=small(loopback), fallback="any", checkpointer=InMemorySaver())
    task = asyncio.create_task(made.ainvoke(turn("easy"), thread()))
    await asyncio.to_thread(loopback.wait_for, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    loopback.release()
    assert claude.requests == []
    loopback.reply = lambda body: "well"
    result = await made.ainvoke(None, thread())
    assert result["messages"][-1].text == "well"


def test_langchains_fallback_behind_ours_sees_the_chosen_backend_fail(
    loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    loopback.reply = refuses(400)  # ours would not try another route for that
    made = create_agent(
        never(),
        [],
        system_prompt="Be brief.",
        middleware=[
            middleware(strong=small(loopback), weak=small(loopback)),
            ModelFallbackMiddleware(large(claude)),
        ],
    )
    result = made.invoke(turn("easy"))
    assert result["messages"][-1].text == "large answers: easy"
    assert result["messages"][-1].response_metadata[RECORD]["route"] == "weak"  # what was decided
    assert result["messages"][-1].response_metadata["model_name"] == "large"  # who answered


def test_system_messages_with_markers_are_cleaned_for_others(
    loopback: LoopbackOpenAI, claude: LoopbackAnthropic
) -> None:
    prompt = SystemMessage([{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}])
    made = create_agent(
        never(), [], system_prompt=prompt, middleware=[middleware(strong=large(claude), weak=small(loopback))]
    )
    made.invoke(turn("easy"))
    made.invoke(turn("hard"))
    assert "cache_control" not in json.dumps(loopback.requests)
    assert claude.requests[0]["system"][0]["cache_control"] == {"type": "ephemeral"}
