"""Answering from a folder of documents: the question decides which model answers, not the context around it.

pip install '.[llama-index,prices]' llama-index-llms-openai-like    # in a clone
python examples/llamaindex_rag.py
"""

from __future__ import annotations

from pathlib import Path

from _backends import llamaindex_embedding, llamaindex_stand_in
from llama_index.core import SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter

from llamaindex_routellm import RouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"
DOCUMENTS = Path(__file__).resolve().parent / "documents"

QUESTIONS = (
    "When does the warehouse open?",
    "How often is the espresso machine descaled?",
    "Two forklifts start to move 40 pallets from the dock to aisle 12 at 20:15. When do they finish, and how many more "
    "forklifts are needed to finish before closing?",
)


def named(path: str) -> dict[str, str]:
    return {"file": Path(path).name}


def main() -> None:
    weak, strong = map(llamaindex_stand_in, (WEAK, STRONG))  # online: weak, strong = WEAK, STRONG
    reader = SimpleDirectoryReader(DOCUMENTS, required_exts=[".md"], file_metadata=named)
    index = VectorStoreIndex.from_documents(
        reader.load_data(),
        embed_model=llamaindex_embedding(),
        transformations=[SentenceSplitter(chunk_size=80, chunk_overlap=0)],
    )
    engine = index.as_query_engine(llm=RouteLLM(weak=weak, strong=strong), similarity_top_k=3)

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            answer = engine.query(question)
            decision = decisions[-1]
            print(f"{question}\n  win_rate {decision.win_rate:.3f} -> {decision.route}: {answer}")
            print(f"  from {', '.join(sorted({node.metadata['file'] for node in answer.source_nodes}))}")
    print(f"Strong share {decisions.share():.2f}; {decisions.saving({'weak': WEAK, 'strong': STRONG})}")


if __name__ == "__main__":
    main()
