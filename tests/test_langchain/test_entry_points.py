"""The ways to call a chat model that others are made of, and the rest of what a Runnable can do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda

from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, Runs, backend, by_words, fake, get_weather, routed


def route(answer: Any) -> str:
    found: str = answer.response_metadata[RECORD]["route"]
    return found


# -- transform
async def test_transform_waits_for_the_whole_input_and_streams_the_answer() -> None:
    async def parts() -> Any:
        for part in ("har", "d"):
            yield part

    router = ScriptedRouter(by_words)
    chunks = list(routed(router=router).transform(iter(["har", "d"])))
    achunks = [chunk async for chunk in routed(router=router).atransform(parts())]
    for got in (chunks, achunks):
        assert [chunk.text for chunk in got] == ["fake-strong ", "answers"]
        assert [RECORD in chunk.response_metadata for chunk in got] == [True, False]
    assert router.calls == [["hard"]] * 2


async def test_between_two_streaming_steps_tokens_pass_one_by_one() -> None:
    def through(parts: Iterator[str]) -> Iterator[str]:
        yield from parts

    runs = Runs()
    chain: Any = RunnableGenerator(through) | routed() | StrOutputParser()
    assert list(chain.stream("hard", {"callbacks": [runs]})) == ["fake-strong ", "answers"]
    assert runs.kinds.count("llm") == 1
    assert "".join(runs.tokens) == "fake-strong answers"


# -- inside somebody else's event stream
async def test_an_invoke_inside_an_event_stream_streams_its_tokens_once() -> None:
    llm = routed()

    async def ask(text: str) -> str:
        return str((await llm.ainvoke(text)).text)

    def ask_sync(text: str, config: RunnableConfig) -> str:
        return str(llm.invoke(text, config).text)

    for step in (RunnableLambda(ask), RunnableLambda(ask_sync)):
        events = [event async for event in step.astream_events("hard", version="v2")]
        tokens = [event for event in events if event["event"] == "on_chat_model_stream"]
        assert "".join(str(event["data"]["chunk"].text) for event in tokens) == "fake-strong answers"
        assert {event["metadata"]["routellm_route"] for event in tokens} == {"strong"}
        assert [event["name"] for event in events if event["event"] == "on_chain_stream"] == [step.get_name()]


async def test_event_streams_can_be_filtered_by_the_backends_type_and_tag() -> None:
    llm = routed(tags=["routed"])
    only_models = [e async for e in llm.astream_events("hard", version="v2", include_types=["chat_model"])]
    assert {event["event"] for event in only_models} == {
        "on_chat_model_start",
        "on_chat_model_stream",
        "on_chat_model_end",
    }
    none = [e async for e in llm.astream_events("hard", version="v2", exclude_tags=["routed"])]
    assert none == []


# -- many at once
def test_every_item_of_a_batch_is_a_chain_run_with_its_own_config() -> None:
    first, second = Runs(), Runs()
    configs: list[Any] = [
        {"callbacks": [first], "run_name": "one", "tags": ["a"], "metadata": {"n": 1}},
        {"callbacks": [second], "run_name": "two", "configurable": {"routellm_threshold": 0.05}},
    ]
    answers = routed().batch(["easy", "easy"], configs)
    assert [route(answer) for answer in answers] == ["weak", "strong"]
    assert [(start["kind"], start["name"]) for start in first.starts] == [("chain", "one"), ("llm", "FakeBackend")]
    assert "a" in first.starts[1]["tags"]
    assert first.starts[1]["metadata"]["n"] == 1
    assert [start["name"] for start in second.starts] == ["two", "FakeBackend"]
    assert "n" not in second.starts[1]["metadata"]


def test_a_batch_keeps_to_its_concurrency_and_its_order() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def text(messages: Any) -> str:
        return str(messages[-1].text)

    class Counting(type(fake("x"))):  # type: ignore[misc]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            try:
                return super()._generate(*args, **kwargs)
            finally:
                with lock:
                    now[0] -= 1

    llm = routed(weak=Counting(echo=True), strong=Counting(echo=True), text=text)
    answers = llm.batch([f"q{i}" for i in range(12)], {"max_concurrency": 2})
    assert [answer.text for answer in answers] == [f"q{i}" for i in range(12)]
    assert most[0] <= 2


async def test_batches_as_completed_hand_out_errors_with_their_index() -> None:
    llm = routed(strong=fake("strong", error=ValueError("boom")))
    found = dict(llm.batch_as_completed(["easy", "hard"], return_exceptions=True))
    afound = dict([item async for item in llm.abatch_as_completed(["easy", "hard"], return_exceptions=True)])
    for each in (found, afound):
        assert route(each[0]) == "weak"
        assert isinstance(each[1], ValueError)
    with pytest.raises(ValueError, match="boom"):
        dict(llm.batch_as_completed(["hard", "hard"]))


async def test_a_large_async_batch_is_scored_in_one_call_and_every_item_keeps_its_decision() -> None:
    router = ScriptedRouter(by_words)
    texts = [f"{'hard' if i % 3 == 0 else 'easy'} {i}" for i in range(200)]  # more than one slice of preparation
    answers = await routed(router=router).abatch(texts)
    assert router.calls == [texts]
    assert [route(answer) for answer in answers] == ["strong" if i % 3 == 0 else "weak" for i in range(200)]


async def test_many_calls_at_once_are_all_answered_each_by_its_own_decision() -> None:
    llm = routed(weak=fake("weak", echo=True), strong=fake("strong", echo=True))
    texts = [f"{'hard' if i % 3 == 0 else 'easy'} {i}" for i in range(300)]
    answers = await asyncio.gather(*(llm.ainvoke(text) for text in texts))
    assert [answer.text for answer in answers] == texts
    assert [route(answer) for answer in answers] == ["strong" if i % 3 == 0 else "weak" for i in range(300)]


# -- generate and its prompts
async def test_prompt_values_are_routed_one_by_one() -> None:
    for is_async in (False, True):
        runs, llm = Runs(), routed()
        prompts = [llm._convert_input("hard"), llm._convert_input("easy")]
        options: Any = {"callbacks": [runs], "stop": ["X"], "run_name": "asked", "tags": ["t"], "metadata": {"n": 1}}
        result = await llm.agenerate_prompt(prompts, **options) if is_async else llm.generate_prompt(prompts, **options)
        assert [g[0].text for g in result.generations] == ["fake-strong answers", "fake-weak answers"]
        assert sorted(start["kind"] for start in runs.starts) == ["chain", "chain", "llm", "llm"]
        assert {start["name"] for start in runs.starts if start["kind"] == "chain"} == {"asked"}
        llms = [start for start in runs.starts if start["kind"] == "llm"]
        assert {start["metadata"]["routellm_route"] for start in llms} == {"strong", "weak"}
        assert all(start["metadata"]["n"] == 1 and "t" in start["tags"] for start in llms)
        assert backend(llm, "weak").calls == [{"stop": ["X"]}]


async def test_generate_of_no_prompts_is_an_empty_result() -> None:
    assert routed().generate([]).generations == []
    assert (await routed().agenerate([])).generations == []


async def test_an_error_in_generate_closes_the_runs_of_the_others() -> None:
    runs, llm = Runs(), routed(strong=fake("strong", error=ValueError("boom")))
    prompts: Any = [[HumanMessage("easy")], [HumanMessage("hard")]]
    with pytest.raises(ValueError, match="boom"):
        await llm.agenerate(prompts, callbacks=[runs])
    assert len(runs.starts) == len(runs.closed) == 4


# -- caches
@pytest.fixture
def global_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


async def test_a_global_cache_serves_the_backends_and_every_hit_is_decided_and_recorded_anew(
    global_cache: None,
) -> None:
    llm = routed(stickiness="none")
    first = llm.invoke("easy")
    for again in (llm.invoke("easy"), await llm.ainvoke("easy"), *llm.batch(["easy", "easy"])):
        assert again.text == first.text
        assert route(again) == "weak"
    config: Any = {"configurable": {"routellm_threshold": 0.05}}
    moved = llm.invoke("easy", config)  # the decision is never cached
    assert (route(moved), moved.response_metadata[RECORD]["threshold"]) == ("strong", 0.05)
    assert [len(backend(llm, name).seen) for name in ("weak", "strong")] == [1, 1]


def test_a_hit_has_no_record_of_the_first_call_and_the_cached_message_stays_clean(global_cache: None) -> None:
    llm = routed()
    config: Any = {"configurable": {"routellm_route": "weak"}}
    assert llm.invoke("easy").response_metadata[RECORD]["reason"] == "score"
    assert llm.invoke("easy", config).response_metadata[RECORD] == {"route": "weak", "reason": "forced"}
    assert RECORD not in backend(llm, "weak").invoke("easy").response_metadata
    assert len(backend(llm, "weak").seen) == 1


def test_two_backends_that_differ_share_no_cached_answer(global_cache: None) -> None:
    llm = routed()
    texts = [llm.invoke("easy", model=name).text for name in ("weak", "strong", "weak", "strong")]
    assert texts == ["fake-weak answers", "fake-strong answers"] * 2


def test_bound_tools_are_part_of_the_backends_cache_key(global_cache: None) -> None:
    llm = routed()
    assert llm.invoke("'Rome'").tool_calls == []
    assert llm.bind_tools([get_weather]).invoke("'Rome'").tool_calls[0]["args"] == {"city": "Rome"}
    assert llm.bind_tools([get_weather]).invoke("'Rome'").tool_calls[0]["args"] == {"city": "Rome"}
    assert len(backend(llm, "weak").seen) == 2


def test_usage_is_counted_once_over_a_fallback_and_a_nested_router() -> None:
    usage = UsageMetadataCallbackHandler()
    llm = routed(weak=fake("weak", error=ConnectionError("down")), strong=routed(), fallback="stronger")
    llm.invoke("easy", {"callbacks": [usage]})
    list(llm.stream("easy", {"callbacks": [usage]}))
    assert {name: counts["total_tokens"] for name, counts in usage.usage_metadata.items()} == {"fake-weak": 30}


def test_a_message_in_the_history_with_a_record_is_not_taken_for_an_answer() -> None:
    old = AIMessage("earlier", response_metadata={RECORD: {"route": "strong", "reason": "score"}})
    answer = routed().invoke([HumanMessage("hard"), old, HumanMessage("an easy question, this time")])
    assert route(answer) == "weak"
    assert old.response_metadata == {RECORD: {"route": "strong", "reason": "score"}}
