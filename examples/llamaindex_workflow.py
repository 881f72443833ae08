"""A workflow of one's own: a draft, a review and its tokens as they come; each step is routed by what it asks.

pip install '.[llama-index,prices]' llama-index-llms-openai-like    # in a clone
python examples/llamaindex_workflow.py
"""

from __future__ import annotations

import asyncio

from _backends import llamaindex_stand_in
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from llamaindex_routellm import RouteLLM, force_route
from routellm_core import collect_decisions

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"

TASKS = (
    "Write a one-line birthday wish for a colleague.",
    "Find all real x with log_2(x) + log_4(x + 6) = 3, and prove that there are no others.",
)
REVIEW = PromptTemplate("Correct what is wrong with this answer.\nQuestion: {query_str}\nAnswer: {draft}")


class Drafted(Event):
    """The weak model has answered."""

    task: str
    draft: str


class Token(Event):
    """A piece of the final answer."""

    text: str


class DraftAndReview(Workflow):
    """A draft from the weak model, reviewed by the one that the task is worth."""

    def __init__(self, llm: LLM) -> None:
        super().__init__(timeout=60)
        self.llm = llm

    @step
    async def draft(self, event: StartEvent) -> Drafted:
        with force_route("weak"):  # a draft may be wrong
            answer = await self.llm.acomplete(event.task)
        return Drafted(task=event.task, draft=str(answer))

    @step
    async def review(self, context: Context, event: Drafted) -> StopEvent:
        said = ""
        # scored is the template's query_str, not the draft
        async for token in await self.llm.astream(REVIEW, query_str=event.task, draft=event.draft):
            said += token
            context.write_event_to_stream(Token(text=token))
        return StopEvent(result=said)


async def perform(workflow: DraftAndReview, task: str) -> None:
    run = workflow.run(task=task)
    async for event in run.stream_events():
        if isinstance(event, Token):
            print(event.text, end="", flush=True)
    await run


def main() -> None:
    weak, strong = map(llamaindex_stand_in, (WEAK, STRONG))  # online: weak, strong = WEAK, STRONG
    workflow = DraftAndReview(RouteLLM(weak=weak, strong=strong))

    with collect_decisions() as decisions:
        for task in TASKS:
            before = len(decisions)
            print(f"{task}\n  ", end="")
            asyncio.run(perform(workflow, task))
            print("\n  " + ", then ".join(f"{decision.route} ({decision.reason})" for decision in decisions[before:]))
    print(decisions.saving({"weak": WEAK, "strong": STRONG}))


if __name__ == "__main__":
    main()
