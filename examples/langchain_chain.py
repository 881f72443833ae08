"""A chain whose model is chosen per question: prompt | ChatRouteLLM | parser.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_chain.py
"""

from __future__ import annotations

from _backends import stand_in
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

QUESTIONS = (
    "What is the capital of France?",
    "Rewrite this more politely: send me the report now.",
    "Find all real x with log_2(x) + log_4(x + 6) = 3, and prove that there are no others.",
)


def main() -> None:
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = WEAK, STRONG
    llm = ChatRouteLLM(weak=weak, strong=strong)
    prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("human", "{question}")])
    chain = prompt | llm | StrOutputParser()

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            answer = chain.invoke({"question": question})
            decision = decisions[-1]
            print(f"{question}\n  win_rate {decision.win_rate:.3f} -> {decision.route}: {answer}")
        print(f"Strong share {decisions.share():.2f}; {decisions.saving({'weak': WEAK, 'strong': STRONG})}")

        # one call can name its route
        chain.invoke({"question": QUESTIONS[0]}, {"configurable": {"routellm_route": "strong"}})
        print(f"The first question again, on order: {decisions[-1].route} ({decisions[-1].reason})")


if __name__ == "__main__":
    main()
