"""A callback handler that writes routed calls down, for later calibration and training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from langchain_routellm._history import text_to_score
from langchain_routellm._record import PREFIX
from routellm_core.recording import Feedback, RecordedCall, open_sink, prompt_digest

if TYPE_CHECKING:
    from routellm_core.recording import Sink

__all__ = ["CallRecorder"]

_logger = logging.getLogger("routellm_core.langchain")


class CallRecorder(BaseCallbackHandler):
    """Records every call that a router sent to a chat model: the decision, what it took, how it ended.

    Give it like any handler: to a call (`config={"callbacks": [recorder]}`), to a chain, or to `ChatRouteLLM`. It
    keeps no text unless asked. A sink that fails is logged and disturbs no call.

    Args:
        sink: A file named *.jsonl or *.sqlite, or anything with the methods of `routellm_core.recording.Sink`.
        prompts: Keep the text of the newest human message (needed to train on feedback).
        answers: Keep the answers' text.
        digest_key: A secret of the application, without which nobody can check a guessed prompt against its digest.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: The file has another ending, or cannot be opened.
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
        digest_key: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.sink: Sink = open_sink(sink) if isinstance(sink, (str, Path)) else sink
        self.prompts = prompts
        self.answers = answers
        self._digest_key = digest_key
        self._clock = clock
        self._lock = threading.Lock()
        self._roots: dict[UUID, UUID] = {}
        self._open: dict[UUID, tuple[dict[str, Any], float]] = {}

    def feedback(self, run_id: UUID | str, score: float) -> None:
        """What somebody thought of an answer.

        Args:
            run_id: Of the routed call, or of the chain or agent run it was part of: then it is about all calls inside.
            score: 0 (useless) to 1 (as good as can be). Given again, the last one counts.

        Raises:
            DataError: The score is not a number from 0 to 1.
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
    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        with self._lock:
            self._roots[run_id] = run_id if parent_run_id is None else self._roots.get(parent_run_id, parent_run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._roots.pop(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._roots.pop(run_id, None)

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
        if metadata and PREFIX + "route" in metadata:
            self._started(text_to_score(messages[0], None), run_id, parent_run_id, metadata)

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
        if metadata and PREFIX + "route" in metadata:
            self._started("\n".join(prompts), run_id, parent_run_id, metadata)

    def _started(self, text: str | None, run_id: UUID, parent_run_id: UUID | None, metadata: dict[str, Any]) -> None:
        call = run_id if parent_run_id is None else parent_run_id
        model = [metadata[name] for name in ("ls_provider", "ls_model_name") if metadata.get(name)]
        record: dict[str, Any] = {
            "id": str(call),
            "time": self._clock(),
            "decision": {
                name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)
            },
            "model": ":".join(map(str, model)) or None,
        }
        if text:
            record["prompt_digest"] = prompt_digest(text, key=self._digest_key)
            if self.prompts:
                record["prompt"] = text
        with self._lock:
            record["root_id"] = str(self._roots.get(call, call))
            self._open[run_id] = record, time.perf_counter()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, lambda: _answer(response, with_text=self.answers))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, lambda: {"error": type(error).__name__})

    def _ended(self, run_id: UUID, outcome: Callable[[], dict[str, Any]]) -> None:
        with self._lock:
            record, started = self._open.pop(run_id, (None, 0.0))
        if record is None:
            return
        latency_s = round(time.perf_counter() - started, 6)
        try:
            self.sink.write(RecordedCall(**record, latency_s=latency_s, **outcome()))
        except Exception as error:  # noqa: BLE001 - a full disk must not cost an answer
            _logger.warning("a call was not recorded: %s", type(error).__name__)


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
