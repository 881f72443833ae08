"""Retrieval chains of real parts: Qdrant in memory, the default encoder as embeddings, ChatOpenAI over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pytest
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableBranch, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_openai import ChatOpenAI

from langchain_routellm import ChatRouteLLM, RouterRunnable
from routellm_core import Router, collect_decisions, load_router
from routellm_core.encoders import StackedEncoder
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter
from tests.test_langchain.fakes import RECORD, Runs, by_words, routed

qdrant = pytest.importorskip("langchain_qdrant")

FACTS = (
    "The warehouse opens at seven in the morning on weekdays.",
    "The espresso machine is descaled every second Friday.",
    "A forklift moves six pallets an hour from the dock to aisle twelve.",
    "It is hard to park at the office on market days.",
)


class StaticEmbeddings(Embeddings):
    """The static embeddings inside the default router; no other model is needed."""

    def __init__(self, router: Router) -> None:
        assert isinstance(router.encoder, StackedEncoder)
        self.encoder = router.encoder.encoders[0]  # beside them are a few numbers on a text's shape, not its content

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(x) for x in vector] for vector in self.encoder.encode(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    embeddings = StaticEmbeddings(load_router("default"))
    found = qdrant.QdrantVectorStore.from_texts(
        list(FACTS), embeddings, metadatas=[{"number": i} for i in range(len(FACTS))], location=":memory:"
    )
    yield found
    found.client.close()


def client(server: LoopbackOpenAI, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=server.url, api_key="none", max_retries=0, stream_usage=True)  # type: ignore[arg-type]


def over(server: LoopbackOpenAI, **options: Any) -> ChatRouteLLM:
    return routed(**{"weak": client(server, "small"), "strong": client(server, "large"), **options})


def joined(documents: list[Document]) -> str:
    return "\n".join(document.page_content for document in documents)


def sources(store: Any, k: int = 2) -> Runnable[Any, Any]:
    return itemgetter("question") | store.as_retriever(search_kwargs={"k": k}) | joined


ONE_MESSAGE = ChatPromptTemplate.from_messages([("human", "Context:\n{context}\n\nQuestion: {question}")])
TWO_MESSAGES = ChatPromptTemplate.from_messages([("system", "Context:\n{context}"), ("human", "{question}")])


def question_only(messages: list[BaseMessage]) -> str:
    return str(messages[-1].text).rpartition("Question: ")[2]


# -- the question, not the context
async def test_with_the_context_in_the_system_message_the_question_is_what_is_scored(
    store: Any, loopback: LoopbackOpenAI
) -> None:
    router = ScriptedRouter(by_words)
    chain = (
        RunnablePassthrough.assign(context=sources(store))
        | TWO_MESSAGES
        | over(loopback, router=router)
        | StrOutputParser()
    )
    question = "Where can I park at the office on market days?"
    assert await chain.ainvoke({"question": question}) == f"small answers: {question}"
    assert router.calls == [[question]]
    sent = loopback.requests[0]["messages"]
    assert sent[0]["content"].startswith("Context:\nIt is hard to park")  # what was found says "hard"; it is not scored
    assert "".join(chain.stream({"question": "a hard question about the espresso machine"})).startswith("large answers")


def test_with_the_context_in_the_same_message_text_says_where_the_question_is(
    store: Any, loopback: LoopbackOpenAI
) -> None:
    question = "Where can I park at the office on market days?"
    for text, model in ((None, "large"), (question_only, "small")):
        router = ScriptedRouter(by_words)
        chain = (
            RunnablePassthrough.assign(context=sources(store)) | ONE_MESSAGE | over(loopback, router=router, text=text)
        )
        assert chain.invoke({"question": question}).response_metadata["model_name"] == model
        scored = router.calls[0][0]
        assert (scored == question) is (text is not None)


def test_the_default_router_splits_real_questions_over_a_real_store(store: Any, loopback: LoopbackOpenAI) -> None:
    chain = (
        RunnablePassthrough.assign(context=sources(store))
        | TWO_MESSAGES
        | ChatRouteLLM(weak=client(loopback, "small"), strong=client(loopback, "large"))
    )
    questions = [
        "Hi there!",
        "Let f be holomorphic on the unit disc with |f(z)| <= 1 and f(0) = 1/2. Bound |f'(0)| sharply, with proof.",
    ]
    with collect_decisions() as decisions:
        answers = chain.batch([{"question": question} for question in questions], {"max_concurrency": 2})
    assert [answer.response_metadata["model_name"] for answer in answers] == ["small", "large"]
    assert sorted(d.route for d in decisions) == ["strong", "weak"]
    assert all(d.win_rate is not None for d in decisions)


# -- choosing between retrievers, and between whole chains
async def test_a_hard_question_gets_the_wider_retriever(store: Any) -> None:
    chain: RouterRunnable[Any, Any] = RouterRunnable(
        {"narrow": store.as_retriever(search_kwargs={"k": 1}), "wide": store.as_retriever(search_kwargs={"k": 3})},
        router=ScriptedRouter(by_words),
        threshold=0.5,
    )
    runs = Runs()
    with collect_decisions() as decisions:
        found = chain.invoke("When does the warehouse open?", {"callbacks": [runs]})
        assert [document.page_content for document in found] == [FACTS[0]]
        assert len(await chain.ainvoke("a hard question on pallets and forklifts")) == 3
        batch = chain.batch(["espresso", "hard espresso"], {"max_concurrency": 1})
        assert [len(documents) for documents in batch] == [1, 3]
        assert [len(documents) for documents in chain.stream("hard espresso")] == [3]
    assert [d.route for d in decisions] == ["narrow", "wide", "narrow", "wide", "wide"]
    assert found[0].metadata["number"] == 0  # documents come back as they are, without a record
    assert "routellm" not in json.dumps(found[0].metadata)


async def test_whole_chains_are_routed_by_the_question_and_their_tokens_are_counted(
    store: Any, loopback: LoopbackOpenAI
) -> None:
    def answering(model: str, k: int) -> Runnable[Any, str]:
        return (
            RunnablePassthrough.assign(context=sources(store, k))
            | TWO_MESSAGES
            | client(loopback, model)
            | StrOutputParser()
        )

    chain: RouterRunnable[Any, str] = RouterRunnable(
        {"weak": answering("small", 1), "strong": answering("large", 3)},
        router=ScriptedRouter(by_words),
        threshold=0.5,
        text=lambda x: x["question"],
    )
    easy, hard = {"question": "When does the warehouse open?"}, {"question": "a hard one"}
    with collect_decisions() as decisions:
        assert chain.invoke(easy) == "small answers: When does the warehouse open?"
        assert await chain.ainvoke(hard) == "large answers: a hard one"
        assert "".join(chain.stream(hard)) == "large answers: a hard one"
        assert "".join([chunk async for chunk in chain.astream(easy)]) == "small answers: When does the warehouse open?"
        assert chain.batch([easy, hard], {"max_concurrency": 1}) == [
            "small answers: When does the warehouse open?",
            "large answers: a hard one",
        ]
    assert [d.route for d in decisions] == ["weak", "strong", "strong", "weak", "weak", "strong"]
    # the endpoint counts words: "small answers: When does the warehouse open?" has 7, "large answers: a hard one" 5
    counted = [decisions.usage_of(d) for d in decisions]
    assert [usage.output_tokens for usage in counted if usage is not None] == [7, 5, 5, 7, 7, 5]
    saving = decisions.saving({"weak": (0.0, 1.0), "strong": (0.0, 10.0)})
    # three answers of 7 tokens at $1 and three of 5 at $10 a million, instead of all 36 at $10
    assert saving.usd == pytest.approx((21 * 1 + 15 * 10) / 1e6)
    assert saving.all_strong_usd == pytest.approx(36 * 10 / 1e6)
    asked = [json.dumps(request["messages"][0]) for request in loopback.requests]
    assert [sum(fact[:20] in text for fact in FACTS) for text in asked[:3]] == [1, 3, 3]


async def test_tokens_of_the_chosen_chain_are_streamed_through_events(store: Any, loopback: LoopbackOpenAI) -> None:
    def answering(model: str) -> Runnable[Any, str]:
        return (
            RunnablePassthrough.assign(context=sources(store))
            | TWO_MESSAGES
            | client(loopback, model)
            | StrOutputParser()
        )

    chain: RouterRunnable[Any, str] = RouterRunnable(
        {"weak": answering("small"), "strong": answering("large")}, router=ScriptedRouter(by_words), threshold=0.5
    )
    events = [event async for event in chain.astream_events({"question": "a hard one"}, version="v2")]
    tokens = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in tokens) == "large answers: a hard one"
    assert {event["metadata"]["routellm_route"] for event in tokens} == {"strong"}
    assert [event["name"] for event in events if event["event"] == "on_retriever_end"] == ["VectorStoreRetriever"]
    assert events[-1]["data"]["output"] == "large answers: a hard one"


# -- with a conversation before the question
_OLD = [
    pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated"),
    pytest.mark.filterwarnings("ignore:The class `InMemoryChatMessageHistory` was deprecated"),
]


def old_history(function: Any) -> Any:
    """LangChain deprecates these in favour of LangGraph's persistence, and people have them."""
    for mark in _OLD:
        function = mark(function)
    return function


