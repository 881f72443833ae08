"""Tracers see one routed span a call, with the record on it, and the backend's span with the tokens inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, MockEmbedding, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate

from llamaindex_routellm import RouteLLM
from llamaindex_routellm.testing import ENDPOINTS
from routellm_core import CostAwarePolicy, collect_decisions
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall, ends_in_tool_result

exporters = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

Spans = Callable[[], list[Any]]


def instrumentor(provider: Any, exporter: Any) -> Callable[[], None]:
    made = pytest.importorskip("openinference.instrumentation.llama_index").LlamaIndexInstrumentor()
    made.instrument(tracer_provider=provider)
    if not made.is_instrumented_by_opentelemetry:
        pytest.skip("this openinference does not instrument so old a llama-index-core")
    return made.uninstrument


def llamaindex_otel(provider: Any, exporter: Any) -> Callable[[], None]:
    otel = pytest.importorskip("llama_index.observability.otel")
    # the handlers are put back after each test
    otel.LlamaIndexOpenTelemetry(
        tracer_provider=provider, span_exporter=exporter, span_processor="simple"
    ).start_registering()
    return lambda: None


@pytest.fixture(params=[instrumentor, llamaindex_otel], ids=["openinference", "llamaindex-otel"])
def finished(request: Any, monkeypatch: Any) -> Iterator[Spans]:
    """The spans that ended so far, in the order in which they began."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter, provider = exporters.InMemorySpanExporter(), TracerProvider()
    # that of the process can be set but once
    monkeypatch.setattr(trace, "set_tracer_provider", lambda provider: None)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    if request.param is instrumentor:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    undo = request.param(provider, exporter)
    yield lambda: sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    undo()
    provider.shutdown()


@pytest.fixture
def by_llamaindex(request: Any, finished: Spans) -> bool:
    return bool(request.node.callspec.params["finished"] is llamaindex_otel)


def is_of(span: Any, name: str) -> bool:
    return span.name.startswith(f"{name}.")


def tokens(span: Any) -> int:
    """Of a span's attributes or events: how many tokens the answer took, as the server counted."""
    places = [dict(span.attributes), *(dict(event.attributes) for event in span.events)]
    found = [
        value
        for place in places
        for name, value in place.items()
        if name == "llm.token_count.completion" or name.endswith("usage.completion_tokens")
    ]
    return int(found[-1]) if found else 0


def recorded(span: Any) -> dict[str, Any]:
    return {k.removeprefix("routellm."): v for k, v in span.attributes.items() if k.startswith("routellm.")}


@pytest.fixture
def llm(kit: Any, client: Any) -> Any:
    words = {"additional_kwargs": {"stream_options": {"include_usage": True}}}
    return kit.pair(strong=client("big", **words), weak=client("little", **words)).llm


async def read(out: Any) -> None:
    if inspect.isawaitable(out):
        out = await out
    if hasattr(out, "__aiter__"):
        assert [item async for item in out]
    elif hasattr(out, "__next__"):
        assert list(out)


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, "predict", "apredict", "stream", "astream"])
async def test_a_call_is_one_routed_span_with_its_backends_inside(
    endpoint: str, llm: Any, finished: Spans, by_llamaindex: bool, kit: Any
):
    asked: Any = [kit.user(kit.HARD)] if "chat" in endpoint else kit.HARD
    words = {}
    if endpoint in ("predict", "apredict", "stream", "astream"):
        asked, words = PromptTemplate("{query_str}"), {"query_str": kit.HARD}
    with collect_decisions() as decisions:
        await read(getattr(llm, endpoint)(asked, **words))
    spans = finished()
    [own] = [span for span in spans if is_of(span, "RouteLLM")]
    assert own.name == f"RouteLLM.{endpoint}"
    assert recorded(own) == decisions[0].to_dict()
    assert recorded(own)["route"] == "strong"
    inside = [span for span in spans if is_of(span, "OpenAILike")]
    outermost = [span for span in inside if span.parent and span.parent.span_id == own.context.span_id]
    assert len(outermost) == 1
    assert [span for span in inside if recorded(span)] == []
    assert tokens(own) == 0
    counted = [count for count in map(tokens, inside) if count]
    # a tracer that ends a stream's span before its last piece has no tokens of the bare backend either
    await read(getattr(llm.models["strong"], endpoint)(asked, **words))
    assert counted == [count for count in map(tokens, finished()[len(spans) :]) if count]
    if "stream" not in endpoint or not by_llamaindex:
        usage = decisions.usage_of(decisions[0])
        assert usage is not None
        assert counted == [usage.output_tokens]


