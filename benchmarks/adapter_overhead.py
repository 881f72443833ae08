"""What the adapters add to a call: the bare backend and the routed one in turn, medians in microseconds.

    python benchmarks/adapter_overhead.py [--calls 1500]

The router is a trivial one and the backends are fakes without a network, so that only our own work is timed.
`added_us` is the difference of the two medians, with a bootstrap 95% interval over the pairs. With tools, the bare
backend has them bound once. `load` is the machine's load average before and after: other work only adds to the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

import numpy as np
from langchain_core.language_models import FakeListChatModel
from langchain_core.tools import StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool

from langchain_routellm import ChatRouteLLM
from llamaindex_routellm import RouteLLM
from routellm_core.testing import ScriptedRouter

CALLS = 1500
ROUTER: dict[str, Any] = {"router": ScriptedRouter(0.1), "threshold": 0.5}


def compared(bare: Callable[[], Any], routed: Callable[[], Any], calls: int | None = None) -> dict[str, Any]:
    times = np.empty((2, calls or CALLS))
    for _ in range(20):
        bare(), routed()
    for i in range(times.shape[1]):
        for which, call in enumerate((bare, routed)):
            started = time.perf_counter()
            call()
            times[which, i] = time.perf_counter() - started
    return summary(times)


async def acompared(bare: Callable[[], Awaitable[Any]], routed: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    times = np.empty((2, CALLS))
    for _ in range(20):
        await bare(), await routed()
    for i in range(times.shape[1]):
        for which, call in enumerate((bare, routed)):
            started = time.perf_counter()
            await call()
            times[which, i] = time.perf_counter() - started
    return summary(times)


def summary(times: np.ndarray) -> dict[str, Any]:
    bare, routed = np.median(times, axis=1) * 1e6
    rng = np.random.default_rng(0)
    added = np.empty(500)
    for i in range(len(added)):
        chosen = rng.integers(times.shape[1], size=times.shape[1])
        low, high = np.median(times[:, chosen], axis=1) * 1e6
        added[i] = high - low
    return {
        "bare_us": round(bare, 1),
        "routed_us": round(routed, 1),
        "added_us": round(routed - bare, 1),
        "added_us_95": [round(x, 1) for x in np.quantile(added, (0.025, 0.975))],
    }


class ToolModel(FakeListChatModel):
    """The fake model, which takes tools and does not call them."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)


def made_tools(count: int) -> list[StructuredTool]:
    def look_up(name: str, year: int = 2000) -> str:
        """Look up what happened."""
        return name

    return [StructuredTool.from_function(look_up, name=f"look_up_{i}") for i in range(count)]


def langchain_part() -> dict[str, Any]:
    bare = ToolModel(responses=["an answer"])
    chat = ChatRouteLLM(strong=ToolModel(responses=["an answer"]), weak=bare, **ROUTER)
    ask = "hello there"

    async def consumed(chunks: Any) -> None:
        async for _ in chunks:
            pass

    async def asynchronous() -> dict[str, Any]:
        return {
            "ainvoke": await acompared(lambda: bare.ainvoke(ask), lambda: chat.ainvoke(ask)),
            "astream": await acompared(lambda: consumed(bare.astream(ask)), lambda: consumed(chat.astream(ask))),
        }

    result = {
        "invoke": compared(lambda: bare.invoke(ask), lambda: chat.invoke(ask)),
        "stream": compared(lambda: list(bare.stream(ask)), lambda: list(chat.stream(ask))),
        **asyncio.run(asynchronous()),
    }
    for count in (1, 20):
        tools = made_tools(count)
        with_tools, routed = bare.bind_tools(tools), chat.bind_tools(tools)

        async def asynchronous_tools(one: Any = with_tools, other: Any = routed) -> dict[str, Any]:
            return await acompared(lambda: one.ainvoke(ask), lambda: other.ainvoke(ask))

        name = f"{count} bound tool{'s' if count > 1 else ''}"
        result[f"invoke, {name}"] = compared(
            lambda one=with_tools: one.invoke(ask), lambda other=routed: other.invoke(ask)
        )
        result[f"ainvoke, {name}"] = asyncio.run(asynchronous_tools())
    batch = [ask] * 50
    result["batch of 50"] = compared(lambda: bare.batch(batch), lambda: chat.batch(batch), max(CALLS // 30, 20))
    return {f"ChatRouteLLM.{name}": measured for name, measured in result.items()}


def llamaindex_part() -> dict[str, Any]:
    llm_bare = MockFunctionCallingLLM()
    llm = RouteLLM(strong=MockFunctionCallingLLM(), weak=llm_bare, **ROUTER)
    ask, messages = "hello there", [ChatMessage(role="user", content="hello there")]
    tools = [FunctionTool.from_defaults(fn=lambda year: year, name="look_up", description="Look up what happened.")]
    prompt = PromptTemplate("{context_str} {query_str}")
    filled = {"context_str": "some context", "query_str": ask}

    def both(name: str, *given: Any, read: Callable[[Any], Any] = lambda answer: answer, **named: Any) -> Any:
        bare, routed = getattr(llm_bare, name), getattr(llm, name)
        return compared(lambda: read(bare(*given, **named)), lambda: read(routed(*given, **named)))

    return {
        "RouteLLM.chat": both("chat", messages),
        "RouteLLM.achat": asyncio.run(acompared(lambda: llm_bare.achat(messages), lambda: llm.achat(messages))),
        "RouteLLM.stream_chat": both("stream_chat", messages, read=list),
        "RouteLLM.complete": both("complete", ask),
        "RouteLLM.chat_with_tools": both("chat_with_tools", tools, user_msg=ask),
        "RouteLLM.predict": both("predict", prompt, **filled),
    }


def main() -> None:
    global CALLS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help="pairs of calls of each kind (default: %(default)s)")
    CALLS = parser.parse_args().calls
    before = os.getloadavg()[0]
    result = {
        "date": str(date.today()),
        "calls": CALLS,
        "versions": {name: version(name) for name in ("langchain-core", "llama-index-core")},
        **langchain_part(),
        **llamaindex_part(),
    }
    result["load"] = [round(before, 2), round(os.getloadavg()[0], 2)]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