CONDENSE = ChatPromptTemplate.from_messages(
    [("system", "Condense."), MessagesPlaceholder("chat_history"), ("human", "{question}")]
)


def condensing(body: dict[str, Any]) -> Reply | str:
    """The model that makes a question stand alone; others answer."""
    if body["messages"][0]["content"] == "Condense.":
        return Reply(text="When does the warehouse open on weekdays?")
    return f"{body['model']} answers: {body['messages'][-1]['content']}"


def conversational(store: Any, server: LoopbackOpenAI, llm: ChatRouteLLM) -> Runnable[Any, Any]:
    """A history-aware retriever in plain LCEL: without a history the question is looked up as it is."""
    standalone: Runnable[Any, str] = RunnableBranch(
        (lambda x: not x.get("chat_history"), itemgetter("question")),
        CONDENSE | client(server, "tiny") | StrOutputParser(),
    )
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Context:\n{context}"), MessagesPlaceholder("chat_history", optional=True), ("human", "{question}")]
    )
    found = standalone | store.as_retriever(search_kwargs={"k": 1}) | joined
    return RunnablePassthrough.assign(context=found) | prompt | llm


@old_history
async def test_a_conversation_is_kept_and_a_follow_up_is_looked_up_and_scored_as_what_it_means(
    store: Any, loopback: LoopbackOpenAI
) -> None:
    loopback.reply = condensing
    router, histories = ScriptedRouter(by_words), dict[str, InMemoryChatMessageHistory]()
    chain = RunnableWithMessageHistory(
        conversational(store, loopback, over(loopback, router=router)),
        lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="question",
        history_messages_key="chat_history",
    )
    config: Any = {"configurable": {"session_id": "one"}}
    first = "a hard question: when can I bring the pallets?"
    assert chain.invoke({"question": first}, config).response_metadata["model_name"] == "large"
    answer = await chain.ainvoke({"question": "and on weekdays?"}, config)
    # 16 characters are a follow-up: scored together with the hard question before it
    assert router.calls == [[first], [f"{first}\nand on weekdays?"]]
    assert answer.response_metadata[RECORD]["route"] == "strong"
    sent = loopback.requests[-1]["messages"]
    assert sent[0]["content"] == f"Context:\n{FACTS[0]}"  # found through the condensed question
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    stored = histories["one"].messages
    assert [message.type for message in stored] == ["human", "ai", "human", "ai"]
    assert stored[1].response_metadata[RECORD]["route"] == "strong"
    other: Any = {"configurable": {"session_id": "two"}}
    assert chain.invoke({"question": "and on weekdays?"}, other).response_metadata["model_name"] == "small"


