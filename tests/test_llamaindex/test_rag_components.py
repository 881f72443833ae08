"""The parts of LlamaIndex that call an LLM around a question: what of each call is scored."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.extractors import SummaryExtractor, TitleExtractor
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector, PydanticSingleSelector
from pydantic import BaseModel, ValidationError

from llamaindex_routellm import SynthesisQueryTracker, force_route, pinned, query_scope
from llamaindex_routellm._scopes import query_stack
from routellm_core import collect_decisions

MODES = [mode for mode in ResponseMode if mode.value not in ("no_text", "context_only")]
ONE_ANSWER = [mode for mode in MODES if mode.value not in ("accumulate", "compact_accumulate")]
# these answer through a program, whatever `output_cls` says of the others
OBJECTS = [m for m in MODES if m.value in ("refine", "compact", "tree_summarize", "simple_summarize")]


class Out(BaseModel):
    answer: str


@pytest.fixture
def index(kit: Any, monkeypatch: Any) -> Any:
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(8))

    def make(kind: Any = SummaryIndex, n: int = 3) -> Any:
        documents = [Document(text=f"{kit.CONTEXT} chunk {i}") for i in range(n)]
        return kind.from_documents(documents, embed_model=MockEmbedding(8))

    return make


def scored(made: Any) -> set[str]:
    return {text for prompts in made.router.calls for text in prompts}


# -- structured answers in every mode
@pytest.mark.parametrize("how", ["query", "aquery"])
@pytest.mark.parametrize("mode", OBJECTS, ids=lambda mode: mode.value)
async def test_an_output_class_on_the_engine_keeps_the_question(mode: Any, how: str, index: Any, kit: Any):
    made = kit.pair()
    answer = getattr(index().as_query_engine(llm=made.llm, output_cls=Out, response_mode=mode), how)(kit.EASY)
    answer = await answer if inspect.isawaitable(answer) else answer
    assert "weak" in str(answer) and scored(made) == {kit.EASY} and made.strong.hits == 0


@pytest.mark.parametrize("how", ["query", "aquery"])
@pytest.mark.parametrize("mode", ONE_ANSWER, ids=lambda mode: mode.value)
async def test_a_structured_llm_keeps_the_question_in_every_mode(mode: Any, how: str, index: Any, kit: Any):
    made = kit.pair()
    engine = index().as_query_engine(llm=made.llm.as_structured_llm(Out), response_mode=mode)
    answer = getattr(engine, how)(kit.EASY)
    answer = await answer if inspect.isawaitable(answer) else answer
    assert "answer by weak" in str(answer.response) and scored(made) == {kit.EASY}


def test_where_an_engine_cannot_give_an_object_it_fails_as_with_the_bare_backend(index: Any, kit: Any):
    # upstream parses the joined answers of the accumulating modes, and the generator of a stream, as one object
    made = kit.pair()
    for options in ({"response_mode": "accumulate"}, {"response_mode": "compact", "streaming": True}):
        for llm in (made.weak.as_structured_llm(Out), made.llm.as_structured_llm(Out)):
            with pytest.raises(ValidationError, match="1 validation error for Out"):
                index().as_query_engine(llm=llm, **options).query(kit.EASY)


# -- scopes
def test_a_pin_keeps_a_chain_together_whose_router_changes_its_mind(index: Any, kit: Any):
    for scope, routes in ((pinned, ["weak"] * 4), (lambda: force_route("strong"), ["strong"] * 4), (None, None)):
        rates = iter([0.1, 0.9, 0.1, 0.9])
        made = kit.pair(lambda text, rates=rates: next(rates))
        engine = index(n=4).as_query_engine(llm=made.llm, response_mode="refine")
        with collect_decisions() as taken:
            if scope is None:
                engine.query(kit.EASY)
            else:
                with scope():
                    engine.query(kit.EASY)
        assert [d.route for d in taken] == (routes or ["weak", "strong", "weak", "strong"])


def test_a_streamed_answer_that_is_read_outside_a_scope_may_have_lost_it(index: Any, kit: Any):
    made = kit.pair()
    engine = index(n=1).as_query_engine(llm=made.llm, response_mode="compact", streaming=True)
    with force_route("strong"):
        answer = engine.query(kit.EASY)
    text = "".join(answer.response_gen)
    # from 0.14.23 on (when to_payload came) refine and compact call the LLM only when they are read
    assert ("weak" if hasattr(made.strong, "to_payload") else "strong") in text


# -- the tracker
@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_the_tracker_finds_the_query_of_programs_that_fill_templates_themselves(how: str, index: Any, kit: Any):
    get_dispatcher().add_event_handler(SynthesisQueryTracker())
    made = kit.pair()
    synthesizer = get_response_synthesizer(
        llm=made.llm, response_mode=ResponseMode.REFINE, structured_answer_filtering=True
    )
    answer = getattr(index().as_query_engine(llm=made.llm, response_synthesizer=synthesizer), how)(kit.EASY)
    _ = await answer if inspect.isawaitable(answer) else answer
    assert scored(made) == {kit.EASY} and made.strong.hits == 0 and query_stack.get() == ()


async def test_the_tracker_keeps_queries_at_the_same_time_apart(index: Any, kit: Any):
    get_dispatcher().add_event_handler(SynthesisQueryTracker())
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    synthesizer = get_response_synthesizer(
        llm=made.llm, response_mode=ResponseMode.REFINE, structured_answer_filtering=True
    )
    engine = index().as_query_engine(llm=made.llm, response_synthesizer=synthesizer)
    asked = [f"{text} number {i}" for i in range(4) for text in (kit.EASY, kit.HARD)]
    await asyncio.gather(*(engine.aquery(text) for text in asked))
    assert scored(made) == set(asked) and query_stack.get() == ()


async def test_the_tracker_forgets_a_query_that_failed_while_it_was_awaited(index: Any, kit: Any):
    get_dispatcher().add_event_handler(SynthesisQueryTracker())
    made = kit.pair(weak=kit.Fake(fail=ConnectionError("down")))
    with pytest.raises(ConnectionError):
        await index().as_query_engine(llm=made.llm).aquery(kit.EASY)
    made.weak.fail = None
    made.llm.complete(kit.HARD)
    assert made.router.calls[-1] == [kit.HARD]


# -- other components
def test_a_citation_engine_is_scored_on_the_question(index: Any, kit: Any):
    made = kit.pair()
    engine = CitationQueryEngine.from_args(index(VectorStoreIndex), llm=made.llm, similarity_top_k=2)
    assert "weak" in str(engine.query(kit.EASY)) and scored(made) == {kit.EASY}


def test_a_reranker_is_scored_on_the_question(kit: Any):
    made = kit.pair()
    made.weak.script = ["Doc: 1, Relevance: 7"]
    nodes = [NodeWithScore(node=TextNode(text=kit.CONTEXT), score=1.0)]
    ranked = LLMRerank(llm=made.llm, top_n=1).postprocess_nodes(nodes, query_bundle=QueryBundle(kit.EASY))
    assert len(ranked) == 1 and scored(made) == {kit.EASY}


@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_a_selector_that_asks_an_llm_is_scored_on_the_question(selector: Any, kit: Any):
    made = kit.pair()
    made.weak.script = ['[{"choice": 1, "reason": "r"}]'] * 2
    chooser = selector.from_defaults(llm=made.llm)
    chooser.select(["Prove things", "Tell the time"], kit.EASY)
    await chooser.aselect(["Prove things", "Tell the time"], kit.EASY)
    assert scored(made) == {kit.EASY} and made.strong.hits == 0


def test_a_pydantic_selector_is_scored_on_its_whole_prompt_unless_a_scope_says_otherwise(kit: Any):
    made = kit.pair()
    made.weak.script = made.strong.script = []
    chooser = PydanticSingleSelector.from_defaults(llm=made.llm)
    for scope in (None, query_scope(kit.EASY)):
        try:
            if scope is None:
                chooser.select(["Prove things", "Tell the time"], kit.EASY)
            else:
                with scope:
                    chooser.select(["Prove things", "Tell the time"], kit.EASY)
        except Exception:  # noqa: BLE001, S110 - the fake's arguments are no selection; what was scored is looked at
            pass
    whole, alone = (texts[0] for texts in made.router.calls)
    assert len(whole) > len(kit.EASY) and "Prove things" in whole and alone == kit.EASY
    assert (made.strong.hits, made.weak.hits) == (1, 1)


async def test_evaluators_are_scored_on_the_statement_or_question_under_test(kit: Any):
    made = kit.pair()
    made.weak.script = ["YES"] * 2
    statement = "The old town of Bern keeps good time."
    passed = await FaithfulnessEvaluator(llm=made.llm).aevaluate(response=statement, contexts=[kit.CONTEXT])
    assert passed.passing and scored(made) == {statement}
    await RelevancyEvaluator(llm=made.llm).aevaluate(query=kit.EASY, response="x", contexts=[kit.CONTEXT])
    assert kit.EASY in list(scored(made) - {statement})[0] and made.strong.hits == 0


async def test_rewriting_and_extraction_are_scored_on_their_filled_prompts(index: Any, kit: Any):
    made = kit.pair()
    HyDEQueryTransform(llm=made.llm).run(kit.EASY)
    [[hyde]] = made.router.calls
    assert kit.EASY in hyde and len(hyde) > len(kit.EASY)
    made.router.calls.clear()
    fusion = QueryFusionRetriever(
        [index(VectorStoreIndex).as_retriever()], llm=made.llm, num_queries=2, mode=FUSION_MODES.SIMPLE, use_async=False
    )
    fusion.retrieve(kit.EASY)
    await fusion.aretrieve(kit.EASY)
    assert [kit.EASY in texts[0] and len(texts[0]) > len(kit.EASY) for texts in made.router.calls] == [True, True]
    made.router.calls.clear()
    # extractors show the document: better give them a plain LLM
    for extractor in (
        TitleExtractor(llm=made.llm, show_progress=False),
        SummaryExtractor(llm=made.llm, show_progress=False),
    ):
        await extractor.aextract([TextNode(text=kit.CONTEXT)])
    assert made.router.calls and all(
        "archive was catalogued" in t[0] or "answer here" in t[0] for t in made.router.calls
    )


async def test_a_template_bound_early_is_scored_on_its_question_by_every_twin(kit: Any):
    made = kit.pair()
    prompt = PromptTemplate("{context_str} {query_str}").partial_format(query_str=kit.EASY)
    made.llm.predict(prompt, context_str=kit.CONTEXT)
    await made.llm.apredict(prompt, context_str=kit.CONTEXT)
    list(made.llm.stream(prompt, context_str=kit.CONTEXT))
    [token async for token in await made.llm.astream(prompt, context_str=kit.CONTEXT)]
    made.llm.structured_predict(Out, prompt, context_str=kit.CONTEXT)
    assert made.router.calls == [[kit.EASY]] * 5
