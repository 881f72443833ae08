"""A recorder writes routed calls down, through every way of calling."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from typer.testing import CliRunner

from langchain_routellm import CallRecorder, RouterRunnable
from langchain_routellm import recorder as recorder_module
from routellm_core import CostAwarePolicy, LLMRouter, load_router
from routellm_core.cli.app import app
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.recording import prompt_digest, read_recording
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import FakeBackend, Runs, by_words, fake, get_weather, pickled, routed


@pytest.fixture
def recorder(tmp_path):
    made = CallRecorder(tmp_path / "calls.sqlite", clock=lambda: 1000.0)
    yield made
    made.close()


def calls(recorder: CallRecorder) -> list[Any]:
    return list(read_recording(recorder.sink.path).calls)


WAYS = {
    "invoke": lambda llm, config: llm.invoke("a hard one", config),
    "ainvoke": lambda llm, config: asyncio.run(llm.ainvoke("a hard one", config)),
    "stream": lambda llm, config: list(llm.stream("a hard one", config)),
    "batch": lambda llm, config: llm.batch(["a hard one"], config),
    "generate": lambda llm, config: llm.generate_prompt(
        [ChatPromptTemplate.from_messages([("user", "a hard one")]).invoke({})], callbacks=config["callbacks"]
    ),
    "structured": lambda llm, config: llm.with_structured_output(
        {"title": "Answer", "description": "An answer.", "type": "object", "properties": {"text": {"type": "string"}}}
    ).invoke("a hard one", config),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_recorded_once_with_its_decision_and_its_tokens(recorder, way):
    WAYS[way](routed(), {"callbacks": [recorder]})
    (call,) = calls(recorder)
    assert call.decision == {
        "route": "strong",
        "reason": "score",
        "win_rate": 0.9,
        "threshold": 0.5,
        "router": "scripted",
        "scorer_ms": call.decision["scorer_ms"],
    }
    assert (call.model, call.input_tokens, call.output_tokens) == ("fakeprov:fake-strong", 10, 5)
    assert (call.time, call.error, call.prompt, call.answer) == (1000.0, None, None, None)
    assert call.prompt_digest == prompt_digest("a hard one")
    assert call.latency_s > 0


@pytest.mark.parametrize("way", WAYS)
def test_the_qualities_that_a_choice_by_cost_compared_are_recorded(recorder, way):
    class TwoModels(ScriptedRouter):
        models = ("weak", "strong")

        def model_scores(self, prompts):
            return np.tile([0.25, 0.75], (len(prompts), 1))

    policy = CostAwarePolicy(TwoModels(), costs_usd={"weak": 0.001, "strong": 0.01}, tradeoff=0.0)
    models = {name: fake(name) for name in ("weak", "strong")}
    WAYS[way](routed(models=models, policy=policy), {"callbacks": [recorder]})
    (call,) = calls(recorder)
    assert call.decision["route"] == "strong"
    assert call.qualities == {"weak": 0.25, "strong": 0.75}


def test_a_failed_attempt_and_the_one_that_answered_belong_to_one_call(recorder):
    llm = routed(weak=fake("weak", error=TimeoutError("secret details")), fallback="stronger")
    llm.invoke("an easy one", {"callbacks": [recorder]})
    failed, answered = calls(recorder)
    assert failed.id == answered.id
    assert (failed.route, failed.error, failed.output_tokens) == ("weak", "TimeoutError", None)
    assert (answered.route, answered.decision["fallback_from"], answered.error) == ("strong", "weak", None)
    assert read_recording(recorder.sink.path).win_rates().tolist() == [0.1]


def test_feedback_to_a_chains_run_is_about_the_call_inside(recorder):
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | routed() | StrOutputParser()
    run_id, other = uuid4(), uuid4()
    chain.invoke({"q": "easy"}, {"callbacks": [recorder], "run_id": run_id})
    chain.invoke({"q": "easy"}, {"callbacks": [recorder], "run_id": other})
    recorder.feedback(run_id, 0.75)
    recording = read_recording(recorder.sink.path)
    assert [recording.score_of(call) for call in recording.calls] == [0.75, None]
    with pytest.raises(DataError):
        recorder.feedback(other, 5)


def test_all_calls_of_an_agents_run_share_its_feedback(recorder):
    agent = create_agent(routed(), [get_weather])
    run_id = uuid4()
    agent.invoke({"messages": [("user", "hard: weather in 'Rome'?")]}, {"callbacks": [recorder], "run_id": run_id})
    recorder.feedback(str(run_id), 1.0)
    recording = read_recording(recorder.sink.path)
    assert [call.decision["reason"] for call in recording.calls] == ["score", "tool_loop"]
    assert [recording.score_of(call) for call in recording.calls] == [1.0, 1.0]
    assert not recorder._runs and not recorder._open  # nothing is kept once it has ended


def test_text_is_kept_only_when_asked_for(tmp_path):
    with (
        CallRecorder(tmp_path / "text.jsonl", prompts=True, answers=True) as with_text,
        CallRecorder(tmp_path / "none.jsonl", digest_key=b"k") as without,
    ):
        routed().invoke("my secret is 42", {"callbacks": [with_text, without]})
    (call,) = calls(with_text)
    assert (call.prompt, call.answer) == ("my secret is 42", "fake-weak answers")
    written = (tmp_path / "none.jsonl").read_text()
    assert "secret" not in written and "answers" not in written
    assert calls(without)[0].prompt_digest == prompt_digest("my secret is 42", key=b"k")


def test_models_that_no_router_asked_are_not_recorded(recorder):
    fake("alone").invoke("hello", {"callbacks": [recorder]})
    assert calls(recorder) == []


def test_a_sink_that_fails_costs_no_answer_and_is_logged_without_text(recorder, caplog):
    class Full:
        def write(self, call):
            raise OSError("no space for 'my secret'")

        def feedback(self, feedback):
            raise OSError

    with caplog.at_level(logging.WARNING):
        answer = routed().invoke("my secret", {"callbacks": [CallRecorder(Full())]})
    assert answer.text == "fake-weak answers"
    assert caplog.messages == ["a call was not recorded: OSError"]


def test_many_calls_at_once_are_all_recorded(recorder):
    async def main():
        await asyncio.gather(*(routed().ainvoke(f"easy {i}", {"callbacks": [recorder]}) for i in range(50)))

    asyncio.run(main())
    assert len({call.id for call in calls(recorder)}) == 50
    assert len({call.prompt_digest for call in calls(recorder)}) == 50


def test_given_to_the_router_it_records_every_call(recorder):
    llm = routed(callbacks=[recorder])
    llm.invoke("easy")
    (ChatPromptTemplate.from_messages([("user", "{q}")]) | llm).invoke({"q": "hard"})
    assert [call.route for call in calls(recorder)] == ["weak", "strong"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="jsonl"):
        CallRecorder(tmp_path / "calls.csv")


# -- whose call it is
SCHEMA = {"title": "Answer", "description": "An answer.", "type": "object", "properties": {"text": {"type": "string"}}}


def run_of(runs: Runs, name: str) -> Any:
    return next(start["run_id"] for start in runs.starts if start["name"] == name)


@pytest.mark.parametrize("way", ["structured", "chain"])
def test_feedback_to_a_routed_call_inside_a_chain_reaches_models_that_a_route_hides(recorder, way):
    """Between the routed call and the model there is another run: of the parser, or of the route's own chain."""
    if way == "structured":
        routing: Any = routed().with_structured_output(SCHEMA)
    else:
        two = fake("one") | StrOutputParser() | fake("two")
        routing = RouterRunnable({"weak": two, "strong": two}, router=ScriptedRouter(by_words), threshold=0.5)
    runs = Runs()
    (RunnableLambda(lambda value: value) | routing).invoke("easy", {"callbacks": [recorder, runs]})
    recorder.feedback(run_of(runs, routing.get_name()), 0.5)
    recording = read_recording(recorder.sink.path)
    assert [recording.score_of(call) for call in recording.calls] == [0.5] * (1 if way == "structured" else 2)
    assert recording.summary()["calls"] == 1


