"""More than two models: any number of routes, weakest first, with one cut between each two.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_three_models.py
"""

from __future__ import annotations

from _backends import stand_in

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions

NAMES = {"small": "openai:gpt-4.1-nano", "medium": "openai:gpt-4.1-mini", "large": "openai:gpt-4.1"}

QUESTIONS = (
    "Hi there!",
    "How many 5-digit numbers divisible by 9 have no repeated digits? Show all steps.",
    "Find the sum of all positive integers n such that n^2 + 19n + 92 is a perfect square. Prove that these are all.",
)


def main() -> None:
    models = {route: stand_in(name) for route, name in NAMES.items()}  # online: models = NAMES
    # without threshold= the cuts saved with the router give each route the same share
    llm = ChatRouteLLM(models=models, fallback="stronger")
    print("Cuts:", ", ".join(f"{cut:.3f}" for cut in llm.routing_policy.thresholds))

    with collect_decisions() as decisions:
        answers = llm.batch(list(QUESTIONS))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        record = answer.response_metadata["routellm"]
        print(f"{question}\n  win_rate {record['win_rate']:.3f} -> {record['route']}: {answer.text}")
    print(decisions.saving(NAMES))


if __name__ == "__main__":
    main()
