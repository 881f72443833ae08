"""A cascade: the weak answer is verified before anybody sees it, and the strong model asked where it will not do."""

from __future__ import annotations

import copy
import inspect
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.llms.types import ChatResponse, CompletionResponse, MessageRole
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.llm import LLMChatStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM, RouteLLMSelector, force_route, pinned
from llamaindex_routellm._escalated import answer_of
from llamaindex_routellm.events import dispatcher
from routellm_core import EscalationPolicy, collect_decisions
from routellm_core.errors import ConfigurationError, ScoringError
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter
from routellm_core.types import Usage
from routellm_core.verifiers import Answer, Verifier

CALL = Usage(input_tokens=11, output_tokens=7)  # what the fake reports for each call
PROMPT = PromptTemplate("{context_str} {query_str}")
WEAK, STRONG = "weak answer here", "strong answer here"


class Out(BaseModel):
    answer: str


class Says(Verifier):
    """Finds every answer bad, or good at a value below .5, and keeps what it saw."""

    is_quick = True

    def __init__(self, value: float = 0.9, error: Exception | None = None) -> None:
        super().__init__()
        self.value, self.error = value, error
        self.seen: list[tuple[Answer, str | None]] = []

    def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
        if self.error is not None:
            raise self.error
        self.seen += zip(answers, prompts, strict=True)
        return np.full(len(answers), self.value)


def cascade(kit: Any, verifier: Verifier | None = None, **words: Any) -> Any:
    backends = {name: words.pop(name) for name in ("strong", "weak") if name in words}
    found = verifier or Says()
    policy = EscalationPolicy(
        found, ScriptedRouter(kit.by_word), **{"threshold": 0.8, "escalation_threshold": 0.5, **words}
    )
    made = kit.pair(policy=policy, **backends)
    made.verifier, made.policy = found, policy
    return made


def text_ways(kit: Any) -> dict[str, Any]:
    """Every method whose answer is a text, by name."""
    template = {"context_str": kit.CONTEXT, "query_str": kit.EASY}
    ways: dict[str, Any] = {}
    for prefix in ("", "a", "stream_", "astream_"):
        ways[f"{prefix}chat"] = ([kit.user(kit.EASY)],), {}
        ways[f"{prefix}complete"] = (kit.EASY,), {}
    for name in ("predict", "apredict", "stream", "astream"):
        ways[name] = (PROMPT,), template
    return ways


def other_ways(kit: Any) -> dict[str, Any]:
    """Every other method that answers."""
    template = {"context_str": "c", "query_str": kit.EASY}
    ways: dict[str, Any] = {}
    for prefix in ("", "a", "stream_", "astream_"):
        ways[f"{prefix}chat_with_tools"] = ([kit.ADD],), {"user_msg": kit.EASY}
        ways[f"{prefix}structured_predict"] = (Out, PROMPT), template
    for name in ("predict_and_call", "apredict_and_call"):
        ways[name] = ([kit.LOOK],), {"user_msg": kit.EASY}
    return ways


_NAMES = SimpleNamespace(EASY="", CONTEXT="", ADD=None, LOOK=None, user=lambda text: text)
TEXT, OTHER = sorted(text_ways(_NAMES)), sorted(other_ways(_NAMES))
STREAMS = [way for way in TEXT if "stream" in way]


async def ask(llm: Any, ways: dict[str, Any], way: str) -> list[Any]:
    """The answer, or all pieces of its stream."""
    arguments, words = ways[way]
    out = getattr(llm, way)(*arguments, **words)
    if inspect.isawaitable(out):
        out = await out
    if hasattr(out, "__aiter__"):
        return [piece async for piece in out]
    return list(out) if hasattr(out, "__next__") else [out]


def text_of(pieces: list[Any]) -> str:
    last = pieces[-1]
    if isinstance(last, str):
        return "".join(pieces)
    return last.text if isinstance(last, CompletionResponse) else str(last.message.content)


