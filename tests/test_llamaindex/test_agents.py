"""Agents, tools and workflows: one task, one route."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms import ChatMessage, ChatResponse, MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import QueryEngineTool
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM, _ledger, force_route, pinned, query_scope
from llamaindex_routellm._text import task_messages
from routellm_core import collect_decisions
from routellm_core.errors import ConfigurationError

REACT = ('Thought: I need a tool.\nAction: look\nAction Input: {"q": "x"}', "Thought: I can answer.\nAnswer: done")


class Out(BaseModel):
    answer: str


class PlainChat(MockLLM):
    """A chat model without tool methods."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, model_name="plain")


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=10**6)  # upstream's default leaves a database open


# -- function calling
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_stays_on_the_route_of_its_task(streaming: bool, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    made.weak.script = [kit.call("look", {"q": "x"}), kit.call("look", {"q": "y"}, "c2"), "done"]
    with collect_decisions() as taken:
        answer = await FunctionAgent(tools=[kit.LOOK], llm=made.llm, streaming=streaming).run(kit.EASY, memory=memory())
    assert str(answer) == "done" and made.strong.hits == 0
    assert [(d.route, d.reason) for d in taken] == [("weak", "score"), ("weak", "tool_loop"), ("weak", "tool_loop")]
    assert "routellm" not in answer.response.additional_kwargs and "routellm" not in (answer.raw or {})


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_open_tool_loop_stays_where_a_fallback_put_it(streaming: bool, kit: Any):
    # the weak backend is back by the second step, but the calls in the history are the strong one's
    made = kit.pair(weak=kit.Fake(tag="weak", fail=ConnectionError("down")), fallback="any")
    made.strong.script = [kit.call("look", {"q": "x"}), "done"]
    agent = FunctionAgent(tools=[kit.LOOK], llm=made.llm, streaming=streaming)

    def recover(q: str) -> str:
        made.weak.fail = None
        return "fine"

    agent.tools = [type(kit.LOOK).from_defaults(fn=recover, name="look")]
    with collect_decisions() as taken:
        assert str(await agent.run(kit.EASY, memory=memory())) == "done"
    assert [(d.route, d.reason, d.fallback_from) for d in taken] == [
        ("strong", "score", "weak"),
        ("strong", "tool_loop", None),
    ]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_whose_backend_fails_inside_an_open_tool_loop_is_shown_to_no_other(streaming: bool, kit: Any):
    made = kit.pair(fallback="any")
    made.weak.script = [kit.call("look", {"q": "x"})]

    def fail(q: str) -> str:
        made.weak.fail = ConnectionError("weak down")
        return "fine"

    tool = type(kit.LOOK).from_defaults(fn=fail, name="look")
    with collect_decisions() as taken, pytest.raises(ConnectionError, match="weak down"):
        await FunctionAgent(tools=[tool], llm=made.llm, streaming=streaming).run(kit.EASY, memory=memory())
    assert made.strong.hits == 0 and [d.reason for d in taken] == ["score"]


def test_without_stickiness_each_step_is_scored(kit: Any):
    made = kit.pair(stickiness="none")
    made.weak.script = [kit.call("look", {"q": "x"})]
    first = made.llm.chat_with_tools([kit.LOOK], user_msg=kit.EASY)
    result = ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": "c1"})
    second = made.llm.chat_with_tools([kit.LOOK], chat_history=[kit.user(kit.EASY), first.message, result])
    assert second.additional_kwargs["routellm"]["reason"] == "score"


def test_a_loop_that_is_closed_by_a_plain_chat_stays_on_its_route(kit: Any):
    made = kit.pair(0.9, fallback="any")
    with force_route("weak"):
        made.weak.script = [kit.call("look", {"q": "x"})]
        first = made.llm.chat([kit.user(kit.EASY)], tools=[kit.LOOK])  # as providers take them
    result = ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": "c1"})
    made.weak.fail = ConnectionError("down")
    with pytest.raises(ConnectionError):  # and no other provider is shown its calls
        made.llm.chat([kit.user(kit.EASY), first.message, result])
    made.weak.fail = None
    record = made.llm.chat([kit.user(kit.EASY), first.message, result]).additional_kwargs["routellm"]
    assert record == {"route": "weak", "reason": "tool_loop"}


def test_the_ledger_forgets_the_oldest_and_keeps_no_text(kit: Any, monkeypatch: Any):
    monkeypatch.setattr(_ledger, "_SIZE", 3)
    ledger = _ledger.AnswerLedger()
    for i in range(5):
        ledger.remember([kit.user(f"question {i}")], f"answer {i}", "weak", texts=True)
    asked = [ledger.conversation([kit.user(f"question {i}"), kit.assistant(f"answer {i} ")]) for i in range(5)]
    assert asked == [None, None, "weak", "weak", "weak"]
    assert all(isinstance(key, int) for key in ledger._routes)


def test_tool_calls_in_the_older_form_are_recognised_too(kit: Any):
    ledger = _ledger.AnswerLedger()
    legacy = kit.assistant("").model_copy(update={"additional_kwargs": {"tool_calls": [{"id": "old"}, object()]}})
    ledger.remember([kit.user("q")], ChatResponse(message=legacy), "strong", texts=False)
    result = ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": "old"})
    assert ledger.tool_loop([kit.user("q"), legacy, result]) == "strong"
    assert ledger.tool_loop([kit.user("q"), legacy]) is None and ledger.tool_loop([]) is None


def test_a_tool_result_that_no_call_belongs_to_is_answered_like_any_other_call(kit: Any):
    p = kit.pair()
    for extra in ({}, {"tool_call_id": "never given"}, {"tool_call_id": ["not", "an id"]}):
        result = ChatMessage(role="tool", content="3", additional_kwargs=extra)
        for history in ([result], [kit.user(kit.EASY), result]):
            assert p.llm.chat(history).additional_kwargs["routellm"]["reason"] in ("score", "no_text")


def test_arguments_of_tool_methods_may_be_given_by_position_as_the_base_class_takes_them(kit: Any):
    p = kit.pair()
    answer = p.llm.chat_with_tools([kit.ADD], kit.EASY, [], False, True)
    assert answer.additional_kwargs["routellm"]["route"] == "weak"


def test_equal_call_ids_of_different_tasks_are_not_confused(kit: Any):
    made = kit.pair(kit.ScriptedRouter(lambda text: 0.1), fallback="any")
    made.weak.script = [kit.call("look", {"q": "x"})]
    made.llm.chat_with_tools([kit.LOOK], user_msg=kit.EASY)
    result = ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": "c1"})
    other = made.llm.chat_with_tools(
        [kit.LOOK], chat_history=[kit.user("Another task altogether, please"), kit.call("look", {}), result]
    )
    assert other.additional_kwargs["routellm"]["reason"] == "score"


def test_a_provider_without_call_ids_keeps_its_loop_by_the_tools_name(kit: Any):
    made = kit.pair()
    made.weak.script = [kit.call("look", {"q": "x"}, None)]
    first = made.llm.chat_with_tools([kit.LOOK], user_msg=kit.EASY)
    selected = made.llm.get_tool_calls_from_response(first)[0]
    result = ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": selected.tool_id})
    second = made.llm.chat_with_tools([kit.LOOK], chat_history=[kit.user(kit.EASY), first.message, result])
    assert second.additional_kwargs["routellm"]["reason"] == "tool_loop"


async def test_each_way_of_calling_tools_is_parsed_by_the_backend_that_answered(kit: Any):
    made = kit.pair()
    streamed = await made.llm.astream_chat_with_tools([kit.ADD], user_msg=kit.HARD)
    answers = [
        made.llm.chat_with_tools([kit.ADD], user_msg=kit.HARD),
        await made.llm.achat_with_tools([kit.ADD], user_msg=kit.user(kit.HARD)),
        list(made.llm.stream_chat_with_tools([kit.ADD], chat_history=[kit.user(kit.HARD)]))[-1],
        [item async for item in streamed][-1],
    ]
    for answer in answers:
        assert answer.additional_kwargs["routellm"]["route"] == "strong"
        assert made.llm.get_tool_calls_from_response(answer)[0].tool_name == "adder"
    assert made.weak._calls == [] and [kind for kind, *_ in made.strong._calls].count("get_tool_calls") == 4


async def test_predict_and_call_calls_the_tool_through_the_chosen_backend(kit: Any):
    made = kit.pair()
    made.weak.script = [kit.call("adder", {"a": 1, "b": 2}), kit.call("adder", {"a": 3, "b": 4})]
    with collect_decisions() as taken:
        assert made.llm.predict_and_call([kit.ADD], user_msg=kit.EASY).response == "3"
        assert (await made.llm.apredict_and_call([kit.ADD], kit.EASY, verbose=False)).response == "7"
    assert [d.route for d in taken] == ["weak", "weak"]


def test_a_call_with_tools_goes_to_a_backend_that_can_call_them_and_says_so(kit: Any):
    for weak in (PlainChat(), kit.Fake(tag="weak", can_call=False)):
        made = kit.pair(weak=weak)
        assert not made.llm.metadata.is_function_calling_model
        answers = [
            made.llm.chat_with_tools([kit.ADD], user_msg=kit.EASY),
            *made.llm.stream_chat_with_tools([kit.ADD], user_msg=kit.EASY),
        ]
        records = [answer.additional_kwargs["routellm"] for answer in answers]
        assert {(record["route"], record["reason"]) for record in records} == {("strong", "capability")}
        assert made.llm.chat([kit.user(kit.EASY)]).additional_kwargs["routellm"]["route"] == "weak"


def test_a_fallback_never_goes_to_a_backend_that_cannot_call_tools(kit: Any):
    made = kit.pair(strong=kit.Fake(fail=ConnectionError("strong down")), weak=PlainChat(), fallback="any")
    with pytest.raises(ConnectionError, match="strong down"):
        made.llm.chat_with_tools([kit.ADD], user_msg=kit.HARD)


def test_when_no_backend_has_tool_methods_the_error_says_what_to_give(kit: Any):
    made = kit.pair(weak=PlainChat(), strong=PlainChat())
    with pytest.raises(ConfigurationError, match="cannot call tools"):
        made.llm.chat_with_tools([kit.ADD], user_msg=kit.EASY)
    with force_route("weak"), pytest.raises(ConfigurationError, match="cannot call tools"):
        kit.pair(weak=PlainChat()).llm.chat_with_tools([kit.ADD], user_msg=kit.EASY)


def test_tool_calls_of_a_backend_without_tools_are_none_unless_asked_to_raise(kit: Any):
    made = kit.pair(weak=PlainChat())
    answer = made.llm.chat([kit.user(kit.EASY)])
    assert made.llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="cannot call tools"):
        made.llm.get_tool_calls_from_response(answer)
    built = ChatResponse(message=kit.call("adder", {}))  # without a record: somebody built it
    assert made.llm.get_tool_calls_from_response(built)[0].tool_name == "adder"


