"""A conversation that changed providers reaches each of them in a form it takes."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama

from langchain_routellm._history import portable
from tests.test_langchain.fakes import RECORD, backend, fake, routed

ANTHROPIC = AIMessage(
    [
        {"type": "thinking", "thinking": "x", "signature": "S"},
        {"type": "text", "text": "ok"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    ],
    tool_calls=[{"name": "f", "args": {}, "id": "toolu_1", "type": "tool_call"}],
    usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    response_metadata={"model_provider": "anthropic", RECORD: {"route": "strong"}},
)
RESPONSES = AIMessage(
    [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "ENC"}, {"type": "text", "text": "ok"}],
    id="resp_1",
    response_metadata={"model_provider": "openai", "id": "resp_1", RECORD: {"route": "strong"}},
)


def turns(message: AIMessage) -> list[Any]:
    results = [ToolMessage("r", tool_call_id=str(call["id"])) for call in message.tool_calls]
    return [HumanMessage("q"), message, *results, HumanMessage("q2")]


@pytest.mark.parametrize("message", [ANTHROPIC, RESPONSES])
def test_what_ollama_refuses_is_rewritten_into_what_it_takes(message: AIMessage) -> None:
    ollama = ChatOllama(model="llama3.1")
    with pytest.raises(ValueError, match="Unsupported message content type"):
        ollama._convert_messages_to_ollama_messages(turns(message))
    rewritten = portable(turns(message), "weak", lambda: "ollama")
    assert ollama._convert_messages_to_ollama_messages(rewritten)[1]["content"] == "ok"  # type: ignore[index]


@pytest.mark.parametrize("message", [ANTHROPIC, RESPONSES])
def test_a_rewritten_turn_keeps_text_tool_calls_and_usage_and_loses_what_is_the_providers(message: AIMessage) -> None:
    rewritten = portable(turns(message), "weak", lambda: None)[1]
    assert isinstance(rewritten, AIMessage)
    assert rewritten.content == "ok"
    assert rewritten.tool_calls == message.tool_calls
    assert rewritten.usage_metadata == message.usage_metadata
    assert rewritten.id is None
    assert rewritten.response_metadata == {}


def test_turns_of_the_same_route_stay_the_very_same_objects() -> None:
    history = turns(ANTHROPIC)
    assert portable(history, "strong", lambda: "other") is history


def test_a_turn_without_a_record_is_rewritten_only_for_another_provider() -> None:
    foreign = ANTHROPIC.model_copy(update={"response_metadata": {"model_provider": "anthropic"}})
    history = turns(foreign)
    assert portable(history, "weak", lambda: "anthropic") is history
    assert portable(history, "weak", lambda: "ollama")[1].content == "ok"


def test_hand_written_history_is_left_alone() -> None:
    history = [HumanMessage("q"), AIMessage([{"type": "text", "text": "by hand"}]), HumanMessage("q2")]
    assert portable(history, "weak", lambda: "ollama") is history


def test_a_streamed_turn_of_another_route_is_rewritten_too() -> None:
    chunk = AIMessageChunk(
        [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "ok"}],
        response_metadata={RECORD: {"route": "strong"}},
    )
    assert portable([chunk], "weak", lambda: None)[0].content == "ok"


async def test_the_router_rewrites_the_childs_input_and_never_the_callers_history() -> None:
    llm = routed()
    message = ANTHROPIC.model_copy(update={"tool_calls": []})
    history: list[Any] = [HumanMessage("q"), message, HumanMessage("an easy question to follow")]
    llm.invoke(history)
    await llm.ainvoke(history)
    list(llm.stream(history))
    assert [seen[1].content for seen in backend(llm, "weak").seen] == ["ok"] * 3
    assert history[1] is message
    assert message.content != "ok"
    llm.invoke(history, model="strong")
    assert backend(llm, "strong").seen[0][1].content == message.content


def test_normalising_can_be_switched_off() -> None:
    llm = routed(normalize_history=False)
    llm.invoke(turns(RESPONSES))
    assert backend(llm, "weak").seen[0][1] is RESPONSES


def test_a_conversation_between_two_providers_goes_on() -> None:
    llm = routed(strong=fake("strong", blocks=True, provider="anthropic"))
    question = HumanMessage("hard one, please think about it")
    first = llm.invoke([question])
    assert isinstance(first.content, list)
    second = llm.invoke([question, first, HumanMessage("and now something rather easy")])
    assert second.text == "fake-weak answers"
    assert backend(llm, "weak").seen[0][1].content == "fake-strong answers"


def test_a_fallback_gets_the_history_in_its_own_form() -> None:
    llm = routed(strong=fake("strong", error=ConnectionError()), fallback="any")
    message = ANTHROPIC.model_copy(update={"tool_calls": []})
    llm.invoke([HumanMessage("q"), message, HumanMessage("a hard question to follow up")])
    assert backend(llm, "weak").seen[0][1].content == "ok"
