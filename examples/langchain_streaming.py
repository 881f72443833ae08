"""Streaming to a terminal, token by token; the first chunk says which model is speaking.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_streaming.py
"""

from __future__ import annotations

import asyncio

from _backends import stand_in

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

QUESTIONS = (
    "Write a one-line birthday wish for a colleague.",
    "Find all real x with log_2(x) + log_4(x + 6) = 3, and prove that there are no others.",
)


def speak(llm: ChatRouteLLM, question: str) -> None:
    for number, chunk in enumerate(llm.stream(question)):
        if number == 0:
            print(f"[{chunk.response_metadata['routellm']['route']}] ", end="")
        print(chunk.text, end="", flush=True)
    print()


async def speak_of_both(llm: ChatRouteLLM) -> None:
    """Two answers at once; every event of a model has its route in the metadata."""

    async def tokens(question: str) -> str:
        seen = ""
        async for event in llm.astream_events(question, version="v2"):
            if event["event"] == "on_chat_model_stream":
                seen = seen or f"[{event['metadata']['routellm_route']}] "
                seen += event["data"]["chunk"].text
        return seen

    print("\n".join(await asyncio.gather(*(tokens(question) for question in QUESTIONS))))


def main() -> None:
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = WEAK, STRONG
    llm = ChatRouteLLM(weak=weak, strong=strong)
    with collect_decisions() as decisions:
        for question in QUESTIONS:
            print(question)
            speak(llm, question)
        print("Both at once:")
        asyncio.run(speak_of_both(llm))
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))


if __name__ == "__main__":
    main()
