"""The gate before a burst of calls: slices of the work, in order, and nobody lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from routellm_core.policy import RouteRequest, RoutingPolicy, Turns
from routellm_core.testing import ScriptedRouter


async def passed_by_turn(turns: Turns, counts: list[int], watched: int = 12) -> list[list[int]]:
    """Who has passed after each turn of the loop, when all come at once."""
    passed: list[int] = []

    async def come(number: int) -> None:
        await turns.take(counts[number])
        passed.append(number)

    tasks = [asyncio.ensure_future(come(number)) for number in range(len(counts))]
    seen = []
    for _ in range(watched):
        await asyncio.sleep(0)
        if not seen or seen[-1] != passed:
            seen.append(list(passed))
    await asyncio.gather(*tasks)
    return seen


async def test_so_many_pass_in_one_turn_and_the_others_follow_in_order() -> None:
    # 7 callers, 3 a turn: 3, 3 and 1
    seen = await passed_by_turn(Turns(3), [1] * 7)
    assert seen[-3:] == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]]


async def test_a_heavy_caller_fills_a_turn_and_is_not_kept_out() -> None:
    # 2 a turn; the second caller is worth 5: it passes with the first, then two a turn again
    seen = await passed_by_turn(Turns(2), [1, 5, 1, 1, 9, 1])
    assert seen[-4:] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]


async def test_one_who_comes_alone_never_waits() -> None:
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(StopIteration):  # the coroutine ends without having given up its turn
            turns.take().send(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_a_cancelled_caller_leaves_its_place_to_the_next() -> None:
    turns, passed = Turns(1), []

    async def come(number: int) -> None:
        await turns.take()
        passed.append(number)

    tasks = [asyncio.ensure_future(come(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert passed == [0, 3]
    assert [type(each) for each in done[1:3]] == [asyncio.CancelledError] * 2


def test_each_loop_and_each_thread_has_its_own_queue() -> None:
    turns, passed = Turns(2), []

    async def burst() -> None:
        await asyncio.gather(*(turns.take() for _ in range(20)))
        passed.append(1)

    async def left_waiting() -> None:
        waiting = [asyncio.ensure_future(turns.take()) for _ in range(20)]
        await asyncio.sleep(0)
        assert not waiting[-1].done()  # the loop ends with callers in the queue

    asyncio.run(left_waiting())
    asyncio.run(burst())
    threads = [threading.Thread(target=lambda: asyncio.run(burst())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(passed) == 4


async def test_a_burst_of_quick_scorings_is_spread_over_turns_of_the_loop() -> None:
    router = ScriptedRouter(0.5)
    policy = RoutingPolicy(router, threshold=0.5)
    scored: list[int] = []
    tasks = [asyncio.ensure_future(policy.adecide([RouteRequest(text=f"prompt {i}")])) for i in range(40)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        scored.append(len(router.calls))
    # never more than eight in a turn
    assert max(after - before for before, after in zip([0, *scored], scored, strict=False)) == 8
    assert router.calls == [[f"prompt {i}"] for i in range(40)]


async def test_a_long_prompt_counts_for_many_and_a_huge_one_goes_to_a_thread() -> None:
    names: list[str] = []

    def where(prompt: str) -> float:
        names.append(threading.current_thread().name)
        return 0.5

    policy = RoutingPolicy(ScriptedRouter(where), threshold=0.5)
    main = threading.current_thread().name
    scored: list[int] = []
    tasks = [asyncio.ensure_future(policy.adecide([RouteRequest(text="x" * 200_000)])) for _ in range(5)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        scored.append(len(names))
    assert max(after - before for before, after in zip([0, *scored], scored, strict=False)) == 1
    await policy.adecide([RouteRequest(text="x" * 2_000_000)])
    assert names[:5] == [main] * 5
    assert names[5] != main
