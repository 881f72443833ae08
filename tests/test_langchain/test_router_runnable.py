"""RouterRunnable: every way to call it, what is scored, overrides, the run tree, what it says about itself."""

from __future__ import annotations

import copy
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import StringPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.tools import tool

import langchain_routellm
from langchain_routellm import ChatRouteLLM, RouterRunnable
from routellm_core import RoutingPolicy, collect_decisions
from routellm_core.errors import ConfigurationError, DataError, ScoringError, UnknownKindError
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import RECORD, Runs, by_words, fake, pickled, routed


def named(name: str) -> Any:
    """A route that answers with its name and its input."""
    return lambda value: f"{name}: {value}"


def choice(**options: Any) -> RouterRunnable[Any, Any]:
    """A RouterRunnable over two functions and a scripted router, unless told otherwise."""
    options.setdefault("routes", {"weak": named("weak"), "strong": named("strong")})
    if "policy" not in options:
        options.setdefault("router", ScriptedRouter(by_words))
        options.setdefault("threshold", 0.5)
    return RouterRunnable(**options)


def over_models(**options: Any) -> RouterRunnable[Any, Any]:
    """The same over two chains of prompt and model."""
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    return choice(routes={"weak": prompt | fake("weak"), "strong": prompt | fake("strong")}, **options)


# -- every way to call
async def test_every_way_to_call_reaches_the_scored_route() -> None:
    chain = choice()
    assert chain.invoke("hard") == "strong: hard"
    assert await chain.ainvoke("easy") == "weak: easy"
    assert list(chain.stream("hard")) == ["strong: hard"]
    assert [chunk async for chunk in chain.astream("easy")] == ["weak: easy"]
    assert chain.batch(["hard", "easy"]) == ["strong: hard", "weak: easy"]
    assert await chain.abatch(["hard", "easy"]) == ["strong: hard", "weak: easy"]
    assert sorted(chain.batch_as_completed(["hard", "easy"])) == [(0, "strong: hard"), (1, "weak: easy")]
    found = [item async for item in chain.abatch_as_completed(["hard", "easy"])]
    assert sorted(found) == [(0, "strong: hard"), (1, "weak: easy")]


def test_over_a_list_each_item_is_routed() -> None:
    assert choice().map().invoke(["hard", "easy"]) == ["strong: hard", "weak: easy"]


async def test_a_stream_of_input_is_joined_before_it_is_scored() -> None:
    async def parts() -> AsyncIterator[str]:
        for part in ("ha", "rd"):
            yield part

    router = ScriptedRouter(by_words)
    chain = choice(router=router)
    assert list(chain.transform(iter(["ha", "rd"]))) == ["strong: hard"]
    assert [chunk async for chunk in chain.atransform(parts())] == ["strong: hard"]
    assert router.calls == [["hard"], ["hard"]]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_batch_is_scored_in_one_call_and_one_bad_item_spoils_no_other(is_async: bool) -> None:
    router = ScriptedRouter(by_words)
    chain = choice(router=router)
    inputs = ["hard", "easy", "hard too"]
    got = await chain.abatch(inputs) if is_async else chain.batch(inputs)
    assert got == ["strong: hard", "weak: easy", "strong: hard too"]
    assert router.calls == [inputs]
    options: Any = {"return_exceptions": True}
    mixed = (
        await chain.abatch(["hard", 7, "easy"], **options) if is_async else chain.batch(["hard", 7, "easy"], **options)
    )
    assert (mixed[0], type(mixed[1]), mixed[2]) == ("strong: hard", DataError, "weak: easy")


def test_items_of_a_batch_obey_their_own_config_and_max_concurrency() -> None:
    configs: list[RunnableConfig] = [{"configurable": {"routellm_route": "weak"}}, {"max_concurrency": 1}]
    assert choice().batch(["hard", "hard"], configs) == ["weak: hard", "strong: hard"]
    assert choice().batch([]) == []


async def test_chunks_of_the_route_arrive_one_by_one() -> None:
    def strong(source: Iterator[str]) -> Iterator[str]:
        for value in source:
            yield from value.split()

    async def astrong(source: AsyncIterator[str]) -> AsyncIterator[str]:
        async for value in source:
            for word in value.split():
                yield word

    chain = choice(routes={"weak": named("weak"), "strong": strong})
    assert list(chain.stream("a hard one")) == ["a", "hard", "one"]
    chain = choice(routes={"weak": named("weak"), "strong": astrong})
    assert [chunk async for chunk in chain.astream("a hard one")] == ["a", "hard", "one"]


