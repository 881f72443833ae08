"""What is bound waits for the decision, and reaches the chosen backend in its own form."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from typing import Any

import numpy as np
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_routellm._tools import DeferredTools, bound_to
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, FakeBackend, Runs, backend, by_words, fake, get_weather, pickled, routed


class Joke(BaseModel):
    """A joke."""

    setup: str


def test_bound_tools_reach_the_chosen_backend_and_the_call_is_recorded() -> None:
    llm = routed()
    bound = llm.bind_tools([get_weather], tool_choice="any", strict=True)
    answer = bound.invoke("weather in 'Paris', hard", stop=["Z"], temperature=0.5)
    assert answer.tool_calls[0]["args"] == {"city": "Paris"}
    assert answer.response_metadata[RECORD]["route"] == "strong"
    arguments = backend(llm, "strong").calls[0]
    assert (arguments["strict"], arguments["stop"], arguments["temperature"]) == (True, ["Z"], 0.5)
    assert backend(llm, "strong").bindings == [[get_weather]]  # the tool itself, not our idea of its format


async def test_per_call_arguments_arrive_in_every_way_to_call() -> None:
    llm = routed()
    llm.invoke("q", stop=["a"], temperature=0.1, max_tokens=7)
    list(llm.stream("q", stop=["a"], temperature=0.1, max_tokens=7))
    await llm.ainvoke("q", stop=["a"], temperature=0.1, max_tokens=7)
    _ = [chunk async for chunk in llm.astream("q", stop=["a"], temperature=0.1, max_tokens=7)]
    llm.batch(["q", "q"], stop=["a"], temperature=0.1, max_tokens=7)
    llm.bind(stop=["a"], temperature=0.1, max_tokens=7).invoke("q")
    llm.generate([[HumanMessage("q")]], stop=["a"], temperature=0.1, max_tokens=7)
    await llm.agenerate([[HumanMessage("q")]], stop=["a"], temperature=0.1, max_tokens=7)
    assert backend(llm, "weak").calls == [{"stop": ["a"], "temperature": 0.1, "max_tokens": 7}] * 9


def test_a_binding_can_be_looked_into_like_any_chat_models() -> None:
    bound = routed().bind_tools([get_weather])
    assert isinstance(bound, RunnableBinding)
    assert isinstance(bound.bound, BaseChatModel)
    assert bound.kwargs["tools"][0]["function"]["name"] == "get_weather"
    assert bound.kwargs["tools"][0].raw is get_weather
    assert json.loads(json.dumps(bound.kwargs["tools"]))[0]["type"] == "function"


def test_each_provider_gets_its_own_tool_format() -> None:
    kwargs = routed().bind_tools([get_weather], tool_choice="any").kwargs
    openai, _ = bound_to(ChatOpenAI(model="gpt-4.1-mini", api_key="x"), "weak", kwargs)  # type: ignore[arg-type]
    claude, _ = bound_to(ChatAnthropic(model="claude-sonnet-4-5", api_key="x"), "strong", kwargs)  # type: ignore[call-arg,arg-type]
    assert openai.kwargs["tools"][0]["function"]["name"] == "get_weather"  # type: ignore[attr-defined]
    assert openai.kwargs["tool_choice"] == "required"  # type: ignore[attr-defined]
    assert claude.kwargs["tools"][0]["input_schema"]["properties"]  # type: ignore[attr-defined]
    assert claude.kwargs["tool_choice"] == {"type": "any"}  # type: ignore[attr-defined]


def test_a_providers_built_in_tool_passes_through_untouched() -> None:
    built_in = {"type": "web_search", "user_location": {"type": "approximate"}}
    tools = DeferredTools([built_in])
    assert tools[0] == built_in
    assert tools[0].raw is built_in


def test_a_route_is_bound_once_per_binding() -> None:
    llm = routed()
    bound = llm.bind_tools([get_weather])
    for _ in range(3):
        bound.invoke("easy", stop=["x"])
        bound.invoke("hard")
    assert len(backend(llm, "weak").bindings) == len(backend(llm, "strong").bindings) == 1
    bound.invoke("easy", tool_choice="any")  # other arguments, another binding
    assert len(backend(llm, "weak").bindings) == 2
    assert "tool_choice" in backend(llm, "weak").calls[-1]
    llm.bind_tools([get_weather]).invoke("easy")
    assert len(backend(llm, "weak").bindings) == 3


def test_a_list_of_tools_that_was_edited_is_bound_anew() -> None:
    llm = routed()
    bound = llm.bind_tools([get_weather])
    bound.invoke("easy")
    other = {"name": "other", "description": "d", "parameters": {"type": "object", "properties": {}}}
    bound.kwargs["tools"][0] = DeferredTools([other])[0]
    assert bound.invoke("easy").tool_calls[0]["name"] == "other"


def test_arguments_that_change_with_every_call_do_not_pile_up_and_may_be_anything() -> None:
    llm = routed()
    bound = llm.bind_tools([get_weather])
    made: list[weakref.ref[Any]] = []
    for i in range(20):
        bound.invoke("easy", logit_bias=np.array([i, i]))  # neither hashable nor comparable
        made.append(weakref.ref(bound.kwargs["tools"].bound(backend(llm, "weak"), "weak", {"logit_bias": i})))
    gc.collect()
    assert sum(each() is not None for each in made) <= 1
    assert [call["logit_bias"][0] for call in backend(llm, "weak").calls] == list(range(20))


def test_threads_that_share_a_binding_all_get_their_backends_own_form() -> None:
    llm = routed()
    bound = llm.bind_tools([get_weather])
    answers = bound.batch([f"{'hard' if i % 2 else 'easy'} 'c{i}'" for i in range(60)])
    assert [answer.tool_calls[0]["args"]["city"] for answer in answers] == [f"c{i}" for i in range(60)]
    assert [answer.response_metadata[RECORD]["route"] for answer in answers] == ["weak", "strong"] * 30


def test_a_copy_of_a_router_binds_its_own_backends() -> None:
    llm = routed()
    bound = llm.bind_tools([get_weather])
    bound.invoke("easy")
    other = fake("other")
    moved = bound.model_copy(update={"bound": llm.model_copy(update={"models": {"weak": other, "strong": other}})})
    assert moved.invoke("'Rome'").tool_calls[0]["args"] == {"city": "Rome"}
    assert len(other.bindings) == 1
    bound.invoke("easy")
    assert [len(call) for call in (backend(llm, "weak").seen, other.seen)] == [2, 1]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"])
def test_tools_that_were_bound_travel_without_what_they_became(how: Any) -> None:
    tools = DeferredTools([convert_to_openai_tool(get_weather)])
    tools.bound(FakeBackend(), "weak", {})
    moved = how(tools)
    assert (moved, moved._bound) == (tools, {})
    assert moved[0].raw == tools[0].raw is not None


def test_a_copy_of_a_structured_route_with_another_schema_uses_it() -> None:
    structured: Any = routed().with_structured_output(Joke)
    assert structured.invoke("'a'") == Joke(setup="a")
    other = {"title": "Other", "type": "object", "properties": {"b": {"type": "string"}}}
    assert structured.model_copy(update={"target_schema": other}).invoke("'a'") == {"b": "a"}
    assert structured.invoke("'a'") == Joke(setup="a")


def test_no_tool_choice_is_sent_when_none_was_given() -> None:
    llm = routed()
    llm.bind_tools([get_weather], tool_choice=None).invoke("easy")
    assert backend(llm, "weak").calls[0]["tool_choice"] is None  # the backend's own default

    class Strict(FakeBackend):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            assert kwargs == {"strict": True}
            return super().bind_tools(tools, **kwargs)

    strict = routed(weak=Strict())
    strict.bind(tools=[convert_to_openai_tool(get_weather)], tool_choice=None, strict=True).invoke("easy")


def test_binding_again_replaces_the_tools_and_keeps_the_rest() -> None:
    llm = routed()
    runs = Runs()
    bound = llm.bind_tools([get_weather], strict=True).with_config({"callbacks": [runs]})
    other = {"name": "other", "description": "d", "parameters": {"type": "object", "properties": {}}}
    again = bound.bind_tools([other])
    answer = again.invoke("easy")
    assert answer.tool_calls[0]["name"] == "other"
    assert backend(llm, "weak").calls[0]["strict"] is True
    assert runs.kinds == ["chain", "llm"]


def test_tools_bound_by_bind_or_given_to_the_call_work_too() -> None:
    tool = convert_to_openai_tool(get_weather)
    assert routed().bind(tools=[tool]).invoke("'Rome'").tool_calls[0]["args"] == {"city": "Rome"}
    assert routed().invoke("'Rome'", tools=[tool]).tool_calls[0]["args"] == {"city": "Rome"}
    assert routed().bind_tools([]).invoke("easy").text == "fake-weak answers"


async def test_tools_stream_batch_and_generate() -> None:
    bound = routed().bind_tools([get_weather])
    merged: Any = None
    for chunk in bound.stream("hard 'Oslo'"):
        merged = chunk if merged is None else merged + chunk
    assert merged.tool_calls[0]["args"] == {"city": "Oslo"}
    assert merged.response_metadata[RECORD]["route"] == "strong"
    answers = await bound.abatch(["hard 'A'", "'B'"])
    assert [answer.tool_calls[0]["args"]["city"] for answer in answers] == ["A", "B"]
    result = routed().generate([[HumanMessage("'C'")]], tools=DeferredTools([get_weather]))
    assert result.generations[0][0].message.tool_calls[0]["args"] == {"city": "C"}  # type: ignore[union-attr]


def test_a_binding_pickles_without_what_it_was_bound_to() -> None:
    bound = routed(router=ScriptedRouter(0.1)).bind_tools([convert_to_openai_tool(get_weather)])
    bound.invoke("'x'")
    copy = pickled(bound)
    assert copy.invoke("easy 'Rome'").tool_calls[0]["args"] == {"city": "Rome"}


# -- structured output
async def test_structured_output_uses_the_chosen_backend() -> None:
    llm, runs = routed(), Runs()
    structured = llm.with_structured_output(Joke)
    assert structured.invoke("hard 'a'", {"callbacks": [runs]}) == Joke(setup="a")
    assert runs.kinds.count("llm") == 1
    assert (runs.starts[0]["kind"], runs.starts[0]["name"]) == ("chain", "ChatRouteLLM")
    assert next(s for s in runs.starts if s["kind"] == "llm")["metadata"]["routellm_route"] == "strong"
    assert await structured.ainvoke("'b'") == Joke(setup="b")
    assert list(structured.stream("'c'"))[-1] == Joke(setup="c")
    assert [item async for item in structured.astream("'d'")][-1] == Joke(setup="d")
    assert len(backend(llm, "weak").seen) == 3
    assert len(backend(llm, "weak").bindings) == 1  # made once per route


async def test_structured_output_carries_the_record_in_raw() -> None:
    structured = routed().with_structured_output(Joke, include_raw=True)
    answer = structured.invoke("hard 'a'")
    assert answer["parsed"] == Joke(setup="a")
    assert answer["raw"].response_metadata[RECORD]["route"] == "strong"
    assert (await structured.ainvoke("hard"))["raw"].response_metadata[RECORD]["route"] == "strong"


def test_a_structured_stream_with_raw_adds_up_to_the_answer_and_its_record() -> None:
    runs = Runs()
    chunks = list(routed().with_structured_output(Joke, include_raw=True).stream("hard 'a'", {"callbacks": [runs]}))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole["parsed"] == Joke(setup="a")
    assert whole["raw"].response_metadata[RECORD]["route"] == "strong"
    assert runs.ends[-1] == ("chain", whole)


async def test_a_structured_batch_is_scored_in_one_call() -> None:
    router = ScriptedRouter(by_words)
    structured = routed(router=router).with_structured_output(Joke)
    assert structured.batch(["hard 'a'", "'b'"]) == [Joke(setup="a"), Joke(setup="b")]
    assert await structured.abatch(["hard 'a'", "'b'"]) == [Joke(setup="a"), Joke(setup="b")]
    assert router.calls == [["hard 'a'", "'b'"]] * 2


def test_structured_output_after_bound_tools_says_what_to_do_instead() -> None:
    with pytest.raises(NotImplementedError, match=r"create_agent\(model, tools, response_format"):
        routed().bind_tools([get_weather]).with_structured_output(Joke)


def test_structured_output_keeps_the_arguments_bound_before() -> None:
    llm = routed()
    assert llm.bind(stop=["x"]).with_structured_output(Joke).invoke("'a'") == Joke(setup="a")
    assert backend(llm, "weak").calls[0]["stop"] == ["x"]


def test_structured_output_pickles() -> None:
    structured = routed(router=ScriptedRouter(0.1)).with_structured_output(Joke)
    structured.invoke("'a'")
    assert pickled(structured).invoke("'b'") == Joke(setup="b")


def test_a_tool_of_a_call_may_have_an_attribute_of_any_name() -> None:
    class Echo(BaseTool):
        name: str = "echo"
        description: str = "Says it again."
        raw: str = "its own"

        def _run(self, text: str) -> str:
            return text

    for answer in (routed().invoke("a hard 'x'", tools=[Echo()]), routed().bind_tools([Echo()]).invoke("a hard 'x'")):
        assert [call["name"] for call in answer.tool_calls] == ["echo"]
