"""ChatRouteLLM inside LangGraph: agents, checkpointers, their streams."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, backend, by_words, fake, get_weather, routed


class Answer(BaseModel):
    """An answer."""

    city: str


def records(result: Any) -> list[dict[str, Any]]:
    return [m.response_metadata[RECORD] for m in result["messages"] if isinstance(m, AIMessage)]


def turn(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


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


@pytest.mark.xfail(sys.version_info < (3, 11), reason="no context propagation into tasks before 3.11", strict=True)
async def test_the_settings_of_a_call_reach_the_model_through_the_async_graph() -> None:
    config: Any = {"configurable": {"routellm_threshold": 0.99}}
    assert records(await create_agent(routed(), []).ainvoke(turn("medium"), config))[0]["route"] == "weak"


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