async def test_events_of_the_route_are_seen_with_its_name() -> None:
    events = [event async for event in over_models().astream_events({"question": "hard"}, version="v2")]
    tokens = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in tokens) == "fake-strong answers"
    assert {event["metadata"]["routellm_route"] for event in tokens} == {"strong"}
    assert (events[0]["event"], events[0]["name"]) == ("on_chain_start", "RouterRunnable")
    assert events[-1]["event"] == "on_chain_end"
    assert events[-1]["data"]["output"].text == "fake-strong answers"


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
async def test_astream_log_ends_in_the_routes_answer() -> None:
    state: Any = None
    async for patch in over_models().astream_log({"question": "hard"}):
        state = patch if state is None else state + patch
    assert state.state["final_output"].text == "fake-strong answers"


# -- what is scored
MESSAGES = [
    HumanMessage("easy, and long enough to stand alone"),
    AIMessage("hard"),
    HumanMessage("and then? easy again"),
]


@pytest.mark.parametrize(
    ("value", "scored"),
    [
        ("plain text", "plain text"),
        (HumanMessage("a message"), "a message"),
        (
            [HumanMessage("first"), AIMessage("answer"), HumanMessage("the newest of the messages")],
            "the newest of the messages",
        ),
        # the newest has 20 characters: a follow-up, scored with the substantial one before it
        (MESSAGES, "easy, and long enough to stand alone\nand then? easy again"),
        ([("system", "s"), ("human", "from a tuple, which is long enough")], "from a tuple, which is long enough"),
        ([{"role": "user", "content": "from a dict, which is long enough"}], "from a dict, which is long enough"),
        (StringPromptValue(text="a prompt value"), "a prompt value"),
        ({"question": "asked", "context": "hard"}, "asked"),
        ({"query": "asked", "k": 3}, "asked"),
        ({"input": "asked", "chat_history": [HumanMessage("hard")]}, "asked"),
        ({"messages": [HumanMessage("asked, in a graph's state")]}, "asked, in a graph's state"),
        ({"topic": "the only key"}, "the only key"),
    ],
)
def test_without_text_the_question_is_found_where_chains_keep_it(value: Any, scored: str) -> None:
    router = ScriptedRouter(0.1)
    choice(router=router).invoke(value)
    assert router.calls == [[scored]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"question": "secret", "input": "secret"}, r"'question', 'input'.*text=lambda"),
        ({"context": "secret", "topic": "secret"}, r"'context', 'topic'.*text=lambda"),
        ({}, "none"),
        ({"question": {"deep": "secret"}}, "type dict"),
        (3, "type int"),
        (["secret", "secret"], "type list"),
        ([("secret", "secret")], "type list"),
        ([{"role": "secret", "content": "secret"}], "type list"),
    ],
)
def test_an_input_whose_question_nobody_named_is_an_error_that_shows_no_text(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        choice().invoke(value)
    assert "secret" not in str(caught.value)


def test_text_says_what_to_score_and_the_route_gets_the_whole_input() -> None:
    router = ScriptedRouter(by_words)
    chain = choice(router=router, text=lambda x: x["ask"])
    assert chain.invoke({"ask": "hard", "k": 1}) == "strong: {'ask': 'hard', 'k': 1}"
    assert router.calls == [["hard"]]
    # pairs that are no messages are nobody's history either
    assert choice(text=lambda x: x[0][1]).invoke([("row", "hard")]) == "strong: [('row', 'hard')]"


@pytest.mark.parametrize("value", ["  ", {"question": None}, [], {"messages": []}])
def test_with_nothing_to_score_the_on_error_route_answers(value: Any) -> None:
    with collect_decisions() as decisions:
        assert choice(on_error="weak").invoke(value).startswith("weak")
    assert decisions[0].reason == "no_text"
    with pytest.raises(ScoringError, match="no text to score"):
        choice(on_error="raise").invoke(value)


def test_a_text_function_that_returns_no_text_is_an_error_and_its_own_error_is_the_callers() -> None:
    with pytest.raises(ConfigurationError, match="must return a str or None, but returned int"):
        choice(text=lambda x: 3).invoke("q")
    with pytest.raises(KeyError, match="question"):
        choice(text=lambda x: x["question"]).invoke({})


# -- per call
def test_one_call_can_name_its_route_and_threshold() -> None:
    router = ScriptedRouter(by_words)
    chain = choice(router=router)
    with collect_decisions() as decisions:
        assert chain.invoke("easy", {"configurable": {"routellm_route": "strong"}}) == "strong: easy"
        assert chain.invoke("hard", {"configurable": {"routellm_threshold": 0.95}}) == "weak: hard"
        assert chain.with_config(configurable={"routellm_route": "weak"}).invoke("hard") == "weak: hard"
        # nothing is scored, so nobody has to know what
        assert chain.invoke(3, {"configurable": {"routellm_route": "weak"}}) == "weak: 3"
    assert [d.reason for d in decisions] == ["forced", "score", "forced", "forced"]
    assert router.calls == [["hard"]]
    with pytest.raises(UnknownKindError, match="unknown route 'large'; the routes are weak, strong"):
        chain.invoke("q", {"configurable": {"routellm_route": "large"}})
    with pytest.raises(ConfigurationError, match="unknown setting 'routellm_rout'"):
        chain.invoke("q", {"configurable": {"routellm_rout": "weak"}})


@pytest.mark.parametrize("is_batch", [False, True])
def test_a_router_inside_a_route_obeys_none_of_the_outer_ones_settings(is_batch: bool) -> None:
    seen: list[Any] = []

    def look(value: Any, config: RunnableConfig) -> Any:
        seen.append({k: v for k, v in config["configurable"].items() if "routellm" in k and v is not None})
        return value

    inner = routed()
    chain = choice(routes={"weak": RunnableLambda(look) | inner, "strong": RunnableLambda(look) | inner})
    config: RunnableConfig = {"configurable": {"routellm_route": "strong", "thread_id": "t"}}
    answers = chain.batch(["easy", "easy"], config) if is_batch else [chain.invoke("easy", config)]
    for answer in answers:
        record = answer.response_metadata[RECORD]
        assert (record["route"], record["reason"]) == ("strong", "forced")
        assert (record["inner"]["route"], record["inner"]["reason"]) == ("weak", "score")
    assert seen == [{}] * len(answers)


def test_call_arguments_go_to_the_route_even_one_named_model() -> None:
    def strong(value: str, **kwargs: Any) -> Any:
        return kwargs

    chain = choice(routes={"weak": strong, "strong": strong})
    assert chain.invoke("hard", model="m", stop=["x"]) == {"model": "m", "stop": ["x"]}
    assert chain.bind(model="m").batch(["hard", "easy"]) == [{"model": "m"}] * 2


# -- the record
async def test_a_message_carries_the_record_once_and_other_outputs_leave_it_to_the_run() -> None:
    runs = Runs()
    chain = over_models()
    with collect_decisions() as decisions:
        answer = chain.invoke({"question": "hard"}, {"callbacks": [runs]})
    assert answer.response_metadata[RECORD] == decisions[0].to_dict()
    outer, sequence = runs.starts[:2]
    assert (outer["name"], outer["kind"], sequence["parent"]) == ("RouterRunnable", "chain", outer["run_id"])
    assert {k: v for k, v in sequence["metadata"].items() if k.startswith("routellm_")} == {
        f"routellm_{k}": v for k, v in decisions[0].to_dict().items()
    }
    chunks: list[AIMessageChunk] = [chunk async for chunk in chain.astream({"question": "easy"})]
    assert [chunk.response_metadata.get(RECORD, {}).get("route") for chunk in chunks] == ["weak", None]

    runs = Runs()
    with collect_decisions() as decisions:
        assert (chain | StrOutputParser()).invoke({"question": "easy"}, {"callbacks": [runs]}) == "fake-weak answers"
        assert choice().invoke("hard", {"callbacks": [runs]}) == "strong: hard"
    assert [d.route for d in decisions] == ["weak", "strong"]
    assert runs.starts[-1]["metadata"]["routellm_route"] == "strong"


def test_the_record_of_an_outer_router_does_not_mix_with_that_of_an_inner_one() -> None:
    runs = Runs()
    down = fake("down", error=httpx.ConnectError("down"))
    chain = choice(routes={"weak": down, "strong": routed(router=ScriptedRouter(0.1))}, fallback="stronger")
    answer = chain.invoke("easy", {"callbacks": [runs]})
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["fallback_from"], record["inner"]["route"]) == ("strong", "weak", "weak")
    inner_model = runs.starts[-1]
    assert inner_model["kind"] == "llm"
    assert inner_model["metadata"]["routellm_route"] == "weak"
    assert "routellm_fallback_from" not in inner_model["metadata"]


