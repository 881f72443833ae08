"""`routellm score`, run as a user runs it: a process, its output, its exit code."""

import json
import os
import pty
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from routellm_core.cli import main; main()", "score", "--router", "random"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "100"}


def run(*arguments, stdin=""):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False, env=ENVIRONMENT
    )


def rows(text):
    return [json.loads(line) for line in text.split("\n") if line]


def test_arguments_are_prompts():
    done = run("hi", "Prove it.")
    assert done.returncode == 0
    assert done.stderr == ""
    assert [row["prompt"] for row in rows(done.stdout)] == ["hi", "Prove it."]
    assert all(list(row) == ["prompt", "win_rate", "route"] and 0 <= row["win_rate"] <= 1 for row in rows(done.stdout))


def test_fields_of_the_input_are_kept(tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"id": 7, "question": "héllo\\u2028there"}\n\n{"id": 8, "question": "b", "x": [1]}\n'
    )
    done = run("--file", tmp_path / "in.jsonl", "--column", "question")
    first, second = rows(done.stdout)
    assert (first["id"], first["question"]) == (7, "héllo\u2028there")
    assert second["x"] == [1]
    assert set(second) == {"id", "question", "x", "win_rate", "route"}


def test_plain_lines_and_standard_input():
    done = run("--file", "-", stdin="one prompt\r\nanother prompt\n\n")
    assert [row["prompt"] for row in rows(done.stdout)] == ["one prompt", "another prompt"]


@pytest.mark.parametrize(
    ("arguments", "routes"),
    [
        (["--threshold", "0"], {"strong"}),
        (["--strong-share", "1"], {"strong"}),
        (["--strong-share", "0"], {"weak"}),
        (["--threshold", "1"], {"weak"}),
    ],
)
def test_the_ends_of_the_scale_are_values(arguments, routes):
    assert {row["route"] for row in rows(run("a", "b", "c", *arguments).stdout)} == routes


def test_output_goes_to_a_file(tmp_path):
    done = run("a", "b", "--output", tmp_path / "out.jsonl", "--threshold", "0")
    assert done.stdout == ""
    assert "2 prompts scored, 100% strong" in done.stderr
    assert len(rows((tmp_path / "out.jsonl").read_text())) == 2


def test_a_terminal_gets_a_table():
    parent, child = pty.openpty()
    done = subprocess.Popen(
        [*COMMAND, "What is [bold]this[/bold]?"], stdout=child, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(parent)
    assert done.communicate()[1] == b""
    assert done.returncode == 0
    assert "win_rate" in seen.decode()
    assert "[bold]this[/bold]?" in seen.decode()  # a prompt is text, never markup


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


BAD = {
    "not json": (b'{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
    "not json from the start": (b"hello\n", "line 1: not JSON"),
    "wrong column": (b'{"prompt": "a"}\n{"text": "b"}\n', "line 2: no column 'prompt'; it has 'text'"),
    "not an object": (b'{"prompt": "a"}\n[1]\n', "line 2: expected a JSON object"),
    "not text": (b'{"prompt": 3}\n', "line 1: column 'prompt' holds int"),
    "empty prompt": (b'{"prompt": "a"}\n{"prompt": "  "}\n', "line 2: the prompt is empty"),
    "empty file": (b"\n", "no prompts in it"),
    "binary": (b'{"prompt": "a"}\n\x00\x01', "line 2: holds a NUL byte"),
    "latin-1": (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}', "line 2: not UTF-8"),
    "a result again": (b'{"prompt": "a", "win_rate": 0.5}', "line 1: there is a field 'win_rate' already"),
    "NaN": (b'{"prompt": "a", "x": NaN}', "line 1: not JSON: NaN is no JSON value"),
    "infinity": (b'{"prompt": "a", "x": 1e400}', "line 1: not JSON: 1e400 is too large"),
    "endless nesting": (b'{"prompt":' + b"[" * 200_000, "line 1: not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_file_and_line_and_nothing_written(tmp_path, case):
    content, message = BAD[case]
    path = write(tmp_path, "in.jsonl", content)
    (tmp_path / "out.jsonl").write_text("what was there")
    done = run("--file", path, "--output", tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert str(path) in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "out.jsonl").read_text() == "what was there"
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("in.xlsx", "give JSONL"), ("in.json", "not JSON"), ("IN.PARQUET", "cannot be read as Parquet")],
)
def test_other_formats_are_not_taken_for_plain_lines(tmp_path, name, message):
    if name.endswith("PARQUET"):
        pytest.importorskip("pyarrow")
    done = run("--file", write(tmp_path, name, b"prompt\nhi\n"))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["in.csv", "in.TSV", "in.json", "in.parquet"])
def test_tables_are_read_and_their_columns_kept_as_json_has_them(tmp_path, name):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"id": [1, 2], "prompt": ["hi", "a, b"], "mean": [0.5, None]})
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        table["day"] = pandas.to_datetime(["2024-01-02", "2024-01-03"])
        table.to_parquet(tmp_path / name)
    elif name.endswith("json"):
        table.to_json(tmp_path / name, orient="records")
    else:
        table.to_csv(tmp_path / name, index=False, sep="," if name.endswith("csv") else "\t")
    first, second = rows(run("--file", tmp_path / name).stdout)
    assert (first["prompt"], second["prompt"]) == ("hi", "a, b")
    assert (str(first["id"]), float(first["mean"]), second["mean"] or None) == ("1", 0.5, None)
    assert first.get("day", "2024-01-02 00:00:00") == "2024-01-02 00:00:00"
    assert 0 <= first["win_rate"] <= 1


