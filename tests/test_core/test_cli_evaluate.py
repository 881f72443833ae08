"""`routellm evaluate` and `routellm compare`, run as a user runs them."""

import json
import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from routellm_core.cli import main; main()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "100"}
# the strong model is right on all, the weak one on every third
ROWS = [
    {"id": i, "prompt": f"a question that nobody should see {i}", "strong_score": 1, "weak_score": int(i % 3 == 0)}
    for i in range(30)
]


def run(*arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )


@pytest.fixture
def called(monkeypatch, capfd):
    """The command in this process, which is quicker: exit code, standard output, standard error."""

    def call(*arguments):
        from routellm_core.cli import main

        monkeypatch.setattr(sys, "argv", ["routellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [*ROWS, {**ROWS[0], "id": "x", "contaminated": True}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_is_one_object_by_file_name_and_nothing_else(file):
    done = run("evaluate", file, "--router", "random", "--json", "--resamples", 50)
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert list(content) == ["own"]
    own = content["own"]
    assert own["strong"] == 1
    assert own["weak"] == pytest.approx(1 / 3)
    assert own["n_prompts"] == 30
    assert own["n_contaminated"] == 1
    for figures in (own, own["paper"]):
        low, high = figures["apgr_interval"]
        assert low < figures["apgr"] < high
        assert 0 < figures["cpt50"] < figures["cpt80"] < 1
    # an oracle sends the 20 that gain first: PGR rises to 1 at share 2/3, area 1/3 + 1/3
    assert own["baselines"]["oracle"]["apgr"] == pytest.approx(2 / 3)
    assert own["baselines"]["random"]["apgr"] == 0.5
    assert "nobody should see" not in done.stdout


def test_several_files_stand_side_by_side(called, file, tmp_path):
    other = tmp_path / "other.csv"
    lines = "".join(f"{row['prompt']},{row['strong_score']},{row['weak_score']}\n" for row in ROWS)
    other.write_text("prompt,gpt,mixtral\n" + lines)
    code, out, _ = called("evaluate", file, other, "--router", "random", "--json", "--resamples", 10)
    content = json.loads(out)
    assert code == 0
    assert list(content) == ["own", "other"]
    assert content["other"]["strong_model"] == "gpt"
    assert content["other"]["apgr"] == content["own"]["apgr"]


def test_a_table_for_people(called, file):
    code, out, _ = called("evaluate", file, "--router", "random", "--resamples", 10)
    assert code == 0
    assert "30 prompts, 1 contaminated ones dropped" in out
    assert "under 0.1 is noise" in out
    shown = " ".join(out.split())
    assert "chance 0.500" in shown
    # chance in shares: half of the lead at half of the calls, by both ways
    assert shown.count("50.0 % 80.0 %") == 2
    for explained in ("APGR: the", "CPT 50 %, 80 %: the", "paper: the", "rules: a rule", "may exceed 1"):
        assert explained in shown, explained
    assert "topic:" not in shown  # the file has no groups


def test_routers_are_compared_on_the_same_resamples(called, file):
    both = ("compare", file, "--router", "random", "--router", "default", "--resamples", 20)
    content = json.loads(called(*both, "--json")[1])["own"]
    assert list(content["routers"]) == ["random", "default"]
    difference = content["differences"][0]
    assert (difference["a"], difference["b"], difference["way"]) == ("random", "default", "exact")
    expected = content["routers"]["random"]["apgr"] - content["routers"]["default"]["apgr"]
    assert difference["apgr"] == pytest.approx(expected)
    assert "random - default" in called(*both)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "missing.jsonl"], "missing.jsonl: no such file"),
        (["evaluate", "{file}", "{file}"], "two files are called 'own'"),
        (["evaluate", "{file}", "--price", "gpt"], "--price is MODEL=IN/OUT"),
        (["evaluate", "{file}", "--price", "strong=1/2"], "prices need token counts"),
        (["evaluate", "{file}", "--router", "nowhere"], "no router 'nowhere'"),
        (["evaluate", "{file}", "--strong", "gpt"], "unknown model 'gpt'"),
        (["evaluate", "{file}", "--score-range", "0", "0.5"], "strong_score is 1, outside --score-range 0 to 0.5"),
        (["compare", "{file}", "--router", "random"], "at least twice"),
        (["compare", "{file}", "--router", "random", "--router", "random"], "given twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(called, file, arguments, message):
    code, out, error = called(*(str(file) if argument == "{file}" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_strong_model_that_is_no_better_is_an_error_and_no_nan(called, tmp_path):
    path = tmp_path / "equal.jsonl"
    path.write_text('{"prompt": "p", "strong_score": 1, "weak_score": 1}\n' * 3)
    code, out, error = called("evaluate", path, "--router", "random", "--json")
    assert (code, out) == (2, "")
    assert "equal: the strong model's mean score 1 is not above the weak one's 1" in error


def test_a_router_is_called_what_was_typed(called, file, tmp_path):
    from routellm_core import load_router

    load_router("random").save(tmp_path / "mine")
    code, out, _ = called("evaluate", file, "--router", tmp_path / "mine", "--resamples", 10)
    assert code == 0
    assert any(line.split()[:1] == ["mine"] for line in out.splitlines())
    content = json.loads(called("evaluate", file, "--router", tmp_path / "mine", "--resamples", 10, "--json")[1])["own"]
    assert content["router"] == "mine"
    assert content["baselines"]["oracle"]["difference"]["a"] == "mine"
    both = ("compare", file, "--router", tmp_path / "mine", "--router", "default", "--resamples", 10, "--json")
    assert json.loads(called(*both)[1])["own"]["routers"]["mine"]["router"] == "mine"


def test_the_long_layout_needs_two_names_and_says_what_it_leaves_out(called, tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [
        {"prompt": f"p{i}", "model": model, "score": score}
        for i in range(6)
        for model, score in (("large", 1), ("small", i % 2), ("tiny", 0))
        if (i, model) != (5, "small")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, error = called("evaluate", path, "--router", "random")
    assert (code, out) == (2, "")
    assert (
        "a row for each prompt and model, with 3 models; name two by --strong and --weak, such as large (6 rows)"
        in error
    )
    code, out, _ = called(
        "evaluate", path, "--router", "random", "--strong", "large", "--weak", "small", "--resamples", 10
    )
    assert code == 0
    # p0 to p4: the small one is right on 1 and 3
    assert "long: 5 prompts, 1 left out that lack a score of one of the two models" in out
    assert "large scores 1.000, small 0.400" in out


def test_brackets_in_a_name_are_shown_and_are_no_markup(tmp_path, called):
    path = tmp_path / "[red]mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    code, out, _ = called("compare", path, "--router", "random", "--router", "default", "--resamples", 5)
    assert code == 0
    assert "[red]mine: 30 prompts" in out


@pytest.mark.parametrize("ends", [("nan", "nan"), ("1", "0")])
def test_a_score_range_that_is_none_is_refused(ends, file, called):
    code, out, err = called("evaluate", file, "--router", "random", "--score-range", *ends, "--resamples", 5)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--score-range is the lowest and the highest possible score" in err


def test_a_figure_that_json_cannot_hold_is_one_clear_line(tmp_path, called):
    path = tmp_path / "dear.jsonl"
    path.write_text("".join(json.dumps({**row, "strong_cost": 1e308, "weak_cost": 1}) + "\n" for row in ROWS))
    with pytest.warns(RuntimeWarning, match="overflow"):
        code, out, err = called("evaluate", path, "--router", "random", "--json", "--resamples", 5)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not finite" in err
