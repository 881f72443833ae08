"""Leaving a scorer alone that hangs, so that not every call waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Opens after so many late answers in a row; then lets one call through after each pause.

    A scorer that hangs keeps its thread, and every call would wait out its whole timeout. While the breaker is
    open no call waits at all; the one that is let through closes it by succeeding.

    Args:
        misses: Late answers in a row that open it.
        pause_s: Seconds between two attempts while it is open.
        clock: Seconds, never going back.
    """

    def __init__(self, *, misses: int = 3, pause_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.misses = misses
        self.pause_s = pause_s
        self._clock = clock
        self._lock = threading.Lock()
        self._missed = 0
        self._until = 0.0

    def blocked_s(self) -> float:
        """Seconds for which the scorer is still left alone; 0.0: ask it.

        While the breaker is open, one caller after each pause gets 0.0, and the pause begins anew for the others.
        """
        if self._missed < self.misses:  # the usual case takes no lock
            return 0.0
        with self._lock:
            now = self._clock()
            left = self._until - now
            if self._missed >= self.misses and left <= 0.0:
                self._until = now + self.pause_s
            return max(left, 0.0) if self._missed >= self.misses else 0.0

    def late(self) -> None:
        """The scorer did not answer in time."""
        with self._lock:
            self._missed += 1
            if self._missed >= self.misses:
                self._until = self._clock() + self.pause_s

    def answered(self) -> None:
        """The scorer answered in time, be it with an error."""
        if self._missed:
            with self._lock:
                self._missed = 0

    def __reduce__(self) -> tuple[Callable[..., Breaker], tuple[int, float, Callable[[], float]]]:
        return _breaker, (self.misses, self.pause_s, self._clock)  # locks and counts do not travel


def _breaker(misses: int, pause_s: float, clock: Callable[[], float]) -> Breaker:
    return Breaker(misses=misses, pause_s=pause_s, clock=clock)
