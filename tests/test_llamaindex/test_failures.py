"""When a backend fails, when scoring fails, when there is nothing to score, and texts that break things."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.llms import ChatMessage

from llamaindex_routellm import RouteLLM, force_route, pinned, query_scope
from routellm_core import collect_decisions
from routellm_core.errors import ConfigurationError, ScoringError, UnknownKindError
from routellm_core.testing.contracts import ODD_TEXTS

DOWN = ConnectionError("weak down")


class Refused(Exception):
    status_code = 401


@pytest.fixture
def uncollected() -> Any:
    """What only the garbage collector would free is not freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# -- fallback
def test_nothing_falls_back_unless_asked(kit: Any):
    made = kit.pair(weak=kit.Fake(fail=DOWN))
    for ask in (lambda: made.llm.chat([kit.user(kit.EASY)]), lambda: list(made.llm.stream_chat([kit.user(kit.EASY)]))):
        with collect_decisions() as taken, pytest.raises(ConnectionError, match="weak down"):
            ask()
        assert taken == []  # nobody answered
    assert made.strong.hits == 0


@pytest.mark.parametrize("fallback", ["none", "any"])
def test_a_prompt_is_freed_with_the_error_of_its_call(fallback: str, uncollected: Any, kit: Any):
    class Text(str):
        """A str that says when it is gone."""

    class Down(kit.Fake):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            raise ConnectionError("down")  # a new one each time, which holds the frames that it passes

    llm = kit.pair(strong=Down(), weak=Down(), fallback=fallback).llm

    def ask() -> Any:
        message = kit.user(kit.EASY)
        message.blocks[0].text = text = Text(kit.EASY)
        with pytest.raises(ConnectionError):
            llm.chat([message])
        return weakref.ref(text)

    gone = ask()

    assert gone() is None


@pytest.mark.parametrize("on_open", [False, True])
async def test_a_route_that_fails_before_its_first_token_is_followed_by_a_stronger_one(on_open: bool, kit: Any):
    made = kit.pair(weak=kit.Fake(fail=DOWN, fail_on_open=on_open), fallback="stronger")
    messages = [kit.user(kit.EASY)]
    with collect_decisions() as taken:
        answers = [
            made.llm.chat(messages),
            await made.llm.achat(messages),
            *made.llm.stream_chat(messages),
            *[item async for item in await made.llm.astream_chat(messages)],
        ]
    records = [answer.additional_kwargs["routellm"] for answer in answers]
    assert {(r["route"], r["fallback_from"], r["reason"]) for r in records} == {("strong", "weak", "score")}
    assert len(taken) == 4 and {d.route for d in taken} == {"strong"}


async def test_after_the_first_token_the_error_surfaces(kit: Any):
    made, got = kit.pair(weak=kit.Fake(tag="weak", fail="after"), fallback="any"), []
    with pytest.raises(ConnectionError, match="mid-stream"):
        got.extend(chunk.delta for chunk in made.llm.stream_chat([kit.user(kit.EASY)]))
    stream = await made.llm.astream_chat([kit.user(kit.EASY)])
    with pytest.raises(ConnectionError, match="mid-stream"):
        async for chunk in stream:
            got.append(chunk.delta)
    assert made.strong.hits == 0 and made.weak.hits == 2 and got[-1] == "weak"


def test_only_any_falls_back_to_a_weaker_route(kit: Any):
    for fallback, answered in (("any", True), ("stronger", False)):
        made = kit.pair(strong=kit.Fake(fail=DOWN), weak=kit.Fake(tag="weak"), fallback=fallback)
        if answered:
            assert "weak" in made.llm.complete(kit.HARD).text
        else:
            with pytest.raises(ConnectionError):
                made.llm.complete(kit.HARD)


def test_errors_that_another_route_would_meet_too_do_not_fall_back(kit: Any):
    for error in (Refused("wrong key"), ValueError("bad request"), KeyError("bug")):
        made = kit.pair(weak=kit.Fake(fail=error), fallback="any")
        with pytest.raises(type(error)) as caught:
            made.llm.complete(kit.EASY)
        assert caught.value is error and made.strong.hits == 0


