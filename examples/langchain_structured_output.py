"""Structured output: the chosen model fills the schema in its own way.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_structured_output.py
"""

from __future__ import annotations

from typing import Literal

from _backends import stand_in
from pydantic import BaseModel, Field

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

MAILS = (
    "Where is my parcel? Your shipping page says nothing. Regards, Ann",
    "This is urgent: the penalty is 2% of 84000 per started week, at most 10%. How much is due after 37 days, and when "
    "is the cap reached? I need the calculation of your legal team. Bert",
)


class Ticket(BaseModel):
    """A mail, sorted."""

    sender: str = Field(description="Name of the person who wrote it")
    team: Literal["shipping", "legal", "other"]
    urgent: bool


def main() -> None:
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = WEAK, STRONG
    llm = ChatRouteLLM(weak=weak, strong=strong)
    # the parsed object cannot carry the record; include_raw=True returns the message too
    sorting = llm.with_structured_output(Ticket, include_raw=True)

    with collect_decisions() as decisions:
        for mail in MAILS:
            answer = sorting.invoke(mail)
            record = answer["raw"].response_metadata["routellm"]
            print(f"{mail[:50]}...\n  win_rate {record['win_rate']:.3f} -> {record['route']}: {answer['parsed']!r}")
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))


if __name__ == "__main__":
    main()
