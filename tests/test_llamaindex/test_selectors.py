"""RouteLLMSelector: the choice a question is worth, in LlamaIndex's own router engines and retrievers."""

from __future__ import annotations

import asyncio
import json
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, SummaryIndex, VectorStoreIndex
from llama_index.core.query_engine import CustomQueryEngine, RouterQueryEngine
from llama_index.core.retrievers import RouterRetriever
from llama_index.core.storage import StorageContext
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata

from llamaindex_routellm import RouteLLM, RouteLLMSelector, events, force_route, pinned, query_scope
from llamaindex_routellm._scopes import query_stack
from llamaindex_routellm.selectors import RoutedSelection
from routellm_core import LLMRouter, RoutingPolicy, collect_decisions
from routellm_core.backends import Generation
from routellm_core.errors import ConfigurationError, ScoringError, UnknownKindError
from routellm_core.testing import ScriptedRouter

# descriptions hold what the router looks for: scoring them shows as the wrong choice
PLAIN, DEEP = (ToolMetadata(description=f"{w}: can prove things", name=w) for w in ("plain", "deep"))
MIDDLE = ToolMetadata(description="in between", name="middle")


def by_grade(text: str) -> float:
    return float(text.split()[-1])


def chosen(result: Any, *choices: Any) -> Any:
    assert isinstance(result, RoutedSelection)
    return choices[result.ind].name


@pytest.fixture
def by_word(kit: Any) -> Any:
    return RouteLLMSelector(kit.ScriptedRouter(kit.by_word), threshold=0.5)


async def both(selector: Any, choices: Any, query: Any) -> Any:
    """What it selects; the same asynchronously."""
    one, other = selector.select(choices, query), await selector.aselect(choices, query)
    assert one.inds == other.inds
    assert one.reasons == other.reasons
    return one


# -- choosing
async def test_an_easy_question_takes_the_first_choice_and_a_hard_one_the_last(by_word: Any, kit: Any) -> None:
    assert chosen(await both(by_word, [PLAIN, DEEP], kit.EASY), PLAIN, DEEP) == "plain"
    assert chosen(await both(by_word, [PLAIN, DEEP], kit.HARD), PLAIN, DEEP) == "deep"


async def test_a_win_rate_at_the_threshold_takes_the_stronger_choice(kit: Any) -> None:
    selector = RouteLLMSelector(kit.ScriptedRouter(0.5), threshold=0.5)
    assert (await both(selector, [PLAIN, DEEP], "hi")).ind == 1


async def test_many_choices_are_cut_by_ascending_thresholds(kit: Any) -> None:
    selector = RouteLLMSelector(kit.ScriptedRouter(by_grade), threshold=[0.3, 0.7])
    choices = [PLAIN, MIDDLE, DEEP]
    found = [chosen(await both(selector, choices, f"worth {x}"), *choices) for x in (0.2, 0.3, 0.69, 0.7)]
    assert found == ["plain", "middle", "middle", "deep"]


async def test_without_any_cut_the_routers_own_serve_any_number_of_choices(kit: Any) -> None:
    # calibrated on uniform win rates: equal shares cut at 1/2, or at 1/3 and 2/3
    selector = RouteLLMSelector(kit.ScriptedRouter(by_grade))
    assert chosen(await both(selector, [PLAIN, DEEP], "worth 0.45"), PLAIN, DEEP) == "plain"
    three = [PLAIN, MIDDLE, DEEP]
    assert [chosen(await both(selector, three, f"worth {x}"), *three) for x in (0.3, 0.45, 0.7)] == [
        "plain",
        "middle",
        "deep",
    ]


async def test_order_says_which_tool_is_the_weakest(kit: Any) -> None:
    selector = RouteLLMSelector(kit.ScriptedRouter(by_grade), threshold=[0.3, 0.7], order=["plain", "middle", "deep"])
    shuffled = [DEEP, PLAIN, MIDDLE]
    assert [(await both(selector, shuffled, f"worth {x}")).ind for x in (0.1, 0.5, 0.9)] == [1, 2, 0]


async def test_a_policy_over_the_tools_names_finds_them_in_any_order(kit: Any) -> None:
    policy = RoutingPolicy(kit.ScriptedRouter(kit.by_word), routes=("plain", "deep"), threshold=0.5)
    selector = RouteLLMSelector(policy=policy)
    assert (await both(selector, [DEEP, PLAIN], kit.HARD)).ind == 0
    assert selector.routing_policy is policy


async def test_the_routes_of_another_policy_stand_for_the_choices_in_order(kit: Any) -> None:
    selector = RouteLLMSelector(policy=RoutingPolicy(kit.ScriptedRouter(kit.by_word), threshold=0.5))
    result = await both(selector, [PLAIN, DEEP], kit.HARD)
    assert result.ind == 1
    assert result.routellm["route"] == "deep"


