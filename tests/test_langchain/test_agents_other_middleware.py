"""Routing next to LangChain's own middleware: summaries, limits, retries, fallbacks, tool selection, todo lists."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ContextEditingMiddleware,
    LLMToolSelectorMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from routellm_core import collect_decisions
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import FakeBackend, Runs, by_words, fake, get_weather, routed
from tests.test_langchain.surfaces import agent, both, middleware, never, records, routes, thread, turn

_PROFILE: Any = {"max_input_tokens": 1000, "tool_calling": True}


@both
@pytest.mark.parametrize("summarizer", ["plain", "routed"])
async def test_a_summary_is_written_by_whom_it_was_given_to(surface: str, summarizer: str) -> None:
    plain, router = fake("summary"), ScriptedRouter(by_words)
    summary = SummarizationMiddleware(
        model=plain if summarizer == "plain" else routed(router=router, strong=plain, weak=fake("cheap")),
        trigger=("messages", 4),
        keep=("messages", 2),
    )
    made = agent(surface, [], [summary], checkpointer=InMemorySaver(), router=router)
    for text in ("hard one", "easy two", "easy three"):
        result = await made.ainvoke(turn(text), thread())
    # the third turn finds five messages: three go into the summary, two are kept, and the answer comes
    assert [type(m).__name__ for m in result["messages"]] == ["HumanMessage", "AIMessage", "HumanMessage", "AIMessage"]
    assert "summary of the conversation" in result["messages"][0].text
    assert routes(result) == [("weak", "score"), ("weak", "score")]
    if summarizer == "plain":
        assert len(plain.seen) == 1
        assert len(router.calls) == 3


@both
def test_a_summary_in_the_middle_of_a_tool_loop_does_not_move_it(surface: str) -> None:
    router = ScriptedRouter(by_words)
    summary = SummarizationMiddleware(model=fake("summary"), trigger=("messages", 3), keep=("messages", 2))
    made = agent(surface, [get_weather], [summary], router=router)
    result = made.invoke(turn("hard: weather in 'Oslo'"))
    # the question itself is in the summary by now; the call and its result are kept
    assert "summary of the conversation" in result["messages"][0].text
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
    assert len(router.calls) == 1


@both
def test_fractions_need_a_profile_and_the_common_one_will_do(surface: str) -> None:
    weak, strong = fake("weak", profile=_PROFILE), fake("strong", profile={**_PROFILE, "max_input_tokens": 4000})
    with pytest.raises(ValueError, match="profile"):
        SummarizationMiddleware(model=routed(), trigger=("fraction", 0.5))
    judge = routed(weak=weak, strong=strong)
    assert judge.profile is not None and judge.profile["max_input_tokens"] == 1000
    # half of 1000 tokens; four letters each
    summary = SummarizationMiddleware(model=judge, trigger=("fraction", 0.5), keep=("messages", 1))
    made = agent(surface, [], [summary], weak=weak, strong=strong)
    long = "word " * 600
    result = made.invoke({"messages": [HumanMessage(long), HumanMessage("easy")]})
    assert "summary of the conversation" in result["messages"][0].text
    assert routes(result) == [("weak", "score")]


class Flaky(FakeBackend):
    """Fails so many times."""

    failures: int = 1

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("flaky")
        return super()._generate(*args, **kwargs)


def test_retries_behind_ours_stay_on_the_route() -> None:
    strong = fake("strong")
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False, on_failure="error")
    made = agent("middleware", [], [retry], weak=Flaky(label="fake-weak", failures=2), strong=strong, fallback="any")
    with collect_decisions() as decisions:
        result = made.invoke(turn("easy"))
    assert routes(result) == [("weak", "score")]
    assert [d.route for d in decisions] == ["weak"]
    assert strong.seen == []
    # only when the retries are used up another route is tried
    made = agent("middleware", [], [retry], weak=Flaky(label="fake-weak", failures=3), strong=strong, fallback="any")
    assert records(made.invoke(turn("easy")))[0]["fallback_from"] == "weak"


def test_retries_before_ours_decide_again() -> None:
    router = ScriptedRouter(by_words)
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False, on_failure="error")
    routing = middleware(weak=Flaky(label="fake-weak"), router=router)
    made = create_agent(never(), [], middleware=[retry, routing])
    with collect_decisions() as decisions:
        assert routes(made.invoke(turn("easy"))) == [("weak", "score")]
    assert len(decisions) == 1  # of answers
    assert len(router.calls) == 2


@both
def test_langchains_fallback_takes_over_from_the_router(surface: str) -> None:
    """Behind the middleware, or with the router as the agent's model or as a fallback of it."""
    broken = ValueError("the account is closed")
    backup = ModelFallbackMiddleware(fake("backup"))
    made = agent(surface, [], [backup], weak=fake("weak", error=broken), strong=fake("strong", error=broken))
    assert made.invoke(turn("easy"))["messages"][-1].text == "fake-backup answers"
    made = create_agent(fake("down", error=broken), [], middleware=[ModelFallbackMiddleware(routed())])
    assert routes(made.invoke(turn("hard"))) == [("strong", "score")]


