"""Route real prompts between two real models, through LangChain and through LlamaIndex, and print the bill.

Run it with `make demo`. Nothing set: a small local model answers, without key or network. With
ROUTELLM_STRONG and ROUTELLM_WEAK set to "provider:model" (and OPENAI_BASE_URL honoured), those answer.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import local_model

from routellm_core import Decision, Router, collect_decisions, load_router
from routellm_core.errors import RouteLLMError, UnknownKindError
from routellm_core.prices import cost_usd

HERE = Path(__file__).resolve().parent

PROMPTS = (  # from easy to hard, as a person would judge
    "Hi there!",
    "What is the capital of France?",
    "Translate 'good morning' into Spanish.",
    "Name three fruits that are red.",
    "Write a one-line birthday wish for a colleague.",
    "Rewrite this more politely: send me the report now.",
    "What is the difference between a list and a tuple in Python?",
    "A shop sells pens at 3 for $2. How much do 18 pens cost, and how many can I buy with $15?",
    "A train leaves at 09:40 at 80 km/h, another from the same station at 10:25 at 110 km/h. When does it catch up?",
    "What best explains stagflation?\nA. demand shock\nB. supply shock\nC. deflation\nD. full employment\nAnswer:",
    "Find all real x with log_2(x) + log_4(x + 6) = 3, and prove that there are no others.",
    "Let f be holomorphic on the unit disc with |f(z)| <= 1 and f(0) = 1/2. Bound |f'(0)| sharply, with proof.",
)

QUESTIONS = (  # about the files in documents/
    "When does the warehouse open?",
    "How often is the espresso machine descaled?",
    "What is a strong share?",
    "How long does one forklift need to move 15 pallets from the dock to aisle 12, and does it finish within an hour?",
)


@dataclass
class Backends:
    """The two routes, as one framework takes them, and how they are billed."""

    strong: Any
    weak: Any
    billed_as: dict[str, str]  # route -> "provider:model" of the price list
    stand_in: str  # said on every line; empty when both routes are what they claim to be


@dataclass
class Call:
    """One line of the demo."""

    decision: Decision
    input_tokens: int
    output_tokens: int

    def cost(self, backends: Backends, route: str) -> float | None:
        """Dollars, had `route` answered with as many tokens; None for a model that has no list price."""
        try:
            return cost_usd(backends.billed_as[route], input_tokens=self.input_tokens, output_tokens=self.output_tokens)
        except UnknownKindError:
            return None


def choose(local: Callable[[], Any]) -> Backends:
    """Endpoints from the environment, or the local model for both routes."""
    strong, weak = os.environ.get("ROUTELLM_STRONG"), os.environ.get("ROUTELLM_WEAK")
    if strong or weak:
        billed = {"strong": strong or weak or "", "weak": weak or strong or ""}
        stand_in = "" if strong and weak else "stand-in: one model plays both routes"
        return Backends(strong=billed["strong"], weak=billed["weak"], billed_as=billed, stand_in=stand_in)
    billed = {"strong": "openai:gpt-4.1", "weak": "openai:gpt-4.1-mini"}
    model = local()
    return Backends(strong=model, weak=model, billed_as=billed, stand_in="stand-in")


def show(question: str, answer: str, call: Call, backends: Backends) -> None:
    """Print one call: question, win rate, route, the answer's beginning, tokens and cost."""
    decision = call.decision
    cost = call.cost(backends, decision.route)
    scored = f"win_rate {decision.win_rate:.3f}" if decision.win_rate is not None else decision.reason
    stand_in = f"  [{backends.stand_in}]" if backends.stand_in else ""
    print(f"\nQ  {_begin(question, 96)}")
    print(
        f"   {scored} -> {decision.route}{stand_in}  {call.input_tokens}+{call.output_tokens} tokens, "
        f"{'price unknown' if cost is None else f'${cost:.6f}'}"
    )
    print(f"A  {_begin(answer, 96)}", flush=True)


