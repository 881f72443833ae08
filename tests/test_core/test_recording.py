"""Routed calls written down and read back."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from routellm_core.errors import ConfigurationError, DataError, StateError
from routellm_core.recording import Feedback, JsonlSink, RecordedCall, SqliteSink, open_sink, prompt_digest, sinks
from routellm_core.recording import read_recording as read

ENDINGS = ("jsonl", "sqlite")


def call(number, route="weak", win_rate=0.2, **other):
    decision = {"route": route, "reason": "score", "router": "default", **other.pop("decision", {})}
    if win_rate is not None:
        decision["win_rate"] = win_rate
    return RecordedCall(
        **{"id": f"c{number}", "root_id": f"r{number}", "time": 1000.0 + number, "decision": decision, **other}
    )


@pytest.fixture(params=ENDINGS)
def path(request, tmp_path):
    return tmp_path / "deep" / f"calls.{request.param}"


def test_what_was_written_is_read_back_in_order(path):
    calls = [
        call(1, model="openai:gpt-4.1-nano", input_tokens=0, output_tokens=7, latency_s=0.5, prompt_digest="ab"),
        call(2, route="strong", win_rate=0.9, prompt="Grüße 👋\n\u2028 \ud800", answer="ja"),
        call(3, win_rate=None, error="TimeoutError"),
    ]
    with open_sink(path) as sink:
        for each in calls:
            sink.write(each)
    assert list(read(path).calls) == calls


def test_the_last_feedback_counts_and_one_to_a_run_is_about_all_calls_inside(path):
    with open_sink(path) as sink:
        sink.write(call(1, root_id="agent"))
        sink.write(call(2, root_id="agent"))
        sink.write(call(3))
        for given, score in (("agent", 0.0), ("c2", 0.25), ("agent", 1.0)):
            sink.feedback(Feedback(id=given, score=score, time=1.0))
    recording = read(path)
    assert [recording.score_of(each) for each in recording.calls] == [1.0, 0.25, None]


def test_a_file_that_is_opened_again_goes_on(path):
    for number in (1, 2):
        with open_sink(path) as sink:
            sink.write(call(number))
    assert [each.id for each in read(path).calls] == ["c1", "c2"]


def test_threads_and_processes_write_whole_records_to_one_file(path):
    code = (
        "import sys\nfrom routellm_core.recording import RecordedCall, open_sink\n"
        "with open_sink(sys.argv[1]) as sink:\n"
        "    for i in range(200):\n"
        "        sink.write(RecordedCall(id=f'{sys.argv[2]}-{i}', root_id='r', time=0.0,"
        " decision={'route': 'weak', 'reason': 'score'}, prompt='x' * 500))\n"
    )
    with open_sink(path):
        pass
    command = [sys.executable, "-c", code, str(path)]
    others = [
        subprocess.Popen([*command, name], env={"PYTHONPATH": ":".join(p for p in sys.path if p)}) for name in "ab"
    ]
    with open_sink(path) as sink:
        threads = [
            threading.Thread(target=lambda n=n: [sink.write(call(1000 * n + i)) for i in range(100)]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    assert len({each.id for each in read(path).calls}) == 2 * 200 + 4 * 100


def test_a_torn_line_is_counted_and_what_follows_is_whole(tmp_path):
    path = tmp_path / "calls.jsonl"
    with open_sink(path) as sink:
        sink.write(call(1))
    with open(path, "ab") as file:
        file.write(b'{"id": "c2", "root_')  # the power went
    with open_sink(path) as sink:
        sink.write(call(3))
    recording = read(path)
    assert [each.id for each in recording.calls] == ["c1", "c3"]
    assert recording.n_torn == recording.summary()["torn_lines"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", "line 1: no record of a call"),
        (b'{"id": "a", "root_id": "a", "time": 1, "decision": {}}\n', "line 1: .*names no route"),
        (b'\n{"prompt": "a"}\n', "line 2: no record of a call"),
        (b'{"id":"a","root_id":"a","time":1,"decision":{"route":"weak","reason":"score","win_rate":1.5}}\n', "outside"),
        (b'{"feedback": {"id": "a", "score": 2, "time": 1}}\n', "line 1: feedback is a number"),
        (b'{"feedback": 3}\n', "line 1"),
        (b'{"feedback": {"id": "a", "score": 1, "time": 1%s}}\n' % (b"0" * 400), "line 1: int too large"),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_line(tmp_path, content, message):
    path = tmp_path / "calls.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_database_of_something_else_is_neither_written_nor_read(tmp_path):
    path = tmp_path / "customers.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    db.close()
    before = path.read_bytes()
    for use in (SqliteSink, read):
        with pytest.raises(DataError, match="something else"):
            use(path)
    assert path.read_bytes() == before


def test_text_under_a_databases_name_is_refused(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("these are notes, and more than a page of them " * 50)
    with pytest.raises(DataError, match="no SQLite database"):
        SqliteSink(path)


def test_files_with_other_endings_or_in_impossible_places_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"\*\.jsonl"):
        open_sink(tmp_path / "calls.txt")
    (tmp_path / "file").write_text("")
    for ending in ENDINGS:
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            open_sink(tmp_path / "file" / f"calls.{ending}")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "missing.jsonl")


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, True, "1", None])
def test_feedback_is_a_number_from_0_to_1(score):
    with pytest.raises(DataError, match="0 .* to 1"):
        Feedback(id="a", score=score, time=0.0)


def test_a_digest_shows_nothing_without_its_key():
    assert prompt_digest("hello") == prompt_digest("hello") != prompt_digest("hello ")
    assert prompt_digest("hello", key=b"secret") != prompt_digest("hello")
    assert len(prompt_digest("")) == 32


def recorded(path, *calls, feedback=()):
    with JsonlSink(path) as sink:
        for each in calls:
            sink.write(each)
        for given, score in feedback:
            sink.feedback(Feedback(id=given, score=score, time=0.0))
    return read(path)


def test_win_rates_count_once_a_call_and_name_their_router(tmp_path):
    recording = recorded(
        tmp_path / "a.jsonl",
        call(1, win_rate=0.3, error="TimeoutError"),
        call(1, route="strong", win_rate=0.3, decision={"fallback_from": "weak"}),
        call(2, win_rate=0.4),
        call(3, win_rate=None),
    )
    assert recording.win_rates().tolist() == recording.win_rates("default").tolist() == [0.3, 0.4]
    with pytest.raises(DataError, match="no win rate of router 'mf'.*it has some of default"):
        recording.win_rates("mf")
    mixed = recorded(tmp_path / "b.jsonl", call(1), call(2, decision={"router": "mf"}))
    with pytest.raises(DataError, match="default, mf"):
        mixed.win_rates()


def test_the_summary_the_saving_and_the_training_rows(tmp_path):
    recording = recorded(
        tmp_path / "a.jsonl",
        call(1, input_tokens=1000, output_tokens=500, latency_s=1.0, prompt="a", model="openai:small"),
        call(2, input_tokens=3000, output_tokens=500, latency_s=3.0, prompt="b"),
        call(3, route="strong", win_rate=0.9, input_tokens=100, output_tokens=100, prompt="c"),
        call(4, error="TimeoutError", decision={"reason": "scorer_error"}),
        feedback=[("c1", 1.0), ("c2", 0.0)],
    )
    summary = recording.summary()
    assert (summary["calls"], summary["answers"], summary["failed_attempts"], summary["scorer_errors"]) == (4, 3, 1, 0)
    assert summary["routes"]["weak"] == {
        "answers": 2,
        "share": pytest.approx(2 / 3),
        "input_tokens": 4000,
        "output_tokens": 1000,
        "without_usage": 0,
        "median_latency_s": 2.0,
        "mean_feedback": 0.5,
        "feedback": 2,
    }
    assert summary["routes"]["strong"]["mean_feedback"] is None
    # weak: 4000 * 1 + 1000 * 2 = 6000; strong: 100 * 10 + 100 * 40 = 5000; all strong: 4100 * 10 + 1100 * 40 = 85000
    saving = recording.saving({"weak": (1.0, 2.0), "strong": (10.0, 40.0)})
    assert (saving.usd, saving.all_strong_usd) == (pytest.approx(0.011), pytest.approx(0.085))
    assert recording.scores() == [
        {"prompt": "a", "model": "openai:small", "score": 1.0},
        {"prompt": "b", "model": "weak", "score": 0.0},
    ]
    assert recording.prompts() == [
        "a",
        "b",
        "c",
    ]


def test_feedback_by_route_is_a_table_with_gaps(tmp_path):
    recording = recorded(
        tmp_path / "a.jsonl",
        call(1, prompt="a"),
        call(2, prompt="a"),  # the same prompt again, to the same route: 1 and 0 make .5
        call(3, prompt="a", route="strong"),
        call(4, prompt="b", route="strong"),
        call(5, prompt="c"),  # without feedback
        call(6),  # without a prompt
        call(7, prompt="b", error="TimeoutError"),
        feedback=[("c1", 1.0), ("c2", 0.0), ("c3", 0.75), ("c4", 0.25), ("c6", 1.0), ("c7", 1.0)],
    )
    prompts, scores = recording.scores_by_route()
    assert prompts == ["a", "b"] and list(scores) == ["strong", "weak"]
    assert scores["strong"].tolist() == [0.75, 0.25]
    assert scores["weak"][0] == 0.5 and math.isnan(scores["weak"][1])
    with pytest.raises(DataError, match="all feedback is about the route 'strong'"):
        recording.scores_by_route(["strong", "other"])


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([call(1)], "record with prompts=True"),
        ([call(1), call(2, prompt="a")], "no feedback to an answer whose prompt was recorded"),
        ([call(1, prompt="a")], "all feedback is about the route 'weak'"),
    ],
)
def test_a_recording_that_nothing_can_be_learned_from_says_why(tmp_path, calls, message):
    with pytest.raises(DataError, match=message):
        recorded(tmp_path / "a.jsonl", *calls, feedback=[("c1", 1.0)]).scores_by_route()


# -- the command line
@pytest.fixture
def many(tmp_path):
    """2,000 calls of the default router with evenly spread win rates, recorded without text."""
    path = tmp_path / "calls.sqlite"
    with SqliteSink(path) as sink:
        sink._db.execute("PRAGMA synchronous=OFF")
        for i in range(2000):
            sink.write(call(i, win_rate=(i + 0.5) / 2000, input_tokens=10, output_tokens=10))
    return path


def run(*arguments):
    from typer.testing import CliRunner

    from routellm_core.cli.app import app

    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_sums_up(many):
    result = run("recorded", many, "--json", "--price", "weak=0/0", "--price", "strong=1/2")
    report = json.loads(result.stdout)
    assert (report["calls"], report["routes"]["weak"]["share"], report["saving"]["fraction"]) == (2000, 1.0, 1.0)
    # 2,000 answers of 10 tokens in and 10 out at 1 and 2 dollars a million: 2000 * 30 / 1e6
    assert report["saving"]["all_strong_usd"] == pytest.approx(0.06)
    assert "100.0% weak: 2,000 answers" in run("recorded", many).stdout


def test_calibrating_and_testing_for_drift_need_no_text(many, tmp_path):
    pytest.importorskip("scipy")
    folder = tmp_path / "router"
    result = run("calibrate", many, "--recorded", "--strong-share", "0.3", "--save", folder, "--json")
    assert result.exit_code == 0, result.output
    # win rates are spread evenly over [0, 1]: the upper 30 % begin at 0.7
    assert json.loads((folder / "config.json").read_text())["calibration"]["threshold"] == pytest.approx(0.7, abs=1e-3)
    same = run("drift", many, "--recorded", "--router", folder, "--json")
    assert json.loads(same.stdout)["drifted"] is False


def test_text_that_was_not_recorded_cannot_be_written_out(many, tmp_path):
    for option in ("--prompts", "--scores"):
        result = run("recorded", many, option, tmp_path / "out.jsonl")
        assert isinstance(result.exception, DataError) and "prompts=True" in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()


def test_prompts_and_scores_are_written_for_other_commands(tmp_path):
    path = tmp_path / "a.jsonl"
    recorded(path, call(1, prompt="one"), call(2, prompt="two"), feedback=[("c2", 0.5)])
    assert run("recorded", path, "--prompts", tmp_path / "p.jsonl", "--scores", tmp_path / "s.jsonl").exit_code == 0
    assert (tmp_path / "p.jsonl").read_text() == '{"prompt": "one"}\n{"prompt": "two"}\n'
    assert (tmp_path / "s.jsonl").read_text() == '{"prompt": "two", "model": "weak", "score": 0.5}\n'


@pytest.mark.parametrize("price", ["weak", "=1/2", "weak="])
def test_a_price_without_its_route_is_refused(many, price):
    assert "--price is written" in str(run("recorded", many, "--price", price).exception)


def test_a_route_without_its_price_is_named(many):
    assert (
        "--price says" in (wrong := str(run("recorded", many, "--price", "strong=1/2").exception)) and "weak" in wrong
    )


# -- bad luck
def test_a_disk_that_fills_up_tears_one_record_and_not_the_next(tmp_path):
    class AlmostFull:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[:10])

    sink = JsonlSink(tmp_path / "calls.jsonl")
    sink.write(call(1))
    whole = sink._file
    sink._file = AlmostFull(whole)
    with pytest.raises(StateError, match="disk is full") as caught:
        sink.write(call(2))
    assert caught.value.is_retryable
    sink._file = whole
    sink.write(call(3))
    sink.close()
    recording = read(tmp_path / "calls.jsonl")
    assert [each.id for each in recording.calls] == ["c1", "c3"] and recording.n_torn == 1
    with pytest.raises(StateError, match="cannot be written"):
        sink.write(call(4))


@pytest.mark.parametrize("tail", [b"{", b"\0" * 40, b'{"id": "c2", "dec', b'{"a": ' + b"[" * 100_000], ids=len)
def test_whatever_a_crash_leaves_at_the_end_costs_one_record(tmp_path, tail):
    file = tmp_path / "calls.jsonl"
    file.write_bytes(json.dumps(call(1).to_dict()).encode() + b"\n" + tail)
    with JsonlSink(file) as sink:
        sink.write(call(3))
    recording = read(file)
    assert [each.id for each in recording.calls] == ["c1", "c3"] and recording.n_torn == 1


def test_a_killed_writer_leaves_what_it_had_written(path):
    code = (
        "import sys\nfrom routellm_core.recording import RecordedCall, open_sink\n"
        "sink, n = open_sink(sys.argv[1]), 0\n"
        "while True:\n"
        "    sink.write(RecordedCall(id=str(n), root_id='r', time=0.0, prompt='x' * 9000,\n"
        "                            decision={'route': 'weak', 'reason': 'score'}))\n"
        "    n += 1\n"
        "    if n == 20: print('go', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"go\n"
        writer.kill()
    recording = read(path)
    assert [each.id for each in recording.calls] == [str(n) for n in range(len(recording.calls))]
    assert len(recording.calls) >= 20 and recording.n_torn <= 1


class Watched(sqlite3.Connection):
    """Remembers what it was told."""

    def execute(self, statement, *values):
        self.__dict__.setdefault("told", []).append(statement)
        return super().execute(statement, *values)


def test_a_locked_database_holds_nobody_up_for_longer_than_its_limit(tmp_path, monkeypatch):
    sink = SqliteSink(tmp_path / "calls.sqlite")
    monkeypatch.setattr(sinks, "_WAIT_S", 0.01)
    with sink._lock, pytest.raises(StateError, match="database is locked"):  # another thread waits for its turn
        sink.write(call(1))
    # a writer that got the lock after 4 of its 10 ms waits 6 more for the database
    clock = iter([7.000, 7.004])
    monkeypatch.setattr(sinks.time, "monotonic", lambda: next(clock))
    sink._db.close()
    sink._db = sqlite3.connect(tmp_path / "calls.sqlite", factory=Watched)
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="database is locked") as caught:
            sink.write(call(1))
    assert caught.value.is_retryable and "PRAGMA busy_timeout=6" in sink._db.told
    monkeypatch.undo()
    sink.write(call(2))
    sink.close()
    assert [each.id for each in read(tmp_path / "calls.sqlite").calls] == ["c2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_writes_through_a_connection_and_a_lock_of_its_own(path):
    sink = open_sink(path)
    sink.write(call(1))
    with sink._lock:  # as if another thread were writing
        child = os.fork()
        if not child:
            try:
                before = getattr(sink, "_db", None)
                sink.write(call(2))
                os._exit(0 if before is None or sink._db is not before else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    sink.write(call(3))
    sink.close()
    assert [each.id for each in read(path).calls] == ["c1", "c2", "c3"]


def test_copies_and_pickles_of_a_sink_write_to_the_same_file(path):
    with open_sink(path) as sink:
        for number, other in enumerate((copy.deepcopy(sink), pickle.loads(pickle.dumps(sink)))):  # noqa: S301
            with other:
                other.write(call(number))
    assert len(read(path).calls) == 2


def test_a_file_is_utf8_even_when_a_prompt_is_not(tmp_path):
    with JsonlSink(tmp_path / "calls.jsonl") as sink:
        sink.write(call(1, prompt="half a pair: \ud83d"))
    assert json.loads((tmp_path / "calls.jsonl").read_text("utf-8"))["prompt"] == "half a pair: \ud83d"
    assert run("recorded", tmp_path / "calls.jsonl", "--prompts", tmp_path / "prompts.jsonl").exit_code == 0
    assert json.loads((tmp_path / "prompts.jsonl").read_text("utf-8")) == {"prompt": "half a pair: \ud83d"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latency_s": "fast"}, "latency_s is str, not float"),
        ({"input_tokens": "many"}, "input_tokens is str, not int"),
        ({"id": None}, "id is NoneType, not str"),
        ({"decision": {"route": "weak"}}, "names no reason"),
        ({"decision": {"route": "a", "reason": "score", "win_rate": 10**400}}, "int too large"),
        ({"decision": {"route": "a", "reason": "score", "qualities": {"a": 10**400}}}, "int too large"),
    ],
)
def test_a_record_with_a_field_of_another_kind_is_refused_by_its_line(tmp_path, wrong, message):
    (tmp_path / "calls.jsonl").write_text(json.dumps({**call(1).to_dict(), **wrong}))
    with pytest.raises(DataError, match=f"line 1: no record of a call: .*{message}"):
        read(tmp_path / "calls.jsonl")


def test_feedback_that_cannot_be_read_is_refused_by_its_line(tmp_path):
    (tmp_path / "calls.jsonl").write_text('{"feedback": {"id": "a", "score": 1, "time": "noon"}}')
    with pytest.raises(DataError, match="line 1"):
        read(tmp_path / "calls.jsonl")


def test_names_that_no_file_can_have_are_refused(tmp_path):
    for ending in ENDINGS:
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            open_sink(f"{tmp_path}/a\0b.{ending}")


def test_the_command_never_replaces_the_recording(many):
    before = many.read_bytes()
    result = run("recorded", many, "--prompts", many)
    assert isinstance(result.exception, ConfigurationError) and "different files" in str(result.exception)
    assert many.read_bytes() == before


# -- metadata
def test_metadata_is_written_read_and_parts_labels_of_one_prompt(path):
    def answer(number, route, **metadata):
        return call(number, route, prompt="q", metadata=metadata or None)

    with open_sink(path) as sink:
        for each in (
            answer(1, "weak", tier="paid", topic="law"),
            answer(2, "weak", tier="free"),
            answer(3, "strong", tier="paid"),
            answer(4, "strong", tier="paid"),
            answer(5, "strong"),
        ):
            sink.write(each)
            sink.feedback(Feedback(id=each.id, score=each.time / 1010, time=0.0))
    recording = read(path)
    assert [c.metadata for c in recording.calls][:2] == [{"tier": "paid", "topic": "law"}, {"tier": "free"}]
    assert "metadata" not in recording.calls[4].to_dict()
    labels = recording.labels(metadata=["tier"])
    assert labels["prompts"] == ["q", "q", "q"] and labels["metadata"] == {"tier": ["paid", "free", None]}
    assert labels["groups"] == ["q", "q", "q"]  # or one of them would be checked on the others
    # calls 1 and (3 + 4) / 2 of the paying, 2 of the free one, 5 of the unknown
    np.testing.assert_allclose(labels["scores"]["weak"], [1001 / 1010, 1002 / 1010, np.nan])
    np.testing.assert_allclose(labels["scores"]["strong"], [1003.5 / 1010, np.nan, 1005 / 1010])
    plain = recording.labels()
    assert plain["prompts"] == ["q"] == recording.scores_by_route()[0] and plain["metadata"] is plain["groups"] is None
    with pytest.raises(DataError, match="no metadata 'user' .* it has tier, topic: record with metadata="):
        recording.labels(metadata=["user"])


@pytest.mark.parametrize("wrong", [["tier"], "tier", {"tier": 1}, {"tier": None}])
def test_metadata_of_another_kind_is_refused(wrong):
    with pytest.raises(DataError, match="metadata is no mapping of texts"):
        RecordedCall.from_dict({**call(1).to_dict(), "metadata": wrong})
