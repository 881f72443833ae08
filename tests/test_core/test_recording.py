"""Routed calls written down and read back."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading

import pytest

from routellm_core.errors import ConfigurationError, DataError
from routellm_core.recording import Feedback, JsonlSink, RecordedCall, SqliteSink, open_sink, prompt_digest
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
        " decision={'route': 'weak'}, prompt='x' * 500))\n"
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
        (b'{"id":"a","root_id":"a","time":1,"decision":{"route":"weak","win_rate":1.5}}\n', "outside"),
        (b'{"feedback": {"id": "a", "score": 2, "time": 1}}\n', "line 1: feedback is a number"),
        (b'{"feedback": 3}\n', "line 1"),
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
    folder = tmp_path / "router"
    result = run("calibrate", many, "--recorded", "--strong-share", "0.3", "--save", folder, "--json")
    assert result.exit_code == 0, result.output
    # win rates are spread evenly over [0, 1]: the upper 30 % begin at 0.7
    assert json.loads((folder / "config.json").read_text())["calibration"]["threshold"] == pytest.approx(0.7, abs=1e-3)
    pytest.importorskip("scipy")
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
