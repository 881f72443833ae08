"""A chat over documents, with memory: answers are routed by their question; rewriting follow-ups is left to the weak.

pip install '.[llama-index,prices]' llama-index-llms-openai-like    # in a clone
python examples/llamaindex_chat_engine.py
"""

from __future__ import annotations

from pathlib import Path

from _backends import llamaindex_embedding, llamaindex_stand_in
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.memory import ChatMemoryBuffer

from llamaindex_routellm import RouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"
DOCUMENT = Path(__file__).resolve().parent / "documents" / "warehouse.md"

QUESTIONS = (
    "When does the warehouse open?",
    "And until when are deliveries accepted?",
    "If a forklift moves one pallet at a time, how long do two of them take to move 40 from the dock to aisle 12?",
)


def main() -> None:
    weak, strong = map(llamaindex_stand_in, (WEAK, STRONG))  # online: weak, strong = WEAK, STRONG
    llm = RouteLLM(weak=weak, strong=strong, utility_backend="weak")
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in DOCUMENT.read_text(encoding="utf-8").split("\n\n")[1:]],
        embed_model=llamaindex_embedding(),
    )
    chat = CondensePlusContextChatEngine.from_defaults(
        retriever=index.as_retriever(similarity_top_k=2),
        llm=llm.rewriting,  # rewriting goes to the utility backend, answers are routed
        memory=ChatMemoryBuffer.from_defaults(token_limit=3000),
    )

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            before = len(decisions)
            print(f"{question}\n  ", end="")
            for token in chat.stream_chat(question).response_gen:
                print(token, end="", flush=True)
            print("".join(f"\n  {decision.route} ({decision.reason})" for decision in decisions[before:]))
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))


if __name__ == "__main__":
    main()
