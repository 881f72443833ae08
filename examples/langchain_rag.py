"""Answering from documents: the question decides which model answers, not the context around it.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_rag.py
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

from _backends import stand_in
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_routellm import ChatRouteLLM
from routellm_core import Router, collect_decisions, load_router

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"
DOCUMENTS = Path(__file__).resolve().parent / "documents"

QUESTIONS = (
    "When does the warehouse open?",
    "How often is the espresso machine descaled?",
    "Two forklifts start to move 40 pallets from the dock to aisle 12 at 20:15. When do they finish, and how many more "
    "forklifts are needed to finish before closing?",
)


class StaticEmbeddings(Embeddings):
    """The static embeddings inside the default router, so that the example needs no others; any will do."""

    def __init__(self, router: Router) -> None:
        self.encoder = router.encoder.encoders[0]  # type: ignore[union-attr]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.encoder.encode(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def main() -> None:
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = WEAK, STRONG
    router = load_router("default")
    store = InMemoryVectorStore(StaticEmbeddings(router))
    for file in sorted(DOCUMENTS.glob("*.md")):
        paragraphs = file.read_text(encoding="utf-8").split("\n\n")
        store.add_documents([Document(text, metadata={"source": file.name}) for text in paragraphs[1:]])

    # the newest human message is scored; with the context in the system message that is the question alone. Where
    # one message holds both, say which part: ChatRouteLLM(..., text=lambda messages: ...)
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from this alone. Context:\n{context}"), ("human", "{question}")]
    )
    llm = ChatRouteLLM(weak=weak, strong=strong, router=router)
    chain = (
        RunnablePassthrough.assign(context=itemgetter("question") | store.as_retriever(search_kwargs={"k": 2}) | joined)
        | prompt
        | llm
        | StrOutputParser()
    )

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            answer = chain.invoke({"question": question})
            decision = decisions[-1]
            print(f"{question}\n  win_rate {decision.win_rate:.3f} -> {decision.route}: {answer}")
    print(f"Strong share {decisions.share():.2f}; {decisions.saving({'weak': WEAK, 'strong': STRONG})}")


if __name__ == "__main__":
    main()