# -- history
CALL = {"name": "get_weather", "args": {}, "id": "1", "type": "tool_call"}


def test_with_messages_as_input_an_open_tool_loop_stays_on_the_route_of_its_record() -> None:
    chain = choice(routes={"weak": fake("weak"), "strong": fake("strong")})
    history = [
        HumanMessage("a hard question, which would go to the strong route"),
        AIMessage("", tool_calls=[CALL], response_metadata={RECORD: {"route": "weak", "reason": "forced"}}),
        ToolMessage("sunny", tool_call_id="1"),
    ]
    record = chain.invoke(history).response_metadata[RECORD]
    assert (record["route"], record["reason"]) == ("weak", "tool_loop")
    record = choice(routes=chain.routes, stickiness="none").invoke(history).response_metadata[RECORD]
    assert (record["route"], record["reason"]) == ("strong", "score")
    follow_up = [
        *history,
        AIMessage("It is sunny."),
        HumanMessage("a second hard question, long enough to stand alone"),
    ]
    config: RunnableConfig = {"configurable": {"routellm_stickiness": "conversation"}}
    record = chain.invoke(follow_up, config).response_metadata[RECORD]
    assert (record["route"], record["reason"]) == ("weak", "conversation")


@pytest.mark.parametrize("shape", ["messages", "dict"])
def test_a_router_inside_a_route_gets_its_own_record_back_and_keeps_its_tool_loop(shape: str) -> None:
    model = routed(router=ScriptedRouter(0.1))
    prompt = ChatPromptTemplate.from_messages([("placeholder", "{history}")])
    inner: Runnable[Any, Any] = model if shape == "messages" else prompt | model
    chain = choice(routes={"weak": fake("weak"), "strong": inner}, text=lambda x: "hard")
    stamped = AIMessage(
        "",
        tool_calls=[CALL],
        response_metadata={
            RECORD: {"route": "strong", "reason": "score", "inner": {"route": "weak", "reason": "score"}}
        },
    )
    history = [HumanMessage("hard"), stamped, ToolMessage("sunny", tool_call_id="1")]
    record = chain.invoke(history if shape == "messages" else {"history": history, "k": 1}).response_metadata[RECORD]
    assert record["route"] == "strong"
    assert (record["inner"]["route"], record["inner"]["reason"]) == ("weak", "tool_loop")
    assert stamped.response_metadata[RECORD]["route"] == "strong"  # the caller's message is what it was


