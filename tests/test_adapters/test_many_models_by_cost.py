"""Routing among several models by quality and cost, through both adapters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from routellm_core import CostAwarePolicy, collect_decisions
from routellm_core.testing import ScriptedRouter
from tests.test_adapters.drivers import BATCHES, SINGLE, Driver

COSTS = {"small": 0.0, "mid": 0.01, "large": 0.1}


class ThreeModels(ScriptedRouter):
    """The small model greets as well as any; for the rest the large one is best, and the middle one nearly."""

    models = ("small", "mid", "large")

    def model_scores(self, prompts: Any) -> Any:
        return np.array([(0.9, 0.9, 0.9) if "greet" in prompt else (0.1, 0.8, 0.9) for prompt in prompts])


def routed(driver: Driver, tradeoff: float, **options: Any) -> Any:
    policy = CostAwarePolicy(ThreeModels(), costs_usd=COSTS, tradeoff=tradeoff, **options)
    return driver.routed(models={name: driver.fake(name) for name in COSTS}, policy=policy)


@pytest.mark.parametrize("how", SINGLE)
async def test_each_question_goes_where_quality_is_worth_its_cost(driver: Driver, how: str) -> None:
    # .8 - 10 * .01 = .7 beats .9 - 10 * .1 = -.1 and .1; of equals the cheapest
    for tradeoff, question, route in (
        (10.0, "prove it", "mid"),
        (10.0, "greet me", "small"),
        (0.0, "prove it", "large"),
    ):
        with collect_decisions() as decisions:
            outcome = await driver.chat(routed(driver, tradeoff)).human(question).ask(how)
        assert outcome.error is None
        assert [(d.route, d.reason, d.win_rate) for d in decisions] == [(route, "score", None)]
        assert outcome.decided == (route, "score", None)
        scores = (0.9, 0.9, 0.9) if "greet" in question else (0.1, 0.8, 0.9)
        assert outcome.record["qualities"] == dict(zip(COSTS, scores, strict=True))


@pytest.mark.parametrize("how", BATCHES)
async def test_a_batch_is_parted(driver: Driver, how: str) -> None:
    outcomes = await driver.batch(routed(driver, 10.0), how, ["prove it", "greet me"])
    assert [outcome.decided[0] for outcome in outcomes] == ["mid", "small"]


async def test_an_open_tool_loop_stays_where_it_began(driver: Driver) -> None:
    chat = driver.chat(routed(driver, 10.0)).human("prove it")
    assert (await chat.ask(tools=True)).decided[0] == "mid"
    answer = await chat.tool_results("greet me").ask(tools=True)
    assert answer.decided[:2] == ("mid", "tool_loop")


async def test_a_route_can_be_forced(driver: Driver) -> None:
    outcome = await driver.chat(routed(driver, 10.0)).human("prove it").ask(force="large")
    assert outcome.decided[:2] == ("large", "forced")


def test_what_a_llamaindex_selector_says_of_it_needs_no_win_rate() -> None:
    pytest.importorskip("llama_index.core")
    from llama_index.core.tools import ToolMetadata

    from llamaindex_routellm import RouteLLMSelector

    selector = RouteLLMSelector(policy=CostAwarePolicy(ThreeModels(), costs_usd=COSTS, tradeoff=10.0))
    choices = [ToolMetadata(description=name, name=name) for name in COSTS]
    selected = selector.select(choices, "prove it")
    assert selected.ind == 1
    assert "best quality for its cost" in selected.reason
    assert selected.routellm["qualities"] == {"small": 0.1, "mid": 0.8, "large": 0.9}
    # tools of other names: the record is by theirs, in the order of order=
    mapped = RouteLLMSelector(
        policy=CostAwarePolicy(ThreeModels(), costs_usd=COSTS, tradeoff=10.0), order=["quick", "usual", "thorough"]
    )
    choices = [ToolMetadata(description=name, name=name) for name in ("thorough", "quick", "usual")]
    record = mapped.select(choices, "prove it").routellm
    assert (record["route"], record["qualities"]) == ("usual", {"quick": 0.1, "usual": 0.8, "thorough": 0.9})