def test_a_router_inside_a_route_makes_calls_of_its_own(recorder):
    inner, runs = routed(), Runs()
    outer = RouterRunnable(
        {"cheap": fake("cheap"), "good": RunnableLambda(lambda value: value) | inner},
        router=ScriptedRouter(by_words),
        threshold=0.5,
    )
    outer.invoke("hard", {"callbacks": [recorder, runs]})
    (call,) = calls(recorder)
    assert (call.id, call.root_id) == (str(run_of(runs, "ChatRouteLLM")), str(run_of(runs, "RouterRunnable")))
    assert call.route == "strong"


def test_feedback_to_an_agent_reaches_the_calls_of_agents_it_uses_as_tools(recorder):
    llm = routed()

    @tool
    def ask(question: str) -> str:
        """Ask somebody else."""
        return str(llm.invoke("an easy one").text)

    run_id = uuid4()
    agent = create_agent(routed(), [ask])
    agent.invoke({"messages": [("user", "hard: ask 'this'")]}, {"callbacks": [recorder], "run_id": run_id})
    recorder.feedback(run_id, 1.0)
    recording = read_recording(recorder.sink.path)
    assert [recording.score_of(call) for call in recording.calls] == [1.0, 1.0, 1.0]


def test_a_model_that_scores_inside_a_route_is_no_answer_of_it(recorder):
    class Judge(FakeBackend):
        def _answer(self, messages: Any, stop: Any, kwargs: Any) -> AIMessage:
            return AIMessage("1")

    outer = routed(strong=routed(router=LLMRouter(Judge(label="judge"))))
    outer.invoke("a hard one", {"callbacks": [recorder]})
    asyncio.run(outer.ainvoke("a hard one", {"callbacks": [recorder]}))
    outer.batch(["a hard one", "another hard one"], {"callbacks": [recorder]})
    assert [call.model for call in calls(recorder)] == ["fakeprov:fake-strong"] * 4


