"""What an answer took, for `collect_decisions()`; nothing here runs where nobody collects."""

from __future__ import annotations

import threading
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from langchain_routellm._record import record_of
from routellm_core.policy import observe_usage
from routellm_core.types import Decision, Usage

__all__ = ["AnswerUsage", "RunsUsage", "message_in"]


class AnswerUsage:
    """The token counts of one answer, added up from its chunks."""

    def __init__(self) -> None:
        self._input = 0
        self._output = 0
        self._is_known = False
        self.is_nested = False

    def add(self, value: Any) -> None:
        """An answer, or one more chunk of it."""
        message = message_in(value)
        if message is None:
            return
        if "inner" in (record_of(message) or {}):
            self.is_nested = True
        counts = message.usage_metadata
        if not counts:
            return
        self._is_known = True
        if counts.get("total_cost") == 0:
            return  # langchain marks what came out of a cache so, and leaves the counts of the first time in place
        self._input += counts.get("input_tokens", 0)
        self._output += counts.get("output_tokens", 0)

    def report(self, decision: Decision) -> None:
        """Tell the collectors, unless the backend is a router itself: then its own decision has told them."""
        if (usage := self.found) is not None:
            observe_usage(decision, usage)

    @property
    def found(self) -> Usage | None:
        """The counts; None if nobody said, or if a router inside has told the collectors itself."""
        known = self._is_known and not self.is_nested
        return Usage(input_tokens=self._input, output_tokens=self._output) if known else None


class RunsUsage(BaseCallbackHandler, AnswerUsage):
    """The token counts of the model runs below, for answers that do not carry them."""

    run_inline = True

    def __init__(self) -> None:
        super().__init__()
        AnswerUsage.__init__(self)
        self._lock = threading.Lock()

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        with self._lock:
            AnswerUsage.add(self, response)

    def add(self, value: Any) -> None:
        """The runs have said it already."""


def message_in(value: Any) -> AIMessage | None:
    """The message that an answer is or holds: the first of a result, the raw one of structured output."""
    if isinstance(value, LLMResult):
        # several generations of one prompt each carry the whole count
        first = value.generations[0][0] if value.generations and value.generations[0] else None
        value = first.message if isinstance(first, ChatGeneration) else None
    elif isinstance(value, dict):
        value = value.get("raw")
    return value if isinstance(value, AIMessage) else None