def test_nested_routers_keep_both_records_and_parse_tool_calls_where_they_were_made(kit: Any):
    class Odd(kit.Fake):
        def get_tool_calls_from_response(self, response: Any, error_on_no_tool_call: bool = True) -> Any:
            return ["parsed by odd"]

    inner = kit.pair(0.9, strong=Odd(tag="odd"))  # both routers name their routes weak and strong
    outer = kit.pair(weak=inner.llm)
    with collect_decisions() as taken:
        answer = outer.llm.chat_with_tools([kit.ADD], user_msg=kit.EASY)
    record = answer.additional_kwargs["routellm"]
    assert (record["route"], record["inner"]["route"]) == ("weak", "strong")
    assert [d.route for d in taken] == ["strong", "weak"]  # the inner answer is settled first
    assert outer.llm.get_tool_calls_from_response(answer) == ["parsed by odd"]


async def test_a_mixed_router_is_refused_by_function_agents_and_gets_react_from_workflows(kit: Any):
    llm = kit.pair(weak=kit.Fake(can_call=False)).llm
    with pytest.raises(Exception, match="FunctionCallingLLM"):
        await FunctionAgent(tools=[kit.ADD], llm=llm).run(kit.EASY, memory=memory())
    flow = AgentWorkflow.from_tools_or_functions([lambda q: q], llm=llm)
    assert isinstance(flow.agents[flow.root_agent], ReActAgent)


