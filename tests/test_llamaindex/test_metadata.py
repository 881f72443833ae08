"""What is known of a call reaches a router that was fitted with it, through components that pass no options on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core import Document, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.tools import QueryEngineTool
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM, RouteLLMSelector, force_route, metadata_scope
from routellm_core import EscalationPolicy
from routellm_core.errors import ConfigurationError
from routellm_core.testing import LoopbackOpenAI, Reply, ToolCall
from tests.by_tier import ByTier, Never

PAID = {"tier": "paid", "tenant": "s3cret"}
FREE = {"tier": "free"}
SCOPES = {"scope": metadata_scope, "tags": instrument_tags}


class City(BaseModel):
    """A city."""

    name: str


@pytest.fixture(autouse=True)
def offline_embedding(monkeypatch: Any) -> None:
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(8))


def routed(kit: Any, client: Any, router: Any = None, **options: Any) -> RouteLLM:
    if "policy" not in options:
        options |= {"router": router or ByTier(), "threshold": 0.5, "on_error": "raise"}
    return RouteLLM(strong=client("big"), weak=client("little"), **options)


def asked(server: LoopbackOpenAI) -> list[str]:
    """The models of the requests so far; in none of them is anything of the metadata."""
    sent = json.dumps(server.requests)
    assert "s3cret" not in sent and "tier" not in sent
    return [request["model"] for request in server.requests]


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=100_000, tokenizer_fn=str.split)


def index(kind: Any = SummaryIndex) -> Any:
    return kind.from_documents([Document(text="Bern is the seat.")], embed_model=MockEmbedding(8))


async def _read(stream: Any) -> None:
    async for _ in await stream:
        pass


WAYS: dict[str, Any] = {
    "chat": lambda kit, llm: llm.chat([kit.user("q")]),
    "achat": lambda kit, llm: asyncio.run(llm.achat([kit.user("q")])),
    "stream_chat": lambda kit, llm: list(llm.stream_chat([kit.user("q")])),
    "astream_chat": lambda kit, llm: asyncio.run(_read(llm.astream_chat([kit.user("q")]))),
    "complete": lambda kit, llm: llm.complete("q"),
    "acomplete": lambda kit, llm: asyncio.run(llm.acomplete("q")),
    "stream_complete": lambda kit, llm: list(llm.stream_complete("q")),
    "astream_complete": lambda kit, llm: asyncio.run(_read(llm.astream_complete("q"))),
    "predict": lambda kit, llm: llm.predict(PromptTemplate("{query_str}"), query_str="q"),
    "apredict": lambda kit, llm: asyncio.run(llm.apredict(PromptTemplate("{query_str}"), query_str="q")),
    "chat_with_tools": lambda kit, llm: llm.chat_with_tools([kit.LOOK], "q"),
    "query engine": lambda kit, llm: index().as_query_engine(llm=llm).query("q"),
    "awaited query engine": lambda kit, llm: asyncio.run(index().as_query_engine(llm=llm).aquery("q")),
    "tree of answers": lambda kit, llm: index().as_query_engine(llm=llm, response_mode="tree_summarize").query("q"),
    "streamed answer": lambda kit, llm: str(index().as_query_engine(llm=llm, streaming=True).query("q")),
    "context chat engine": lambda kit, llm: (
        index(VectorStoreIndex).as_chat_engine(chat_mode="context", llm=llm, memory=memory()).chat("q")
    ),
    "streamed chat engine": lambda kit, llm: list(
        index(VectorStoreIndex)
        .as_chat_engine(chat_mode="context", llm=llm, memory=memory())
        .stream_chat("q")
        .response_gen
    ),
    "condensing chat engine": lambda kit, llm: (
        index(VectorStoreIndex).as_chat_engine(chat_mode="condense_question", llm=llm, memory=memory()).chat("q")
    ),
}


@pytest.mark.parametrize(
    ("scope", "way"), [*(("scope", way) for way in WAYS), *(("tags", way) for way in ("acomplete", "query engine"))]
)
def test_every_way_to_call_tells_the_router(scope: str, way: str, kit: Any, client: Any, loopback: LoopbackOpenAI):
    router = ByTier(is_quick=way != "acomplete")  # one of them in a thread
    llm = routed(kit, client, router)
    for known in (PAID, FREE):
        with SCOPES[scope](known):
            WAYS[way](kit, llm)
    assert asked(loopback) == ["big", "little"]
    assert router.given == [{"tier": ["paid"]}, {"tier": ["free"]}]


def test_structured_output_is_routed_by_it(kit: Any, client: Any, loopback: LoopbackOpenAI):
    loopback.reply = lambda body: Reply(tool_calls=(ToolCall(name="City", arguments={"name": "Bern"}),))
    llm = routed(kit, client)
    for known in (PAID, FREE):
        with metadata_scope(known):
            assert llm.structured_predict(City, PromptTemplate("{query_str}"), query_str="q") == City(name="Bern")
    assert asked(loopback) == ["big", "little"]


def test_a_cascade_goes_straight_to_the_strong_model_by_it(kit: Any, client: Any, loopback: LoopbackOpenAI):
    policy = EscalationPolicy(Never(), ByTier(), threshold=0.5, escalation_threshold=0.5)
    llm = routed(kit, client, policy=policy)
    for known in (PAID, FREE):
        with metadata_scope(known):
            llm.complete("q")
    assert asked(loopback) == ["big", "little"]


# -- agents and workflows
def _with_a_tool(body: dict[str, Any]) -> Reply:
    if body["messages"][-1]["role"] == "tool":
        return Reply(text="found")
    return Reply(tool_calls=(ToolCall(name="look", arguments={"q": "Bern"}),))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", ["function", "workflow"])
async def test_an_agents_run_is_routed_by_what_was_known_where_it_began(
    kind: str, scope: str, kit: Any, client: Any, loopback: LoopbackOpenAI
):
    loopback.reply = _with_a_tool
    router = ByTier()
    agent: Any = FunctionAgent(tools=[kit.LOOK], llm=routed(kit, client, router))
    if kind == "workflow":
        agent = AgentWorkflow(agents=[agent])
    runs = []
    for known in (PAID, FREE):
        with SCOPES[scope](known):
            runs.append(agent.run(f"where, asks {known['tier']} user?", memory=memory()))
    for run in runs:  # awaited outside
        assert str(await run) == "found"
    assert sorted(asked(loopback)) == ["big", "big", "little", "little"]
    assert sorted(each["tier"][0] for each in router.given) == ["free", "paid"]


async def test_a_react_agent_too(kit: Any, client: Any, loopback: LoopbackOpenAI):
    loopback.reply = lambda body: Reply(text="Thought: I can answer.\nAnswer: Bern")
    agent = ReActAgent(tools=[kit.LOOK], llm=routed(kit, client))
    with metadata_scope(PAID):
        await agent.run("where?", memory=memory())
    assert asked(loopback) == ["big"]


async def test_a_step_can_know_more_than_its_workflow(kit: Any, client: Any):
    router = ByTier(is_quick=False)
    llm = routed(kit, client, router)

    class Middle(Event):
        pass

    class Flow(Workflow):
        @step
        async def one(self, context: Context, event: StartEvent) -> Middle:
            with metadata_scope({"topic": "law"}):
                await llm.acomplete("q")
            return Middle()

        @step
        async def two(self, event: Middle) -> StopEvent:
            await llm.acomplete("q")
            return StopEvent()

    with metadata_scope(PAID):
        run = Flow().run()
    await run
    assert router.given == [{"tier": ["paid"], "topic": ["law"]}, {"tier": ["paid"]}]


async def test_concurrent_tasks_know_their_own(kit: Any, client: Any):
    llm = routed(kit, client, ByTier(is_quick=False))

    async def ask(known: dict[str, str]) -> str:
        with metadata_scope(known):
            await asyncio.sleep(0)
            return str(await llm.acomplete("q"))

    answers = await asyncio.gather(*(ask(known) for known in [PAID, FREE] * 5))
    assert [answer.split()[0] for answer in answers] == ["big", "little"] * 5


# -- scopes
def test_scopes_add_up_and_the_inner_one_and_any_scope_before_tags_decides(kit: Any, client: Any):
    router = ByTier()
    llm = routed(kit, client, router)
    with instrument_tags({"tier": "tagged", "topic": "tag"}), metadata_scope({"tier": "free"}):
        llm.complete("q")
        with metadata_scope({"tier": "paid"}):
            llm.complete("q")
        llm.complete("q")
    llm.complete("q")
    assert router.given == [
        {"tier": ["free"], "topic": ["tag"]},
        {"tier": ["paid"], "topic": ["tag"]},
        {"tier": ["free"], "topic": ["tag"]},
        None,
    ]


def test_a_forced_route_is_scored_by_nobody(kit: Any, client: Any, loopback: LoopbackOpenAI):
    router = ByTier()
    with metadata_scope(PAID), force_route("weak"):
        routed(kit, client, router).complete("q")
    assert asked(loopback) == ["little"] and router.given == []


def test_a_scope_takes_a_mapping(kit: Any):
    with pytest.raises(ConfigurationError, match="got str"), metadata_scope("paid"):  # type: ignore[arg-type]
        pass


def test_a_scope_says_nothing_to_tracing(kit: Any, client: Any):
    seen = kit.Catch()
    get_dispatcher().add_event_handler(seen)
    with metadata_scope(PAID):
        routed(kit, client).complete("q")
    assert seen.seen and "s3cret" not in str([(event.tags, event) for event in seen.seen])


# -- the selector
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_selector_chooses_by_it(asynchronous: bool, kit: Any, client: Any, loopback: LoopbackOpenAI):
    tools = [
        QueryEngineTool.from_defaults(index().as_query_engine(llm=client(name)), name=name, description=name)
        for name in ("plain", "thorough")
    ]
    selector = RouteLLMSelector(ByTier(), threshold=0.5, on_error="raise")
    engine = RouterQueryEngine(selector=selector, query_engine_tools=tools, llm=client("never"))
    for known in (PAID, FREE):
        with metadata_scope(known):
            await engine.aquery("q") if asynchronous else engine.query("q")
    assert asked(loopback) == ["thorough", "plain"]