async def test_choices_without_names_of_their_own_are_weak_and_strong(by_word: Any, kit: Any) -> None:
    same = [ToolMetadata(description=d, name="query_engine_tool") for d in ("one", "two")]
    for choices in (["one", "two"], same):
        assert (await both(by_word, choices, kit.HARD)).routellm["route"] == "strong"
    three = RouteLLMSelector(kit.ScriptedRouter(0.5), threshold=[0.3, 0.7])
    assert (await both(three, ["a", "b", "c"], "hi")).routellm["route"] == "choice_2"


async def test_a_chat_model_can_be_the_one_that_scores() -> None:
    class Judge:
        name = "judge"

        def generate(self, messages: Any) -> Generation:
            return Generation(text="2" if "prove" in messages[-1]["content"] else "5")

        async def agenerate(self, messages: Any) -> Generation:
            return self.generate(messages)

    selector = RouteLLMSelector(LLMRouter(Judge()))
    assert (await both(selector, [PLAIN, DEEP], "prove it")).routellm["win_rate"] == 0.75
    assert (await both(selector, [PLAIN, DEEP], "say hi")).ind == 0


# -- what it says about it
async def test_the_record_is_in_words_and_as_data_without_the_question(by_word: Any, kit: Any) -> None:
    result = await both(by_word, [PLAIN, DEEP], kit.EASY)
    assert result.reason == "plain: win rate 0.1 of router scripted is below 0.5"
    record = json.loads(json.dumps(result.routellm))
    assert record.pop("scorer_ms") >= 0
    assert record == {"route": "plain", "reason": "score", "win_rate": 0.1, "threshold": 0.5, "router": "scripted"}
    assert by_word.select([PLAIN, DEEP], kit.HARD).reason == "deep: win rate 0.9 of router scripted reaches 0.5"
    assert kit.EASY not in result.model_dump_json()


async def test_a_router_that_fails_takes_the_last_choice_and_says_why(kit: Any) -> None:
    broken = kit.ScriptedRouter(error=ScoringError("the service is down"))
    result = await both(RouteLLMSelector(broken, threshold=0.5), [PLAIN, DEEP], kit.EASY)
    assert result.reason == "deep: scoring failed (ScoringError: the service is down)"
    assert result.routellm["reason"] == "scorer_error"
    assert (await both(RouteLLMSelector(broken, threshold=0.5, on_error="weak"), [PLAIN, DEEP], kit.EASY)).ind == 0
    with pytest.raises(ScoringError, match="is down"):
        RouteLLMSelector(broken, threshold=0.5, on_error="raise").select([PLAIN, DEEP], kit.EASY)


async def test_an_empty_question_takes_the_last_choice(by_word: Any) -> None:
    result = await both(by_word, [PLAIN, DEEP], "  ")
    assert (result.ind, result.reason) == (1, "deep: nothing to score")


async def test_decisions_are_collected_and_announced_with_the_choices_name(by_word: Any, kit: Any) -> None:
    catch = kit.Catch()
    events.dispatcher.add_event_handler(catch)
    with collect_decisions() as decisions:
        await both(by_word, [PLAIN, DEEP], kit.HARD)
    assert [d.route for d in decisions] == ["deep", "deep"]
    assert decisions.share("deep") == 1.0
    assert [event.decision["route"] for event in catch.seen] == ["deep", "deep"]


# -- scopes
async def test_a_route_is_forced_by_the_choices_name_or_by_its_end(by_word: Any, kit: Any) -> None:
    for name, index in (("deep", 1), ("plain", 0), ("strong", 1), ("weak", 0)):
        with force_route(name):
            result = await both(by_word, [PLAIN, DEEP], kit.EASY)
        assert result.ind == index
        assert result.routellm == {"route": ("plain", "deep")[index], "reason": "forced"}
    with force_route("depe"), pytest.raises(UnknownKindError, match=r"'depe'.*plain, deep"):
        by_word.select([PLAIN, DEEP], kit.EASY)
    assert len(by_word.routing_policy.router.calls) == 0  # a forced question is not scored


async def test_a_pin_keeps_the_choice_of_the_first_question(by_word: Any, kit: Any) -> None:
    with pinned():
        with force_route("deep"):  # neither sets nor obeys a pin
            assert by_word.select([PLAIN, DEEP], kit.EASY).ind == 1
        assert by_word.select([PLAIN, DEEP], kit.EASY).ind == 0
        result = await both(by_word, [PLAIN, DEEP], kit.HARD)
        assert (result.ind, result.routellm["reason"]) == (0, "pinned")
        # by name: another order of the choices pins the same one
        assert by_word.select([DEEP, PLAIN], kit.HARD).ind == 1
        assert RouteLLMSelector(by_word.routing_policy.router, threshold=0.5).select([PLAIN, DEEP], kit.HARD).ind == 1
    assert by_word.select([PLAIN, DEEP], kit.HARD).ind == 1


