"""The second decision of a call: the weak answer is there, held back, and may not be good enough."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_routellm._config import aside
from langchain_routellm._record import PREFIX, stamped
from langchain_routellm._usage import AnswerUsage, message_in
from routellm_core.policy import EscalationPolicy, RouteRequest, observe_discarded
from routellm_core.types import Decision
from routellm_core.verifiers import Answer

if TYPE_CHECKING:
    from langchain_routellm._call import Call

__all__ = ["BUFFERED", "Cascade"]

BUFFERED = PREFIX + "buffered"
"""In the metadata of a backend's run: nobody sees this answer before it is whole and verified, and perhaps never."""


class Cascade:
    """What one call knows of its weak answer. An adapter's part of `EscalationPolicy`."""

    def __init__(self, call: Call, policy: EscalationPolicy) -> None:
        self._call = call
        self._policy = policy
        self._request = RouteRequest(text=None)
        self._pending: Decision | None = None  # the attempt whose answer is to be verified
        self._discarded: tuple[Decision, Any, Any] | None = None  # with the answer, and as it was given to us

    def before(self, decision: Decision, config: RunnableConfig, *, may_wait: bool) -> Runnable[Any, Any] | None:
        """Prepare an attempt: its config is changed where its answer is to be verified.

        Returns:
            What gives the weak answer again, where the strong model has failed after it; else None.
        """
        if self._discarded is not None and decision.route == self._discarded[0].route:
            return _Kept(self._discarded[2])
        self._pending = None
        if self._policy.may_escalate(decision):  # else the request need not be looked at
            request = self._call.request(may_wait=may_wait)
            in_tool_loop = self._call.host.in_tool_loop(self._call.value)
            if self._policy.may_escalate(decision, request, in_tool_loop=in_tool_loop):
                self._pending, self._request = decision, request
                # its tokens leave through callbacks before anybody has verified them
                config["tags"] = [*(config.get("tags") or []), "nostream"]
                config["metadata"] = {**config.get("metadata", {}), BUFFERED: True}
        return None

    def buffers(self, decision: Decision) -> bool:
        """Whether this attempt's answer is held back until it is whole and verified."""
        return decision is self._pending

    def verified(self, run: CallbackManagerForChainRun, decision: Decision, answer: Any, given: Any) -> Decision:
        """The decision for the answer that the caller gets: of another route, and the call goes on there.

        Args:
            run: The call's own; a verifier that calls a model does so below it.
            decision: Of the attempt.
            answer: The whole of it.
            given: The same as the target gave it: an answer, or a list of chunks or events.
        """
        found = self._to_verify(decision, answer)
        if found is None:
            return decision
        with self._aside(run):
            final = self._policy.verified(decision, found, self._request.text)
        return self._noted(decision, final, answer, given)

    async def averified(
        self, run: AsyncCallbackManagerForChainRun, decision: Decision, answer: Any, given: Any
    ) -> Decision:
        """`verified` without blocking the event loop."""
        found = self._to_verify(decision, answer)
        if found is None:
            return decision
        with self._aside(run):
            final = await self._policy.averified(decision, found, self._request.text)
        host = self._call.host
        if final.route != decision.route and not host.is_ready(final.route):
            await asyncio.to_thread(host.make_ready, final.route)
            # only now is it known what this route can take
            if not self._policy.may_escalate(decision, self._request):
                return decision
        return self._noted(decision, final, answer, given)

    def observe(self, decision: Decision) -> None:
        """Tell the collectors what the weak answer took, where another was given instead."""
        if self._discarded is None or decision.route == self._discarded[0].route:
            return
        first, answer, _ = self._discarded
        usage = AnswerUsage()
        usage.add(stamped(answer, first))
        if not usage.is_nested:
            observe_discarded(decision, first.route, usage.found)

    def _to_verify(self, decision: Decision, answer: Any) -> Answer | None:
        message = message_in(answer) if self.buffers(decision) else None
        # a call is no text to rate, and what it leads to is the tool loop's
        return None if message is None or message.tool_calls else _as_answer(message)

    def _noted(self, decision: Decision, final: Decision, answer: Any, given: Any) -> Decision:
        if final.route != decision.route:
            self._discarded = decision, answer, given
        return final

    def _aside(
        self, run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
    ) -> contextlib.AbstractContextManager[None]:
        if self._policy.verifier.is_quick:  # then it calls no model
            return contextlib.nullcontext()
        return aside(self._call.config, run)


def _as_answer(message: AIMessage) -> Answer:
    metadata = message.response_metadata
    finished = (metadata.get(name) for name in ("finish_reason", "stop_reason", "done_reason"))  # whoever the provider
    return Answer(
        text=str(message.text),
        finish_reason=next((reason for reason in finished if isinstance(reason, str)), None),
        logprobs=_logprobs(metadata.get("logprobs")),
    )


def _logprobs(given: Any) -> list[float] | None:
    """Of each token, where an OpenAI-like backend was told to say them."""
    tokens = given.get("content") if isinstance(given, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    found = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    return found if all(isinstance(value, (int, float)) for value in found) else None  # type: ignore[return-value]


class _Kept(Runnable[Any, Any]):
    """A weak answer that is given after all, in the place of a backend."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._given

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._given

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield from self._given

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        for chunk in self._given:
            yield chunk

    def stream_events(self, *args: Any, **kwargs: Any) -> Any:
        return iter(self._given)

    async def astream_events(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override] # v3's are awaited
        return _KeptEvents(self.astream(None))


class _KeptEvents:
    """Events as a v3 stream hands them out."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        self._events = events

    async def __aenter__(self) -> _KeptEvents:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events