@both
async def test_limits_count_routed_calls_as_one(surface: str) -> None:
    limit = ModelCallLimitMiddleware(run_limit=2, exit_behavior="error")
    failing = fake("weak", error=ConnectionError("down"))
    made = agent(surface, [get_weather], [limit], weak=failing, fallback="stronger")
    assert len(records(await made.ainvoke(turn("easy 'Oslo'")))) == 2
    limit = ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")
    result = agent(surface, [get_weather], [limit]).invoke(turn("easy 'Oslo'"))
    assert "limit" in result["messages"][-1].text
    tools = ToolCallLimitMiddleware(run_limit=1, exit_behavior="continue")
    result = agent(surface, [get_weather], [tools]).invoke(turn("hard 'Oslo'"))
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]


@both
def test_a_retried_tool_and_a_failed_one_stay_in_the_loop(surface: str) -> None:
    calls: list[str] = []

    @tool
    def shaky(city: str) -> str:
        """Fails the first time."""
        calls.append(city)
        if len(calls) == 1:
            raise ConnectionError("shaky")
        return f"found {city}"

    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)
    result = agent(surface, [shaky], [retry]).invoke(turn("hard 'Oslo'"))
    assert len(calls) == 2
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
    calls.clear()
    give_up = ToolRetryMiddleware(max_retries=0, on_failure="continue")
    result = agent(surface, [shaky], [give_up]).invoke(turn("hard 'Oslo'"))
    assert [m.status for m in result["messages"] if isinstance(m, ToolMessage)] == ["error"]
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]


@tool
def get_time(city: str) -> str:
    """Time of a city."""
    return f"noon in {city}"


class Selects(FakeBackend):
    """Picks `get_weather` when it is asked to choose, however it is asked."""

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        return self | (lambda answer: {"tools": ["get_weather"]})


@both
def test_a_tool_selector_of_its_own_and_the_chosen_backend_as_selector(surface: str) -> None:
    strong = Selects(label="fake-strong")
    chosen = LLMToolSelectorMiddleware(model=Selects(label="fake-selector"))
    agent(surface, [get_time, get_weather], [chosen], strong=strong).invoke(turn("hard 'Oslo'"))
    # not asked to select, and given only what was selected
    assert [[t["function"]["name"] for t in c["tools"]] for c in strong.calls] == [["get_weather"], ["get_weather"]]
    if surface == "middleware":  # the chosen backend selects, too
        runs, strong = Runs(), Selects(label="fake-strong")
        made = agent(surface, [get_time, get_weather], [LLMToolSelectorMiddleware()], strong=strong)
        result = made.invoke(turn("hard 'Oslo'"), {"callbacks": [runs]})
        assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
        assert len(strong.calls) == 4
        started = [start["metadata"].get("routellm_reason") for start in runs.starts if start["kind"] == "llm"]
        assert started[1::2] == ["score", "tool_loop"]


@both
def test_a_router_can_select_tools_too(surface: str) -> None:
    selector = routed(weak=Selects(label="fake-weak"), strong=Selects(label="fake-strong"))
    weak = fake("main")
    select = LLMToolSelectorMiddleware(model=selector)
    agent(surface, [get_time, get_weather], [select], weak=weak).invoke(turn("easy 'Oslo'"))
    assert [t["function"]["name"] for t in weak.calls[0]["tools"]] == ["get_weather"]


@both
def test_state_and_usage_with_a_full_stack(surface: str) -> None:
    router, usage = ScriptedRouter(by_words), UsageMetadataCallbackHandler()
    stack = [
        TodoListMiddleware(),
        PIIMiddleware("email", strategy="redact"),
        ContextEditingMiddleware(),
        SummarizationMiddleware(model=fake("summary"), trigger=("messages", 50)),
        ModelCallLimitMiddleware(run_limit=10),
        ToolCallLimitMiddleware(run_limit=10),
        ToolRetryMiddleware(),
        ModelRetryMiddleware(max_retries=1, initial_delay=0.0),
    ]
    made = agent(surface, [get_weather], stack, checkpointer=InMemorySaver(), router=router)
    result = made.invoke(turn("hard: mail ann@example.org the weather in 'Oslo'"), thread(callbacks=[usage]))
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
    assert "ann@" not in router.calls[0][0]  # what was redacted is not scored either
    assert usage.usage_metadata["fake-strong"]["total_tokens"] == 30
