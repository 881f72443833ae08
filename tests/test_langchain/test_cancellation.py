"""Calls that are given up: every run is closed, the backend's stream too, and no task stays behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, FakeBackend, Runs, fake, get_weather, routed


class Waiting(FakeBackend):
    """Sends one chunk, then waits; says when it waits and when its stream was closed."""

    waits: Any = None
    closed: Any = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(waits=asyncio.Event(), closed=asyncio.Event(), **kwargs)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.closed.set()
        raise AssertionError("not reached")

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        try:
            yield ChatGenerationChunk(message=AIMessageChunk("one "))
            self.waits.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def others() -> set[asyncio.Task[Any]]:
    """Tasks beside this one, after those that are only ending have ended."""
    for _ in range(20):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def consumed(chunks: Any) -> None:
    async for _ in chunks:
        pass


async def v3(llm: Any, config: Any) -> None:
    await consumed((await llm.astream_events("q", config, version="v3")).text)


CALLS: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
    "ainvoke": lambda llm, config: llm.ainvoke("q", config),
    "astream": lambda llm, config: consumed(llm.astream("q", config)),
    "astream_events": lambda llm, config: consumed(llm.astream_events("q", config, version="v2")),
    "abatch": lambda llm, config: llm.abatch(["q", "q"], config),
    "agenerate": lambda llm, config: llm.agenerate([llm._convert_input("q").to_messages()], **config),
    "structured": lambda llm, config: llm.with_structured_output({"title": "A", "type": "object"}).ainvoke("q", config),
    "tools": lambda llm, config: llm.bind_tools([get_weather]).ainvoke("q", config),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_cancelled_while_its_backend_works_closes_everything(call: str) -> None:
    before, runs, waiting = await others(), Runs(), Waiting()
    llm = routed(weak=waiting, fallback="any")
    task = asyncio.ensure_future(CALLS[call](llm, {"callbacks": [runs]}))
    await asyncio.wait_for(waiting.waits.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await others() == before
    assert waiting.closed.is_set()
    # langchain itself closes a cancelled model's run only when it streams; ours are closed always
    assert runs.kinds.count("chain") == sum(each.startswith("chain") for each in runs.closed)
    assert all(isinstance(error, asyncio.CancelledError) for _, error in runs.errors)
    assert fake("strong").seen == [] == llm.models["strong"].seen  # type: ignore[union-attr] # nobody answered instead


@pytest.mark.filterwarnings("ignore:.*beta")
async def test_a_v3_stream_closed_midway_cancels_its_producer_and_closes_everything() -> None:
    before, runs, waiting = await others(), Runs(), Waiting()
    stream = await routed(weak=waiting).astream_events("q", {"callbacks": [runs]}, version="v3")
    assert runs.starts == []  # nothing is opened before somebody reads
    assert await anext(aiter(stream.text)) == "one "
    await asyncio.wait_for(waiting.waits.wait(), 5)
    await asyncio.wait_for(stream.aclose(), 5)
    assert await others() == before
    assert waiting.closed.is_set()
    assert len(runs.starts) == len(runs.closed) == 2
    assert ("chain", asyncio.CancelledError) in [(kind, type(error)) for kind, error in runs.errors]


@pytest.mark.filterwarnings("ignore:.*beta")
async def test_two_readers_of_a_v3_stream_share_one_call() -> None:
    runs = Runs()
    stream = await routed().astream_events("hard", {"callbacks": [runs]}, version="v3")
    text, answer = await asyncio.gather(_text(stream), _answer(stream))
    assert text == "fake-strong answers"
    assert answer.response_metadata[RECORD]["route"] == "strong"
    assert runs.kinds == ["chain", "llm"]


async def _text(stream: Any) -> str:
    return "".join([part async for part in stream.text])


async def _answer(stream: Any) -> Any:
    return await stream


@pytest.mark.parametrize("call", ["ainvoke", "astream", "abatch", "agenerate"])
async def test_a_call_cancelled_while_it_is_scored_asks_no_backend(call: str) -> None:
    asked, release, runs = threading.Event(), threading.Event(), Runs()

    def slow(prompt: str) -> float:
        asked.set()
        release.wait(10)
        return 0.1

    before, llm = await others(), routed(router=ScriptedRouter(slow, is_quick=False))
    task = asyncio.ensure_future(CALLS[call](llm, {"callbacks": [runs]}))
    await asyncio.to_thread(asked.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await others() == before
    assert len(runs.starts) == len(runs.closed)
    assert "llm" not in runs.kinds
    assert llm.models["weak"].seen == llm.models["strong"].seen == []  # type: ignore[union-attr]


async def test_a_router_that_awaits_is_cancelled_with_the_call() -> None:
    cancelled = asyncio.Event()
    waits = asyncio.Event()

    class Remote(ScriptedRouter):
        kind = "remote"

        async def awin_rate(self, prompts: Any) -> Any:
            try:
                waits.set()
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return np.zeros(len(prompts))

    task = asyncio.ensure_future(routed(router=Remote(0.1, is_quick=False)).ainvoke("q"))
    await asyncio.wait_for(waits.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_a_call_cancelled_in_the_queue_of_a_burst_opens_no_run() -> None:
    runs, llm = Runs(), routed()
    tasks = [asyncio.ensure_future(llm.ainvoke("q", {"callbacks": [runs]})) for _ in range(30)]
    await asyncio.sleep(0)
    for task in tasks[1:]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert runs.kinds.count("chain") == sum(each.startswith("chain") for each in runs.closed) < 30
    assert sum(isinstance(each, asyncio.CancelledError) for each in done) >= 20


async def test_a_stream_whose_backend_fails_while_closing_still_closes_its_run() -> None:
    class Stubborn(FakeBackend):
        def stream(self, *args: Any, **kwargs: Any) -> Any:
            try:
                yield from super().stream(*args, **kwargs)
            except GeneratorExit:
                raise OSError("cannot hang up") from None

        async def astream(self, *args: Any, **kwargs: Any) -> Any:
            try:
                yield AIMessageChunk("one")
            except GeneratorExit:
                raise OSError("cannot hang up") from None

    runs, llm = Runs(), routed(weak=Stubborn())
    stream: Any = llm.stream("q", {"callbacks": [runs]})
    next(stream)
    with pytest.raises(OSError, match="cannot hang up"):
        stream.close()
    assert runs.closed == ["llm error", "chain end"]
    astream: Any = llm.astream("q", {"callbacks": [runs]})
    await anext(astream)
    with pytest.raises(OSError, match="cannot hang up"):
        await astream.aclose()
    assert runs.closed[2:] == ["chain end"]


def test_a_backend_without_any_chunk_is_an_error_of_its_own_and_no_second_answer() -> None:
    class Empty(FakeListChatModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            yield from ()

    with pytest.raises(ValueError, match="No generation"):
        list(routed(weak=Empty(responses=["x"]), fallback="any").stream("q"))
