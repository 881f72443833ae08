"""Battles from files in the layouts that people have."""

import csv
import json
import sys

import numpy as np
import pytest

from routellm_core.data import Battles, read_battles, read_prompts
from routellm_core.errors import ConfigurationError, DataError, MissingExtraError, UnknownKindError

PLAIN = [
    {"prompt": "What is the capital?", "model_a": "x", "model_b": "y", "winner": "model_a"},
    {"prompt": 'Line one\nline two, with "quotes" and a \u2028 mark', "model_a": "y", "model_b": "z", "winner": "tie"},
    {"prompt": "What is the capital?", "model_a": "z", "model_b": "x", "winner": "model_b"},
]
EXPECTED = [
    ("What is the capital?", "x", "y", 1),
    ('Line one\nline two, with "quotes" and a \u2028 mark', "y", "z", 0),
    ("What is the capital?", "z", "x", -1),
]


def rows_of(battles: Battles):
    return [
        (battles.prompts[p], battles.models[a], battles.models[b], int(o))
        for p, a, b, o in zip(battles.prompt_index, battles.model_a, battles.model_b, battles.outcome, strict=True)
    ]


def sources_of(battles: Battles):
    return [battles.sources[i] for i in battles.source_index]


def write(path, rows):
    if path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["b.jsonl", "b.ndjson", "b.json", "b.csv", "b.tsv", "b.parquet", "B.JSONL"])
def test_every_format_gives_the_same_battles(tmp_path, name):
    path = tmp_path / name
    lower = write(tmp_path / name.lower(), PLAIN)
    if lower != path:
        lower.rename(path)
    battles, step = read_battles(path)
    assert rows_of(battles) == EXPECTED
    assert sources_of(battles) == [path.stem] * 3
    assert str(step) == "read: 3 -> 3"


@pytest.mark.parametrize("kind", ["rows", "generator", "pandas", "pyarrow", "datasets"])
def test_rows_in_memory_are_read_too(kind):
    given = PLAIN
    if kind == "generator":
        given = (row for row in PLAIN)
    elif kind == "pandas":
        given = pytest.importorskip("pandas").DataFrame(PLAIN)
    elif kind == "pyarrow":
        given = pytest.importorskip("pyarrow").Table.from_pylist(PLAIN)
    elif kind == "datasets":
        given = pytest.importorskip("datasets").Dataset.from_list(PLAIN)
    battles, _ = read_battles(given)
    assert rows_of(battles) == EXPECTED
    assert sources_of(battles) == [""] * 3


def test_several_sources_of_several_layouts_are_read_in_order(tmp_path):
    pairs = [{"prompt": "p", "strong_model": "s", "weak_model": "w", "strong_score": 1, "weak_score": 0}]
    battles, step = read_battles([write(tmp_path / "one.csv", PLAIN), write(tmp_path / "two.jsonl", pairs)])
    assert rows_of(battles) == [*EXPECTED, ("p", "s", "w", 1)]
    assert sources_of(battles) == ["one", "one", "one", "two"]
    assert step.before == 4


def test_a_source_column_is_kept():
    battles, _ = read_battles([{**PLAIN[0], "source": "arena"}, {**PLAIN[1], "source": None}])
    assert sources_of(battles) == ["arena", ""]


