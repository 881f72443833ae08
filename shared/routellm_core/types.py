"""The records that travel between the parts: frozen, keyword-only, JSON-able."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

__all__ = ["Decision", "Fallback", "OnError", "Reason", "Stickiness", "Usage"]

Reason: TypeAlias = Literal[
    "score",  # the win rate was held against the threshold
    "forced",  # the caller named the route
    "tool_loop",  # an open tool loop stays where it began
    "pinned",  # the caller pinned all calls of a scope to the route of the first
    "conversation",  # the conversation stays where it began
    "capability",  # the scored route cannot take this request
    "budget",  # a budget overruled the score
    "escalated",  # the weak answer was not good enough
    "no_text",  # nothing to score in the call
    "scorer_error",  # scoring failed or was late
]
Stickiness: TypeAlias = Literal["none", "tool_loop", "conversation"]
Fallback: TypeAlias = Literal["none", "stronger", "any"]
OnError: TypeAlias = Literal["strong", "weak", "raise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Why one call went where it went. Holds no prompt text.

    Attributes:
        route: Name of the route that answers.
        reason: What decided, see `Reason`.
        win_rate: P(strong beats weak), 0..1; None when nothing was scored.
        threshold: The cut the win rate was held against (with N routes: the highest one it
            reached, else the lowest).
        router: Name of the router that scored.
        scorer_ms: Milliseconds spent scoring this prompt (a batch's time is shared equally).
        fallback_from: The route that failed before this one answered.
        error: Why scoring failed, as "Type: message"; never the prompt.
        qualities: Predicted quality of each route's answer, on the scale of the router's scores, where routes were
            chosen by quality and cost instead of a win rate.
    """

    route: str
    reason: Reason
    win_rate: float | None = None
    threshold: float | None = None
    router: str | None = None
    scorer_ms: float | None = None
    fallback_from: str | None = None
    error: str | None = None
    qualities: Mapping[str, float] | None = field(default=None, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """The record put on an answer: plain JSON, without the fields that are None."""
        record = {name: value for name in _DECISION_FIELDS if (value := getattr(self, name)) is not None}
        if self.qualities is not None:
            record["qualities"] = dict(self.qualities)
        return record


# dataclasses.asdict copies deeply and was a fifth of the adapters' profile
_DECISION_FIELDS = tuple(field.name for field in fields(Decision))


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What an answer took, as its provider counted.

    Attributes:
        input_tokens: Of the prompt, history and tools included.
        output_tokens: Of the answer.
    """

    input_tokens: int
    output_tokens: int
