"""Histories of several providers: what a backend is shown of answers that another one gave."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CitationBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import ChatMessage, ChatResponse

from llamaindex_routellm import RouteLLM, force_route
from llamaindex_routellm._ledger import AnswerLedger
from llamaindex_routellm._portable import portable

QUESTION = ChatMessage(role="user", content="What is the weather in Oslo?")
LEGACY = [SimpleNamespace(id="call_1", function=None)]  # an object, as OpenAI's integration leaves it


class Named:
    """As much of a backend as is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def class_name(self) -> str:
        return self._name


def thinking(signature: str | None = None) -> ThinkingBlock:
    return ThinkingBlock(content="hm", additional_information={} if signature is None else {"signature": signature})


def calls(*each: tuple[str | None, str, Any], **extra: Any) -> ChatMessage:
    blocks = [ToolCallBlock(tool_call_id=id, tool_name=name, tool_kwargs=kwargs) for id, name, kwargs in each]
    return ChatMessage(role="assistant", blocks=[thinking(), *blocks], additional_kwargs=extra)


def result(text: str, **extra: Any) -> ChatMessage:
    return ChatMessage(role="tool", content=text, additional_kwargs=extra)


def answer(*blocks: Any, **extra: Any) -> ChatMessage:
    return ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=extra)


def shown(history: list[ChatMessage], to: str, *, by: str | None = "weak", route: str = "strong") -> list[ChatMessage]:
    """What the client named `to`, on `route`, gets of a history whose answers `by` gave."""
    ledger, before = AnswerLedger(), copy.deepcopy(history)
    for i, message in enumerate(history):
        if by is not None and message.role == "assistant":
            ledger.remember(history[:i], ChatResponse(message=message), by, texts=True)
    seen = portable(history, route, Named(to), ledger)  # type: ignore[arg-type]
    assert history == before, "the caller's own history was changed"
    return seen


# -- answers of another route
def test_an_answer_of_another_route_becomes_text():
    said = answer(
        thinking("signed"),
        CitationBlock(cited_content=TextBlock(text="s"), source="s", title="t", additional_location_info={}),
        TextBlock(text="Rain."),
        ImageBlock(image=b"x", image_mimetype="image/png"),
        AudioBlock(audio=b"x", format="wav"),
        usage={"output_tokens": 3},
    )
    history = [QUESTION, said, ChatMessage(role="user", content="And in Bern?")]
    first, seen, last = shown(history, "openai_llm")
    assert (first, last) == (history[0], history[2]) and first is history[0] and last is history[2]
    assert seen == answer(TextBlock(text="Rain."), TextBlock(text="[image]"), TextBlock(text="[audio]"))


def test_tool_calls_of_another_route_keep_their_ids_and_lose_what_its_client_left_beside_them():
    history = [
        QUESTION,
        calls(("call_1", "look", '{"q": "Oslo"}'), tool_calls=LEGACY),
        result("rain", tool_call_id="call_1"),
    ]
    _, seen, its = shown(history, "Ollama_llm")
    # arguments are an object again: one writes them as text, the others refuse that
    assert seen == answer(ToolCallBlock(tool_call_id="call_1", tool_name="look", tool_kwargs={"q": "Oslo"}))
    assert its is history[2]


def test_arguments_that_broke_off_are_none():
    for broken in ('{"q": "Os', '"Oslo"'):
        _, seen = shown([QUESTION, calls(("call_1", "look", broken))], "Anthropic_LLM")
        assert seen.blocks[0].tool_kwargs == {}


def test_calls_that_stand_only_in_the_old_place_stay_there():
    old = answer(TextBlock(text=""), tool_calls=[{"id": "call_1"}], usage=1)
    _, seen = shown([QUESTION, old], "openai_llm")
    assert seen.additional_kwargs == {"tool_calls": [{"id": "call_1"}]}


def test_missing_ids_are_filled_in_on_calls_and_on_their_results_in_order():
    history = [
        QUESTION,
        calls((None, "look", {"q": "a"}), (None, "add", {}), (None, "look", {"q": "b"})),
        result("first look", tool_call_id="look"),  # as agents write it for a call without an id
        result("sum", name="add"),
        result("second look", tool_call_id="look"),
        calls(("", "look", {})),
        result("third look"),
        ChatMessage(role="user", content="Thanks."),
    ]
    seen = shown(history, "openai_llm")
    ids = [block.tool_call_id for message in seen for block in message.blocks if isinstance(block, ToolCallBlock)]
    assert len(set(ids)) == 4
    assert all(len(id) == 9 and id.isalnum() for id in ids)  # what the strictest provider wants
    a, add, b, third = ids
    results = [(m.content, m.additional_kwargs["tool_call_id"]) for m in seen if m.role == "tool"]
    assert results == [("first look", a), ("sum", add), ("second look", b), ("third look", third)]
    assert shown(history, "openai_llm") == seen  # again and again the same, so that caches of prompts hold