def records(pieces: list[Any]) -> list[dict[str, Any]]:
    return [piece.additional_kwargs["routellm"] for piece in pieces if not isinstance(piece, str)]


# -- the answer
@pytest.mark.parametrize("way", TEXT)
async def test_a_bad_weak_answer_is_never_seen(way: str, kit: Any):
    made = cascade(kit)
    with collect_decisions() as taken:
        pieces = await ask(made.llm, text_ways(kit), way)
    assert text_of(pieces) == STRONG
    assert (made.weak.hits, made.strong.hits) == (1, 1)
    assert [(answer.text, prompt) for answer, prompt in made.verifier.seen] == [(WEAK, kit.EASY)]
    assert [(d.route, d.reason, d.win_rate, d.threshold, d.router) for d in taken] == [
        ("strong", "escalated", 0.9, 0.5, "Says")
    ]
    assert all(record == taken[0].to_dict() for record in records(pieces))
    assert len(TEXT) == 12


@pytest.mark.parametrize("way", TEXT)
async def test_a_good_weak_answer_is_given_as_it_came(way: str, kit: Any):
    made = cascade(kit, Says(0.1))
    bare = await ask(kit.Fake(tag="weak"), text_ways(kit), way)
    with collect_decisions() as taken:
        pieces = await ask(made.llm, text_ways(kit), way)
    assert text_of(pieces) == WEAK and len(pieces) == len(bare) == (3 if way in STREAMS else 1)
    assert (made.weak.hits, made.strong.hits, len(made.verifier.seen)) == (1, 0, 1)
    assert [(d.route, d.reason, d.router) for d in taken] == [("weak", "score", "scripted")]
    assert taken.usage_of(taken[0]) == CALL and taken.discarded_usage_of(taken[0]) is None
    assert {record["route"] for record in records(pieces)} <= {"weak"}


async def test_the_strong_models_stream_is_not_held_up(kit: Any):
    made = cascade(kit)
    source = made.llm.stream_chat([kit.user(kit.EASY)])
    assert made.weak._closed == ["stream_chat"]
    assert (next(source).delta, made.strong._closed) == ("strong", [])  # while it still speaks
    source.close()
    assert made.strong._closed == ["stream_chat"]

    other = cascade(kit)
    awaited = await other.llm.astream_chat([kit.user(kit.EASY)])
    assert other.weak._closed == ["astream_chat"]
    assert ((await awaited.__anext__()).delta, other.strong._closed) == ("strong", [])
    assert [piece.delta async for piece in awaited] == [" answer", " here"]


async def test_a_hard_prompt_goes_straight_to_the_strong_model(kit: Any):
    made = cascade(kit)
    assert made.llm.complete(kit.HARD).additional_kwargs["routellm"]["reason"] == "score"
    assert (made.weak.hits, made.strong.hits, made.verifier.seen) == (0, 1, [])


# -- what is never verified
@pytest.mark.parametrize("way", OTHER)
async def test_tools_and_objects_are_not_escalated(way: str, kit: Any):
    made = cascade(kit)
    with collect_decisions() as taken:
        await ask(made.llm, other_ways(kit), way)
    assert (made.verifier.seen, made.strong.hits, made.weak.hits) == ([], 0, 1)
    assert [d.reason for d in taken] == ["score"]
    assert len(OTHER) == 10


def test_an_answer_that_calls_tools_or_was_asked_for_json_is_not_escalated(kit: Any):
    made = cascade(kit)
    made.weak.script = [kit.call("adder", {"a": 1}), "{}", "{}"]
    answers = [
        made.llm.chat([kit.user(kit.EASY)]),
        made.llm.chat([kit.user(kit.EASY)], response_format={"type": "json_object"}),
        made.llm.complete(kit.EASY, response_format={"type": "json_object"}),
    ]
    made.llm.chat([kit.user(kit.EASY)], tools=[kit.ADD])
    assert made.verifier.seen == [] and made.strong.hits == 0
    assert {answer.additional_kwargs["routellm"]["route"] for answer in answers} == {"weak"}


