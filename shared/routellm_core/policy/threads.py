"""Threads for scoring that never hold up anything: not a later call, not the interpreter's exit, not a fork."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["ScoringThreads"]

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class ScoringThreads:
    """A pool of daemon threads, made when needed.

    concurrent.futures' own pool joins its threads at exit, so one scorer that hangs would keep the
    process alive; and after a fork it waits for threads that the child does not have.

    Args:
        limit: Threads at most. A scorer that hangs keeps one until it returns.
    """

    def __init__(self, limit: int = 32) -> None:
        self.limit = limit
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run it in a thread; a job that is cancelled before its turn never runs."""
        if self._process != os.getpid():
            self._forget()
        future: Future[T] = Future()
        self._jobs.put((future, function, arguments))
        with self._lock:
            if self._jobs.qsize() > self._idle and self._threads < self.limit:
                self._threads += 1
                name = f"routellm-router-{self._threads}"
                threading.Thread(target=self._work, args=(self._jobs,), name=name, daemon=True).start()
        return future

    def _work(self, jobs: queue.SimpleQueue[_Job]) -> None:
        while True:
            with self._lock:
                self._idle += 1
            future, function, arguments = jobs.get()
            with self._lock:
                self._idle -= 1
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - the one who waits for the future gets it
                future.set_exception(error)
            del future, function, arguments  # a waiting thread keeps no prompt alive

    def __reduce__(self) -> tuple[type[ScoringThreads], tuple[int]]:
        return ScoringThreads, (self.limit,)  # threads do not travel
