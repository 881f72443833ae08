"""Agents and workflows with real clients: one task, one route, whichever way tools are called."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from llamaindex_routellm import RouteLLM, force_route, pinned
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ToolCall


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=10**6)


def asked(loopback: LoopbackOpenAI) -> list[str]:
    return [request["model"] for request in loopback.requests]


@pytest.fixture
def llm(kit: Any, client: Any) -> RouteLLM:
    words = {"additional_kwargs": {"stream_options": {"include_usage": True}}}
    routed: RouteLLM = kit.pair(strong=client("big", **words), weak=client("little", **words)).llm
    return routed


# -- agents
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("task", "model", "route"), [("EASY", "little", "weak"), ("HARD", "big", "strong")])
async def test_a_react_agent_asks_one_model_and_each_step_is_counted(
    task: str, model: str, route: str, streaming: bool, llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any
):
    def reply(body: dict[str, Any]) -> Reply:
        if "Observation: they prove" in json.dumps(body["messages"]):
            return Reply(text="Thought: I can answer.\nAnswer: they do")
        return Reply(text='Thought: I need a tool.\nAction: look\nAction Input: {"q": "x"}')

    loopback.reply = reply
    with collect_decisions() as decisions:
        agent = ReActAgent(tools=[kit.LOOK], llm=llm, streaming=streaming)
        answer = await agent.run(getattr(kit, task), memory=memory())
    assert str(answer) == "they do"
    assert asked(loopback) == [model, model]
    assert [d.route for d in decisions] == [route, route]
    assert all(decisions.usage_of(d) is not None for d in decisions)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_code_act_agent_runs_its_code_on_one_route(
    streaming: bool, llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any
):
    def reply(body: dict[str, Any]) -> Reply:
        done = "Result of executing the code given" in json.dumps(body["messages"])
        return Reply(text="It is 42." if done else "<execute>\nprint(6 * 7)\n</execute>")

    loopback.reply = reply
    ran: list[str] = []

    def execute(code: str) -> str:
        ran.append(code)
        return "42, as they prove"

    agent = CodeActAgent(code_execute_fn=execute, llm=llm, streaming=streaming)
    with collect_decisions() as decisions:
        assert str(await agent.run(kit.EASY, memory=memory())) == "It is 42."
    assert [code.strip() for code in ran] == ["print(6 * 7)"]
    assert asked(loopback) == ["little", "little"]
    assert {d.route for d in decisions} == {"weak"}


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_handoff_between_agents_stays_with_the_model_of_the_task(
    streaming: bool, llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any
):
    def reply(body: dict[str, Any]) -> Reply:
        results = sum(message["role"] == "tool" for message in body["messages"])
        if results == 0:
            arguments = {"to_agent": "writer", "reason": "it is easy now"}
            return Reply(tool_calls=(ToolCall(name="handoff", arguments=arguments, id="call_a"),))
        if results == 1:
            return Reply(tool_calls=(ToolCall(name="look", arguments={"q": "x"}, id="call_b"),))
        return Reply(text="written")

    loopback.reply = reply
    agents = [
        FunctionAgent(name="planner", description="Plans.", llm=llm, can_handoff_to=["writer"], streaming=streaming),
        FunctionAgent(name="writer", description="Writes.", tools=[kit.LOOK], llm=llm, streaming=streaming),
    ]
    with collect_decisions() as decisions:
        run = AgentWorkflow(agents=agents, root_agent="planner").run(kit.HARD, memory=memory())
        assert str(await run) == "written"
    assert asked(loopback) == ["big"] * 3
    assert [(d.route, d.reason) for d in decisions] == [("strong", "score")] + [("strong", "tool_loop")] * 2
    assert "routellm" not in json.dumps(loopback.requests)


async def test_many_runs_of_one_agent_at_once_keep_their_routes(llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any):
    def reply(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["role"] == "tool":
            return Reply(text=f"{body['model']} is done")
        return Reply(tool_calls=(ToolCall(name="look", arguments={"q": "x"}),))

    loopback.reply = reply
    agent = FunctionAgent(tools=[kit.LOOK], llm=llm)
    tasks = [f"{(kit.EASY, kit.HARD)[i % 2]} Number {i}." for i in range(8)]
    with collect_decisions() as decisions:
        answers = await asyncio.gather(*(agent.run(task, memory=memory()) for task in tasks))
    assert [str(answer) for answer in answers] == ["little is done", "big is done"] * 4
    assert sorted(asked(loopback)) == ["big"] * 8 + ["little"] * 8
    assert sorted(d.reason for d in decisions) == ["score"] * 8 + ["tool_loop"] * 8


# -- a workflow of one's own
class Drafted(Event):
    draft: str


class Token(Event):
    text: str


REVIEW = PromptTemplate("{draft}\nIs that right? {query_str}")


class DraftAndReview(Workflow):
    """Two steps that ask, the second one in a stream whose tokens are events."""

    def __init__(self, llm: RouteLLM) -> None:
        super().__init__(timeout=10)
        self.llm = llm

    @step
    async def draft(self, context: Context, event: StartEvent) -> Drafted:
        await context.store.set("task", event.task)
        with force_route("weak"):
            return Drafted(draft=str(await self.llm.acomplete(event.task)))

    @step
    async def review(self, context: Context, event: Drafted) -> StopEvent:
        said, task = "", await context.store.get("task")
        async for token in await self.llm.astream(REVIEW, draft=event.draft, query_str=task):
            said += token
            context.write_event_to_stream(Token(text=token))
        return StopEvent(result=said)


async def perform(llm: RouteLLM, task: str) -> tuple[str, list[str]]:
    run = DraftAndReview(llm).run(task=task)
    tokens = [event.text async for event in run.stream_events() if isinstance(event, Token) and event.text]
    return str(await run), tokens


async def test_each_step_of_a_workflow_is_routed_by_what_it_asks_and_streams(
    llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any
):
    loopback.reply = lambda body: Reply(text=f"{body['model']} can prove it")
    with collect_decisions() as decisions:
        easy = await perform(llm, kit.EASY)
        hard = await perform(llm, kit.HARD)
    # the draft holds what the router looks for, the question decides
    assert easy == ("little can prove it", ["little", " can", " prove", " it"])
    assert hard == ("big can prove it", ["big", " can", " prove", " it"])
    assert [(d.route, d.reason) for d in decisions] == [
        ("weak", "forced"),
        ("weak", "score"),
        ("weak", "forced"),
        ("strong", "score"),
    ]
    assert all(decisions.usage_of(d) is not None for d in decisions)


async def test_workflows_at_once_share_a_router_and_no_scope(llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any):
    loopback.reply = lambda body: Reply(text=f"{body['model']} says so")

    async def pinned_run(task: str) -> tuple[str, list[str]]:
        with pinned():
            await llm.acomplete(kit.EASY)  # what comes first decides
            return await perform(llm, task)

    runs = [perform(llm, kit.HARD), pinned_run(kit.HARD), perform(llm, kit.EASY)] * 3
    said = [answer for answer, _ in await asyncio.gather(*runs)]
    assert said == ["big says so", "little says so", "little says so"] * 3


async def test_a_workflow_that_fails_says_what_the_backend_said(llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any):
    loopback.reply = lambda body: Reply(status=400, text="no such thing")
    with collect_decisions() as decisions, pytest.raises(Exception, match="no such thing"):
        await perform(llm, kit.EASY)
    assert decisions == []
