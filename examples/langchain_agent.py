"""An agent with tools: each turn is routed once, and its tool loop stays with the model that began it.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_agent.py
"""

from __future__ import annotations

from _backends import stand_in
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

QUESTIONS = (
    "What is the weather in Oslo?",
    "If 250 euros grow by 3% a year, after how many whole years are they worth more than 60000 in Yen?",
)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}, 12 degrees"


@tool
def convert(amount: int, currency: str) -> str:
    """Convert an amount of euros to another currency."""
    return f"{amount} euros are {amount * 160} in {currency}"


def main() -> None:
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = WEAK, STRONG
    agent = create_agent(ChatRouteLLM(weak=weak, strong=strong), [get_weather, convert])

    with collect_decisions() as decisions:
        for question in QUESTIONS:
            state = agent.invoke({"messages": [("human", question)]})
            print(question)
            for message in state["messages"]:
                if isinstance(message, AIMessage):
                    record = message.response_metadata["routellm"]
                    did = ", ".join(call["name"] for call in message.tool_calls) or message.text
                    print(f"  {record['route']} ({record['reason']}): {did}")
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))


if __name__ == "__main__":
    main()
