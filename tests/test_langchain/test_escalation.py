"""ChatRouteLLM carries out a cascade: the weak answer is held back, verified, and given or replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.graph import MessagesState, StateGraph

from langchain_routellm import ChatRouteLLM, RouteLLMMiddleware, RouterRunnable
from langchain_routellm._escalated import BUFFERED
from routellm_core import EscalationPolicy, collect_decisions
from routellm_core.errors import ConfigurationError, ScoringError
from routellm_core.policy import RouteRequest, policy_from
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter
from routellm_core.types import Usage
from routellm_core.verifiers import Answer, Verifier
from tests.test_langchain.fakes import RECORD, Runs, backend, by_words, fake, get_weather, routed

TOOK = Usage(input_tokens=10, output_tokens=5)  # of every answer of the fakes
WAYS = ["invoke", "ainvoke", "stream", "astream", "batch", "abatch", "generate", "agenerate", "events", "aevents"]


class Says(Verifier):
    """`bad` in the answer means that strong would beat it."""

    is_quick = True

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.seen: list[tuple[Answer, str | None]] = []

    def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
        self.seen += zip(answers, prompts, strict=True)
        if self.error is not None:
            raise self.error
        return np.array([0.9 if "bad" in answer.text else 0.1 for answer in answers])


def policy(verifier: Verifier | None = None, **options: Any) -> EscalationPolicy:
    given = {"threshold": 0.5, "escalation_threshold": 0.6, **options}
    return EscalationPolicy(verifier or Says(), ScriptedRouter(by_words), **given)


def cascade(verifier: Verifier | None = None, *, weak: Any = None, strong: Any = None, **options: Any) -> ChatRouteLLM:
    """The weak model says what it is asked; `bad` prompts so get bad answers, `hard` ones go straight to strong."""
    return routed(
        weak=weak or fake("weak", echo=True), strong=strong or fake("strong"), policy=policy(verifier, **options)
    )


async def called(llm: Any, way: str, text: str, runs: Runs | None = None) -> AIMessage:
    """One call, by any way there is."""
    config: Any = {} if runs is None else {"callbacks": [runs]}
    if way == "stream":
        chunks = list(llm.stream(text, config))
    elif way == "astream":
        chunks = [chunk async for chunk in llm.astream(text, config)]
    else:
        chunks = []
    if chunks:
        assert [RECORD in chunk.response_metadata for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        whole: Any = chunks[0].__add__(chunks[1:])
        return whole
    found: Any
    match way:
        case "invoke":
            found = llm.invoke(text, config)
        case "ainvoke":
            found = await llm.ainvoke(text, config)
        case "batch":
            found = llm.batch([text, text], config)[1]
        case "abatch":
            found = (await llm.abatch([text, text], config))[1]
        case "generate":
            found = llm.generate([[HumanMessage(text)]], callbacks=[runs] if runs else None).generations[0][0].message
        case "agenerate":
            made = await llm.agenerate([[HumanMessage(text)]], callbacks=[runs] if runs else None)
            found = made.generations[0][0].message
        case "events":
            found = llm.stream_events(text, config, version="v3").output
        case _:
            found = await (await llm.astream_events(text, config, version="v3"))
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", WAYS)
async def test_a_bad_weak_answer_is_replaced_in_every_way_to_call(way: str) -> None:
    llm, runs = cascade(), Runs()
    answer = await called(llm, way, "a bad one", runs)

    assert answer.text == "fake-strong answers"
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["reason"], record["win_rate"]) == ("strong", "escalated", 0.9)
    calls = 2 if "batch" in way else 1
    assert sorted(runs.kinds) == ["chain"] * calls + ["llm"] * 2 * calls
    # the threads of a batch may start both chains before the first call
    asked = [start for start in runs.starts if start["kind"] == "llm"]
    weak, strong = asked[0], asked[-1]
    assert (weak["metadata"]["routellm_route"], strong["metadata"]["routellm_route"]) == ("weak", "strong")
    chains = {start["run_id"] for start in runs.starts if start["kind"] == "chain"}
    assert {weak["parent"], strong["parent"]} <= chains
    assert (weak["metadata"].get(BUFFERED), strong["metadata"].get(BUFFERED)) == (True, None)
    assert ("nostream" in weak["tags"], "nostream" in strong["tags"]) == (True, False)


@pytest.mark.parametrize("way", WAYS)
async def test_a_good_weak_answer_is_given_as_it_is(way: str) -> None:
    verifier = Says()
    llm = cascade(verifier)
    answer = await called(llm, way, "a good one")

    assert answer.text == "a good one"
    assert answer.usage_metadata == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["reason"], record["win_rate"]) == ("weak", "score", 0.1)
    assert backend(llm, "strong").seen == []
    assert {(seen.text, prompt) for seen, prompt in verifier.seen} == {("a good one", "a good one")}


@pytest.mark.parametrize("way", WAYS)
async def test_hard_prompts_go_straight_to_the_strong_model_unverified(way: str) -> None:
    verifier, runs = Says(), Runs()
    llm = cascade(verifier)
    answer = await called(llm, way, "a hard and bad one", runs)

    assert answer.response_metadata[RECORD]["reason"] == "score"
    assert (verifier.seen, backend(llm, "weak").seen) == ([], [])
    assert not any(BUFFERED in start["metadata"] or "nostream" in start["tags"] for start in runs.starts)


@pytest.mark.parametrize("way", WAYS)
async def test_both_answers_are_paid_for_and_one_decision_is_counted(way: str) -> None:
    llm = cascade()
    with collect_decisions() as decisions:
        await called(llm, way, "a bad one")
        await called(llm, way, "a good one")
    calls = 2 if "batch" in way else 1
    assert [decision.reason for decision in decisions] == ["escalated"] * calls + ["score"] * calls
    assert decisions.share("strong") == 0.5
    first = decisions[0]
    assert (decisions.usage_of(first), decisions.discarded_usage_of(first)) == (TOOK, TOOK)
    assert decisions.discarded_usage_of(decisions[-1]) is None

    # weak $1 and strong $10 a million tokens, 15 tokens an answer: escalated 15 + 150, kept 15; all strong 150 + 150
    saving = decisions.saving({"weak": (1.0, 1.0), "strong": (10.0, 10.0)})
    assert saving.usd == pytest.approx(180e-6 * calls)
    assert saving.all_strong_usd == pytest.approx(300e-6 * calls)
    assert saving.answers == 2 * calls


def test_an_answer_whose_discarded_attempt_has_no_count_is_left_out_of_the_saving() -> None:
    class Uncounted(type(fake("x"))):  # type: ignore[misc]
        def _answer(self, *args: Any) -> AIMessage:
            answer: AIMessage = super()._answer(*args)
            return answer.model_copy(update={"usage_metadata": None})

    with collect_decisions() as decisions:
        cascade(weak=Uncounted(label="weak", echo=True)).invoke("a bad one")
    saving = decisions.saving({"weak": (1.0, 1.0), "strong": (10.0, 10.0)})
    assert (saving.answers, saving.without_usage) == (0, 1)


def test_the_prompt_that_was_routed_on_and_how_the_answer_ended_reach_the_verifier() -> None:
    class Logging(type(fake("x"))):  # type: ignore[misc]
        def _answer(self, *args: Any) -> AIMessage:
            answer: AIMessage = super()._answer(*args)
            more = {"finish_reason": "length", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}}
            return answer.model_copy(update={"response_metadata": {**answer.response_metadata, **more}})

    verifier = Says()
    llm = cascade(verifier, weak=Logging(label="weak"))
    history = [HumanMessage("before"), AIMessage("so"), HumanMessage("now")]
    llm.invoke(history)
    list(llm.stream(history))
    for answer, prompt in verifier.seen:
        assert (answer.text, prompt) == ("weak answers", "now")
        assert (answer.finish_reason, answer.logprobs) == ("length", [-0.5, -1.5])
    assert len(verifier.seen) == 2


# -- what is never verified
def test_a_forced_call_and_a_tool_loop_are_not_verified() -> None:
    verifier = Says()
    llm = cascade(verifier)
    call = AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Oslo"}, "id": "1"}])
    loop = [HumanMessage("bad"), call, ToolMessage("bad weather", tool_call_id="1")]  # its beginning is not on record

    assert llm.invoke("bad", model="weak").text == "bad"
    assert llm.invoke(loop).text == "bad weather"
    assert verifier.seen == []


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "events", "aevents"])
async def test_an_answer_that_calls_tools_is_kept(way: str) -> None:
    verifier = Says()
    answer = await called(cascade(verifier).bind_tools([get_weather]), way, "bad weather in 'Oslo'")
    assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
    assert answer.response_metadata[RECORD]["route"] == "weak"
    assert verifier.seen == []


def test_structured_output_is_not_verified_and_a_warning_says_so() -> None:
    verifier = Says()
    schema = {"title": "City", "description": "A city.", "type": "object", "properties": {"name": {"type": "string"}}}
    with pytest.warns(UserWarning, match="structured output is not verified"):
        structured = cascade(verifier).with_structured_output(schema)
    assert structured.invoke("a bad 'Oslo'") == {"name": "Oslo"}
    assert verifier.seen == []


def test_a_strong_model_that_cannot_take_the_call_is_not_asked() -> None:
    verifier = Says()
    small: Any = {"profile": {"max_input_tokens": 1}}
    assert cascade(verifier, strong=fake("strong", **small)).invoke("a bad but long question " * 9).text.startswith("a")
    assert verifier.seen == []


async def test_a_string_backend_is_made_when_it_is_known_to_be_needed(monkeypatch: Any) -> None:
    made: list[str] = []

    def make(given: str, route: str) -> BaseChatModel:
        made.append(route)
        return fake("strong", profile={"max_input_tokens": 1})

    monkeypatch.setattr("langchain_routellm.chat_models.made", make)
    llm = cascade(strong="openai:gpt-4.1")
    assert (await llm.ainvoke("a good question " * 9)).response_metadata[RECORD]["route"] == "weak"
    assert made == []
    answer = await llm.ainvoke("a bad but long question " * 9)  # only now is it seen that it cannot take this
    assert answer.response_metadata[RECORD]["route"] == "weak"
    assert made == ["strong"]


# -- failures
@pytest.mark.parametrize("way", WAYS)
async def test_if_the_strong_model_then_fails_its_error_is_raised(way: str) -> None:
    llm, runs = cascade(strong=fake("strong", error=ModelRateLimitError("429")), fallback="stronger"), Runs()
    with pytest.raises(ModelRateLimitError):
        await called(llm, way, "a bad one", runs)
    assert "chain error" in runs.closed
    assert "chain end" not in runs.closed


@pytest.mark.parametrize("way", WAYS)
async def test_with_fallback_any_the_weak_answer_is_then_given_and_not_asked_for_again(way: str) -> None:
    llm = cascade(strong=fake("strong", error=ModelRateLimitError("429")), fallback="any")
    with collect_decisions() as decisions:
        answer = await called(llm, way, "a bad one")
    calls = 2 if "batch" in way else 1
    assert answer.text == "a bad one"
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["reason"], record["fallback_from"]) == ("weak", "escalated", "strong")
    assert len(backend(llm, "weak").seen) == calls
    assert [decision.route for decision in decisions] == ["weak"] * calls
    assert decisions.usage_of(decisions[0]) == TOOK
    assert decisions.discarded_usage_of(decisions[0]) is None


@pytest.mark.parametrize("way", WAYS)
async def test_a_weak_model_that_fails_halfway_is_replaced_since_nobody_saw_it(way: str) -> None:
    weak = fake("weak", error=ModelRateLimitError("429"), error_after=1)
    answer = await called(cascade(weak=weak, fallback="stronger"), way, "an easy one")
    record = answer.response_metadata[RECORD]
    assert (answer.text, record["fallback_from"]) == ("fake-strong answers", "weak")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("on_error", "route"), [("strong", "strong"), ("weak", "weak")])
async def test_a_verifier_that_fails_counts_as_on_error_says(way: str, on_error: str, route: str) -> None:
    answer = await called(cascade(Says(ValueError("secret")), on_error=on_error), way, "a good one")
    record = answer.response_metadata[RECORD]
    assert (record["route"], record["reason"]) == (route, "scorer_error")
    assert record["error"] == "ScoringError: verifier 'Says' failed with ValueError"
    assert answer.text == ("a good one" if route == "weak" else "fake-strong answers")


@pytest.mark.parametrize("way", WAYS)
async def test_a_verifier_that_fails_raises_if_asked_to_and_no_route_is_tried_for_it(way: str) -> None:
    error = ScoringError("busy", is_retryable=True)  # a backend's error of that kind would be survived
    llm, runs = cascade(Says(error), on_error="raise", fallback="any"), Runs()
    with pytest.raises(ScoringError, match="busy"):
        await called(llm, way, "a good one", runs)
    assert backend(llm, "strong").seen == []
    assert "chain error" in runs.closed
    assert "chain end" not in runs.closed


def test_a_stream_that_is_left_early_closes_its_run() -> None:
    runs = Runs()
    stream: Any = cascade().stream("a good one", {"callbacks": [runs]})
    next(stream)
    stream.close()
    assert runs.closed == ["llm end", "chain end"]


# -- inside LangGraph
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("text", "shown"), [("a bad one", ["fake-strong ", "answers"]), ("a good one", ["a good one"])]
)
async def test_a_graph_never_streams_a_token_of_an_answer_that_is_not_given(
    text: str, shown: list[str], is_async: bool
) -> None:
    llm = cascade()

    def node(state: MessagesState) -> Any:
        return {"messages": [llm.invoke(state["messages"])]}

    async def anode(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await llm.ainvoke(state["messages"], config)]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("model", anode if is_async else node)
    graph.set_entry_point("model")
    made = graph.compile()
    given = {"messages": [HumanMessage(text, id="1")]}
    if is_async:
        parts = [part async for part in made.astream(given, stream_mode="messages")]
    else:
        parts = list(made.stream(given, stream_mode="messages"))
    # a kept answer comes whole, when the node is done
    assert [message.text for message, _ in parts if message.text] == shown


class Judge(Verifier):
    """Asks a chat model, as a judge does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
        self.model.invoke("what do you think?")
        return np.full(len(answers), 0.9)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "events", "aevents"])