# -- loops that feed tool output back as user messages
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_stays_on_the_route_of_its_task(streaming: bool, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    made.weak.script = list(REACT)
    answer = await ReActAgent(tools=[kit.LOOK], llm=made.llm, streaming=streaming).run(kit.EASY, memory=memory())
    assert str(answer) == "done" and (made.weak.hits, made.strong.hits) == (2, 0)


async def test_a_react_agent_that_broke_the_format_stays_on_its_route(kit: Any):
    made = kit.pair(lambda text: 0.9 if "error" in text.lower() else 0.1)
    made.weak.script = ["Thought: hm\nAction: look\nAction Input: not json at all", REACT[1]]
    await ReActAgent(tools=[kit.LOOK], llm=made.llm).run(kit.EASY, memory=memory())
    assert made.strong.hits == 0 and made.weak.hits == 2


@pytest.mark.parametrize("can_call", [True, False])
async def test_a_code_act_agent_stays_on_the_route_of_its_task(can_call: bool, kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak") if can_call else PlainChat(max_tokens=3))
    if can_call:
        made.weak.script = ["<execute>\nx\n</execute>", "done"]
    with collect_decisions() as taken:
        await CodeActAgent(code_execute_fn=lambda code: "prove prove", llm=made.llm).run(kit.EASY, memory=memory())
    assert {d.route for d in taken} == {"weak"} and len(taken) == (2 if can_call else 1)


def test_observations_are_skipped_only_where_an_agent_loop_wrote_them(kit: Any):
    u, a = kit.user, kit.assistant
    assert task_messages([u("q"), a("Thought: x"), u("Observation: y")]) == ["q"]
    assert task_messages([u("Observation: of birds")]) == ["Observation: of birds"]
    assert task_messages([u("q"), a("x"), u("Result of executing the code given: 3")]) == ["q"]
    assert task_messages([u("q"), ChatMessage(role="tool", content="r")]) == ["q"]
    assert task_messages([u("first"), a("ok"), u("second")]) == ["first", "second"]
    assert task_messages([]) == []


# -- several agents, tools that ask again, workflows
async def test_a_handoff_keeps_the_task_and_its_route(kit: Any):
    made = kit.pair()
    made.strong.script = [kit.call("handoff", {"to_agent": "second", "reason": "easy now"}), "final"]
    one = FunctionAgent(name="one", description="d", tools=[kit.ADD], llm=made.llm, can_handoff_to=["second"])
    two = FunctionAgent(name="second", description="d", tools=[kit.ADD], llm=made.llm)
    with collect_decisions() as taken:
        answer = await AgentWorkflow(agents=[one, two], root_agent="one").run(kit.HARD, memory=memory())
    assert str(answer) == "final" and [d.route for d in taken] == ["strong", "strong"]


async def test_a_tool_that_uses_the_router_is_routed_on_its_own_question_unless_pinned(kit: Any):
    async def run(script: list[Any]) -> list[str]:
        made = kit.pair()
        made.weak.script = script
        index = SummaryIndex.from_documents([Document(text="x")], embed_model=MockEmbedding(8))
        rag = QueryEngineTool.from_defaults(index.as_query_engine(llm=made.llm), name="rag", description="d")
        with collect_decisions() as taken:
            await FunctionAgent(tools=[rag], llm=made.llm).run(kit.EASY, memory=memory())
        return [d.route for d in taken]

    assert await run([kit.call("rag", {"input": kit.HARD}), "done"]) == ["weak", "strong", "weak"]
    with pinned():
        assert await run([kit.call("rag", {"input": kit.HARD}), "found", "done"]) == ["weak", "weak", "weak"]


async def test_an_agents_output_class_is_filled_on_the_route_of_the_task(kit: Any):
    made = kit.pair()
    answer = await FunctionAgent(tools=[], llm=made.llm, output_cls=Out).run(kit.EASY, memory=memory())
    assert answer.structured_response == {"answer": "answer by weak"}


# -- scopes
async def test_a_pin_reaches_the_steps_of_a_run_that_is_awaited_outside_the_scope(kit: Any):
    rates = iter([0.1, 0.9, 0.1, 0.9])
    made = kit.pair(lambda text: next(rates))  # a router that changes its mind
    made.weak.script = list(REACT)
    with pinned(), collect_decisions() as taken:
        run = ReActAgent(tools=[kit.LOOK], llm=made.llm).run(kit.EASY, memory=memory())
    await run
    assert made.strong.hits == 0 and [d.reason for d in taken] == ["score", "pinned"]


async def test_scopes_reach_the_steps_of_a_workflow(kit: Any):
    llm = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False)).llm

    class Middle(Event):
        pass

    class Flow(Workflow):
        @step
        async def one(self, event: StartEvent) -> Middle:
            await llm.acomplete(kit.EASY)
            return Middle()

        @step
        async def two(self, event: Middle) -> StopEvent:
            return StopEvent(result=str(await llm.acomplete(kit.HARD)))

    with pinned():
        pinned_run = Flow().run()
    with force_route("strong"):
        forced_run = Flow().run()
    free_run = Flow().run()
    assert [str(await run) for run in (pinned_run, forced_run, free_run)] == [
        "weak answer here",
        "strong answer here",
        "strong answer here",
    ]


