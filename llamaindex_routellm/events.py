"""Routing decisions for LlamaIndex's instrumentation and for OpenTelemetry tracers."""

from __future__ import annotations

import functools
from typing import Any

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported silently
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.span import SpanDropEvent  # type: ignore[attr-defined] # likewise
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent

from llamaindex_routellm._open_calls import OpenCall
from llamaindex_routellm._scopes import query_stack
from routellm_core.types import Decision

__all__ = ["RoutingDecisionEvent", "SynthesisQueryTracker", "announce", "current_span", "dispatcher"]

# Not named after the package: LlamaIndex gives `llamaindex_routellm.llm` (the spans of RouteLLM) the dispatcher
# of that name as its parent, and one that does not propagate would hide those spans from every tracer.
dispatcher = get_dispatcher("llamaindex_routellm.events")
"""Where `RoutingDecisionEvent` is emitted. It does not propagate, because tracers that do not know an
event log a warning for each; `dispatcher.propagate = True` sends it to handlers on the root as well."""
dispatcher.propagate = False


class RoutingDecisionEvent(BaseEvent):
    """Emitted when a call is routed, and again when another route answered it after a failure.

    Attributes:
        decision: The record, as `Decision.to_dict()` gives it; holds no prompt text.
        outer: Where a router is the backend of another one: the routes around this decision, outermost first.

    Example:
        >>> from llamaindex_routellm.events import dispatcher
        >>> dispatcher.add_event_handler(my_handler)
    """

    decision: dict[str, Any]
    outer: list[str] = []

    @classmethod
    def class_name(cls) -> str:
        return "RoutingDecisionEvent"


class SynthesisQueryTracker(BaseEventHandler):
    """Event handler that lets calls inside a response synthesizer be scored on its query.

    Needed only where a program fills the template itself and calls the LLM with finished messages, such
    as `structured_answer_filtering=True`; elsewhere the question is found without it.

    Example:
        >>> from llama_index.core.instrumentation import get_dispatcher
        >>> get_dispatcher().add_event_handler(SynthesisQueryTracker())
    """

    @classmethod
    def class_name(cls) -> str:
        return "SynthesisQueryTracker"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Remember the query of a synthesis until it ends or its span is dropped."""
        stack = query_stack.get()
        if isinstance(event, SynthesizeStartEvent):
            query = event.query
            query_stack.set((*stack, (event.span_id, str(getattr(query, "query_str", query)))))
        elif isinstance(event, (SynthesizeEndEvent, SpanDropEvent)) and stack:
            # a failed synthesis has no end event; without the drop its query would leak into the next one
            owner = stack[-1][0]
            if owner is not None and owner == event.span_id:
                query_stack.set(stack[:-1])


@functools.cache
def _trace() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:  # tracing is the caller's choice
        return None
    return trace


def current_span() -> Any:
    """The OpenTelemetry span this call runs in, if one records."""
    trace = _trace()
    if trace is None:
        return None
    span = trace.get_current_span()
    return span if span.is_recording() else None


def announce(decision: Decision, call: OpenCall) -> None:
    """Emit the decision, and put it on the span of its call."""
    if dispatcher.event_handlers or dispatcher.propagate:
        dispatcher.event(RoutingDecisionEvent(decision=decision.to_dict(), outer=call.path()))
    span = call.span
    # without LlamaIndex's instrumentation, routers inside each other share the caller's span: it is the outer one's
    if span is not None and (call.outer is None or call.outer.span is not span):
        record = decision.to_dict()
        qualities = record.pop("qualities", {})  # an attribute is no mapping
        record |= {f"qualities.{route}": quality for route, quality in qualities.items()}
        for name, value in record.items():
            span.set_attribute(f"routellm.{name}", value)
