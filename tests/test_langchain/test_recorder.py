"""A recorder writes routed calls down, through every way of calling."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_routellm import CallRecorder
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.recording import prompt_digest, read_recording
from tests.test_langchain.fakes import fake, get_weather, routed


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
    assert recorder._roots == {} == recorder._open  # nothing is kept once it has ended


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