async def test_a_verifier_that_asks_a_model_runs_below_the_call_and_unseen(way: str) -> None:
    runs = Runs()
    await called(cascade(Judge(fake("judge"))), way, "anything", runs)
    chain, weak, judge, strong = runs.starts
    assert {start["parent"] for start in (weak, judge, strong)} == {chain["run_id"]}
    assert "nostream" in judge["tags"]
    assert "routellm_route" not in judge["metadata"]


# -- who carries it out
def test_the_others_refuse_it() -> None:
    weak, strong = fake("weak"), fake("strong")
    with pytest.raises(ConfigurationError, match="keep weak answers unverified"):
        RouterRunnable({"weak": weak, "strong": strong}, policy=policy())
    with pytest.raises(ConfigurationError, match="keep weak answers unverified"):
        RouteLLMMiddleware(weak=weak, strong=strong, policy=policy())


def test_a_copy_goes_on_escalating_and_a_configuration_cannot_hold_it() -> None:
    llm = cascade()
    copy = llm.model_copy(update={"models": dict(llm.models)})
    assert copy.invoke("a bad one").response_metadata[RECORD]["reason"] == "escalated"
    with pytest.raises(ConfigurationError, match="EscalationPolicy is code"):
        llm.to_config()
    with pytest.raises(ConfigurationError, match="routes between weak, strong"):
        policy_from(policy(), ("small", "large"), {}, escalates=True)
    assert policy().decide([RouteRequest(text="easy")])[0].route == "weak"


