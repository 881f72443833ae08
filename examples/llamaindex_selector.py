"""Two query engines, a quick one and a thorough one: the question decides which of them is worth asking.

pip install '.[llama-index,prices]' llama-index-llms-openai-like    # in a clone
python examples/llamaindex_selector.py
"""

from __future__ import annotations

from pathlib import Path

from _backends import llamaindex_embedding, llamaindex_stand_in
from llama_index.core import Document, SummaryIndex, VectorStoreIndex
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.tools import QueryEngineTool

from llamaindex_routellm import RouteLLM, RouteLLMSelector
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"
DOCUMENTS = Path(__file__).resolve().parent / "documents"

QUESTIONS = (
    "When does the warehouse open?",
    "Two forklifts start to move 40 pallets from the dock to aisle 12 at 20:15. When do they finish, and how many more "
    "forklifts are needed to finish before closing?",
)


def main() -> None:
    weak, strong = map(llamaindex_stand_in, (WEAK, STRONG))  # online: weak, strong = WEAK, STRONG
    llm = RouteLLM(weak=weak, strong=strong)  # inside the engines, the same router chooses the model
    documents = [
        Document(text=text)
        for file in sorted(DOCUMENTS.glob("*.md"))
        for text in file.read_text(encoding="utf-8").split("\n\n")[1:]
    ]
    embedding = llamaindex_embedding()
    quick = VectorStoreIndex.from_documents(documents, embed_model=embedding).as_query_engine(
        llm=llm, similarity_top_k=1
    )
    thorough = SummaryIndex.from_documents(documents, embed_model=embedding).as_query_engine(
        llm=llm, response_mode="tree_summarize"
    )
    tools = [
        QueryEngineTool.from_defaults(quick, name="quick", description="The one paragraph that fits best."),
        QueryEngineTool.from_defaults(thorough, name="thorough", description="All documents, read in full."),
    ]
    engine = RouterQueryEngine.from_defaults(tools, llm=llm, selector=RouteLLMSelector(order=["quick", "thorough"]))

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            before = len(decisions)
            answer = engine.query(question)
            print(f"{question}\n  {answer.metadata['selector_result'].reason}\n  {answer}")
            print(f"  {' -> '.join(decision.route for decision in decisions[before:])}")
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))  # selections cost no tokens


if __name__ == "__main__":
    main()
