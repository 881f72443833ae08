"""Content-block event streams (version="v3"), which langchain-core calls beta."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.exceptions import ModelRateLimitError

from routellm_core import collect_decisions
from tests.test_langchain.fakes import RECORD, Runs, backend, fake, get_weather, routed

pytestmark = pytest.mark.filterwarnings("ignore:.*beta")


def test_a_sync_stream_starts_when_read_and_carries_the_record() -> None:
    runs, llm = Runs(), routed()
    with collect_decisions() as decisions:
        stream = llm.stream_events("hard", {"callbacks": [runs]}, version="v3")
        assert runs.starts == []
        assert "".join(stream.text) == "fake-strong answers"
    assert stream.output.response_metadata[RECORD]["route"] == "strong"
    assert stream.output.usage_metadata["total_tokens"] == 15
    assert runs.kinds == ["chain", "llm"]
    assert [kind for kind, _ in runs.ends] == ["llm", "chain"]
    assert [decision.route for decision in decisions] == ["strong"]


async def test_an_async_stream_does_the_same() -> None:
    runs, llm = Runs(), routed()
    with collect_decisions() as decisions:
        answer = await (await llm.astream_events("easy", {"callbacks": [runs]}, version="v3"))
    assert answer.response_metadata[RECORD]["route"] == "weak"
    assert answer.usage_metadata["total_tokens"] == 15
    assert runs.kinds == ["chain", "llm"]
    assert [kind for kind, _ in runs.ends] == ["llm", "chain"]
    assert [decision.route for decision in decisions] == ["weak"]


async def test_another_route_is_tried_before_the_first_event_and_never_after() -> None:
    early: dict[str, Any] = {"weak": fake("weak", error=ConnectionError("down")), "fallback": "stronger"}
    assert routed(**early).stream_events("q", version="v3").output.response_metadata[RECORD]["fallback_from"] == "weak"
    answer = await (await routed(**early).astream_events("q", version="v3"))
    assert answer.response_metadata[RECORD]["route"] == "strong"
    late = routed(weak=fake("weak", error=ConnectionError("down"), error_after=1), fallback="any")
    with pytest.raises(ConnectionError):
        _ = late.stream_events("q", version="v3").output
    with pytest.raises(ConnectionError):
        await (await late.astream_events("q", version="v3"))
    assert backend(late, "strong").seen == []


async def test_an_error_closes_both_runs_and_is_raised_where_the_stream_is_read() -> None:
    for is_async in (False, True):
        runs, llm = Runs(), routed(weak=fake("weak", error=ModelRateLimitError("429")))
        with pytest.raises(ModelRateLimitError):
            if is_async:
                await (await llm.astream_events("q", {"callbacks": [runs]}, version="v3"))
            else:
                _ = llm.stream_events("q", {"callbacks": [runs]}, version="v3").output
        assert [kind for kind, _ in runs.errors] == ["llm", "chain"]


async def test_bound_tools_and_arguments_pass() -> None:
    llm = routed()
    bound: Any = llm.bind_tools([get_weather]).bind(stop=["x"])
    assert bound.stream_events("'Oslo'", version="v3").output.tool_calls[0]["args"] == {"city": "Oslo"}
    answer = await (await bound.astream_events("'Rome'", version="v3"))
    assert answer.tool_calls[0]["args"] == {"city": "Rome"}
    assert [call["stop"] for call in backend(llm, "weak").calls] == [["x"], ["x"]]


async def test_an_abandoned_async_stream_closes_at_once() -> None:
    runs = Runs()
    stream = await routed().astream_events("q", {"callbacks": [runs]}, version="v3")
    await asyncio.wait_for(stream.aclose(), 2)
    assert ("chain", asyncio.CancelledError) in [(kind, type(error)) for kind, error in runs.errors]


def test_a_nested_router_keeps_its_record() -> None:
    outer = routed(weak=routed())
    record = outer.stream_events("easy", version="v3").output.response_metadata[RECORD]
    assert (record["route"], record["inner"]["route"]) == ("weak", "weak")
