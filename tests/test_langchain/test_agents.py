"""ChatRouteLLM inside LangGraph: agents, checkpointers, their streams."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import backend, by_words, fake, get_weather, routed
from tests.test_langchain.surfaces import agent, both, needs_context, records, routes, thread, turn


class Answer(BaseModel):
    """An answer."""

    city: str


def test_an_agents_tool_loop_is_pinned_and_costs_one_scoring() -> None:
    router, usage = ScriptedRouter(by_words), UsageMetadataCallbackHandler()
    llm = routed(router=router)
    agent = create_agent(llm, [get_weather], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [usage]}
    result = agent.invoke(turn("hard: what is the weather in 'Oslo'"), config)
    assert [(r["route"], r["reason"]) for r in records(result)] == [("strong", "score"), ("strong", "tool_loop")]
    assert result["messages"][-1].text == "fake-strong answers"
    assert len(router.calls) == 1
    assert usage.usage_metadata["fake-strong"]["total_tokens"] == 30
    result = agent.invoke(turn("easy: what is the weather in 'Rome'"), config)
    assert [r["route"] for r in records(result)] == ["strong", "strong", "weak", "weak"]


async def test_an_async_agent_does_the_same() -> None:
    agent = create_agent(routed(), [get_weather])
    result = await agent.ainvoke(turn("hard: what is the weather in 'Oslo'"))
    assert [r["reason"] for r in records(result)] == ["score", "tool_loop"]


def test_a_sticky_conversation_survives_the_checkpointer() -> None:
    router = ScriptedRouter(by_words)
    agent = create_agent(routed(router=router, stickiness="conversation"), [], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(turn("easy"), config)
    assert records(agent.invoke(turn("hard"), config))[1] == {"route": "weak", "reason": "conversation"}
    assert len(router.calls) == 1


def test_the_settings_of_a_call_reach_the_model_through_the_graph() -> None:
    agent = create_agent(routed(), [])
    config: Any = {"configurable": {"routellm_threshold": 0.99}}
    assert records(agent.invoke(turn("medium"), config))[0]["route"] == "weak"


@needs_context
async def test_the_settings_of_a_call_reach_the_model_through_the_async_graph() -> None:
    config: Any = {"configurable": {"routellm_threshold": 0.99}}
    assert records(await create_agent(routed(), []).ainvoke(turn("medium"), config))[0]["route"] == "weak"


@both
async def test_a_router_that_fails_costs_an_agent_nothing_but_money(surface: str) -> None:
    def broken(prompt: str) -> float:
        raise RuntimeError("broken")

    made = agent(surface, [get_weather], router=ScriptedRouter(broken))
    for result in (made.invoke(turn("easy 'Oslo'")), await made.ainvoke(turn("easy 'Oslo'"))):
        assert routes(result) == [("strong", "scorer_error"), ("strong", "tool_loop")]
        assert result["messages"][-1].text == "fake-strong answers"


@both
async def test_a_router_that_hangs_is_left_alone_after_three_turns(surface: str) -> None:
    release, asked = threading.Event(), []

    def hangs(prompt: str) -> float:
        asked.append(prompt)
        release.wait()
        return 0.0

    options: Any = {"router": ScriptedRouter(hangs, is_quick=False), "router_timeout_s": 0.02, "on_error": "weak"}
    made = agent(surface, [get_weather], checkpointer=InMemorySaver(), **options)
    try:
        for _ in range(3):
            await made.ainvoke(turn("'Oslo'"), thread())
        result = made.invoke(turn("'Oslo'"), thread())
    finally:
        release.set()
    assert routes(result) == [("weak", "scorer_error"), ("weak", "tool_loop")] * 4
    assert "within 0.02 s" in records(result)[0]["error"]
    assert "left alone" in records(result)[-2]["error"]
    assert len(asked) <= 3  # on a busy machine a late one may not have begun


def test_the_messages_stream_has_each_token_once_with_its_route() -> None:
    parts: Any = list(create_agent(routed(), []).stream(turn("hard"), stream_mode="messages"))
    assert "".join(part[0].text for part in parts) == "fake-strong answers"
    assert {part[1]["routellm_route"] for part in parts} == {"strong"}


@pytest.mark.filterwarnings("ignore:.*beta")
@pytest.mark.filterwarnings("ignore:The v3 streaming protocol on Pregel is experimental")
def test_the_agents_v3_stream_has_one_message_with_each_token_once() -> None:
    run: Any = create_agent(routed(), []).stream_events(turn("hard"), version="v3")
    assert ["".join(message.text) for message in run.messages] == ["fake-strong answers"]
    assert records(run.output)[-1]["route"] == "strong"


def test_a_model_that_judges_prompts_does_not_leak_into_the_messages_stream() -> None:
    judge = fake("judge")

    def judged(prompt: str) -> float:
        judge.invoke(prompt)
        return 0.1

    agent = create_agent(routed(router=ScriptedRouter(judged, is_quick=False)), [])
    parts: Any = list(agent.stream(turn("x"), stream_mode="messages"))
    assert "".join(part[0].text for part in parts) == "fake-weak answers"
    assert len(judge.seen) == 1


def test_an_agents_structured_answer_uses_what_every_backend_can() -> None:
    for response_format in (Answer, ToolStrategy(Answer)):
        result = create_agent(routed(), [], response_format=response_format).invoke(turn("'Oslo'"))
        assert result["structured_response"] == Answer(city="Oslo")


def test_a_prebound_router_works_in_a_graph_of_ones_own() -> None:
    from langgraph.graph import END, START, MessagesState, StateGraph

    llm = routed()
    bound = llm.bind_tools([get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    result = graph.compile().invoke(turn("easy 'Oslo'"))
    assert result["messages"][-1].tool_calls[0]["args"] == {"city": "Oslo"}
    assert len(backend(llm, "weak").seen) == 1


def test_summarization_by_fraction_takes_the_common_profile() -> None:
    with pytest.raises(ValueError, match="profile"):
        SummarizationMiddleware(model=routed(), trigger=("fraction", 0.5))
    profile: Any = {"max_input_tokens": 1000}
    llm = routed(weak=fake("a", profile=profile), strong=fake("b", profile=profile))
    SummarizationMiddleware(model=llm, trigger=("fraction", 0.5))
