"""Every method that answers, its async and streaming twins: what is scored, who answers, which scopes hold."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.llms import ChatResponse
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llamaindex_routellm import force_route, pinned, query_scope
from routellm_core import collect_decisions

PROMPT = PromptTemplate("{context_str} {query_str}")
MESSAGES = tuple(f"{prefix}chat" for prefix in ("", "a", "stream_", "astream_"))
PROMPTS = tuple(f"{prefix}complete" for prefix in ("", "a", "stream_", "astream_"))
TEMPLATES = ("predict", "apredict", "stream", "astream")
STRUCTURED = tuple(f"{prefix}structured_predict" for prefix in ("", "a", "stream_", "astream_"))
TOOLS = tuple(f"{prefix}chat_with_tools" for prefix in ("", "a", "stream_", "astream_"))
CALLS = ("predict_and_call", "apredict_and_call")
METHODS = (*MESSAGES, *PROMPTS, *TEMPLATES, *STRUCTURED, *TOOLS, *CALLS)
STREAMS = tuple(name for name in METHODS if "stream" in name)


class Out(BaseModel):
    answer: str


def asked(llm: Any, method: str, text: str, kit: Any) -> Any:
    """One call about a text, with context that a router would take for hard wherever the method takes any."""
    ask = getattr(llm, method)
    if method in PROMPTS:
        return ask(text)
    if method in TEMPLATES:
        return ask(PROMPT, context_str=kit.CONTEXT, query_str=text)
    if method in STRUCTURED:
        return ask(Out, PROMPT, context_str=kit.CONTEXT, query_str=text)
    history = [kit.user(kit.CONTEXT), kit.assistant(kit.CONTEXT)]
    if method in TOOLS:
        return ask([kit.ADD], user_msg=text, chat_history=history)
    if method in CALLS:
        return ask([kit.LOOK], user_msg=text, chat_history=history)
    return ask([*history, kit.user(text)])


async def read(out: Any) -> list[Any]:
    if inspect.isawaitable(out):
        out = await out
    if hasattr(out, "__aiter__"):
        return [item async for item in out]
    return list(out) if hasattr(out, "__next__") else [out]


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("method", METHODS)
async def test_the_question_is_scored_and_its_route_answers(method: str, is_quick: bool, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=is_quick))
    for text, route in ((kit.HARD, "strong"), (kit.EASY, "weak")):
        with collect_decisions() as taken:
            answers = await read(asked(made.llm, method, text, kit))
        assert [(d.route, d.reason) for d in taken] == [(route, "score")] and answers
        for answer in answers:
            if isinstance(answer, (ChatResponse, CompletionResponse)):
                assert answer.additional_kwargs["routellm"] == taken[0].to_dict()
    assert made.router.calls == [[kit.HARD], [kit.EASY]]
    assert (made.strong.hits, made.weak.hits) == (1, 1)


@pytest.mark.parametrize("method", METHODS)
async def test_every_scope_reaches_every_method(method: str, kit: Any):
    made = kit.pair()

    async def route(text: str) -> tuple[str, str]:
        with collect_decisions() as taken:
            await read(asked(made.llm, method, text, kit))
        return taken[0].route, taken[0].reason

    with force_route("strong"):
        assert await route(kit.EASY) == ("strong", "forced")
    with pinned():
        assert [await route(kit.EASY), await route(kit.HARD)] == [("weak", "score"), ("weak", "pinned")]
    with query_scope(kit.EASY):
        # a question that a template carries is nearer than the scope's
        own = method in TEMPLATES or method in STRUCTURED
        assert await route(kit.HARD) == (("strong" if own else "weak"), "score")


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_survives_a_route_that_is_down(method: str, kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak", fail=ConnectionError("down")), fallback="stronger")
    with collect_decisions() as taken:
        await read(asked(made.llm, method, kit.EASY, kit))
    assert [(d.route, d.fallback_from) for d in taken] == [("strong", "weak")]


@pytest.mark.parametrize("method", METHODS)
async def test_when_all_routes_are_down_every_method_raises_the_first_error_with_the_others_as_notes(
    method: str, kit: Any
):
    first = ConnectionError("weak down")
    made = kit.pair(weak=kit.Fake(fail=first), strong=kit.Fake(fail=TimeoutError("late")), fallback="stronger")
    with pytest.raises(ConnectionError) as caught:
        await read(asked(made.llm, method, kit.EASY, kit))
    assert caught.value is first
    assert first.__notes__ == ["route 'strong' was tried too and failed: TimeoutError: late"]


@pytest.mark.parametrize("method", STREAMS)
async def test_a_stream_that_is_routed_and_never_read_asks_nobody_and_settles_nothing(method: str, kit: Any):
    made = kit.pair()
    with collect_decisions() as taken:
        out = asked(made.llm, method, kit.EASY, kit)
        if inspect.isawaitable(out):
            out = await out
    assert len(made.router.calls) == 1 and taken == []
    if hasattr(out, "aclose"):
        await out.aclose()
    else:
        out.close()
    assert taken == []


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("a")])
async def test_a_cancelled_call_reaches_the_backend_and_nobody_else(method: str, kit: Any):
    started, cancelled = asyncio.Event(), []

    class Slow(kit.Fake):
        async def _wait(self) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(method)
                raise

        async def achat(self, *args: Any, **kwargs: Any) -> Any:
            await self._wait()

        async def acomplete(self, *args: Any, **kwargs: Any) -> Any:
            await self._wait()

        async def astream_chat(self, *args: Any, **kwargs: Any) -> Any:
            async def read() -> Any:
                await self._wait()
                yield

            return read()

        astream_complete = astream_chat

    made = kit.pair(weak=Slow(tag="weak"), fallback="any")
    with collect_decisions() as taken:
        task = asyncio.create_task(read(asked(made.llm, method, kit.EASY, kit)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cancelled == [method] and made.strong.hits == 0 and taken == []


@pytest.mark.parametrize("method", ["astream_chat", "astream_complete", "astream_chat_with_tools", "astream"])
async def test_a_reader_that_is_cancelled_mid_stream_closes_the_backends_stream(method: str, kit: Any):
    closed: list[str] = []
    first = asyncio.Event()

    class Endless(kit.Fake):
        async def _read(self, item: Any) -> Any:
            try:
                yield item
                await asyncio.Event().wait()
            finally:
                closed.append(method)

        async def astream_chat(self, *args: Any, **kwargs: Any) -> Any:
            return self._read(ChatResponse(message=kit.assistant("a"), delta="a"))

        async def astream_complete(self, *args: Any, **kwargs: Any) -> Any:
            return self._read(CompletionResponse(text="a", delta="a"))

        async def astream_chat_with_tools(self, *args: Any, **kwargs: Any) -> Any:
            return await self.astream_chat()

        async def astream(self, *args: Any, **kwargs: Any) -> Any:
            return self._read("a")

    made = kit.pair(weak=Endless(tag="weak"))

    async def consume() -> None:
        async for _ in await asked(made.llm, method, kit.EASY, kit):
            first.set()

    task = asyncio.create_task(consume())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [method]
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


@pytest.mark.parametrize("method", ["achat", "astream_chat", "acomplete", "apredict", "achat_with_tools"])
async def test_many_calls_at_once_leave_the_event_loop_turns_for_others(method: str, kit: Any):
    made = kit.pair()
    calls = [asyncio.ensure_future(read(asked(made.llm, method, kit.EASY, kit))) for _ in range(40)]
    scored = [0]
    while len(made.router.calls) < 40:
        await asyncio.sleep(0)
        scored.append(len(made.router.calls))
    await asyncio.gather(*calls)
    assert max(after - before for before, after in zip(scored, scored[1:], strict=False)) <= 8


def test_tool_calls_are_prepared_by_the_backends_alone(kit: Any):
    with pytest.raises(NotImplementedError, match="its backends prepare them"):
        kit.pair().llm._prepare_chat_with_tools([kit.ADD])


def test_tool_calls_are_read_through_any_depth_of_routers(kit: Any):
    class Odd(kit.Fake):
        def get_tool_calls_from_response(self, response: Any, error_on_no_tool_call: bool = True) -> Any:
            return [dict(response.additional_kwargs["routellm"]) if "routellm" in response.additional_kwargs else None]

    one = kit.pair(0.9, strong=Odd(tag="odd"))
    two = kit.pair(0.1, weak=one.llm)
    three = kit.pair(0.9, strong=two.llm)
    answer = three.llm.chat_with_tools([kit.ADD], user_msg=kit.EASY)
    record = answer.additional_kwargs["routellm"]
    assert [r["route"] for r in (record, record["inner"], record["inner"]["inner"])] == ["strong", "weak", "strong"]
    [seen] = three.llm.get_tool_calls_from_response(answer)
    assert seen == record["inner"]["inner"] and answer.additional_kwargs["routellm"] is record  # nothing was changed


def test_span_signatures_are_the_methods_own(kit: Any):
    # they are kept ready, because the span decorator asks for one at every call
    llm = kit.pair().llm
    assert list(inspect.signature(llm.chat).parameters) == ["messages", "kwargs"]
    assert list(inspect.signature(llm.complete).parameters) == ["prompt", "formatted", "kwargs"]