def test_a_lasting_failure_of_the_fallback_surfaces_itself(kit: Any):
    first, second = ConnectionError("weak down"), Refused("wrong key for strong")
    made = kit.pair(weak=kit.Fake(fail=first), strong=kit.Fake(fail=second), fallback="stronger")
    with pytest.raises(Refused) as caught:
        made.llm.complete(kit.EASY)
    assert caught.value is second
    assert second.__notes__ == ["route 'weak' was tried too and failed: ConnectionError: weak down"]


async def test_when_all_fail_the_first_error_is_raised_and_names_the_others(kit: Any):
    second = TimeoutError("strong late")

    async def asked(llm: Any) -> None:
        await llm.acomplete(kit.EASY)

    async def streamed(llm: Any) -> None:
        async for _ in await llm.astream_chat([kit.user(kit.EASY)]):
            pass

    for ask in (lambda llm: llm.complete(kit.EASY), asked, streamed, lambda llm: list(llm.stream_complete(kit.EASY))):
        first = ConnectionError("weak down")
        made = kit.pair(weak=kit.Fake(fail=first), strong=kit.Fake(fail=second), fallback="stronger")
        with pytest.raises(ConnectionError) as caught:
            out = ask(made.llm)
            if asyncio.iscoroutine(out):
                await out
        assert caught.value is first
        assert first.__notes__ == ["route 'strong' was tried too and failed: TimeoutError: strong late"]
        assert first.__context__ is None and first.__cause__ is None  # no consequence of the second


def test_a_forced_call_does_not_fall_back(kit: Any):
    made = kit.pair(weak=kit.Fake(fail=DOWN), fallback="any")
    with force_route("weak"), pytest.raises(ConnectionError):
        made.llm.complete(kit.EASY)
    assert made.strong.hits == 0


def test_control_flow_is_never_mistaken_for_a_failure(kit: Any):
    class Stops(kit.Fake):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    made = kit.pair(weak=Stops(), fallback="any")
    with pytest.raises(KeyboardInterrupt):
        made.llm.chat([kit.user(kit.EASY)])
    assert made.strong.hits == 0