# -- failures
async def test_a_route_that_is_down_is_replaced_only_if_asked_for() -> None:
    def down(value: Any) -> Any:
        raise httpx.ConnectError("down")

    routes = {"weak": down, "strong": named("strong")}
    with pytest.raises(httpx.ConnectError):
        choice(routes=routes).invoke("easy")
    chain = choice(routes=routes, fallback="stronger")
    with collect_decisions() as decisions:
        assert chain.invoke("easy") == "strong: easy"
        assert await chain.ainvoke("easy") == "strong: easy"
        assert list(chain.stream("easy")) == ["strong: easy"]
        assert chain.batch(["easy", "hard"], {"max_concurrency": 1}) == ["strong: easy", "strong: hard"]
    assert [d.fallback_from for d in decisions] == ["weak"] * 4 + [None]


def test_after_its_first_output_a_route_is_not_replaced() -> None:
    def weak(source: Iterator[str]) -> Iterator[str]:
        yield "one"
        raise httpx.ReadError("cut")

    stream = choice(routes={"weak": weak, "strong": named("strong")}, fallback="any").stream("easy")
    assert next(stream) == "one"
    with pytest.raises(httpx.ReadError):
        next(stream)


def test_a_bug_in_a_route_is_the_callers_whatever_the_fallback() -> None:
    def broken(value: Any) -> Any:
        raise TypeError("bug")

    with pytest.raises(TypeError, match="bug"):
        choice(routes={"weak": broken, "strong": named("strong")}, fallback="any").invoke("easy")


