"""Instrumentation: events on the project's own dispatcher, spans, OpenTelemetry attributes."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate

from llamaindex_routellm import RoutingDecisionEvent, events, force_route


def decisions(catch: Any) -> list[dict[str, Any]]:
    return [event.decision for event in catch.seen if isinstance(event, RoutingDecisionEvent)]


def test_a_decision_is_an_event_on_the_own_dispatcher_and_on_the_root_only_on_request(kit: Any):
    own, root = kit.Catch(), kit.Catch()
    events.dispatcher.add_event_handler(own)
    get_dispatcher().add_event_handler(root)
    made = kit.pair()
    made.llm.chat([kit.user(kit.HARD)])
    assert [d["route"] for d in decisions(own)] == ["strong"] and decisions(root) == []
    assert own.seen[0].span_id.startswith("RouteLLM.chat")
    events.dispatcher.propagate = True
    made.llm.chat([kit.user(kit.EASY)])
    assert [d["route"] for d in decisions(root)] == ["weak"]
    assert [event.class_name() for event in root.seen].count("LLMChatStartEvent") == 2


def test_a_fallback_is_a_second_event(kit: Any):
    catch = kit.Catch()
    events.dispatcher.add_event_handler(catch)
    made = kit.pair(weak=kit.Fake(fail=ConnectionError("down")), fallback="any")
    made.llm.complete(kit.EASY)
    assert [(d["route"], d.get("fallback_from")) for d in decisions(catch)] == [("weak", None), ("strong", "weak")]


def test_the_spans_of_a_router_reach_handlers_on_the_root_and_hold_the_backends(kit: Any):
    handler = SimpleSpanHandler()
    get_dispatcher().add_span_handler(handler)
    made = kit.pair()
    made.llm.chat([kit.user(kit.HARD)])
    made.llm.chat_with_tools([kit.ADD], user_msg=kit.HARD)
    spans = {span.id_.split("-")[0]: span for span in handler.completed_spans if isinstance(span, SimpleSpan)}
    assert {"RouteLLM.chat", "Fake.chat", "RouteLLM.chat_with_tools"} <= set(spans)
    parents = {span.parent_id.split("-")[0] for span in handler.completed_spans if span.id_.startswith("Fake.chat-")}
    assert parents == {"RouteLLM.chat", "RouteLLM.chat_with_tools"}


def test_the_dispatcher_of_the_router_still_propagates_to_tracers():
    # a dispatcher named after the package would be its parent, and ours does not propagate
    assert get_dispatcher("llamaindex_routellm.llm").parent.name == "root"
    assert get_dispatcher("llamaindex_routellm.llm").propagate and not events.dispatcher.propagate


@pytest.fixture
def span() -> Any:
    trace = pytest.importorskip("opentelemetry.trace")

    class Recording(trace.NonRecordingSpan):  # the SDK is not needed to see what is set
        def __init__(self) -> None:
            super().__init__(trace.INVALID_SPAN_CONTEXT)
            self.recording = True
            self.attributes: dict[str, Any] = {}

        def is_recording(self) -> bool:
            return self.recording

        def set_attribute(self, key: str, value: Any) -> None:
            self.attributes[key] = value

    return Recording()


@pytest.fixture
def inside(span: Any) -> Any:
    from opentelemetry import trace

    return lambda: trace.use_span(span)


def test_the_current_span_carries_the_record(kit: Any, span: Any, inside: Any):
    with inside():
        record = kit.pair().llm.complete(kit.EASY).additional_kwargs["routellm"]
    assert span.attributes == {f"routellm.{name}": value for name, value in record.items()}
    assert set(record) == {"route", "reason", "win_rate", "threshold", "router", "scorer_ms"}


def test_a_router_that_fails_says_so_on_the_span(kit: Any, span: Any, inside: Any):
    with inside():
        kit.pair(kit.ScriptedRouter(error=RuntimeError("boom"))).llm.complete(kit.EASY)
    assert (span.attributes["routellm.reason"], span.attributes["routellm.error"]) == (
        "scorer_error",
        "ScoringError: router 'scripted' failed with RuntimeError",
    )


def test_a_span_that_does_not_record_is_left_alone(kit: Any, span: Any, inside: Any):
    span.recording = False
    with inside():
        kit.pair().llm.complete(kit.EASY)
    assert span.attributes == {}


def test_an_attribute_that_nobody_knows_is_absent(kit: Any, span: Any, inside: Any):
    with inside(), force_route("strong"):
        kit.pair().llm.complete(kit.EASY)
    assert span.attributes == {"routellm.route": "strong", "routellm.reason": "forced"}


async def test_a_stream_that_falls_back_corrects_the_span_of_its_call(kit: Any, span: Any, inside: Any):
    made = kit.pair(weak=kit.Fake(fail=ConnectionError("down")), fallback="any")
    with inside():
        stream = made.llm.stream_chat([kit.user(kit.EASY)])
        asynchronous = await made.llm.astream_chat([kit.user(kit.EASY)])
    assert span.attributes["routellm.route"] == "weak"
    assert list(stream) and span.attributes["routellm.route"] == "strong"
    assert span.attributes["routellm.fallback_from"] == "weak"
    assert [item async for item in asynchronous]


# -- routers inside routers
async def test_each_router_emits_its_own_decision_and_says_which_routes_are_around_it(kit: Any):
    catch = kit.Catch()
    events.dispatcher.add_event_handler(catch)
    innermost = kit.pair(0.9)
    inner = kit.pair(0.1, weak=innermost.llm)
    outer = kit.pair(0.9, strong=inner.llm)
    want = [("strong", []), ("weak", ["strong"]), ("strong", ["strong", "weak"])]
    for ask in (
        lambda: outer.llm.complete(kit.EASY),
        lambda: list(outer.llm.stream_chat([kit.user(kit.EASY)])),
        lambda: outer.llm.predict(PromptTemplate("{query_str}"), query_str=kit.EASY),
    ):
        catch.seen.clear()
        ask()
        assert [(e.decision["route"], e.outer) for e in catch.seen if isinstance(e, RoutingDecisionEvent)] == want
    catch.seen.clear()
    last = [item async for item in await outer.llm.astream_chat([kit.user(kit.EASY)])][-1]
    assert [(e.decision["route"], e.outer) for e in catch.seen if isinstance(e, RoutingDecisionEvent)] == want
    record = last.additional_kwargs["routellm"]
    assert [r["route"] for r in (record, record["inner"], record["inner"]["inner"])] == ["strong", "weak", "strong"]


def test_on_a_span_that_routers_share_the_outer_one_is_shown(kit: Any, span: Any, inside: Any):
    outer = kit.pair(0.1, weak=kit.pair(0.9).llm)
    with inside():
        outer.llm.complete(kit.EASY)
    assert (span.attributes["routellm.route"], span.attributes["routellm.win_rate"]) == ("weak", 0.1)


def test_without_opentelemetry_calls_go_on(kit: Any, monkeypatch: Any):
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    events._trace.cache_clear()
    try:
        assert kit.pair().llm.complete(kit.EASY).text.startswith("weak")
    finally:
        events._trace.cache_clear()
