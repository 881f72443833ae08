"""A conversation that changed providers reaches each of them in a form it takes.

Turns are made by the real clients' own parsers from what their providers answer, and given to the real clients' own
payload builders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call

from langchain_routellm._portable import portable
from tests.test_langchain.fakes import RECORD, backend, fake, routed

anthropic = pytest.importorskip("anthropic")
langchain_anthropic = pytest.importorskip("langchain_anthropic")
langchain_openai = pytest.importorskip("langchain_openai")
langchain_ollama = pytest.importorskip("langchain_ollama")

PNG = "iVBORw0KGgo="
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


# -- the readers, and what they would send
@cache
def model(name: str) -> BaseChatModel:
    if name == "google":
        pytest.importorskip("langchain_google_genai")
        from langchain_google_genai import ChatGoogleGenerativeAI

        return ChatGoogleGenerativeAI(model="gemini-3-pro-preview", google_api_key="x")
    made: dict[str, Callable[[], BaseChatModel]] = {
        "openai": lambda: langchain_openai.ChatOpenAI(model="gpt-4.1", api_key="x"),
        "responses": lambda: langchain_openai.ChatOpenAI(model="gpt-5", api_key="x", use_responses_api=True),
        "anthropic": lambda: langchain_anthropic.ChatAnthropic(model="claude-sonnet-4-5", api_key="x"),
        "ollama": lambda: langchain_ollama.ChatOllama(model="llama3.1"),
    }
    return made[name]()


def sent(name: str, messages: list[BaseMessage]) -> Any:
    """The conversation as the client would send it, as plain JSON."""
    client: Any = model(name)
    if name == "google":
        contents = client._prepare_request(messages)["contents"]
        # by hand: a skip sentinel that the client puts where a signature is missing is no base64
        return [[part.model_dump(exclude_none=True, warnings=False) for part in content.parts] for content in contents]
    if name == "ollama":
        return client._chat_params(messages)["messages"]
    payload = client._get_request_payload(messages)
    return payload["messages"] if "messages" in payload else payload["input"]


READERS = ("openai", "responses", "anthropic", "ollama", "google")


# -- the writers: one turn of two parallel tool calls, text, thinking and what else each provider has to say
def of_openai() -> AIMessage:
    calls = [("call_1", "f", '{"x": 1}'), ("call_2", "g", "{}")]
    message = {
        "role": "assistant",
        "content": "it is ok",
        "refusal": None,
        "tool_calls": [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ],
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choices = [{"index": 0, "finish_reason": "tool_calls", "message": message}]
    answer = {"id": "chatcmpl-LEAK", "model": "gpt-4.1", "choices": choices, "usage": usage}
    client: Any = model("openai")
    return client._create_chat_result(answer).generations[0].message  # type: ignore[no-any-return]


def of_responses(output_version: str | None = None) -> AIMessage:
    from langchain_openai.chat_models.base import _construct_lc_result_from_responses_api
    from openai.types.responses import Response

    answer = {
        "id": "resp_LEAK",
        "object": "response",
        "created_at": 1,
        "model": "gpt-5",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "status": "completed",
        "output": [
            {
                "type": "reasoning",
                "id": "rs_LEAK",
                "summary": [{"type": "summary_text", "text": "LEAKED thought"}],
                "encrypted_content": "LEAK",
            },
            {
                "type": "message",
                "id": "msg_LEAK",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "it is ok", "annotations": []}],
            },
            {"type": "function_call", "id": "fc_LEAK", "call_id": "call_1", "name": "f", "arguments": '{"x": 1}'},
            {"type": "function_call", "id": "fc_LEAK2", "call_id": "call_2", "name": "g", "arguments": "{}"},
        ],
        "usage": {
            "input_tokens": 1,
            "output_tokens": 2,
            "total_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    result: Any = _construct_lc_result_from_responses_api(
        Response.model_validate(answer), output_version=output_version
    )
    return result.generations[0].message  # type: ignore[no-any-return]


def of_anthropic() -> AIMessage:
    citation = {
        "type": "char_location",
        "cited_text": "LEAK",
        "document_index": 0,
        "document_title": "t",
        "start_char_index": 0,
        "end_char_index": 1,
        "file_id": None,
    }
    answer = {
        "id": "msg_LEAK",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [
            {"type": "thinking", "thinking": "LEAKED thought", "signature": "LEAK"},
            {"type": "text", "text": "it is "},
            {"type": "text", "text": "ok", "citations": [citation]},
            {"type": "server_tool_use", "id": "srvtoolu_LEAK", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "call_1", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
        ],
    }
    client: Any = model("anthropic")
    return client._format_output(anthropic.types.Message.model_validate(answer)).generations[0].message  # type: ignore[no-any-return]


def of_google() -> AIMessage:
    pytest.importorskip("langchain_google_genai")
    from google.genai.types import GenerateContentResponse
    from langchain_google_genai.chat_models import _response_to_result

    parts = [
        {"text": "LEAKED thought", "thought": True},
        {"text": "it is ok", "thought_signature": "TEVBSw=="},
        {"function_call": {"name": "f", "args": {"x": 1}}, "thought_signature": "TEVBSw=="},
        {"function_call": {"name": "g", "args": {}}},
    ]
    answer = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finish_reason": "STOP"}],
        "usage_metadata": {"prompt_token_count": 1, "candidates_token_count": 2, "total_token_count": 3},
    }
    result: Any = _response_to_result(GenerateContentResponse.model_validate(answer))
    return result.generations[0].message  # type: ignore[no-any-return]


def of_ollama() -> AIMessage:
    # as its client assembles one; it has no parser of its own
    return AIMessage(
        "it is ok",
        additional_kwargs={"reasoning_content": "LEAKED thought"},
        response_metadata={"model": "llama3.1", "model_provider": "ollama", "done_reason": "stop"},
        tool_calls=calls("call_1", "call_2"),
        usage_metadata=USAGE,  # type: ignore[arg-type]
    )


def calls(*ids: str) -> list[Any]:
    known = {"f": {"x": 1}, "g": {}}
    return [
        {"name": name, "args": args, "id": id, "type": "tool_call"}
        for id, (name, args) in zip(ids, known.items(), strict=False)
    ]


WRITERS: dict[str, Callable[[], AIMessage]] = {
    "openai": of_openai,
    "responses": of_responses,
    "v1 blocks": lambda: of_responses("v1"),
    "anthropic": of_anthropic,
    "ollama": of_ollama,
    "google": of_google,
}


def stamped(message: AIMessage, route: str = "other") -> AIMessage:
    metadata = {**message.response_metadata, RECORD: {"route": route, "reason": "score"}}
    return message.model_copy(update={"response_metadata": metadata})


def conversation(message: AIMessage, *results: Any) -> list[BaseMessage]:
    contents = results or tuple(f"result {n}" for n in range(1, len(message.tool_calls) + 1))
    answered = [
        ToolMessage(content, tool_call_id=str(call["id"]), name=call["name"])
        for content, call in zip(contents, message.tool_calls, strict=True)
    ]
    return [HumanMessage("the question"), message, *answered, HumanMessage("and the next")]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_turn_of_any_provider_reaches_any_other_with_its_text_and_calls_and_nothing_else(
    writer: str, reader: str
) -> None:
    history = conversation(stamped(WRITERS[writer]()))
    payload = json.dumps(sent(reader, portable(history, "mine", model(reader))), default=str)
    for expected in ("the question", "it is ok", "result 1", "result 2", "and the next", '"f"', '"g"'):
        assert payload.count(expected) >= 1, expected
    assert payload.count("it is ok") == 1
    assert re.search(r'\\?"x\\?": 1', payload)
    assert "LEAK" not in payload
    assert "TEVBSw==" not in payload
    if reader != "google":  # it has no ids
        for call in WRITERS[writer]().tool_calls if writer != "google" else ():
            assert payload.count(str(call["id"])) == 2  # the call and its result


@pytest.mark.parametrize("writer", ["anthropic", "responses"])
def test_what_ollama_refuses_is_rewritten_into_what_it_takes(writer: str) -> None:
    history = conversation(stamped(WRITERS[writer]()))
    with pytest.raises(ValueError, match="Unsupported message content type"):
        sent("ollama", history)
    assert sent("ollama", portable(history, "mine", model("ollama")))[1]["content"] == "it is ok"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_rewritten_turn_keeps_text_tool_calls_and_usage_and_loses_what_is_the_providers(writer: str) -> None:
    message = WRITERS[writer]()
    again = portable(conversation(stamped(message)), "mine", fake("x"))[1]
    assert isinstance(again, AIMessage)
    assert again.content == "it is ok"
    assert again.tool_calls == message.tool_calls
    assert again.usage_metadata == message.usage_metadata
    assert again.usage_metadata is not None
    assert (again.id, again.response_metadata, again.additional_kwargs) == (None, {}, {})


@pytest.mark.parametrize("name", ["openai", "responses", "anthropic", "ollama", "google"])
def test_a_route_gets_its_own_turns_as_the_very_same_objects_and_so_does_its_provider(name: str) -> None:
    own = stamped(WRITERS[name](), "mine")
    for message in (own, WRITERS[name]()):  # with a record, and without
        history = conversation(message)
        assert portable(history, "mine", model(name)) is history
    mixed = [*conversation(own), *conversation(stamped(of_ollama()))]
    assert portable(mixed, "mine", model(name))[1] is own
    assert mixed == [*conversation(own), *conversation(stamped(of_ollama()))]  # and the caller's list as it was


def test_another_deployment_of_the_same_provider_reads_its_turns_unchanged() -> None:
    azure = langchain_openai.AzureChatOpenAI(
        azure_endpoint="https://x.example", azure_deployment="d", api_version="v", api_key="x"
    )

    class Gateway(langchain_openai.ChatOpenAI):  # type: ignore[misc,name-defined]
        def _get_ls_params(self, **kwargs: Any) -> Any:
            return {**super()._get_ls_params(**kwargs), "ls_provider": "my gateway"}

    for other in (azure, Gateway(model="gpt-4.1", api_key="x", base_url="http://127.0.0.1:1/v1")):
        history = conversation(of_openai())
        assert portable(history, "mine", other) is history


def test_a_turn_of_another_route_is_rewritten_for_the_same_provider_too() -> None:
    # a model without reasoning refuses the reasoning of another, and encrypted content belongs to who made it
    history = conversation(stamped(of_responses()))
    assert portable(history, "mine", model("responses"))[1].content == "it is ok"


def test_a_route_that_got_another_provider_since_reads_its_old_turns_rewritten() -> None:
    history = conversation(stamped(of_anthropic(), "mine"))
    assert portable(history, "mine", model("ollama"))[1].content == "it is ok"
    assert portable(history, "mine", fake("x")) is history  # a provider nobody knows: leave it


def test_a_turn_without_a_record_is_rewritten_only_for_another_provider() -> None:
    history = conversation(of_anthropic())
    assert portable(history, "mine", model("anthropic")) is history
    assert portable(history, "mine", model("ollama"))[1].content == "it is ok"


def test_hand_written_history_is_left_alone() -> None:
    history = [HumanMessage("q"), AIMessage([{"type": "text", "text": "by hand"}]), HumanMessage("q2")]
    for name in READERS:
        assert portable(history, "mine", model(name)) is history


def test_a_streamed_turn_of_another_route_is_rewritten_too() -> None:
    chunk = AIMessageChunk(
        [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "ok"}],
        response_metadata={RECORD: {"route": "other"}},
    )
    assert portable([chunk], "mine", fake("x"))[0].content == "ok"


# -- what is no text
@pytest.mark.parametrize(
    ("message", "said"),
    [
        (AIMessage([{"type": "refusal", "refusal": "I will not"}]), "I will not"),
        (AIMessage("", additional_kwargs={"refusal": "I will not"}), "I will not"),
        (AIMessage("", additional_kwargs={"audio": {"id": "a", "data": "x", "transcript": "hello"}}), "hello"),
        (AIMessage("", additional_kwargs={"audio": {"id": "a", "data": "x"}}), "[audio]"),
        (
            AIMessage([{"type": "text", "text": "look:"}, {"type": "image_url", "image_url": {"url": "data:x"}}]),
            "look:\n[image]",
        ),
        (AIMessage([{"type": "image_generation_call", "id": "ig", "result": PNG}]), "[image]"),
        (AIMessage([{"type": "image", "base64": PNG, "mime_type": "image/png"}]), "[image]"),
        (AIMessage(["plain ", {"type": "text", "text": "text"}]), "plain text"),
        (AIMessage([{"type": "reasoning", "reasoning": "never ended"}]), ""),
        (AIMessage([{"type": "text", "text": None}]), ""),
    ],
)
def test_refusals_and_pictures_of_a_turn_are_said_in_words(message: AIMessage, said: str) -> None:
    history = [HumanMessage("q"), stamped(message), HumanMessage("q2")]
    rewritten = portable(history, "mine", fake("x"))
    assert rewritten[1].content == said
    for name in READERS:
        sent(name, rewritten)  # and everybody takes it


def test_a_call_with_broken_arguments_goes_on_only_if_it_was_answered() -> None:
    broken = [invalid_tool_call(name="f", args="{bad", id=id, error="no JSON") for id in ("call_1", "call_2")]
    turn = stamped(AIMessage("", invalid_tool_calls=broken))
    history = [HumanMessage("q"), turn, ToolMessage("try again", tool_call_id="call_1"), HumanMessage("q2")]
    payload = sent("openai", portable(history, "mine", model("openai")))
    # a call without a result is an error at OpenAI
    assert [call["id"] for call in payload[1]["tool_calls"]] == ["call_1"]
    assert "tool_calls" not in sent("openai", portable([history[0], turn, history[3]], "mine", model("openai")))[1]


def test_ids_of_any_format_are_kept_and_translated_by_the_clients_that_have_their_own() -> None:
    odd = "call:0/odd id"
    history = conversation(stamped(AIMessage("", tool_calls=calls(odd))))
    assert portable(history, "mine", fake("x"))[1].tool_calls[0]["id"] == odd  # type: ignore[attr-defined]
    payload = sent("anthropic", portable(history, "mine", model("anthropic")))
    used, answered = payload[1]["content"][0]["id"], payload[2]["content"][0]["tool_use_id"]
    assert used == answered
    assert re.fullmatch("[a-zA-Z0-9_-]+", used)  # what Anthropic takes
    mistral = pytest.importorskip("langchain_mistralai.chat_models")
    assert re.fullmatch("[a-zA-Z0-9]{9}", mistral._convert_tool_call_id_to_mistral_compatible(odd))


# -- tool results, and what people write
RESULTS: dict[str, Any] = {
    "text": "found it",
    "blocks": [{"type": "text", "text": "found it"}],
    "image": [{"type": "text", "text": "found it"}, {"type": "image", "base64": PNG, "mime_type": "image/png"}],
    "image_url": [
        {"type": "text", "text": "found it"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ],
    "anthropic image": [
        {"type": "text", "text": "found it", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    ],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("result", RESULTS)
def test_tool_results_of_every_form_arrive(result: str, reader: str) -> None:
    history = conversation(stamped(AIMessage("", tool_calls=calls("call_1"))), RESULTS[result])
    payload = json.dumps(sent(reader, portable(history, "mine", model(reader))), default=str)
    assert "found it" in payload
    assert ("cache_control" in payload) == (result == "anthropic image" and reader == "anthropic")
    if "image" in result:
        picture = r"\x89PNG" if reader == "google" else PNG  # its client decodes
        assert payload.replace("\\\\", "\\").count(picture) == 1


def test_cache_markers_reach_anthropic_only() -> None:
    marked = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    history = [SystemMessage([marked]), HumanMessage([marked]), AIMessage([marked]), HumanMessage("q")]
    assert portable(history, "mine", model("anthropic")) is history
    assert portable(history, "mine", fake("x")) is history  # others may well take them
    rewritten = portable(history, "mine", model("openai"))
    assert "cache_control" not in json.dumps(sent("openai", rewritten))
    assert history[0].content == [marked]


@pytest.mark.parametrize(
    ("block", "standard"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}, "image"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
            "file",
        ),
        ({"type": "document", "source": {"type": "nobody knows"}}, "document"),
    ],
)
def test_images_and_documents_in_anthropics_form_become_langchains_own_for_others(
    block: dict[str, Any], standard: str
) -> None:
    history: list[Any] = [HumanMessage([{"type": "text", "text": "see"}, block])]
    content = portable(history, "mine", model("google"))[0].content
    assert content[0] == {"type": "text", "text": "see"}
    assert content[1]["type"] == standard  # type: ignore[index]
    assert portable(history, "mine", model("anthropic")) is history


# -- through the router
async def test_the_router_rewrites_the_childs_input_and_never_the_callers_history() -> None:
    llm = routed()
    message = stamped(of_anthropic().model_copy(update={"tool_calls": []}), "strong")
    history: list[Any] = [HumanMessage("q"), message, HumanMessage("an easy question to follow")]
    llm.invoke(history)
    await llm.ainvoke(history)
    list(llm.stream(history))
    assert [seen[1].content for seen in backend(llm, "weak").seen] == ["it is ok"] * 3
    assert history[1] is message
    assert message.content != "it is ok"
    llm.invoke(history, model="strong")
    assert backend(llm, "strong").seen[0][1].content == message.content


def test_normalising_can_be_switched_off() -> None:
    llm = routed(normalize_history=False)
    message = stamped(of_responses(), "strong")
    llm.invoke(conversation(message))
    assert backend(llm, "weak").seen[0][1] is message


def test_a_conversation_between_three_providers_goes_on() -> None:
    labels = ("small", "mid", "large")
    llm = routed(models={name: fake(name, blocks=True, provider=name) for name in labels}, threshold=[0.3, 0.7])
    history: list[Any] = []
    for question in ("a hard one to begin with", "now something rather easy", "a medium one for a change"):
        history.append(HumanMessage(question))
        history.append(llm.invoke(history))
    assert [turn.response_metadata[RECORD]["route"] for turn in history[1::2]] == ["large", "small", "mid"]
    seen = backend(llm, "mid").seen[0]
    assert [turn.content for turn in seen[1::2]] == ["fake-large answers", "fake-small answers"]
    assert all(isinstance(turn.content, list) for turn in history[1::2])


def test_a_fallback_gets_the_history_in_its_own_form() -> None:
    llm = routed(strong=fake("strong", error=ConnectionError()), fallback="any")
    message = stamped(of_anthropic().model_copy(update={"tool_calls": []}), "strong")
    llm.invoke([HumanMessage("q"), message, HumanMessage("a hard question to follow up")])
    assert backend(llm, "weak").seen[0][1].content == "it is ok"


def test_rewriting_asks_a_backend_who_it_is_once_however_long_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    own = type(model("ollama"))._get_ls_params

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model("ollama")), "_get_ls_params", counted)
    portable([HumanMessage("q")], "mine", model("ollama"))
    assert asked == []
    portable([HumanMessage("q"), *([of_anthropic()] * 50)], "mine", model("ollama"))
    assert asked == [1]
