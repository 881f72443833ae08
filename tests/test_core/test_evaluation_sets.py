"""Evaluation sets: which tables are read, and what is said about those that will not do."""

import csv
import json

import numpy as np
import pytest

from routellm_core.errors import DataError, UnknownKindError
from routellm_core.evaluation import EvaluationSet, read_evaluation_set

ROWS = [
    {"id": "a", "prompt": "one", "domain": "math", "strong_score": 1, "weak_score": 0, "contaminated": False},
    {"id": "b", "prompt": "two", "domain": "law", "strong_score": 0, "weak_score": 0, "contaminated": False},
    {"id": "c", "prompt": "three", "domain": "math", "strong_score": 1, "weak_score": 1, "contaminated": True},
]
ROUTERBENCH = [
    {
        "sample_id": f"s{i}",
        "prompt": f"question {i}",
        "eval_name": "arc",
        "gpt-4": quality[0],
        "gpt-4|model_response": "long text",
        "gpt-4|total_cost": 0.02,
        "mixtral": quality[1],
        "mixtral|model_response": "long text",
        "mixtral|total_cost": 0.001,
        "llama": quality[2],
        "llama|model_response": "long text",
        "llama|total_cost": 0.0005,
        "oracle_model_to_route_to": "llama",
    }
    for i, quality in enumerate([(1, 1, 0), (1, 0, 0), (0.5, 1, 0)])
]


def with_row(**changes):
    return [*ROWS[:1], {**ROWS[1], **changes}]


def test_a_list_of_rows():
    data = read_evaluation_set(ROWS)
    assert data.prompts == ("one", "two")
    assert data.strong_scores.tolist() == [1, 0]
    assert data.weak_scores.tolist() == [0, 0]
    assert data.groups == ("math", "law")
    assert data.group_column == "domain"
    assert data.ids == ("a", "b")
    assert data.n_contaminated == 1
    assert (data.strong, data.weak) == ("strong", "weak")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_files_of_every_format_say_the_same(tmp_path, kind):
    path = tmp_path / f"mine.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0], delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    data = read_evaluation_set(path)
    assert data.name == "mine"
    assert data.digest == read_evaluation_set(ROWS).digest
    assert data.n_contaminated == 1


def test_a_pandas_table():
    pandas = pytest.importorskip("pandas")
    assert read_evaluation_set(pandas.DataFrame(ROWS)).digest == read_evaluation_set(ROWS).digest


def test_routerbench_has_a_column_a_model_and_its_cost():
    data = read_evaluation_set(ROUTERBENCH)
    assert data.models == ("gpt-4", "mixtral", "llama")
    assert data.scores.tolist() == [[1, 1, 0], [1, 0, 0], [0.5, 1, 0]]
    assert data.costs_usd.tolist() == [[0.02, 0.001, 0.0005]] * 3
    assert data.groups == ("arc",) * 3
    assert data.strong is None
    with pytest.raises(DataError, match=r"gpt-4 0\.833, mixtral 0\.667, llama 0\.000.*name the strong"):
        _ = data.strong_scores
    assert data.for_pair("gpt-4", "mixtral").weak_scores.tolist() == [1, 0, 1]
    named = read_evaluation_set(ROUTERBENCH, strong="gpt4", weak="llama")  # found by another spelling
    assert (named.strong, named.weak) == ("gpt-4", "llama")


def test_of_two_score_columns_the_better_is_the_strong_one():
    rows = [{"question": "q", "mistral": 0, "gpt_score": 1, "n_tokens": 7, "note": "x"}] * 2
    data = read_evaluation_set(rows)
    assert data.models == ("mistral", "gpt")
    assert (data.strong, data.weak) == ("gpt", "mistral")
    assert read_evaluation_set(rows, strong="mistral").weak == "gpt"


def test_the_models_names_are_taken_from_their_columns():
    rows = [{**row, "strong_model": "large", "weak_model": "small"} for row in ROWS]
    assert read_evaluation_set(rows).models == ("large", "small")
    rows[1]["weak_model"] = "another"  # not one model any more
    assert read_evaluation_set(rows).models == ("strong", "weak")


