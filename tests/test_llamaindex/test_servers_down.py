"""Backends that ask their server what they can do, while it is down: other routes must not go down with it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from pydantic import PrivateAttr

from llamaindex_routellm import RouteLLM, _backends


@pytest.fixture
def served(kit: Any) -> Any:
    """Makes a backend whose server says what it runs, and is down at first."""

    class Served(kit.Fake):
        down: bool = True
        error: Any = ConnectionError("refused")
        _asked_on: list[threading.Thread] = PrivateAttr(default_factory=list)

        @property
        def metadata(self) -> LLMMetadata:
            self._asked_on.append(threading.current_thread())
            if self.down:
                raise self.error
            return super().metadata

        def to_payload(self) -> dict[str, Any]:
            return {}  # what its own events ask for is not counted

        def _reply(self, *asked: Any) -> Any:
            if self.down:
                raise self.error
            return super()._reply(*asked)

    return Served


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(_backends, "_clock", lambda: now[0])
    return now


async def test_a_tool_call_of_one_route_does_not_fail_because_another_route_is_down(served: Any, kit: Any) -> None:
    p = kit.pair(weak=served(tag="weak"), fallback="any")

    answers = [
        p.llm.chat_with_tools([kit.ADD], user_msg=kit.HARD),
        await p.llm.achat_with_tools([kit.ADD], user_msg=kit.HARD),
    ]

    assert [(a.additional_kwargs["routellm"]["route"], a.additional_kwargs["routellm"]["reason"]) for a in answers] == [
        ("strong", "score"),
        ("strong", "score"),
    ]


@pytest.mark.parametrize("words", [{}, {"context_policy": "escalate"}, {"tool_policy": "capable"}])
async def test_a_tool_call_for_a_server_that_is_down_falls_back(words: dict[str, Any], served: Any, kit: Any) -> None:
    p = kit.pair(weak=served(tag="weak"), fallback="any", **words)

    answers = [
        p.llm.chat_with_tools([kit.ADD], user_msg=kit.EASY),
        await p.llm.achat_with_tools([kit.ADD], user_msg=kit.EASY),
    ]

    for answer in answers:
        record = answer.additional_kwargs["routellm"]
        assert (record["route"], record["fallback_from"], record["reason"]) == ("strong", "weak", "score")


async def test_the_event_loop_never_waits_for_a_server_that_is_down(served: Any, kit: Any, clock: Any) -> None:
    weak = served(tag="weak")
    p = kit.pair(weak=weak, fallback="any", context_policy="escalate")

    for _ in range(5):
        await p.llm.achat_with_tools([kit.ADD], user_msg=kit.EASY)
        await p.llm.achat([kit.user(kit.EASY)])
    assert len(weak._asked_on) == 1, "once is enough for half a minute"
    clock[0] += 31.0
    await p.llm.achat_with_tools([kit.ADD], user_msg=kit.EASY)

    assert len(weak._asked_on) == 2
    assert threading.current_thread() not in weak._asked_on


def test_a_model_whose_server_is_down_is_taken_for_a_small_one_until_it_is_back(
    served: Any, kit: Any, clock: Any
) -> None:
    weak, strong = served(tag="weak", window=30_000), kit.Fake(tag="strong", window=100_000)
    llm = kit.pair(weak=weak, strong=strong).llm

    said = llm.metadata
    weak.down = False
    clock[0] += 31.0

    # an engine packs for it once and then keeps the size: too small a guess costs calls, too large a one fails later
    assert (said.context_window, said.is_function_calling_model) == (DEFAULT_CONTEXT_WINDOW, True)
    assert llm.metadata.context_window == 30_000
    assert llm.to_payload()["models"] == {"weak": "fake-weak", "strong": "fake-strong"}


def test_with_every_server_down_the_error_is_the_servers_own_and_goes_when_one_is_back(served: Any, kit: Any) -> None:
    weak, strong = served(tag="weak"), served(tag="strong", window=5000)
    llm = kit.pair(weak=weak, strong=strong).llm

    with pytest.raises(ConnectionError, match="refused"):
        _ = llm.metadata
    weak.down = strong.down = False

    assert llm.metadata.context_window == 4000  # of the tightest, asked again at once


def test_what_no_waiting_will_mend_is_raised(served: Any, kit: Any) -> None:
    unknown = served(tag="weak", error=ValueError("Unknown model 'gpt-9'"))
    llm: RouteLLM = kit.pair(weak=unknown, fallback="any").llm

    with pytest.raises(ValueError, match="Unknown model"):
        _ = llm.metadata
    with pytest.raises(ValueError, match="Unknown model"):
        llm.chat_with_tools([kit.ADD], user_msg=kit.EASY)
