"""An agent routed either way: ChatRouteLLM as its model, or RouteLLMMiddleware in front of its model calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage

from langchain_routellm import ChatRouteLLM, RouteLLMMiddleware
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, by_words, fake

CONTEXT_IN_TASKS = sys.version_info >= (3, 11)
"""Whether LangGraph's asynchronous nodes know their config, and with it callbacks and settings."""

needs_context = pytest.mark.xfail(
    not CONTEXT_IN_TASKS, reason="no context propagation into tasks before Python 3.11", strict=True
)
both = pytest.mark.parametrize("surface", ["model", "middleware"])

_AGENT = ("checkpointer", "response_format", "system_prompt", "context_schema", "name", "store", "state_schema")


def never() -> Any:
    """The agent's own model, which the middleware must replace."""
    return fake("never", error=AssertionError("the agent's own model was called"))


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    if "models" not in options:
        options.setdefault("weak", fake("weak"))
        options.setdefault("strong", fake("strong"))
    if "policy" not in options:
        options.setdefault("router", ScriptedRouter(by_words))
        options.setdefault("threshold", 0.5)
    return options


def middleware(**options: Any) -> RouteLLMMiddleware:
    """A RouteLLMMiddleware over two fakes and a scripted router, unless told otherwise."""
    return RouteLLMMiddleware(**with_defaults(options))


def agent(surface: str, tools: Sequence[Any] = (), after: Sequence[Any] = (), **options: Any) -> Any:
    """An agent whose calls are routed; `after` is its other middleware, the rest goes where it belongs."""
    of_agent = {name: options.pop(name) for name in _AGENT if name in options}
    routing = with_defaults(options)
    if surface == "model":
        return create_agent(ChatRouteLLM(**routing), list(tools), middleware=list(after), **of_agent)
    return create_agent(never(), list(tools), middleware=[RouteLLMMiddleware(**routing), *after], **of_agent)


def records(result: Any) -> list[dict[str, Any]]:
    """The records of a state's answers."""
    messages = result["messages"] if isinstance(result, dict) else result
    return [m.response_metadata[RECORD] for m in messages if isinstance(m, AIMessage)]


def routes(result: Any) -> list[tuple[str, str]]:
    """Route and reason of a state's answers."""
    return [(record["route"], record["reason"]) for record in records(result)]


def turn(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


def thread(name: str = "1", **more: Any) -> Any:
    return {"configurable": {"thread_id": name}, **more}
