"""How long an event loop is held up while many calls go through the default router.

    python benchmarks/concurrency.py [--calls 1000] [--rounds 7]

The backend waits a few milliseconds, as a remote one would. A ticker on the same loop asks to be woken every
millisecond; its lag is how much later it was, and busy is the loop's own CPU time between two ticks, which other
processes do not add to. The bare backend and the routed one take turns, each round with new prompts; figures are
medians over the rounds, in milliseconds. What the imports made is kept out of garbage collection (`gc.freeze`), whose
full pass would hold up any loop for some 100 ms, with a router or without. What is measured:

- burst: all calls start in one turn of the loop
- paced: one call starts every millisecond, as on a busy server
- long prompts: a burst of 50 calls with 200,000 characters each
- batch: all prompts in one `abatch`
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import date
from importlib.metadata import version
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_routellm import ChatRouteLLM

TICK_S = 0.001
ANSWER_S = 0.005
WORDS = "explain prove compare summarise the river engine theorem market law of every small quick old city".split()


class Waits(BaseChatModel):
    """A backend that answers after a while."""

    @property
    def _llm_type(self) -> str:
        return "waits"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer"))])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(ANSWER_S)
        return self._generate(messages)


def prompts(count: int, seed: int, words: int = 30) -> list[str]:
    return [
        f"{seed} {i} " + " ".join(WORDS[(i * 7 + seed + j * (i % 5 + 1)) % len(WORDS)] for j in range(words))
        for i in range(count)
    ]


async def lag(work: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    """Lags of a ticker while the work goes on, in milliseconds."""
    late: list[float] = []
    busy: list[float] = []
    done = asyncio.Event()

    async def tick() -> None:
        while not done.is_set():
            asked, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            late.append((time.perf_counter() - asked - TICK_S) * 1e3)
            busy.append((time.thread_time() - worked) * 1e3)

    gc.collect()
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)  # so that it ticks when the work begins
    late.clear()
    busy.clear()
    started = time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    done.set()
    await ticker
    late.sort()
    busy.sort()
    return {
        "max_lag_ms": late[-1],
        "p99_lag_ms": late[int(len(late) * 0.99)],
        "max_busy_ms": busy[-1],
        "p99_busy_ms": busy[int(len(busy) * 0.99)],
        "seconds": seconds,
    }


async def burst(model: BaseChatModel, texts: list[str]) -> None:
    await asyncio.gather(*(model.ainvoke(text) for text in texts))


async def paced(model: BaseChatModel, texts: list[str]) -> None:
    tasks = []
    for text in texts:
        tasks.append(asyncio.create_task(model.ainvoke(text)))
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*tasks)


async def batched(model: BaseChatModel, texts: list[str]) -> None:
    await model.abatch(texts)


async def compared(
    work: Callable[[BaseChatModel, list[str]], Awaitable[None]], made: Callable[[int], list[str]], rounds: int
) -> dict[str, Any]:
    models = {"bare": Waits(), "routed": ChatRouteLLM(weak=Waits(), strong=Waits())}
    for model in models.values():
        await model.ainvoke("the first call imports what it needs")
    gc.collect()
    gc.freeze()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for number in range(rounds):
        texts = made(number)
        for name, model in models.items():
            seen[name].append(await lag(lambda m=model, t=texts: work(m, t)))
    return {
        name: {
            **{key: round(statistics.median(one[key] for one in measured), 3) for key in measured[0]},
            "worst_max_lag_ms": round(max(one["max_lag_ms"] for one in measured), 3),
        }
        for name, measured in seen.items()
    }


async def measured(calls: int, rounds: int) -> dict[str, Any]:
    return {
        "burst": await compared(burst, lambda i: prompts(calls, i), rounds),
        "paced": await compared(paced, lambda i: prompts(calls, i), rounds),
        "long prompts": await compared(
            burst, lambda i: [(f"{i} {p} " * 2000)[:200_000] for p in prompts(50, i)], rounds
        ),
        "batch": await compared(batched, lambda i: prompts(calls, i), rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="of each kind (default: %(default)s)")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    result = {
        "date": str(date.today()),
        "calls": options.calls,
        "rounds": options.rounds,
        "versions": {"langchain-core": version("langchain-core")},
        **asyncio.run(measured(options.calls, options.rounds)),
    }
    result["load"] = [round(before, 2), round(os.getloadavg()[0], 2)]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
