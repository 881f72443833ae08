"""Which reason goes first when several apply; once for both adapters."""

from __future__ import annotations

from typing import Any

import pytest

from routellm_core.errors import UnknownKindError
from routellm_core.testing import ScriptedRouter
from tests.test_adapters.drivers import SINGLE, Driver


def by_word(prompt: str) -> float:
    return 0.9 if "hard" in prompt else 0.1


def pair(driver: Driver, **options: Any) -> Any:
    options.setdefault("weak", driver.fake("little"))
    return driver.routed(strong=driver.fake("big"), **{"router": ScriptedRouter(by_word), "threshold": 0.5, **options})


QUESTION = "an easy question that stands for itself"


@pytest.mark.parametrize("how", SINGLE)
async def test_forced_goes_before_a_tool_loop_before_a_conversation_before_the_score(how: str, driver: Driver):
    async def decided(stickiness: str, *, results: bool, force: str | None = None) -> Any:
        chat = driver.chat(pair(driver, stickiness=stickiness)).human("hard")
        await chat.ask(how, tools=True)
        chat.tool_results("easy")
        if not results:
            await chat.ask(how, tools=True)
            chat.human(QUESTION)
        return (await chat.ask(how, tools=True, force=force)).decided

    # everything speaks for strong but the caller
    assert await decided("conversation", results=True, force="weak") == ("weak", "forced", None)
    assert await decided("conversation", results=True) == ("strong", "tool_loop", None)
    assert await decided("tool_loop", results=True) == ("strong", "tool_loop", None)
    # the loop is closed
    assert await decided("conversation", results=False, force="weak") == ("weak", "forced", None)
    assert await decided("conversation", results=False) == ("strong", "conversation", None)
    assert await decided("tool_loop", results=False) == ("weak", "score", 0.1)
    # nothing is kept: the question of the loop is scored again
    assert await decided("none", results=True) == ("strong", "score", 0.9)
    assert await decided("none", results=False) == ("weak", "score", 0.1)


async def test_a_forced_answer_is_what_a_tool_loop_and_a_conversation_go_on_with(driver: Driver):
    chat = driver.chat(pair(driver, stickiness="conversation")).human("easy")
    await chat.ask(tools=True, force="strong")
    chat.tool_results("easy")
    assert (await chat.ask(tools=True)).decided == ("strong", "tool_loop", None)
    assert (await chat.human(QUESTION).ask()).decided == ("strong", "conversation", None)


async def test_a_conversation_goes_before_a_call_without_text(driver: Driver):
    chat = driver.chat(pair(driver, stickiness="conversation", on_error="strong")).human("easy")
    await chat.ask()
    assert (await chat.human("").ask()).decided == ("weak", "conversation", None)


async def test_capability_overrules_the_score_and_a_conversation_but_nothing_else(driver: Driver):
    def llm(**options: Any) -> Any:
        return pair(driver, weak=driver.fake("little", can_call=False), **options)

    assert (await driver.chat(llm()).human("easy").ask(tools=True)).decided == ("strong", "capability", 0.1)
    assert (await driver.chat(llm()).human("easy").ask()).decided == ("weak", "score", 0.1)
    chat = driver.chat(llm(stickiness="conversation")).human("easy")
    await chat.ask()
    assert (await chat.human(QUESTION).ask(tools=True)).decided[:2] == ("strong", "capability")
    forced = await driver.chat(llm()).human("hard").ask(tools=True, force="weak")
    assert forced.decided == ("weak", "forced", None)  # an order: what the backend makes of it is its own affair


async def test_an_unknown_route_is_refused_before_anything_is_asked(driver: Driver):
    outcome = await driver.chat(pair(driver)).human("easy").ask(force="medium")
    assert isinstance(outcome.error, UnknownKindError)
    assert "unknown route 'medium'" in str(outcome.error)
    assert "weak, strong" in str(outcome.error)


async def test_a_forced_route_that_fails_is_not_replaced(driver: Driver, loopback: Any):
    llm = pair(driver, weak=driver.client(None, "nobody"), fallback="any")
    outcome = await driver.chat(llm).human("easy").ask(force="weak")
    assert outcome.error is not None
    assert outcome.text == ""
