"""An agent with tools: each task is routed once, and its tool loop stays with the model that began it.

pip install '.[llama-index,prices]' llama-index-llms-openai-like    # in a clone
python examples/llamaindex_agent.py
"""

from __future__ import annotations

import asyncio

from _backends import llamaindex_stand_in
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.memory import ChatMemoryBuffer

from llamaindex_routellm import RouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

QUESTIONS = (
    "What is the weather in Oslo?",
    "If 250 euros grow by 3% a year, after how many whole years are they worth more than 60000 in Yen?",
)


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}, 12 degrees"


def convert(amount: int, currency: str) -> str:
    """Convert an amount of euros to another currency."""
    return f"{amount} euros are {amount * 160} in {currency}"


async def ask(agent: FunctionAgent, question: str) -> None:
    run = agent.run(question, memory=ChatMemoryBuffer.from_defaults(token_limit=3000))
    async for event in run.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"  {event.tool_name}: {event.tool_output.content}")
    print(f"  {await run}")


def main() -> None:
    weak, strong = map(llamaindex_stand_in, (WEAK, STRONG))  # online: weak, strong = WEAK, STRONG
    agent = FunctionAgent(tools=[get_weather, convert], llm=RouteLLM(weak=weak, strong=strong))

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            before = len(decisions)
            print(question)
            asyncio.run(ask(agent, question))
            print("  " + ", ".join(f"{decision.route} ({decision.reason})" for decision in decisions[before:]))
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))


if __name__ == "__main__":
    main()
