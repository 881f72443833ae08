"""Graphs of one's own and of other people: tool nodes, subgraphs, branches, streams, supervisors, deep agents."""

from __future__ import annotations

import operator
from typing import Annotated, Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent, tools_condition
from langgraph.types import Send
from typing_extensions import TypedDict

from langchain_routellm import RouteLLMMiddleware
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall
from tests.test_langchain.fakes import RECORD, by_words, fake, get_weather, routed
from tests.test_langchain.surfaces import CONTEXT_IN_TASKS, agent, both, needs_context, records, routes, thread, turn

beta = (
    pytest.mark.filterwarnings("ignore:.*beta"),
    pytest.mark.filterwarnings("ignore:The v3 streaming protocol on Pregel is experimental"),
)
old_agent = pytest.mark.filterwarnings("ignore:create_react_agent has been moved")


def own_graph(llm: Any, **options: Any) -> Any:
    """The agent loop written out by hand."""
    bound = llm.bind_tools([get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(**options)


# -- the loop by hand, and langgraph's own
def test_a_graph_of_ones_own_pins_its_tool_loop() -> None:
    router, usage = ScriptedRouter(by_words), UsageMetadataCallbackHandler()
    made = own_graph(routed(router=router), checkpointer=InMemorySaver())
    result = made.invoke(turn("hard: weather in 'Oslo'"), thread(callbacks=[usage]))
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
    assert len(router.calls) == 1
    assert usage.usage_metadata["fake-strong"]["total_tokens"] == 30  # two calls of 15
    result = made.invoke(turn("easy: weather in 'Rome'"), thread())
    assert routes(result)[2:] == [("weak", "score"), ("weak", "tool_loop")]
    # in the checkpoint too, as a new process would read it
    assert routes(made.get_state(thread()).values) == routes(result)


@old_agent
async def test_langgraphs_own_agent_takes_the_router_bound_or_not() -> None:
    for model in (routed(), routed().bind_tools([get_weather])):
        made = create_react_agent(model, [get_weather])
        assert routes(made.invoke(turn("hard 'Oslo'"))) == [("strong", "score"), ("strong", "tool_loop")]
        assert routes(await made.ainvoke(turn("easy 'Oslo'"))) == [("weak", "score"), ("weak", "tool_loop")]


# -- streams
def tokens(parts: list[Any]) -> str:
    return "".join(chunk.text for chunk, _ in parts if isinstance(chunk, AIMessageChunk))


@both
async def test_every_stream_mode_says_each_thing_once(surface: str) -> None:
    made = agent(surface, [get_weather])
    parts: Any = list(made.stream(turn("hard 'Oslo'"), stream_mode="messages"))
    assert tokens(parts) == "fake-strong answers"
    assert not [m for m, _ in parts if type(m) is AIMessage]  # a whole message would repeat what was streamed
    if CONTEXT_IN_TASKS:
        parts = [part async for part in made.astream(turn("hard 'Oslo'"), stream_mode="messages")]
        assert tokens(parts) == "fake-strong answers"
    updates: Any = list(made.stream(turn("hard 'Oslo'"), stream_mode="updates"))
    assert [list(update) for update in updates] == [["model"], ["tools"], ["model"]]
    assert [r["reason"] for u in updates if "model" in u for r in records(u["model"])] == ["score", "tool_loop"]
    values: Any = list(made.stream(turn("hard 'Oslo'"), stream_mode="values"))
    assert [len(value["messages"]) for value in values] == [1, 2, 3, 4]
    assert routes(values[-1]) == [("strong", "score"), ("strong", "tool_loop")]
    if surface == "middleware":
        assert [value.get("routellm", {}).get("reason") for value in values] == [
            None,
            "score",
            "score",
            "tool_loop",
        ]
    mixed: Any = list(made.stream(turn("easy 'Oslo'"), stream_mode=["messages", "updates"]))
    assert tokens([part for mode, part in mixed if mode == "messages"]) == "fake-weak answers"


@both
@beta[0]
@beta[1]
async def test_the_v3_stream_has_each_message_once(surface: str) -> None:
    made = agent(surface, [get_weather])
    run: Any = made.stream_events(turn("hard 'Oslo'"), version="v3")
    assert ["".join(message.text) for message in run.messages if message.node == "model"] == ["", "fake-strong answers"]
    assert routes(run.output) == [("strong", "score"), ("strong", "tool_loop")]
    run = await made.astream_events(turn("hard 'Oslo'"), version="v3")
    texts = []
    async for message in run.messages:
        if message.node != "model":
            continue  # LangGraph 1.2.0 has the tools' messages there, too
        texts.append("".join([part async for part in message.text]))
    assert texts == ["", "fake-strong answers"]


@needs_context
@both
async def test_the_event_stream_names_the_route_at_every_model_call(surface: str) -> None:
    made, started, ended, said = agent(surface, [get_weather]), [], [], []
    async for event in made.astream_events(turn("hard 'Oslo'"), version="v2"):
        if event["event"] == "on_chat_model_start":
            started.append((event["metadata"]["routellm_route"], event["metadata"]["routellm_reason"]))
        elif event["event"] == "on_chat_model_stream":
            said.append(event["data"]["chunk"].text)
        elif event["event"] == "on_chat_model_end":
            ended.append(event["data"]["output"].usage_metadata["total_tokens"])
    assert started == [("strong", "score"), ("strong", "tool_loop")]
    assert ended == [15, 15]
    assert "".join(said) == "fake-strong answers"


# -- graphs in graphs
@both
def test_an_agent_as_a_subgraph_keeps_its_own_loop(surface: str) -> None:
    inner = agent(surface, [get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("helper", inner)
    graph.add_edge(START, "helper")
    made = graph.compile(checkpointer=InMemorySaver())
    result = made.invoke(turn("hard 'Oslo'"), thread())
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
    parts: Any = list(made.stream(turn("easy 'Oslo'"), thread(), stream_mode="messages", subgraphs=True))
    assert tokens([part for _, part in parts]) == "fake-weak answers"
    assert routes(made.get_state(thread()).values)[2:] == [("weak", "score"), ("weak", "tool_loop")]


class Fan(TypedDict):
    questions: list[str]
    answers: Annotated[list[Any], operator.add]


@both
async def test_parallel_branches_are_routed_each_on_its_own(surface: str) -> None:
    inner = agent(surface)

    def one(state: dict[str, str]) -> dict[str, Any]:
        return {"answers": [inner.invoke(turn(state["question"]))["messages"][-1]]}

    async def aone(state: dict[str, str]) -> dict[str, Any]:
        return {"answers": [(await inner.ainvoke(turn(state["question"])))["messages"][-1]]}

    questions = ["hard one", "easy one", "hard two", "easy two"]
    for node in (one, aone):
        graph: Any = StateGraph(Fan)
        graph.add_node("one", node)
        graph.add_conditional_edges(START, lambda state: [Send("one", {"question": q}) for q in state["questions"]])
        graph.add_edge("one", END)
        made = graph.compile()
        usage = UsageMetadataCallbackHandler()
        with collect_decisions() as decisions:
            config: Any = {"callbacks": [usage]}
            value = {"questions": questions, "answers": []}
            result = made.invoke(value, config) if node is one else await made.ainvoke(value, config)
        assert [m.text for m in result["answers"]] == ["fake-strong answers", "fake-weak answers"] * 2
        assert sorted(d.route for d in decisions) == ["strong", "strong", "weak", "weak"]
        if node is one or CONTEXT_IN_TASKS:
            assert {model: counts["total_tokens"] for model, counts in usage.usage_metadata.items()} == {
                "fake-strong": 30,
                "fake-weak": 30,
            }


def test_agents_that_write_their_record_to_one_graph_in_one_step() -> None:
    class Common(MessagesState):
        routellm: Annotated[dict[str, Any] | None, lambda old, new: new]

    graph = StateGraph(Common)
    graph.add_node("a", agent("middleware"))
    graph.add_node("b", agent("middleware"))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    result = graph.compile().invoke(turn("hard"))
    assert [r["route"] for r in records(result)] == ["strong", "strong"]
    assert result["routellm"]["route"] == "strong"


# -- the functional API
async def test_the_functional_api() -> None:
    llm = routed()

    @task
    def ask(question: str) -> AIMessage:
        return llm.invoke(question)

    @entrypoint(checkpointer=InMemorySaver())
    def flow(questions: list[str]) -> list[AIMessage]:
        return [future.result() for future in [ask(question) for question in questions]]

    answers = flow.invoke(["hard", "easy"], thread("a"))
    assert [m.response_metadata[RECORD]["route"] for m in answers] == ["strong", "weak"]
    parts: Any = list(flow.stream(["hard"], thread("b"), stream_mode="messages"))
    assert "".join(message.text for message, _ in parts) == "fake-strong answers"  # whole in older LangGraphs

    if not CONTEXT_IN_TASKS:
        return  # LangGraph refuses tasks in asynchronous code there

    @task
    async def aask(question: str) -> AIMessage:
        return await llm.ainvoke(question)

    @entrypoint()
    async def aflow(questions: list[str]) -> list[AIMessage]:
        return [await aask(question) for question in questions]

    answers = await aflow.ainvoke(["hard", "easy"])
    assert [m.response_metadata[RECORD]["route"] for m in answers] == ["strong", "weak"]


# -- other people's graphs
@old_agent
def test_a_supervisor_and_its_worker() -> None:
    supervisor = pytest.importorskip("langgraph_supervisor")
    usage = UsageMetadataCallbackHandler()
    worker = agent("middleware", [get_weather], name="worker")
    made = supervisor.create_supervisor([worker], model=routed()).compile(checkpointer=InMemorySaver())
    result = made.invoke(turn("hard: ask the worker"), thread(callbacks=[usage]))
    named = [
        (m.name, m.response_metadata[RECORD]["route"]) for m in result["messages"] if RECORD in m.response_metadata
    ]
    # the supervisor hands over, the worker answers, the supervisor closes
    assert named == [("supervisor", "strong"), ("worker", "strong"), ("supervisor", "strong")]
    assert usage.usage_metadata["fake-strong"]["total_tokens"] == 45
    result = made.invoke(turn("easy: ask the worker"), thread())
    assert [r["route"] for r in records([m for m in result["messages"] if RECORD in m.response_metadata])][3:] == [
        "weak",
        "weak",
        "weak",
    ]


def deep(body: dict[str, Any]) -> Reply:
    """Delegates to a subagent, which answers; then sums up."""
    names = {t["function"]["name"] for t in body.get("tools", [])}
    last = body["messages"][-1]
    if "task" in names and last["role"] == "user":
        call = {"description": "hard: prove it", "subagent_type": "general-purpose"}
        return Reply(tool_calls=(ToolCall(name="task", arguments=call),))
    return Reply(text=f"{body['model']} says so")


async def test_a_deep_agent_and_its_subagents_are_routed(loopback: LoopbackOpenAI) -> None:
    deepagents = pytest.importorskip("deepagents")
    loopback.reply = deep

    def client(model: str) -> Any:
        return ChatOpenAI(model=model, base_url=loopback.url, api_key="none", max_retries=0)

    routing: Any = {"router": ScriptedRouter(by_words), "threshold": 0.5}
    llm = routed(weak=client("small"), strong=client("large"), **routing)
    made = deepagents.create_deep_agent(model=llm, checkpointer=InMemorySaver())
    result = made.invoke(turn("easy: delegate"), thread())
    assert routes(result) == [("weak", "score"), ("weak", "tool_loop")]
    # the subagent has its own question, and so its own route
    assert [request["model"] for request in loopback.requests] == ["small", "large", "small"]
    assert result["messages"][-2].text == "large says so"

    # as middleware it is part of the main agent; a subagent gets its own
    loopback.requests.clear()
    routing |= {"weak": client("small"), "strong": client("large")}
    helper: Any = {
        "name": "general-purpose",
        "description": "Does it.",
        "system_prompt": "Do it.",
        "middleware": [RouteLLMMiddleware(**routing)],
    }
    made = deepagents.create_deep_agent(
        model=fake("never"), middleware=[RouteLLMMiddleware(**routing)], subagents=[helper]
    )
    result = await made.ainvoke(turn("easy: delegate"))
    assert [request["model"] for request in loopback.requests] == ["small", "large", "small"]
    assert result["routellm"] == {"route": "weak", "reason": "tool_loop"}


# -- the old settings of a call, through a graph
def test_configurable_reaches_every_node_and_stops_at_the_backends() -> None:
    inner = routed()
    outer = routed(weak=inner, strong=fake("top"))
    made = own_graph(outer)
    config: Any = {"configurable": {"routellm_route": "weak"}}
    result = made.invoke({"messages": [HumanMessage("hard 'Oslo'")]}, config)
    assert [(r["reason"], r["inner"]["route"]) for r in records(result)] == [("forced", "strong")] * 2