@pytest.mark.parametrize("by", ["weak", None])
@pytest.mark.parametrize("to", ["openai_llm", "Anthropic_LLM", "Ollama_llm"])
def test_parallel_calls_that_a_server_gave_one_id_are_told_apart(to: str, by: str | None):
    history = [
        QUESTION,
        calls(("0", "look", {"q": "a"}), ("1", "add", {}), ("0", "look", {"q": "b"})),
        result("first look", tool_call_id="0"),
        result("sum", tool_call_id="1"),
        result("second look", tool_call_id="0"),
    ]
    seen = shown(history, to, by=by)
    a, add, b = [block.tool_call_id for block in seen[1].blocks if isinstance(block, ToolCallBlock)]
    assert len({a, add, b}) == 3 and add == "1"
    assert [message.additional_kwargs["tool_call_id"] for message in seen[2:]] == [a, add, b]
    assert shown(history, to, route="weak", by="weak")[1] is history[1]  # the server itself knows them


@pytest.mark.parametrize(
    ("to", "id", "kept"),
    [
        ("MistralAI_LLM", "call_abcdefghijkl", False),  # nine letters or digits
        ("MistralAI_LLM", "a1B2c3D4e", True),
        ("Anthropic_LLM", "functions.look:0", False),  # letters, digits, _ and -
        ("Anthropic_LLM", "call_a-1", True),
        ("openai_llm", "functions.look:0", True),
    ],
)
def test_an_id_that_the_client_would_be_refused_for_is_replaced(to: str, id: str, kept: bool):
    seen = shown([QUESTION, calls((id, "look", {})), result("rain", tool_call_id=id)], to)
    [call] = [block for block in seen[1].blocks if isinstance(block, ToolCallBlock)]
    assert call.tool_call_id == seen[2].additional_kwargs["tool_call_id"]
    assert (call.tool_call_id == id) is kept


def test_an_answer_of_thinking_alone_is_left_out():
    history = [QUESTION, calls(("call_1", "look", {})), result("rain", tool_call_id="call_1"), answer(thinking())]
    assert [message.role.value for message in shown(history, "Anthropic_LLM")] == ["user", "assistant", "tool"]


# -- answers of its own
@pytest.mark.parametrize("to", ["openai_llm", "Ollama_llm", "Anthropic_LLM"])
def test_a_route_gets_its_own_answers_and_their_results_back_as_the_same_objects(to: str):
    history = [
        QUESTION,
        calls((None, "look", {}), tool_calls=LEGACY),
        result("rain", tool_call_id="look"),
        answer(thinking(), TextBlock(text="Rain.")),
    ]
    seen = shown(history, to, by="strong", route="strong")
    assert all(one is other for one, other in zip(seen, history, strict=True))
    assert seen is not history  # clients append to what they are given


# -- answers that nobody remembers
def test_of_an_unknown_answer_only_that_is_taken_which_the_client_cannot_read():
    history = [QUESTION, calls(("call_1", "look", '{"q": 1}'), tool_calls=LEGACY)]

    def seen(to: str, message: ChatMessage = history[1]) -> ChatMessage:
        return shown([QUESTION, message], to, by=None)[1]

    assert seen("openai_llm") is history[1]
    assert seen("RouteLLM") is history[1]  # it will adapt what it passes on
    call = ToolCallBlock(tool_call_id="call_1", tool_name="look", tool_kwargs={"q": 1})
    assert seen("Ollama_llm") == answer(thinking(), call)
    assert seen("Anthropic_LLM") == answer(call)
    signed = answer(thinking("signed"), TextBlock(text="Rain."))
    assert [seen(to, signed) is signed for to in ("openai_llm", "Ollama_llm", "Anthropic_LLM")] == [True] * 3


