"""Choosing between whole chains, not only models: RouterRunnable, a branch that is picked by a score.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_whole_chains.py
"""

from __future__ import annotations

from _backends import stand_in
from langchain.chat_models import init_chat_model  # noqa: F401 - for the line to change
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBranch, RunnablePassthrough

from langchain_routellm import RouterRunnable
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

QUESTIONS = (
    "/help",
    "What is the capital of France?",
    "A train leaves at 09:40 at 80 km/h, another from the same station at 10:25 at 110 km/h. When does it catch up?",
)


def chains() -> tuple[Runnable, Runnable]:
    """A quick answer of the small model; and a draft, checked in a second step, of the large one."""
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = map(init_chat_model, (WEAK, STRONG))
    answer = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("human", "{question}")])
    check = ChatPromptTemplate.from_messages([("system", "Check this draft: {draft}"), ("human", "{question}")])
    quick = answer | weak | StrOutputParser()
    careful = RunnablePassthrough.assign(draft=answer | strong | StrOutputParser()) | check | strong | StrOutputParser()
    return quick, careful


def main() -> None:
    quick, careful = chains()
    chain = RouterRunnable({"weak": quick, "strong": careful}, text=lambda x: x["question"])
    with collect_decisions() as decisions:
        for question in QUESTIONS[1:]:
            answer = chain.invoke({"question": question})
            print(f"{question}\n  win_rate {decisions[-1].win_rate:.3f} -> {decisions[-1].route}: {answer}")
    # both model calls of the careful chain are counted
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))

    # a branch that is there already: its conditions stay, and only its default is scored
    branch = RunnableBranch(
        (lambda x: x["question"].startswith("/"), lambda x: "Ask me anything."),
        quick,
    )
    scored = RouterRunnable.from_branches(branch, strong=careful, text=lambda x: x["question"])
    with collect_decisions() as decisions:
        scored.batch([{"question": question} for question in QUESTIONS], {"max_concurrency": 1})
    print("With a branch:", ", ".join(f"{decision.route} ({decision.reason})" for decision in decisions))


if __name__ == "__main__":
    main()