@pytest.mark.parametrize("stickiness", ["tool_loop", "none"])
@pytest.mark.parametrize("role", [MessageRole.TOOL, MessageRole.USER])
async def test_nothing_escalates_inside_a_tool_loop(stickiness: Any, role: Any, kit: Any):
    made = cascade(kit, stickiness=stickiness)
    result = kit.user("Observation: 12:03")  # as ReAct writes it
    result.role = role
    history = [kit.user(kit.EASY), kit.assistant("Thought: look.\nAction: clock"), result]
    made.llm.chat(history)
    _ = [piece async for piece in await made.llm.astream_chat(history)]
    assert (made.verifier.seen, made.weak.hits, made.strong.hits) == ([], 2, 0)


def test_a_forced_route_is_an_order(kit: Any):
    made = cascade(kit)
    with force_route("weak"):
        assert made.llm.complete(kit.EASY).text == WEAK
    assert made.verifier.seen == []


def test_an_escalation_moves_the_pin_and_what_follows_is_not_verified(kit: Any):
    made = cascade(kit)
    with pinned():
        found = [made.llm.complete(kit.EASY).additional_kwargs["routellm"]["reason"] for _ in range(2)]
    assert found == ["escalated", "pinned"]
    assert (made.weak.hits, made.strong.hits, len(made.verifier.seen)) == (1, 2, 1)

    kept = cascade(kit, Says(0.1))
    with pinned():
        found = [kept.llm.complete(kit.EASY).additional_kwargs["routellm"]["reason"] for _ in range(2)]
    assert found == ["score", "pinned"] and (kept.weak.hits, len(kept.verifier.seen)) == (2, 1)


def test_a_conversation_stays_with_the_strong_model_that_it_was_escalated_to(kit: Any):
    made = cascade(kit, stickiness="conversation")
    answer = made.llm.chat([kit.user(kit.EASY)])
    again = made.llm.chat([kit.user(kit.EASY), answer.message, kit.user("and by train?")])
    assert again.additional_kwargs["routellm"] == {"route": "strong", "reason": "conversation"}


# -- what it took
@pytest.mark.parametrize("way", TEXT)
async def test_the_discarded_answer_is_paid_for_but_is_no_answer(way: str, kit: Any):
    made = cascade(kit)
    with collect_decisions() as taken:
        await ask(made.llm, text_ways(kit), way)
    assert (taken.usage_of(taken[0]), taken.discarded_usage_of(taken[0])) == (CALL, CALL)
    saving = taken.saving({"weak": (1.0, 10.0), "strong": (10.0, 100.0)})
    # 11 in and 7 out: 11 + 70 = 81 millionths for the weak answer, 810 for the strong one, which alone was 810
    assert saving.usd == pytest.approx(891e-6) and saving.all_strong_usd == pytest.approx(810e-6)
    assert (saving.answers, taken.share("strong")) == (1, 1.0)


def test_the_tokens_of_a_model_that_verifies_are_no_answers(kit: Any):
    judge = kit.Fake(tag="judge")

    class Judges(Says):
        is_quick = False

        def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
            judge.chat([kit.user("rate it")])
            return super()._score(answers, prompts)

    catch = kit.Catch()
    get_dispatcher().add_event_handler(catch)
    for verifier, expected in ((Judges(0.1), None), (Judges(0.9), CALL)):
        made = cascade(kit, verifier)
        with collect_decisions() as taken:
            made.llm.predict(PROMPT, context_str="c", query_str=kit.EASY)  # a str: its tokens are heard from events
        assert (taken.usage_of(taken[0]), taken.discarded_usage_of(taken[0])) == (CALL, expected)
    assert judge.hits == 2
    tags = [event.tags.get("routellm") for event in catch.seen if isinstance(event, LLMChatStartEvent)]
    assert tags == [None, "scoring", None, "scoring", None]


