"""What is known of an answer once it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routellm_core.errors import DataError

__all__ = ["Answer", "checked_answers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A model's answer. Only the text is needed; what else is given is used where a verifier learned from it.

    Attributes:
        text: The answer as text; empty if it only calls tools.
        finish_reason: As the provider says: "stop", "length", "tool_calls", ...
        logprobs: Natural logarithm of each token's probability, in order.
        tool_calls: Each {"name": ..., "arguments": ...}, the arguments as a mapping or as JSON text.
        tools: JSON schema of the arguments of each tool that was offered, by name; None: not checked.
        schema: JSON schema that the text was asked to hold to; None: none.
        resamples: Further answers of the same model to the same prompt, where they are cheap.
    """

    text: str
    finish_reason: str | None = None
    logprobs: Sequence[float] | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()
    tools: Mapping[str, Mapping[str, Any]] | None = None
    schema: Mapping[str, Any] | None = None
    resamples: Sequence[str] = ()


def checked_answers(
    answers: Sequence[str | Answer], prompts: Sequence[str | None] | None
) -> tuple[list[Answer], list[str | None]]:
    """The answers as records, and a prompt or None for each.

    Raises:
        DataError: One answer instead of a list of them, an element of another type, or lists of different lengths.
    """
    if isinstance(answers, (str, bytes, Answer)):
        raise DataError(f"expected a list of answers, got one {type(answers).__name__}; write [answer]")
    if isinstance(prompts, (str, bytes)):
        raise DataError(f"expected a list of prompts, got one {type(prompts).__name__}; write [prompt]")
    records = []
    for row, answer in enumerate(answers):
        record = Answer(text=answer) if isinstance(answer, str) else answer
        if not isinstance(record, Answer) or not isinstance(record.text, str):
            raise DataError(f"answer {row} is {type(answer).__name__}, not a str or an Answer with a text")
        records.append(record)
    questions: list[str | None] = [None] * len(records) if prompts is None else list(prompts)
    if len(questions) != len(records):
        raise DataError(f"{len(records)} answers need as many prompts, got {len(questions)}")
    for row, prompt in enumerate(questions):
        if prompt is not None and not isinstance(prompt, str):
            raise DataError(f"prompt {row} is {type(prompt).__name__}, not str or None")
    return records, questions