def _begin(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def run_langchain(router: Router) -> tuple[list[Call], Backends]:
    """A chain: prompt | ChatRouteLLM | parser."""
    from langchain_core.callbacks import get_usage_metadata_callback
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    from langchain_routellm import ChatRouteLLM

    backends = choose(local_model.langchain_backend)
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    chain = prompt | ChatRouteLLM(strong=backends.strong, weak=backends.weak, router=router) | StrOutputParser()
    print("\n== LangChain: prompt | ChatRouteLLM | StrOutputParser ==")
    calls = []
    for question in PROMPTS:
        with collect_decisions() as decisions, get_usage_metadata_callback() as usage:
            answer = chain.invoke({"question": question})
        counted = list(usage.usage_metadata.values())
        if counted:
            tokens = (sum(u["input_tokens"] for u in counted), sum(u["output_tokens"] for u in counted))
        else:  # the local pipeline reports no usage
            tokens = (local_model.count_tokens(question), local_model.count_tokens(answer))
        calls.append(Call(decisions[-1], *tokens))
        show(question, answer, calls[-1], backends)
    return calls, backends


def run_llamaindex(router: Router) -> tuple[list[Call], Backends]:
    """A query engine over three documents; the question is scored, not the context around it."""
    from llama_index.core import PromptTemplate, SimpleDirectoryReader, VectorStoreIndex
    from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
    from llama_index.core.node_parser import SentenceSplitter

    from llamaindex_routellm import RouteLLM

    backends = choose(local_model.llamaindex_backend)
    is_local = not isinstance(backends.weak, str)
    # real endpoints report their usage in the events; for the local model its own tokenizer counts
    counter = TokenCountingHandler(tokenizer=local_model.load()[1].encode if is_local else None)
    llm = RouteLLM(strong=backends.strong, weak=backends.weak, router=router)
    index = VectorStoreIndex.from_documents(
        SimpleDirectoryReader(str(HERE / "documents")).load_data(),
        transformations=[SentenceSplitter(chunk_size=200, chunk_overlap=0)],
        embed_model=static_embedding(router),
    )
    template = PromptTemplate("{context_str}\n\nAnswer from the text above, in one sentence: {query_str}")
    engine = index.as_query_engine(llm=llm, similarity_top_k=2, text_qa_template=template)
    llm.callback_manager = CallbackManager([counter])
    print("\n== LlamaIndex: query engine over examples/documents ==")
    calls = []
    for question in QUESTIONS:
        counter.reset_counts()
        with collect_decisions() as decisions:
            answer = str(engine.query(question))
        # HuggingFaceLLM reports a chat twice: as the chat, and as the completion it makes of it
        events = counter.llm_token_counts[1::2] if is_local else counter.llm_token_counts
        tokens = (sum(e.prompt_token_count for e in events), sum(e.completion_token_count for e in events))
        calls.append(Call(decisions[-1], *tokens))
        show(question, answer, calls[-1], backends)
    return calls, backends


def static_embedding(router: Router) -> Any:
    """The router's own encoder as LlamaIndex embedding model, so that the index needs no other one."""
    from llama_index.core.base.embeddings.base import BaseEmbedding

    encoder = router.encoder
    if encoder is None:
        raise SystemExit("the demo's index is built with the router's encoder; this router has none")

    class StaticEmbedding(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return [float(x) for x in encoder.encode([text])[0]]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    return StaticEmbedding()


def bill(calls: list[Call], backends: Backends) -> None:
    """Print the strong share, and the bill beside those of all strong and all weak."""
    strong = sum(call.decision.route == "strong" for call in calls)
    print("\n== The bill ==")
    print(f"strong share  {strong}/{len(calls)} = {strong / len(calls):.2f}")
    costs = [
        (call.cost(backends, call.decision.route), call.cost(backends, "strong"), call.cost(backends, "weak"))
        for call in calls
    ]
    known = [(routed, high, low) for routed, high, low in costs if None not in (routed, high, low)]
    if len(known) < len(costs):
        print(f"no bill: {' or '.join(backends.billed_as.values())} is in no price list")
        return
    routed, high, low = (sum(column) for column in zip(*known, strict=True))
    print(f"routed        ${routed:.6f}")
    print(f"all strong    ${high:.6f}   (routing saves {1 - routed / high:.0%})")
    print(f"all weak      ${low:.6f}")
    if backends.stand_in == "stand-in":
        print(
            f"Both routes were the local {local_model.NAME}, a stand-in; its tokens are billed as if strong were "
            f"{backends.billed_as['strong']} and weak {backends.billed_as['weak']}."
        )
    elif backends.stand_in:
        print(f"Note: {backends.stand_in}.")


def main() -> None:
    """Both frameworks, then the bill."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
    try:
        router = load_router("default")
        calls, backends = run_langchain(router)
        more, _ = run_llamaindex(router)
        bill([*calls, *more], backends)
    except RouteLLMError as error:
        raise SystemExit(f"demo: {error}") from error


if __name__ == "__main__":
    main()
