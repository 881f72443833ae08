"""Many calls at once on one event loop: a few at a time, so that nothing else there waits for all of them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Lets so many callers through in one turn of an event loop; the others follow in the next turns, in order.

    A thousand tasks started at once do their work up to the first real wait in one single turn: the loop then serves
    nothing else, however little each of them does. Behind this gate the same work is cut into slices. A caller that
    comes alone passes without waiting.

    Args:
        per_turn: Callers in one turn.
    """

    def __init__(self, per_turn: int = 4) -> None:
        self.per_turn = per_turn
        self._of_thread = threading.local()  # a thread runs one event loop at a time

    async def take(self, count: int = 1) -> None:
        """Pass now, or in a later turn.

        Args:
            count: How many usual callers this one is worth. One that is worth more than a turn passes all the same.
        """
        loop = asyncio.get_running_loop()
        lane: _Lane | None = getattr(self._of_thread, "lane", None)
        if lane is None or lane.loop() is not loop:
            lane = self._of_thread.lane = _Lane(loop, self.per_turn)
        if lane.pass_now(loop, count):
            return
        await lane.wait(loop, count)


class _Lane:
    """The callers on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, per_turn: int) -> None:
        self.loop = weakref.ref(loop)
        self.per_turn = per_turn
        self.left = 0
        self.is_open = False
        self.waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def pass_now(self, loop: asyncio.AbstractEventLoop, count: int) -> bool:
        if not self.is_open:
            self.is_open = True
            self.left = self.per_turn
            loop.call_soon(self.next_turn)
        if self.left <= 0:
            return False
        self.left -= count
        return True

    def wait(self, loop: asyncio.AbstractEventLoop, count: int) -> asyncio.Future[None]:
        mine: asyncio.Future[None] = loop.create_future()
        self.waiting.append((mine, count))
        return mine

    def next_turn(self) -> None:
        loop = self.loop()
        if not self.waiting or loop is None:
            self.is_open = False
            return
        self.left = 0  # who comes now waits behind those who wait already
        passing = 0
        while self.waiting and passing < self.per_turn:
            mine, count = self.waiting.popleft()
            if not mine.done():  # its caller may have been cancelled
                mine.set_result(None)
                passing += count
        loop.call_soon(self.next_turn)
