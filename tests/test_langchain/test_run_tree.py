"""One chain run per call with one child run per attempt; one record per answer; usage counted once."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from routellm_core import collect_decisions
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, FakeBackend, Runs, backend, by_words, fake, routed


def test_invoke_is_one_chain_run_with_one_llm_child() -> None:
    runs, run_id = Runs(), uuid.uuid4()
    answer = routed().invoke("hard one", {"callbacks": [runs], "run_name": "ask", "tags": ["t"], "run_id": run_id})
    assert runs.kinds == ["chain", "llm"]
    chain, llm = runs.starts
    assert (chain["name"], chain["run_id"], chain["parent"]) == ("ask", run_id, None)
    assert (llm["name"], llm["parent"]) == ("FakeBackend", run_id)
    assert "t" in llm["tags"]
    assert [kind for kind, _ in runs.ends] == ["llm", "chain"]
    assert answer.text == "fake-strong answers"


def test_the_record_is_the_decision_and_the_backend_keeps_its_own_metadata() -> None:
    with collect_decisions() as decisions:
        answer = routed().invoke("hard one")
    record = answer.response_metadata[RECORD]
    assert record.pop("scorer_ms") >= 0
    assert record == {"route": "strong", "reason": "score", "win_rate": 0.9, "threshold": 0.5, "router": "scripted"}
    assert answer.response_metadata["model_name"] == "fake-strong"
    assert [decision.route for decision in decisions] == ["strong"]


def test_the_childs_metadata_names_the_route_before_any_token() -> None:
    runs = Runs()
    routed().invoke("hard", {"callbacks": [runs], "metadata": {"app": "x"}})
    metadata = runs.starts[1]["metadata"]
    assert metadata["app"] == "x"
    assert {k: v for k, v in metadata.items() if k.startswith("routellm_") and k != "routellm_scorer_ms"} == {
        "routellm_route": "strong",
        "routellm_reason": "score",
        "routellm_win_rate": 0.9,
        "routellm_threshold": 0.5,
        "routellm_router": "scripted",
    }
    assert "routellm_route" not in runs.starts[0]["metadata"]


async def test_usage_is_counted_once_in_every_way_to_call() -> None:
    usage, llm = UsageMetadataCallbackHandler(), routed()
    config: Any = {"callbacks": [usage]}
    chain = RunnableLambda(lambda x: x) | llm
    chain.invoke("q", config)
    list(chain.stream("q", config))
    await chain.ainvoke("q", config)
    llm.batch(["q", "q"], config)
    llm.generate([[HumanMessage("q")]], callbacks=[usage])
    llm.with_structured_output({"title": "A", "type": "object", "properties": {}}).invoke("q", config)
    assert usage.usage_metadata["fake-weak"]["total_tokens"] == 7 * 15


def test_constructor_callbacks_tags_and_metadata_reach_the_backends_run() -> None:
    usage, runs = UsageMetadataCallbackHandler(), Runs()
    llm = routed(callbacks=[usage, runs], metadata={"app": "x"}, tags=["mine"])
    llm.invoke("q")
    assert usage.usage_metadata["fake-weak"]["total_tokens"] == 15
    assert runs.kinds == ["chain", "llm"]
    assert runs.starts[1]["metadata"]["app"] == "x"
    assert "mine" in runs.starts[1]["tags"]


def test_a_handler_given_twice_hears_everything_once() -> None:
    runs = Runs()
    routed(callbacks=[runs]).invoke("q", {"callbacks": [runs]})
    assert runs.kinds == ["chain", "llm"]


def test_inside_a_chain_both_the_callers_and_the_constructors_handlers_hear() -> None:
    runs, own = Runs(), Runs()
    llm = routed(callbacks=[own])
    RunnableLambda(lambda x: llm.invoke(x)).invoke("q", {"callbacks": [runs]})
    assert runs.kinds == ["chain", "chain", "llm"]
    assert own.kinds == ["chain", "llm"]


def test_a_caller_can_silence_the_ambient_callbacks() -> None:
    runs = Runs()
    RunnableLambda(lambda x: routed().invoke(x, {"callbacks": []})).invoke("q", {"callbacks": [runs]})
    assert runs.kinds == ["chain"]


def test_the_backends_own_message_is_never_changed() -> None:
    runs, llm = Runs(), routed()
    answer = llm.invoke("q", {"callbacks": [runs]})
    traced = next(output for kind, output in runs.ends if kind == "llm").generations[0][0].message
    assert RECORD not in traced.response_metadata
    assert RECORD in answer.response_metadata
    assert traced.id == answer.id


def test_a_stream_carries_the_record_on_its_first_chunk_only() -> None:
    chunks = list(routed().stream("hard q"))
    assert [RECORD in chunk.response_metadata for chunk in chunks] == [True, False]
    total = chunks[0] + chunks[1]
    assert total.response_metadata[RECORD]["route"] == "strong"
    assert total.usage_metadata["total_tokens"] == 15
    assert isinstance(total, AIMessageChunk) and total.chunk_position == "last"


def test_a_stream_closes_its_runs_child_first_and_the_trace_has_the_whole_answer() -> None:
    runs = Runs()
    list(routed().stream("hard q", {"callbacks": [runs]}))
    assert [kind for kind, _ in runs.ends] == ["llm", "chain"]
    assert runs.ends[1][1].text == "fake-strong answers"
    assert "".join(runs.tokens) == "fake-strong answers"


def test_an_abandoned_stream_closes_the_backends_stream_and_both_runs() -> None:
    runs = Runs()
    stream: Any = routed().stream("hard q", {"callbacks": [runs]})
    next(stream)
    stream.close()
    assert runs.closed == ["llm error", "chain end"]  # the first as langchain reports it for every chat model
    assert [(kind, getattr(out, "text", None)) for kind, out in runs.ends] == [("chain", "fake-strong ")]


async def test_an_abandoned_async_stream_closes_the_backends_stream_and_both_runs() -> None:
    runs = Runs()
    stream: Any = routed().astream("hard q", {"callbacks": [runs]})
    await anext(stream)
    await stream.aclose()
    assert runs.closed == ["llm error", "chain end"]


async def test_the_async_methods_do_the_same() -> None:
    llm, runs = routed(), Runs()
    with collect_decisions() as decisions:
        answer = await llm.ainvoke("hard", {"callbacks": [runs]})
        chunks = [chunk async for chunk in llm.astream("easy", {"callbacks": [runs]})]
    assert answer.response_metadata[RECORD]["route"] == "strong"
    assert [RECORD in chunk.response_metadata for chunk in chunks] == [True, False]
    assert runs.kinds == ["chain", "llm"] * 2
    assert [decision.route for decision in decisions] == ["strong", "weak"]


async def test_astream_events_v2_shows_each_token_once_with_its_route() -> None:
    events = [event async for event in routed().astream_events("hard", version="v2")]
    names = [(event["event"], event["name"]) for event in events]
    assert names[0] == ("on_chain_start", "ChatRouteLLM")
    assert names[-1] == ("on_chain_end", "ChatRouteLLM")
    tokens = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in tokens) == "fake-strong answers"
    assert {event["metadata"]["routellm_route"] for event in tokens} == {"strong"}
    end = next(event for event in events if event["event"] == "on_chat_model_end")
    assert end["data"]["output"].usage_metadata["total_tokens"] == 15
    assert events[-1]["data"]["output"].response_metadata[RECORD]["route"] == "strong"


@pytest.mark.filterwarnings("ignore:astream_events version='v1' is deprecated")
async def test_astream_events_v1_works_and_inside_a_chain_the_router_adds_no_tokens_of_its_own() -> None:
    assert [e async for e in routed().astream_events("hard", version="v1")][-1]["event"] == "on_chain_end"
    chain = RunnableLambda(lambda x: x) | routed()
    events = [event async for event in chain.astream_events("hard", version="v2")]
    assert "ChatRouteLLM" not in [e["name"] for e in events if e["event"] == "on_chain_stream"]
    assert len([e for e in events if e["event"] == "on_chat_model_stream"]) == 2


def test_prompt_router_parser_is_a_chain() -> None:
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{q}")]) | routed() | StrOutputParser()
    assert chain.invoke({"q": "hard"}) == "fake-strong answers"
    assert "".join(chain.stream({"q": "easy"})) == "fake-weak answers"
    assert chain.batch([{"q": "hard"}, {"q": "easy"}]) == ["fake-strong answers", "fake-weak answers"]


def test_generate_sends_each_prompt_its_own_way_and_records_it() -> None:
    runs, router = Runs(), ScriptedRouter(by_words)
    llm = routed(router=router)
    with collect_decisions() as decisions:
        result = llm.generate([[HumanMessage("hard")], [HumanMessage("easy")]], callbacks=[runs], stop=["X"])
    messages = [generations[0].message for generations in result.generations]  # type: ignore[union-attr]
    assert [m.response_metadata["model_name"] for m in messages] == ["fake-strong", "fake-weak"]
    assert [m.response_metadata[RECORD]["route"] for m in messages] == ["strong", "weak"]
    assert runs.kinds == ["chain", "llm"] * 2
    assert backend(llm, "weak").calls[0]["stop"] == ["X"]
    assert router.calls == [["hard", "easy"]]
    assert len(decisions) == 2
    assert len(result.run or []) == 2


async def test_agenerate_prompt_does_the_same() -> None:
    llm = routed()
    result = await llm.agenerate_prompt([llm._convert_input("hard"), llm._convert_input("easy")])
    assert [g[0].text for g in result.generations] == ["fake-strong answers", "fake-weak answers"]


async def test_an_error_closes_both_runs_and_reaches_the_caller_unchanged() -> None:
    error = ValueError("boom")
    for call in ("invoke", "stream", "ainvoke", "astream", "generate", "agenerate"):
        runs, llm = Runs(), routed(weak=fake("weak", error=error))
        with pytest.raises(ValueError, match="boom") as caught:
            if call == "invoke":
                llm.invoke("q", {"callbacks": [runs]})
            elif call == "stream":
                list(llm.stream("q", {"callbacks": [runs]}))
            elif call == "ainvoke":
                await llm.ainvoke("q", {"callbacks": [runs]})
            elif call == "astream":
                _ = [chunk async for chunk in llm.astream("q", {"callbacks": [runs]})]
            elif call == "generate":
                llm.generate([[HumanMessage("q")]], callbacks=[runs])
            else:
                await llm.agenerate([[HumanMessage("q")]], callbacks=[runs])
        assert caught.value is error
        assert [kind for kind, _ in runs.errors] == ["llm", "chain"], call


async def test_a_cancelled_call_closes_its_runs() -> None:
    class Slow(FakeBackend):
        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kw: Any) -> ChatResult:
            await asyncio.sleep(30)
            raise AssertionError("not reached")

    runs = Runs()
    task = asyncio.create_task(routed(weak=Slow(label="slow")).ainvoke("q", {"callbacks": [runs]}))
    while len(runs.starts) < 2:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ("chain", asyncio.CancelledError) in [(kind, type(error)) for kind, error in runs.errors]


def test_code_that_calls_generate_from_below_is_routed_without_runs_of_its_own() -> None:
    llm = routed()
    result = llm._generate([HumanMessage("hard")], stop=["X"])
    assert result.generations[0].message.response_metadata[RECORD]["route"] == "strong"
    assert backend(llm, "strong").calls[0]["stop"] == ["X"]


async def test_code_that_awaits_agenerate_from_below_is_routed_too() -> None:
    result = await routed()._agenerate([HumanMessage("hard")])
    assert result.generations[0].message.response_metadata[RECORD]["route"] == "strong"


def test_verbose_prints_the_chain_run(capsys: pytest.CaptureFixture[str]) -> None:
    routed(verbose=True).invoke("q")
    assert "ChatRouteLLM" in capsys.readouterr().out


async def _v3(llm: Any, config: Any) -> None:
    await (await llm.astream_events("q", config, version="v3"))


async def _consumed(chunks: Any) -> None:
    async for _ in chunks:
        pass


WAYS: dict[str, Any] = {
    "invoke": lambda llm, config: llm.invoke("q", config),
    "ainvoke": lambda llm, config: llm.ainvoke("q", config),
    "stream": lambda llm, config: list(llm.stream("q", config)),
    "astream": lambda llm, config: _consumed(llm.astream("q", config)),
    "events v3": lambda llm, config: _v3(llm, config),
    "events v3 sync": lambda llm, config: llm.stream_events("q", config, version="v3").output,
    "generate": lambda llm, config: llm.generate([[HumanMessage("q")]], callbacks=config["callbacks"]),
    "structured": lambda llm, config: llm.with_structured_output({"title": "A", "type": "object"}).invoke("q", config),
    "batch of one": lambda llm, config: llm.batch(["q"], config),
}


@pytest.mark.filterwarnings("ignore:.*beta")
@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize("way", WAYS)
async def test_a_routers_own_model_calls_are_our_children_and_stay_out_of_the_users_stream(
    way: str, timeout: float | None
) -> None:
    judge = fake("judge")

    def judged(prompt: str) -> float:
        judge.invoke(prompt)
        return 0.9

    runs = Runs()
    llm = routed(router=ScriptedRouter(judged, is_quick=False), router_timeout_s=timeout)
    result = WAYS[way](llm, {"callbacks": [runs], "configurable": {"routellm_stickiness": "none"}})
    if asyncio.iscoroutine(result):
        await result
    chain, scoring, answering = [start for start in runs.starts if start["name"] != "RunnableSequence"][:3]
    assert (chain["kind"], scoring["kind"], answering["kind"]) == ("chain", "llm", "llm")
    assert scoring["parent"] == chain["run_id"]
    assert "nostream" in scoring["tags"]
    assert "nostream" not in answering["tags"]


async def test_a_batch_is_judged_once_outside_of_its_items_runs_and_out_of_the_stream() -> None:
    judge, runs = fake("judge"), Runs()

    def judged(prompt: str) -> float:
        judge.invoke(prompt)
        return 0.9

    llm = routed(router=ScriptedRouter(judged, is_quick=False))
    config: Any = {"callbacks": [runs], "tags": ["mine"]}
    llm.batch(["a", "b"], config)
    await llm.abatch(["a", "b"], config)
    judging = [start for start in runs.starts if "nostream" in start["tags"]]
    assert [(start["kind"], start["parent"]) for start in judging] == [("llm", None)] * 4
    assert all("mine" in start["tags"] for start in judging)
    assert runs.kinds.count("chain") == 4


def test_a_message_from_an_answer_is_an_ai_message_again_in_the_next_turn() -> None:
    llm = routed()
    first = llm.invoke("easy")
    assert isinstance(first, AIMessage)
    assert llm.invoke([HumanMessage("easy"), first, HumanMessage("this is a hard follow up")]).text == (
        "fake-strong answers"
    )