def test_langsmith_examples_are_rows():
    nested = [
        {"inputs": {"question": "why?"}, "outputs": {"answer": "so"}, "scores": {"gpt-4": 1.0, "mixtral": 0.5}},
        {"inputs": {"question": "how?"}, "outputs": {"answer": "thus"}, "scores": {"gpt-4": 0.0, "mixtral": 0.5}},
    ]
    for row in nested:
        row["inputs"]["top_k"], row["metadata"] = 5, {"length": 4, "category": "talk"}  # numbers, but no models
    data = read_evaluation_set(nested)
    assert data.models == ("gpt-4", "mixtral")
    assert data.groups == ("talk", "talk")
    assert data.prompts == ("why?", "how?")
    assert data.scores.tolist() == [[1, 0.5], [0, 0.5]]

    schemas = pytest.importorskip("langsmith.schemas")
    from uuid import uuid4

    examples = [
        schemas.Example(id=uuid4(), dataset_id=uuid4(), inputs=row["inputs"], outputs=row["scores"]) for row in nested
    ]
    assert read_evaluation_set(examples, strong="gpt-4", weak="mixtral").scores.tolist() == data.scores.tolist()


def test_labels_of_an_augmentation_go_straight_in():
    row = {"strong_model": "openai:gpt-4.1", "weak_model": "ollama:llama3.2", "source": "gold", "judge": "x"}
    rows = [{"prompt": f"p{i}", **row, "strong_score": 1.0, "weak_score": float(i)} for i in range(2)]
    data = read_evaluation_set(rows)
    assert (data.strong, data.weak) == ("openai:gpt-4.1", "ollama:llama3.2")
    assert data.weak_scores.tolist() == [0, 1]


def test_langsmith_tables_of_results_have_prefixes():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {"input.question": ["a", "b"], "outputs.text": ["x", "y"], "feedback.strong_score": [1, 1.0],
         "feedback.weak_score": [0, 1.0], "execution_time": [0.1, 0.2]}
    )  # fmt: skip
    data = read_evaluation_set(table)
    assert data.prompts == ("a", "b")
    assert data.weak_scores.tolist() == [0, 1]


def test_chats_are_their_newest_human_message():
    chat = [
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "x"},
        {"type": "human", "content": "new"},
    ]
    data = read_evaluation_set([{"inputs": {"messages": chat}, "outputs": {"strong_score": 1, "weak_score": 0}}] * 2)
    assert data.prompts == ("new", "new")
    with pytest.raises(DataError, match="row 0: messages: a chat without a human message"):
        read_evaluation_set([{"messages": chat[1:2], "strong_score": 1, "weak_score": 0}])


def test_llamaindex_rows_have_a_query():
    class LabelledDataset:
        def to_pandas(self):
            pandas = pytest.importorskip("pandas")
            return pandas.DataFrame([{"query": "q", "reference_answer": "r", "strong_score": 1, "weak_score": 0}])

    assert read_evaluation_set(LabelledDataset()).prompts == ("q",)


