"""Backends that differ: which can call tools, how much they hold, and who rewrites questions."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, LLMMetadata, TextBlock
from llama_index.core.chat_engine import CondensePlusContextChatEngine, CondenseQuestionChatEngine
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program.function_program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import TransformQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM, force_route
from routellm_core import collect_decisions
from routellm_core.errors import ConfigurationError

LONG = "The archive was catalogued. " * 200  # 5600 bytes; about six tokens a sentence, so over 1000 in all


class Out(BaseModel):
    answer: str


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=10**6)


def record(answer: Any) -> tuple[str, str]:
    found = answer.additional_kwargs["routellm"]
    return found["route"], found["reason"]


# -- tools
async def test_with_capable_backends_enough_an_agent_of_mixed_backends_calls_tools_where_it_can(kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak", can_call=False), tool_policy="capable")
    assert made.llm.metadata.is_function_calling_model
    made.strong.script = [kit.call("look", {"q": "x"}), "done"]
    with collect_decisions() as taken:
        answer = await FunctionAgent(tools=[kit.LOOK], llm=made.llm).run(kit.EASY, memory=memory())
    assert str(answer) == "done" and made.weak.hits == 0
    assert [(d.route, d.reason) for d in taken] == [("strong", "capability"), ("strong", "tool_loop")]
    assert record(made.llm.chat([kit.user(kit.EASY)])) == ("weak", "score")  # without tools nothing moves
    flow = AgentWorkflow.from_tools_or_functions([lambda q: q], llm=made.llm)
    assert isinstance(flow.agents[flow.root_agent], FunctionAgent)


def test_capable_is_said_only_of_backends_that_are(kit: Any):
    made = kit.pair(weak=MockLLM(), strong=MockLLM(), tool_policy="capable")
    assert not made.llm.metadata.is_function_calling_model


async def test_programs_that_rely_on_tool_calls_get_a_backend_that_makes_them(kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak", can_call=False), tool_policy="capable")
    program = FunctionCallingProgram.from_defaults(output_cls=Out, prompt=PromptTemplate("{query_str}"), llm=made.llm)
    assert program(query_str=kit.EASY).answer == "answer by strong"
    assert (await program.acall(query_str=kit.EASY)).answer == "answer by strong"
    assert made.weak.hits == 0


async def test_tools_given_to_a_plain_chat_as_providers_take_them_need_a_capable_backend_too(kit: Any):
    made = kit.pair(weak=kit.Fake(tag="weak", can_call=False))
    messages = [kit.user(kit.EASY)]
    answers = [
        made.llm.chat(messages, tools=[kit.ADD]),
        await made.llm.achat(messages, tools=[kit.ADD]),
        *made.llm.stream_chat(messages, tools=[kit.ADD]),
        *[item async for item in await made.llm.astream_chat(messages, tools=[kit.ADD])],
    ]
    assert {record(answer) for answer in answers} == {("strong", "capability")}


# -- room
def test_the_window_is_the_tightest_or_with_escalation_the_widest(kit: Any):
    # small leaves 1000 - 200 = 800 tokens, big 8000 - 1000 = 7000
    small, big = kit.Fake(tag="weak", window=1000, out=200), kit.Fake(tag="strong", window=8000, out=1000)
    for policy, window, room in (("min", 1000, 800), ("escalate", 8000, 7000)):
        metadata = kit.pair(weak=small, strong=big, context_policy=policy).llm.metadata
        assert (metadata.context_window, metadata.context_window - metadata.num_output) == (window, room)


async def test_a_call_that_does_not_fit_goes_to_a_stronger_backend_that_it_fits(kit: Any):
    small = kit.Fake(tag="weak", window=1000, out=200)
    made = kit.pair(0.1, weak=small, context_policy="escalate")
    long = f"{kit.EASY} {LONG}"
    answers = [
        made.llm.complete(long),
        await made.llm.acomplete(long),
        *made.llm.stream_chat([kit.user(long)]),
        *[item async for item in await made.llm.astream_chat([kit.user(long)])],
        made.llm.chat_with_tools([kit.ADD], user_msg="and now?", chat_history=[kit.user(long)]),
    ]
    assert {record(answer) for answer in answers} == {("strong", "capability")}
    with collect_decisions() as taken:
        made.llm.predict(PromptTemplate("{context_str} {query_str}"), context_str=LONG, query_str=kit.EASY)
    assert [(d.route, d.reason) for d in taken] == [("strong", "capability")]
    assert record(made.llm.complete(kit.EASY)) == ("weak", "score")
    assert record(kit.pair(0.1, weak=small).llm.complete(long)) == ("weak", "score")  # by default the packer sees to it


def test_of_three_backends_the_next_one_that_holds_the_call_takes_it(kit: Any):
    windows = {"small": 1000, "mid": 4000, "large": 90_000}
    models = {name: kit.Fake(tag=name, window=window, out=200) for name, window in windows.items()}
    llm = RouteLLM(models=models, router=kit.ScriptedRouter(0.1), threshold=[0.3, 0.7], context_policy="escalate")
    # a sentence of LONG takes five to seven tokens: 200 of them fit the middle one, 2000 only the large one
    assert [record(llm.complete(LONG * times)) for times in (1, 10)] == [("mid", "capability"), ("large", "capability")]


def test_tokens_are_counted_where_bytes_alone_would_not_fit(kit: Any):
    # 200 times "The archive was catalogued. " are 5600 bytes, and more than 800 and less than 2000 tokens
    for window, route in ((1000, "strong"), (2256, "weak")):
        made = kit.pair(0.1, weak=kit.Fake(tag="weak", window=window, out=256), context_policy="escalate")
        made.strong.window = 10**5
        assert record(made.llm.complete(LONG))[0] == route


def test_the_schemas_of_tools_take_room_too(kit: Any):
    described = FunctionTool.from_defaults(fn=lambda a: a, name="big", description=LONG)
    made = kit.pair(0.1, weak=kit.Fake(tag="weak", window=1000, out=200), context_policy="escalate")
    assert record(made.llm.chat_with_tools([described], user_msg=kit.EASY)) == ("strong", "capability")


def test_the_arguments_of_earlier_tool_calls_take_room_too(kit: Any):
    # 2,000 lines of code that an agent wrote: more than the 300 tokens that the weak window of 400 leaves
    p = kit.pair(
        context_policy="escalate",
        stickiness="none",
        weak=kit.Fake(tag="weak", window=400, out=100),
        strong=kit.Fake(tag="strong", window=100_000),
    )
    history = [kit.user(kit.EASY), kit.call("run", {"code": "x = 1\n" * 2000}), kit.assistant("done")]

    assert p.llm.chat([*history, kit.user(kit.EASY)]).additional_kwargs["routellm"]["reason"] == "capability"


def test_what_fits_nowhere_and_what_is_forced_is_left_to_the_provider(kit: Any):
    tight = {"window": 300, "out": 200}
    made = kit.pair(0.1, weak=kit.Fake(tag="weak", **tight), strong=kit.Fake(**tight), context_policy="escalate")
    assert record(made.llm.complete(LONG)) == ("weak", "score")
    made = kit.pair(0.9, weak=kit.Fake(tag="weak", **tight), context_policy="escalate")
    with force_route("weak"):
        assert record(made.llm.complete(LONG)) == ("weak", "forced")


def test_a_fallback_goes_only_where_the_call_fits(kit: Any):
    made = kit.pair(
        0.9,
        weak=kit.Fake(tag="weak", window=1000, out=200),
        strong=kit.Fake(fail=ConnectionError("down")),
        fallback="any",
        context_policy="escalate",
    )
    assert made.llm.complete(kit.EASY).additional_kwargs["routellm"]["fallback_from"] == "strong"
    with pytest.raises(ConnectionError):
        made.llm.complete(LONG)


def test_an_engine_packs_for_the_widest_window_and_its_calls_go_where_they_fit(kit: Any):
    small = kit.Fake(tag="weak", window=1500, out=200)
    index = SummaryIndex.from_documents([Document(text=f"{LONG} {i}") for i in range(3)], embed_model=MockEmbedding(8))
    hits = {}
    for policy in ("min", "escalate"):
        made = kit.pair(weak=small.model_copy(), strong=kit.Fake(tag="strong", window=30_000), context_policy=policy)
        with collect_decisions() as taken:
            index.as_query_engine(llm=made.llm, response_mode="compact").query(kit.EASY)
        hits[policy] = [(d.route, d.reason) for d in taken]
    assert len(hits["min"]) > 1 and set(hits["min"]) == {("weak", "score")}
    assert hits["escalate"] == [("strong", "capability")]


@pytest.mark.parametrize("call", ["tools", "room"])
async def test_a_backend_that_asks_its_server_what_it_can_do_is_first_asked_in_a_thread(call: str, kit: Any):
    main, readers = threading.current_thread(), []

    class Asks(kit.Fake):
        @property
        def metadata(self) -> LLMMetadata:
            readers.append(threading.current_thread())
            return kit.Fake().metadata

    made = kit.pair(
        weak=Asks(tag="weak"), strong=Asks(tag="strong"), context_policy="escalate" if call == "room" else "min"
    )
    if call == "tools":
        await made.llm.achat_with_tools([kit.ADD], user_msg=kit.EASY)
    else:
        await made.llm.acomplete(kit.EASY)
    assert readers[0] is not main and readers[1] is not main


# -- pictures: no metadata says who can see, so the caller's text= and force_route decide
def test_a_picture_with_a_question_is_routed_by_the_question_and_reaches_the_backend_whole(kit: Any):
    made = kit.pair()
    blocks = [TextBlock(text=kit.EASY), ImageBlock(image=b"x", image_mimetype="image/png")]
    made.llm.chat([ChatMessage(role="user", blocks=blocks)])
    assert [type(b) for b in made.weak._calls[0][1][0].blocks] == [TextBlock, ImageBlock]


# -- rewriting
@pytest.fixture
def index(monkeypatch: Any) -> Any:
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(8))
    return VectorStoreIndex.from_documents([Document(text="Prove it. " * 20)], embed_model=MockEmbedding(8))


@pytest.mark.parametrize("own", [False, True])
async def test_a_component_that_only_rewrites_takes_the_utility_llm(own: bool, index: Any, kit: Any):
    small = kit.Fake(tag="small")
    made = kit.pair(0.9, utility_backend=small if own else "weak")
    rewriter = small if own else made.weak
    rewriter.script = [
        "a hypothetical answer",
        "first query\nsecond query",
        "third query\nfourth query",
        "a standalone question",
    ]
    hyde = TransformQueryEngine(index.as_query_engine(llm=made.llm), HyDEQueryTransform(llm=made.llm.utility))
    assert "strong" in str(hyde.query(kit.HARD))
    assert (rewriter.hits, made.strong.hits) == (1, 1)
    fusion = QueryFusionRetriever(
        [index.as_retriever()], llm=made.llm.utility, num_queries=3, mode=FUSION_MODES.SIMPLE, use_async=False
    )
    fusion.retrieve(kit.HARD)
    await fusion.aretrieve(kit.HARD)
    assert (rewriter.hits, made.strong.hits) == (3, 1)
    condense = CondenseQuestionChatEngine.from_defaults(
        query_engine=index.as_query_engine(llm=made.llm), llm=made.llm.utility, memory=memory()
    )
    assert "strong" in str(condense.chat(kit.HARD))
    assert "strong" in str(condense.chat(kit.HARD))
    assert rewriter.script == [] and made.strong.hits == 3
    assert {text for prompts in made.router.calls for text in prompts} <= {kit.HARD, "a standalone question"}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_an_engine_that_rewrites_and_answers_with_one_llm_takes_the_rewriting_one(
    how: str, own: bool, index: Any, kit: Any
):
    small = kit.Fake(tag="small")
    made = kit.pair(0.9, utility_backend=small if own else "weak")
    engine = CondensePlusContextChatEngine.from_defaults(
        retriever=index.as_retriever(), llm=made.llm.rewriting, memory=memory()
    )

    async def ask(text: str) -> str:
        answer = getattr(engine, how)(text)
        if how.startswith("a"):
            answer = await answer
        if how == "stream_chat":
            return "".join(answer.response_gen)
        if how == "astream_chat":
            return "".join([token async for token in answer.async_response_gen()])
        return str(answer)

    assert "strong" in await ask(kit.HARD)
    assert "strong" in await ask(kit.HARD)
    rewriter = small if own else made.weak
    assert [kind.removeprefix("a") for kind, *_ in rewriter._calls] == ["complete"]  # the second turn's rewriting
    assert {text for prompts in made.router.calls for text in prompts} == {kit.HARD}


async def test_calls_to_a_utility_route_are_recorded_as_forced_to_it_and_scopes_still_hold(kit: Any):
    made = kit.pair(0.9, utility_backend="weak")
    assert record(made.llm.utility.complete(kit.HARD)) == ("weak", "forced")
    assert record(await made.llm.utility.achat([kit.user(kit.HARD)])) == ("weak", "forced")
    assert {record(item) for item in made.llm.rewriting.stream_complete(kit.HARD)} == {("weak", "forced")}
    assert record(made.llm.rewriting.chat([kit.user(kit.HARD)])) == ("strong", "score")
    assert record(made.llm.complete(kit.HARD)) == ("strong", "score")  # the router itself guesses nothing
    with force_route("strong"):
        assert record(made.llm.utility.complete(kit.HARD)) == ("strong", "forced")


async def test_all_four_completions_of_the_rewriting_llm_go_to_a_utility_backend_of_its_own(kit: Any):
    small = kit.Fake(tag="small")
    made = kit.pair(0.9, utility_backend=small)
    llm = made.llm.rewriting
    assert made.llm.utility is small
    answers = [
        llm.complete("x"),
        await llm.acomplete("x"),
        *list(llm.stream_complete("x"))[-1:],
        *[item async for item in await llm.astream_complete("x")][-1:],
    ]
    assert [answer.text for answer in answers] == ["small answer here"] * 4
    _, llm.callback_manager = kit.debug()
    assert small.callback_manager is llm.callback_manager


def test_a_utility_string_is_resolved_when_it_is_first_used(kit: Any, monkeypatch: Any):
    built: list[Any] = []

    def make(spec: str) -> Any:
        built.append(kit.Fake(tag=spec))
        return built[-1]

    monkeypatch.setattr("llamaindex_routellm._backends.make_llm", make)
    made = kit.pair(utility_backend="openai:tiny")
    assert made.llm.to_dict()["utility_backend"] == "openai:tiny" and built == []
    assert made.llm.utility is built[0] and made.llm.utility is built[0]


def test_without_a_utility_backend_there_is_none_to_give(kit: Any):
    for name in ("utility", "rewriting"):
        with pytest.raises(ConfigurationError, match="RouteLLM\\(utility_backend=\\)"):
            getattr(kit.pair().llm, name)


def test_the_choices_travel_with_copies_and_dumps(kit: Any):
    made = kit.pair(0.9, tool_policy="capable", context_policy="escalate", utility_backend="weak")
    dump = made.llm.to_dict()
    assert (dump["tool_policy"], dump["context_policy"], dump["utility_backend"]) == ("capable", "escalate", "weak")
    again = RouteLLM.from_dict(dump, models=made.llm.models, router=made.router)
    pickled = pickle.loads(pickle.dumps(made.llm))  # noqa: S301 - our own object, dumped in this line
    for other in (again, pickled, copy.deepcopy(made.llm), made.llm.model_copy()):
        assert other.to_dict() == dump
        assert record(other.utility.complete(kit.HARD)) == ("weak", "forced")
    rewriting = pickle.loads(pickle.dumps(made.llm.rewriting))  # noqa: S301 - likewise
    assert record(rewriting.complete(kit.HARD)) == ("weak", "forced")
