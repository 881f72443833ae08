"""The same conversation takes the same routes through both adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routellm_core import Router, load_router
from tests.test_adapters.drivers import IMAGE, Driver

PROMPTS = (
    "What is the capital of Australia?",
    "Translate 'good morning' into Portuguese, Finnish and Swahili.",
    "Prove that there are infinitely many primes that leave remainder 3 when divided by 4.",
    "A train leaves at 9:40 and travels 210 km at 84 km/h. When does it arrive? Show every step.",
    "Write a Python function that merges two sorted linked lists without allocating new nodes.",
    "Give me three names for a cat that likes to sleep on keyboards.",
    "Explain to a ten-year-old why the sky is blue and sunsets are red.",
    "Compare optimistic and pessimistic locking in databases, with an example where each one fails.",
    "Which of these is a noble gas?\nA. Nitrogen\nB. Argon\nC. Chlorine\nD. Hydrogen\nAnswer:",
    "Draft a polite e-mail that asks a landlord to repair the heating before the weekend.",
    "Derive the posterior of a normal mean with known variance under a normal prior.",
    "Wie viele Brücken hat Königsberg, und warum ist das in der Mathematik bekannt?",
    "请用三句话介绍一下长城的历史。",
    "Fix this SQL: SELECT name, COUNT(*) FROM orders WHERE COUNT(*) > 3;",
    "Is a tomato a fruit?",
    "Design a rate limiter for an API that runs on twenty servers and explain its failure modes.",
    "Summarise the plot of a play you make up about a lighthouse keeper who is afraid of the sea.",
    "Find the bug: for (int i = n; i >= 0; i--) sum += a[i]; where a has n elements.",
    "What should I cook with two eggs, some rice and half an onion?",
    "Show that the halting problem for machines with bounded memory is decidable, and say how long deciding takes.",
)
"""Of our own, so that the test runs without any data."""

Step = tuple[Any, ...]


def scripts(first: str, second: str) -> Iterator[tuple[str, list[Step]]]:
    """Conversations made of two prompts: name, and steps for `play`."""
    ask, use = ("ask", False), ("ask", True)
    yield "one question", [("human", first), ask]
    yield "a system message", [("system", second), ("human", first), ask]
    yield "two turns", [("human", first), ask, ("human", second), ask]
    yield "follow-ups", [("human", first), ask, ("human", "why?"), ask, ("human", "  yes, go on \n"), ask]
    yield "a short question first", [("human", "Hi!"), ask, ("human", first), ask, ("human", "And then?"), ask]
    yield "an open tool loop", [("human", first), use, ("results", second), use]
    yield (
        "two rounds of tools",
        [("human", first), use, ("results", "x"), use, ("human", second), use, ("results", "y")],
    )
    yield "a closed tool loop", [("human", first), use, ("results", second), use, ("human", second), use]
    yield "a follow-up to a tool loop", [("human", first), use, ("results", second), use, ("human", "and?"), ask]
    yield "a history written by hand", [("human", first), ("answer", "Done."), ("human", second), ask]
    yield "only short messages", [("human", "Hi!"), ("answer", "Hello."), ("human", "Why?"), ask]
    yield "two questions at once", [("human", first), ("human", second), ask]
    yield "an image with a text", [("human", first, IMAGE), ask, ("human", second), ask]
    yield "an image between two texts", [("human", first, IMAGE, second), ask]
    yield "two texts in one message", [("human", first, second), ask]
    yield "a text that is short beside its image", [("human", first), ask, ("human", IMAGE, "and this?"), ask]
    yield "only an image", [("human", IMAGE), ask]
    yield "an image after a question", [("human", first), ask, ("human", IMAGE), ask]
    yield "an empty text", [("human", ""), ask]
    yield "an empty text after a question", [("human", first), ask, ("human", " \n"), ask]
    yield "only a system message", [("system", first), ask]
    yield "a system message and an empty text", [("system", first), ("human", ""), ask]
    yield "two system messages", [("system", first), ("system", second), ask]
    yield "an answer to nothing", [("answer", first), ask]


async def play(driver: Driver, llm: Any, steps: list[Step], how: str = "invoke") -> list[tuple[Any, ...]]:
    """Route, reason and win rate of every answer of a conversation."""
    chat, decided = driver.chat(llm), []
    for kind, *arguments in steps:
        if kind == "ask":
            outcome = await chat.ask(how, tools=arguments[0])
            assert outcome.error is None, outcome.error
            decided.append(outcome.decided)
        else:
            {"human": chat.human, "system": chat.system, "answer": chat.answer, "results": chat.tool_results}[kind](
                *arguments
            )
    return decided


@pytest.fixture(scope="module")
def router() -> Router:
    return load_router("default")


def pairs(drivers: list[Driver], router: Router, **options: Any) -> list[tuple[Driver, Any]]:
    return [(d, d.routed(weak=d.fake("little"), strong=d.fake("big"), router=router, **options)) for d in drivers]


async def check(
    drivers: list[Driver],
    router: Router,
    prompts: list[tuple[str, str]],
    stickiness: str,
    how: str = "invoke",
    *,
    every: int,
    **options: Any,
) -> Counter[Any]:
    """Play every n-th conversation of each pair of prompts, others of the next pair; count routes and reasons."""
    (langchain, its), (llama_index, theirs) = pairs(drivers, router, stickiness=stickiness, **options)
    seen: Counter[Any] = Counter()
    different: Counter[str] = Counter()
    for i, (first, second) in enumerate(prompts):
        for k, (name, steps) in enumerate(scripts(first, second)):
            if (i + k) % every:
                continue
            one = await play(langchain, its, steps, how)
            other = await play(llama_index, theirs, steps, how)
            different[name] += one != other
            seen.update(decided[:2] for decided in one)
    assert +different == {}
    return seen


@pytest.mark.parametrize(("how", "every"), [("invoke", 2), ("stream", 6), ("ainvoke", 6), ("astream", 6)])
@pytest.mark.parametrize("stickiness", ["none", "tool_loop", "conversation"])
async def test_the_same_conversation_takes_the_same_routes(
    stickiness: str, how: str, every: int, drivers: list[Driver], router: Router
):
    prompts = [(PROMPTS[i], PROMPTS[-1 - i]) for i in range(len(PROMPTS))]
    middle = float(np.median(router.win_rate(PROMPTS)))
    seen = await check(drivers, router, prompts, stickiness, how, every=every, threshold=middle)
    # the comparison is of something: both routes are taken, for every reason there is
    assert min(seen["weak", "score"], seen["strong", "score"]) >= 15
    kept = {"none": set(), "tool_loop": {"tool_loop"}, "conversation": {"tool_loop", "conversation"}}[stickiness]
    assert {reason for _, reason in seen} == {"score", "no_text", *kept}


@pytest.mark.parametrize("name", [name for name, _ in scripts("", "")])
async def test_the_text_to_score_is_found_alike(name: str, drivers: list[Driver], router: Router):
    # the line break at the end is part of a prompt in real life too
    steps = dict(scripts("Name three rivers.\n", "Prove that the square root of 2 is irrational."))[name]
    one, other = [await play(driver, llm, steps) for driver, llm in pairs(drivers, router)]
    assert one == other


@pytest.mark.parametrize("stickiness", ["none", "tool_loop", "conversation"])
async def test_two_hundred_real_prompts_take_the_same_routes(
    stickiness: str, drivers: list[Driver], router: Router, data_folder: Path
):
    parquet = pytest.importorskip("pyarrow.parquet")

    def column(name: str, of: str) -> list[str]:
        found: list[str] = parquet.read_table(data_folder / "eval" / f"{name}.parquet", columns=[of])[of].to_pylist()
        return found

    # both turns of all of MT-Bench, and school sums and exam questions spread over their sets
    prompts = list(zip(column("mt_bench", "prompt"), column("mt_bench", "second_turn"), strict=True))
    sums, exams = column("gsm8k", "prompt")[::21][:60], column("mmlu", "prompt")[::230][:60]
    prompts += zip(sums, reversed(exams), strict=True)
    prompts += zip(exams, sums, strict=True)
    assert len(prompts) == 200
    seen = await check(drivers, router, prompts, stickiness, every=8)
    assert min(seen["weak", "score"], seen["strong", "score"]) >= 100