def test_a_client_is_known_by_what_it_descends_from_whatever_it_calls_itself():
    class OpenAILike(Named): ...

    class Groq(OpenAILike): ...

    class RouteLLM(Named): ...

    class OurTeams(RouteLLM): ...

    history = [QUESTION, calls(("call_1", "look", '{"q": 1}'), tool_calls=LEGACY)]
    for backend in (Groq("Groq_LLM"), OurTeams("OurTeams")):
        assert portable(history, "weak", backend, AnswerLedger())[1] is history[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("to", ["openai_llm", "Ollama_llm", "Anthropic_LLM"])
def test_an_unknown_call_without_an_id_gets_one(to: str):
    _, call, its = shown([QUESTION, calls((None, "look", {})), result("rain", tool_call_id="look")], to, by=None)
    assert call.blocks[-1].tool_call_id == its.additional_kwargs["tool_call_id"] == "c00001000"


def test_plain_histories_are_not_even_looked_up():
    class Unasked(AnswerLedger):
        def origin(self, task: str, message: ChatMessage) -> str | None:
            raise AssertionError("asked")

    history = [QUESTION, answer(TextBlock(text="Rain.")), result("left over"), QUESTION]
    seen = portable(history, "weak", Named("openai_llm"), Unasked())  # type: ignore[arg-type]
    assert all(one is other for one, other in zip(seen, history, strict=True))


# -- through the router
async def ask(llm: Any, how: str, history: list[ChatMessage]) -> ChatMessage:
    """The answer of any of the ways to call, joined to the history."""
    made = getattr(llm, how)(history) if "tools" not in how else getattr(llm, how)([], chat_history=history)
    if how.startswith("a"):
        made = await made
    if "astream" in how:
        made = [item async for item in made][-1]
    elif "stream" in how:
        made = list(made)[-1]
    history.append(made.message)
    return made.message


WAYS = [f"{a}{stream}chat{tools}" for a in ("", "a") for stream in ("", "stream_") for tools in ("", "_with_tools")]


@pytest.mark.parametrize("stickiness", ["none", "tool_loop", "conversation"])
@pytest.mark.parametrize("how", WAYS)
async def test_backends_see_each_others_thinking_never_and_their_own_always(how: str, stickiness: str, kit: Any):
    def thinks(tag: str) -> ChatMessage:
        return answer(ThinkingBlock(content=f"{tag} thinks"), TextBlock(text=f"{tag} says"))

    made = kit.pair(stickiness=stickiness)
    made.weak.script = [thinks("weak"), "done"]
    made.strong.script = [thinks("strong")]
    if "stream" in how:  # the fake streams words alone
        for backend in (made.weak, made.strong):
            object.__setattr__(
                backend, "_chunks", lambda kind, asked, kwargs, b=backend: [_chunk(b, asked, kind, kwargs)]
            )
    history: list[ChatMessage] = []
    for route in ("weak", "strong", "weak"):
        history.append(kit.user(f"{kit.EASY} {route}"))
        with force_route(route):
            await ask(made.llm, how, history)
    assert [m.content for m in history if m.role == "assistant"] == ["weak says", "strong says", "done"]

    def seen(backend: Any, call: int) -> list[str | None]:
        messages = [c for c in backend._calls if c[0] != "get_tool_calls"][call][1]
        return [block.content for m in messages for block in m.blocks if isinstance(block, ThinkingBlock)]

    assert seen(made.strong, 0) == []
    assert seen(made.weak, 1) == ["weak thinks"]
    assert [len(m.blocks) for m in history if m.role == "assistant"] == [2, 2, 1]  # the caller keeps all of it


def _chunk(backend: Any, asked: Any, kind: str, kwargs: dict[str, Any]) -> tuple[ChatMessage, str]:
    message = backend._reply(kind, asked, kwargs)
    return message, message.content or ""


async def test_it_can_be_switched_off_and_copies_and_dumps_keep_that(kit: Any):
    made = kit.pair(normalize_history=False)
    made.weak.script = [answer(thinking(), TextBlock(text="Rain."))]
    history = [kit.user(kit.EASY)]
    await ask(made.llm, "chat", history)
    history.append(kit.user(kit.HARD))
    await ask(made.llm, "chat", history)
    assert made.strong._calls[0][1][1] is history[1]
    routes = {"weak": made.weak, "strong": made.strong}
    restored = RouteLLM.from_dict(made.llm.to_dict(), models=routes, router=made.router)
    again = pickle.loads(pickle.dumps(made.llm))  # noqa: S301
    copies = (restored, copy.deepcopy(made.llm), made.llm.model_copy(), again)
    assert [llm.normalize_history for llm in copies] == [False] * 4
    assert [llm._caller.normalizes for llm in copies] == [False] * 4
    assert made.llm.model_copy(update={"normalize_history": True})._caller.normalizes
