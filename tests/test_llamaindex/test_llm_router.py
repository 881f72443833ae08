"""A LlamaIndex LLM as the router: it decides, and nothing of it passes for the answer."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import Settings, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import Document

from llamaindex_routellm import RouteLLM, RouteLLMSelector, force_route, pinned, query_scope
from llamaindex_routellm._open_calls import current_call
from llamaindex_routellm._resolver import LLMBackend
from routellm_core import LLMRouter, collect_decisions
from routellm_core.errors import ScoringError
from routellm_core.testing import LoopbackOpenAI, Reply, ToolCall

EASY, HARD = "What is the capital of France?", "Prove Fermat's last theorem."


def reply(request: dict[str, Any]) -> Reply:
    if request["model"] == "judge":
        return Reply(text="Rating: 2" if "Prove" in request["messages"][-1]["content"] else "Rating: 5")
    return Reply(text=f"{request['model']} answers")


@pytest.fixture
def make(client: Any, loopback: LoopbackOpenAI) -> Any:
    """Makes a RouteLLM over real clients, scored by a third; options are its own."""
    loopback.reply = reply

    def make(judge: Any = None, **options: Any) -> RouteLLM:
        router = LLMRouter(client("judge") if judge is None else judge)
        return RouteLLM(strong=client("strong"), weak=client("weak"), router=router, **options)

    return make


async def read(llm: Any, call: str, question: str, kit: Any) -> str:
    """One of the ways to call, and what is read of it."""
    if call == "complete":
        return str(llm.complete(question).text)
    if call == "acomplete":
        return str((await llm.acomplete(question)).text)
    if call == "chat":
        return str(llm.chat([kit.user(question)]).message.content)
    if call == "achat":
        return str((await llm.achat([kit.user(question)])).message.content)
    if call == "stream_chat":
        return "".join(str(part.delta) for part in llm.stream_chat([kit.user(question)]))
    return "".join([str(part.delta) async for part in await llm.astream_chat([kit.user(question)])])


CALLS = ("complete", "acomplete", "chat", "achat", "stream_chat", "astream_chat")


@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize("call", CALLS)
async def test_the_rating_decides_and_the_answer_is_the_backends_alone(
    call: str, timeout_s: Any, make: Any, kit: Any, loopback: LoopbackOpenAI
) -> None:
    llm = make(router_timeout_s=timeout_s)
    with collect_decisions() as decisions:
        assert await read(llm, call, EASY, kit) == "weak answers"
        assert await read(llm, call, HARD, kit) == "strong answers"
    # ratings of 5 and 2 are win rates of (5 - 5) / 4 and (5 - 2) / 4
    assert [(d.route, d.reason, d.win_rate) for d in decisions] == [("weak", "score", 0.0), ("strong", "score", 0.75)]
    assert [request["model"] for request in loopback.requests] == ["judge", "weak", "judge", "strong"]


@pytest.mark.parametrize("call", CALLS)
async def test_what_scoring_took_is_no_part_of_what_the_answer_took(call: str, make: Any, kit: Any) -> None:
    with collect_decisions() as decisions:
        await read(make(), call, EASY, kit)
    usage = decisions.usage_of(decisions[0])
    if usage is not None:  # streams are asked for their usage by the caller
        assert usage.output_tokens == 2  # "weak answers"; the endpoint counts words
        assert usage.input_tokens < 30  # the judge's question has more


async def test_in_a_router_inside_a_router_scoring_is_no_answer_of_the_outer_one(make: Any, kit: Any) -> None:
    inner = make()
    outer = RouteLLM(strong=inner, weak=inner, router=kit.ScriptedRouter(0.9), threshold=0.5)
    question = PromptTemplate("Answer this: {query_str}")
    with collect_decisions() as decisions:
        assert outer.predict(question, query_str=EASY) == "weak answers"
        assert await outer.apredict(question, query_str=EASY) == "weak answers"
    # only the inner one's backend answered
    took = [(d.router, None if (u := decisions.usage_of(d)) is None else u.output_tokens) for d in decisions]
    assert sorted(took, key=str) == [("llm", 2), ("llm", 2), ("scripted", None), ("scripted", None)]


def test_a_token_counter_of_the_router_counts_the_answer_alone(make: Any, client: Any) -> None:
    def counted(judge_counts: bool) -> int:
        counter = TokenCountingHandler()
        manager = CallbackManager([counter])
        judge = client("judge", callback_manager=manager) if judge_counts else client("judge")
        make(judge, callback_manager=manager).complete(EASY)
        return len(counter.llm_token_counts)

    assert counted(judge_counts=False) == 1
    assert counted(judge_counts=True) == 2  # who gives the judge the same manager wants it counted


@pytest.mark.parametrize("call", ["chat", "achat"])
async def test_the_scorers_events_carry_a_tag_and_the_answers_do_not(call: str, make: Any, kit: Any) -> None:
    catch = kit.Catch()
    get_dispatcher().add_event_handler(catch)
    await read(make(), call, EASY, kit)
    ends = [event for event in catch.seen if isinstance(event, LLMChatEndEvent)]
    assert [event.tags.get("routellm") for event in ends] == ["scoring", None]
    assert [event.response.message.content for event in ends] == ["Rating: 5", "weak answers"]


async def test_a_router_in_the_global_settings_does_not_ask_itself(make: Any, loopback: LoopbackOpenAI) -> None:
    index = SummaryIndex.from_documents([Document(text="Prove it. " * 50)])
    llm = make()
    before = Settings._llm
    Settings.llm = llm
    try:
        engine = index.as_query_engine()
        with collect_decisions() as decisions:
            assert str(engine.query(EASY)) == "weak answers"
            assert str(await engine.aquery(HARD)) == "strong answers"
    finally:
        Settings._llm = before
    assert [d.route for d in decisions] == ["weak", "strong"]
    assert [request["model"] for request in loopback.requests] == ["judge", "weak", "judge", "strong"]
    # the question is rated, not the context around it
    assert "Prove it." not in loopback.requests[0]["messages"][-1]["content"]


@pytest.mark.parametrize("call", ["chat", "achat"])
async def test_a_judge_that_is_a_router_itself_is_not_steered_from_outside(
    call: str, make: Any, client: Any, kit: Any
) -> None:
    inner = RouteLLM(strong=client("judge"), weak=client("judge"), router=kit.ScriptedRouter(0.1), threshold=0.5)
    llm = make(inner)
    with query_scope(HARD), pinned():
        assert await read(llm, call, EASY, kit) == "strong answers"
        assert await read(llm, call, EASY, kit) == "strong answers"  # pinned
    asked = [text for texts in inner.policy.router.calls for text in texts]
    assert len(asked) == 1
    assert asked[0].startswith("Question: <question>")  # the judge's own question, not the scope's
    with force_route("strong"):
        assert await read(llm, call, EASY, kit) == "strong answers"
    assert len(inner.policy.router.calls) == 1  # a forced call is not scored


@pytest.mark.parametrize("call", CALLS)
async def test_a_judge_that_is_down_sends_the_call_to_the_strong_model(
    call: str, make: Any, kit: Any, loopback: LoopbackOpenAI
) -> None:
    loopback.reply = lambda request: Reply(status=429) if request["model"] == "judge" else reply(request)
    with collect_decisions() as decisions:
        assert await read(make(), call, EASY, kit) == "strong answers"
    assert decisions[0].error == "ScoringError: router 'llm' failed with RateLimitError"
    with pytest.raises(ScoringError) as caught:
        await read(make(on_error="raise"), call, EASY, kit)
    assert caught.value.is_retryable
    assert current_call.get() is None


async def test_it_is_asked_once_for_each_step_of_a_task_and_agrees(
    make: Any, kit: Any, loopback: LoopbackOpenAI
) -> None:
    def with_tool(request: dict[str, Any]) -> Reply:
        if request["model"] == "judge":
            return reply(request)
        if request["messages"][-1]["role"] == "tool":
            return Reply(text=f"{request['model']} answers")
        return Reply(tool_calls=(ToolCall(name="adder", arguments={"a": 1, "b": 2}),))

    loopback.reply = with_tool
    agent = FunctionAgent(llm=make(), tools=[kit.ADD], streaming=False)
    assert str(await agent.run(HARD)) == "strong answers"
    # the second step is an open tool loop, which stays where it began without being scored
    assert [request["model"] for request in loopback.requests] == ["judge", "strong", "strong"]


async def test_a_selector_is_scored_by_it_too(make: Any, client: Any, kit: Any) -> None:
    catch = kit.Catch()
    get_dispatcher().add_event_handler(catch)
    selector = RouteLLMSelector(LLMRouter(client("judge")))
    assert selector.select(["plain", "deep"], HARD).ind == 1
    assert (await selector.aselect(["plain", "deep"], EASY)).ind == 0
    ends = [event for event in catch.seen if isinstance(event, LLMChatEndEvent)]
    assert [event.tags.get("routellm") for event in ends] == ["scoring", "scoring"]


def test_making_a_router_of_an_llm_asks_it_nothing(kit: Any) -> None:
    class Remote(kit.Fake):
        @property
        def metadata(self) -> Any:
            raise AssertionError("some integrations call their server for this")

    LLMRouter(Remote())
    assert LLMBackend(kit.Fake(tag="x")).name == "fake-x"