# -- the real client
async def test_real_clients_over_http(loopback: LoopbackOpenAI) -> None:
    def client(model: str) -> ChatOpenAI:
        return ChatOpenAI(model=model, base_url=loopback.url, api_key="none", max_retries=0, stream_usage=True)  # type: ignore[arg-type]

    def reply(body: dict[str, Any]) -> Reply:
        text = str(body["messages"][-1]["content"])
        return Reply(text=text if body["model"] == "small" else "a much better answer")

    loopback.reply = reply
    verifier = Says()
    llm = cascade(verifier, weak=client("small"), strong=client("large"))
    for way in WAYS:
        loopback.requests.clear()
        calls = 2 if "batch" in way else 1
        with collect_decisions() as decisions:
            answer = await called(llm, way, "a bad one")
        assert answer.text == "a much better answer", way
        assert answer.response_metadata[RECORD]["reason"] == "escalated"
        assert sorted(request["model"] for request in loopback.requests) == ["large"] * calls + ["small"] * calls
        took = decisions.discarded_usage_of(decisions[0])
        assert took is not None
        assert took.output_tokens == 3  # words, as the endpoint counts
        kept = await called(llm, way, "a good one")
        assert (kept.text, kept.response_metadata[RECORD]["route"]) == ("a good one", "weak"), way
    assert {answer.finish_reason for answer, _ in verifier.seen} == {"stop"}