class TestArena55k:
    """lmsys-arena-human-preference-55k, as its CSV is written."""

    def row(self, **changes):
        return {
            "id": 30192,
            "model_a": "gpt-4-1106-preview",
            "model_b": "gpt-4-0613",
            "prompt": json.dumps(["Is it morally right to try?", "OK, does pineapple belong on a pizza?"]),
            "response_a": json.dumps(["The question", "Ah"]),
            "response_b": json.dumps(["As an AI", None]),
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
            **changes,
        }

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    def test_the_first_turn_and_the_winner_column_count(self, tmp_path, suffix):
        rows = [
            self.row(),
            self.row(winner_model_a=0, winner_model_b=1),
            self.row(winner_model_a=0, winner_tie=1, prompt='["caf\\u00e9, \\"quoted\\"\\nand \\ud83d"]'),
        ]
        battles, _ = read_battles(write(tmp_path / f"train.{suffix}", rows))
        assert rows_of(battles) == [
            ("Is it morally right to try?", "gpt-4-1106-preview", "gpt-4-0613", 1),
            ("Is it morally right to try?", "gpt-4-1106-preview", "gpt-4-0613", -1),
            ('café, "quoted"\nand \ud83d', "gpt-4-1106-preview", "gpt-4-0613", 0),
        ]

    def test_a_prompt_longer_than_the_csv_modules_limit_is_read_and_the_limit_is_as_before(self, tmp_path):
        before = csv.field_size_limit()
        assert before < 250_000
        long = "word " * 50_000  # 250,000 characters, the limit is 131,072
        battles, _ = read_battles(write(tmp_path / "t.csv", [self.row(prompt=json.dumps([long]))]))
        assert battles.prompts == (long,)
        assert csv.field_size_limit() == before

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"prompt": "What is it?"}, "the prompt's list of turns is not JSON"),
            ({"prompt": '["unfinished'}, "the prompt's list of turns is not JSON"),
            ({"prompt": '{"a": 1}'}, "the prompt's list of turns is no list: dict"),
            ({"prompt": "[]"}, "empty prompt"),
            ({"prompt": "[null]"}, "empty prompt"),
            ({"prompt": '[" "]'}, "empty prompt"),
            ({"prompt": "[1]"}, "prompt is not text: int"),
            ({"winner_model_a": 0}, "unknown winner: .* 0 are 1"),
            ({"winner_tie": 1}, "unknown winner: .* 2 are 1"),
            ({"winner_tie": ""}, "unknown winner: '' in a column of 0 and 1"),
            ({"winner_tie": 0.5}, "unknown winner: '0.5' in a column"),
            ({"model_b": "gpt-4-1106-preview"}, "a model battles itself: 'gpt-4-1106-preview'"),
            ({"model_a": ""}, "model without a name: ''"),
        ],
    )
    def test_a_bad_row_is_named_with_file_line_and_reason(self, tmp_path, changes, why):
        path = write(tmp_path / "train.csv", [self.row(), self.row(**changes), self.row()])
        with pytest.raises(DataError, match=rf"train\.csv, line 3: {why}"):
            read_battles(path)
        battles, step = read_battles(path, on_bad="drop")
        assert len(battles) == 2
        assert step.rows.tolist() == [1]
        assert step.before == 3