async def test_concurrent_tasks_do_not_share_scopes(kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))

    async def ask(text: str, forced: str | None) -> str:
        if forced is not None:
            with force_route(forced):
                await asyncio.sleep(0)
                return str(await made.llm.acomplete(text))
        with pinned():
            await asyncio.sleep(0)
            return str(await made.llm.acomplete(text))

    asked = [(kit.HARD, None), (kit.EASY, None), (kit.HARD, "weak"), (kit.EASY, "strong")] * 5
    got = await asyncio.gather(*(ask(*each) for each in asked))
    assert [answer.split()[0] for answer in got] == ["strong", "weak", "weak", "strong"] * 5


@pytest.mark.parametrize("scope", [lambda: force_route("strong"), pinned, lambda: query_scope("Prove it")])
async def test_a_scope_in_a_generator_that_is_closed_elsewhere_ends_without_a_complaint(scope: Any, kit: Any):
    async def anext_of(stream: Any) -> Any:
        return await stream.__anext__()

    async def streamed() -> Any:  # as a web framework reads it, and leaves it when the client goes away
        with scope():
            yield "a"
            yield "b"

    stream = streamed()
    assert await asyncio.create_task(anext_of(stream)) == "a"
    await asyncio.create_task(stream.aclose())
    assert kit.pair().llm.complete(kit.EASY).additional_kwargs["routellm"]["reason"] == "score"


