"""One routed call, and what somebody thought of its answer, as they are written down."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from routellm_core.errors import DataError

__all__ = ["Feedback", "RecordedCall", "prompt_digest"]


def prompt_digest(text: str, *, key: bytes = b"") -> str:
    """32 hexadecimal digits that are the same for the same prompt and do not show it.

    Args:
        text: The prompt.
        key: A secret of the application. Without one, whoever guesses a prompt can check the guess.
    """
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCall:
    """One attempt of a routed call. A call whose first backend failed has a record for each attempt.

    Attributes:
        id: Of the routed call, as the framework's trace has it.
        root_id: Of the run it is part of (a chain, an agent); its own id when it stands alone.
        time: When it began, seconds since 1970, UTC.
        decision: The record, as `Decision.to_dict()` gives it.
        model: "provider:model" that was asked, where it is known.
        input_tokens: As the provider counted; None if it did not say.
        output_tokens: The same for the answer.
        latency_s: Seconds until the whole answer was there.
        error: Type of the error the backend raised; never its message.
        prompt_digest: Of the newest human message.
        prompt: Its text, only where that was asked for.
        answer: The answer's text, likewise.
        metadata: What else was known of the call, by column (topic, tier, ...), likewise; unknown ones are left out.
    """

    id: str
    root_id: str
    time: float
    decision: Mapping[str, Any]
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    error: str | None = None
    prompt_digest: str | None = None
    prompt: str | None = None
    answer: str | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def route(self) -> str:
        """Name of the route that was asked."""
        return str(self.decision["route"])

    @property
    def qualities(self) -> Mapping[str, float] | None:
        """Predicted quality of each route's answer; None unless the routes were chosen by quality and cost."""
        return self.decision.get("qualities")

    @property
    def win_rate(self) -> float | None:
        """P(strong beats weak), 0..1; None when nothing was scored."""
        value = self.decision.get("win_rate")
        return None if value is None else float(value)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without the fields that are None."""
        record = {name: value for name in _CALL_FIELDS if (value := getattr(self, name)) is not None}
        if self.metadata is not None:
            record["metadata"] = dict(self.metadata)
        return {**record, "decision": dict(self.decision)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> RecordedCall:
        """The call that `to_dict` described; keys of later versions are left out.

        Raises:
            DataError: It is no such record.
        """
        missing = [name for name in _NEEDED if name not in record] if isinstance(record, Mapping) else _NEEDED
        if missing:
            raise DataError(f"no record of a call: it has no {', '.join(missing)}")
        try:
            call = cls(**{name: record[name] for name in _CALL_FIELDS if name in record})
            _check(call)
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise DataError(f"no record of a call: {error}") from error
        return call


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "root_id", "model", "error", "prompt_digest", "prompt", "answer"), (str,)),
    **dict.fromkeys(("time", "latency_s"), (int, float)),
    **dict.fromkeys(("input_tokens", "output_tokens"), (int,)),
}
_NEEDED = ("id", "root_id", "time", "decision")
_CALL_FIELDS = tuple(field.name for field in fields(RecordedCall))


def _check(call: RecordedCall) -> None:
    if not isinstance(call.decision, Mapping) or not isinstance(call.decision.get("route"), str):
        raise ValueError("its decision names no route")
    if not isinstance(call.decision.get("reason"), str):
        raise ValueError("its decision names no reason")
    for name, kinds in _KINDS.items():
        value = getattr(call, name)
        is_missing = value is None and name not in _NEEDED
        if not is_missing and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(f"{name} is {type(value).__name__}, not {kinds[-1].__name__}")
    if call.metadata is not None:
        known = call.metadata.items() if isinstance(call.metadata, Mapping) else [(None, None)]
        if not all(isinstance(text, str) for pair in known for text in pair):
            raise ValueError("metadata is no mapping of texts to texts")
    qualities = call.decision.get("qualities")
    if qualities is not None:
        values = list(qualities.values()) if isinstance(qualities, Mapping) else [None]
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values):
            raise ValueError("qualities is no mapping of routes to finite numbers")
    win_rate = call.win_rate
    if win_rate is not None and not 0.0 <= win_rate <= 1.0:
        raise ValueError(f"win_rate is {win_rate}, outside [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What somebody thought of an answer.

    Attributes:
        id: Of the call, or of the run it was part of: then it is about all calls inside.
        score: 0 (useless) to 1 (as good as can be).
        time: When it was given, seconds since 1970, UTC.

    Raises:
        DataError: The score is not a number from 0 to 1.
    """

    id: str
    score: float
    time: float

    def __post_init__(self) -> None:
        score: Any = self.score
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:  # False for NaN
            raise DataError(f"feedback is a number from 0 (useless) to 1 (as good as can be), got {score!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"id": self.id, "score": float(self.score), "time": self.time}
