"""What the answers took: `collect_decisions()` around anything that calls a router prices it."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.llms import ChatResponse, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import QueryEngineTool
from pydantic import BaseModel

from llamaindex_routellm._open_calls import _source, usage_of
from routellm_core import collect_decisions
from routellm_core.testing import Reply, ToolCall
from routellm_core.types import Usage

CALL = Usage(input_tokens=11, output_tokens=7)  # what the fake reports for each call
PROMPT = PromptTemplate("{context_str} {query_str}")


class Out(BaseModel):
    answer: str


async def read(out: Any) -> Any:
    if inspect.isawaitable(out):
        out = await out
    if hasattr(out, "__aiter__"):
        return [item async for item in out]
    return list(out) if hasattr(out, "__next__") else out


def ways(llm: Any, kit: Any) -> dict[str, Any]:
    """Every method that answers, by name."""
    messages, arguments = [kit.user(kit.EASY)], {"context_str": "c", "query_str": kit.EASY}
    calls: dict[str, Any] = {}
    for prefix in ("", "a", "stream_", "astream_"):
        calls[f"{prefix}chat"] = (messages,), {}
        calls[f"{prefix}complete"] = (kit.EASY,), {}
        calls[f"{prefix}chat_with_tools"] = ([kit.ADD],), {"user_msg": kit.EASY}
        calls[f"{prefix}structured_predict"] = (Out, PROMPT), arguments
    for name in ("predict", "apredict", "stream", "astream"):
        calls[name] = (PROMPT,), arguments
    for name in ("predict_and_call", "apredict_and_call"):
        calls[name] = ([kit.LOOK],), {"user_msg": kit.EASY}
    return {name: (lambda n=name, a=a, k=k: getattr(llm, n)(*a, **k)) for name, (a, k) in calls.items()}


WAYS = sorted(ways(None, SimpleNamespace(EASY="", ADD=None, LOOK=None, user=lambda text: text)))


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_of_asking_tells_the_collectors_what_the_backend_counted(way: str, kit: Any):
    made = kit.pair()
    with collect_decisions() as taken:
        await read(ways(made.llm, kit)[way]())
    assert len(taken) == 1 and taken.usage_of(taken[0]) == CALL
    assert way in WAYS and len(WAYS) == 22


@pytest.mark.parametrize("way", WAYS)
async def test_of_nested_routers_the_one_that_asks_the_model_has_the_tokens(way: str, kit: Any):
    inner = kit.pair(0.9)
    outer = kit.pair(0.1, weak=inner.llm)
    with collect_decisions() as taken:
        await read(ways(outer.llm, kit)[way]())
    # in which order they settle is the reader's: each router once, and the tokens once
    assert sorted(d.route for d in taken) == ["strong", "weak"]
    assert {d.route: taken.usage_of(d) for d in taken} == {"strong": CALL, "weak": None}


def test_a_query_engine_is_priced_by_what_its_calls_took(kit: Any):
    made = kit.pair()
    index = SummaryIndex.from_documents(
        [Document(text=f"{kit.CONTEXT} {i}") for i in range(3)], embed_model=MockEmbedding(8)
    )
    engine = index.as_query_engine(llm=made.llm, response_mode="refine")
    with collect_decisions() as taken:
        engine.query(kit.EASY)
        engine.query(kit.HARD)
    saving = taken.saving({"weak": (1.0, 10.0), "strong": (10.0, 100.0)})
    # three calls of 11 tokens in and 7 out each way: 3 * (11 * 1 + 7 * 10) = 243 and 3 * (110 + 700) = 2430 millionths
    assert saving.usd == pytest.approx((243 + 2430) / 1e6) and saving.all_strong_usd == pytest.approx(2 * 2430 / 1e6)
    assert (saving.answers, saving.without_usage) == (6, 0)


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agents_steps_and_its_tools_own_queries_are_counted_apart(streaming: bool, kit: Any):
    made = kit.pair()
    made.weak.script = [kit.call("rag", {"input": kit.HARD}), "done"]
    index = SummaryIndex.from_documents([Document(text="x")], embed_model=MockEmbedding(8))
    rag = QueryEngineTool.from_defaults(index.as_query_engine(llm=made.llm), name="rag", description="d")
    agent = FunctionAgent(tools=[rag], llm=made.llm, streaming=streaming)
    with collect_decisions() as taken:
        await agent.run(kit.EASY, memory=ChatMemoryBuffer.from_defaults(token_limit=10**6))
    assert [(d.route, taken.usage_of(d)) for d in taken] == [("weak", CALL), ("strong", CALL), ("weak", CALL)]


async def test_a_tool_that_asks_the_router_inside_predict_and_call_keeps_its_own_tokens(kit: Any):
    made = kit.pair()
    made.weak.script = [kit.call("rag", {"input": kit.HARD})]
    index = SummaryIndex.from_documents([Document(text="x")], embed_model=MockEmbedding(8))
    rag = QueryEngineTool.from_defaults(index.as_query_engine(llm=made.llm), name="rag", description="d")
    with collect_decisions() as taken:
        made.llm.predict_and_call([rag], user_msg=kit.EASY)
    assert {(d.route, taken.usage_of(d)) for d in taken} == {("weak", CALL), ("strong", CALL)} and len(taken) == 2


def test_calls_made_within_one_answer_are_added(kit: Any):
    class Steps(kit.Fake):
        def predict_and_call(self, *args: Any, **kwargs: Any) -> Any:  # as one that reasons in prompts
            self.chat([kit.user("a step")])
            return str(self.complete("another"))

    made = kit.pair(weak=Steps(tag="weak"))
    with collect_decisions() as taken:
        made.llm.predict_and_call([kit.LOOK], user_msg=kit.EASY)
    assert taken.usage_of(taken[0]) == Usage(input_tokens=22, output_tokens=14)


def test_what_a_route_that_failed_took_is_not_the_answers(kit: Any):
    class Late(kit.Fake):
        def predict_and_call(self, *args: Any, **kwargs: Any) -> Any:
            self.chat([kit.user("a step")])
            raise ConnectionError("down")

    made = kit.pair(weak=Late(tag="weak"), fallback="any")
    with collect_decisions() as taken:
        made.llm.predict_and_call([kit.LOOK], user_msg=kit.EASY)
    assert [(d.route, taken.usage_of(d)) for d in taken] == [("strong", CALL)]


def test_an_llm_that_reports_one_call_twice_is_counted_once(kit: Any):
    class Local(CustomLLM):  # its chat is decorated, and the completion it is made of as well
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(is_chat_model=True)

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text="a", raw={"usage": {"prompt_tokens": 11, "completion_tokens": 7}})

        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            yield self.complete(prompt)

    made = kit.pair(weak=Local())
    with collect_decisions() as taken:
        made.llm.predict(PROMPT, context_str="c", query_str=kit.EASY)
        made.llm.chat([kit.user(kit.EASY)])
    assert [taken.usage_of(d) for d in taken] == [CALL, CALL]


async def test_streams_read_at_the_same_time_and_elsewhere_keep_their_counts_apart(kit: Any):
    made = kit.pair()
    with collect_decisions() as taken:
        weak = made.llm.stream(PROMPT, context_str="c", query_str=kit.EASY)
        strong = await made.llm.astream(PROMPT, context_str="c", query_str=kit.HARD)
    for _ in range(3):  # in turns, and after the scope was left
        next(weak, None)
        await anext(strong, None)
    assert list(weak) == [] and [item async for item in strong] == []
    assert {d.route: taken.usage_of(d) for d in taken} == {"weak": CALL, "strong": CALL}


def test_a_stream_left_early_has_the_count_that_was_seen(kit: Any):
    made = kit.pair()
    with collect_decisions() as taken:
        chunks = made.llm.stream_chat([kit.user(kit.EASY)])
        next(chunks)
        chunks.close()
        tokens = made.llm.stream(PROMPT, context_str="c", query_str=kit.EASY)
        next(tokens)
        tokens.close()
    # the fake reports with every piece, but a stream of text only once it has ended
    assert [taken.usage_of(d) for d in taken] == [CALL, None]


async def test_an_empty_piece_at_the_end_of_a_stream_does_not_hide_the_count(kit: Any):
    class Trailing(kit.Fake):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            yield ChatResponse(message=kit.assistant("a"), delta="a", raw=self._usage())
            yield ChatResponse(message=kit.assistant("a"), delta="", raw=None)

        async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
            async def read() -> Any:
                for item in self.stream_chat(messages):
                    yield item

            return read()

    made = kit.pair(weak=Trailing(tag="weak"))
    with collect_decisions() as taken:
        list(made.llm.stream_chat([kit.user(kit.EASY)]))
        [item async for item in await made.llm.astream_chat([kit.user(kit.EASY)])]
    assert [taken.usage_of(d) for d in taken] == [CALL, CALL]


def test_nobody_listens_until_somebody_collects(kit: Any, monkeypatch: Any):
    monkeypatch.setattr(_source, "event_handlers", [])
    made = kit.pair()
    made.llm.predict(PROMPT, context_str="c", query_str=kit.EASY)
    assert _source.event_handlers == []
    for _ in range(2):
        with collect_decisions():
            made.llm.predict(PROMPT, context_str="c", query_str=kit.EASY)
    assert len(_source.event_handlers) == 1


def test_a_backend_that_does_not_count_leaves_the_answer_without_usage(kit: Any):
    made = kit.pair(weak=MockLLM())
    with collect_decisions() as taken:
        made.llm.complete(kit.EASY)
        made.llm.predict(PROMPT, context_str="c", query_str=kit.EASY)
    assert [taken.usage_of(d) for d in taken] == [None, None]
    assert taken.saving({"weak": (1, 1), "strong": (2, 2)}).without_usage == 2


@pytest.mark.parametrize(
    ("raw", "extra"),
    [
        ({"usage": {"prompt_tokens": 11, "completion_tokens": 7}}, {}),  # OpenAI as a dict
        (SimpleNamespace(usage=SimpleNamespace(prompt_tokens=11, completion_tokens=7)), {}),  # its objects
        ({"usage": SimpleNamespace(input_tokens=11, output_tokens=7)}, {}),  # Anthropic
        ({"usage_metadata": {"prompt_token_count": 11, "candidates_token_count": 7}}, {}),  # Gemini
        ({"prompt_eval_count": 11, "eval_count": 7}, {}),  # Ollama itself
        (None, {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}),  # OpenAI's integration
        ({"usage": None}, {"prompt_tokens": 11, "completion_tokens": 7}),  # a chunk of a stream
    ],
)
def test_token_counts_are_found_wherever_an_integration_leaves_them(raw: Any, extra: dict[str, Any], kit: Any):
    assert usage_of(ChatResponse(message=kit.assistant("a"), raw=raw, additional_kwargs=extra)) == CALL
    assert usage_of(CompletionResponse(text="a", raw=raw, additional_kwargs=extra)) == CALL


@pytest.mark.parametrize("raw", [None, {}, {"usage": {}}, {"usage": {"prompt_tokens": 0}}, {"usage": 3}, "text", [1]])
def test_counts_that_are_none_are_none(raw: Any, kit: Any):
    assert usage_of(ChatResponse(message=kit.assistant("a"), raw=raw)) is None


async def test_a_real_clients_counts_reach_the_collectors(kit: Any, client: Any, loopback: Any):
    made = kit.pair(
        strong=client("big"), weak=client("little", additional_kwargs={"stream_options": {"include_usage": True}})
    )
    with collect_decisions() as taken:
        raw = made.llm.chat([kit.user(kit.EASY)]).raw.usage
        await made.llm.apredict(PROMPT, context_str="c", query_str=kit.EASY)
        list(made.llm.stream_chat([kit.user(kit.EASY)]))
        [item async for item in await made.llm.astream(PROMPT, context_str="c", query_str=kit.EASY)]
    counts = [taken.usage_of(d) for d in taken]
    assert counts[0] == Usage(input_tokens=raw.prompt_tokens, output_tokens=raw.completion_tokens)
    assert len(counts) == 4 and all(usage is not None and usage.output_tokens > 0 for usage in counts)
    loopback.reply = lambda request: Reply(tool_calls=(ToolCall(name="Out", arguments={"answer": "x"}),))
    with collect_decisions() as taken:
        made.llm.structured_predict(Out, PROMPT, context_str="c", query_str=kit.EASY)
    assert taken.usage_of(taken[0]) is not None


async def test_a_react_agent_is_priced_step_by_step(kit: Any):
    made = kit.pair()
    made.weak.script = ['Thought: I need it.\nAction: look\nAction Input: {"q": "x"}', "Thought: I can.\nAnswer: done"]
    with collect_decisions() as taken:
        agent = ReActAgent(tools=[kit.LOOK], llm=made.llm)
        await agent.run(kit.EASY, memory=ChatMemoryBuffer.from_defaults(token_limit=10**6))
    assert [taken.usage_of(d) for d in taken] == [CALL, CALL]