# -- spans and events
@pytest.mark.parametrize("way", TEXT)
async def test_both_models_are_asked_under_the_routers_span(way: str, kit: Any):
    handler = SimpleSpanHandler()
    get_dispatcher().add_span_handler(handler)
    await ask(cascade(kit).llm, text_ways(kit), way)
    outer = next(span for span in handler.completed_spans if span.id_.startswith("RouteLLM."))
    inner = [span for span in handler.completed_spans if span.id_.startswith("Fake.")]
    direct = [span for span in inner if span.parent_id == outer.id_]
    assert outer.parent_id is None and len(direct) == 2, [(s.id_, s.parent_id) for s in inner]


def test_the_decision_is_announced_again_when_it_changes(kit: Any):
    catch = kit.Catch()
    dispatcher.add_event_handler(catch)
    cascade(kit).llm.complete(kit.EASY)
    cascade(kit, Says(0.1)).llm.complete(kit.EASY)
    assert [event.decision["reason"] for event in catch.seen] == ["score", "escalated", "score"]


# -- failures
@pytest.mark.parametrize("opens", [True, False])
@pytest.mark.parametrize("way", TEXT)
async def test_a_strong_model_that_is_down_leaves_the_weak_answer_if_any_will_do(way: str, opens: bool, kit: Any):
    down = {"fail": ConnectionError("down"), "fail_on_open": opens}
    made = cascade(kit, strong=kit.Fake(tag="strong", **down), fallback="any")
    with collect_decisions() as taken:
        pieces = await ask(made.llm, text_ways(kit), way)
    assert text_of(pieces) == WEAK and made.weak.hits == 1  # not asked again
    assert [(d.route, d.reason, d.fallback_from) for d in taken] == [("weak", "escalated", "strong")]
    assert (taken.usage_of(taken[0]), taken.discarded_usage_of(taken[0])) == (CALL, None)
    assert all(record == taken[0].to_dict() for record in records(pieces))


@pytest.mark.parametrize("fallback", ["none", "stronger"])
@pytest.mark.parametrize("way", TEXT)
async def test_else_its_error_is_raised(way: str, fallback: Any, kit: Any):
    made = cascade(kit, strong=kit.Fake(tag="strong", fail=ConnectionError("down")), fallback=fallback)
    with pytest.raises(ConnectionError, match="down"):
        await ask(made.llm, text_ways(kit), way)


@pytest.mark.parametrize("way", TEXT)
async def test_an_error_that_will_not_pass_is_raised_whatever_may_stand_in(way: str, kit: Any):
    made = cascade(kit, strong=kit.Fake(tag="strong", fail=PermissionError("wrong key")), fallback="any")
    with pytest.raises(PermissionError, match="wrong key"):
        await ask(made.llm, text_ways(kit), way)


@pytest.mark.parametrize("way", TEXT)
async def test_a_weak_model_that_is_down_is_not_verified(way: str, kit: Any):
    made = cascade(kit, weak=kit.Fake(tag="weak", fail=ConnectionError("down")), fallback="stronger")
    with collect_decisions() as taken:
        assert text_of(await ask(made.llm, text_ways(kit), way)) == STRONG
    assert made.verifier.seen == []
    assert [(d.reason, d.fallback_from, taken.discarded_usage_of(d)) for d in taken] == [("score", "weak", None)]


@pytest.mark.parametrize("way", STREAMS)
async def test_a_weak_stream_that_breaks_unseen_can_still_be_answered_elsewhere(way: str, kit: Any):
    made = cascade(kit, weak=kit.Fake(tag="weak", fail="after"), fallback="stronger")
    assert text_of(await ask(made.llm, text_ways(kit), way)) == STRONG
    assert made.verifier.seen == []

    alone = cascade(kit, weak=kit.Fake(tag="weak", fail="after"))
    with pytest.raises(ConnectionError, match="mid-stream"):
        await ask(alone.llm, text_ways(kit), way)