@old_history
def test_a_conversation_can_stay_on_the_route_where_it_began(store: Any, loopback: LoopbackOpenAI) -> None:
    loopback.reply = condensing
    history = InMemoryChatMessageHistory()
    chain = RunnableWithMessageHistory(
        conversational(store, loopback, over(loopback, stickiness="conversation")),
        lambda session_id: history,
        input_messages_key="question",
        history_messages_key="chat_history",
    )
    config: Any = {"configurable": {"session_id": "one"}}
    chain.invoke({"question": "an easy one"}, config)
    answer = chain.invoke({"question": "a hard question, long enough to stand alone"}, config)
    assert (answer.response_metadata[RECORD]["route"], answer.response_metadata[RECORD]["reason"]) == (
        "weak",
        "conversation",
    )


def test_langchains_own_retrieval_chains_take_the_router_as_their_model(store: Any, loopback: LoopbackOpenAI) -> None:
    chains = pytest.importorskip("langchain_classic.chains")
    documents = pytest.importorskip("langchain_classic.chains.combine_documents")
    loopback.reply = condensing
    router = ScriptedRouter(by_words)
    llm = over(loopback, router=router)
    condense = ChatPromptTemplate.from_messages(
        [("system", "Condense."), MessagesPlaceholder("chat_history"), ("human", "{input}")]
    )
    retriever = store.as_retriever(search_kwargs={"k": 1})
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Context:\n{context}"), MessagesPlaceholder("chat_history"), ("human", "{input}")]
    )
    chain = chains.create_retrieval_chain(
        chains.create_history_aware_retriever(client(loopback, "tiny"), retriever, condense),
        documents.create_stuff_documents_chain(llm, prompt),
    )
    history = [("human", "a hard question: when can I bring the pallets?"), ("ai", "At seven.")]
    answer = chain.invoke({"input": "and on weekdays?", "chat_history": history})
    assert answer["answer"] == "large answers: and on weekdays?"
    assert [document.page_content for document in answer["context"]] == [FACTS[0]]
    assert router.calls == [["a hard question: when can I bring the pallets?\nand on weekdays?"]]
    assert chain.invoke({"input": "easy", "chat_history": []})["answer"] == "small answers: easy"