def test_a_router_that_fails_sends_to_the_on_error_route() -> None:
    with collect_decisions() as decisions:
        assert choice(router=ScriptedRouter(error=RuntimeError("x"))).invoke("easy") == "strong: easy"
        assert choice(router=ScriptedRouter(float("nan")), on_error="weak").invoke("easy") == "weak: easy"
    assert [d.reason for d in decisions] == ["scorer_error", "scorer_error"]


def test_a_router_that_is_late_does_not_hold_the_call() -> None:
    release = threading.Event()
    # were it waited for, "weak" would answer after the half minute
    router = ScriptedRouter(lambda prompt: 0.1 * release.wait(30))
    with collect_decisions() as decisions:
        answer = choice(router=router, router_timeout_s=0.01).invoke("easy")
    release.set()
    assert answer == "strong: easy"
    assert decisions[0].reason == "scorer_error"


# -- overrides, and an existing branch
def branch() -> RunnableBranch[Any, Any]:
    return RunnableBranch(
        (lambda x: x.startswith("/"), named("command")),
        (lambda x: "refund" in x, named("refunds")),
        named("default"),
    )


async def test_a_branchs_conditions_come_first_and_its_default_is_scored() -> None:
    router = ScriptedRouter(by_words)
    chain = RouterRunnable.from_branches(branch(), strong=named("better"), router=router, threshold=0.5)
    inputs = ["/hard", "hard refund", "/refund", "easy", "hard"]
    wanted = ["command: /hard", "refunds: hard refund", "command: /refund", "default: easy", "better: hard"]
    with collect_decisions() as decisions:
        assert [chain.invoke(value) for value in inputs] == wanted
    assert [(d.route, d.reason) for d in decisions] == [
        ("branch:1", "forced"),
        ("branch:2", "forced"),
        ("branch:1", "forced"),
        ("weak", "score"),
        ("strong", "score"),
    ]
    assert router.calls == [["easy"], ["hard"]]  # what a condition took was not scored
    assert [await chain.ainvoke(value) for value in inputs] == wanted
    assert chain.batch(inputs) == wanted
    assert await chain.abatch(inputs) == wanted
    assert ["".join(chain.stream(value)) for value in inputs] == wanted
    for value, text in zip(inputs, wanted, strict=True):
        assert [chunk async for chunk in chain.astream(value)] == [text]


def test_the_default_of_a_branch_can_be_the_strong_route() -> None:
    chain = RouterRunnable.from_branches(
        branch(), weak=named("cheaper"), router=ScriptedRouter(by_words), threshold=0.5
    )
    assert chain.batch(["easy", "hard"]) == ["cheaper: easy", "default: hard"]


async def test_async_conditions_are_awaited() -> None:
    async def is_command(value: str) -> bool:
        return value.startswith("/")

    given = RunnableBranch((is_command, named("command")), named("default"))
    chain = RouterRunnable.from_branches(given, strong=named("better"), router=ScriptedRouter(by_words), threshold=0.5)
    assert await chain.abatch(["/x", "hard"]) == ["command: /x", "better: hard"]


async def test_conditions_run_as_children_and_a_named_route_passes_them_by() -> None:
    runs = Runs()
    given = branch()
    given.name = "triage"
    chain = RouterRunnable.from_branches(given, strong=named("better"), router=ScriptedRouter(0.9), threshold=0.5)
    chain.invoke("a refund", {"callbacks": [runs]})
    assert runs.starts[0]["name"] == "triage"
    outer, first, second, answer = runs.starts
    assert [run["parent"] for run in (first, second, answer)] == [outer["run_id"]] * 3
    assert [run["tags"] for run in (first, second)] == [["condition:1"], ["condition:2"]]
    assert "routellm_route" not in first["metadata"]
    assert answer["metadata"]["routellm_route"] == "branch:2"
    assert chain.invoke("/x", {"configurable": {"routellm_route": "weak"}}) == "default: /x"
    assert await chain.ainvoke("/x", {"configurable": {"routellm_route": "weak"}}) == "default: /x"