async def test_a_cancelled_call_is_cancelled(kit: Any):
    class Slow(kit.Fake):
        async def achat(self, messages: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(30)

    made = kit.pair(weak=Slow(), fallback="any")
    task = asyncio.create_task(made.llm.achat([kit.user(kit.EASY)]))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.strong.hits == 0


def test_an_empty_stream_is_an_answer(kit: Any):
    class Silent(kit.Fake):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            return iter(())  # no generator: it has nothing to close

    made = kit.pair(weak=Silent(), fallback="any")
    with collect_decisions() as taken:
        assert list(made.llm.stream_chat([kit.user(kit.EASY)])) == []
    assert [d.route for d in taken] == ["weak"]


# -- scoring
def test_a_router_that_fails_lets_the_named_route_answer(kit: Any, caplog: Any):
    for on_error, route in (("strong", "strong"), ("weak", "weak")):
        made = kit.pair(kit.ScriptedRouter(error=RuntimeError("boom")), on_error=on_error)
        record = made.llm.complete(kit.EASY).additional_kwargs["routellm"]
        assert (record["route"], record["reason"]) == (route, "scorer_error") and "win_rate" not in record
    assert len([r for r in caplog.records if r.name.startswith("routellm_core")]) == 2
    made = kit.pair(kit.ScriptedRouter(error=RuntimeError("boom")), on_error="raise")
    with pytest.raises(ScoringError):
        made.llm.complete(kit.EASY)
    assert kit.pair(float("nan")).llm.complete("x").additional_kwargs["routellm"]["reason"] == "scorer_error"


async def test_a_late_router_lets_the_named_route_answer(kit: Any):
    release = threading.Event()
    # were it waited for, the record would hold a win rate after the half minute
    made = kit.pair(kit.ScriptedRouter(lambda text: float(release.wait(30))), router_timeout_s=0.05)
    for answer in (made.llm.complete(kit.EASY), await made.llm.acomplete(kit.EASY)):
        record = answer.additional_kwargs["routellm"]
        assert (record["route"], record["reason"]) == ("strong", "scorer_error")
    release.set()


async def test_a_router_that_hangs_is_left_alone_and_every_record_event_and_span_says_so(kit: Any):
    from llamaindex_routellm import RoutingDecisionEvent, events

    release, catch = threading.Event(), kit.Catch()
    events.dispatcher.add_event_handler(catch)
    made = kit.pair(kit.ScriptedRouter(lambda text: float(release.wait(30))), router_timeout_s=0.01)
    records = [made.llm.complete(kit.EASY).additional_kwargs["routellm"] for _ in range(3)]
    records.append((await made.llm.achat([kit.user(kit.EASY)])).additional_kwargs["routellm"])
    assert len(made.router.calls) <= 3  # the fourth did not ask; on a busy machine a late one may not have begun
    assert [r["reason"] for r in records] == ["scorer_error"] * 4
    assert ["was late 3 times in a row" in r["error"] for r in records] == [False, False, False, True]
    assert [e.decision for e in catch.seen if isinstance(e, RoutingDecisionEvent)] == records
    assert "left alone" in made.llm.stream_chat([kit.user(kit.EASY)]).__next__().additional_kwargs["routellm"]["error"]
    release.set()


async def test_slow_scoring_does_not_block_the_event_loop(kit: Any):
    released = threading.Event()
    # the router waits for something that only a free event loop does; blocked, it would give 0.0
    made = kit.pair(kit.ScriptedRouter(lambda text: float(released.wait(10)), is_quick=False))
    for call in (
        lambda: made.llm.achat([kit.user(kit.EASY)]),
        lambda: made.llm.achat_with_tools([kit.ADD], user_msg=kit.EASY),
    ):
        released.clear()
        waiting = asyncio.ensure_future(call())
        await asyncio.sleep(0.05)
        released.set()
        assert (await waiting).additional_kwargs["routellm"]["win_rate"] == 1.0


# -- nothing to score, and odd texts
def test_a_call_without_text_goes_to_the_route_for_errors(kit: Any):
    image = ChatMessage(role="user", blocks=[ImageBlock(image=b"x", image_mimetype="image/png")])
    for messages in ([], [kit.user("")], [kit.user(" \n")], [image]):
        made = kit.pair()
        record = made.llm.chat(messages).additional_kwargs["routellm"]
        assert (record["route"], record["reason"]) == ("strong", "no_text") and made.router.calls == []
    assert kit.pair(on_error="weak").llm.complete("").additional_kwargs["routellm"]["route"] == "weak"
    with pytest.raises(ScoringError, match="no text to score"):
        kit.pair(on_error="raise").llm.complete("")


def test_the_text_of_a_message_with_an_image_is_scored(kit: Any):
    made = kit.pair()
    blocks = [TextBlock(text=kit.HARD), ImageBlock(image=b"x", image_mimetype="image/png")]
    made.llm.chat([ChatMessage(role="user", blocks=blocks)])
    assert made.router.calls == [[kit.HARD]]


def test_a_prompt_that_is_a_single_system_message_is_scored(kit: Any):
    made = kit.pair()
    made.llm.chat([ChatMessage(role="system", content=kit.HARD)])
    assert made.router.calls == [[kit.HARD]]


@pytest.mark.parametrize("text", [t for t in ODD_TEXTS if t.strip()], ids=lambda t: ascii(t[:8]))
async def test_odd_texts_are_routed_like_any_other(text: str, kit: Any):
    made = kit.pair(0.9)
    assert made.llm.complete(text).additional_kwargs["routellm"]["reason"] == "score"
    assert (await made.llm.achat([kit.user(text)])).additional_kwargs["routellm"]["route"] == "strong"
    assert made.router.calls[0] == [text]


def test_a_short_follow_up_is_scored_with_what_it_follows(kit: Any):
    made = kit.pair()
    made.llm.chat([kit.user(kit.HARD), kit.assistant("Done."), kit.user("why?")])
    assert made.router.calls == [[f"{kit.HARD}\nwhy?"]]


def test_the_callers_own_choice_of_text_is_scored_and_must_be_text(kit: Any):
    made = kit.pair(text=lambda messages: messages[0].content)
    made.llm.chat([kit.user("first"), kit.assistant("ok"), kit.user("second")])
    made.llm.complete("prompt")
    made.llm.chat_with_tools([kit.ADD], user_msg="asked")
    assert made.router.calls == [["first"], ["prompt"], ["asked"]]
    with pytest.raises(ConfigurationError, match="must return a str or None, got int"):
        kit.pair(text=lambda messages: 3).llm.complete("x")


# -- scopes
def test_a_forced_route_is_taken_without_scoring_and_an_unknown_one_is_an_error(kit: Any):
    made = kit.pair()
    with force_route("strong"):
        record = made.llm.complete(kit.EASY).additional_kwargs["routellm"]
        assert record == {"route": "strong", "reason": "forced"} and made.router.calls == []
        with force_route("weak"):
            assert "weak" in made.llm.complete(kit.HARD).text
        assert "strong" in made.llm.complete(kit.EASY).text
    with force_route("medium"), pytest.raises(UnknownKindError, match="unknown route 'medium'.*weak, strong"):
        made.llm.complete(kit.EASY)
    assert "weak" in made.llm.complete(kit.EASY).text


def test_a_query_scope_is_scored_instead_of_the_messages(kit: Any):
    made = kit.pair(text=lambda messages: kit.HARD)
    with query_scope(kit.EASY):
        made.llm.complete(kit.CONTEXT)
        with query_scope("inner"):
            made.llm.chat([kit.user(kit.CONTEXT)])
        made.llm.chat_with_tools([kit.ADD], user_msg=kit.CONTEXT)
    made.llm.complete("x")
    assert made.router.calls == [[kit.EASY], ["inner"], [kit.EASY], [kit.HARD]]


def test_a_pin_keeps_the_first_route_and_a_fallback_moves_it(kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak", fail=DOWN), fallback="any")
    with pinned():
        first = made.llm.complete(kit.EASY).additional_kwargs["routellm"]
        made.weak.fail = None
        second = made.llm.complete(kit.EASY).additional_kwargs["routellm"]
    assert (first["route"], first["fallback_from"]) == ("strong", "weak")
    assert second == {"route": "strong", "reason": "pinned"}
    assert "weak" in made.llm.complete(kit.EASY).text


def test_a_pin_gives_way_to_a_forced_route_and_an_open_tool_loop_and_goes_before_the_conversation(kit: Any):
    made = kit.pair(stickiness="conversation")
    made.weak.script = ["short answer", kit.call("look", {"q": "x"})]
    answer = made.llm.chat([kit.user(kit.EASY)])
    looped = made.llm.chat_with_tools([kit.LOOK], user_msg=kit.EASY)
    talk = [kit.user(kit.EASY), answer.message, kit.user("Go on with the story, please")]
    result = ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": "c1"})
    reasons = []
    with pinned():
        for messages, forced in (
            ([kit.user(kit.HARD)], None),  # sets the pin, strong
            (talk, None),
            ([kit.user(kit.EASY), looped.message, result], None),
            (talk, "weak"),
        ):
            scope = force_route(forced) if forced else contextlib.nullcontext()
            with scope:
                record = made.llm.chat(messages).additional_kwargs["routellm"]
            reasons.append((record["route"], record["reason"]))
    assert reasons == [("strong", "score"), ("strong", "pinned"), ("weak", "tool_loop"), ("weak", "forced")]
    record = made.llm.chat(talk).additional_kwargs["routellm"]
    assert record == {"route": "weak", "reason": "conversation"}


def test_a_pin_holds_even_without_stickiness(kit: Any):
    made = kit.pair(stickiness="none")
    with pinned():
        records = [made.llm.complete(text).additional_kwargs["routellm"] for text in (kit.EASY, kit.HARD)]
    assert [(r["route"], r["reason"]) for r in records] == [("weak", "score"), ("weak", "pinned")]


def test_a_forced_call_neither_sets_nor_obeys_a_pin(kit: Any):
    made = kit.pair()
    with pinned():
        with force_route("strong"):
            assert "strong" in made.llm.complete(kit.EASY).text
        assert "weak" in made.llm.complete(kit.EASY).text
        with force_route("strong"):
            assert "strong" in made.llm.complete(kit.EASY).text
        assert "weak" in made.llm.complete(kit.HARD).text


async def test_a_stream_belongs_to_the_collector_and_the_pin_of_its_call(kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak", fail=DOWN), fallback="any")
    with collect_decisions() as taken, pinned():
        stream = made.llm.stream_chat([kit.user(kit.EASY)])
        asynchronous = await made.llm.astream_chat([kit.user(kit.EASY)])
    assert taken == []
    assert list(stream) and [item async for item in asynchronous]
    assert [d.route for d in taken] == ["strong", "strong"]


def test_three_routes_fall_back_upward_in_order_and_then_down(kit: Any):
    models = {name: kit.Fake(tag=name, fail=ConnectionError(name)) for name in ("small", "mid", "large")}
    llm = RouteLLM(models=models, router=kit.ScriptedRouter(0.5), threshold=[0.3, 0.7], fallback="any")
    with pytest.raises(ConnectionError, match="^mid") as caught:
        llm.complete("x")
    assert ["large" in note for note in caught.value.__notes__] == [True, False]
    models["small"].fail = None
    assert llm.complete("x").additional_kwargs["routellm"]["route"] == "small"


# -- privacy
async def test_no_prompt_answer_or_key_is_in_a_record_an_event_or_a_log_line(kit: Any, caplog: Any):
    from llamaindex_routellm import events

    catch, secret = kit.Catch(), "my-diagnosis-42"
    events.dispatcher.add_event_handler(catch)
    caplog.set_level(logging.DEBUG)
    for router in (kit.ScriptedRouter(0.9), kit.ScriptedRouter(error=ValueError(f"cannot score {secret}"))):
        strong = kit.Fake(tag=f"answer-{secret}", api_key="sk-secret", fail=ConnectionError(f"no {secret}"))
        made = kit.pair(router, strong=strong, weak=kit.Fake(tag="weak", api_key="sk-secret"), fallback="any")
        with collect_decisions() as taken:
            answers = [
                made.llm.complete(secret),
                *[item async for item in await made.llm.astream_chat([kit.user(secret)])],
            ]
        shown = [
            repr(taken),
            *(repr(answer.additional_kwargs) for answer in answers),
            *(event.model_dump_json() for event in catch.seen),
        ]
        assert len(catch.seen) >= 4
        assert not [text for text in shown if secret in text or "sk-" in text]
    ours = [r for r in caplog.records if r.name.startswith(("routellm_core", "llamaindex_routellm"))]
    assert ours and not [r for r in ours if secret in r.getMessage()]


# -- calls at the same time
async def test_calls_at_once_in_a_pinned_scope_all_go_where_the_first_decision_went(kit: Any):
    scores = iter([0.1, 0.9, 0.9, 0.1])  # of a judge that changes its mind
    made = kit.pair(kit.ScriptedRouter(lambda text: next(scores), is_quick=False))
    with pinned():
        answers = await asyncio.gather(*(made.llm.achat([kit.user(kit.EASY)]) for _ in range(4)))
    records = [answer.additional_kwargs["routellm"] for answer in answers]
    assert len({record["route"] for record in records}) == 1
    assert next(scores, None) is None, "all were asked before any was answered"
    assert {record["reason"] for record in records} == {"score", "pinned"}
