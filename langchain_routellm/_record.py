"""The decision on the answer: put there on copies, read back from the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from routellm_core.types import Decision

__all__ = ["PREFIX", "RECORD", "record_of", "route_of", "run_metadata", "stamped", "with_record"]

RECORD = "routellm"
"""Key of `response_metadata` that holds the record."""

PREFIX = "routellm_"
"""Of the keys in `config["configurable"]`, and of the child run's metadata."""


def record_of(message: BaseMessage | None) -> dict[str, Any] | None:
    """The record an answer carries, if any."""
    record = None if message is None else message.response_metadata.get(RECORD)
    return record if isinstance(record, dict) else None


def route_of(message: BaseMessage | None) -> str | None:
    """The route that gave an answer, if it is on record."""
    record = record_of(message)
    route = None if record is None else record.get("route")
    return route if isinstance(route, str) else None


def run_metadata(decision: Decision) -> dict[str, Any]:
    """The record as metadata of the child run: tokens leave through callbacks before any answer is stamped."""
    return {PREFIX + name: value for name, value in decision.to_dict().items()}


def with_record(metadata: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """An answer's metadata with the record of the decision."""
    record, inner = decision.to_dict(), metadata.get(RECORD)
    if isinstance(inner, dict):  # the backend is a router too, and needs its own record back in the next turn
        record["inner"] = inner
    return {**metadata, RECORD: record}


def stamped(value: Any, decision: Decision) -> Any:
    """A copy of an answer with its record; what cannot carry one comes back as it is.

    Never in place: the child run's trace and the backend's cache hold the very same message.
    """
    if isinstance(value, BaseMessage):
        return value.model_copy(update={"response_metadata": with_record(value.response_metadata, decision)})
    if isinstance(value, dict) and isinstance(value.get("raw"), BaseMessage):
        return {**value, "raw": stamped(value["raw"], decision)}
    if isinstance(value, LLMResult):
        return value.model_copy(
            update={
                "generations": [
                    [
                        g.model_copy(update={"message": stamped(g.message, decision)})
                        if isinstance(g, ChatGeneration)
                        else g
                        for g in generations
                    ]
                    for generations in value.generations
                ]
            }
        )
    return value
