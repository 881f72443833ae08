"""collect_decisions() knows what each answer took, in every way to call, and nobody else pays for that."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from langchain_routellm import RouterRunnable
from langchain_routellm._usage import RunsUsage
from routellm_core import collect_decisions
from routellm_core.testing import ScriptedRouter
from routellm_core.types import Usage
from tests.test_langchain.fakes import FakeBackend, Runs, by_words, fake, get_weather, routed

TOOK = Usage(input_tokens=10, output_tokens=5)  # of every answer of the fake


class Joke(BaseModel):
    """A joke."""

    setup: str


async def taken(calls: Any) -> list[tuple[str, Usage | None]]:
    """Route and token counts of all answers given by the awaitable."""
    with collect_decisions() as decisions:
        await calls
    return [(decision.route, decisions.usage_of(decision)) for decision in decisions]


async def every_way(llm: Any, texts: tuple[str, str] = ("easy", "hard")) -> None:
    for text in texts:
        llm.invoke(text)
        await llm.ainvoke(text)
        list(llm.stream(text))
        _ = [chunk async for chunk in llm.astream(text)]
    llm.batch(list(texts))
    await llm.abatch(list(texts))
    list(llm.batch_as_completed(list(texts)))
    _ = [item async for item in llm.abatch_as_completed(list(texts))]


async def test_every_way_to_call_reports_what_the_answer_took() -> None:
    found = await taken(every_way(routed()))
    assert sorted(found, key=str) == [("strong", TOOK)] * 8 + [("weak", TOOK)] * 8


async def test_generate_reports_each_prompt() -> None:
    llm = routed()

    async def calls() -> None:
        prompts: Any = [[HumanMessage("easy")], [HumanMessage("hard")]]
        llm.generate(prompts)
        await llm.agenerate(prompts)

    assert sorted(await taken(calls())) == [("strong", TOOK)] * 2 + [("weak", TOOK)] * 2


@pytest.mark.filterwarnings("ignore:.*beta")
async def test_event_streams_report_too() -> None:
    llm = routed()

    async def calls() -> None:
        _ = llm.stream_events("easy", version="v3").output
        await (await llm.astream_events("hard", version="v3"))
        _ = [event async for event in llm.astream_events("easy", version="v2")]

    assert await taken(calls()) == [("weak", TOOK), ("strong", TOOK), ("weak", TOOK)]


async def test_tools_and_structured_output_report_too_even_when_nobody_sees_the_message() -> None:
    assert {usage for _, usage in await taken(every_way(routed().bind_tools([get_weather])))} == {TOOK}
    assert {usage for _, usage in await taken(every_way(routed().with_structured_output(Joke)))} == {TOOK}
    structured = routed().with_structured_output(Joke, include_raw=True)
    assert {usage for _, usage in await taken(every_way(structured))} == {TOOK}


async def test_the_saving_of_a_chain() -> None:
    chain = RunnableLambda(lambda x: x) | routed() | StrOutputParser()
    with collect_decisions() as decisions:
        chain.invoke("easy")
        await chain.ainvoke("easy")
        list(chain.stream("hard"))
        chain.batch(["easy", "hard"])
    # tokens 10 in and 5 out; per million the strong model costs $3 and $6, the weak one $1 and $2:
    # strong 30 + 30 = 60, weak 10 + 10 = 20 millionths. Two strong and three weak: 180 instead of 300
    saving = decisions.saving({"weak": (1, 2), "strong": (3, 6)})
    assert saving.usd == pytest.approx(180e-6)
    assert saving.all_strong_usd == pytest.approx(300e-6)
    assert (saving.answers, saving.without_usage) == (5, 0)


def test_a_stream_adds_up_the_counts_of_all_its_chunks() -> None:
    class Counting(FakeBackend):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            for into, out in ((7, 1), (0, 2), (0, 3)):  # as Anthropic does
                usage = {"input_tokens": into, "output_tokens": out, "total_tokens": into + out}
                yield ChatGenerationChunk(message=AIMessageChunk("a", usage_metadata=usage))

    with collect_decisions() as decisions:
        list(routed(weak=Counting()).stream("easy"))
    assert decisions.usage_of(decisions[0]) == Usage(input_tokens=7, output_tokens=6)


async def test_a_stream_closed_early_or_broken_has_a_decision_and_no_count() -> None:
    with collect_decisions() as decisions:
        stream: Any = routed().stream("easy")
        next(stream)
        stream.close()
        astream: Any = routed().astream("easy")
        await anext(astream)
        await astream.aclose()
        broken = routed(weak=fake("weak", error=ValueError("cut"), error_after=1))
        with pytest.raises(ValueError, match="cut"):
            list(broken.stream("easy"))
        structured: Any = routed().with_structured_output(Joke).stream("'a'")
        next(structured)
        structured.close()
    assert [decisions.usage_of(decision) for decision in decisions] == [None] * 4
    assert decisions.saving({"weak": (0, 0), "strong": (1, 1)}).without_usage == 4


def test_the_decision_of_a_stream_is_known_with_its_first_chunk_the_count_with_its_last() -> None:
    with collect_decisions() as decisions:
        stream = routed().stream("easy")
        assert decisions == []
        next(stream)
        assert len(decisions) == 1
        assert decisions.usage_of(decisions[0]) is None
        list(stream)
        assert decisions.usage_of(decisions[0]) == TOOK


async def test_after_a_fallback_the_count_belongs_to_the_route_that_answered() -> None:
    llm = routed(weak=fake("weak", error=ModelRateLimitError("429")), fallback="stronger")
    for runnable in (llm, llm.with_structured_output(Joke)):
        found = await taken(every_way(runnable))
        assert set(found) == {("strong", TOOK)}
        assert len(found) == 16


def test_a_failed_call_leaves_nothing() -> None:
    with collect_decisions() as decisions, pytest.raises(ModelRateLimitError):
        routed(weak=fake("weak", error=ModelRateLimitError("429"))).invoke("easy")
    assert decisions == []


async def test_of_nested_routers_the_inner_one_counts() -> None:
    outer = routed(weak=routed(models={"small": fake("s"), "big": fake("b")}), router=ScriptedRouter(0.1))
    for runnable in (outer, outer.bind_tools([get_weather]), outer.with_structured_output(Joke)):
        found = await taken(every_way(runnable, ("easy one", "hard two")))
        assert {usage for route, usage in found if route in ("small", "big")} == {TOOK}
        assert {usage for route, usage in found if route == "weak"} == {None}
        assert len(found) == 32


def test_a_whole_chain_as_a_route_counts_all_its_models() -> None:
    chain = fake("one") | RunnableLambda(lambda message: message.text) | fake("two") | StrOutputParser()
    router: Any = RouterRunnable({"weak": chain, "strong": chain}, router=ScriptedRouter(by_words), threshold=0.5)
    with collect_decisions() as decisions:
        router.invoke("easy")
        list(router.stream("hard"))
    assert [decisions.usage_of(d) for d in decisions] == [Usage(input_tokens=20, output_tokens=10)] * 2
    with collect_decisions() as decisions:
        RouterRunnable(
            {"a": routed() | StrOutputParser(), "b": chain}, router=ScriptedRouter(0.1), threshold=0.5
        ).invoke("easy")
    assert [(d.route, decisions.usage_of(d)) for d in decisions] == [("weak", TOOK), ("a", None)]


def test_an_answer_out_of_a_cache_took_nothing() -> None:
    llm = routed(weak=fake("weak", cache=InMemoryCache()))
    with collect_decisions() as decisions:
        llm.invoke("easy")
        llm.invoke("easy")
        llm.with_structured_output(Joke).invoke("'a'")
        llm.with_structured_output(Joke).invoke("'a'")
    nothing = Usage(input_tokens=0, output_tokens=0)
    assert [decisions.usage_of(decision) for decision in decisions] == [TOOK, nothing, TOOK, nothing]


def test_a_backend_that_does_not_say_has_no_count() -> None:
    class Silent(FakeBackend):
        def _answer(self, *args: Any) -> AIMessage:
            return super()._answer(*args).model_copy(update={"usage_metadata": None})

    with collect_decisions() as decisions:
        routed(weak=Silent()).invoke("easy")
        list(routed(weak=Silent()).stream("easy"))
    assert [decisions.usage_of(decision) for decision in decisions] == [None, None]


def test_where_nobody_collects_no_handler_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("made for nobody")

    monkeypatch.setattr(RunsUsage, "__init__", refuse)
    monkeypatch.setattr("langchain_routellm._call.AnswerUsage", refuse)
    routed().invoke("easy")
    list(routed().stream("easy"))
    routed().with_structured_output(Joke).invoke("'a'")
    with collect_decisions(), pytest.raises(AssertionError, match="made for nobody"):
        routed().invoke("easy")


def test_collecting_changes_nothing_that_others_see() -> None:
    runs = Runs()
    with collect_decisions():
        routed().with_structured_output(Joke).invoke("'a'", {"callbacks": [runs]})
        routed().invoke("easy", {"callbacks": [runs]})
    assert runs.kinds.count("llm") == 2
    assert runs.errors == []
