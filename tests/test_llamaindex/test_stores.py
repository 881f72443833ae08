"""A real vector store and real clients: indexes in Qdrant, chats with memory, sub-questions, engines selected."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, SummaryIndex, VectorStoreIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.tools import QueryEngineTool

from llamaindex_routellm import RouteLLM, RouteLLMSelector
from routellm_core import collect_decisions, load_router
from routellm_core.testing import LoopbackOpenAI, Reply, last_text

qdrant = pytest.importorskip("qdrant_client")
stores = pytest.importorskip("llama_index.vector_stores.qdrant")
pytestmark = [
    # of the client, once its modules are loaded
    pytest.mark.filterwarnings("ignore::DeprecationWarning:qdrant_client"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning"),
]

# each text holds what the router looks for: scoring the context instead of the question shows as the wrong route
TEXTS = (
    "The town hall of Bern was built in 1415; historians prove it by the accounts.",
    "Cheese from the Emmental ripens for four months; dairies prove it by their books.",
    "The river Aare flows through Bern; the city archive can prove its floods.",
)
EASY, HARD = "When was the town hall of Bern built?", "Prove from the documents that the Aare flows through Bern."


class StaticEmbedding(BaseEmbedding):
    """The static embeddings of the default router."""

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        encoder = load_router("default").encoder.encoders[0]  # type: ignore[union-attr]
        vectors: list[list[float]] = encoder.encode(texts).tolist()
        return vectors

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vectors([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vectors([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._vectors([query])[0]


@pytest.fixture
def index() -> Iterator[VectorStoreIndex]:
    client = qdrant.QdrantClient(":memory:")
    yield made(client)
    client.close()


def made(client: Any) -> VectorStoreIndex:
    store = stores.QdrantVectorStore(client=client, collection_name="town")
    return VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=StaticEmbedding(model_name="static"),
    )


@pytest.fixture
def llm(kit: Any, client: Any) -> RouteLLM:
    words = {"additional_kwargs": {"stream_options": {"include_usage": True}}}
    routed: RouteLLM = kit.pair(
        strong=client("big", **words), weak=client("little", **words), utility_backend="weak"
    ).llm
    return routed


def asked(loopback: LoopbackOpenAI) -> list[str]:
    return [request["model"] for request in loopback.requests]


async def read(answer: Any) -> str:
    """The text of any kind of answer."""
    if inspect.isawaitable(answer):
        answer = await answer
    if hasattr(answer, "async_response_gen"):
        pieces = answer.async_response_gen
        return "".join([token async for token in (pieces() if callable(pieces) else pieces)])
    if hasattr(answer, "response_gen") and answer.response_gen is not None:
        return "".join(answer.response_gen)
    return str(answer)


# -- an index
@pytest.mark.parametrize("streaming", [False, True])
def test_a_query_over_qdrant_is_scored_by_the_question_and_packed_with_what_was_found(
    streaming: bool, index: VectorStoreIndex, llm: RouteLLM, loopback: LoopbackOpenAI
):
    engine = index.as_query_engine(llm=llm, similarity_top_k=2, streaming=streaming)
    with collect_decisions() as decisions:
        for question, model, text in ((EASY, "little", TEXTS[0]), (HARD, "big", TEXTS[2])):
            answer = engine.query(question)
            assert answer.source_nodes[0].text == text
            said = str(answer.get_response() if streaming else answer)
            assert said.startswith(f"{model} answers:")
            assert text in last_text(loopback.requests[-1])
            assert question in last_text(loopback.requests[-1])
    assert asked(loopback) == ["little", "big"]
    assert [(d.route, d.reason) for d in decisions] == [("weak", "score"), ("strong", "score")]
    saving = decisions.saving({"weak": (0.1, 0.4), "strong": (1.0, 4.0)})
    assert (saving.answers, saving.without_usage) == (2, 0)
    assert 0 < saving.fraction < 1


async def test_an_awaited_query_over_qdrant_is_too(llm: RouteLLM, loopback: LoopbackOpenAI):
    blocking, client = qdrant.QdrantClient(":memory:"), qdrant.AsyncQdrantClient(":memory:")
    embedding = StaticEmbedding(model_name="static")
    store = stores.QdrantVectorStore(client=blocking, aclient=client, collection_name="town")
    nodes = [Document(text=text) for text in TEXTS]
    for node in nodes:
        node.embedding = embedding.get_text_embedding(node.text)
    await store.async_add(nodes)
    engine = VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_query_engine(llm=llm)
    assert str(await engine.aquery(EASY)).startswith("little answers:")
    assert str(await engine.aquery(HARD)).startswith("big answers:")
    assert TEXTS[0] in last_text(loopback.requests[0])
    await client.close()
    blocking.close()


def test_an_index_on_disk_is_opened_again_and_routed_alike(tmp_path: Path, llm: RouteLLM, loopback: LoopbackOpenAI):
    def answers(index: VectorStoreIndex) -> list[str]:
        engine = index.as_query_engine(llm=llm, similarity_top_k=1)
        return [str(engine.query(question)) for question in (EASY, HARD)]

    first = qdrant.QdrantClient(path=str(tmp_path / "qdrant"))
    before = answers(made(first))
    first.close()
    again = qdrant.QdrantClient(path=str(tmp_path / "qdrant"))
    store = stores.QdrantVectorStore(client=again, collection_name="town")
    index = VectorStoreIndex.from_vector_store(store, embed_model=StaticEmbedding(model_name="static"))
    assert answers(index) == before
    again.close()
    assert asked(loopback) == ["little", "big"] * 2
    assert loopback.requests[:2] == loopback.requests[2:]


# -- a chat
@pytest.mark.parametrize("how", ["chat", "stream_chat"])
def test_a_chat_of_several_turns_rewrites_with_the_weak_model_and_routes_each_answer(
    how: str, index: VectorStoreIndex, llm: RouteLLM, loopback: LoopbackOpenAI
):
    engine, memory = chat_engine(index, llm)
    with collect_decisions() as decisions:
        for question in (EASY, HARD, EASY):
            answer = getattr(engine, how)(question)
            said = "".join(answer.response_gen) if how == "stream_chat" else str(answer)
            assert question in said
    check_chat(memory, decisions, loopback)


async def test_an_awaited_chat_of_several_turns_does_too(
    index: VectorStoreIndex, llm: RouteLLM, loopback: LoopbackOpenAI
):
    engine, memory = chat_engine(index, llm)
    with collect_decisions() as decisions:
        for question in (EASY, HARD, EASY):
            assert question in str(await engine.achat(question))
    check_chat(memory, decisions, loopback)


async def test_an_awaited_chat_that_streams_does_too(index: VectorStoreIndex, llm: RouteLLM, loopback: LoopbackOpenAI):
    engine, memory = chat_engine(index, llm)
    with collect_decisions() as decisions:
        for question in (EASY, HARD, EASY):
            answer = await engine.astream_chat(question)
            assert question in "".join([token async for token in answer.async_response_gen()])
    check_chat(memory, decisions, loopback)


def chat_engine(index: VectorStoreIndex, llm: RouteLLM) -> tuple[CondensePlusContextChatEngine, ChatMemoryBuffer]:
    memory = ChatMemoryBuffer.from_defaults(token_limit=10_000)
    retriever = awaitable_retriever(index)
    return CondensePlusContextChatEngine.from_defaults(retriever=retriever, llm=llm.rewriting, memory=memory), memory


def awaitable_retriever(index: VectorStoreIndex) -> Any:
    """Of a store that has no asynchronous client: what is awaited is found at once."""
    retriever = index.as_retriever(similarity_top_k=1)

    async def find(query_bundle: Any) -> Any:
        return retriever._retrieve(query_bundle)

    retriever._aretrieve = find
    return retriever


def check_chat(memory: ChatMemoryBuffer, decisions: Any, loopback: LoopbackOpenAI) -> None:
    # from the second turn on the question is rewritten first
    assert [(d.route, d.reason) for d in decisions] == [
        ("weak", "score"),
        ("weak", "forced"),
        ("strong", "score"),
        ("weak", "forced"),
        ("weak", "score"),
    ]
    assert asked(loopback) == ["little", "little", "big", "little", "little"]
    assert all(decisions.usage_of(d) is not None for d in decisions)
    assert [message.content for message in memory.get_all()[::2]] == [EASY, HARD, EASY]
    assert "routellm" not in json.dumps([m.model_dump(mode="json") for m in memory.get_all()])
    assert "routellm" not in json.dumps(loopback.requests) + json.dumps(loopback.headers)


# -- engines over engines
async def test_sub_questions_are_routed_one_by_one(index: VectorStoreIndex, llm: RouteLLM, loopback: LoopbackOpenAI):
    def reply(body: dict[str, Any]) -> Reply:
        if "sub-questions" in json.dumps(body["messages"]):
            items = [{"sub_question": question, "tool_name": "town"} for question in (EASY, HARD)]
            return Reply(text=f"```json\n{json.dumps({'items': items})}\n```")
        return Reply(text=f"{body['model']} knows")

    loopback.reply = reply
    whole = SummaryIndex.from_documents(
        [Document(text=text) for text in TEXTS], embed_model=StaticEmbedding(model_name="static")
    )
    tool = QueryEngineTool.from_defaults(whole.as_query_engine(llm=llm), name="town", description="About the town.")
    for use_async in (False, True):
        loopback.requests.clear()
        engine = SubQuestionQueryEngine.from_defaults(
            [tool],
            llm=llm,
            question_gen=LLMQuestionGenerator.from_defaults(llm=llm.utility),
            use_async=use_async,
            verbose=False,
        )
        with collect_decisions() as decisions:
            answer = await engine.aquery("When was the town hall built, and is it by the river?")
        assert str(answer) == "little knows"
        assert [d.reason for d in decisions] == ["forced", "score", "score", "score"]
        # asked at once, the parts come in any order
        assert sorted(d.route for d in decisions[1:3]) == ["strong", "weak"]
        assert sorted(asked(loopback)) == ["big", "little", "little", "little"]


@pytest.mark.parametrize("how", ["query", "aquery", "stream"])
async def test_a_selector_picks_the_engine_and_the_router_inside_the_model(
    how: str, index: VectorStoreIndex, llm: RouteLLM, loopback: LoopbackOpenAI, kit: Any
):
    streaming = how == "stream"
    whole = SummaryIndex.from_documents(
        [Document(text=text) for text in TEXTS], embed_model=StaticEmbedding(model_name="static")
    )
    quick = index.as_query_engine(llm=llm, similarity_top_k=1, streaming=streaming)
    quick._retriever = awaitable_retriever(index)
    engine = RouterQueryEngine.from_defaults(
        [
            QueryEngineTool.from_defaults(quick, name="quick", description="One paragraph."),
            QueryEngineTool.from_defaults(
                whole.as_query_engine(llm=llm, streaming=streaming), name="thorough", description="All of them."
            ),
        ],
        llm=llm,
        selector=RouteLLMSelector(policy=llm.policy),
    )
    with collect_decisions() as decisions:
        for question, name, found, model in ((EASY, "quick", 1, "little"), (HARD, "thorough", 3, "big")):
            answer = await engine.aquery(question) if how == "aquery" else engine.query(question)
            assert (await read(answer)).startswith(f"{model} answers:")
            assert answer.metadata["selector_result"].routellm["route"] == name
            assert [text in last_text(loopback.requests[-1]) for text in TEXTS].count(True) == found
    assert [d.route for d in decisions] == ["quick", "weak", "thorough", "strong"]
    assert asked(loopback) == ["little", "big"]
    assert [decisions.usage_of(d) is not None for d in decisions] == [False, True, False, True]