async def test_a_query_scope_is_scored_instead_and_a_synthesis_around_it_is_not(by_word: Any, kit: Any) -> None:
    with query_scope(kit.HARD):
        assert (await both(by_word, [PLAIN, DEEP], kit.EASY)).ind == 1
    token = query_stack.set((("span", kit.HARD),))  # as SynthesisQueryTracker does
    try:
        assert (await both(by_word, [PLAIN, DEEP], kit.EASY)).ind == 0
    finally:
        query_stack.reset(token)


# -- refusals
async def test_the_number_of_choices_must_be_that_of_the_routes(kit: Any) -> None:
    router = kit.ScriptedRouter(0.5)
    two = RouteLLMSelector(router, strong_share=0.3)
    with pytest.raises(ConfigurationError, match=r"got 3 choice\(s\), but routes between 2.*threshold=\[2 ascending"):
        two.select([PLAIN, MIDDLE, DEEP], "hi")
    with pytest.raises(ConfigurationError, match=r"got 1 choice\(s\)"):
        await two.aselect([PLAIN], "hi")
    with pytest.raises(ConfigurationError, match=r"got 1 choice\(s\)"):
        RouteLLMSelector(router).select([PLAIN], "hi")
    with pytest.raises(ConfigurationError, match=r"got 2 choice\(s\), but routes between 3"):
        RouteLLMSelector(router, threshold=[0.3, 0.7]).select([PLAIN, DEEP], "hi")


@pytest.mark.parametrize("choices", [[PLAIN, MIDDLE], ["plain", "deep"], [PLAIN, PLAIN]])
def test_the_order_must_name_the_choices(choices: Any, kit: Any) -> None:
    selector = RouteLLMSelector(kit.ScriptedRouter(0.5), threshold=0.5, order=["plain", "deep"])
    with pytest.raises(ConfigurationError, match=r"order= names plain, deep"):
        selector.select(choices, "hi")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"order": "plain"}, "order="),
        ({"order": ["plain"]}, "order="),
        ({"order": ["plain", "plain"]}, "order="),
        ({"order": ["a", "b", "c"], "threshold": 0.5}, "3 routes need 2 ascending"),
        ({"order": ["a", "b", "c"], "strong_share": 0.5}, "for two routes"),
        ({"threshold": 0.5, "strong_share": 0.5}, "not both"),
        ({"threshold": "half"}, "threshold"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"on_error": "panic"}, "on_error"),
        ({"policy": 3}, "RoutingPolicy"),
        ({"policy": RoutingPolicy(ScriptedRouter(), threshold=0.5), "threshold": 0.7}, "policy= decides it all"),
        ({"policy": RoutingPolicy(ScriptedRouter(), threshold=0.5), "order": ["a", "b", "c"]}, "2 routes"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused_at_once(words: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RouteLLMSelector(**({} if "policy" in words else {"router": ScriptedRouter()}), **words)


def test_zero_and_one_are_thresholds(kit: Any) -> None:
    assert RouteLLMSelector(kit.ScriptedRouter(0.0), threshold=0.0).select([PLAIN, DEEP], "hi").ind == 1
    assert RouteLLMSelector(kit.ScriptedRouter(0.99), threshold=1.0).select([PLAIN, DEEP], "hi").ind == 0


def test_a_published_routers_name_brings_its_threshold() -> None:
    with pytest.raises(ConfigurationError, match="give no threshold= beside it"):
        RouteLLMSelector("router-mf-0.11593", threshold=0.5)


# -- in LlamaIndex's own parts, with a real store
@pytest.fixture
def indexes(kit: Any) -> Any:
    qdrant = pytest.importorskip("qdrant_client")
    stores = pytest.importorskip("llama_index.vector_stores.qdrant")
    embedding = MockEmbedding(embed_dim=8)
    documents = [Document(text=f"{kit.CONTEXT} part {i}") for i in range(2)]
    client = qdrant.QdrantClient(":memory:")
    context = StorageContext.from_defaults(vector_store=stores.QdrantVectorStore("notes", client=client))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)  # the store's own index
        vectors = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embedding)
    yield SimpleNamespace(vectors=vectors, summary=SummaryIndex.from_documents(documents))
    client.close()


def engine_of(indexes: Any, selector: Any, llm: Any, **settings: Any) -> Any:
    tools = [
        QueryEngineTool.from_defaults(
            index.as_query_engine(llm=llm, **settings), name=name, description=f"{name}: can prove things"
        )
        for name, index in (("plain", indexes.vectors), ("deep", indexes.summary))
    ]
    return RouterQueryEngine(selector=selector, query_engine_tools=tools, llm=llm)


