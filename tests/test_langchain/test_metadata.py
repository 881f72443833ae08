"""What a run's metadata says of a call reaches a router that was fitted with it, and no backend."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_routellm import ChatRouteLLM, RouteLLMMiddleware, RouterRunnable
from routellm_core import EscalationPolicy
from routellm_core.testing import LoopbackOpenAI, Reply, ToolCall
from tests.by_tier import ByTier, Never
from tests.test_langchain.fakes import RECORD, Runs, get_weather
from tests.test_langchain.surfaces import both, needs_context, routes, turn

PAID: Any = {"metadata": {"tier": "paid", "trace": "s3cret"}}
FREE: Any = {"metadata": {"tier": "free"}}


class City(BaseModel):
    """A city."""

    name: str


def clients(server: LoopbackOpenAI) -> dict[str, ChatOpenAI]:
    def client(model: str) -> ChatOpenAI:
        return ChatOpenAI(model=model, base_url=server.url, api_key="none", max_retries=0, stream_usage=True)  # type: ignore[arg-type]

    return {"weak": client("small"), "strong": client("large")}


def over(server: LoopbackOpenAI, router: Any = None, **options: Any) -> ChatRouteLLM:
    options.setdefault("policy", None)
    if options["policy"] is None:
        options |= {"router": router or ByTier(), "threshold": 0.5, "on_error": "raise"}
    return ChatRouteLLM(**clients(server), **options)


def asked(server: LoopbackOpenAI) -> list[str]:
    """The models of the requests so far; in none of them is anything of the metadata."""
    sent = json.dumps(server.requests)
    assert "s3cret" not in sent and "paid" not in sent and "tier" not in sent
    return [request["model"] for request in server.requests]


# -- every way to call
async def _last(stream: Any) -> None:
    async for _ in stream:
        pass


WAYS: dict[str, Any] = {
    "invoke": lambda llm, config: llm.invoke("q", config),
    "ainvoke": lambda llm, config: asyncio.run(llm.ainvoke("q", config)),
    "stream": lambda llm, config: list(llm.stream("q", config)),
    "astream": lambda llm, config: asyncio.run(_last(llm.astream("q", config))),
    "batch": lambda llm, config: llm.batch(["q"], config),
    "abatch": lambda llm, config: asyncio.run(llm.abatch(["q"], [config])),
    "generate": lambda llm, config: llm.generate([[HumanMessage("q")]], metadata=config["metadata"]),
    "agenerate": lambda llm, config: asyncio.run(llm.agenerate([[HumanMessage("q")]], metadata=config["metadata"])),
    "astream_events": lambda llm, config: asyncio.run(_last(llm.astream_events("q", config))),
    "stream_events": lambda llm, config: list(llm.stream_events("q", config, version="v3")),
    "transform": lambda llm, config: list(llm.transform(iter(["q"]), config)),
    "bind_tools": lambda llm, config: llm.bind_tools([get_weather]).invoke("q", config),
    "with_config": lambda llm, config: llm.with_config(config).invoke("q"),
    "with_config and tools": lambda llm, config: llm.with_config(config).bind_tools([get_weather]).invoke("q"),
    "chain": lambda llm, config: (ChatPromptTemplate.from_template("{q}") | llm | StrOutputParser()).invoke(
        {"q": "q"}, config
    ),
    "parallel": lambda llm, config: (RunnableLambda(str) | {"a": llm}).invoke("q", config),
    "inside a function": lambda llm, config: RunnableLambda(lambda text: llm.invoke(text)).invoke("q", config),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_call_tells_the_router(loopback: LoopbackOpenAI, way: str) -> None:
    router = ByTier()
    llm = over(loopback, router)
    WAYS[way](llm, PAID)
    WAYS[way](llm, FREE)
    assert asked(loopback) == ["large", "small"]
    assert router.given == [{"tier": ["paid"]}, {"tier": ["free"]}]


@pytest.mark.parametrize("way", ["batch", "abatch", "batch_as_completed", "structured"])
def test_a_batch_with_metadata_of_each_item_is_scored_in_one_call(loopback: LoopbackOpenAI, way: str) -> None:
    if way == "structured":
        loopback.reply = lambda body: Reply(text='{"name": "Rome"}')
    router = ByTier()
    llm: Any = over(loopback, router)
    llm = llm.with_structured_output(City, method="json_schema") if way == "structured" else llm
    configs: Any = [PAID, FREE, {}, PAID]
    inputs = ["a", "b", "c", "d"]
    if way == "abatch":
        asyncio.run(llm.abatch(inputs, configs))
    elif way == "batch_as_completed":
        list(llm.batch_as_completed(inputs, configs))
    else:
        llm.batch(inputs, configs)
    assert router.given == [{"tier": ["paid", "free", None, "paid"]}]
    assert sorted(asked(loopback)) == ["large", "large", "small", "small"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_structured_output_is_routed_by_it(loopback: LoopbackOpenAI, asynchronous: bool) -> None:
    loopback.reply = lambda body: Reply(text='{"name": "Rome"}')
    chain = over(loopback).with_structured_output(City, method="json_schema")
    for config in (PAID, FREE):
        city = await chain.ainvoke("q", config) if asynchronous else chain.invoke("q", config)
        assert city == City(name="Rome")
    assert asked(loopback) == ["large", "small"]


def test_a_cascade_goes_straight_to_the_strong_model_by_it(loopback: LoopbackOpenAI) -> None:
    policy = EscalationPolicy(Never(), ByTier(), threshold=0.5, escalation_threshold=0.5)
    llm = over(loopback, policy=policy)
    llm.invoke("q", PAID)
    llm.invoke("q", FREE)
    assert asked(loopback) == ["large", "small"]


# -- where it comes from
def test_the_constructors_metadata_holds_unless_the_call_says_otherwise(loopback: LoopbackOpenAI) -> None:
    router = ByTier()
    llm = over(loopback, router, metadata={"tier": "paid", "topic": "law"})
    llm.invoke("q")
    llm.batch(["a", "b"], [{}, FREE])
    assert router.given == [
        {"tier": ["paid"], "topic": ["law"]},
        {"tier": ["paid", "free"], "topic": ["law", "law"]},
    ]


@pytest.mark.parametrize("how", ["invoke", "batch"])
def test_metadata_of_a_step_does_not_hide_that_of_the_chain_around_it(loopback: LoopbackOpenAI, how: str) -> None:
    router = ByTier()
    llm = over(loopback, router)

    def step(text: str) -> Any:
        own: Any = {"metadata": {"topic": "law"}}
        return llm.invoke(text, own) if how == "invoke" else llm.batch([text, text], own)

    RunnableLambda(step).invoke("q", PAID)
    n = 1 if how == "invoke" else 2
    assert router.given == [{"tier": ["paid"] * n, "topic": ["law"] * n}]


def test_the_run_has_the_metadata_that_was_routed_by_and_its_record_has_none(loopback: LoopbackOpenAI) -> None:
    runs = Runs()
    answer = over(loopback).invoke("q", {**PAID, "callbacks": [runs]})
    assert "paid" not in json.dumps(answer.response_metadata[RECORD])
    # the model's run has it as LangChain passes it on, and nothing else of it
    assert [start["metadata"]["tier"] for start in runs.starts] == ["paid", "paid"]


def test_a_router_that_wants_none_does_not_look(loopback: LoopbackOpenAI) -> None:
    llm = ChatRouteLLM(**clients(loopback), router="random", threshold=0.0)
    assert llm.invoke("q", PAID).response_metadata[RECORD]["route"] == "strong"


# -- RouterRunnable
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch", "stream"])
def test_a_branch_is_picked_by_it(how: str) -> None:
    router = ByTier()
    routes: Any = {"weak": lambda x: "short", "strong": lambda x: "long"}
    chain: Any = RunnableLambda(lambda x: x) | RouterRunnable(routes, router=router, threshold=0.5)
    if how == "batch":
        assert chain.batch(["a", "b"], [PAID, FREE]) == ["long", "short"]
        assert router.given == [{"tier": ["paid", "free"]}]
    elif how == "stream":
        assert list(chain.stream("a", PAID)) == ["long"]
    else:
        assert (asyncio.run(chain.ainvoke("a", PAID)) if how == "ainvoke" else chain.invoke("a", PAID)) == "long"


# -- agents and graphs
def _agent(surface: str, server: LoopbackOpenAI, router: Any, **options: Any) -> Any:
    if surface == "model":
        return create_agent(over(server, router), [get_weather], **options)
    models = clients(server)
    routing = RouteLLMMiddleware(**models, router=router, threshold=0.5, on_error="raise")
    return create_agent(models["strong"], [get_weather], middleware=[routing], **options)


def _with_a_tool(body: dict[str, Any]) -> Reply:
    if body["messages"][-1]["role"] == "tool":
        return Reply(text="sunny")
    return Reply(tool_calls=(ToolCall(name="get_weather", arguments={"city": "Rome"}),))


@both
def test_an_agents_calls_are_routed_by_the_runs_metadata(loopback: LoopbackOpenAI, surface: str) -> None:
    loopback.reply = _with_a_tool
    router = ByTier()
    agent = _agent(surface, loopback, router)
    assert routes(agent.invoke(turn("weather?"), PAID)) == [("strong", "score"), ("strong", "tool_loop")]
    assert routes(agent.invoke(turn("weather?"), FREE)) == [("weak", "score"), ("weak", "tool_loop")]
    assert asked(loopback) == ["large", "large", "small", "small"]
    assert router.given == [{"tier": ["paid"]}, {"tier": ["free"]}]


@both
@needs_context
async def test_an_asynchronous_agents_calls_too(loopback: LoopbackOpenAI, surface: str) -> None:
    agent = _agent(surface, loopback, ByTier())
    await agent.ainvoke(turn("weather?"), PAID)
    async for _ in agent.astream(turn("weather?"), FREE):
        pass
    assert asked(loopback) == ["large", "small"]


@dataclass
class User:
    """What an application knows of who asks."""

    name: str
    tier: str | None = None


@pytest.mark.parametrize("kind", ["dataclass", "dict"])
async def test_an_agents_context_says_it_too_and_the_metadata_goes_first(loopback: LoopbackOpenAI, kind: str) -> None:
    router = ByTier()
    agent = _agent("middleware", loopback, router, context_schema=User if kind == "dataclass" else dict)

    def context(tier: str) -> Any:
        return User("s3cret", tier) if kind == "dataclass" else {"name": "s3cret", "tier": tier}

    agent.invoke(turn("weather?"), context=context("paid"))
    await agent.ainvoke(turn("weather?"), context=context("paid"))
    agent.invoke(turn("weather?"), FREE, context=context("paid"))
    agent.invoke(turn("weather?"))
    assert asked(loopback) == ["large", "large", "small", "small"]
    assert router.given == [{"tier": ["paid"]}, {"tier": ["paid"]}, {"tier": ["free"]}, None]


def test_a_graph_in_a_graph_hands_it_down(loopback: LoopbackOpenAI) -> None:
    llm = over(loopback)

    def node(state: MessagesState) -> Any:
        return {"messages": [llm.invoke(state["messages"])]}

    def compiled(inner: Any) -> Any:
        graph = StateGraph(MessagesState)
        graph.add_node("inner", inner)
        graph.add_edge(START, "inner")
        graph.add_edge("inner", END)
        return graph.compile()

    nested = compiled(compiled(node))
    nested.invoke(turn("q"), PAID)
    nested.with_config(FREE).invoke(turn("q"))
    assert asked(loopback) == ["large", "small"]
