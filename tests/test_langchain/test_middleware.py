"""RouteLLMMiddleware on its own: the decision, the request that the backend gets, the record, failures."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelResponse, dynamic_prompt, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.errors import GraphInterrupt
from langsmith import Client
from langsmith.run_helpers import tracing_context
from pydantic import BaseModel

import langchain_routellm._backends as backends
from langchain_routellm import ChatRouteLLM, RouteLLMMiddleware
from routellm_core import collect_decisions
from routellm_core.errors import ConfigurationError, MissingExtraError, ScoringError, UnknownKindError
from routellm_core.policy import RoutingPolicy
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, Runs, by_words, fake, get_weather
from tests.test_langchain.surfaces import CONTEXT_IN_TASKS, middleware, never, records, routes, turn


class Answer(BaseModel):
    """An answer."""

    city: str


def over(routing: RouteLLMMiddleware, tools: Any = (), *more: Any, **options: Any) -> Any:
    return create_agent(never(), list(tools), middleware=[routing, *more], **options)


async def both_ways(made: Any, value: Any, config: Any = None) -> list[Any]:
    return [made.invoke(value, config), await made.ainvoke(value, config)]


# -- the decision
async def test_each_turn_goes_where_its_score_says_and_the_record_is_on_the_answer_and_in_the_state() -> None:
    for result in await both_ways(over(middleware()), turn("hard")):
        assert result["messages"][-1].text == "fake-strong answers"
        assert routes(result) == [("strong", "score")]
        assert result["routellm"] == records(result)[0]
        assert result["routellm"]["win_rate"] == 0.9
    for result in await both_ways(over(middleware()), turn("easy")):
        assert (result["messages"][-1].text, result["routellm"]["route"]) == ("fake-weak answers", "weak")


async def test_a_tool_loop_stays_and_costs_one_scoring() -> None:
    router = ScriptedRouter(by_words)
    for result in await both_ways(over(middleware(router=router), [get_weather]), turn("hard: weather in 'Oslo'")):
        assert routes(result) == [("strong", "score"), ("strong", "tool_loop")]
        assert result["routellm"] == {"route": "strong", "reason": "tool_loop"}
    assert len(router.calls) == 2  # one a run


def test_the_words_are_those_of_the_chat_model_and_so_are_the_errors() -> None:
    ours = inspect.signature(RouteLLMMiddleware).parameters
    theirs = inspect.signature(ChatRouteLLM.__init__).parameters
    assert {name: p.default for name, p in ours.items()} == {
        name: p.default for name, p in theirs.items() if name not in ("self", "profile", "kwargs")
    }
    with pytest.raises(ConfigurationError, match="strong= and weak="):
        RouteLLMMiddleware(strong=fake("a"))
    with pytest.raises(ConfigurationError, match="threshold is a win rate"):
        middleware(threshold=1.5)
    with pytest.raises(ConfigurationError, match="a backend is a chat model"):
        middleware(weak=fake("a").with_retry())
    with pytest.raises(ConfigurationError, match="or strong_share=, not both"):
        middleware(strong_share=0.5)


def test_every_argument_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setattr("langchain_routellm.middleware.ChatRouteLLM", got.update)
    given: dict[str, Any] = {name: object() for name in inspect.signature(RouteLLMMiddleware).parameters}
    RouteLLMMiddleware(**given)
    assert got == given


def test_without_langchain_the_name_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import langchain_routellm

    monkeypatch.delitem(vars(langchain_routellm), "RouteLLMMiddleware", raising=False)
    monkeypatch.setitem(sys.modules, "langchain", None)
    with pytest.raises(
        MissingExtraError, match=r"RouteLLMMiddleware needs .* pip install 'routellm-integrations\[lang"
    ):
        _ = langchain_routellm.RouteLLMMiddleware


def test_the_chat_model_does_without_langchain() -> None:
    code = "import sys; from langchain_routellm import ChatRouteLLM; print('langgraph' in sys.modules)"
    code += "; print('langchain.agents' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


async def test_many_runs_at_once_keep_their_routes_and_runs_apart() -> None:
    made, settings = over(middleware(), [get_weather]), []
    for number in range(40):
        text = f"{'hard' if number % 3 == 0 else 'easy'}: 'Oslo {number}'"
        settings.append((text, Runs()))
    results = await asyncio.gather(*(made.ainvoke(turn(text), {"callbacks": [runs]}) for text, runs in settings))
    for number, (result, (_, runs)) in enumerate(zip(results, settings, strict=True)):
        route = "strong" if number % 3 == 0 else "weak"
        assert routes(result) == [(route, "score"), (route, "tool_loop")]
        assert result["messages"][2].text == f"sunny in Oslo {number}"
        if CONTEXT_IN_TASKS:
            started = [start["metadata"]["routellm_route"] for start in runs.starts if start["kind"] == "llm"]
            assert started == [route, route]


def test_n_routes_and_a_policy_of_ones_own() -> None:
    models = {"small": fake("s"), "mid": fake("m"), "large": fake("l")}
    policy = RoutingPolicy(ScriptedRouter(by_words), routes=tuple(models), threshold=[0.4, 0.8])
    routing = RouteLLMMiddleware(models=models, policy=policy)
    assert routing.routing_policy is policy
    assert list(routing.models) == ["small", "mid", "large"]
    for text, route in (("easy", "small"), ("medium", "mid"), ("hard", "large")):
        assert over(routing).invoke(turn(text))["routellm"]["route"] == route


@dataclass
class Context:
    user: str = "ann"
    routellm_threshold: float | None = None
    routellm_route: str | None = None


async def test_a_call_can_be_set_by_config_or_by_the_runs_context() -> None:
    made = over(middleware(), context_schema=Context)
    forced: Any = {"configurable": {"routellm_route": "weak"}}
    assert routes(made.invoke(turn("hard"), forced)) == [("weak", "forced")]
    if CONTEXT_IN_TASKS:
        assert routes(await made.ainvoke(turn("hard"), forced)) == [("weak", "forced")]
    for context in (Context(routellm_threshold=0.95), {"routellm_threshold": 0.95, "user": "bob"}):
        made = over(middleware(), context_schema=Context if isinstance(context, Context) else None)
        assert made.invoke(turn("hard"), context=context)["routellm"]["threshold"] == 0.95
        assert (await made.ainvoke(turn("hard"), context=context))["routellm"]["threshold"] == 0.95
    # a setting that a router around the agent has taken for itself is none
    made = over(middleware(), context_schema=Context)
    result = made.invoke(
        turn("hard"), {"configurable": {"routellm_threshold": None}}, context=Context(routellm_threshold=0.95)
    )
    assert result["routellm"]["threshold"] == 0.95
    # what was said for this one call is nearer than what the context holds
    config: Any = {"configurable": {"routellm_threshold": 0.05}}
    result = over(middleware(), context_schema=Context).invoke(
        turn("easy"), config, context=Context(routellm_threshold=0.95)
    )
    assert result["routellm"]["route"] == "strong"


def test_a_setting_that_does_not_exist_is_refused_wherever_it_stands() -> None:
    with pytest.raises(ConfigurationError, match="routellm_treshold"):
        over(middleware()).invoke(turn("x"), {"configurable": {"routellm_treshold": 0.5}})
    with pytest.raises(ConfigurationError, match="routellm_treshold"):
        over(middleware()).invoke(turn("x"), context={"routellm_treshold": 0.5})
    with pytest.raises(UnknownKindError, match="the routes are weak, strong"):
        over(middleware()).invoke(turn("x"), {"configurable": {"routellm_route": "best"}})


async def test_strings_become_backends_on_first_use_and_not_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made_in: list[str] = []

    def init_chat_model(spec: str) -> Any:
        made_in.append(threading.current_thread().name)
        return fake(spec.partition(":")[2])

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init_chat_model)
    assert backends.made("x:probe").label == "fake-probe"  # type: ignore[attr-defined]
    made_in.clear()
    made = over(middleware(strong="x:large", weak="x:small"))
    assert made_in == []
    result = await made.ainvoke(turn("hard"))
    assert result["messages"][-1].text == "fake-large answers"
    assert len(made_in) == 1 and made_in[0] != threading.main_thread().name
    await made.ainvoke(turn("hard"))
    assert len(made_in) == 1
    failing = over(middleware(weak=fake("weak", error=ConnectionError("down")), strong="x:large", fallback="stronger"))
    await failing.ainvoke(turn("easy"))
    assert len(made_in) == 2 and made_in[1] != threading.main_thread().name
    assert made.invoke(turn("easy"))["messages"][-1].text == "fake-small answers"


# -- the request
def test_the_history_is_rewritten_in_the_request_and_not_in_the_state() -> None:
    strong, weak = fake("strong", blocks=True), fake("weak")
    made = over(middleware(strong=strong, weak=weak))
    first = made.invoke(turn("hard"))
    second = made.invoke({"messages": [*first["messages"], HumanMessage("easy")]})
    seen = weak.seen[0][1]
    assert seen.content == "fake-strong answers"
    assert RECORD not in seen.response_metadata
    assert isinstance(second["messages"][1].content, list)  # the thinking block is still there
    # back to where it came from, it goes as it was
    made.invoke({"messages": [*second["messages"], HumanMessage("hard")]})
    assert strong.seen[1][1].content == first["messages"][1].content
    kept = over(middleware(strong=strong, weak=weak, normalize_history=False))
    kept.invoke({"messages": [*first["messages"], HumanMessage("easy")]})
    assert isinstance(weak.seen[-1][1].content, list)


def test_what_comes_after_sees_the_backend_and_what_comes_before_the_agents_own_model() -> None:
    seen: list[tuple[str, Any]] = []

    def looks(name: str) -> Any:
        @wrap_model_call(name=name)
        def look(request: Any, handler: Any) -> Any:
            seen.append((name, request.model))
            return handler(request)

        return look

    own, weak = never(), fake("weak")
    made = create_agent(own, [], middleware=[looks("before"), middleware(weak=weak), looks("after")])
    made.invoke(turn("easy"))
    assert seen == [("before", own), ("after", weak)]
    assert seen[1][1] is weak


def test_a_dynamic_prompt_and_changed_tools_reach_the_backend() -> None:
    @dynamic_prompt
    def prompt(request: Any) -> str:
        return f"You are {request.model.label}."

    @tool
    def other(city: str) -> str:
        """Another one."""
        return city

    @wrap_model_call
    def only_other(request: Any, handler: Any) -> Any:
        return handler(request.override(tools=[other]))

    strong = fake("strong")
    made = over(middleware(strong=strong), [get_weather, other], prompt, only_other, system_prompt="Static.")
    made.invoke(turn("hard 'Oslo'"))
    assert strong.seen[0][0] == SystemMessage("You are fake-strong.")
    assert [t["function"]["name"] for t in strong.calls[0]["tools"]] == ["other"]


def test_cache_markers_on_tools_and_settings_are_taken_out_and_nothing_else() -> None:
    marker, weak = {"type": "ephemeral"}, fake("weak")
    marked = get_weather.model_copy(update={"extras": {"cache_control": marker, "defer_loading": True}})
    builtin = {"type": "function", "function": {"name": "other", "parameters": {}}, "cache_control": marker}

    @wrap_model_call
    def marks(request: Any, handler: Any) -> Any:
        settings = {"cache_control": marker, "temperature": 0.5, "extras": {"cache_control": marker, "user": "ann"}}
        return handler(request.override(tools=[marked, builtin], model_settings=settings))

    made = create_agent(never(), [get_weather], middleware=[marks, middleware(weak=weak)])
    made.invoke(turn("easy 'Oslo'"))
    assert weak.bindings[0][0].extras == {"defer_loading": True}
    assert weak.bindings[0][1] == {"type": "function", "function": {"name": "other", "parameters": {}}}
    assert weak.calls[0]["temperature"] == 0.5
    assert weak.calls[0]["extras"] == {"user": "ann"}
    assert "cache_control" not in weak.calls[0]
    assert marked.extras == {"cache_control": marker, "defer_loading": True}


def test_a_changed_prompt_before_it_is_kept_and_the_system_prompt_is_not_scored() -> None:
    @dynamic_prompt
    def prompt(request: Any) -> str:
        return "Answer hard questions."

    router, weak = ScriptedRouter(by_words), fake("weak")
    made = create_agent(never(), [], middleware=[prompt, middleware(router=router, weak=weak)])
    made.invoke(turn("easy"))
    assert router.calls == [["easy"]]
    assert [type(message) for message in weak.seen[0]] == [SystemMessage, HumanMessage]


def test_a_backend_that_cannot_take_the_request_is_passed_over() -> None:
    no_tools: Any = {"tool_calling": False}
    made = over(middleware(weak=fake("weak", profile=no_tools)), [get_weather])
    assert routes(made.invoke(turn("easy: 'Oslo'")))[0] == ("strong", "capability")
    # a structured answer is a tool too, unless it is the provider's own
    native: Any = {"tool_calling": False, "structured_output": True}
    made = over(middleware(weak=fake("weak", profile=native)), [], response_format=ToolStrategy(Answer))
    assert routes(made.invoke(turn("easy: 'Oslo'")))[0] == ("strong", "capability")
    weak = fake("weak", profile=native, echo=True)
    made = over(middleware(weak=weak), [], response_format=ProviderStrategy(Answer))
    assert routes(made.invoke(turn('{"city": "easy"}')))[0] == ("weak", "score")
    # 40 words of 8 letters and the system prompt; the weak model takes 50 tokens
    made = over(middleware(weak=fake("weak", profile={"max_input_tokens": 50})), [], system_prompt="abcdefg " * 40)
    assert routes(made.invoke(turn("easy")))[0] == ("strong", "capability")


# -- structured output
async def test_each_backend_gets_its_own_structured_output() -> None:
    native: Any = {"structured_output": True, "tool_calling": True}
    by_tool: Any = {"structured_output": False, "tool_calling": True}
    strong, weak = fake("strong", profile=native, echo=True), fake("weak", profile=by_tool)
    made = over(middleware(strong=strong, weak=weak), [], response_format=Answer)
    for result in await both_ways(made, turn("easy 'Oslo'")):
        assert result["structured_response"] == Answer(city="Oslo")
        assert routes(result) == [("weak", "score")]
        assert isinstance(result["messages"][-1], ToolMessage)
    assert weak.calls[0]["tools"][0]["function"]["name"] == "Answer"
    assert "response_format" not in weak.calls[0]
    for result in await both_ways(made, turn('{"city": "hard"}')):
        assert result["structured_response"] == Answer(city="hard")
        assert routes(result) == [("strong", "score")]
    assert strong.calls[0]["response_format"]["json_schema"]["name"] == "Answer"
    assert not strong.calls[0]["tools"]


def test_a_named_native_strategy_needs_a_backend_that_has_it() -> None:
    by_tool: Any = {"structured_output": False, "tool_calling": True}
    strong = fake("strong", echo=True)  # nothing is known of it
    made = over(
        middleware(strong=strong, weak=fake("weak", profile=by_tool)), [], response_format=ProviderStrategy(Answer)
    )
    assert routes(made.invoke(turn('{"city": "easy"}'))) == [("strong", "capability")]


# -- the record and the runs
def test_the_answer_is_stamped_on_a_copy() -> None:
    kept: list[AIMessage] = []

    @wrap_model_call
    def keeps(request: Any, handler: Any) -> Any:
        response = handler(request)
        kept.extend(response.result)
        return response

    result = over(middleware(), [], keeps).invoke(turn("easy"))
    assert RECORD not in kept[0].response_metadata
    assert RECORD in result["messages"][-1].response_metadata
    assert kept[0].id == result["messages"][-1].id


async def test_the_models_run_carries_the_record_and_usage_is_counted_once() -> None:
    for go in ("sync", "async") if CONTEXT_IN_TASKS else ("sync",):
        runs, usage = Runs(), UsageMetadataCallbackHandler()
        config: Any = {"callbacks": [runs, usage], "configurable": {"routellm_threshold": 0.7}}
        made = over(middleware())
        _ = made.invoke(turn("hard"), config) if go == "sync" else await made.ainvoke(turn("hard"), config)
        models = [start for start in runs.starts if start["kind"] == "llm"]
        assert len(models) == 1
        assert models[0]["metadata"]["routellm_route"] == "strong"
        assert models[0]["metadata"]["routellm_threshold"] == 0.7
        node = next(start for start in runs.starts if start["run_id"] == models[0]["parent"])
        assert node["name"] == "model"
        assert usage.usage_metadata["fake-strong"]["total_tokens"] == 15


class Traced(Client):
    """Keeps what would be sent to LangSmith."""

    def __init__(self) -> None:
        super().__init__(api_key="none", auto_batch_tracing=False, info={})
        self.kept: dict[str, dict[str, Any]] = {}

    def create_run(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.kept[str(kwargs["id"])] = {"name": name, **kwargs}

    def update_run(self, *args: Any, **kwargs: Any) -> None:
        pass


async def test_in_a_trace_the_models_run_stands_below_the_middlewares_with_the_record() -> None:
    for go in ("sync", "async") if CONTEXT_IN_TASKS else ("sync",):
        client = Traced()
        with tracing_context(enabled=True, client=client):
            made = over(middleware())
            _ = made.invoke(turn("hard")) if go == "sync" else await made.ainvoke(turn("hard"))
        found = [run for run in client.kept.values() if run["run_type"] == "llm"]
        assert len(found) == 1
        assert found[0]["extra"]["metadata"]["routellm_route"] == "strong"
        names, run = [], found[0]
        while run.get("parent_run_id"):
            run = client.kept[str(run["parent_run_id"])]
            names.append(run["name"])
        ours = "RouteLLMMiddleware.wrap_model_call" if go == "sync" else "RouteLLMMiddleware.awrap_model_call"
        # the first langchain 1.2 shows no middleware
        assert names in ([ours, "model", "LangGraph"], ["model", "LangGraph"])


async def test_collected_decisions_know_their_tokens() -> None:
    made = over(middleware(), [get_weather])
    with collect_decisions() as decisions:
        await made.ainvoke(turn("easy 'Oslo'"))
    assert [(d.route, d.reason) for d in decisions] == [("weak", "score"), ("weak", "tool_loop")]
    usage = decisions.usage_of(decisions[0])
    assert usage is not None and (usage.input_tokens, usage.output_tokens) == (10, 5)
    # two calls of 10 and 5 tokens: 20 * 1 + 10 * 2 = 40 against 400 micro-dollars
    saving = decisions.saving({"weak": (1, 2), "strong": (10, 20)})
    assert (saving.usd, saving.all_strong_usd) == (pytest.approx(40e-6), pytest.approx(400e-6))


def test_a_judge_is_a_silent_child_of_the_model_node() -> None:
    judge = fake("judge")

    def judged(prompt: str) -> float:
        judge.invoke(prompt)
        return 0.1

    runs = Runs()
    made = over(middleware(router=ScriptedRouter(judged, is_quick=False)))
    parts: Any = list(made.stream(turn("x"), {"callbacks": [runs]}, stream_mode="messages"))
    assert "".join(part[0].text for part in parts) == "fake-weak answers"
    asked, answered = [start for start in runs.starts if start["kind"] == "llm"]
    assert "nostream" in asked["tags"] and "nostream" not in answered["tags"]
    assert asked["parent"] == answered["parent"]
    assert "routellm_route" not in asked["metadata"]


def test_a_router_as_backend_decides_for_itself() -> None:
    inner = ChatRouteLLM(
        models={"weak": fake("w"), "strong": fake("s")}, router=ScriptedRouter(lambda prompt: 0.0), threshold=0.5
    )
    made = over(middleware(strong=inner), [get_weather])
    config: Any = {"configurable": {"routellm_route": "strong"}}
    result = made.invoke(turn("'Oslo'"), config)
    assert [r["route"] for r in records(result)] == ["strong", "strong"]
    assert [r["inner"]["route"] for r in records(result)] == ["weak", "weak"]
    assert records(result)[1]["inner"]["reason"] == "tool_loop"  # its own record came back to it


# -- failures
async def test_a_passing_failure_goes_to_the_next_route_and_says_so() -> None:
    made = over(middleware(weak=fake("weak", error=ConnectionError("down")), fallback="stronger"))
    for result in await both_ways(made, turn("easy")):
        assert result["messages"][-1].text == "fake-strong answers"
        assert (result["routellm"]["route"], result["routellm"]["fallback_from"]) == ("strong", "weak")
    made = over(middleware(strong=fake("strong", error=TimeoutError()), fallback="any"))
    assert made.invoke(turn("hard"))["routellm"]["fallback_from"] == "strong"


def test_tokens_that_nobody_is_shown_do_not_stop_a_fallback() -> None:
    judge = fake("judge")

    @wrap_model_call
    def asks_first(request: Any, handler: Any) -> Any:
        for _ in judge.stream("?", {"tags": ["nostream"]}):
            pass
        return handler(request)

    made = over(middleware(weak=fake("weak", error=ConnectionError("down")), fallback="stronger"), [], asks_first)
    parts: Any = list(made.stream(turn("easy"), stream_mode="messages"))
    assert "".join(chunk.text for chunk, _ in parts) == "fake-strong answers"


async def test_no_fallback_unless_asked_and_none_from_other_errors() -> None:
    for error, fallback in ((ConnectionError("down"), "none"), (ValueError("a bug"), "any")):
        strong = fake("strong")
        made = over(middleware(weak=fake("weak", error=error), strong=strong, fallback=fallback))
        with pytest.raises(type(error)) as caught:
            made.invoke(turn("easy"))
        assert caught.value is error
        with pytest.raises(type(error)):
            await made.ainvoke(turn("easy"))
        assert strong.seen == []


def test_when_all_fail_the_first_error_tells_of_the_others() -> None:
    first = ConnectionError("weak is down")
    made = over(
        middleware(weak=fake("weak", error=first), strong=fake("strong", error=TimeoutError("slow")), fallback="any")
    )
    with pytest.raises(ConnectionError) as caught:
        made.invoke(turn("easy"))
    assert caught.value is first
    assert "route 'strong' was tried too and failed: TimeoutError: slow" in caught.value.__notes__


def test_a_forced_route_and_an_open_tool_loop_have_no_other() -> None:
    strong, weak = fake("strong"), fake("weak")
    made = over(middleware(weak=weak, strong=strong, fallback="any"), [get_weather])
    before = made.invoke(turn("easy 'Oslo'"))["messages"][:3]
    assert isinstance(before[-1], ToolMessage)
    weak.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        made.invoke({"messages": before})
    with pytest.raises(ConnectionError):
        made.invoke(turn("hard"), {"configurable": {"routellm_route": "weak"}})
    assert strong.seen == []


def test_control_flow_passes_through() -> None:
    class Interrupts(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            raise GraphInterrupt(())

    routing = middleware(fallback="any")
    made = over(routing, [], Interrupts())
    assert "routellm" not in made.invoke(turn("easy"))


async def test_a_scorer_that_raises_fails_open_or_not() -> None:
    def broken(prompt: str) -> float:
        raise RuntimeError("broken")

    made = over(middleware(router=ScriptedRouter(broken)))
    for result in await both_ways(made, turn("easy")):
        assert (result["routellm"]["route"], result["routellm"]["reason"]) == ("strong", "scorer_error")
        assert result["routellm"]["error"].endswith("failed with RuntimeError")
    made = over(middleware(router=ScriptedRouter(broken), on_error="raise"))
    with pytest.raises(ScoringError, match="RuntimeError"):
        made.invoke(turn("easy"))
    with pytest.raises(ScoringError):
        await made.ainvoke(turn(" "))


async def test_a_scorer_that_hangs_is_left_alone_and_does_not_hold_up_the_loop() -> None:
    release, asked = threading.Event(), []

    def hangs(prompt: str) -> float:
        asked.append(prompt)
        release.wait()
        return 0.0

    made = over(middleware(router=ScriptedRouter(hangs, is_quick=False), router_timeout_s=0.02))
    try:
        results = [await made.ainvoke(turn("easy")), made.invoke(turn("easy")), await made.ainvoke(turn("easy"))]
        assert {result["routellm"]["reason"] for result in results} == {"scorer_error"}
        assert "within 0.02 s" in results[0]["routellm"]["error"]
        fourth = await made.ainvoke(turn("easy"))
        assert "left alone" in fourth["routellm"]["error"]
        assert len(asked) <= 3  # on a busy machine a late one may not have begun
    finally:
        release.set()


async def test_a_cancelled_run_tries_no_other_route() -> None:
    entered = asyncio.Event()

    class Waits(AgentMiddleware[Any, Any, Any]):
        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            entered.set()
            await asyncio.Event().wait()

    strong = fake("strong")
    task = asyncio.create_task(over(middleware(strong=strong, fallback="any"), [], Waits()).ainvoke(turn("easy")))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert strong.seen == []


def test_another_middlewares_own_answer_is_stamped_too() -> None:
    @wrap_model_call
    def canned(request: Any, handler: Any) -> Any:
        return AIMessage("canned")

    routing = middleware()
    assert routes(over(routing, [], canned).invoke(turn("easy"))) == [("weak", "score")]
    # called by hand, as other frameworks might
    from langchain.agents.middleware import ModelRequest

    request = ModelRequest(model=never(), messages=[HumanMessage("hard")])
    extended = routing.wrap_model_call(request, lambda r: ModelResponse(result=[AIMessage(r.model.label)]))
    assert extended.model_response.result[0].text == "fake-strong"
    assert extended.command is not None and extended.command.update["routellm"]["route"] == "strong"  # type: ignore[index]
