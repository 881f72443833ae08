"""Another route answers only for passing failures, and only before the first token."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelInvalidRequestError,
    ModelRateLimitError,
    OutputParserException,
)
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langgraph.errors import GraphInterrupt

from routellm_core import collect_decisions
from tests.test_langchain.fakes import RECORD, Runs, backend, fake, get_weather, routed


class Limited(ModelRateLimitError):
    pass


class TooLong(ModelInvalidRequestError, ContextOverflowError):
    status_code = 400


PASSING = [Limited("429"), ConnectionError("refused"), TimeoutError("late"), TooLong("another may hold it")]
LASTING = [
    ModelInvalidRequestError("400"),
    ValueError("bug"),
    OutputParserException("no json"),
    GraphInterrupt(()),
    NotImplementedError("tools"),
]


async def calls(llm: Any, config: Any = None) -> list[Any]:
    """The answer of each way to call."""
    return [
        llm.invoke("q", config),
        await llm.ainvoke("q", config),
        list(llm.stream("q", config))[0],
        [chunk async for chunk in llm.astream("q", config)][0],
        llm.batch(["q", "q"], config)[0],
        llm.generate([[HumanMessage("q")]]).generations[0][0].message,
    ]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
async def test_a_passing_failure_moves_to_the_next_route_in_every_way_to_call(error: Exception) -> None:
    answers = await calls(routed(weak=fake("weak", error=error), fallback="stronger"))
    for answer in answers:
        record = answer.response_metadata[RECORD]
        assert (record["route"], record["fallback_from"], record["reason"]) == ("strong", "weak", "score")


@pytest.mark.parametrize("error", LASTING, ids=lambda error: type(error).__name__)
async def test_any_other_failure_reaches_the_caller(error: Exception) -> None:
    llm = routed(weak=fake("weak", error=error), fallback="any")
    with pytest.raises(type(error)) as caught:
        llm.invoke("q")
    assert caught.value is error
    with pytest.raises(type(error)):
        await llm.ainvoke("q")
    with pytest.raises(type(error)):
        list(llm.stream("q"))
    assert backend(llm, "strong").seen == []


def test_the_failed_attempt_is_a_run_of_its_own() -> None:
    runs = Runs()
    with collect_decisions() as decisions:
        routed(weak=fake("weak", error=Limited("429")), fallback="stronger").invoke("q", {"callbacks": [runs]})
    assert runs.kinds == ["chain", "llm", "llm"]
    assert [kind for kind, _ in runs.errors] == ["llm"]
    assert [start["metadata"].get("routellm_fallback_from") for start in runs.starts] == [None, None, "weak"]
    assert [(d.route, d.fallback_from) for d in decisions] == [("strong", "weak")]


def test_by_default_nothing_moves_and_stronger_never_moves_down() -> None:
    with pytest.raises(Limited):
        routed(weak=fake("weak", error=Limited("429"))).invoke("q")
    failing: Any = {"strong": fake("strong", error=Limited("429"))}
    with pytest.raises(Limited):
        routed(**failing, fallback="stronger").invoke("hard")
    assert routed(**failing, fallback="any").invoke("hard").response_metadata[RECORD]["route"] == "weak"


def test_a_forced_route_and_an_open_tool_loop_have_no_other() -> None:
    llm = routed(weak=fake("weak", error=Limited("429")), fallback="any")
    with pytest.raises(Limited):
        llm.invoke("q", model="weak")


async def test_a_stream_never_changes_route_after_its_first_chunk() -> None:
    llm = routed(weak=fake("weak", error=Limited("429"), error_after=1), fallback="any")
    got: list[str] = []
    with pytest.raises(Limited):
        for chunk in llm.stream("q"):
            got.append(chunk.text)
    with pytest.raises(Limited):
        async for chunk in llm.astream("q"):
            got.append(chunk.text)
    assert got == ["fake-weak "] * 2
    assert backend(llm, "strong").seen == []


async def test_when_all_fail_the_first_error_is_raised_with_the_others_attached() -> None:
    for call in ("invoke", "ainvoke", "stream"):
        first, second, third = Limited("first"), ConnectionError("second"), ConnectionError("third")
        llm = routed(
            models={"a": fake("a", error=first), "b": fake("b", error=second), "c": fake("c", error=third)},
            threshold=[0.4, 0.8],
            fallback="any",
        )
        with pytest.raises(Limited) as caught:
            if call == "invoke":
                llm.invoke("q")
            elif call == "ainvoke":
                await llm.ainvoke("q")
            else:
                list(llm.stream("q"))
        assert caught.value is first
        assert first.__context__ is third
        assert first.__notes__ == [
            "route 'b' was tried too and failed: ConnectionError: second",
            "route 'c' was tried too and failed: ConnectionError: third",
        ]


def test_a_lasting_failure_of_the_fallback_surfaces_itself() -> None:
    llm = routed(
        weak=fake("weak", error=Limited("429")),
        strong=fake("strong", error=ModelInvalidRequestError("400")),
        fallback="any",
    )
    with pytest.raises(ModelInvalidRequestError) as caught:
        llm.invoke("q")
    assert caught.value.__notes__ == ["route 'weak' was tried too and failed: Limited: 429"]


def test_a_route_that_cannot_take_the_request_is_no_fallback() -> None:
    llm = routed(weak=FakeListChatModel(responses=["x"]), strong=fake("strong", error=Limited("429")), fallback="any")
    with pytest.raises(Limited):  # and not the NotImplementedError of a model without tools
        llm.bind_tools([get_weather]).invoke("hard")
    assert llm.invoke("hard").response_metadata[RECORD]["route"] == "weak"


def test_structured_output_falls_back_too() -> None:
    llm = routed(weak=fake("weak", error=Limited("429")), fallback="stronger")
    schema = {"title": "A", "type": "object", "properties": {"a": {"type": "string"}}}
    answer = llm.with_structured_output(schema, include_raw=True).invoke("say 'x'")
    assert answer["parsed"] == {"a": "x"}
    assert answer["raw"].response_metadata[RECORD]["fallback_from"] == "weak"


def test_a_fallback_goes_to_the_log_without_the_errors_text(caplog: pytest.LogCaptureFixture) -> None:
    routed(weak=fake("weak", error=Limited("swordfish")), fallback="stronger").invoke("q")
    assert "route 'weak' failed with Limited, trying 'strong'" in caplog.text
    assert "swordfish" not in caplog.text


def test_an_error_that_is_raised_again_and_again_collects_no_notes() -> None:
    first, other = TimeoutError("first"), TimeoutError("other")
    llm = routed(weak=fake("weak", error=first), strong=fake("strong", error=other), fallback="any")
    for _ in range(3):
        with pytest.raises(TimeoutError, match="first"):
            llm.invoke("easy")
    assert first.__notes__ == ["route 'strong' was tried too and failed: TimeoutError: other"]  # type: ignore[attr-defined]
