"""Agents that stop and go on: checkpointers, people in the loop; each step a new graph, as after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_routellm import ChatRouteLLM
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import by_words, fake, get_weather
from tests.test_langchain.surfaces import agent, both, needs_context, records, routes, thread, turn

Savers = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(params=["memory", "sqlite"])
def savers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Savers]:
    """Opens the same checkpoints again and again."""
    if request.param == "sqlite":
        sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")
        yield lambda: sqlite.SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite"))
    else:
        saver = InMemorySaver()
        yield lambda: nullcontext(saver)


def reviewed(surface: str, saver: Any, router: ScriptedRouter, **options: Any) -> Any:
    review = HumanInTheLoopMiddleware(interrupt_on={"get_weather": True})
    return agent(surface, [get_weather], [review], checkpointer=saver, router=router, **options)


@both
@pytest.mark.parametrize("said", ["approve", "edit", "reject"])
def test_a_tool_loop_stays_on_its_route_over_a_persons_review(surface: str, said: str, savers: Savers) -> None:
    router, usage = ScriptedRouter(by_words), UsageMetadataCallbackHandler()
    decisions: dict[str, Any] = {
        "approve": {"type": "approve"},
        "edit": {"type": "edit", "edited_action": {"name": "get_weather", "args": {"city": "Bonn"}}},
        "reject": {"type": "reject", "message": "easy: do not"},
    }
    with savers() as saver:
        stopped = reviewed(surface, saver, router).invoke(turn("hard: weather in 'Oslo'"), thread(callbacks=[usage]))
    assert stopped["__interrupt__"][0].value["action_requests"][0]["args"] == {"city": "Oslo"}
    assert routes(stopped) == [("strong", "score")]
    # another router by now, which would say otherwise: what counts is who asked for the tool
    with savers() as saver:
        again = reviewed(surface, saver, ScriptedRouter(lambda prompt: 0.0))
        result = again.invoke(Command(resume={"decisions": [decisions[said]]}), thread(callbacks=[usage]))
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
    results = [m.text for m in result["messages"] if isinstance(m, ToolMessage)]
    assert len(results) == 1
    wanted = {"approve": "sunny in Oslo", "edit": "sunny in Bonn", "reject": "easy: do not"}
    assert wanted[said] in results[0]
    assert result["messages"][-1].text == "fake-strong answers"
    assert len(router.calls) == 1
    assert {model: counts["total_tokens"] for model, counts in usage.usage_metadata.items()} == {"fake-strong": 30}


@needs_context
@both
async def test_a_review_in_async_code(surface: str) -> None:
    saver = InMemorySaver()
    await reviewed(surface, saver, ScriptedRouter(by_words)).ainvoke(turn("hard: 'Oslo'"), thread())
    again = reviewed(surface, saver, ScriptedRouter(lambda prompt: 0.0))
    parts = [
        part
        async for part in again.astream(
            Command(resume={"decisions": [{"type": "approve"}]}), thread(), stream_mode="messages"
        )
    ]
    assert "".join(chunk.text for chunk, m in parts if m["langgraph_node"] == "model") == "fake-strong answers"
    assert routes((await again.aget_state(thread())).values) == [("strong", "score"), ("strong", "tool_loop")]


@tool
def ask_a_person(question: str) -> str:
    """Ask somebody."""
    return str(interrupt(question))


@both
def test_a_tool_that_interrupts(surface: str, savers: Savers) -> None:
    with savers() as saver:
        agent(surface, [ask_a_person], checkpointer=saver).invoke(turn("hard 'Oslo or Bonn?'"), thread())
    with savers() as saver:
        again = agent(surface, [ask_a_person], checkpointer=saver, router=ScriptedRouter(lambda prompt: 0.0))
        result = again.invoke(Command(resume="easy: Bonn"), thread())
    assert result["messages"][2].text == "easy: Bonn"
    assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]


@both
def test_the_record_lives_in_the_checkpoint_and_is_plain_json(surface: str, savers: Savers) -> None:
    with savers() as saver:
        agent(surface, checkpointer=saver).invoke(turn("hard"), thread())
    with savers() as saver:
        values = agent(surface, checkpointer=saver).get_state(thread()).values
    record = records(values)[0]
    assert json.loads(json.dumps(record)) == record
    assert (record["route"], record["win_rate"], record["threshold"]) == ("strong", 0.9, 0.5)
    if surface == "middleware":
        assert values["routellm"] == record


@both
def test_a_sticky_conversation_outlives_its_process(surface: str, savers: Savers) -> None:
    router = ScriptedRouter(by_words)
    for text in ("easy", "hard", "hard again"):
        with savers() as saver:
            made = agent(surface, checkpointer=saver, router=router, stickiness="conversation")
            result = made.invoke(turn(text), thread())
    assert routes(result) == [("weak", "score"), ("weak", "conversation"), ("weak", "conversation")]
    assert len(router.calls) == 1


@both
def test_going_back_in_time_decides_anew(surface: str) -> None:
    made = agent(surface, checkpointer=InMemorySaver())
    made.invoke(turn("hard"), thread())
    before = [state for state in made.get_state_history(thread()) if state.next == ("model",)][0]
    config = {**before.config, "configurable": {**before.config["configurable"], "routellm_threshold": 0.95}}
    result = made.invoke(None, config)
    assert [(r["route"], r["threshold"]) for r in records(result)] == [("weak", 0.95)]


def test_the_surface_may_change_between_two_turns(savers: Savers) -> None:
    """Both write and read the same record."""
    options: Any = {"stickiness": "conversation"}
    with savers() as saver:
        agent("model", [get_weather], checkpointer=saver, **options).invoke(turn("hard 'Oslo'"), thread())
    with savers() as saver:
        result = agent("middleware", [get_weather], checkpointer=saver, **options).invoke(turn("easy 'Bonn'"), thread())
    assert routes(result) == [
        ("strong", "score"),
        ("strong", "tool_loop"),
        ("strong", "conversation"),
        ("strong", "tool_loop"),
    ]


@both
def test_a_route_that_exists_no_more_is_decided_anew(surface: str) -> None:
    saver = InMemorySaver()
    reviewed(surface, saver, ScriptedRouter(by_words)).invoke(turn("hard 'Oslo'"), thread())
    models = {"small": fake("small"), "large": fake("large")}
    again = reviewed(surface, saver, ScriptedRouter(by_words), models=models)
    result = again.invoke(Command(resume={"decisions": [{"type": "approve"}]}), thread())
    assert routes(result) == [("strong", "score"), ("large", "score")]


def test_a_human_message_after_the_results_opens_a_new_decision() -> None:
    made = agent("middleware", [get_weather])
    before = made.invoke(turn("hard 'Oslo'"))["messages"][:3]
    assert isinstance(before[-1], ToolMessage)
    result = made.invoke({"messages": [*before, HumanMessage("easy: never mind 'x'")]})
    assert routes(result)[1] == ("weak", "score")


def test_what_persists_needs_no_class_of_ours() -> None:
    saver = InMemorySaver()
    agent("middleware", checkpointer=saver).invoke(turn("hard"), thread())
    stored = repr(saver.blobs) + repr(saver.storage) + repr(saver.writes)
    assert "langchain_routellm" not in stored and "routellm_core" not in stored
    assert ChatRouteLLM.__module__.startswith("langchain_routellm")  # what would stand there
