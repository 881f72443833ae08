"""RouterRunnable and LangGraph: as a node, over whole agents, beside a checkpointer; and as a tool of an agent."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_routellm import RouterRunnable
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall
from tests.test_langchain.fakes import RECORD, by_words, get_weather, routed


def client(server: LoopbackOpenAI, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=server.url, api_key="none", max_retries=0, stream_usage=True)  # type: ignore[arg-type]


def choosing(routes: dict[str, Any], **options: Any) -> RouterRunnable[Any, Any]:
    options.setdefault("router", ScriptedRouter(by_words))
    return RouterRunnable(routes, threshold=0.5, **options)


def calls_a_tool(body: dict[str, Any]) -> Reply | str:
    if body["messages"][-1]["role"] == "tool":
        return f"{body['model']}: {body['messages'][-1]['content']}"
    return Reply(tool_calls=(ToolCall(name="get_weather", arguments={"city": "Oslo"}),))


class Question(TypedDict):
    question: str
    answer: str


async def test_as_a_node_it_sees_the_graphs_settings_and_streams_its_models_tokens(loopback: LoopbackOpenAI) -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    chain = choosing({"weak": prompt | client(loopback, "small"), "strong": prompt | client(loopback, "large")})
    builder = StateGraph(Question)
    builder.add_node("answering", chain | (lambda message: {"answer": message.text}))
    builder.add_edge(START, "answering")
    builder.add_edge("answering", END)
    graph = builder.compile()
    # the state has two keys, and "question" is the one that chains ask with
    assert graph.invoke({"question": "hard", "answer": ""})["answer"] == "large answers: hard"
    config: RunnableConfig = {"configurable": {"routellm_route": "weak"}}
    assert (await graph.ainvoke({"question": "hard", "answer": ""}, config))["answer"] == "small answers: hard"
    tokens = list(graph.stream({"question": "hard", "answer": ""}, stream_mode="messages"))
    assert "".join(chunk.text for chunk, _ in tokens) == "large answers: hard"  # type: ignore[union-attr]
    assert {metadata["routellm_route"] for _, metadata in tokens} == {"strong"}  # type: ignore[union-attr]


async def test_whole_agents_are_routes_and_their_loops_stay_inside(loopback: LoopbackOpenAI) -> None:
    loopback.reply = calls_a_tool
    chain = choosing({name: create_agent(client(loopback, name), [get_weather]) for name in ("small", "large")})
    with collect_decisions() as decisions:
        state = chain.invoke({"messages": [("human", "a hard question on the weather in Oslo")]})
        assert state["messages"][-1].text == "large: sunny in Oslo"
        state = await chain.ainvoke({"messages": [HumanMessage("the weather in Oslo, please")]})
        assert state["messages"][-1].text == "small: sunny in Oslo"
    assert [request["model"] for request in loopback.requests] == ["large", "large", "small", "small"]
    assert [d.route for d in decisions] == ["large", "small"]  # one a run, however many model calls it took
    # the endpoint counts words: nothing in the tool call, then "large: sunny in Oslo"
    usage = decisions.usage_of(decisions[0])
    assert usage is not None
    assert usage.output_tokens == 4


def test_agents_as_routes_keep_their_threads(loopback: LoopbackOpenAI) -> None:
    loopback.reply = lambda body: f"{body['model']} has {len(body['messages'])} messages"
    saver = InMemorySaver()
    agents = {name: create_agent(client(loopback, name), [], checkpointer=saver) for name in ("small", "large")}
    chain = choosing(agents)
    thread: RunnableConfig = {"configurable": {"thread_id": "one"}}
    for asked, model, count in (("easy", "small", 1), ("hard", "large", 3), ("easy again", "small", 5)):
        state = chain.invoke({"messages": [("human", asked)]}, thread)
        assert state["messages"][-1].text == f"{model} has {count} messages"


async def test_an_interrupt_passes_through_and_the_graph_resumes_on_the_same_route() -> None:
    def asks(name: str) -> Any:
        return RunnableLambda(lambda state: {"answer": f"{name}: {interrupt('sure?')}"})

    builder = StateGraph(Question)
    builder.add_node("answering", choosing({"weak": asks("weak"), "strong": asks("strong")}, fallback="any"))
    builder.add_edge(START, "answering")
    graph = builder.compile(checkpointer=InMemorySaver())
    for asked, route in (("hard", "strong"), ("easy", "weak")):
        thread: RunnableConfig = {"configurable": {"thread_id": asked}}
        halted = graph.invoke({"question": asked, "answer": ""}, thread)
        assert halted["__interrupt__"][0].value == "sure?"
        assert graph.invoke(Command(resume="yes"), thread)["answer"] == f"{route}: yes"


async def test_in_a_hand_written_tool_loop_the_node_keeps_its_route(loopback: LoopbackOpenAI) -> None:
    from langgraph.prebuilt import ToolNode, tools_condition

    loopback.reply = calls_a_tool
    router = ScriptedRouter(by_words)
    models = {name: client(loopback, name).bind_tools([get_weather]) for name in ("small", "large")}
    model = choosing(models, router=router)
    builder = StateGraph(MessagesState)
    builder.add_node("model", (lambda state: state["messages"]) | model | (lambda message: {"messages": [message]}))
    builder.add_node("tools", ToolNode([get_weather]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    graph = builder.compile(checkpointer=InMemorySaver())
    thread: RunnableConfig = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke({"messages": [HumanMessage("a hard question on Oslo")]}, thread)
    records = [m.response_metadata[RECORD] for m in state["messages"] if isinstance(m, AIMessage)]
    assert [(r["route"], r["reason"]) for r in records] == [("large", "score"), ("large", "tool_loop")]
    assert len(router.calls) == 1
    state = await graph.ainvoke({"messages": [HumanMessage("now an easy question, please")]}, thread)
    assert state["messages"][-1].response_metadata[RECORD]["route"] == "small"


@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_it_becomes_a_tool_and_the_agent_around_it_is_routed_by_itself(loopback: LoopbackOpenAI) -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    asking = choosing({"weak": prompt | client(loopback, "small"), "strong": prompt | client(loopback, "large")}) | (
        lambda message: message.text
    )
    expert = asking.as_tool(name="expert", description="Ask an expert.")

    def reply(body: dict[str, Any]) -> Reply | str:
        if body.get("tools") and body["messages"][-1]["role"] != "tool":
            return Reply(tool_calls=(ToolCall(name="expert", arguments={"question": "a hard one"}),))
        return f"{body['model']} answers: {body['messages'][-1]['content']}"

    loopback.reply = reply
    agent = create_agent(routed(weak=client(loopback, "tiny"), strong=client(loopback, "huge")), [expert])
    with collect_decisions() as decisions:
        state = agent.invoke({"messages": [("human", "please ask")]})
        # what stands side by side in a graph sees the same settings; only what is inside a route does not
        forced = agent.invoke({"messages": [("human", "hard")]}, {"configurable": {"routellm_route": "weak"}})
    assert state["messages"][-1].text == "tiny answers: large answers: a hard one"
    assert forced["messages"][-1].text == "tiny answers: small answers: a hard one"
    assert [(d.route, d.reason) for d in decisions] == [
        ("weak", "score"),
        ("strong", "score"),
        ("weak", "tool_loop"),
        *[("weak", "forced")] * 3,
    ]
