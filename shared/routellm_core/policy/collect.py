"""Seeing the decisions taken inside other people's code: chains, query engines, agents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from routellm_core.types import Decision

__all__ = ["collect_decisions", "observe"]

# a context variable, not a thread local: agent steps and async synthesizers run in copied contexts
_collectors: ContextVar[tuple[list[Decision], ...]] = ContextVar("routellm_collectors", default=())


@contextlib.contextmanager
def collect_decisions() -> Iterator[list[Decision]]:
    """Yield a list that receives the `Decision` behind every answer given inside, in order.

    Works in both adapters, in threads and tasks started inside, and nested. A stream's decision
    arrives with its first chunk.
    """
    collected: list[Decision] = []
    _collectors.set((*_collectors.get(), collected))
    try:
        yield collected
    finally:
        # not reset(token): a generator may be closed in another context, or after an outer block was opened
        _collectors.set(tuple(each for each in _collectors.get() if each is not collected))


def observe(decision: Decision) -> None:
    """Tell the open collectors; adapters call it once an answer's route is settled."""
    for collected in _collectors.get():
        collected.append(decision)