async def test_qualities_are_numbers_on_the_span(finished: Spans, kit: Any, client: Any):
    # a mapping is no attribute: a tracer would drop it with a warning
    class TwoModels(ScriptedRouter):
        models = ("little", "big")

        def model_scores(self, prompts: Any) -> Any:
            return np.tile([0.25, 0.75], (len(prompts), 1))

    models = {name: client(name) for name in ("little", "big")}
    policy = CostAwarePolicy(TwoModels(), costs_usd={"little": 0.001, "big": 0.01}, tradeoff=0.0)
    await read(RouteLLM(models=models, policy=policy).chat([kit.user(kit.EASY)]))
    [own] = [span for span in finished() if is_of(span, "RouteLLM")]
    found = recorded(own)
    assert (found["route"], found["qualities.little"], found["qualities.big"]) == ("big", 0.25, 0.75)


async def test_a_fallback_is_seen_on_the_span_of_its_call(
    llm: Any, finished: Spans, kit: Any, client: Any, loopback: LoopbackOpenAI
):
    loopback.reply = lambda body: Reply(status=503) if body["model"] == "little" else Reply(text="here I am")
    routed = kit.pair(strong=client("big"), weak=client("little"), fallback="stronger").llm
    await read(routed.chat([kit.user(kit.EASY)]))
    await read(routed.achat([kit.user(kit.EASY)]))
    own = [recorded(span) for span in finished() if is_of(span, "RouteLLM")]
    assert [(record["route"], record["fallback_from"]) for record in own] == [("strong", "weak")] * 2


async def test_each_step_of_an_agent_and_each_query_has_a_span_with_its_record(
    llm: Any, finished: Spans, kit: Any, loopback: LoopbackOpenAI
):
    def reply(body: dict[str, Any]) -> Reply:
        if not body.get("tools") or ends_in_tool_result(body):
            return Reply(text="done")
        return Reply(tool_calls=(ToolCall(name="look", arguments={"q": "x"}),))

    loopback.reply = reply
    memory = ChatMemoryBuffer.from_defaults(token_limit=10**6)
    await FunctionAgent(tools=[kit.LOOK], llm=llm).run(kit.EASY, memory=memory)
    index = SummaryIndex.from_documents([Document(text=kit.CONTEXT)], embed_model=MockEmbedding(8))
    index.as_query_engine(llm=llm).query(kit.HARD)
    spans = finished()
    own = [span for span in spans if is_of(span, "RouteLLM")]
    assert [(span.name, recorded(span)["route"], recorded(span)["reason"]) for span in own] == [
        ("RouteLLM.astream_chat_with_tools", "weak", "score"),
        ("RouteLLM.astream_chat_with_tools", "weak", "tool_loop"),
        ("RouteLLM.predict", "strong", "score"),
    ]
    assert [span.name for span in spans if recorded(span) and span not in own] == []
    by_id = {span.context.span_id: span for span in spans}
    query = by_id[own[2].parent.span_id]
    while query.parent is not None:
        query = by_id[query.parent.span_id]
    assert "QueryEngine.query" in query.name


async def test_no_question_is_on_the_routed_attributes(llm: Any, finished: Spans, kit: Any):
    await read(llm.achat([kit.user(kit.HARD)]))
    [own] = [span for span in finished() if is_of(span, "RouteLLM")]
    assert recorded(own)
    assert kit.HARD not in str(recorded(own))