@pytest.mark.parametrize(("on_error", "text"), [("strong", STRONG), ("weak", WEAK)])
@pytest.mark.parametrize("way", ["chat", "astream_complete"])
async def test_a_verifier_that_fails_counts_as_on_error_says(way: str, on_error: Any, text: str, kit: Any):
    made = cascade(kit, Says(error=ValueError("secret")), on_error=on_error)
    pieces = await ask(made.llm, text_ways(kit), way)
    assert text_of(pieces) == text
    assert records(pieces)[0]["reason"] == "scorer_error" and "secret" not in json.dumps(records(pieces))

    raising = cascade(kit, Says(error=ValueError("secret")), on_error="raise")
    with pytest.raises(ScoringError, match="failed with ValueError"):
        await ask(raising.llm, text_ways(kit), way)


# -- around it
def test_a_selector_refuses_it(kit: Any):
    with pytest.raises(ConfigurationError, match="a selector chooses before anything is answered"):
        RouteLLMSelector(policy=cascade(kit).policy)


def test_a_dump_names_the_cuts_and_does_not_come_back_as_a_router_that_verifies_nothing(kit: Any):
    made = cascade(kit)
    dump = made.llm.to_dict()
    assert dump["escalation"] == {"verifier": "Says", "escalation_threshold": 0.5, "verify_from": 0.0}
    with pytest.raises(ConfigurationError, match="restore a cascade as"):
        RouteLLM.from_dict(dump, models=made.llm.models, router=made.router)


def test_a_copy_verifies_too(kit: Any):
    made = cascade(kit)
    for copied in (made.llm.model_copy(), copy.deepcopy(made.llm)):
        assert copied.complete(kit.EASY).text == STRONG


def test_finish_reason_and_log_probabilities_are_read_where_clients_leave_them():
    def piece(text: str, delta: str, raw: Any) -> ChatResponse:
        return ChatResponse(message={"role": "assistant", "content": text}, delta=delta, raw=raw)

    def chunk(logprob: float | None, finish: str | None) -> dict[str, Any]:
        logprobs = None if logprob is None else {"content": [{"token": "x", "logprob": logprob}]}
        return {"choices": [{"logprobs": logprobs, "finish_reason": finish}]}

    stream = [
        piece("a", "a", chunk(-0.5, None)),
        piece("a b", " b", SimpleNamespace(**chunk(-0.25, "length"))),
        piece("", "", {"choices": [], "usage": {"prompt_tokens": 3}}),  # as OpenAI's counts come
    ]
    assert answer_of(stream) == Answer(text="a b", finish_reason="length", logprobs=[-0.5, -0.25])
    anthropic = piece("a", "", SimpleNamespace(stop_reason="end_turn"))
    assert answer_of([anthropic]) == Answer(text="a", finish_reason="end_turn")
    assert answer_of([piece("a", "", {"done_reason": "stop"})]) == Answer(text="a", finish_reason="stop")
    assert answer_of(["a", " b"]) == Answer(text="a b") and answer_of([]) == Answer(text="")


@pytest.mark.parametrize("way", TEXT)
async def test_over_the_wire_the_weak_model_is_asked_and_then_the_strong_one(
    way: str, kit: Any, client: Any, loopback: LoopbackOpenAI
):
    loopback.reply = lambda request: Reply(text="no idea" if request["model"] == "little" else "42 it is")
    made = cascade(kit, strong=client("big"), weak=client("little"))
    assert text_of(await ask(made.llm, text_ways(kit), way)) == "42 it is"
    assert [request["model"] for request in loopback.requests] == ["little", "big"]
    question = [request["messages"] for request in loopback.requests]
    assert question[0] == question[1] and "routellm" not in json.dumps(loopback.requests)
    answer, prompt = made.verifier.seen[0]
    assert (answer.text, prompt) == ("no idea", kit.EASY)
    assert answer.finish_reason == (None if way in ("predict", "apredict", "stream", "astream") else "stop")
