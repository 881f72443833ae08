"""The record on an answer: the same keys and values in both adapters, in every way to call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routellm_core import Decision, collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter
from routellm_core.types import Usage
from tests.test_adapters.drivers import IMAGE, SINGLE, Chat, Driver

SCORED = {"reason": "score", "threshold": 0.5, "router": "scripted"}
SECRET = "my-diagnosis-42"


def by_word(prompt: str) -> float:
    return 0.9 if "hard" in prompt else 0.1


def pair(driver: Driver, **options: Any) -> Any:
    options.setdefault("weak", driver.fake("little"))
    options.setdefault("strong", driver.fake("big"))
    return driver.routed(**{"router": ScriptedRouter(by_word), "threshold": 0.5, **options})


async def looked(driver: Driver, how: str, **options: Any) -> Chat:
    """A conversation in the middle of a tool loop."""
    chat = driver.chat(pair(driver, **options)).human(f"easy {SECRET}")
    await chat.ask(how, tools=True)
    return chat.tool_results("hard")


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "scored below the threshold": (
        lambda driver, how: driver.chat(pair(driver)).human(f"easy {SECRET}").ask(how),
        {"route": "weak", "win_rate": 0.1, **SCORED},
    ),
    "scored at the threshold": (
        lambda driver, how: driver.chat(pair(driver, threshold=0.9)).human(f"hard {SECRET}").ask(how),
        {"route": "strong", "win_rate": 0.9, **SCORED, "threshold": 0.9},
    ),
    "everything goes to strong": (
        lambda driver, how: driver.chat(pair(driver, threshold=0.0)).human(f"easy {SECRET}").ask(how),
        {"route": "strong", "win_rate": 0.1, **SCORED, "threshold": 0.0},
    ),
    "forced": (
        lambda driver, how: driver.chat(pair(driver)).human(f"easy {SECRET}").ask(how, force="strong"),
        {"route": "strong", "reason": "forced"},
    ),
    "nothing to score": (
        lambda driver, how: driver.chat(pair(driver)).human(IMAGE).ask(how),
        {"route": "strong", "reason": "no_text", "router": "scripted"},
    ),
    "nothing to score, the weak answers": (
        lambda driver, how: driver.chat(pair(driver, on_error="weak")).human(" ").ask(how),
        {"route": "weak", "reason": "no_text", "router": "scripted"},
    ),
    "the router fails": (
        lambda driver, how: (
            driver.chat(pair(driver, router=ScriptedRouter(error=ValueError(SECRET)))).human(SECRET).ask(how)
        ),
        {
            "route": "strong",
            "reason": "scorer_error",
            "router": "scripted",
            "error": "ScoringError: router 'scripted' failed with ValueError",
        },
    ),
    "the weak model cannot call tools": (
        lambda driver, how: (
            driver.chat(pair(driver, weak=driver.fake("little", can_call=False)))
            .human(f"easy {SECRET}")
            .ask(how, tools=True)
        ),
        {"route": "strong", "win_rate": 0.1, **SCORED, "reason": "capability"},
    ),
    "three routes": (
        lambda driver, how: (
            driver.chat(
                driver.routed(
                    models={name: driver.fake(name) for name in ("small", "mid", "large")},
                    router=ScriptedRouter(0.5),
                    threshold=[0.3, 0.7],
                )
            )
            .human(SECRET)
            .ask(how)
        ),
        {"route": "mid", "win_rate": 0.5, **SCORED, "threshold": 0.3},
    ),
    "a router behind a router": (
        lambda driver, how: driver.chat(pair(driver, weak=pair(driver, threshold=0.05))).human(SECRET).ask(how),
        {
            "route": "weak",
            "win_rate": 0.1,
            **SCORED,
            "inner": {"route": "strong", "win_rate": 0.1, **SCORED, "threshold": 0.05},
        },
    ),
}


def timeless(record: dict[str, Any] | None) -> dict[str, Any]:
    """The record without the time that scoring took, which every scored record must hold."""
    assert record is not None
    rest = dict(record)
    if "win_rate" in rest:
        milliseconds = rest.pop("scorer_ms")
        assert isinstance(milliseconds, float)
        assert milliseconds >= 0.0
    if "inner" in rest:
        rest["inner"] = timeless(rest["inner"])
    return rest


@pytest.mark.parametrize("how", SINGLE)
@pytest.mark.parametrize("case", CASES)
async def test_an_answer_says_where_it_came_from(case: str, how: str, driver: Driver):
    ask, wanted = CASES[case]
    with collect_decisions() as decisions:
        outcome = await ask(driver, how)
    assert outcome.error is None
    assert timeless(outcome.record) == wanted
    assert json.loads(json.dumps(outcome.record)) == outcome.record
    assert SECRET not in json.dumps(outcome.record)
    # what the collector saw of the outermost decision is what stands on the answer, time included
    assert {k: v for k, v in outcome.record.items() if k != "inner"} in [d.to_dict() for d in decisions]
    assert len(decisions) == (2 if "inner" in wanted else 1)


@pytest.mark.parametrize("how", SINGLE)
async def test_a_step_of_a_tool_loop_says_so(how: str, driver: Driver):
    outcome = await (await looked(driver, how)).ask(how, tools=True)
    assert outcome.record == {"route": "weak", "reason": "tool_loop"}


@pytest.mark.parametrize("how", SINGLE)
async def test_a_turn_of_a_conversation_says_so(how: str, driver: Driver):
    chat = driver.chat(pair(driver, stickiness="conversation")).human("hard")
    await chat.ask(how)
    outcome = await chat.human("easy").ask(how)
    assert outcome.record == {"route": "strong", "reason": "conversation"}


@pytest.mark.parametrize("how", SINGLE)
async def test_a_fallback_is_on_the_record_and_the_score_stays(how: str, driver: Driver, loopback: LoopbackOpenAI):
    loopback.reply = lambda body: Reply(status=429) if body["model"] == "little" else Reply(text="here")
    weak, strong = driver.client(loopback, "little"), driver.client(loopback, "big")
    outcome = await driver.chat(pair(driver, weak=weak, strong=strong, fallback="stronger")).human("easy").ask(how)
    assert timeless(outcome.record) == {"route": "strong", "win_rate": 0.1, **SCORED, "fallback_from": "weak"}


@pytest.mark.parametrize("how", SINGLE)
async def test_what_an_answer_took_is_collected_as_its_provider_counted(
    how: str, driver: Driver, loopback: LoopbackOpenAI
):
    loopback.reply = lambda body: Reply(text="one two three")
    llm = pair(driver, weak=driver.client(loopback, "little"), strong=driver.client(loopback, "big"))
    with collect_decisions() as decisions:
        await driver.chat(llm).human("easy").ask(how)
    (decision,) = decisions
    assert isinstance(decision, Decision)
    # the endpoint counts words: of the messages' JSON, [{"role": "user", "content": "easy"}] has four
    asked = len(json.dumps(loopback.requests[0]["messages"]).split())
    assert decisions.usage_of(decision) == Usage(input_tokens=asked, output_tokens=3)
    # 4 words in and 3 out, at 1 and 2 dollars a million; from strong, at 10 and 20
    saving = decisions.saving({"weak": (1.0, 2.0), "strong": (10.0, 20.0)})
    assert saving.usd == pytest.approx((asked + 2 * 3) / 1e6)
    assert saving.fraction == pytest.approx(0.9)


async def test_what_went_over_the_wire_holds_no_record(driver: Driver, loopback: LoopbackOpenAI):
    llm = pair(
        driver,
        weak=driver.client(loopback, "little"),
        strong=driver.client(loopback, "big"),
        stickiness="conversation",
    )
    chat = driver.chat(llm).human("easy")
    for how in SINGLE:
        await chat.ask(how)
        chat.human("hard, and longer than a short follow-up")
    assert len(loopback.requests) == 4
    assert "routellm" not in json.dumps(loopback.requests) + json.dumps(loopback.headers)