def test_a_condition_that_fails_and_a_branch_that_is_down_are_the_callers_business() -> None:
    def down(value: Any) -> Any:
        raise httpx.ConnectError("down")

    runs = Runs()
    chain = choice(overrides=[(lambda x: x.startswith("/"), down)], fallback="any")
    with pytest.raises(httpx.ConnectError):
        chain.invoke("/x")  # a branch that a condition chose is an order, like a route that was named
    with pytest.raises(AttributeError):
        chain.invoke(3, {"callbacks": [runs]})
    assert [kind for kind, _ in runs.errors] == ["chain", "chain"]


def test_what_cannot_be_made_of_a_branch_says_so() -> None:
    with pytest.raises(ConfigurationError, match="takes a RunnableBranch, got function"):
        RouterRunnable.from_branches(named("x"), strong=named("y"))
    with pytest.raises(ConfigurationError, match="got neither"):
        RouterRunnable.from_branches(branch())
    with pytest.raises(ConfigurationError, match="got both"):
        RouterRunnable.from_branches(branch(), strong=named("a"), weak=named("b"))
    with pytest.raises(ConfigurationError, match="'branch:1' is what records call an override"):
        choice(routes={"branch:1": named("a"), "b": named("b")}, overrides=[(bool, named("c"))])
    with pytest.raises(ConfigurationError, match="override 1 is no"):
        choice(overrides=[named("x")])


# -- what may be a route
def test_functions_dicts_tools_retrievers_and_prompts_are_routes() -> None:
    @tool
    def shout(text: str) -> str:
        """Say it loudly."""
        return text.upper()

    class OneDocument(BaseRetriever):
        def _get_relevant_documents(self, query: str, **kwargs: Any) -> list[Document]:
            return [Document(query)]

    parts: dict[str, Any] = {"question": RunnablePassthrough(), "length": len}
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    routes = {"prompt": prompt, "parts": parts, "tool": shout, "retriever": OneDocument()}
    chain = choice(routes=routes, threshold=[0.25, 0.5, 0.75], router=ScriptedRouter(lambda p: float(p[0])))
    assert chain.invoke("0.0"[:1]).to_string() == "Human: 0"
    for win_rate, answer in ((0.3, {"question": "q", "length": 1}), (0.6, "Q"), (0.8, [Document("q")])):
        assert choice(routes=routes, threshold=[0.25, 0.5, 0.75], router=ScriptedRouter(win_rate)).invoke("q") == answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routes": {"weak": named("w")}}, "at least two runnables"),
        ({"routes": [named("w"), named("s")]}, "at least two runnables"),
        ({"routes": {"weak": named("w"), "": named("s")}}, "a route's name is a str that is not empty"),
        ({"routes": {"weak": named("w"), "strong": 3}}, "route 'strong': a runnable, a function or a dict .* got int"),
        ({"routes": {"weak": "openai:gpt-4.1-mini", "strong": named("s")}}, "there is ChatRouteLLM"),
        ({"text": "question"}, r'text=lambda x: x\["question"\]'),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"strong_share": 0.2}, "give threshold= or strong_share=, not both"),
        ({"stickiness": "always"}, "stickiness must be one of"),
        ({"policy": RoutingPolicy(ScriptedRouter(), threshold=0.5, routes=("a", "b"))}, "routes between a, b"),
    ],
)
def test_what_cannot_be_meant_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        choice(**options)


def test_strong_share_and_policy_decide_as_they_do_elsewhere() -> None:
    # the scripted router is calibrated on win rates .005, .015, ... .995: a fifth of them is above .80
    chain = choice(threshold=None, strong_share=0.2, router=ScriptedRouter(float))
    assert chain.batch(["0.79", "0.82"]) == ["weak: 0.79", "strong: 0.82"]
    policy = RoutingPolicy(ScriptedRouter(by_words), threshold=0.5, routes=("weak", "strong"))
    chain = choice(policy=policy)
    assert chain.routing_policy is policy
    assert chain.invoke("hard") == "strong: hard"