def test_tokens_and_costs_stand_beside_the_scores():
    row = {"prompt": "p", "strong_score": 1, "weak_score": 0, "input_tokens": 10, "strong_output_tokens": 200}
    data = read_evaluation_set([{**row, "weak_output_tokens": 100, "strong_cost": 0.5, "weak_cost": 0.25}])
    assert data.input_tokens.tolist() == [[10, 10]]
    assert data.output_tokens.tolist() == [[200, 100]]
    assert data.costs_usd.tolist() == [[0.5, 0.25]]
    assert read_evaluation_set([row]).output_tokens is None  # of one model only
    named = {"strong_model": "large", "weak_model": "small", "large_output_tokens": 7, "weak_output_tokens": 8}
    del row["strong_output_tokens"]
    assert read_evaluation_set([{**row, **named}]).output_tokens.tolist() == [[7, 8]]  # by name or by side


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([ROWS[2]], "no rows in it but 1 contaminated"),
        ([{"strong_score": 1, "weak_score": 0}], "no prompts; a column prompt, question"),
        ([{"prompt": "p", "strong_score": 1}], "no scores of two models among the columns prompt, strong_score"),
        ([{"prompt": "p", "score": 1}], "no scores of two models"),
        (with_row(prompt="  "), "row 1: prompt: empty prompt"),
        (with_row(prompt=None), "row 1: prompt: empty prompt"),
        (with_row(prompt=3), "row 1: prompt: prompt is not text: int"),
        (with_row(weak_score=float("nan")), "row 1: weak_score: score is not finite: nan"),
        (with_row(strong_score=None), "row 1: strong_score: score is no number: None"),
        (with_row(strong_score="good"), "row 1: strong_score: score is no number: 'good'"),
        (with_row(strong_score=1.5), "row 1: strong_score is 1.5, outside 0 to 1"),
        (with_row(weak_score=-0.5), "row 1: weak_score is -0.5, outside 0 to 1"),
        (with_row(id="a"), "row 1: id 'a' stands twice, first in the rows given, row 0"),
        (with_row(contaminated="perhaps"), "row 1: contaminated is 'perhaps'"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        read_evaluation_set(rows)


def test_a_judges_scale_is_recognised_and_kept():
    rows = [{"prompt": "p", "strong_score": s, "weak_score": w} for s, w in ((9, 7), (8, 8), (10, 6.5))]
    assert read_evaluation_set(rows).strong_scores.tolist() == [9, 8, 10]
    rows[1]["weak_score"] = 0.2  # a fraction among points
    with pytest.raises(DataError, match="row 1: weak_score is 0.2, outside 1 to 10"):
        read_evaluation_set(rows)
    assert read_evaluation_set(rows, score_range=(0, 10)).weak_scores[1] == 0.2


def test_files_and_lines_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [ROWS[0], {**ROWS[1], "weak_score": 2}]))
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: weak_score is 2"):
        read_evaluation_set(path)
    with pytest.raises(DataError, match="missing"):
        read_evaluation_set(tmp_path / "missing.jsonl")


def test_unknown_models_are_listed():
    with pytest.raises(UnknownKindError, match="known: gpt-4, llama, mixtral"):
        read_evaluation_set(ROUTERBENCH, strong="claude", weak="llama")
    with pytest.raises(DataError, match="strong and weak are the same model, 'llama'"):
        read_evaluation_set(ROUTERBENCH, strong="llama", weak="llama")


def test_the_digest_is_of_the_content():
    data = read_evaluation_set(ROWS)
    assert data.digest != read_evaluation_set(with_row(weak_score=1)).digest
    assert data.digest != read_evaluation_set(with_row(prompt="other")).digest
    assert data.digest != read_evaluation_set(with_row(domain="math")).digest
    assert data.digest == read_evaluation_set(with_row(note="unused")).digest


def test_some_prompts_are_a_set_too():
    data = read_evaluation_set(ROUTERBENCH, strong="gpt-4", weak="llama")
    part = data.take([2, 0])
    assert part.prompts == ("question 2", "question 0")
    assert part.strong_scores.tolist() == [0.5, 1]
    assert part.costs_usd.shape == (2, 3)
    assert data.take(np.array([True, False, False])).ids == ("s0",)


def test_a_pair_on_which_nothing_can_be_chosen_is_refused():
    def pair(strong, weak):
        scores = np.array([strong, weak], dtype=float).T
        return EvaluationSet(
            name="x", prompts=("p",) * len(strong), models=("s", "w"), scores=scores, strong="s", weak="w"
        )

    with pytest.raises(DataError, match="x: the strong model's mean score 0.5 is not above the weak one's 0.5"):
        pair([1, 0], [0, 1]).checked_pair()
    with pytest.raises(DataError, match="x: the strong model is better by 1 on every prompt"):
        pair([1, 1], [0, 0]).checked_pair()
    assert [side.tolist() for side in pair([1, 1], [0, 1]).checked_pair()] == [[1, 1], [0, 1]]