def test_a_new_thread_does_not_inherit_a_scope_and_does_not_leak_one(kit: Any):
    made, got = kit.pair(), []
    with force_route("strong"):
        thread = threading.Thread(target=lambda: got.append(str(made.llm.complete(kit.EASY))))
        thread.start()
        thread.join()
        assert "strong" in str(made.llm.complete(kit.EASY))
    assert "weak" in got[0] and "weak" in str(made.llm.complete(kit.EASY))


def test_one_router_serves_many_threads(kit: Any):
    made, got = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False)), []

    def work(text: str, route: str) -> None:
        got.extend(route in str(made.llm.complete(text)) for _ in range(20))

    threads = [threading.Thread(target=work, args=each) for each in ((kit.HARD, "strong"), (kit.EASY, "weak")) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 160


def test_two_routers_in_one_pinned_scope_keep_their_own_routes(kit: Any):
    one, two = kit.pair(), kit.pair()
    with pinned():
        assert "weak" in str(one.llm.complete(kit.EASY)) and "strong" in str(two.llm.complete(kit.HARD))
        assert "weak" in str(one.llm.complete(kit.HARD)) and "strong" in str(two.llm.complete(kit.EASY))
    assert isinstance(one.llm, RouteLLM) and "strong" in str(one.llm.complete(kit.HARD))
