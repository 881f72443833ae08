"""A callback handler that writes routed calls down, for later calibration and training."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from langchain_routellm._history import text_to_score
from langchain_routellm._record import PREFIX
from routellm_core.errors import ConfigurationError, RouteLLMError
from routellm_core.recording import Feedback, RecordedCall, open_sink, prompt_digest
from routellm_core.routers.metadata import known_category
from routellm_core.types import Decision

if TYPE_CHECKING:
    from routellm_core.recording import Sink

__all__ = ["CallRecorder"]

_logger = logging.getLogger("routellm_core.langchain")

_FIELDS = tuple(field.name for field in fields(Decision))
_OPEN_RUNS = 50_000  # remembered at most: a run whose stream is never read to its end does not say that it ended
_SLOW_S, _REST_S = 1.0, 30.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Run:
    """A run around calls: the outermost one it is part of; the record it was given, and the call that gave it."""

    root: UUID
    record: Mapping[str, Any]
    call: UUID | None


class CallRecorder(BaseCallbackHandler):
    """Records every call that a router sent to a chat model: the decision, what it took, how it ended.

    Give it like any handler: to a call (`config={"callbacks": [recorder]}`), to a chain, or to `ChatRouteLLM`. It
    keeps no text unless asked. A sink that fails is logged and costs no answer; one that took over a second to fail (a
    database that somebody has locked) is left alone for half a minute, and what ends meanwhile is not recorded. Copies
    and pickles write to the same file.

    Args:
        sink: A file named *.jsonl or *.sqlite, or anything with the methods of `routellm_core.recording.Sink`.
        prompts: Keep the text of the newest human message (needed to train on feedback).
        answers: Keep the answers' text.
        metadata: Keep these columns of the runs' metadata, such as ["tier"] (needed to fit a router that knows them);
            name none that holds what users wrote.
        digest_key: A secret of the application, without which nobody can check a guessed prompt against its digest.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: The file has another ending, or cannot be opened; `metadata` is no list.
        DataError: Something else is in the file.

    Example:
        >>> recorder = CallRecorder("calls.sqlite")
        >>> run_id = uuid4()
        >>> answer = chain.invoke(question, {"callbacks": [recorder], "run_id": run_id})
        >>> recorder.feedback(run_id, 1.0)
    """

    def __init__(
        self,
        sink: Sink | str | Path,
        *,
        prompts: bool = False,
        answers: bool = False,
        metadata: Collection[str] = (),
        digest_key: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(metadata, (str, bytes)) or not isinstance(metadata, Collection):
            raise ConfigurationError(f"metadata= is a list of columns, got {metadata!r}")
        self.sink: Sink = open_sink(sink) if isinstance(sink, (str, Path)) else sink
        self.prompts = prompts
        self.answers = answers
        self.metadata = tuple(metadata)
        self._digest_key = digest_key
        self._clock = clock
        self._rests_until = 0.0
        # by the UUIDs' integers, so that each use is one operation and needs no lock: a fork would copy a held one
        self._runs: OrderedDict[int, _Run] = OrderedDict()
        self._open: OrderedDict[int, tuple[dict[str, Any], float]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rests_until": 0.0, "_runs": OrderedDict(), "_open": OrderedDict()}

    def feedback(self, run_id: UUID | str, score: float) -> None:
        """What somebody thought of an answer.

        Args:
            run_id: Of the routed call, or of the outermost chain or agent run around it: then it is about all calls
                inside.
            score: 0 (useless) to 1 (as good as can be). Given again, the last one counts.

        Raises:
            DataError: The score is not a number from 0 to 1.
            StateError: The file cannot be written.
        """
        self.sink.feedback(Feedback(id=str(run_id), score=score, time=self._clock()))

    def close(self) -> None:
        """Close the sink, if it can be."""
        close = getattr(self.sink, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> CallRecorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- what is around a call: feedback may be about the whole of it
    def _enter(
        self,
        serialized: Any,
        given: Any,
        /,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _keep(self._runs, run_id.int, self._run(run_id, parent_run_id, _record(metadata)))

    def _leave(self, outcome: Any, /, *, run_id: UUID, **kwargs: Any) -> None:
        self._runs.pop(run_id.int, None)

    # positional-only, as each kind of run has another name for what went in and came out
    on_chain_start = on_tool_start = on_retriever_start = _enter  # type: ignore[assignment]
    on_chain_end = on_tool_end = on_retriever_end = _leave  # type: ignore[assignment]
    on_chain_error = on_tool_error = on_retriever_error = _leave  # type: ignore[assignment]

    def _run(self, run_id: UUID, parent_id: UUID | None, record: Mapping[str, Any]) -> _Run:
        parent = None if parent_id is None else self._runs.get(parent_id.int)
        root = parent.root if parent is not None else parent_id or run_id
        if not record:
            return _Run(root, record, None)
        # runs pass their record on to those inside: it is the outermost one with this record that the call began
        inherited = parent is not None and parent.record == record
        return _Run(root, record, parent.call if parent is not None and inherited else parent_id or run_id)

    # -- the call itself
    def on_chat_model_start(
        self,
        serialized: Any,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if record := _record(metadata):
            self._started(text_to_score(messages[0], None), run_id, parent_run_id, record, metadata or {})

    def on_llm_start(
        self,
        serialized: Any,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if record := _record(metadata):
            self._started("\n".join(prompts), run_id, parent_run_id, record, metadata or {})

    def _started(
        self,
        text: str | None,
        run_id: UUID,
        parent_run_id: UUID | None,
        decision: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        run = self._run(run_id, parent_run_id, decision)
        model = [metadata[name] for name in ("ls_provider", "ls_model_name") if metadata.get(name)]
        record: dict[str, Any] = {
            "id": str(run.call),
            "root_id": str(run.root),
            "time": self._clock(),
            "decision": decision,
            "model": ":".join(map(str, model)) or None,
        }
        if text:
            record["prompt_digest"] = prompt_digest(text, key=self._digest_key)
            if self.prompts:
                record["prompt"] = text
        known = {name: known_category(name, metadata.get(name)) for name in self.metadata}
        if known := {name: text for name, text in known.items() if text is not None}:
            record["metadata"] = known
        _keep(self._open, run_id.int, (record, time.perf_counter()))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, lambda: _answer(response, with_text=self.answers))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, lambda: {"error": type(error).__name__})

    def _ended(self, run_id: UUID, outcome: Callable[[], dict[str, Any]]) -> None:
        record, started = self._open.pop(run_id.int, (None, 0.0))
        now = time.perf_counter()
        if record is None or now < self._rests_until:
            return
        try:
            self.sink.write(RecordedCall(**record, latency_s=round(now - started, 6), **outcome()))
        except Exception as error:  # noqa: BLE001 - a full disk must not cost an answer
            what = str(error) if isinstance(error, RouteLLMError) else type(error).__name__
            _logger.warning("a call was not recorded: %s", what)
            if time.perf_counter() - now > _SLOW_S:
                self._rests_until = time.perf_counter() + _REST_S


def _record(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record in a run's metadata; empty where no router has sent it."""
    given = metadata or {}
    if not all(isinstance(given.get(PREFIX + name), str) for name in ("route", "reason")):
        return {}
    return {name: given[PREFIX + name] for name in _FIELDS if PREFIX + name in given}


def _keep(runs: OrderedDict[int, T], number: int, value: T) -> None:
    runs[number] = value
    if len(runs) > _OPEN_RUNS:
        runs.popitem(last=False)


def _answer(response: LLMResult, *, with_text: bool) -> dict[str, Any]:
    generation = response.generations[0][0] if response.generations and response.generations[0] else None
    if generation is None:
        return {}
    outcome: dict[str, Any] = {"answer": generation.text} if with_text else {}
    message = generation.message if isinstance(generation, ChatGeneration) else None
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    if usage:
        outcome |= {"input_tokens": usage.get("input_tokens"), "output_tokens": usage.get("output_tokens")}
    return outcome
