"""What is scored, what overrides the score, and what happens when scoring cannot be done."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue
from numpy.typing import NDArray

from langchain_routellm import ChatRouteLLM
from routellm_core import Budget, Calibration, RandomRouter, Router, RoutingPolicy, collect_decisions
from routellm_core.errors import ConfigurationError, ScoringError, UnknownKindError
from routellm_core.testing import ScriptedRouter
from routellm_core.testing.contracts import ODD_TEXTS
from tests.test_langchain.fakes import RECORD, backend, by_words, fake, get_weather, routed


def record(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.response_metadata[RECORD]
    return found


def asked(turn: Any) -> list[list[str]]:
    """What the router is asked for one call."""
    router = ScriptedRouter(0.5)
    routed(router=router).invoke(turn)
    return router.calls


# -- what is scored
def test_the_newest_human_message_is_scored_and_no_other() -> None:
    long_first, long_second = "Tell me all about the French kings.", "And now all about their many castles."
    assert asked(
        [SystemMessage("You are hard."), HumanMessage(long_first), AIMessage("..."), HumanMessage(long_second)]
    ) == [[long_second]]


def test_a_short_follow_up_is_scored_with_the_last_substantial_message() -> None:
    first = "Prove that every finite integral domain is a field."
    assert asked([HumanMessage(first), AIMessage("..."), HumanMessage("why?")]) == [[f"{first}\nwhy?"]]


def test_without_any_human_message_all_the_text_is_scored() -> None:
    assert asked([SystemMessage("Translate."), AIMessage("bonjour")]) == [["Translate.\nbonjour"]]


def test_text_blocks_of_a_human_message_are_scored_and_images_are_not() -> None:
    blocks = [
        {"type": "text", "text": "What is in this picture, please?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert asked([HumanMessage(blocks)]) == [["What is in this picture, please?"]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        "hard",
        [("human", "hard")],
        [{"role": "user", "content": "hard"}],
        [HumanMessage("hard")],
        ChatPromptValue(messages=[HumanMessage("hard")]),
    ],
)
def test_every_form_of_input_is_understood(given: Any) -> None:
    assert asked(given) == [["hard"]]


def test_a_call_without_text_takes_the_on_error_route_and_says_so() -> None:
    image = [HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])]
    router = ScriptedRouter(0.1)
    assert record(routed(router=router).invoke(image)) == {"route": "strong", "reason": "no_text", "router": "scripted"}
    assert record(routed(router=router, on_error="weak").invoke("  \n"))["route"] == "weak"
    with pytest.raises(ScoringError, match="no text"):
        routed(router=router, on_error="raise").invoke("")
    assert router.calls == []


def test_text_chooses_what_is_scored() -> None:
    llm = routed(text=lambda messages: messages[0].text)
    assert record(llm.invoke([SystemMessage("hard"), HumanMessage("easy")]))["route"] == "strong"
    assert record(routed(text=lambda messages: None).invoke("easy"))["reason"] == "no_text"
    with pytest.raises(ConfigurationError, match=r"text= must return a str or None, but returned int"):
        routed(text=lambda messages: 3).invoke("easy")


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: repr(text[:8]))
def test_any_text_is_routed_and_answered(text: str) -> None:
    answer = routed(weak=fake("weak", echo=True), strong=fake("strong", echo=True)).invoke(text)
    assert record(answer)["reason"] == ("score" if text.strip() else "no_text")
    assert answer.text == text


# -- the cut
@pytest.mark.parametrize(
    ("threshold", "routes"),
    [(0.0, ["strong", "strong"]), (1.0, ["weak", "strong"]), (0.5, ["weak", "strong"]), (0.05, ["strong", "strong"])],
)
def test_every_threshold_is_a_value_zero_and_one_included(threshold: float, routes: list[str]) -> None:
    llm = routed(router=ScriptedRouter(lambda prompt: float(prompt)), threshold=threshold)
    assert [record(llm.invoke(prompt))["route"] for prompt in ("0.1", "1.0")] == routes
    per_call = routed(router=ScriptedRouter(lambda prompt: float(prompt)), threshold=0.7)
    config: Any = {"configurable": {"routellm_threshold": threshold}}
    assert [record(per_call.invoke(prompt, config))["route"] for prompt in ("0.1", "1.0")] == routes


def test_without_a_threshold_the_routers_calibration_gives_it() -> None:
    router = ScriptedRouter(0.5)  # calibrated on 0.005, 0.015, ... 0.995
    assert routed(router=router, threshold=None).routing_policy.thresholds[0] == pytest.approx(0.5, abs=0.006)
    assert routed(router=router, strong_share=0.1).routing_policy.thresholds[0] == pytest.approx(0.9, abs=0.006)


def test_a_saved_router_with_scores_takes_a_quality_floor_or_a_budget(tmp_path: Path) -> None:
    router = RandomRouter()
    # win rates .005, .015, ... .995; the weak model fails on the upper half only
    router.calibration = Calibration.from_win_rates(
        np.arange(0.005, 1, 0.01), strong_scores=np.ones(100), weak_scores=np.repeat([1.0, 0.0], 50)
    )
    router.save(tmp_path / "router")

    def threshold(**words: Any) -> float:
        llm = ChatRouteLLM(strong=fake("strong"), weak=fake("weak"), router=tmp_path / "router", **words)
        copied = llm.model_copy()
        assert copied.routing_policy.thresholds == llm.routing_policy.thresholds
        return llm.routing_policy.thresholds[0]

    # the floor of .6 is proved for fewer weak calls than the .9 of the sample that would just reach it
    assert 0.5 < threshold(quality_floor=0.6) < 0.9
    # $2 a call, a strong one costs $3 and a weak one $1: half of the calls
    assert threshold(budget=Budget(2, "call", strong_usd=3, weak_usd=1)) == pytest.approx(0.5)
    with pytest.raises(ConfigurationError, match="budget= or quality_floor=, not both"):
        threshold(quality_floor=0.6, budget=Budget(2, "call", strong_usd=3, weak_usd=1))


def test_three_routes_are_cut_twice_and_named_by_the_caller() -> None:
    models = {"s": fake("s"), "m": fake("m"), "l": fake("l")}
    llm = routed(models=models, threshold=[0.3, 0.8])
    assert [record(llm.invoke(text))["route"] for text in ("a", "medium", "hard")] == ["s", "m", "l"]
    config: Any = {"configurable": {"routellm_threshold": [0.05, 0.95]}}
    assert record(llm.invoke("hard", config))["route"] == "m"


def test_a_call_can_bring_its_own_threshold_in_every_way_a_config_can_arrive() -> None:
    llm = routed()
    config: Any = {"configurable": {"routellm_threshold": 0.8}}
    assert record(llm.invoke("medium"))["route"] == "strong"
    assert record(llm.invoke("medium", config)) | {"scorer_ms": 0} == {
        "route": "weak",
        "reason": "score",
        "win_rate": 0.5,
        "threshold": 0.8,
        "router": "scripted",
        "scorer_ms": 0,
    }
    assert record(llm.with_config(config).invoke("medium"))["route"] == "weak"
    assert record(llm.bind(stop=["x"]).with_config(config).invoke("medium"))["route"] == "weak"
    assert record(llm.bind_tools([get_weather]).with_config(config).invoke("medium"))["route"] == "weak"


def test_a_threshold_that_is_none_is_the_callers_error_not_a_scoring_failure() -> None:
    with pytest.raises(ConfigurationError, match="from 0 to 1, got 1.5"):
        routed().invoke("q", {"configurable": {"routellm_threshold": 1.5}})
    with pytest.raises(ConfigurationError, match="stickiness must be one of"):
        routed().invoke("q", {"configurable": {"routellm_stickiness": "sometimes"}})


def test_a_call_can_name_its_route() -> None:
    router = ScriptedRouter(0.1)
    llm = routed(router=router)
    forced = {"route": "strong", "reason": "forced"}
    assert record(llm.invoke("q", model="strong")) == forced
    assert record(llm.invoke("q", {"configurable": {"routellm_route": "strong"}})) == forced
    assert record(llm.bind(model="strong").invoke("q")) == forced
    assert record(llm.batch(["q"], model="strong")[0]) == forced
    assert record(llm.batch(["q", "r"], model="strong")[1]) == forced
    assert router.calls == []
    assert record(llm.invoke("q", model=None))["reason"] == "score"
    assert record(llm.invoke("q", {"configurable": {"routellm_route": "strong"}}, model=None)) == forced


async def test_an_unknown_route_is_an_error_that_lists_them_never_a_model_name_sent_on() -> None:
    llm = routed()
    for call in (
        lambda: llm.invoke("q", model="gpt-4o"),
        lambda: list(llm.stream("q", model="gpt-4o")),
        lambda: llm.batch(["q", "r"], model="gpt-4o"),
    ):
        with pytest.raises(UnknownKindError, match=r"unknown route 'gpt-4o'; the routes are weak, strong"):
            call()
    with pytest.raises(UnknownKindError):
        await llm.ainvoke("q", model="gpt-4o")
    assert backend(llm, "weak").seen == backend(llm, "strong").seen == []


def test_a_policy_can_be_given_whole() -> None:
    policy = RoutingPolicy(ScriptedRouter(by_words), threshold=0.95, stickiness="none", fallback="any")
    llm = routed(policy=policy)
    assert llm.routing_policy is policy
    assert (llm.stickiness, llm.fallback, llm.threshold) == ("none", "any", 0.95)
    assert record(llm.invoke("hard"))["route"] == "weak"


# -- pins
CALL = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}


def loop(route: str | None) -> list[Any]:
    metadata = {RECORD: {"route": route}} if route else {}
    return [
        HumanMessage("easy"),
        AIMessage("", tool_calls=[CALL], response_metadata=metadata),
        ToolMessage("r", tool_call_id="c"),
    ]


def test_a_tool_loop_stays_where_it_began() -> None:
    router = ScriptedRouter(by_words)
    llm = routed(router=router)
    assert record(llm.invoke(loop("strong"))) == {"route": "strong", "reason": "tool_loop"}
    assert router.calls == []
    assert record(llm.invoke(loop(None)))["reason"] == "score"  # a history from elsewhere
    assert record(llm.invoke(loop("gone")))["reason"] == "score"  # a route that is no more
    assert record(routed(stickiness="none").invoke(loop("strong")))["reason"] == "score"


def test_a_tool_loop_of_parallel_calls_or_in_anthropics_form_is_one_too() -> None:
    llm = routed()
    parallel = [*loop("strong"), ToolMessage("r2", tool_call_id="d")]
    assert record(llm.invoke(parallel))["reason"] == "tool_loop"
    anthropic = [*loop("strong")[:2], HumanMessage([{"type": "tool_result", "tool_use_id": "c", "content": "r"}])]
    assert record(llm.invoke(anthropic))["reason"] == "tool_loop"


def test_a_history_that_ends_in_an_answer_is_no_tool_loop() -> None:
    assert record(routed().invoke(loop("strong")[:2]))["reason"] == "score"


def test_a_human_message_after_the_results_is_decided_anew() -> None:
    assert record(routed().invoke([*loop("strong"), HumanMessage("easy")]))["reason"] == "score"


def test_a_conversation_can_stay_where_it_began() -> None:
    history = [HumanMessage("x"), AIMessage("y", response_metadata={RECORD: {"route": "weak"}}), HumanMessage("hard")]
    pinned = {"route": "weak", "reason": "conversation"}
    assert record(routed(stickiness="conversation").invoke(history)) == pinned
    assert record(routed().invoke(history))["route"] == "strong"
    assert record(routed().invoke(history, {"configurable": {"routellm_stickiness": "conversation"}})) == pinned


def test_a_nested_router_obeys_its_own_records_not_its_parents() -> None:
    inner = routed(router=ScriptedRouter(0.9), stickiness="conversation")
    outer = routed(weak=inner, router=ScriptedRouter(0.1), stickiness="conversation")
    first = outer.invoke("a question")
    assert record(first)["route"] == "weak"
    assert record(first)["inner"]["route"] == "strong"
    second = outer.invoke([HumanMessage("a question"), first, HumanMessage("another question")])
    assert record(second)["reason"] == record(second)["inner"]["reason"] == "conversation"
    assert record(second)["inner"]["route"] == "strong"
    chunks = list(outer.stream([HumanMessage("a question"), first, HumanMessage("another question")]))
    assert record(chunks[0])["inner"]["route"] == "strong"


def test_settings_of_others_may_have_any_name() -> None:
    assert record(routed().invoke("a hard one", {"configurable": {5: "five"}}))["route"] == "strong"  # type: ignore[dict-item]


@pytest.mark.parametrize("threshold", [10**400, float("nan"), "0.5", True, [[0.1], [0.2, 0.3]], {}])
def test_a_threshold_that_is_none_is_the_callers_error(threshold: Any) -> None:
    with pytest.raises(ConfigurationError, match="threshold"):
        routed().invoke("a hard one", {"configurable": {"routellm_threshold": threshold}})


def test_a_nested_router_does_not_inherit_the_settings_of_the_call() -> None:
    inner_router = ScriptedRouter(by_words)
    outer = routed(weak=routed(router=inner_router))
    config: Any = {"configurable": {"routellm_threshold": 0.95, "thread_id": "1"}}
    answers = outer.batch(["medium a", "medium b"], config)
    assert [a.response_metadata["model_name"] for a in answers] == ["fake-strong"] * 2  # the inner's own 0.5
    assert len(inner_router.calls) == 2


# -- when scoring fails
class _Wrong(Router):
    kind = "wrong"

    def __init__(self, win_rates: Any) -> None:
        super().__init__()
        self.win_rates = win_rates

    def _score(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(self.win_rates, dtype=np.float64)


@pytest.mark.parametrize("win_rates", [[float("nan")], [1.5], [-0.1], [0.5, 0.5], []])
async def test_what_is_no_win_rate_is_a_failure_not_a_route(win_rates: list[float]) -> None:
    llm = routed(router=_Wrong(win_rates))
    assert record(llm.invoke("q"))["reason"] == "scorer_error"
    assert record(await llm.ainvoke("q"))["reason"] == "scorer_error"
    with pytest.raises(ScoringError):
        routed(router=_Wrong(win_rates), on_error="raise").invoke("q")


async def test_a_failing_router_takes_the_on_error_route_and_says_why() -> None:
    router = ScriptedRouter(error=ScoringError("the encoder is gone"))
    expected = {
        "route": "strong",
        "reason": "scorer_error",
        "router": "scripted",
        "error": "ScoringError: the encoder is gone",
    }
    assert record(routed(router=router).invoke("q")) == expected
    assert record(await routed(router=router).ainvoke("q")) == expected
    assert record(routed(router=router, on_error="weak").invoke("q"))["route"] == "weak"
    chunks = list(routed(router=router).stream("q"))
    assert record(chunks[0]) == expected


async def test_a_late_router_does_not_hold_the_call() -> None:
    release = threading.Event()
    # were it waited for, the record would hold a win rate after the half minute
    waits = ScriptedRouter(lambda prompt: float(release.wait(30)))
    llm = routed(router=waits, router_timeout_s=0.03, on_error="weak")
    late = "ScoringError: no win rate from router 'scripted' within 0.03 s"
    assert record(llm.invoke("hard"))["error"] == late
    assert record(await llm.ainvoke("hard"))["error"] == late
    release.set()


async def test_a_router_that_hangs_is_left_alone_after_three_misses_and_every_answer_says_so() -> None:
    release, asked = threading.Event(), []

    def hangs(prompt: str) -> float:
        asked.append(prompt)
        release.wait(30)
        return 0.1

    llm = routed(router=ScriptedRouter(hangs, is_quick=False), router_timeout_s=0.02)
    for call in range(3):
        found = record(llm.invoke("q") if call else await llm.ainvoke("q"))
        assert found["error"] == "ScoringError: no win rate from router 'scripted' within 0.02 s"
    answers = [
        llm.invoke("q"),
        await llm.ainvoke("q"),
        list(llm.stream("q"))[0],
        [chunk async for chunk in llm.astream("q")][0],
        *llm.batch(["q", "r"]),
        *(await llm.abatch(["q", "r"])),
        llm.generate([[HumanMessage("q")]]).generations[0][0].message,
    ]
    for answer in answers:
        found = record(answer)
        assert (found["route"], found["reason"]) == ("strong", "scorer_error")
        assert "was late 3 times in a row and is left alone" in found["error"]
    assert len(asked) <= 3  # on a busy machine a late one may not have begun
    release.set()


async def test_a_slow_router_never_blocks_the_event_loop() -> None:
    released = threading.Event()
    # the router waits for something that only a free event loop does; blocked, it would give 0.0
    waits = ScriptedRouter(lambda prompt: float(released.wait(10)), is_quick=False)
    llm = routed(router=waits)

    async def streamed() -> Any:
        return [chunk async for chunk in llm.astream("q")][0]

    async def generated() -> Any:
        return (await llm.agenerate([[HumanMessage("q")]])).generations[0][0].message

    async def batched() -> Any:
        return (await llm.abatch(["q", "r"]))[0]

    for call in (lambda: llm.ainvoke("q"), streamed, batched, generated):
        released.clear()
        waiting = asyncio.ensure_future(call())
        await asyncio.sleep(0.05)
        released.set()
        assert record(await waiting)["win_rate"] == 1.0


def test_prompts_and_the_routers_words_about_them_stay_out_of_logs_and_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "swordfish-4711"
    caplog.set_level(logging.DEBUG)

    def careless(prompt: str) -> float:
        raise ValueError(f"cannot score {prompt!r}")

    with collect_decisions() as decisions:
        answers = [
            routed(router=ScriptedRouter(careless)).invoke(secret),
            routed().invoke(f"hard {secret}"),
            routed(weak=fake("weak", error=ConnectionError(secret)), fallback="any").invoke(secret),
        ]
    assert secret not in json.dumps([record(answer) for answer in answers])
    assert secret not in repr(decisions)
    assert secret not in caplog.text
    assert "routellm_core" in caplog.text  # there was something to log


# -- batches
def test_a_batch_is_scored_in_one_call_and_keeps_each_items_config() -> None:
    router = ScriptedRouter(by_words)
    llm = routed(router=router)
    with collect_decisions() as decisions:
        answers = llm.batch(["hard a", "b", "c"], [{}, {}, {"configurable": {"routellm_route": "strong"}}])
    assert [record(answer)["route"] for answer in answers] == ["strong", "weak", "strong"]
    assert record(answers[2])["reason"] == "forced"
    assert router.calls == [["hard a", "b"]]
    assert len(decisions) == 3
    assert "__routellm_decision" not in json.dumps([record(answer) for answer in answers])


async def test_every_kind_of_batch_is_scored_in_one_call() -> None:
    router = ScriptedRouter(by_words)
    llm = routed(router=router)
    routes = {0: "strong", 1: "weak"}
    assert {i: record(a)["route"] for i, a in enumerate(await llm.abatch(["hard", "b"]))} == routes
    assert {i: record(a)["route"] for i, a in llm.batch_as_completed(["hard", "b"])} == routes
    assert {i: record(a)["route"] async for i, a in llm.abatch_as_completed(["hard", "b"])} == routes
    assert {i: record(a)["route"] for i, a in enumerate(llm.bind(stop=["x"]).batch(["hard", "b"]))} == routes
    assert router.calls == [["hard", "b"]] * 4
    assert llm.batch([]) == await llm.abatch([]) == []


async def test_a_batch_can_return_its_errors_even_those_of_the_decision() -> None:
    llm = routed(strong=fake("strong", error=ValueError("boom")))
    configs: list[Any] = [{}, {}, {"configurable": {"routellm_route": "nowhere"}}]
    for answers in (
        llm.batch(["hard", "b", "c"], configs, return_exceptions=True),
        await llm.abatch(["hard", "b", "c"], configs, return_exceptions=True),
    ):
        assert [type(answer) for answer in answers] == [ValueError, AIMessage, UnknownKindError]
    with pytest.raises(UnknownKindError):
        llm.batch(["hard", "b", "c"], configs)


def test_items_of_a_batch_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=5)

    def wait(messages: Any) -> str:
        return "easy"

    class Meeting(FakeListChatModel):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            barrier.wait()
            return "met"

    answers = ChatRouteLLM(
        weak=Meeting(responses=[""]), strong=fake("strong"), text=wait, router=ScriptedRouter(0.1), threshold=0.5
    ).batch(["a", "b", "c"])
    assert [answer.text for answer in answers] == ["met"] * 3


# -- what a backend cannot take
def test_a_route_without_tools_is_passed_over_when_tools_are_bound() -> None:
    llm = routed(weak=FakeListChatModel(responses=["x"]))
    found = record(llm.bind_tools([get_weather]).invoke("easy"))
    assert (found["route"], found["reason"], found["win_rate"]) == ("strong", "capability", 0.1)
    assert record(llm.invoke("easy"))["route"] == "weak"
    stated = routed(weak=fake("weak", profile={"tool_calling": False}))
    assert record(stated.bind_tools([get_weather]).invoke("easy"))["reason"] == "capability"


def test_a_route_too_small_for_the_input_is_passed_over() -> None:
    llm = routed(weak=fake("weak", profile={"max_input_tokens": 50}))
    assert record(llm.invoke("easy " * 200))["reason"] == "capability"
    assert record(llm.invoke("easy"))["route"] == "weak"


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image_inputs"),
        ({"type": "image", "base64": "AAAA", "mime_type": "image/png"}, "image_inputs"),
        ({"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}, "audio_inputs"),
        ({"type": "file", "base64": "AAAA", "mime_type": "application/pdf"}, "pdf_inputs"),
    ],
)
def test_a_route_that_cannot_see_or_hear_is_passed_over_and_the_block_arrives(block: dict[str, Any], key: str) -> None:
    message = HumanMessage([{"type": "text", "text": "easy"}, block])
    llm = routed(weak=fake("weak", profile={key: False}))
    assert record(llm.invoke([message]))["reason"] == "capability"
    assert backend(llm, "strong").seen[0][0].content[1]["type"] == block["type"]
    assert record(routed().invoke([message]))["route"] == "weak"  # nothing known against it


def test_a_route_without_structured_output_is_passed_over() -> None:
    llm = routed(weak=FakeListChatModel(responses=["x"]))
    schema = {"title": "A", "type": "object", "properties": {"a": {"type": "string"}}}
    answer = llm.with_structured_output(schema, include_raw=True).invoke("easy")
    assert record(answer["raw"])["reason"] == "capability"


def test_an_order_is_an_order_even_when_the_backend_cannot() -> None:
    llm = routed(weak=fake("weak", profile={"max_input_tokens": 5}))
    assert record(llm.invoke("easy " * 200, model="weak")) == {"route": "weak", "reason": "forced"}


def test_when_no_route_can_the_provider_is_left_to_say_so() -> None:
    tiny = {"max_input_tokens": 5}
    llm = routed(weak=fake("weak", profile=tiny), strong=fake("strong", profile=tiny))
    assert record(llm.invoke("easy " * 200))["reason"] == "score"
