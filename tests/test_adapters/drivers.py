"""Both adapters behind one face, so that what they share is tested once.

A driver makes backends and routers; a `Chat` is one conversation with a router, in the adapter's own messages. A
call never raises (except when it is cancelled): what the caller got, answer or error, is in its `Outcome`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from routellm_core.testing import LoopbackServer

SINGLE = ("invoke", "stream", "ainvoke", "astream")
BATCHES = ("batch", "abatch")
STREAMS = ("stream", "astream")

IMAGE = object()
"""A part of a human message that is no text."""

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@dataclass
class Outcome:
    """What the caller of one call got.

    Attributes:
        pieces: The texts that arrived, one of a call that does not stream.
        record: The record on the answer.
        error: What was raised instead, or after the pieces.
        calls: How many tools the answer asks for.
    """

    pieces: list[str] = field(default_factory=list)
    record: dict[str, Any] | None = None
    error: Exception | None = None
    calls: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def decided(self) -> tuple[Any, ...]:
        """Route, reason and win rate."""
        record = self.record or {}
        return record.get("route"), record.get("reason"), record.get("win_rate")


class Chat(ABC):
    """One conversation. Each method but `ask` adds a message."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.messages: list[Any] = []

    @abstractmethod
    def system(self, text: str) -> Chat: ...

    @abstractmethod
    def human(self, *parts: Any) -> Chat:
        """A message of texts and of `IMAGE`s; of one text, a plain message."""

    @abstractmethod
    def answer(self, text: str) -> Chat:
        """An answer that nobody gave, written into the history by hand."""

    @abstractmethod
    def tool_results(self, text: str) -> Chat:
        """The result of every tool that the newest answer asks for."""

    @abstractmethod
    async def _ask(self, how: str, tools: bool, outcome: Outcome, read: int | None) -> Any:
        """Ask, note what arrives as it arrives, and return the message that answers."""

    @abstractmethod
    def forced(self, route: str | None) -> contextlib.AbstractContextManager[Any]:
        """Force the calls inside, if a route is given."""

    async def ask(
        self,
        how: str = "invoke",
        *,
        tools: bool = False,
        force: str | None = None,
        read: int | None = None,
        into: Outcome | None = None,
    ) -> Outcome:
        """Ask what the conversation ends in; the answer joins it.

        Args:
            how: One of `SINGLE`.
            tools: Offer a tool.
            force: The route to take.
            read: Close the stream after so many pieces.
            into: Where to note what arrives, to look at it meanwhile.
        """
        outcome = Outcome() if into is None else into
        try:
            with self.forced(force):
                message = await self._ask(how, tools, outcome, read)
        except Exception as error:  # noqa: BLE001 - whatever the caller would have got
            outcome.error = error
        else:
            if message is not None:
                self.messages.append(message)
        return outcome


class Driver(ABC):
    """One adapter."""

    name: str

    @abstractmethod
    def client(self, server: LoopbackServer | None, model: str, *, timeout_s: float | None = None) -> Any:
        """A real client of the endpoint that does not retry; of None, where nobody listens."""

    @abstractmethod
    def fake(self, name: str, *, can_call: bool = True) -> Any:
        """A backend without any wire: asks for the tool if it is offered one and has no result yet, else answers."""

    @abstractmethod
    def routed(self, **options: Any) -> Any:
        """The adapter's LLM."""

    @abstractmethod
    def chat(self, llm: Any) -> Chat:
        """A new conversation."""

    @abstractmethod
    async def batch(self, llm: Any, how: str, questions: Sequence[str]) -> list[Outcome]:
        """Many questions at once, each a conversation of its own."""

    @abstractmethod
    async def close(self) -> None:
        """Close what the clients hold."""


NOWHERE = "http://127.0.0.1:9/v1"
"""Nobody listens there."""
