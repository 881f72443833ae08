"""Models that answer, as the core sees them. Frameworks come in through resolvers that the adapters register."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, runtime_checkable

__all__ = ["Backend", "Generation", "Message"]


class Message(TypedDict):
    """One turn of a conversation.

    Keys:
        role: Who speaks.
        content: What is said.
    """

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """An answer with what it used.

    Attributes:
        text: The answer.
        input_tokens: As the provider counted them; None if it did not say.
        output_tokens: The same for the answer.
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


@runtime_checkable
class Backend(Protocol):
    """A chat model of any framework.

    Attributes:
        name: What labels and bills call it; with a price list "provider:model".
    """

    name: str

    def generate(self, messages: Sequence[Message]) -> Generation:
        """Answer. Whatever error the provider's client raises comes out as it is."""
        ...

    async def agenerate(self, messages: Sequence[Message]) -> Generation:
        """`generate` without blocking the event loop."""
        ...
