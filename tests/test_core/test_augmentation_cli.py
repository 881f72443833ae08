"""`routellm augment`, run as a user runs it: a process that calls an endpoint on the loopback with a real client."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from routellm_core.testing import Reply

pytest.importorskip("langchain_openai")

COMMAND = [sys.executable, "-c", "from routellm_core.cli import main; main()", "augment"]
STRONG, WEAK, JUDGE = "gpt-4.1", "gpt-4.1-nano", "gpt-4o"
PAIR = ["--strong", f"openai:{STRONG}", "--weak", f"openai:{WEAK}", "--framework", "langchain"]


@pytest.fixture(autouse=True)
def _registered():
    from routellm_core.backends import RESOLVERS

    if "langchain" not in RESOLVERS.kinds():
        pytest.skip("the entry points are not installed; pip install -e . makes them")


def environment(server=None):
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "COLUMNS": "120",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": server.url if server else "http://127.0.0.1:1/v1",
    }


def run(*arguments, server=None):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment(server),
    )


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(request):
    if request["model"] == JUDGE:
        shown = request["messages"][1]["content"]
        return Reply(text=json.dumps({"winner": "A" if shown.index(STRONG + " says") < shown.index(WEAK) else "B"}))
    return Reply(text=f"{request['model']} says 42" if request["model"] == STRONG else f"{request['model']} says 41")


def test_a_killed_judge_goes_on_with_the_same_command(loopback, tmp_path):
    prompts = write(tmp_path / "in.jsonl", [{"q": f"prompt {i}"} for i in range(3)])
    out = tmp_path / "labels.jsonl"
    command = ["judge", prompts, *PAIR, "--judge", f"openai:{JUDGE}", "--out", out, "--column", "q"]
    command += ["--concurrency", "1", "--budget-usd", "1"]
    reached, gone = threading.Event(), threading.Event()

    def reply(request):
        if len(loopback.requests) == 7:  # the first prompt takes four calls
            reached.set()
            gone.wait(60)
        return answer(request)

    loopback.reply = reply
    process = subprocess.Popen([*COMMAND, *map(str, command)], stdin=subprocess.DEVNULL, env=environment(loopback))
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    gone.set()
    assert not out.exists()
    before = len(loopback.requests)
    done = run(*command, server=loopback)
    assert done.returncode == 0, done.stderr
    assert len(loopback.requests) - before == 12 - 6
    # of the six, four are verdicts
    assert "Estimate: 6 calls (at most 10: a verdict that cannot be read is asked for twice), about $0.0" in done.stderr
    assert "6 calls are in" in done.stderr
    assert "Spent: 6 calls" in done.stderr
    assert "6 calls not paid again" in done.stderr
    assert "3 of 3 prompts labelled" in done.stderr
    assert done.stdout == ""
    assert [(row["prompt"], row["strong_score"], row["weak_score"]) for row in rows(out)] == [
        (f"prompt {i}", 1.0, 0.0) for i in range(3)
    ]
    assert {row["judge"] for row in rows(out)} == {f"openai:{JUDGE}"}


def test_gold_runs_both_models(loopback, tmp_path):
    loopback.reply = answer
    questions = write(tmp_path / "in.jsonl", [{"prompt": "6 x 7?", "answer": 42}, {"prompt": "1 + 1?", "answer": 41}])
    out = tmp_path / "labels.jsonl"
    done = run("gold", questions, *PAIR, "--checker", "numeric", "--out", out, "--yes", server=loopback)
    assert done.returncode == 0, done.stderr
    assert [(row["strong_score"], row["weak_score"]) for row in rows(out)] == [(1.0, 0.0), (0.0, 1.0)]
    assert len(loopback.requests) == 4


def test_before_money_is_spent_a_terminal_is_asked(loopback, tmp_path):
    prompts = write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    command = ["judge", prompts, *PAIR, "--judge", f"openai:{JUDGE}", "--out", tmp_path / "o"]
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, command)],
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(loopback),
    )
    os.close(child)
    os.write(parent, b"n\n")
    _, said = process.communicate(timeout=60)
    os.close(parent)
    assert process.returncode == 2
    assert "Go on?" in said
    assert said.strip().endswith("nothing was called")
    assert loopback.requests == []


PRICED = [f"--price=openai:{STRONG}=1/1", f"--price=openai:{WEAK}=0/0"]
FREE = [f"--price=openai:{STRONG}=0/0", f"--price=openai:{WEAK}=0/0"]


@pytest.mark.parametrize("command", ["gold", "judge"])
@pytest.mark.parametrize("prices", [[], PRICED], ids=["all", "one"])
def test_without_a_terminal_nothing_is_spent_unless_told_to(tmp_path, command, prices, monkeypatch, capsys):
    from routellm_core.cli import main

    questions = write(tmp_path / "in.jsonl", [{"prompt": "6 x 7?", "answer": "42"}])
    given = [command, str(questions), *PAIR, *prices, "--out", str(tmp_path / "o")]
    given += ["--judge", f"openai:{JUDGE}"] if command == "judge" else []
    monkeypatch.setattr(sys, "argv", ["routellm", "augment", *given])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(SystemExit) as ended:
        main()  # sockets are closed: a call would end otherwise
    lines = capsys.readouterr().err.strip().split("\n")
    assert ended.value.code == 2
    assert lines[0].startswith("Estimate: 2 calls, about" if command == "gold" else "Estimate: 4 calls (at most 6:")
    assert lines[-1].startswith("routellm: nothing was called")
    assert "--yes" in lines[-1] and "--budget-usd" in lines[-1]


def test_what_costs_nothing_needs_no_leave(loopback, tmp_path):
    loopback.reply = answer
    questions = write(tmp_path / "in.jsonl", [{"prompt": "6 x 7?", "answer": 42}])
    command = ["gold", questions, *PAIR, "--checker", "numeric", "--out", tmp_path / "o"]
    free = run(*command, *FREE, server=loopback)
    assert free.returncode == 0, free.stderr
    again = run(*command, server=loopback)  # at real prices, but everything is in the journal
    assert again.returncode == 0, again.stderr
    assert "Estimate: 0 calls" in again.stderr
    assert len(loopback.requests) == 2


def test_a_judge_that_cannot_be_understood_ends_in_one_line(loopback, tmp_path):
    loopback.reply = lambda request: "Hm." if request["model"] == JUDGE else answer(request)
    prompts = write(tmp_path / "in.jsonl", [{"prompt": f"prompt {i}"} for i in range(40)])
    out = tmp_path / "o"
    done = run("judge", prompts, *PAIR, "--judge", f"openai:{JUDGE}", "--out", out, "--yes", server=loopback)
    assert done.returncode == 2
    assert "Estimate: 160 calls (at most 240:" in done.stderr  # 40 x (2 answers + 2 verdicts), and 2 verdicts again
    assert done.stderr.strip().split("\n")[-1] == (
        f"routellm: openai:{JUDGE} is no judge: none of its verdicts on the first 5 prompts can be read. It is asked "
        'for a JSON object with "reason" and "winner": "A", "B" or "tie". Choose another judge; the calls so far are '
        f"in the journal {out}.journal.jsonl"
    )
    # eight prompts are under way at once, six calls each; four more may have begun with two answers when the fifth ends
    assert len(loopback.requests) <= 8 * 6 + 4 * 6
    assert not out.exists()


def test_scores_in_the_file_need_no_model(tmp_path):
    scored = write(tmp_path / "in.jsonl", [{"prompt": "a", "s": 1, "w": 0}, {"prompt": "b", "s": 0.5, "w": 0.5}])
    done = run(
        *("gold", scored, "--strong", "big", "--weak", "small", "--out", tmp_path / "o"),
        *("--strong-column", "s", "--weak-column", "w"),
    )
    assert done.returncode == 0, done.stderr
    assert [(row["strong_model"], row["strong_score"]) for row in rows(tmp_path / "o")] == [("big", 1.0), ("big", 0.5)]


def test_select_keeps_rows_as_they_are(tmp_path):
    pytest.importorskip("sklearn")
    given = [{"id": i, "prompt": f"What is {i} times {i}, and why \ud800?"} for i in range(30)]
    done = run("select", write(tmp_path / "in.jsonl", given), "--n", "10", "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    chosen = rows(tmp_path / "o")
    assert len(chosen) == 10
    assert all(row in given for row in chosen)
    assert "10 of 30 prompts chosen" in done.stderr


BAD = {
    "price": (["--out", "{}/o", "--price", "m=1"], "--price is MODEL=IN/OUT"),
    "price not a number": (["--out", "{}/o", "--price", "m=1/x"], "--price is MODEL=IN/OUT"),
    "negative price": (["--out", "{}/o", "--price", "m=-1/1"], "two amounts of 0 or more"),
    "no folder": (["--out", "{}/nowhere/o"], "no such folder"),
    "no budget": (["--out", "{}/o", "--budget-usd", "-1"], "0 or more"),
    "no concurrency": (["--out", "{}/o", "--concurrency", "0"], "at least 1"),
    "one column": (["--out", "{}/o", "--strong-column", "s"], "give both"),
    "answer": (["--out", "{}/o", "--checker", "numeric"], "row 1: the right answer 'b' holds no number"),
    "checker": (["--out", "{}/o", "--checker", "fuzzy"], "known: choice, exact, numeric"),
    "framework": (["--out", "{}/o", "--framework", "haystack"], "known: langchain"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path, name, monkeypatch, capsys):
    from routellm_core.cli import main

    arguments, message = BAD[name]
    questions = write(tmp_path / "in.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "a", "answer": "b"}])
    given = [argument.format(tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["routellm", "augment", "gold", str(questions), *PAIR, "--yes", *given])
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.strip().split("\n")
    assert ended.value.code == 2
    assert lines[-1].startswith("routellm: ") and message in lines[-1]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("select", "--n", "1", "--out"),
        ("gold", *PAIR, "--out"),
        ("gold", *PAIR, "--out", "o", "--journal"),
        ("judge", *PAIR, "--judge", f"openai:{JUDGE}", "--out"),
    ],
    ids=["select", "gold", "journal", "judge"],
)
def test_what_is_written_never_replaces_what_is_read(tmp_path, monkeypatch, capsys, command):
    from routellm_core.cli import main

    monkeypatch.chdir(tmp_path)
    questions = write(tmp_path / "in.jsonl", [{"prompt": f"{n} x 7?", "answer": "42"} for n in range(3)])
    before = questions.read_bytes()
    monkeypatch.setattr(sys, "argv", ["routellm", "augment", command[0], "in.jsonl", *command[1:], str(questions)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "in.jsonl would be replaced" in capsys.readouterr().err
    assert questions.read_bytes() == before


def test_labels_never_replace_the_journal(tmp_path):
    questions = write(tmp_path / "in.jsonl", [{"prompt": "6 x 7?", "answer": "42"}])
    paid = tmp_path / "paid.jsonl"
    done = run("gold", questions, *PAIR, "--out", paid, "--journal", paid, "--yes")
    assert done.returncode == 2
    assert "would replace the journal" in done.stderr
    assert not paid.exists()