async def test_a_router_query_engine_asks_the_chosen_engine_and_keeps_the_record(
    by_word: Any, indexes: Any, kit: Any
) -> None:
    llm = kit.Fake(tag="x")
    engine = engine_of(indexes, by_word, llm)
    for question, route in ((kit.EASY, "plain"), (kit.HARD, "deep")):
        answer = engine.query(question)
        result = answer.metadata["selector_result"]
        assert result.routellm["route"] == route
        assert str(answer) == "x answer here"
        # the vector index finds with similarity, the summary index hands over everything
        assert {node.score is None for node in answer.source_nodes} == {route == "deep"}
    assert llm.hits == 2  # no call for selecting


async def test_an_async_router_query_engine_does_too(by_word: Any, kit: Any) -> None:
    # qdrant's local store has no asynchronous twin of the same data; the in-memory one of LlamaIndex serves here
    documents = [Document(text="text")]
    indexes = SimpleNamespace(
        vectors=VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8)),
        summary=SummaryIndex.from_documents(documents),
    )
    engine = engine_of(indexes, by_word, kit.Fake(tag="x"))
    with collect_decisions() as decisions:
        for question in (kit.EASY, kit.HARD):
            assert (await engine.aquery(question)).metadata["selector_result"].reason.startswith(("plain", "deep"))
    assert [d.route for d in decisions] == ["plain", "deep"]


async def test_a_streaming_engine_carries_the_record_too(by_word: Any, indexes: Any, kit: Any) -> None:
    answer = engine_of(indexes, by_word, kit.Fake(tag="x"), streaming=True).query(kit.HARD)
    assert answer.metadata["selector_result"].routellm["route"] == "deep"
    assert "".join(answer.response_gen) == "x answer here"


async def test_one_scope_steers_the_selector_and_a_routed_llm_inside(by_word: Any, indexes: Any, kit: Any) -> None:
    two = kit.pair()
    engine = engine_of(indexes, by_word, two.llm)
    with force_route("strong"), collect_decisions() as decisions:
        assert str(engine.query(kit.EASY)) == "strong answer here"
    assert [(d.route, d.reason) for d in decisions] == [("deep", "forced"), ("strong", "forced")]
    with collect_decisions() as decisions:
        engine.query(kit.EASY)
    assert [d.route for d in decisions] == ["plain", "weak"]  # each scores the question alone
    # the fake says that it took 11 tokens in and 7 out; a selection takes none and needs no price
    saving = decisions.saving({"weak": (0.0, 1e6), "strong": (0.0, 2e6)})
    assert (saving.usd, saving.all_strong_usd, saving.answers) == (7.0, 14.0, 1)


async def test_a_router_retriever_asks_the_chosen_retriever(by_word: Any, indexes: Any, kit: Any) -> None:
    tools = [
        RetrieverTool.from_defaults(index.as_retriever(), name=name, description="can prove things")
        for name, index in (("plain", indexes.vectors), ("deep", indexes.summary))
    ]
    retriever = RouterRetriever(selector=by_word, retriever_tools=tools, llm=kit.Fake())
    with collect_decisions() as decisions:
        assert all(node.score is not None for node in retriever.retrieve(kit.EASY))
        assert all(node.score is None for node in retriever.retrieve(kit.HARD))
        assert all(node.score is None for node in await retriever.aretrieve(kit.HARD))
    assert [d.route for d in decisions] == ["plain", "deep", "deep"]


def test_it_has_no_prompts_and_updating_an_engines_leaves_it_alone(by_word: Any, kit: Any) -> None:
    class Echo(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            return "echo"

    tools = [QueryEngineTool.from_defaults(Echo(), name=n, description=n) for n in ("plain", "deep")]
    engine = RouterQueryEngine(selector=by_word, query_engine_tools=tools, llm=kit.Fake())
    prompts = engine.get_prompts()
    assert by_word.get_prompts() == {}
    assert not any(name.startswith("selector") for name in prompts)
    engine.update_prompts(prompts)
    assert engine.query(kit.HARD).metadata["selector_result"].ind == 1


async def test_questions_asked_at_once_each_get_their_own_decision(by_word: Any, kit: Any) -> None:
    questions = [kit.EASY, kit.HARD] * 10
    results = await asyncio.gather(*(by_word.aselect([PLAIN, DEEP], question) for question in questions))
    assert [result.ind for result in results] == [0, 1] * 10


def test_a_selector_and_an_llm_can_share_one_policy(kit: Any) -> None:
    policy = RoutingPolicy(kit.ScriptedRouter(kit.by_word), threshold=0.5)
    llm = RouteLLM(strong=kit.Fake(tag="strong"), weak=kit.Fake(tag="weak"), policy=policy)
    assert llm.complete(kit.HARD).text == "strong answer here"
    assert RouteLLMSelector(policy=policy).select([PLAIN, DEEP], kit.HARD).ind == 1
