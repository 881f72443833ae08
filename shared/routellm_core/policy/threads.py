"""Threads for scoring that never hold up anything: not a later call, not the interpreter's exit, not a fork."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["ScoringThreads"]

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class _Pool:
    """What the threads know: not who owns them, so that they end with it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.threads = 0
        self.idle = 0

    def end(self) -> None:
        for _ in range(self.threads):
            self.jobs.put(None)


class ScoringThreads:
    """A pool of daemon threads, made when needed, which end when nobody has the pool any more.

    concurrent.futures' own pool joins its threads at exit, so one scorer that hangs would keep the
    process alive; and after a fork it waits for threads that the child does not have.

    Args:
        limit: Threads at most. A scorer that hangs keeps one until it returns.
    """

    def __init__(self, limit: int = 32) -> None:
        self.limit = limit
        self._forget()

    def _forget(self) -> None:
        self._pool = _Pool()
        weakref.finalize(self, self._pool.end).atexit = False

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run it in a thread; a job that is cancelled before its turn never runs."""
        if self._pool.process != os.getpid():
            self._forget()
        pool = self._pool
        future: Future[T] = Future()
        pool.jobs.put((future, function, arguments))
        with pool.lock:
            if pool.jobs.qsize() > pool.idle and pool.threads < self.limit:
                pool.threads += 1
                name = f"routellm-router-{pool.threads}"
                threading.Thread(target=_work, args=(pool,), name=name, daemon=True).start()
        return future

    def __reduce__(self) -> tuple[type[ScoringThreads], tuple[int]]:
        return ScoringThreads, (self.limit,)  # threads do not travel


def _work(pool: _Pool) -> None:
    while True:
        with pool.lock:
            pool.idle += 1
        job = pool.jobs.get()
        with pool.lock:
            pool.idle -= 1
        if job is None:
            return
        future, function, arguments = job
        del job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the one who waits for the future gets it
            future.set_exception(error)
        del future, function, arguments  # a waiting thread keeps no prompt alive
