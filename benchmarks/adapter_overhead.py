"""What the adapters add to a call: the bare backend and the routed one in turn, medians in microseconds.

    python benchmarks/adapter_overhead.py

The router is a trivial one and the backends are fakes without a network, so that only our own work is timed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import date
from importlib.metadata import version
from typing import Any

from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms import ChatMessage, MockLLM

from langchain_routellm import ChatRouteLLM
from llamaindex_routellm import RouteLLM
from routellm_core.testing import ScriptedRouter

CALLS = 1500


def compared(bare: Callable[[], Any], routed: Callable[[], Any]) -> dict[str, float]:
    times: dict[str, list[float]] = {"bare_us": [], "routed_us": []}
    for _ in range(CALLS):
        for name, call in (("bare_us", bare), ("routed_us", routed)):
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return summary(times)


async def acompared(bare: Callable[[], Awaitable[Any]], routed: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    times: dict[str, list[float]] = {"bare_us": [], "routed_us": []}
    for _ in range(CALLS):
        for name, call in (("bare_us", bare), ("routed_us", routed)):
            started = time.perf_counter()
            await call()
            times[name].append(time.perf_counter() - started)
    return summary(times)


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    medians = {name: round(statistics.median(values) * 1e6, 1) for name, values in times.items()}
    return {**medians, "added_us": round(medians["routed_us"] - medians["bare_us"], 1)}


def main() -> None:
    def chat_model() -> FakeListChatModel:
        return FakeListChatModel(responses=["an answer"])

    options: dict[str, Any] = {"router": ScriptedRouter(0.1), "threshold": 0.5}
    bare = chat_model()
    chat = ChatRouteLLM(strong=chat_model(), weak=bare, **options)
    llm_bare = MockLLM(max_tokens=2)
    llm = RouteLLM(strong=MockLLM(max_tokens=2), weak=llm_bare, **options)
    messages = [ChatMessage(role="user", content="hello there")]
    result = {
        "date": str(date.today()),
        "versions": {name: version(name) for name in ("langchain-core", "llama-index-core")},
        "ChatRouteLLM.invoke": compared(lambda: bare.invoke("hello there"), lambda: chat.invoke("hello there")),
        "ChatRouteLLM.stream": compared(
            lambda: list(bare.stream("hello there")), lambda: list(chat.stream("hello there"))
        ),
        "ChatRouteLLM.ainvoke": asyncio.run(
            acompared(lambda: bare.ainvoke("hello there"), lambda: chat.ainvoke("hello there"))
        ),
        "RouteLLM.chat": compared(lambda: llm_bare.chat(messages), lambda: llm.chat(messages)),
        "RouteLLM.achat": asyncio.run(acompared(lambda: llm_bare.achat(messages), lambda: llm.achat(messages))),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
