"""The router inside what people build chains of: fallbacks, retries, caches, maps, functions, alternatives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ModelAPIError, ModelRateLimitError
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from langchain_openai import ChatOpenAI

from langchain_routellm import ChatRouteLLM, RouterRunnable
from routellm_core import collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter
from tests.test_langchain.fakes import RECORD, Runs, by_words, routed

PROMPT = ChatPromptTemplate.from_messages([("human", "{question}")])
EASY, HARD = {"question": "easy"}, {"question": "hard"}


def client(server: LoopbackOpenAI, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=server.url, api_key="none", max_retries=0, stream_usage=True)  # type: ignore[arg-type]


def routed_model(server: LoopbackOpenAI, **options: Any) -> Runnable[Any, Any]:
    """prompt | ChatRouteLLM | parser"""
    llm = routed(**{"weak": client(server, "small"), "strong": client(server, "large"), **options})
    return PROMPT | llm | StrOutputParser()


def routed_chains(server: LoopbackOpenAI, **options: Any) -> Runnable[Any, Any]:
    """RouterRunnable over two such chains of plain models."""
    options.setdefault("router", ScriptedRouter(by_words))
    return RouterRunnable(
        {name: PROMPT | client(server, model) | StrOutputParser() for name, model in ROUTES.items()},
        threshold=0.5,
        **options,
    )


ROUTES = {"weak": "small", "strong": "large"}
Make = Callable[..., Runnable[Any, Any]]
both = pytest.mark.parametrize("make", [routed_model, routed_chains])


def failing(*models: str, status: int = 500) -> Callable[[dict[str, Any]], Reply | str]:
    def reply(body: dict[str, Any]) -> Reply | str:
        return Reply(status=status) if body["model"] in models else f"{body['model']} answers"

    return reply


# -- failures around it
@both
async def test_with_fallbacks_takes_over_when_the_chosen_route_is_down(make: Make, loopback: LoopbackOpenAI) -> None:
    loopback.reply = failing("large")
    safe = make(loopback).with_fallbacks([PROMPT | client(loopback, "spare") | StrOutputParser()])
    assert safe.invoke(HARD) == "spare answers"
    assert await safe.ainvoke(HARD) == "spare answers"
    assert "".join(safe.stream(HARD)) == "spare answers"
    assert safe.batch([HARD, EASY]) == ["spare answers", "small answers"]
    assert [request["model"] for request in loopback.requests[:2]] == ["large", "spare"]


@both
def test_with_fallbacks_onto_a_router_routes_there(make: Make, loopback: LoopbackOpenAI) -> None:
    loopback.reply = failing("first")
    safe = (PROMPT | client(loopback, "first") | StrOutputParser()).with_fallbacks([make(loopback)])
    assert safe.batch([HARD, EASY]) == ["large answers", "small answers"]


@both
async def test_with_retry_asks_again_and_the_decision_is_taken_anew(make: Make, loopback: LoopbackOpenAI) -> None:
    tries: list[str] = []

    def busy_once(body: dict[str, Any]) -> Reply | str:
        tries.append(body["model"])
        return Reply(status=429) if len(tries) % 2 else "done"

    loopback.reply = busy_once
    router = ScriptedRouter(by_words)
    patient = make(loopback, router=router).with_retry(
        retry_if_exception_type=(ModelRateLimitError,), stop_after_attempt=2, wait_exponential_jitter=False
    )
    with collect_decisions() as decisions:
        assert patient.invoke(HARD) == "done"
        assert await patient.ainvoke(EASY) == "done"
    assert tries == ["large", "large", "small", "small"]
    assert router.calls == [["hard"], ["hard"], ["easy"], ["easy"]]
    assert [d.route for d in decisions] == ["strong", "weak"]  # one an answer, not one a try


@both
def test_without_any_of_it_the_error_is_the_clients_own(make: Make, loopback: LoopbackOpenAI) -> None:
    loopback.reply = failing("large")
    with pytest.raises(ModelAPIError):
        make(loopback).invoke(HARD)
    # an output that has begun is finished or fails; nobody else's answer is appended
    loopback.reply = lambda body: Reply(text="a b c d", cut_after=2)
    stream = make(loopback, fallback="any").stream(HARD)
    assert next(stream) is not None
    with pytest.raises(Exception, match=r"peer closed|incomplete|[Cc]onnection"):
        list(stream)


# -- caches
@pytest.fixture
def cache() -> Iterator[InMemoryCache]:
    before, cache = get_llm_cache(), InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(before)


@both
async def test_the_global_cache_answers_for_the_backends_while_the_decision_stays_fresh(
    make: Make, loopback: LoopbackOpenAI, cache: InMemoryCache
) -> None:
    router = ScriptedRouter(by_words)
    answering = make(loopback, router=router)
    assert answering.invoke(HARD) == answering.invoke(HARD) == "large answers: hard"
    assert len(loopback.requests) == 1
    # another route is another model, and so another entry
    forced: RunnableConfig = {"configurable": {"routellm_route": "weak"}}
    assert await answering.ainvoke(HARD, forced) == "small answers: hard"
    assert [request["model"] for request in loopback.requests] == ["large", "small"]
    assert len(cache._cache) == 2
    assert router.calls == [["hard"], ["hard"]]


def test_a_cached_answer_carries_the_record_of_its_own_call(loopback: LoopbackOpenAI, cache: InMemoryCache) -> None:
    llm = routed(weak=client(loopback, "small"), strong=client(loopback, "large"))
    first = llm.invoke("hard")
    again = llm.invoke("hard", {"configurable": {"routellm_route": "strong"}})
    assert (first.response_metadata[RECORD]["reason"], again.response_metadata[RECORD]["reason"]) == ("score", "forced")
    assert first.text == again.text
    assert len(loopback.requests) == 1
    (entry,) = cache._cache.values()
    assert RECORD not in entry[0].message.response_metadata  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:The default value of `allowed_objects`")
def test_a_cache_on_disk_works_too(loopback: LoopbackOpenAI, tmp_path: Any) -> None:
    caches = pytest.importorskip("langchain_community.cache")
    before = get_llm_cache()
    set_llm_cache(caches.SQLiteCache(database_path=str(tmp_path / "cache.db")))
    try:
        answering = routed_model(loopback)
        assert answering.invoke(HARD) == answering.invoke(HARD) == "large answers: hard"
    finally:
        set_llm_cache(before)
    assert len(loopback.requests) == 1


# -- maps, functions, generators
@both
async def test_in_a_map_each_place_decides_for_itself(make: Make, loopback: LoopbackOpenAI) -> None:
    answering = make(loopback)
    both_ways: Runnable[Any, Any] = RunnableParallel(
        plain=answering, harder=(lambda x: {"question": f"hard {x['question']}"}) | answering
    )
    wanted = {"plain": "small answers: easy", "harder": "large answers: hard easy"}
    with collect_decisions() as decisions:
        assert both_ways.invoke(EASY) == wanted
        assert await both_ways.ainvoke(EASY) == wanted
    assert sorted(d.route for d in decisions) == ["strong", "strong", "weak", "weak"]
    merged: Any = None
    for chunk in both_ways.stream(EASY):
        merged = chunk if merged is None else merged + chunk
    assert merged == wanted


@both
def test_assign_and_pick_work_around_it(make: Make, loopback: LoopbackOpenAI) -> None:
    answering = make(loopback)
    assigned = RunnablePassthrough.assign(answer=answering)
    assert assigned.invoke(HARD) == {"question": "hard", "answer": "large answers: hard"}
    assert assigned.pick("answer").batch([HARD, EASY]) == ["large answers: hard", "small answers: easy"]


def test_a_route_that_returns_a_dict_can_be_picked_from_and_added_to(loopback: LoopbackOpenAI) -> None:
    loopback.reply = lambda body: json.dumps({"model": body["model"], "n": 1})
    choosing: RouterRunnable[Any, Any] = RouterRunnable(
        {name: PROMPT | client(loopback, model) | JsonOutputParser() for name, model in ROUTES.items()},
        router=ScriptedRouter(by_words),
        threshold=0.5,
    )
    assert choosing.pick("model").invoke(HARD) == "large"
    assert choosing.assign(double=lambda x: x["n"] * 2).invoke(EASY) == {"model": "small", "n": 1, "double": 2}
    assert list(choosing.stream(HARD))[-1] == {"model": "large", "n": 1}


@both
async def test_called_inside_a_function_its_runs_hang_below_that_function(make: Make, loopback: LoopbackOpenAI) -> None:
    answering = make(loopback)

    @chain
    def twice(question: str) -> str:
        return " / ".join(answering.invoke({"question": q}) for q in (question, f"hard {question}"))

    async def aonce(question: str, config: RunnableConfig) -> str:
        return str(await answering.ainvoke({"question": question}, config))

    runs = Runs()
    assert twice.invoke("easy", {"callbacks": [runs]}) == "small answers: easy / large answers: hard easy"
    function = runs.starts[0]
    below = [start for start in runs.starts if start["parent"] == function["run_id"]]
    assert [start["name"] for start in below] == [below[0]["name"]] * 2
    assert [start["metadata"]["routellm_route"] for start in runs.starts if start["kind"] == "llm"] == [
        "weak",
        "strong",
    ]
    runs = Runs()
    assert await RunnableLambda(aonce).ainvoke("hard", {"callbacks": [runs]}) == "large answers: hard"
    parents = {start["run_id"]: start["parent"] for start in runs.starts}
    (run,) = (start["run_id"] for start in runs.starts if start["kind"] == "llm")
    while parents[run] is not None:
        run = parents[run]
    assert run == runs.starts[0]["run_id"]


@both
async def test_chunks_flow_through_generators_after_it(make: Make, loopback: LoopbackOpenAI) -> None:
    def shout(parts: Iterator[str]) -> Iterator[str]:
        for part in parts:
            yield part.upper()

    async def ashout(parts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for part in parts:
            yield part.upper()

    loud = make(loopback) | RunnableGenerator(shout, ashout)
    got = [part for part in loud.stream(HARD) if part]
    assert "".join(got) == "LARGE ANSWERS: HARD"
    assert len(got) > 1  # as they came, not at once
    agot = [part async for part in loud.astream(HARD) if part]
    assert agot == got


@both
@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
async def test_astream_log_tells_of_the_chosen_model(make: Make, loopback: LoopbackOpenAI) -> None:
    state: Any = None
    async for patch in make(loopback).astream_log(HARD):
        state = patch if state is None else state + patch
    assert state.state["final_output"] == "large answers: hard"
    models = [log for log in state.state["logs"].values() if log["type"] == "llm"]
    assert [log["metadata"]["routellm_route"] for log in models] == ["strong"]
    assert "".join(models[0]["streamed_output_str"]) == "large answers: hard"


@both
async def test_a_batch_with_limited_concurrency_scores_once_and_keeps_the_order(
    make: Make, loopback: LoopbackOpenAI
) -> None:
    router = ScriptedRouter(by_words)
    answering = make(loopback, router=router)
    inputs = [{"question": f"{'hard' if i % 3 == 0 else 'easy'} {i}"} for i in range(9)]
    wanted = [f"{'large' if i % 3 == 0 else 'small'} answers: {'hard' if i % 3 == 0 else 'easy'} {i}" for i in range(9)]
    assert answering.batch(inputs, {"max_concurrency": 2}) == wanted
    assert await answering.abatch(inputs, {"max_concurrency": 2}) == wanted
    assert [len(call) for call in router.calls] == [9, 9]


# -- choosing by configuration around it
def test_configurable_alternatives_around_a_router_and_inside_a_route(loopback: LoopbackOpenAI) -> None:
    field = ConfigurableField(id="who")
    around = routed_chains(loopback).configurable_alternatives(
        field, default_key="routed", plain=PROMPT | client(loopback, "plain") | StrOutputParser()
    )
    assert around.invoke(HARD) == "large answers: hard"
    assert around.with_config(configurable={"who": "plain"}).invoke(HARD) == "plain answers: hard"
    # the routing settings pass through what stands around
    both_set: RunnableConfig = {"configurable": {"who": "routed", "routellm_route": "weak"}}
    assert around.invoke(HARD, both_set) == "small answers: hard"

    inside = client(loopback, "large").configurable_alternatives(
        field, default_key="large", huge=client(loopback, "huge")
    )
    choosing: RouterRunnable[Any, Any] = RouterRunnable(
        {"weak": PROMPT | client(loopback, "small"), "strong": PROMPT | inside},
        router=ScriptedRouter(by_words),
        threshold=0.5,
    )
    assert choosing.invoke(HARD, {"configurable": {"who": "huge"}}).text == "huge answers: hard"
    assert choosing.invoke(EASY, {"configurable": {"who": "huge"}}).text == "small answers: easy"
    assert "who" in {spec.id for spec in choosing.config_specs}


def test_a_configurable_field_of_a_route_is_set_through_the_router(loopback: LoopbackOpenAI) -> None:
    tuned = client(loopback, "large").configurable_fields(temperature=ConfigurableField(id="heat"))
    choosing: RouterRunnable[Any, Any] = RouterRunnable(
        {"weak": PROMPT | client(loopback, "small"), "strong": PROMPT | tuned},
        router=ScriptedRouter(by_words),
        threshold=0.5,
    )
    choosing.invoke(HARD, {"configurable": {"heat": 0.25}})
    assert loopback.requests[0]["temperature"] == 0.25


def test_three_routes_of_three_models_and_a_router_among_the_routes(loopback: LoopbackOpenAI) -> None:
    inner = ChatRouteLLM(
        weak=client(loopback, "large"),
        strong=client(loopback, "huge"),
        router=ScriptedRouter(lambda prompt: 0.9 if "hardest" in prompt else 0.1),
        threshold=0.5,
    )
    choosing: RouterRunnable[Any, Any] = RouterRunnable(
        {"small": client(loopback, "small"), "medium": client(loopback, "medium"), "large": inner},
        router=ScriptedRouter(by_words),
        threshold=[0.3, 0.7],
    )
    with collect_decisions() as decisions:
        texts = ["easy", "medium", "hard", "hardest"]
        assert [choosing.invoke(text).text for text in texts] == [
            "small answers: easy",
            "medium answers: medium",
            "large answers: hard",
            "huge answers: hardest",
        ]
    # each router tells of its own decision, the inner one first
    assert [d.route for d in decisions] == ["small", "medium", "weak", "large", "strong", "large"]
    # and the 3 words of an answer, such as "small answers: easy", count once: for the router that called the model
    counted = [decisions.usage_of(d) for d in decisions]
    assert [None if usage is None else usage.output_tokens for usage in counted] == [3, 3, 3, None, 3, None]