def test_a_table_that_has_a_result_already_or_no_prompt_is_refused(tmp_path):
    done = run("--file", write(tmp_path, "in.csv", b"prompt,route\nhi,weak\n"))
    assert "there is a column 'route' already" in done.stderr
    assert "no column 'prompt'; it has question" in run("--file", write(tmp_path, "q.csv", b"question\nhi\n")).stderr
    assert "line 3: empty prompt" in run("--file", write(tmp_path, "e.csv", b"prompt,x\nhi,1\n,2\n")).stderr


def test_output_follows_links_keeps_modes_and_leaves_special_files_alone(tmp_path):
    real = write(tmp_path, "real.jsonl", b"old")
    real.chmod(0o600)
    (tmp_path / "link").symlink_to(real)
    os.mkfifo(tmp_path / "fifo")
    assert run("hi", "--output", tmp_path / "link").returncode == 0
    assert rows(real.read_text())[0]["prompt"] == "hi"
    assert (tmp_path / "link").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    for special in ("fifo", "no/such/folder/out.jsonl"):
        done = run("hi", "--output", tmp_path / special)
        assert (done.returncode, done.stdout) == (2, "")
        assert "cannot write" in done.stderr
    assert (tmp_path / "fifo").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link", "real.jsonl"]


def test_a_dash_as_output_is_standard_output():
    assert rows(run("hi", "--output", "-").stdout)[0]["prompt"] == "hi"


def test_the_module_runs_like_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "routellm_core", "score", "hi", "--router", "random"],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    assert rows(done.stdout)[0]["route"] in ("weak", "strong")


def test_an_empty_line_in_a_plain_file_is_an_empty_prompt(tmp_path):
    done = run("--file", write(tmp_path, "in.txt", b"a\n\nb\n"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "in.txt, line 2: the prompt is empty" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give prompts as arguments, or --file PATH, or --file -"),
        (["hi", "--file", "x"], "give prompts as arguments, or --file PATH"),
        (["hi", ""], "argument 2 is an empty prompt"),
        (["--file", "/no/such/file"], "/no/such/file: No such file"),
        (["--file", "/"], "/: Is a directory"),
        (["hi", "--threshold", "2"], "a win rate from 0 to 1, got 2"),
        (["hi", "--strong-share", "50"], "fraction from 0 to 1"),
        (["hi", "--threshold", ".5", "--strong-share", ".5"], "not both"),
        (["hi", "--router", "no-such-router"], "no router 'no-such-router'"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("hi", "--output", tmp_path / "file" / "out.jsonl")
    assert done.returncode == 2
    assert "cannot write" in done.stderr


def test_a_reader_that_goes_away_is_no_crash(tmp_path):
    path = write(tmp_path, "in.txt", b"prompt\n" * 20_000)
    done = subprocess.run(
        f"{sys.executable} -c 'from routellm_core.cli import main; main()' score --router random "
        f"--file {path} | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert rows(done.stdout)[0]["prompt"] == "prompt"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_lone_surrogates_leave_as_they_came(tmp_path):
    path = write(tmp_path, "in.jsonl", b'{"prompt": "odd \\ud800 text"}\n')
    done = run("--file", path)
    assert done.returncode == 0
    assert rows(done.stdout)[0]["prompt"] == "odd \ud800 text"


def test_the_version_is_that_of_the_package():
    from routellm_core import __version__

    done = subprocess.run(
        [sys.executable, "-c", "from routellm_core.cli import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    assert done.stdout == f"routellm-integrations {__version__}\n"


@pytest.mark.parametrize(
    ("redirection", "message"),
    [(">&-", "standard output is closed"), ("> /dev/full", "No space left"), ("--file - <&-", "it is closed")],
)
def test_closed_and_full_streams_are_one_line(redirection, message):
    arguments = redirection if redirection.startswith("--file") else f"hi {redirection}"
    done = subprocess.run(
        f"{sys.executable} -m routellm_core score --router random {arguments}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"},
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
