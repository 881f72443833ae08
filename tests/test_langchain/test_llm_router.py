"""A chat model as the router: its run is in the trace, and nowhere in what the user reads."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_openai import ChatOpenAI

from langchain_routellm import ChatRouteLLM
from routellm_core import LLMRouter, collect_decisions
from routellm_core.errors import ScoringError
from routellm_core.testing import LoopbackOpenAI, Reply
from tests.test_langchain.fakes import Runs

EASY, HARD = "What is the capital of France?", "Prove Fermat's last theorem."


def reply(request: dict[str, Any]) -> Reply:
    if request["model"] == "judge":
        return Reply(text="Rating: 2" if "Prove" in request["messages"][-1]["content"] else "Rating: 5")
    return Reply(text=f"{request['model']} answers")


@pytest.fixture
async def make(loopback: LoopbackOpenAI) -> Any:
    """Makes a ChatRouteLLM over real clients; options are its own, `judge` those of the scoring one."""
    blocking, asynchronous = httpx.Client(), httpx.AsyncClient()
    loopback.reply = reply

    def client(model: str, **settings: Any) -> ChatOpenAI:
        return ChatOpenAI(
            model=model,
            base_url=loopback.url,
            api_key="none",  # type: ignore[arg-type]
            max_retries=0,
            stream_usage=True,
            http_client=blocking,
            http_async_client=asynchronous,
            **settings,
        )

    def make(judge: dict[str, Any] | None = None, **options: Any) -> ChatRouteLLM:
        router = LLMRouter(client("judge", **(judge or {})))
        return ChatRouteLLM(strong=client("strong"), weak=client("weak"), router=router, **options)

    yield make
    blocking.close()
    await asynchronous.aclose()


async def read(llm: Any, call: str, question: str, config: Any) -> str:
    if call == "invoke":
        return str(llm.invoke(question, config).text)
    if call == "ainvoke":
        return str((await llm.ainvoke(question, config)).text)
    if call == "stream":
        return "".join(chunk.text for chunk in llm.stream(question, config))
    return "".join([chunk.text async for chunk in llm.astream(question, config)])


@pytest.mark.parametrize("timeout_s", [None, 30.0])
async def test_the_rating_decides_and_its_run_is_a_tagged_child_of_the_chain_run(make: Any, timeout_s: Any) -> None:
    llm = make(router_timeout_s=timeout_s)
    for question, route in ((EASY, "weak"), (HARD, "strong")):
        for call in ("invoke", "ainvoke", "stream", "astream"):
            runs = Runs()
            await read(llm, call, question, {"callbacks": [runs], "tags": ["mine"]})
            chain, judge, answer = runs.starts
            assert [start["kind"] for start in runs.starts] == ["chain", "llm", "llm"]
            assert judge["parent"] == answer["parent"] == chain["run_id"]
            assert judge["tags"][-1] == "nostream"
            assert "mine" in judge["tags"]
            assert "nostream" not in answer["tags"]
            assert (judge["metadata"]["ls_model_name"], answer["metadata"]["ls_model_name"]) == ("judge", route)
            assert "routellm_route" not in judge["metadata"]
            assert runs.errors == []


@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream", "astream"])
async def test_the_record_is_that_of_any_router(call: str, make: Any) -> None:
    with collect_decisions() as decisions:
        assert await read(make(), call, HARD, None) == "strong answers"
    (decision,) = decisions
    # a rating of 2 is a win rate of (5 - 2) / 4
    assert (decision.route, decision.reason, decision.win_rate, decision.threshold) == ("strong", "score", 0.75, 0.5)
    assert decision.router == "llm"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_is_scored_in_tagged_runs(asynchronous: bool, make: Any, loopback: LoopbackOpenAI) -> None:
    runs, llm = Runs(), make()
    questions = [EASY, HARD, EASY]
    config = {"callbacks": [runs]}
    answers = await llm.abatch(questions, config) if asynchronous else llm.batch(questions, config)
    assert [answer.text for answer in answers] == ["weak answers", "strong answers", "weak answers"]
    judges = [start for start in runs.starts if start["metadata"].get("ls_model_name") == "judge"]
    assert len(judges) == 2  # equal questions are asked once
    assert all("nostream" in start["tags"] for start in judges)
    assert len({start["run_id"] for start in runs.starts}) == len(runs.starts) == 2 + 3 + 3


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_run_id_is_the_chain_runs_alone(asynchronous: bool, make: Any) -> None:
    runs, llm, run_id = Runs(), make(), uuid.uuid4()
    config = {"callbacks": [runs], "run_id": run_id}
    await llm.ainvoke(EASY, config) if asynchronous else llm.invoke(EASY, config)
    assert [start["run_id"] == run_id for start in runs.starts] == [True, False, False]
    runs = Runs()
    config = [{"callbacks": [runs], "run_id": run_id}, {"callbacks": [runs]}]
    await llm.abatch([EASY, HARD], config) if asynchronous else llm.batch([EASY, HARD], config)
    assert [start["kind"] for start in runs.starts if start["run_id"] == run_id] == ["chain"]


async def test_a_constructors_callbacks_see_the_scoring_of_a_batch_too(make: Any) -> None:
    for asynchronous in (False, True):
        runs = Runs()
        llm = make(callbacks=[runs])
        await llm.abatch([EASY, HARD]) if asynchronous else llm.batch([EASY, HARD])
        assert sum("nostream" in start["tags"] for start in runs.starts) == 2


@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream", "astream"])
async def test_what_scoring_took_is_counted_apart_from_the_answer(call: str, make: Any) -> None:
    with get_usage_metadata_callback() as usage, collect_decisions() as decisions:
        await read(make(), call, EASY, None)
    assert set(usage.usage_metadata) == {"judge", "weak"}
    answer = decisions.usage_of(decisions[0])
    weak = usage.usage_metadata["weak"]
    if answer is not None:
        assert (answer.input_tokens, answer.output_tokens) == (weak["input_tokens"], weak["output_tokens"])
    assert weak["output_tokens"] == 2  # "weak answers"


# -- what the user reads
def graph_of(llm: Any) -> Any:
    graph = pytest.importorskip("langgraph.graph")

    def node(state: Any) -> Any:
        return {"messages": [llm.invoke(state["messages"])]}

    async def anode(state: Any) -> Any:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    from langchain_core.runnables import RunnableLambda

    built = graph.StateGraph(graph.MessagesState)
    built.add_node("model", RunnableLambda(node, anode))
    built.add_edge(graph.START, "model")
    return built.compile()


async def streamed(graph: Any, question: str, *, asynchronous: bool) -> list[str]:
    given = {"messages": [("user", question)]}
    if asynchronous:
        return [chunk.text async for chunk, _ in graph.astream(given, stream_mode="messages")]
    return [chunk.text for chunk, _ in graph.stream(given, stream_mode="messages")]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_graphs_message_stream_holds_the_answer_alone(
    asynchronous: bool, timeout_s: Any, streams: bool, make: Any
) -> None:
    graph = graph_of(make(judge={"streaming": streams}, router_timeout_s=timeout_s))
    assert "".join(await streamed(graph, HARD, asynchronous=asynchronous)) == "strong answers"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_without_the_tag_the_rating_would_be_read_by_the_user(asynchronous: bool, make: Any) -> None:
    llm = make()
    llm.router.is_quick = True  # says that it calls no model, so nothing is tagged: the test above can fail
    assert "Rating" in "".join(await streamed(graph_of(llm), HARD, asynchronous=asynchronous))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agents_message_stream_holds_the_answer_alone(asynchronous: bool, make: Any) -> None:
    agents = pytest.importorskip("langchain.agents")
    agent = agents.create_agent(make(), tools=[])
    assert "".join(await streamed(agent, EASY, asynchronous=asynchronous)) == "weak answers"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_with_the_middleware_too(asynchronous: bool, make: Any) -> None:
    agents = pytest.importorskip("langchain.agents")
    from langchain_routellm import RouteLLMMiddleware

    llm = make()
    middleware = RouteLLMMiddleware(strong=llm.models["strong"], weak=llm.models["weak"], router=llm.router)
    agent = agents.create_agent(llm.models["weak"], tools=[], middleware=[middleware])
    assert "".join(await streamed(agent, HARD, asynchronous=asynchronous)) == "strong answers"


async def test_an_event_stream_tells_the_scorer_by_its_tag(make: Any) -> None:
    llm = make(judge={"streaming": True})
    everything = [event async for event in llm.astream_events(EASY, version="v2")]
    without = [event async for event in llm.astream_events(EASY, version="v2", exclude_tags=["nostream"])]

    def said(events: list[Any]) -> str:
        kind = "on_chat_model_stream"
        return "".join(event["data"]["chunk"].text for event in events if event["event"] == kind)

    assert said(everything) == "Rating: 5weak answers"
    assert said(without) == "weak answers"


async def test_the_judge_may_be_named_by_a_string(loopback: LoopbackOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    loopback.reply = reply
    llm = ChatRouteLLM(strong="openai:strong", weak="openai:weak", router="llm:openai:judge")
    assert loopback.requests == []
    answer = llm.invoke(HARD)
    assert answer.text == "strong answers"
    assert answer.response_metadata["routellm"]["router"] == "llm:openai:judge"
    again = ChatRouteLLM.from_config(llm.to_config())
    assert again.invoke(EASY).text == "weak answers"
    assert again.routing_policy.thresholds == (0.5,)


# -- when it fails
@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_judge_that_is_down_sends_the_call_to_the_strong_model(
    call: str, make: Any, loopback: LoopbackOpenAI
) -> None:
    loopback.reply = lambda request: Reply(status=429) if request["model"] == "judge" else reply(request)
    runs = Runs()
    with collect_decisions() as decisions:
        assert await read(make(), call, EASY, {"callbacks": [runs]}) == "strong answers"
    assert decisions[0].error is not None
    assert decisions[0].error.startswith("ScoringError: router 'llm' failed with ")
    assert EASY not in decisions[0].error
    assert [kind for kind, _ in runs.errors] == ["llm"]  # the scoring run closed as failed, the chain run did not
    with pytest.raises(ScoringError) as caught:
        await read(make(on_error="raise"), call, EASY, None)
    assert caught.value.is_retryable


@pytest.mark.parametrize("call", ["invoke", "ainvoke"])
async def test_a_judge_that_is_late_delays_the_call_no_longer_than_said(
    call: str, make: Any, loopback: LoopbackOpenAI
) -> None:
    def late(request: dict[str, Any]) -> Reply:
        return Reply(text="5", hang=True) if request["model"] == "judge" else reply(request)

    loopback.reply = late
    with collect_decisions() as decisions:
        assert await read(make({"timeout": 10}, router_timeout_s=0.05), call, EASY, None) == "strong answers"
    loopback.release()
    assert decisions[0].error == "ScoringError: no win rate from router 'llm' within 0.05 s"


async def test_many_calls_at_once_do_not_mix_their_ratings(make: Any) -> None:
    llm = make()
    questions = [HARD if i % 3 == 0 else EASY for i in range(30)]
    answers = await asyncio.gather(*(llm.ainvoke(f"{question} ({i})") for i, question in enumerate(questions)))
    assert [answer.text.split()[0] for answer in answers] == [
        "strong" if question is HARD else "weak" for question in questions
    ]


async def test_a_router_of_its_own_may_be_the_judge_and_obeys_no_route_of_the_call(make: Any) -> None:
    inner = make()
    inner.models["weak"].model_name = inner.models["strong"].model_name = "judge"
    llm = ChatRouteLLM(strong=inner.models["strong"], weak=inner.models["weak"], router=LLMRouter(inner))
    runs = Runs()
    config = {"callbacks": [runs], "configurable": {"routellm_threshold": 0.9}}
    answer = llm.invoke(HARD, config)
    assert answer.response_metadata["routellm"]["win_rate"] == 0.75
    assert answer.response_metadata["routellm"]["route"] == "weak"  # .75 < .9
    inner_record = [end for kind, end in runs.ends if kind == "chain"][0].response_metadata["routellm"]
    assert inner_record["threshold"] == 0.5