def test_metadata_of_others_that_looks_like_a_record_is_none(recorder):
    config = {"callbacks": [recorder], "metadata": {"routellm_route": "mine", "routellm_object": object()}}
    fake("alone").invoke("hello", config)
    assert calls(recorder) == []
    routed().invoke("a hard one", config)
    (call,) = calls(recorder)
    assert call.route == "strong" and "object" not in call.decision


# -- bad luck
def test_runs_that_never_end_do_not_pile_up(recorder, monkeypatch):
    monkeypatch.setattr(recorder_module, "_OPEN_RUNS", 10)
    llm = routed()
    for _ in range(20):
        next(iter(llm.stream_events("a hard one", {"callbacks": [recorder]}, version="v3")))  # and is not read on
    assert len(recorder._runs) == len(recorder._open) == 10
    llm.invoke("an easy one", {"callbacks": [recorder]})
    assert [call.route for call in calls(recorder)] == ["weak"]


def test_a_sink_that_is_slow_to_fail_is_left_alone_for_a_while(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(recorder_module.time, "perf_counter", lambda: now[0])

    class Locked:
        asked = 0

        def write(self, call):
            self.asked += 1
            now[0] += 5.0
            raise OSError

        def feedback(self, feedback):
            raise OSError

    sink = Locked()
    llm = routed(callbacks=[CallRecorder(sink)])
    for _ in range(3):
        llm.invoke("easy")
    assert sink.asked == 1 and now[0] == 5.0  # one call has waited, and no other
    now[0] += 31.0
    llm.invoke("easy")
    assert sink.asked == 2


@pytest.mark.parametrize("ending", ["sqlite", "jsonl"])
def test_a_router_with_a_recorder_can_be_copied_and_pickled(tmp_path, ending):
    with CallRecorder(tmp_path / f"calls.{ending}") as recorder:
        llm = routed(callbacks=[recorder])
        for other in (copy.deepcopy(llm), pickled(llm), llm.model_copy(deep=True)):
            other.invoke("an easy one")
            other.callbacks[0].close()
        assert len(calls(recorder)) == 3


@pytest.mark.parametrize("ending", ["jsonl", "sqlite"])
def test_named_columns_of_the_runs_metadata_are_kept_and_can_be_learned_from(tmp_path, ending):
    path, router = tmp_path / f"calls.{ending}", tmp_path / "router"
    with CallRecorder(path, prompts=True, metadata=["tier", "topic"]) as recorder:
        llm = routed(callbacks=[recorder])
        for i in range(80):
            run_id, paid, route = uuid4(), i % 2 == 0, "strong" if i % 4 < 2 else "weak"
            metadata = {"tier": "paid" if paid else "free", "topic": ["no category"], "session": "s3cret"}
            given: Any = {"metadata": metadata, "configurable": {"routellm_route": route}, "run_id": run_id}
            llm.invoke(f"question {i}", given)
            recorder.feedback(run_id, 0.0 if paid and route == "weak" else 1.0)
    assert b"s3cret" not in path.read_bytes()
    assert [call.metadata for call in read_recording(path).calls][:2] == [{"tier": "paid"}, {"tier": "free"}]
    arguments = ["fit", path, "--recorded", "--out", router, "--metadata", "tier", "--no-learning-curve"]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    fitted = load_router(router)
    assert fitted.metadata_columns == ("tier",)
    learned = routed(router=fitted)
    paid, free = learned.batch(["question x"] * 2, [{"metadata": {"tier": tier}} for tier in ("paid", "free")])
    assert paid.response_metadata["routellm"]["win_rate"] > free.response_metadata["routellm"]["win_rate"]


def test_columns_to_keep_are_a_list_and_nothing_is_kept_unasked(tmp_path):
    wrong: Any
    for wrong in ("tier", b"tier", None, True):
        with pytest.raises(ConfigurationError, match="list of columns"):
            CallRecorder(tmp_path / "calls.jsonl", metadata=wrong)
    with CallRecorder(tmp_path / "calls.jsonl") as recorder:
        routed().invoke("q", {"callbacks": [recorder], "metadata": {"tier": "paid"}})
    assert "paid" not in (tmp_path / "calls.jsonl").read_text()
