"""Recorded calls read back, as what calibration and training take."""

from __future__ import annotations

import codecs
import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from routellm_core.errors import DataError
from routellm_core.policy import CollectedDecisions, Saving
from routellm_core.recording.call import Feedback, RecordedCall
from routellm_core.recording.sinks import check_database
from routellm_core.types import Decision, Usage

__all__ = ["Recording", "read_recording"]

_SQLITE_HEADER = b"SQLite format 3\0"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Calls in the order they ended, with their feedback.

    Attributes:
        calls: Every attempt.
        feedback: Of a call's id, or of its root's: the score given last.
        n_torn: Lines that a crash has torn, left out.
    """

    calls: Sequence[RecordedCall]
    feedback: Mapping[str, Feedback]
    n_torn: int = 0

    def score_of(self, call: RecordedCall) -> float | None:
        """Feedback to a call, 0..1: its own, else that of the run it was part of."""
        given = self.feedback.get(call.id) or self.feedback.get(call.root_id)
        return None if given is None else float(given.score)

    @property
    def answered(self) -> list[RecordedCall]:
        """The attempts that gave an answer."""
        return [call for call in self.calls if call.error is None]

    def win_rates(self, router: str | None = None) -> NDArray[np.float64]:
        """The win rate of each scored call, once a call however many attempts it took.

        Args:
            router: Only what this router scored; None: there must be one alone.

        Returns:
            Shape (n,), 0..1.

        Raises:
            DataError: Nothing was scored, or by several routers and none is named.
        """
        scored = {call.id: call for call in self.calls if call.win_rate is not None}
        names = sorted({str(call.decision.get("router")) for call in scored.values()})
        if router is None and len(names) > 1:
            raise DataError(f"the recording has win rates of several routers ({', '.join(names)}): name one")
        rates = [c.win_rate for c in scored.values() if router is None or c.decision.get("router") == router]
        if not rates:
            known = f"; it has some of {', '.join(names)}" if names else ""
            if any(call.qualities is not None for call in self.calls):
                known += "; it has calls that were routed by quality and cost, see `RecordedCall.qualities`"
            raise DataError(f"the recording holds no win rate{f' of router {router!r}' if router else ''}{known}")
        return np.array(rates, dtype=np.float64)

    def prompts(self) -> list[str]:
        """Each scored call's prompt, where prompts were recorded; the same prompt as often as it came."""
        seen: dict[str, str] = {}
        for call in self.calls:
            if call.prompt is not None and (call.win_rate is not None or call.qualities is not None):
                seen.setdefault(call.id, call.prompt)
        return list(seen.values())

    def scores(self) -> list[dict[str, Any]]:
        """Feedback as training takes it: rows of prompt, model (the route where it is not known) and score, 0..1.

        Only answers whose prompt was recorded and that got feedback. It is feedback to the answer that was given;
        what the other model would have got, nobody knows.
        """
        rows = []
        for call in self.answered:
            score = self.score_of(call)
            if call.prompt is not None and score is not None:
                rows.append({"prompt": call.prompt, "model": call.model or call.route, "score": score})
        return rows

    def scores_by_route(self, routes: Sequence[str] | None = None) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
        """Feedback as `fit_router` takes it: `fit_router(prompts, scores=scores)`.

        A prompt that came several times stands once; of feedback to several answers of one route it has the mean.

        Args:
            routes: Only feedback to the answers of these; None: of all.

        Returns:
            The different prompts that were answered with feedback, and for each route that has any the scores, 0..1,
            shape (n,), NaN where it did not answer.

        Raises:
            DataError: No prompts were recorded, there is no feedback to an answer whose prompt was, or all of it is
                about one route.
        """
        labels = self.labels(routes)
        return labels["prompts"], labels["scores"]

    def labels(self, routes: Sequence[str] | None = None, *, metadata: Sequence[str] = ()) -> dict[str, Any]:
        """`scores_by_route` with what else was known: `fit_router(**recording.labels(metadata=["tier"]))`.

        Args:
            routes: As for `scores_by_route`.
            metadata: Recorded columns. A prompt stands once for each combination of their values.

        Returns:
            "prompts" and "scores" as `scores_by_route`; "metadata" by column, one value a prompt, None where unknown,
            or None without columns; "groups": the prompts again where one stands more than once, else None.

        Raises:
            DataError: As `scores_by_route`, or no such call has a column.
        """
        given: dict[tuple[str | None, ...], dict[str, list[float]]] = {}
        seen: set[str] = set()
        for call in self.answered:
            score = self.score_of(call)
            if call.prompt is not None and score is not None and (routes is None or call.route in routes):
                known = call.metadata or {}
                seen |= known.keys()
                key = (call.prompt, *(known.get(column) for column in metadata))
                given.setdefault(key, {}).setdefault(call.route, []).append(score)
        if not given:
            if not any(call.prompt is not None for call in self.answered):
                raise DataError("the recording holds no prompts to learn from: record with prompts=True")
            of = "" if routes is None else f" of {' or '.join(map(repr, routes))}"
            raise DataError(f"the recording holds no feedback to an answer{of} whose prompt was recorded")
        found = sorted({route for scores in given.values() for route in scores})
        if len(found) < 2:
            raise DataError(
                f"all feedback is about the route {found[0]!r}; a router is learned from feedback to two or more"
            )
        table = {
            route: np.array([np.mean(scores[route]) if route in scores else np.nan for scores in given.values()])
            for route in found
        }
        if missing := [column for column in metadata if column not in seen]:
            raise DataError(
                f"the recording holds no metadata {missing[0]!r} of answers with feedback; it has "
                f"{', '.join(sorted(seen)) or 'none'}: record with metadata=[{missing[0]!r}]"
            )
        prompts, *columns = map(list, zip(*given, strict=True))
        return {
            "prompts": prompts,
            "scores": table,
            "metadata": dict(zip(metadata, columns, strict=True)) if metadata else None,
            "groups": prompts if len(set(prompts)) < len(prompts) else None,
        }

    def decisions(self) -> CollectedDecisions:
        """The answers' decisions with their token counts, as `collect_decisions()` gives them."""
        collected = CollectedDecisions()
        known = set(Decision.__dataclass_fields__)
        for call in self.answered:
            decision = Decision(**{name: value for name, value in call.decision.items() if name in known})
            usage = None
            if call.input_tokens is not None and call.output_tokens is not None:
                usage = Usage(input_tokens=call.input_tokens, output_tokens=call.output_tokens)
            collected.add(decision, usage)
        return collected

    def saving(self, prices: Mapping[str, Any], *, strong: str | None = None) -> Saving:
        """What the answers cost against all of them from the strong route, see `CollectedDecisions.saving`."""
        return self.decisions().saving(prices, strong=strong)

    def summary(self) -> dict[str, Any]:
        """Counts, shares, token counts, latencies and feedback, by route; plain JSON."""
        answered = self.answered
        by_route: dict[str, list[RecordedCall]] = defaultdict(list)
        for call in answered:
            by_route[call.route].append(call)
        return {
            "calls": len({call.id for call in self.calls}),
            "answers": len(answered),
            "failed_attempts": len(self.calls) - len(answered),
            "scorer_errors": sum(call.decision.get("reason") == "scorer_error" for call in answered),
            "torn_lines": self.n_torn,
            "routes": {
                route: {
                    "answers": len(calls),
                    "share": len(calls) / len(answered),
                    "input_tokens": sum(call.input_tokens or 0 for call in calls),
                    "output_tokens": sum(call.output_tokens or 0 for call in calls),
                    "without_usage": sum(call.input_tokens is None or call.output_tokens is None for call in calls),
                    "median_latency_s": _median([call.latency_s for call in calls]),
                    "mean_feedback": _mean([self.score_of(call) for call in calls]),
                    "feedback": sum(self.score_of(call) is not None for call in calls),
                }
                for route, calls in sorted(by_route.items())
            },
        }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def read_recording(path: str | Path) -> Recording:
    """What a `JsonlSink` or a `SqliteSink` has written, told apart by its content.

    Raises:
        DataError: No such file, or something else is in it; names the line.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_database = file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
        return _from_database(path) if is_database else _from_lines(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _from_lines(path: Path) -> Recording:
    calls: list[RecordedCall] = []
    feedback: dict[str, Feedback] = {}
    n_torn = 0
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        text = line.strip(b"\0 \t\r")  # some file systems end in NULs after the power failed
        if not text:
            n_torn += b"\0" in line
            continue
        try:
            record = json.loads(text.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            if text[:2] not in (b"{", b'{"'):
                raise DataError(f"{path}, line {number}: no record of a call") from error
            n_torn += 1
            continue
        try:
            if isinstance(record, dict) and "feedback" in record:
                _take(feedback, record["feedback"])
            else:
                calls.append(RecordedCall.from_dict(record))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return Recording(calls=calls, feedback=feedback, n_torn=n_torn)


def _from_database(path: Path) -> Recording:
    # immutable is not set: another process may be writing, and its log is read too
    db = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=5.0)
    try:
        check_database(db, path)
        feedback: dict[str, Feedback] = {}
        rows = db.execute("SELECT record FROM calls ORDER BY rowid")
        calls = [RecordedCall.from_dict(json.loads(record)) for (record,) in rows]
        for given, score, time in db.execute("SELECT id, score, time FROM feedback ORDER BY rowid"):
            _take(feedback, {"id": given, "score": score, "time": time})
    except (sqlite3.Error, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from error
    finally:
        db.close()
    return Recording(calls=calls, feedback=feedback)


def _take(feedback: dict[str, Feedback], record: Mapping[str, Any]) -> None:
    given = Feedback(id=str(record["id"]), score=record["score"], time=float(record["time"]))
    feedback[given.id] = given
