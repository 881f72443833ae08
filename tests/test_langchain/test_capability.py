"""A request goes to a backend that can take it: the next stronger one, else a weaker one, else as scored."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel

from langchain_routellm import ChatRouteLLM
from routellm_core.errors import ConfigurationError
from tests.test_langchain.fakes import RECORD, fake, get_weather, routed

PNG, PDF = "iVBORw0KGgo=", "JVBERi0="
CALL: Any = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}


class City(BaseModel):
    """A city."""

    name: str


def three(**profiles: Any) -> ChatRouteLLM:
    """Routes small, mid and large; each with a profile, if one is given."""
    models = {name: fake(name, profile=profiles.get(name)) for name in ("small", "mid", "large")}
    return routed(models=models, threshold=[0.3, 0.7])


def taken(answer: Any) -> tuple[str, str]:
    record = answer.response_metadata[RECORD]
    return record["route"], record["reason"]


NO: Any = {"image_inputs": False}


@pytest.mark.parametrize(
    ("question", "unable", "expected"),
    [
        ("easy", (), ("small", "score")),
        ("easy", ("small",), ("mid", "capability")),
        ("easy", ("small", "mid"), ("large", "capability")),
        ("medium", ("mid",), ("large", "capability")),  # the next stronger
        ("medium", ("mid", "large"), ("small", "capability")),  # else weaker
        ("hard", ("large",), ("mid", "capability")),  # the nearest of them
        ("hard", ("large", "mid"), ("small", "capability")),
        ("hard", ("small", "mid", "large"), ("large", "score")),  # none can: let the provider say so
    ],
)
async def test_of_three_routes_the_next_stronger_that_can_answers_else_the_nearest_weaker(
    question: str, unable: tuple[str, ...], expected: tuple[str, str]
) -> None:
    llm = three(**dict.fromkeys(unable, NO))
    picture = [{"type": "text", "text": question}, {"type": "image", "base64": PNG, "mime_type": "image/png"}]
    assert taken(llm.invoke([HumanMessage(picture)])) == expected
    assert taken(await llm.ainvoke([HumanMessage(picture)])) == expected
    assert taken(llm.batch([[HumanMessage(picture)]] * 2)[1]) == expected
    assert llm.invoke(question).response_metadata[RECORD]["reason"] == "score"  # without the picture all can


INPUTS = [
    ("image_inputs", {"type": "image", "base64": PNG, "mime_type": "image/png"}),
    ("image_inputs", {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}),
    ("image_inputs", {"type": "input_image", "image_url": "https://x.example/a.png"}),
    ("image_inputs", {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}),
    ("image_inputs", {"type": "media", "mime_type": "image/png", "data": PNG}),
    ("audio_inputs", {"type": "audio", "base64": "x", "mime_type": "audio/wav"}),
    ("audio_inputs", {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}),
    ("audio_inputs", {"type": "media", "mime_type": "audio/mp3", "data": "x"}),
    ("video_inputs", {"type": "video", "base64": "x", "mime_type": "video/mp4"}),
    ("pdf_inputs", {"type": "file", "base64": PDF, "mime_type": "application/pdf"}),
    ("pdf_inputs", {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}),
    ("pdf_inputs", {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}),
    ("pdf_inputs", {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}),
    ("pdf_inputs", {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}}),
]


@pytest.mark.parametrize(("key", "block"), INPUTS)
def test_inputs_are_seen_in_every_providers_form(key: str, block: dict[str, Any]) -> None:
    message = HumanMessage([{"type": "text", "text": "easy"}, block])
    profile: Any = {"image_inputs": True, "audio_inputs": True, "pdf_inputs": True, "video_inputs": True}
    assert taken(routed(weak=fake("weak", profile={**profile, key: False})).invoke([message]))[1] == "capability"
    assert taken(routed(weak=fake("weak", profile=profile)).invoke([message]))[1] == "score"
    others = {name: False for name in profile if name != key}
    assert taken(routed(weak=fake("weak", profile={**others, key: True})).invoke([message]))[1] == "score"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text-plain", "text": "x", "mime_type": "text/plain"},
        {"type": "file", "base64": "x", "mime_type": "text/csv"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
        {"type": "document", "source": {"type": "content", "content": []}},
        {"type": "file", "file_id": "file-1"},
        {"type": "text", "text": "x"},
    ],
)
def test_text_and_what_nobody_knows_goes_where_it_was_scored(block: dict[str, Any]) -> None:
    none: Any = {"image_inputs": False, "audio_inputs": False, "pdf_inputs": False, "video_inputs": False}
    message = HumanMessage([{"type": "text", "text": "easy"}, block])
    assert taken(routed(weak=fake("weak", profile=none)).invoke([message]))[1] == "score"


@pytest.mark.parametrize("key", ["image_inputs", "image_tool_message"])
def test_an_image_in_a_tool_result_needs_both(key: str) -> None:
    image = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    history = [HumanMessage("q"), AIMessage("", tool_calls=[CALL]), ToolMessage([image], tool_call_id="c")]
    llm = routed(weak=fake("weak", profile={"image_inputs": True, "image_tool_message": True, key: False}))
    assert taken(llm.invoke([*history, HumanMessage("easy")]))[1] == "capability"
    in_anthropics_form = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "x"}, image]}
    if key == "image_tool_message":
        assert taken(llm.invoke([HumanMessage("easy"), HumanMessage([in_anthropics_form])]))[1] == "capability"
        assert taken(llm.invoke([HumanMessage([{"type": "text", "text": "easy"}, image])]))[1] == "score"


def test_a_picture_that_a_model_made_goes_on_as_words_and_stops_no_route() -> None:
    made = AIMessage([{"type": "image", "base64": PNG, "mime_type": "image/png"}])
    llm = routed(weak=fake("weak", profile=NO))
    assert taken(llm.invoke([HumanMessage("q"), made, HumanMessage("easy")]))[1] == "score"


def test_an_open_tool_loop_and_a_forced_call_go_where_they_must_whatever_they_hold() -> None:
    llm = three(small=NO)
    picture: Any = [{"type": "image", "base64": PNG, "mime_type": "image/png"}]
    begun = AIMessage("", tool_calls=[CALL], response_metadata={RECORD: {"route": "small"}})
    loop = [HumanMessage("easy"), begun, ToolMessage(picture, tool_call_id="c")]
    assert taken(llm.invoke(loop)) == ("small", "tool_loop")
    assert taken(llm.invoke([HumanMessage(picture)], model="small")) == ("small", "forced")


# -- tools
def test_tools_need_a_model_that_takes_them() -> None:
    llm = three(small={"tool_calling": False}, mid={"tool_calling": False})
    assert taken(llm.bind_tools([get_weather]).invoke("easy 'Rome'")) == ("large", "capability")
    assert taken(llm.invoke("easy")) == ("small", "score")
    without = routed(weak=FakeListChatModel(responses=["hi"]))  # has no bind_tools at all
    assert taken(without.bind_tools([get_weather]).invoke("easy 'Rome'")) == ("strong", "capability")


# -- length
def test_what_is_too_long_for_one_goes_to_the_next_that_holds_it() -> None:
    llm = three(small={"max_input_tokens": 20}, mid={"max_input_tokens": 100}, large={"max_input_tokens": 1000})
    # about four characters a token: 5 words of 5 are some 10 tokens, 40 are 50 and more, 200 are 250 and more
    for words, route in ((5, "small"), (40, "mid"), (200, "large"), (2000, "small")):
        assert taken(llm.invoke("easy " * words))[0] == route
    long = [SystemMessage("rules " * 100), HumanMessage("easy")]  # all that is sent counts, not what is scored
    assert taken(llm.invoke(long)) == ("large", "capability")


# -- structured output
@pytest.mark.parametrize(
    ("profile", "method", "reason"),
    [
        ({"structured_output": False}, "json_schema", "capability"),
        ({"structured_output": True}, "json_schema", "score"),
        (None, "json_schema", "score"),
        ({"structured_output": False}, "function_calling", "score"),
        ({"tool_calling": False}, "function_calling", "capability"),
        ({"tool_calling": False, "structured_output": True}, "function_calling", "capability"),
        ({"structured_output": False}, None, "score"),  # its default method then is another
        ({"tool_calling": False}, None, "capability"),
    ],
)
async def test_the_method_of_structured_output_says_what_it_needs(profile: Any, method: Any, reason: str) -> None:
    given = {} if method is None else {"method": method}
    structured = routed(weak=fake("weak", profile=profile)).with_structured_output(City, include_raw=True, **given)
    assert taken(structured.invoke("easy 'Oslo'")["raw"])[1] == reason
    assert taken((await structured.ainvoke("easy 'Oslo'"))["raw"])[1] == reason


def test_native_output_that_an_agent_asks_for_needs_a_model_that_has_it() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}
    llm = three(small={"structured_output": False}, mid={"structured_output": True})
    assert taken(llm.invoke("easy", response_format=schema)) == ("mid", "capability")
    assert taken(llm.invoke("easy", response_format=None)) == ("small", "score")


# -- strings
async def test_a_string_is_asked_what_it_can_once_it_is_a_model_and_not_for_what_nobody_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def init_chat_model(spec: str, **settings: Any) -> Any:
        made.append(spec)
        return fake(spec, profile={"max_input_tokens": {"p:small": 5, "p:mid": 20, "p:large": 1000}[spec]})

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init_chat_model)
    models = {"small": "p:small", "mid": "p:mid", "large": "p:large"}
    llm = routed(models=models, threshold=[0.3, 0.7])
    assert taken(llm.invoke("easy")) == ("small", "score")
    assert made == ["p:small"]
    assert taken(llm.invoke("easy " * 8)) == ("mid", "capability")
    assert taken(await llm.ainvoke("easy " * 100)) == ("large", "capability")
    assert made == ["p:small", "p:mid", "p:large"]
    assert taken(await routed(models=models, threshold=[0.3, 0.7]).ainvoke("easy " * 100)) == ("large", "capability")


async def test_a_string_that_cannot_be_made_says_so_and_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    llm = routed(weak=fake("weak", profile=NO), strong="openai:gpt-4.1")
    picture = HumanMessage(
        [{"type": "image", "base64": PNG, "mime_type": "image/png"}, {"type": "text", "text": "easy"}]
    )
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="route 'strong': the backend 'openai:gpt-4.1' cannot be made"):
            llm.invoke([picture])
        with pytest.raises(ConfigurationError, match="route 'strong'"):
            await llm.ainvoke([picture])
    assert taken(llm.invoke("easy")) == ("weak", "score")


def test_a_fallback_that_cannot_be_made_says_so_with_what_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    llm = routed(weak=fake("weak", error=ConnectionError("down")), strong="openai:gpt-4.1", fallback="stronger")
    with pytest.raises(ConfigurationError, match="route 'strong'") as caught:
        llm.invoke("easy")
    assert caught.value.__notes__ == ["route 'weak' was tried too and failed: ConnectionError: down"]


# -- what all can
@pytest.mark.filterwarnings("ignore:Unrecognized keys in model profile")
def test_the_profile_of_three_is_what_all_three_can_and_none_if_one_says_nothing() -> None:
    one: Any = {"max_input_tokens": 100, "tool_calling": True, "image_inputs": True, "name": "one"}
    llm = three(small=one, mid={**one, "max_input_tokens": 7}, large={**one, "image_inputs": False})
    assert llm.profile == {"max_input_tokens": 7, "tool_calling": True, "image_inputs": False}
    assert three(small=one, mid=one).profile is None
    assert three(small=one, mid={}, large=one).profile is None
    # what is a number for one and a truth or nothing for another is no promise
    for other in (True, None, "many"):
        assert three(small={"pages": 5}, mid={"pages": other}, large={"pages": 5}).profile == {}


def test_a_profile_of_the_router_itself_is_for_readers_and_moves_no_call() -> None:
    llm = routed(profile={"image_inputs": False, "max_input_tokens": 1})
    picture = HumanMessage(
        [{"type": "image", "base64": PNG, "mime_type": "image/png"}, {"type": "text", "text": "easy"}]
    )
    assert taken(llm.invoke([picture])) == ("weak", "score")