# -- what it says about itself
def test_schemas_graph_and_prompts_show_all_routes() -> None:
    chain = over_models()
    assert chain.get_input_jsonschema()["required"] == ["question"]
    assert chain.get_output_jsonschema() == fake("weak").get_output_jsonschema()
    assert len(chain.get_prompts()) == 2
    text_routes = choice(routes={"weak": named("w"), "strong": fake("s") | StrOutputParser()})
    assert "type" not in text_routes.get_output_jsonschema()  # of a function nothing is known
    graph = chain.get_graph()
    conditional = [(edge.data, graph.nodes[edge.target].name) for edge in graph.edges if edge.conditional]
    assert conditional == [("weak", "ChatPromptTemplate"), ("strong", "ChatPromptTemplate")]
    drawn = (RunnablePassthrough() | chain | StrOutputParser()).get_graph().draw_mermaid()
    assert "RouterRunnable -. &nbsp;strong&nbsp; .-> ChatPromptTemplate_2" in drawn
    assert drawn.count("FakeBackend") >= 2
    passing = choice(routes={"weak": RunnablePassthrough(), "strong": named("s")}).get_graph()
    assert [edge.data for edge in passing.edges if edge.conditional] == ["weak", "strong"]
    with_branch = RouterRunnable.from_branches(branch(), strong=named("s"), router=ScriptedRouter(), threshold=0.5)
    conditional_names = [edge.data for edge in with_branch.get_graph().edges if edge.conditional]
    assert conditional_names == ["branch:1", "branch:2", "weak", "strong"]


def test_what_can_be_configured_is_that_of_the_routes_and_the_routing() -> None:
    field = ConfigurableField(id="label")
    chain = choice(routes={"weak": fake("w").configurable_fields(label=field), "strong": routed()})
    ids = [spec.id for spec in chain.config_specs]
    assert sorted(ids) == ["label", "routellm_route", "routellm_stickiness", "routellm_threshold"]
    properties = chain.config_schema().model_json_schema()["$defs"]["Configurable"]["properties"]
    assert set(ids) == set(properties)
    assert len(choice(routes={"weak": chain, "strong": chain}).config_specs) == 4  # nested: once


def test_configurable_fields_and_model_copy_follow_the_change() -> None:
    chain = choice()
    changed = chain.configurable_fields(threshold=ConfigurableField(id="cut"))
    assert changed.invoke("easy", {"configurable": {"cut": 0.05}}) == "strong: easy"
    assert changed.invoke("easy") == "weak: easy"
    assert chain.model_copy(update={"threshold": 0.05}).invoke("easy") == "strong: easy"
    assert copy.copy(chain).invoke("hard") == "strong: hard"
    assert copy.deepcopy(over_models()).invoke({"question": "hard"}).text == "fake-strong answers"


def test_a_copy_takes_what_the_constructor_takes_and_refuses_the_rest() -> None:
    routes = {"weak": lambda value: "other weak", "strong": lambda value: "other strong"}
    assert choice().model_copy(update={"routes": routes}).invoke("hard") == "other strong"
    overrides = [(lambda value: True, lambda value: "told")]
    assert choice().model_copy(update={"overrides": overrides}).invoke("hard") == "told"
    for update in ({"treshold": 0.9}, {"routes": {"weak": str}}, {"overrides": [1]}):
        with pytest.raises(ConfigurationError):
            choice().model_copy(update=update)


def test_it_pickles_when_its_routes_do_and_is_not_serialized() -> None:
    chain = pickled(choice(routes={"weak": fake("weak"), "strong": fake("strong")}, router=ScriptedRouter(0.9)))
    assert chain.invoke("q").text == "fake-strong answers"
    dumped = dumpd(chain)
    assert (dumped["type"], dumped["id"][-1]) == ("not_implemented", "RouterRunnable")


def test_it_is_exported_and_named() -> None:
    assert langchain_routellm.RouterRunnable is RouterRunnable
    assert choice().get_name() == "RouterRunnable"
    runs = Runs()
    choice(name="triage").invoke("q", {"callbacks": [runs]})
    assert runs.starts[0]["name"] == "triage"


def test_a_route_that_is_a_chat_model_keeps_its_own_record_inside() -> None:
    chain = choice(routes={"weak": fake("weak"), "strong": routed()})
    assert isinstance(chain.routes["strong"], ChatRouteLLM)
    record = chain.invoke("hard").response_metadata[RECORD]
    assert (record["route"], record["inner"]["route"]) == ("strong", "strong")