def test_the_papers_benchmarks_have_the_published_means(data_folder):
    pytest.importorskip("pyarrow")
    for name, n, strong, weak, column in (
        ("mmlu", 14_037, 0.8059, 0.6809, "domain"),
        ("gsm8k", 1_307, 0.8577, 0.6373, None),
        ("mt_bench", 72, 9.212, 8.281, "category"),
    ):
        data = read_evaluation_set(data_folder / "eval" / f"{name}.parquet")
        assert (data.name, len(data), data.group_column) == (name, n, column)
        assert data.strong_scores.mean() == pytest.approx(strong, abs=5e-4)
        assert data.weak_scores.mean() == pytest.approx(weak, abs=5e-4)


# -- the long layout: a row for each prompt and model
LONG = [
    {"prompt_id": "1", "prompt": "one", "domain": "law", "model": "large", "score": 1, "cost": 0.02},
    {"prompt_id": "1", "prompt": "one", "domain": "law", "model": "org/Small", "score": 0, "cost": 0.001},
    {"prompt_id": "2", "prompt": "two", "domain": "math", "model": "org/Small", "score": 0.5, "cost": 0.002},
    {"prompt_id": "2", "prompt": "two", "domain": "math", "model": "large", "score": 0.75, "cost": 0.03},
    {"prompt_id": "3", "prompt": "three", "domain": "math", "model": "large", "score": 1, "cost": 0.04},
]


def test_the_long_layout_is_put_side_by_side():
    data = read_evaluation_set(LONG)
    assert (data.strong, data.weak) == ("large", "org/Small")  # the better one where nobody says
    assert data.prompts == ("one", "two")
    assert data.strong_scores.tolist() == [1, 0.75]
    assert data.weak_scores.tolist() == [0, 0.5]
    assert data.n_incomplete == 1  # three
    assert data.groups == ("law", "math")
    assert data.ids == ("1", "2")
    assert data.costs_usd.tolist() == [[0.02, 0.001], [0.03, 0.002]]


def test_the_better_of_two_models_is_strong_whichever_comes_first():
    data = read_evaluation_set([LONG[1], LONG[0], *LONG[2:]])
    assert (data.strong, data.weak) == ("large", "org/Small")
    assert data.strong_scores.tolist() == [1, 0.75]


def test_two_of_many_models_are_chosen_by_loose_names():
    many = [*LONG, {"prompt": "one", "model": "third", "score": 1}]
    with pytest.raises(DataError, match=r"with 3 models; name two by strong= and weak=, such as large \(3 rows\)"):
        read_evaluation_set(many)
    data = read_evaluation_set(many, strong="large", weak="small")
    assert data.models == ("large", "org/Small")
    with pytest.raises(UnknownKindError, match="none"):
        read_evaluation_set(many, strong="large", weak="none")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*LONG, {**LONG[0], "score": 0}], "row 5: a second score of 'large' for one prompt, the first is in .*row 0"),
        (LONG[:1], "'large' as the only model"),
        ([LONG[0], LONG[2]], "none of its 2 prompts has scores of both"),
        ([*LONG[:2], {**LONG[2], "score": None}, LONG[3]], "row 2: score: score is no number"),
        ([*LONG[:2], {**LONG[2], "model": None}, LONG[3]], "row 2: model: model without a name"),
        ([*LONG[:2], {**LONG[2], "score": 7}, LONG[3]], "row 2 and row 3: strong_score is 7, outside"),
    ],
)
def test_what_is_wrong_in_the_long_layout_is_named(rows, said):
    with pytest.raises(DataError, match=said):
        read_evaluation_set(rows)


def test_an_index_that_pandas_stored_is_no_model(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["one", "two"], "large": [1, 1], "small": [0, 1]}, index=[7, 9])
    frame.to_parquet(tmp_path / "indexed.parquet")
    data = read_evaluation_set(tmp_path / "indexed.parquet")
    assert data.models == ("large", "small")


def test_gains_that_differ_by_rounding_alone_are_the_same_on_every_prompt():
    # .3 - .2 and .2 - .1 differ by 2.8e-17
    rows = [
        {"prompt": "a", "strong_score": 0.3, "weak_score": 0.2},
        {"prompt": "b", "strong_score": 0.2, "weak_score": 0.1},
    ]
    with pytest.raises(DataError, match="better by 0.1 on every prompt"):
        read_evaluation_set(rows).checked_pair()
