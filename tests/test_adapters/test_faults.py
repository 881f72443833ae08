"""What the caller gets when something fails: one table, for both adapters.

The rules, which `expected` computes:

- A route that fails before it has said anything is replaced where that was asked for (`fallback`) and another route
  could survive the failure. Nothing else is: an answer that has begun is never patched with another one.
- With "stronger" only stronger routes take over, with "any" weaker ones too.
- When all that were tried fail, the caller gets the error of the first, the one the call was meant for; but an error
  that no other route could have survived (a wrong key) is what the caller gets, wherever it happened.
- Each backend is asked once. What was answered, and nothing else, is among the collected decisions.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from routellm_core import collect_decisions
from routellm_core.errors import ScoringError
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall
from tests.test_adapters.drivers import BATCHES, SINGLE, STREAMS, Driver, Outcome

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

ROUTES = {"weak": "little", "strong": "big"}
"""Route to model."""

TAKES_OVER = {
    ("weak", "none"): [],
    ("weak", "stronger"): ["strong"],
    ("weak", "any"): ["strong"],
    ("strong", "none"): [],
    ("strong", "stronger"): [],
    ("strong", "any"): ["weak"],
}
"""Who follows when this route fails, by `fallback`."""


@dataclass(frozen=True)
class Fault:
    """What a backend does.

    Attributes:
        name: In words.
        reply: Its answer; None: nobody listens.
        error: What its client raises.
        is_passing: Another route could survive it.
        begins: What it has said until then, when streaming; None: it has sent no chunk at all; "": one that says
            nothing, which is held back where another route may take over.
        timeout_s: How long its client waits.
    """

    name: str
    reply: Reply | None
    error: tuple[type[Exception], ...]
    is_passing: bool
    begins: str | None = None
    timeout_s: float | None = None


# a client gives one or the other when a stream breaks, according to its version
LOST = (httpx.TransportError, openai.APIConnectionError)
FAULTS = (
    Fault("nobody listens", None, (openai.APIConnectionError,), True),
    Fault("hangs up before the first byte", Reply(hang_up=True), (openai.APIConnectionError,), True),
    Fault("does not answer in time", Reply(hang=True), (openai.APITimeoutError,), True, timeout_s=0.5),
    Fault("breaks before the first chunk", Reply(text="one two", cut_after=0, cut_inside=True), LOST, True),
    # the opening chunk says who speaks, and nothing yet
    Fault("breaks after the opening chunk", Reply(text="one two", cut_after=1, cut_inside=True), LOST, True, ""),
    Fault("breaks in the middle", Reply(text="one two three", cut_after=3, cut_inside=True), LOST, True, "one two"),
    Fault("is busy", Reply(status=429, retry_after_s=1), (openai.RateLimitError,), True),
    Fault("fails", Reply(status=500), (openai.InternalServerError,), True),
    Fault("is overloaded", Reply(status=503), (openai.InternalServerError,), True),
    Fault("refuses the request", Reply(status=400), (openai.BadRequestError,), False),
    Fault("refuses the key", Reply(status=401), (openai.AuthenticationError,), False),
    Fault("speaks nonsense", Reply(body="data: {]\n\n"), (ValueError,), False),
)
BUSY = next(fault for fault in FAULTS if fault.name == "is busy")


@dataclass(frozen=True)
class Expected:
    """What the caller should get, and which routes should have been asked."""

    asked: tuple[str, ...]
    text: str = ""
    error: tuple[type[Exception], ...] | None = None
    route: str | None = None
    fallback_from: str | None = None


def expected(question: str, first: str, fallback: str, faults: dict[str, Fault], *, streamed: bool) -> Expected:
    """The rules at the top of this file."""
    asked: list[str] = []
    errors: list[tuple[type[Exception], ...]] = []
    for route in [first, *TAKES_OVER[first, fallback]]:
        asked.append(route)
        fallback_from = None if route == first else first
        fault = faults.get(route)
        if fault is None:
            return Expected(tuple(asked), f"{ROUTES[route]} answers: {question}", None, route, fallback_from)
        if streamed and (fault.begins or (fault.begins == "" and fallback == "none")):
            return Expected(tuple(asked), fault.begins, fault.error, route, fallback_from)
        if not fault.is_passing:
            return Expected(tuple(asked), "", fault.error)
        errors.append(fault.error)
    return Expected(tuple(asked), "", errors[0])


def by_word(prompt: str) -> float:
    return 0.9 if "hard" in prompt else 0.1


def setting(driver: Driver, server: LoopbackOpenAI, faults: dict[str, Fault], **options: Any) -> Any:
    """A router over two clients of the server, of which some have a fault."""
    broken = {ROUTES[route]: fault for route, fault in faults.items()}

    def reply(body: dict[str, Any]) -> Reply:
        fault = broken.get(body["model"])
        if fault is None or fault.reply is None:
            return Reply(text=f"{body['model']} answers: {body['messages'][-1]['content']}")
        return fault.reply

    server.reply = reply
    clients = {}
    for route, model in ROUTES.items():
        fault = faults.get(route)
        if fault is None:
            clients[route] = driver.client(server, model)
        else:
            clients[route] = driver.client(server if fault.reply else None, model, timeout_s=fault.timeout_s)
    return driver.routed(**clients, **{"router": ScriptedRouter(by_word), "threshold": 0.5, **options})


def check(outcome: Outcome, wanted: Expected) -> None:
    assert outcome.text == wanted.text
    if wanted.error is None:
        assert outcome.error is None, repr(outcome.error)
    else:
        assert isinstance(outcome.error, wanted.error), repr(outcome.error)
    if wanted.route is None:
        assert outcome.record is None
    else:
        assert outcome.record is not None
        assert (outcome.record["route"], outcome.record["reason"]) == (wanted.route, "score")
        assert outcome.record.get("fallback_from") == wanted.fallback_from


def asked(server: LoopbackOpenAI) -> Counter[str]:
    return Counter(request["model"] for request in server.requests)


def would_ask(wanted: list[Expected], faults: dict[str, Fault]) -> Counter[str]:
    routes = [route for each in wanted for route in each.asked]
    return Counter(ROUTES[route] for route in routes if route not in faults or faults[route].reply is not None)


async def check_all(
    driver: Driver, server: LoopbackOpenAI, how: str, fallback: str, faults: dict[str, Fault], questions: list[str]
) -> None:
    llm = setting(driver, server, faults, fallback=fallback)
    wanted = [
        expected(q, "strong" if "hard" in q else "weak", fallback, faults, streamed=how in STREAMS) for q in questions
    ]
    with collect_decisions() as decisions:
        if how in BATCHES:
            outcomes = await driver.batch(llm, how, questions)
        else:
            outcomes = [await driver.chat(llm).human(question).ask(how) for question in questions]
    for outcome, each in zip(outcomes, wanted, strict=True):
        check(outcome, each)
    server.wait_for(would_ask(wanted, faults).total())  # a client that gives up may be faster than the server
    assert asked(server) == would_ask(wanted, faults)
    answered = [(each.route, each.fallback_from) for each in wanted if each.route is not None]
    assert Counter((d.route, d.fallback_from) for d in decisions) == Counter(answered)


# -- a backend fails
@pytest.mark.parametrize("fallback", ["none", "any"])
@pytest.mark.parametrize("how", SINGLE)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_weak_backend_fails(fault: Fault, how: str, fallback: str, driver: Driver, loopback: LoopbackOpenAI):
    await check_all(driver, loopback, how, fallback, {"weak": fault}, ["easy"])


@pytest.mark.parametrize("fallback", ["none", "any"])
@pytest.mark.parametrize("how", BATCHES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_in_a_batch_only_the_items_of_the_failing_backend_are_concerned(
    fault: Fault, how: str, fallback: str, driver: Driver, loopback: LoopbackOpenAI
):
    await check_all(driver, loopback, how, fallback, {"weak": fault}, ["easy 0", "hard 1", "easy 2", "hard 3"])


@pytest.mark.parametrize("fallback", ["none", "stronger", "any"])
@pytest.mark.parametrize("how", [*SINGLE, *BATCHES])
@pytest.mark.parametrize("failing", ROUTES)
async def test_who_takes_over_is_what_fallback_says(
    failing: str, how: str, fallback: str, driver: Driver, loopback: LoopbackOpenAI
):
    await check_all(driver, loopback, how, fallback, {failing: BUSY}, ["hard", "easy"])


@pytest.mark.parametrize("strong", FAULTS, ids=lambda fault: f"strong {fault.name}")
@pytest.mark.parametrize("how", ["invoke", "astream"])
async def test_both_fail(strong: Fault, how: str, driver: Driver, loopback: LoopbackOpenAI):
    await check_all(driver, loopback, how, "any", {"weak": BUSY, "strong": strong}, ["easy"])


async def test_the_first_error_says_what_the_other_route_said(driver: Driver, loopback: LoopbackOpenAI):
    faults = {"weak": BUSY, "strong": FAULTS[0]}
    outcome = await driver.chat(setting(driver, loopback, faults, fallback="any")).human("easy").ask()
    (note,) = outcome.error.__notes__  # type: ignore[union-attr]
    assert note.startswith("route 'strong' was tried too and failed: ")
    assert "Connection error." in note


# -- the caller leaves
@pytest.mark.parametrize("how", ["ainvoke", "astream", "abatch"])
async def test_a_call_that_is_cancelled_before_the_first_byte_goes_nowhere_else(
    how: str, driver: Driver, loopback: LoopbackOpenAI
):
    hangs = Fault("hangs", Reply(text="late", hang=True), (), True)
    llm = setting(driver, loopback, {"weak": hangs}, fallback="any")
    with collect_decisions() as decisions:
        if how == "abatch":
            call = asyncio.create_task(driver.batch(llm, how, ["easy", "easy"]))
        else:
            call = asyncio.create_task(driver.chat(llm).human("easy").ask(how))
        await asyncio.to_thread(loopback.wait_for, 2 if how == "abatch" else 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    loopback.release()
    assert set(asked(loopback)) == {"little"}
    assert decisions == []


async def test_a_stream_that_is_cancelled_in_the_middle_keeps_what_it_said(driver: Driver, loopback: LoopbackOpenAI):
    hangs = Fault("hangs", Reply(text="one two three", hang=True, cut_after=3), (), True)
    llm, outcome = setting(driver, loopback, {"weak": hangs}, fallback="any"), Outcome()
    with collect_decisions() as decisions:
        call = asyncio.create_task(driver.chat(llm).human("easy").ask("astream", into=outcome))
        while len(outcome.pieces) < 2:
            await asyncio.sleep(0.002)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    loopback.release()
    assert (outcome.text, asked(loopback)) == ("one two", {"little": 1})
    assert [decision.route for decision in decisions] == ["weak"]


@pytest.mark.parametrize("how", STREAMS)
async def test_a_stream_that_is_closed_early_is_an_answer(how: str, driver: Driver, loopback: LoopbackOpenAI):
    loopback.reply = lambda body: Reply(text="one two three four")
    llm = driver.routed(
        weak=driver.client(loopback, "little"),
        strong=driver.client(loopback, "big"),
        router=ScriptedRouter(by_word),
        threshold=0.5,
        fallback="any",
    )
    with collect_decisions() as decisions:
        outcome = await driver.chat(llm).human("easy").ask(how, read=2)
    assert (outcome.text, outcome.error, asked(loopback)) == ("one two", None, {"little": 1})
    assert [decision.route for decision in decisions] == ["weak"]


# -- the scorer fails
class WrongShape(ScriptedRouter):
    """One win rate more than prompts."""

    def _score(self, prompts: list[str]) -> Any:
        return np.append(super()._score(prompts), 0.5)


class NoNumbers(ScriptedRouter):
    """Words."""

    def _score(self, prompts: list[str]) -> Any:
        return ["high" for _ in super()._score(prompts)]


def hanging() -> tuple[ScriptedRouter, threading.Event]:
    """A router that waits for the event; were it waited for, its win rate would show in the record."""
    event = threading.Event()
    return ScriptedRouter(lambda prompt: float(event.wait(30))), event


SCORERS = {
    "raises": (lambda: ScriptedRouter(error=RuntimeError("boom")), "router 'scripted' failed with RuntimeError"),
    "returns NaN": (lambda: ScriptedRouter(float("nan")), "router 'scripted' gave"),
    "returns no probability": (lambda: ScriptedRouter(1.5), "router 'scripted' gave"),
    "returns too many": (lambda: WrongShape(0.5), "router 'scripted' gave shape"),
    "returns no numbers": (lambda: NoNumbers(0.5), "router 'scripted' gave"),
    "hangs": (None, "no win rate from router 'scripted' within 0.03 s"),
}


@pytest.mark.parametrize(
    ("scorer", "on_error"), [*((scorer, e) for scorer in SCORERS for e in ("strong", "raise")), ("raises", "weak")]
)
@pytest.mark.parametrize("how", [*SINGLE, *BATCHES])
async def test_a_scorer_fails(scorer: str, how: str, on_error: str, driver: Driver, loopback: LoopbackOpenAI):
    make, says = SCORERS[scorer]
    router, event = (make(), None) if make is not None else hanging()
    options: dict[str, Any] = {"router_timeout_s": 0.03} if scorer == "hangs" else {}
    llm = setting(driver, loopback, {}, router=router, on_error=on_error, **options)
    questions = ["easy 0", "hard 1"] if how in BATCHES else ["easy"]
    with collect_decisions() as decisions:
        if how in BATCHES:
            outcomes = await driver.batch(llm, how, questions)
        else:
            outcomes = [await driver.chat(llm).human(questions[0]).ask(how)]
    if event is not None:
        event.set()
    if on_error == "raise":
        assert all(isinstance(outcome.error, ScoringError) and says in str(outcome.error) for outcome in outcomes)
        assert (loopback.requests, decisions) == ([], [])
        return
    model = ROUTES[on_error]
    assert [outcome.text for outcome in outcomes] == [f"{model} answers: {question}" for question in questions]
    assert asked(loopback) == {model: len(questions)}
    for outcome in outcomes:
        record = dict(outcome.record or {})
        assert record.pop("error").startswith(f"ScoringError: {says}")
        assert record == {"route": on_error, "reason": "scorer_error", "router": "scripted"}
    assert len(decisions) == len(questions)


@pytest.mark.parametrize("how", SINGLE)
async def test_a_scorer_that_was_late_three_times_is_left_alone(how: str, driver: Driver, loopback: LoopbackOpenAI):
    router, event = hanging()
    llm = setting(driver, loopback, {}, router=router, router_timeout_s=0.02)
    outcomes = [await driver.chat(llm).human(f"easy {i}").ask(how) for i in range(5)]
    event.set()
    errors = [str((outcome.record or {})["error"]) for outcome in outcomes]
    assert ["is left alone for" in error for error in errors] == [False, False, False, True, True]
    assert {(outcome.record or {})["route"] for outcome in outcomes} == {"strong"}
    assert asked(loopback) == {"big": 5}
    assert len(router.calls) <= 3


@pytest.mark.parametrize("how", [*SINGLE, *BATCHES])
async def test_a_scorer_fails_and_then_the_backend(how: str, driver: Driver, loopback: LoopbackOpenAI):
    router = ScriptedRouter(error=RuntimeError("boom"))
    llm = setting(driver, loopback, {"strong": BUSY}, router=router, fallback="any")
    if how in BATCHES:
        (outcome,) = await driver.batch(llm, how, ["easy"])
    else:
        outcome = await driver.chat(llm).human("easy").ask(how)
    assert outcome.text == "little answers: easy"
    assert outcome.record == {
        "route": "weak",
        "reason": "scorer_error",
        "router": "scripted",
        "fallback_from": "strong",
        "error": "ScoringError: router 'scripted' failed with RuntimeError",
    }
    assert asked(loopback) == {"big": 1, "little": 1}


# -- inside a tool loop
LOOP_FAULTS = ("hangs up before the first byte", "breaks in the middle", "is busy", "refuses the key")


@pytest.mark.parametrize("how", SINGLE)
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in LOOP_FAULTS], ids=lambda fault: fault.name)
async def test_a_tool_loop_is_never_switched_to_another_backend(
    fault: Fault, how: str, driver: Driver, loopback: LoopbackOpenAI
):
    llm = setting(driver, loopback, {}, fallback="any")
    is_broken = True

    def reply(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["role"] != "tool":
            return Reply(tool_calls=(ToolCall(name="look", arguments={"q": "x"}),))
        assert fault.reply is not None
        return fault.reply if is_broken else Reply(text=f"{body['model']} has looked")

    loopback.reply = reply
    chat = driver.chat(llm).human("easy")
    assert (await chat.ask(how, tools=True)).calls == 1
    chat.tool_results("hard facts")
    outcome = await chat.ask(how, tools=True)
    assert isinstance(outcome.error, fault.error)
    assert outcome.text == ((fault.begins or "") if how in STREAMS else "")
    is_broken = False
    outcome = await chat.ask(how, tools=True)
    assert (outcome.text, outcome.decided) == ("little has looked", ("weak", "tool_loop", None))
    assert asked(loopback) == {"little": 3}