class TestArena33k:
    """chatbot_arena_conversations, as its Parquet is written."""

    def row(self, winner="model_a", first="What is the difference?", **changes):
        def talk(answer):
            return [
                {"role": "user", "content": first},
                {"role": "assistant", "content": answer},
                {"role": "user", "content": "And now?"},
            ]

        return {
            "question_id": "58210e39",
            "model_a": "alpaca-13b",
            "model_b": "koala-13b",
            "winner": winner,
            "judge": "arena_user_2",
            "conversation_a": talk("one"),
            "conversation_b": talk("two"),
            "turn": 1,
            **changes,
        }

    @pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl"])
    def test_the_first_user_turn_and_all_winners_are_read(self, tmp_path, suffix):
        rows = [self.row(winner) for winner in ("model_a", "model_b", "tie", "tie (bothbad)")]
        battles, _ = read_battles(write(tmp_path / f"conversations.{suffix}", rows))
        assert battles.prompts == ("What is the difference?",)
        assert battles.outcome.tolist() == [1, -1, 0, 0]

    def test_pandas_holds_conversations_as_arrays(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        frame = pandas.read_parquet(write(tmp_path / "c.parquet", [self.row()]))
        assert isinstance(frame.conversation_a[0], np.ndarray)
        assert read_battles(frame)[0].prompts == ("What is the difference?",)

    def test_a_system_turn_before_the_user_is_no_prompt(self):
        talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
        assert read_battles([self.row(conversation_a=talk)])[0].prompts == ("Why?",)

    @pytest.mark.parametrize(
        ("talk", "why"),
        [
            ([{"role": "assistant", "content": "Hi"}], "no user turn"),
            (["Hi"], "a turn without role"),
            ([], "no user turn"),
            (None, "is no list"),
        ],
    )
    def test_a_conversation_without_a_prompt_is_named(self, talk, why):
        with pytest.raises(DataError, match=f"the rows given, row 1: .*{why}"):
            read_battles([self.row(), self.row(conversation_a=talk)])


@pytest.mark.parametrize(
    ("winner", "outcome"),
    [
        *((each, 1) for each in ("a", "A", "model_a", "Model A", "[[A]]", "leftvote", "left", "x")),
        *((each, -1) for each in ("b", "B", "model_b", "model-b", "[[B]]", "rightvote", "right", "y")),
        *(
            (each, 0)
            for each in ("tie", "Tie", "tie (bothbad)", "both_bad", "bothbad", "bothbad_vote", "tievote", "[[C]]")
        ),
    ],
)
def test_the_usual_spellings_of_the_winner_are_understood(winner, outcome):
    battles, _ = read_battles([{"prompt": "p", "model_a": "x", "model_b": "y", "winner": winner}])
    assert battles.outcome.tolist() == [outcome]


@pytest.mark.parametrize("winner", ["", "model_c", "z", None, 1, 0, float("nan"), True, ["a"]])
def test_any_other_winner_is_an_error(winner):
    with pytest.raises(DataError, match="row 0: unknown winner"):
        read_battles([{"prompt": "p", "model_a": "x", "model_b": "y", "winner": winner}])


class TestScores:
    def pair(self, strong, weak):
        return {"prompt": "p", "strong_model": "s", "weak_model": "w", "strong_score": strong, "weak_score": weak}

    def test_pairs_compare_and_equal_scores_tie(self):
        rows = [self.pair(1, 0), self.pair(0.25, 0.5), self.pair(0, 0), self.pair("9", "8.5")]
        assert read_battles(rows)[0].outcome.tolist() == [1, -1, 0, 1]

    def test_scores_within_the_margin_tie(self):
        rows = [self.pair(0.5, 0.45), self.pair(0.5, 0.4), self.pair(0.4, 0.5)]
        assert read_battles(rows, tie_margin=0.0625)[0].outcome.tolist() == [0, 1, -1]

    @pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "good", ""])
    def test_a_score_that_is_no_number_is_named(self, score):
        with pytest.raises(DataError, match="row 1: score is"):
            read_battles([self.pair(1, 0), self.pair(1, score)])

    def models(self, prompt="p", source="s", **scores):
        return [{"prompt": prompt, "model": m, "score": s, "source": source} for m, s in scores.items()]

    def test_models_meet_on_one_prompt_of_one_source(self):
        rows = self.models(a=1, b=0) + self.models(c=1) + self.models(source="t", a=0, d=0)
        battles, step = read_battles(rows)
        assert rows_of(battles) == [("p", "a", "b", 1), ("p", "a", "c", 0), ("p", "b", "c", -1), ("p", "a", "d", 0)]
        assert sources_of(battles) == ["s", "s", "s", "t"]
        assert str(step) == "read: 5 -> 5 (4 of 4 pairs of 5 scores)"

    def test_more_pairs_than_allowed_are_drawn_by_the_seed(self):
        rows = self.models(**{f"m{i}": i for i in range(10)})  # 45 pairs
        drawn = [
            rows_of(read_battles(rows, max_pairs_per_prompt=40, rng=np.random.default_rng(s))[0]) for s in (0, 0, 1)
        ]
        assert [len(set(each)) for each in drawn] == [40, 40, 40]
        assert drawn[0] == drawn[1] != drawn[2]
        assert set(drawn[0]) < set(rows_of(read_battles(rows, max_pairs_per_prompt=45)[0]))

    def test_scores_that_make_no_battle_are_counted(self):
        rows = self.models(a=1, b=0, c=1) + self.models(prompt="alone", a=1)
        assert str(read_battles(rows, max_pairs_per_prompt=2)[1]) == (
            "read: 4 -> 4 (2 of 3 pairs of 4 scores, 2 drawn at most a prompt, 1 without an opponent)"
        )
        assert str(read_battles(rows, between=["a", "b"])[1]) == (
            "read: 4 -> 4 (1 of 1 pairs of 4 scores, 2 without an opponent)"
        )

    def test_only_named_models_meet_when_they_are_named(self):
        rows = self.models(gpt4=1, b=0, c=0) + self.models(prompt="q", b=1, c=1)
        battles, _ = read_battles(rows, between=["GPT-4", "c"])
        assert rows_of(battles) == [("p", "gpt4", "c", 1)]
        with pytest.raises(UnknownKindError, match="'d'; known: b, c, gpt4"):
            read_battles(rows, between=["d", "c"])
        with pytest.raises(ConfigurationError, match="two models at least"):
            read_battles(rows, between=["c"])

    def test_a_second_score_for_one_prompt_is_named_unless_its_id_differs(self):
        rows = self.models(a=1, b=0) + self.models(a=0)
        with pytest.raises(DataError, match="row 2: a second score of a model for one prompt: 'a'"):
            read_battles(rows)
        with_ids = [{**row, "prompt_id": i // 2} for i, row in enumerate(rows)]
        assert len(read_battles(with_ids)[0]) == 1

    def test_scores_of_one_model_only_make_no_battle(self):
        with pytest.raises(DataError, match="no battle could be read"):
            read_battles(self.models(a=1))


def test_dropped_rows_are_counted_by_reason_over_all_sources(tmp_path):
    bad = [{**PLAIN[0], "winner": "nobody"}, {**PLAIN[0], "prompt": " "}, {**PLAIN[0], "winner": "?"}]
    battles, step = read_battles([write(tmp_path / "a.jsonl", PLAIN), [*bad, PLAIN[1]]], on_bad="drop")
    assert rows_of(battles) == [*EXPECTED, EXPECTED[1]]
    assert str(step) == "read: 7 -> 4 (2 unknown winner, 1 empty prompt)"
    assert step.rows.tolist() == [3, 4, 5]


def test_rows_are_counted_beyond_one_block(tmp_path):
    rows = [{**PLAIN[0], "winner": "?" if i == 9000 else "tie"} for i in range(9001)]
    for name, where in (("b.jsonl", "line 9001"), ("b.parquet", "row 9000"), ("b.csv", "line 9002")):
        path = write(tmp_path / name, rows)
        with pytest.raises(DataError, match=f"{where}: unknown winner"):
            read_battles(path)
        assert read_battles(path, on_bad="drop")[1].rows.tolist() == [9000]


def test_no_message_quotes_a_prompt(tmp_path):
    secret = "my password is swordfish"
    for row in (
        {**PLAIN[0], "prompt": secret, "winner": "?"},
        {"prompt": secret, "model_a": "x", "model_b": "y", "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
    ):
        with pytest.raises(DataError) as caught:
            read_battles([row])
        assert "swordfish" not in str(caught.value)
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "{secret}', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_battles(path)
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.jsonl", b'{"prompt": "p"}\n{"prompt": \n', "x.jsonl, line 2: not JSON"),
        ("x.jsonl", b"[1]\n", "x.jsonl, line 1: expected an object with columns, got list"),
        ("x.jsonl", b'{"prompt": "\xff"}\n', "x.jsonl, line 1: not JSON: 'utf-8' codec"),
        ("x.jsonl", b"\n\n", "x.jsonl: no rows in it"),
        (
            "x.jsonl",
            b'{"question": "p", "answer": 1}\n',
            "the columns question, answer are no known layout; known: prompt",
        ),
        ("x.jsonl", b'{"prompt": "p", "answer": 1}\n', "the columns prompt are no known layout"),
        ("x.json", b'{"prompt": "p"}', "x.json: expected a JSON list of objects, got dict"),
        ("x.json", b"[1]", "x.json, row 0: expected an object"),
        ("x.csv", b"prompt,model_a,model_b,winner\n", "x.csv: no rows in it"),
        ("x.csv", b"prompt,model_a,model_b,winner\na,x,y,tie\nb,x\n", "x.csv, line 3: another number of fields"),
        ("x.csv", b'prompt,model_a,model_b,winner\n"a"b,x,y,tie\n', "x.csv, line 2: not CSV"),
        ("x.csv", b"prompt,model_a,model_b,winner\n\xff\xfe\xff,x,y,tie\n", "x.csv: not UTF-8 text"),
        ("x.parquet", b"PAR1 no", "x.parquet: cannot be read as Parquet"),
        ("x.xlsx", b"", "unknown format '.xlsx'; known: .jsonl"),
        ("x", b"", "unknown format 'without suffix'"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_named(tmp_path, name, content, why):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    for on_bad in ("raise", "drop"):
        with pytest.raises(DataError, match=why):
            read_battles(path, on_bad=on_bad)


def test_a_name_that_means_the_other_side_as_a_word_is_an_error():
    with pytest.raises(
        DataError, match="row 0: unknown winner: 'b' means one side as a word, another as a model's name"
    ):
        read_battles([{"prompt": "p", "model_a": "b", "model_b": "a", "winner": "b"}])
    battles, _ = read_battles([{"prompt": "p", "model_a": "a", "model_b": "b", "winner": "b"}])
    assert battles.outcome.tolist() == [-1]


def test_a_winner_is_found_by_a_name_with_blanks_around_it():
    battles, _ = read_battles([{"prompt": "p", "model_a": " gpt ", "model_b": "y", "winner": "gpt"}])
    assert battles.outcome.tolist() == [1]


def test_a_models_name_that_no_file_could_keep_is_an_error(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "p", "model_a": "x\\ud800", "model_b": "y", "winner": "a"}\n')
    with pytest.raises(DataError, match="line 1: model's name is not Unicode text"):
        read_battles(path)


def test_a_number_of_hundreds_of_digits_is_no_score_and_no_flag():
    huge = 10**400
    with pytest.raises(DataError, match="row 0: score is no number"):
        read_battles([{"prompt": "p", "model": "x", "score": huge}])
    flags = {"winner_model_a": huge, "winner_model_b": 0, "winner_tie": 0}
    with pytest.raises(DataError, match="row 0: unknown winner"):
        read_battles([{"prompt": '["p"]', "model_a": "x", "model_b": "y", **flags}])


TWO_WINNERS = ["prompt", "model_a", "model_b", "winner", "winner"]


@pytest.mark.parametrize("kind", ["csv", "pandas", "arrow", "parquet"])
def test_a_column_that_stands_twice_is_an_error(tmp_path, kind):
    values = ["p", "x", "y", "a", "b"]
    if kind == "csv":
        source = tmp_path / "x.csv"
        source.write_text(",".join(TWO_WINNERS) + "\n" + ",".join(values) + "\n")
    elif kind == "pandas":
        source = pytest.importorskip("pandas").DataFrame([values], columns=TWO_WINNERS)
    else:
        arrow = pytest.importorskip("pyarrow")
        source = arrow.Table.from_arrays([arrow.array([value]) for value in values], names=TWO_WINNERS)
        if kind == "parquet":
            from pyarrow import parquet

            parquet.write_table(source, tmp_path / "x.parquet")
            source = tmp_path / "x.parquet"
    with pytest.raises(DataError, match="two columns 'winner'"):
        read_battles(source)


def test_labels_with_sides_are_read_from_scores_of_pairs_alone():
    sided = {"prompt": "p", "strong_model": "x", "weak_model": "y", "strong_score": 0, "weak_score": 1}
    battles, _ = read_battles([sided], sides=True)
    assert (battles.models[battles.model_a[0]], battles.outcome.tolist()) == ("x", [-1])
    arena = {"prompt": "p", "model_a": "y", "model_b": "x", "winner": "model_a"}
    scores = {"prompt": "p", "model": "x", "score": 1}
    for row in (arena, scores):
        with pytest.raises(DataError, match="no side is the strong one; these labels need the columns prompt, strong"):
            read_battles([row], sides=True)


@pytest.mark.parametrize("given", [[], {"prompt": "p"}, 3, "missing.csv", "no/such/folder", "long" * 2000 + ".csv"])
def test_what_is_no_source_is_an_error(given):
    with pytest.raises(DataError):
        read_battles(given)


def test_columns_of_a_frame_that_are_no_layout_are_listed():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="the columns question, answer are no known layout"):
        read_battles(pandas.DataFrame({"question": ["q"], "answer": ["a"]}))


def test_options_are_checked():
    for changes in (
        {"on_bad": "ignore"},
        {"tie_margin": -0.1},
        {"tie_margin": float("nan")},
        {"max_pairs_per_prompt": 0},
    ):
        with pytest.raises(ConfigurationError):
            read_battles(PLAIN, **changes)


class TestHuggingFace:
    def test_a_data_set_is_read_by_name(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        asked = []

        def load(name, *, split):
            asked.append((name, split))
            return datasets.Dataset.from_list([{**row, "response": "long"} for row in PLAIN])

        monkeypatch.setattr(datasets, "load_dataset", load)
        battles, _ = read_battles("lmsys/arena-55k", split="test")
        assert asked == [("lmsys/arena-55k", "test")]
        assert rows_of(battles) == EXPECTED
        assert sources_of(battles) == ["lmsys/arena-55k"] * 3

    def test_one_that_cannot_be_had_is_an_error(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def load(name, *, split):
            raise FileNotFoundError("no such data set")

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(DataError, match="owner/name: no such file, and not to be had as a Hugging Face"):
            read_battles("owner/name")

    def test_without_the_package_the_error_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingExtraError, match="'owner/name' needs the package 'datasets'"):
            read_battles("owner/name")


def test_reading_text_formats_needs_no_extra(tmp_path, monkeypatch):
    for name in ("pyarrow", "datasets", "pandas", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(read_battles(write(tmp_path / "b.csv", PLAIN))[0]) == 3
    (tmp_path / "b.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError, match="reading Parquet needs the package 'pyarrow'"):
        read_battles(tmp_path / "b.parquet")


def test_prompts_of_an_evaluation_set_keep_order_and_repeats(tmp_path):
    path = write(tmp_path / "e.jsonl", [{"question": q, "answer": 1} for q in ("one", "two", "one")])
    assert read_prompts(path, "question") == ("one", "two", "one")
    with pytest.raises(DataError, match=r"e\.jsonl: no column 'prompt'; it has question, answer"):
        read_prompts(path)
    with pytest.raises(DataError, match=r"e\.jsonl, line 2: empty prompt"):
        read_prompts(write(tmp_path / "e.jsonl", [{"prompt": "a"}, {"prompt": ""}]))


def test_the_projects_own_data_are_read(data_folder):
    pytest.importorskip("pyarrow")
    battles, step = read_battles(data_folder / "train" / "battles.parquet")
    # counts as the data's own description gives them
    assert (len(battles), len(battles.prompts), len(battles.models)) == (96_099, 2_174, 93)
    assert [int((battles.outcome == o).sum()) for o in (1, -1, 0)] == [47_627, 47_805, 667]
    assert step.after == 96_099
    pairs, _ = read_battles(data_folder / "train" / "pairs.parquet")
    assert [int((pairs.outcome == o).sum()) for o in (1, 0, -1)] == [4_622, 7_819, 1_278]
