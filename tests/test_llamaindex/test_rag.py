"""Query and chat engines: the question is scored, never the context packed around it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate, SelectorPromptTemplate
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM, SynthesisQueryTracker, force_route
from llamaindex_routellm._scopes import query_stack
from routellm_core import collect_decisions

MODES = [mode for mode in ResponseMode if mode.value not in ("no_text", "context_only")]
STREAMING = [mode for mode in MODES if mode.value not in ("accumulate", "compact_accumulate")]


class Out(BaseModel):
    answer: str


@pytest.fixture
def index(kit: Any) -> Any:
    def make(kind: Any = SummaryIndex, n: int = 3) -> Any:
        documents = [Document(text=f"{kit.CONTEXT} chunk {i}") for i in range(n)]
        return kind.from_documents(documents, embed_model=MockEmbedding(8))

    return make


@pytest.fixture(autouse=True)
def offline_embedding(monkeypatch: Any) -> None:
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(8))


def routes(decisions: Any) -> set[str]:
    return {decision.route for decision in decisions}


# -- response modes
@pytest.mark.parametrize("kind", [SummaryIndex, VectorStoreIndex])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_every_response_mode_scores_the_question(mode: Any, kind: Any, index: Any, kit: Any):
    for text, route in ((kit.EASY, "weak"), (kit.HARD, "strong")):
        made = kit.pair()
        with collect_decisions() as taken:
            answer = index(kind).as_query_engine(llm=made.llm, response_mode=mode).query(text)
        assert route in str(answer) and routes(taken) == {route}
        assert {text for prompts in made.router.calls for text in prompts} == {text}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
async def test_every_response_mode_scores_the_question_when_awaited(mode: Any, index: Any, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    with collect_decisions() as taken:
        answer = await index().as_query_engine(llm=made.llm, response_mode=mode).aquery(kit.EASY)
    assert "weak" in str(answer) and routes(taken) == {"weak"}


@pytest.mark.parametrize("mode", STREAMING, ids=lambda mode: mode.value)
def test_every_streaming_response_mode_scores_the_question(mode: Any, index: Any, kit: Any):
    made = kit.pair()
    with collect_decisions() as taken:
        answer = index().as_query_engine(llm=made.llm, response_mode=mode, streaming=True).query(kit.EASY)
        text = "".join(answer.response_gen)
    assert "weak" in text and routes(taken) == {"weak"}


@pytest.mark.parametrize("mode", STREAMING, ids=lambda mode: mode.value)
async def test_every_streaming_response_mode_scores_the_question_when_awaited(mode: Any, index: Any, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    with collect_decisions() as taken:
        answer = await index().as_query_engine(llm=made.llm, response_mode=mode, streaming=True).aquery(kit.HARD)
        text = "".join([token async for token in answer.async_response_gen()])
    assert "strong" in text and routes(taken) == {"strong"}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_multimodal_synthesizers_score_the_question(mode: Any, index: Any, kit: Any):
    if "multimodal" not in inspect.signature(get_response_synthesizer).parameters:
        pytest.skip("this release of llama-index-core has no multimodal synthesizers")
    made = kit.pair()
    synthesizer = get_response_synthesizer(llm=made.llm, response_mode=mode, multimodal=True)
    with collect_decisions() as taken:
        index().as_query_engine(llm=made.llm, response_synthesizer=synthesizer).query(kit.EASY)
    assert routes(taken) == {"weak"}


def test_without_the_template_hook_the_context_would_decide(index: Any, kit: Any):
    class Unhooked(RouteLLM):
        predict = FunctionCallingLLM.predict

    llm = Unhooked(
        strong=kit.Fake(tag="strong"), weak=kit.Fake(tag="weak"), router=kit.ScriptedRouter(kit.by_word), threshold=0.5
    )
    with collect_decisions() as taken:
        index().as_query_engine(llm=llm).query(kit.EASY)
    assert routes(taken) == {"strong"}


def test_a_refine_chain_stays_on_one_route(index: Any, kit: Any):
    made = kit.pair()
    index(n=5).as_query_engine(llm=made.llm, response_mode="refine").query(kit.EASY)
    assert made.weak.hits == 5 and made.strong.hits == 0


def test_a_scope_must_be_open_when_a_streamed_answer_is_read(index: Any, kit: Any):
    made = kit.pair()
    engine = index().as_query_engine(llm=made.llm, response_mode="tree_summarize", streaming=True)
    with force_route("strong"):
        text = "".join(engine.query(kit.EASY).response_gen)
    assert "strong" in text


async def test_scopes_reach_tree_summarize_with_use_async_inside_a_running_loop(index: Any, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    with force_route("strong"), collect_decisions() as taken:
        synthesizer = get_response_synthesizer(llm=made.llm, response_mode="tree_summarize", use_async=True)
        index(n=40).as_query_engine(llm=made.llm, response_synthesizer=synthesizer).query(kit.EASY)
    assert len(taken) > 1 and routes(taken) == {"strong"}


# -- templates
def test_the_question_is_found_however_it_is_bound(kit: Any):
    plain = PromptTemplate("{context_str} Query: {query_str}")
    chat = ChatPromptTemplate.from_messages([("system", "{context_str}"), ("user", "{query_str}")])
    selector = SelectorPromptTemplate(default_template=plain, conditionals=[(lambda llm: True, chat)])
    mapped = PromptTemplate("{ctx} Q: {my_q}", template_var_mappings={"query_str": "my_q", "context_str": "ctx"})
    made = kit.pair()
    for prompt in (plain, chat, selector, mapped):
        assert "weak" in made.llm.predict(prompt, context_str=kit.CONTEXT, query_str=kit.EASY)
        assert "weak" in made.llm.predict(prompt.partial_format(query_str=kit.EASY), context_str=kit.CONTEXT)
        assert "strong" in made.llm.predict(prompt.partial_format(query_str=kit.HARD), context_str="short")


@pytest.mark.parametrize("name", ["query_str", "question", "query"])
def test_each_variable_that_llama_index_uses_for_questions_is_one(name: str, kit: Any):
    made = kit.pair()
    made.llm.predict(PromptTemplate("{context} {" + name + "}"), **{"context": kit.CONTEXT, name: kit.EASY})
    assert made.router.calls == [[kit.EASY]]


def test_a_template_without_a_question_is_scored_filled(kit: Any):
    made = kit.pair()
    made.llm.predict(PromptTemplate("Title for: {context_str}"), context_str=kit.CONTEXT)
    assert made.router.calls == [[f"Title for: {kit.CONTEXT}"]]


def test_a_backends_own_system_prompt_and_parser_apply(kit: Any):
    made = kit.pair(strong=kit.Fake(tag="strong", system_prompt="SYSTEM"))
    made.llm.predict(PromptTemplate("{query_str}"), query_str=kit.HARD)
    assert made.strong._calls[0][1][0].content == "SYSTEM"


async def test_predict_and_its_twins_are_collected_though_they_return_text(kit: Any):
    made, prompt = kit.pair(), PromptTemplate("{query_str}")
    with collect_decisions() as taken:
        assert made.llm.predict(prompt, query_str=kit.EASY) == "weak answer here"
        assert await made.llm.apredict(prompt, query_str=kit.EASY) == "weak answer here"
        assert "".join(made.llm.stream(prompt, query_str=kit.HARD)) == "strong answer here"
        parts = [token async for token in await made.llm.astream(prompt, query_str=kit.HARD)]
    assert "".join(parts) == "strong answer here"
    assert [decision.route for decision in taken] == ["weak", "weak", "strong", "strong"]


# -- programs that fill the template themselves
@pytest.mark.parametrize("tracked", [False, True])
def test_the_tracker_gives_back_the_query_of_a_synthesis(tracked: bool, index: Any, kit: Any):
    if tracked:
        get_dispatcher().add_event_handler(SynthesisQueryTracker())
    made = kit.pair()
    synthesizer = get_response_synthesizer(
        llm=made.llm, response_mode=ResponseMode.REFINE, structured_answer_filtering=True
    )
    with collect_decisions() as taken:
        index().as_query_engine(llm=made.llm, response_synthesizer=synthesizer).query(kit.EASY)
    assert routes(taken) == {"weak" if tracked else "strong"}
    assert query_stack.get() == ()


def test_the_tracker_forgets_the_query_of_a_synthesis_that_failed(index: Any, kit: Any):
    get_dispatcher().add_event_handler(SynthesisQueryTracker())
    made = kit.pair(weak=kit.Fake(fail=ConnectionError("down")))
    with pytest.raises(ConnectionError):
        index().as_query_engine(llm=made.llm).query(kit.EASY)
    assert query_stack.get() == ()


# -- structured answers
def test_a_structured_llm_keeps_the_question_where_upstreams_own_loses_it(index: Any, kit: Any):
    made = kit.pair()
    structured = made.llm.as_structured_llm(Out)
    assert isinstance(structured, StructuredLLM)
    answer = index().as_query_engine(llm=structured).query(kit.EASY)
    assert answer.response.answer == "answer by weak"
    assert {text for prompts in made.router.calls for text in prompts} == {kit.EASY}
    plain = kit.pair()
    index().as_query_engine(llm=StructuredLLM(llm=plain.llm, output_cls=Out)).query(kit.EASY)
    assert plain.strong.hits and not plain.weak.hits


async def test_a_structured_llm_routes_every_way_of_asking_it(kit: Any):
    made = kit.pair()
    structured, prompt = made.llm.as_structured_llm(Out), PromptTemplate("{context_str} {query_str}")
    arguments = {"context_str": kit.CONTEXT, "query_str": kit.EASY}
    want = '{"answer":"answer by weak"}'
    assert structured.predict(prompt, **arguments) == want
    assert await structured.apredict(prompt, **arguments) == want
    assert "".join(structured.stream(prompt, **arguments)) == want
    assert "".join([part async for part in await structured.astream(prompt, **arguments)]) == want
    assert "strong" in structured.chat([kit.user(kit.HARD)]).message.content
    assert "strong" in structured.complete(kit.HARD).text


def test_an_engine_with_an_output_class_scores_the_question(index: Any, kit: Any):
    made = kit.pair()
    engine = index().as_query_engine(llm=made.llm, output_cls=Out, response_mode="tree_summarize")
    assert engine.query(kit.EASY).response.answer == "answer by weak"


async def test_structured_predict_and_its_twins_are_the_backends_own(kit: Any):
    class Native(kit.Fake):
        def structured_predict(self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **arguments: Any) -> Any:
            self._calls.append(("native", llm_kwargs, arguments))
            return output_cls(answer="native")

    made, prompt = kit.pair(strong=Native(tag="strong")), PromptTemplate("{query_str}")
    assert made.llm.structured_predict(Out, prompt, llm_kwargs={"k": 1}, query_str=kit.HARD).answer == "native"
    assert made.strong._calls[0] == ("native", {"k": 1}, {"query_str": kit.HARD})
    assert (await made.llm.astructured_predict(Out, prompt, query_str=kit.EASY)).answer == "answer by weak"
    assert list(made.llm.stream_structured_predict(Out, prompt, query_str=kit.EASY))[-1].answer == "answer by weak"
    parts = await made.llm.astream_structured_predict(Out, prompt, query_str=kit.EASY)
    assert [part async for part in parts][-1].answer == "answer by weak"


def test_each_attempt_gets_llm_kwargs_of_its_own(kit: Any):
    class Writes(kit.Fake):
        def structured_predict(self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **arguments: Any) -> Any:
            llm_kwargs["format"] = "schema"  # as the Ollama integration does
            raise ConnectionError("down")

    made, mine = kit.pair(weak=Writes(), fallback="stronger"), {"seed": 1}
    answer = made.llm.structured_predict(Out, PromptTemplate("{query_str}"), llm_kwargs=mine, query_str=kit.EASY)
    assert answer.answer == "answer by strong" and mine == {"seed": 1}
    assert "format" not in made.strong._calls[0][2]


# -- chat engines
@pytest.fixture
def engine(index: Any) -> Any:
    def make(name: str, llm: Any, *, streaming: bool = False) -> Any:
        retriever = index(VectorStoreIndex).as_retriever()
        memory = ChatMemoryBuffer.from_defaults(token_limit=10**6)  # upstream's default leaves a database open
        if name == "condense_question":
            return CondenseQuestionChatEngine.from_defaults(
                query_engine=index(VectorStoreIndex).as_query_engine(llm=llm, streaming=streaming),
                llm=llm,
                memory=memory,
            )
        if name == "simple":
            return SimpleChatEngine.from_defaults(llm=llm, memory=memory)
        kind = {"context": ContextChatEngine, "condense_plus_context": CondensePlusContextChatEngine}[name]
        return kind.from_defaults(retriever=retriever, llm=llm, memory=memory)

    return make


@pytest.mark.parametrize("name", ["condense_plus_context", "context", "simple", "condense_question"])
def test_chat_engines_score_the_users_message(name: str, engine: Any, kit: Any):
    made = kit.pair()
    if name == "condense_question":  # there the engine is asked the rewritten question
        made.strong.script = [kit.HARD]
    chat = engine(name, made.llm)
    assert "weak" in str(chat.chat(kit.EASY))
    with collect_decisions() as taken:  # the second turn's stream is read by a thread of core's
        assert "strong" in "".join(chat.stream_chat(kit.HARD).response_gen)
    assert taken[-1].route == "strong"


@pytest.mark.parametrize("name", ["condense_plus_context", "context", "simple"])
async def test_chat_engines_score_the_users_message_when_awaited(name: str, engine: Any, kit: Any):
    made = kit.pair(kit.ScriptedRouter(kit.by_word, is_quick=False))
    chat = engine(name, made.llm)
    assert "weak" in str(await chat.achat(kit.EASY))
    answer = await chat.astream_chat(kit.HARD)
    assert "strong" in "".join([token async for token in answer.async_response_gen()])


@pytest.mark.parametrize("name", ["condense_plus_context", "context", "simple"])
def test_the_stream_of_a_chat_engine_keeps_the_scope_it_was_asked_in(name: str, engine: Any, kit: Any):
    made = kit.pair()
    with force_route("strong"):
        answer = engine(name, made.llm).stream_chat(kit.EASY)
    assert "strong" in "".join(answer.response_gen)


@pytest.mark.parametrize("name", ["context", "simple"])
def test_a_sticky_conversation_stays_where_it_began(name: str, engine: Any, kit: Any):
    for stickiness, second in (("conversation", "weak"), ("tool_loop", "strong")):
        made = kit.pair(stickiness=stickiness)
        chat = engine(name, made.llm)
        chat.chat(kit.EASY)
        with collect_decisions() as taken:
            assert second in str(chat.chat(kit.HARD))
            assert second in "".join(chat.stream_chat(f"{kit.HARD} again").response_gen)
        assert {d.reason for d in taken} == {"conversation" if stickiness == "conversation" else "score"}


# What each engine's two turns are scored on: a hard question, then "why?". Rewriting prompts hold the whole
# conversation; whose they are is said by `utility` and `rewriting`, never guessed from their text.
SCORED = {
    "simple": ["HARD", "HARD\nwhy?"],
    "context": ["HARD", "HARD\nwhy?"],
    "condense_plus_context": ["HARD", "<rewriting prompt>", "HARD\nwhy?"],
    # its first turn rewrites nothing, the second scores the question to rewrite, then the rewritten one
    "condense_question": ["HARD", "why?", "<rewritten>"],
}


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
@pytest.mark.parametrize("name", list(SCORED))
async def test_what_each_chat_engine_is_scored_on(name: str, how: str, index: Any, engine: Any, kit: Any):
    rewritten = "Why does the proof of the theorem hold?"
    made = kit.pair()
    chat = engine(name, made.llm, streaming="stream" in how)
    for text in (kit.HARD, "why?"):
        if name == "condense_question" and text == "why?":
            made.weak.script = [rewritten]
        answer = getattr(chat, how)(text)
        if inspect.isawaitable(answer):
            answer = await answer
        if how == "stream_chat":
            assert "".join(answer.response_gen)
        elif how == "astream_chat":
            assert "".join([token async for token in answer.async_response_gen()])
    scored = [text for prompts in made.router.calls for text in prompts]
    shown = [
        "<rewriting prompt>" if len(text) > 200 else text.replace(kit.HARD, "HARD").replace(rewritten, "<rewritten>")
        for text in scored
    ]
    assert list(dict.fromkeys(shown)) == SCORED[name]
    assert made.strong.hits >= 1


def test_a_short_question_with_no_history_is_scored_alone_whatever_template_packs_it(index: Any, kit: Any):
    made, short = kit.pair(), "What time is it"  # 15 characters
    chat = ChatPromptTemplate.from_messages(
        [("system", "{context_str}"), ("user", "Prove all of this: {context_str}"), ("user", "Now: {query_str}")]
    )
    mapped = ChatPromptTemplate.from_messages([("user", "Prove {ctx} and say {my_q}")])
    mapped.template_var_mappings = {"query_str": "my_q", "context_str": "ctx"}
    for prompt in (chat, mapped):
        made.llm.predict(prompt, context_str=kit.CONTEXT, query_str=short)
    for mode in MODES:
        index().as_query_engine(llm=made.llm, response_mode=mode).query(short)
    assert {text for prompts in made.router.calls for text in prompts} == {short}


def test_a_function_in_a_template_is_not_called_again_and_again(kit: Any):
    called = []
    prompt = PromptTemplate(
        "{examples} {query_str}", function_mappings={"examples": lambda **kwargs: called.append(1) or "some"}
    )
    kit.pair().llm.predict(prompt, query_str=kit.EASY)
    assert len(called) == 1  # by the backend, as without a router
    kit.pair(context_policy="escalate", stickiness="conversation").llm.predict(prompt, query_str=kit.EASY)
    assert len(called) == 3  # and once to see how long it is and who spoke


def test_a_short_follow_up_in_a_template_is_scored_with_the_history_before_it(kit: Any):
    made = kit.pair()
    history = [
        ("user", kit.HARD),
        ("assistant", "Done."),
        ("user", "and?"),
        ("assistant", "More."),
        ("user", "{query_str}"),
    ]
    made.llm.predict(
        ChatPromptTemplate.from_messages([("system", "{context_str}"), *history]), context_str="c", query_str="why?"
    )
    assert made.router.calls == [[f"{kit.HARD}\nwhy?"]]
