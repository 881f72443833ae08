"""Three routes and more, under names of the caller's own: everything that two routes can do."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langchain_routellm import ChatRouteLLM
from routellm_core.errors import ConfigurationError, UnknownKindError
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, Runs, backend, fake, get_weather, routed

NAMES = ("un petit", "router", "3")  # any text is a name, also one that is an option's
CALL: Any = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}


def three(**options: Any) -> ChatRouteLLM:
    errors = options.pop("errors", {})
    models = {name: fake(name, error=errors.get(name)) for name in NAMES}
    return routed(**{"models": models, "threshold": [0.3, 0.7], **options})


def route(answer: Any) -> str:
    return str(answer.response_metadata[RECORD]["route"])


class City(BaseModel):
    """A city."""

    name: str


async def test_every_way_to_call_goes_three_ways() -> None:
    llm, questions = three(), ["easy 'Oslo'", "medium 'Oslo'", "hard 'Oslo'"]
    assert [route(llm.invoke(q)) for q in questions] == list(NAMES)
    assert [route(await llm.ainvoke(q)) for q in questions] == list(NAMES)
    assert [route(next(llm.stream(q))) for q in questions] == list(NAMES)
    assert [route(answer) for answer in llm.batch(questions)] == list(NAMES)
    assert [route(answer) for answer in await llm.abatch(questions)] == list(NAMES)
    assert sorted(route(answer) for _, answer in llm.batch_as_completed(questions)) == sorted(NAMES)
    assert [route(llm.bind_tools([get_weather]).invoke(q)) for q in questions] == list(NAMES)
    structured = llm.with_structured_output(City, include_raw=True)
    assert [route(structured.invoke(q)["raw"]) for q in questions] == list(NAMES)
    results = llm.generate([[HumanMessage(q)] for q in questions]).generations
    assert [route(found[0].message) for found in results] == list(NAMES)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("cuts", "routes"),
    [
        # the win rates are .1, .5 and .9, and >= is stronger
        ([0.0, 0.0], ["3", "3", "3"]),
        ([0.0, 1.0], ["router", "router", "router"]),
        ([1.0, 1.0], ["un petit", "un petit", "un petit"]),
        ([0.1, 0.5], ["router", "3", "3"]),
        ((0.5, 0.9), ["un petit", "router", "3"]),
    ],
)
def test_one_call_can_bring_its_own_list_of_thresholds(cuts: Any, routes: list[str]) -> None:
    config: Any = {"configurable": {"routellm_threshold": cuts}}
    assert [route(three().invoke(q, config)) for q in ("easy", "medium", "hard")] == routes


@pytest.mark.parametrize("cuts", [0.5, [0.5], [0.7, 0.3], [0.1, 0.2, 0.3], "high", [0.1, 2.0]])
def test_thresholds_that_do_not_fit_three_routes_are_the_callers_error(cuts: Any) -> None:
    router = ScriptedRouter(0.5)
    with pytest.raises(ConfigurationError, match="threshold"):
        three(router=router).invoke("q", {"configurable": {"routellm_threshold": cuts}})
    with pytest.raises(ConfigurationError, match="threshold"):
        three(threshold=cuts)
    assert router.calls == []


def test_each_item_of_a_batch_has_its_own_settings_and_the_router_is_asked_once() -> None:
    router = ScriptedRouter(0.5)
    settings: list[Any] = [
        {"routellm_threshold": [0.5, 0.6]},
        {"routellm_route": "3"},
        {},
        {"routellm_threshold": [1, 1]},
    ]
    answers = three(router=router).batch(["q"] * 4, [{"configurable": each} for each in settings])
    assert [route(answer) for answer in answers] == ["router", "3", "router", "un petit"]
    assert router.calls == [["q"] * 3]


def test_a_route_is_named_by_its_key_and_an_unknown_one_is_an_error_that_lists_them() -> None:
    llm = three()
    for name in NAMES:
        assert route(llm.invoke("hard", model=name)) == name
        assert route(llm.invoke("hard", {"configurable": {"routellm_route": name}})) == name
    with pytest.raises(UnknownKindError, match="unknown route 'strong'; the routes are un petit, router, 3"):
        llm.invoke("q", model="strong")


def test_without_cuts_three_routes_share_the_calibrated_prompts_equally() -> None:
    # the scripted router's sample is .005, .015, ... .995
    assert three(threshold=None).routing_policy.thresholds == pytest.approx((1 / 3, 2 / 3), abs=0.01)


@pytest.mark.parametrize(
    ("question", "fallback", "tried"),
    [
        ("easy", "stronger", ["un petit", "router", "3"]),
        ("medium", "stronger", ["router", "3"]),
        ("hard", "stronger", ["3"]),
        ("easy", "any", ["un petit", "router", "3"]),
        ("medium", "any", ["router", "3", "un petit"]),
        ("hard", "any", ["3", "router", "un petit"]),
        ("medium", "none", ["router"]),
    ],
)
async def test_routes_are_tried_in_order_stronger_first_then_the_nearest_weaker(
    question: str, fallback: str, tried: list[str]
) -> None:
    errors = {name: ConnectionError(name) for name in NAMES}
    for how in ("invoke", "ainvoke", "stream"):
        llm, runs = three(errors=errors, fallback=fallback), Runs()
        config: Any = {"callbacks": [runs]}
        with pytest.raises(ConnectionError, match=tried[0]):  # of the route it was meant for
            if how == "invoke":
                llm.invoke(question, config)
            elif how == "ainvoke":
                await llm.ainvoke(question, config)
            else:
                list(llm.stream(question, config))
        assert [s["metadata"]["routellm_route"] for s in runs.starts if s["kind"] == "llm"] == tried
    last = tried[-1]
    errors.pop(last)
    record = three(errors=errors, fallback=fallback).invoke(question).response_metadata[RECORD]
    assert record["route"] == last
    assert record.get("fallback_from") == (tried[0] if len(tried) > 1 else None)


def test_a_fallback_passes_over_a_route_that_cannot_take_the_request() -> None:
    models: Any = {
        "small": fake("small", error=ConnectionError()),
        "mid": fake("mid", profile={"max_input_tokens": 5}),
        "large": fake("large"),
    }
    llm = three(models=models, fallback="any")
    assert route(llm.invoke("easy " * 10)) == "large"
    assert route(llm.invoke("easy")) == "mid"


@pytest.mark.parametrize("name", NAMES)
def test_loops_and_conversations_stay_on_any_of_three_routes(name: str) -> None:
    record = {RECORD: {"route": name, "reason": "score"}}
    loop = [
        HumanMessage("easy"),
        AIMessage("", tool_calls=[CALL], response_metadata=record),
        ToolMessage("r", tool_call_id="c"),
    ]
    assert route(three(threshold=[1, 1]).invoke(loop)) == name
    talk = [HumanMessage("q"), AIMessage("a", response_metadata=record), HumanMessage("easy")]
    assert route(three(stickiness="conversation").invoke(talk)) == name
    assert route(three().invoke(talk, {"configurable": {"routellm_stickiness": "conversation"}})) == name
    assert route(three().invoke(talk)) == "un petit"


def test_a_history_of_routes_that_are_no_more_is_scored_anew_and_rewritten() -> None:
    record = {RECORD: {"route": "retired", "reason": "score"}}
    old = AIMessage([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "old"}], response_metadata=record)
    llm = three(stickiness="conversation")
    assert route(llm.invoke([HumanMessage("q"), old, HumanMessage("medium")])) == "router"
    assert backend(llm, "router").seen[0][1].content == "old"


@pytest.mark.parametrize(("on_error", "expected"), [("strong", "3"), ("weak", "un petit")])
def test_a_failing_router_takes_the_outermost_route(on_error: str, expected: str) -> None:
    llm = three(router=ScriptedRouter(error=RuntimeError()), on_error=on_error)
    assert route(llm.invoke("q")) == expected
    assert route(llm.invoke([HumanMessage([{"type": "image", "base64": "x", "mime_type": "image/png"}])])) == expected


def test_what_is_for_two_routes_is_refused_for_three() -> None:
    for name in ("strong_share", "quality_floor"):
        with pytest.raises(ConfigurationError, match=f"{name} is for two routes"):
            three(threshold=None, **{name: 0.5})
