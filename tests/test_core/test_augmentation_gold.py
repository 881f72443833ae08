"""Golden labels: both models answer, and a checker says who is right."""

import asyncio
import os
import signal
import time

import pytest

from routellm_core.augmentation import alabel_gold, estimate_gold, label_from_scores, label_gold
from routellm_core.backends import Generation
from routellm_core.data import read_battles
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.evaluation import read_evaluation_set


class Scripted:
    def __init__(self, name, answers):
        self.name, self.answers, self.asked = name, answers, []

    def generate(self, messages):
        self.asked.append([dict(message) for message in messages])
        return Generation(text=self.answers[messages[-1]["content"]], input_tokens=1, output_tokens=1)

    async def agenerate(self, messages):
        return self.generate(messages)


ROWS = [
    {"prompt": "6 x 7?", "answer": "42", "source": "mine/tables"},
    {"prompt": "half of 3?", "answer": 1.5},
    {"prompt": "2 + 2?", "answer": 4},
]


def pair():
    return {
        "strong": Scripted("s", {"6 x 7?": "It is 42.", "half of 3?": "3/2", "2 + 2?": "5"}),
        "weak": Scripted("w", {"6 x 7?": "41", "half of 3?": "1.50", "2 + 2?": "The answer is 4"}),
    }


def test_each_answer_is_checked():
    models = pair()
    result = label_gold(ROWS, checker="numeric", **models)
    assert [(row["strong_score"], row["weak_score"]) for row in result.rows] == [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert result.rows[0] == {
        "prompt": "6 x 7?",
        "strong_model": "s",
        "weak_model": "w",
        "strong_score": 1.0,
        "weak_score": 0.0,
        "source": "mine/tables",
    }
    assert result.rows[1]["source"] == "gold"
    assert models["strong"].asked[0] == [{"role": "user", "content": "6 x 7?"}]


async def test_the_async_twin_gives_the_same():
    result = await alabel_gold(ROWS, checker="numeric", **pair())
    assert [(row["strong_score"], row["weak_score"]) for row in result.rows] == [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]


def test_weak_first_asks_the_strong_model_only_where_the_weak_one_is_wrong():
    models = pair()
    result = label_gold(ROWS, checker="numeric", weak_first=True, **models)
    assert [m["content"] for call in models["strong"].asked for m in call] == ["6 x 7?"]
    assert [(row["strong_score"], row["weak_score"]) for row in result.rows] == [(1.0, 0.0), (1.0, 1.0), (1.0, 1.0)]
    assert [row.get("strong_assumed") for row in result.rows] == [None, True, True]
    assert result.spending.calls == 4  # three weak answers and one strong


def test_weak_first_asks_the_strong_model_where_the_weak_answer_is_only_partly_right():
    models = pair()
    result = label_gold(ROWS[:1], checker=lambda response, answer: 0.5, weak_first=True, **models)
    assert len(models["strong"].asked) == 1 and "strong_assumed" not in result.rows[0]


def test_labels_with_assumptions_are_read_like_any(tmp_path):
    rows = label_gold(ROWS, checker="numeric", weak_first=True, **pair()).rows
    read = read_evaluation_set(rows)
    assert (read.strong, read.weak, len(read)) == ("s", "w", 3)
    battles, _ = read_battles(rows)
    assert len(battles.prompts) == 3


def test_a_checker_of_ones_own_gives_parts_of_a_point():
    result = label_gold(ROWS[:1], checker=lambda response, answer: 0.25 if answer in response else 0.0, **pair())
    assert (result.rows[0]["strong_score"], result.rows[0]["weak_score"]) == (0.25, 0.0)


def test_a_journal_and_a_budget_work_as_with_a_judge(tmp_path):
    models = pair()
    prices = {"s": (0.0, 1000.0), "w": (0.0, 1000.0)}  # expected: 500 tokens, $.50 an answer; real: $.001
    assert estimate_gold(ROWS, prices=prices, **models).usd == pytest.approx(3.0)
    shared = {"checker": "numeric", "journal": tmp_path / "j", "prices": prices, "concurrency": 1}
    assert label_gold(ROWS, budget_usd=0.9, **shared, **models).is_over_budget
    assert not models["strong"].asked
    first = label_gold(ROWS, budget_usd=1.003, **shared, **models)  # .002 + 1 fits, .004 + 1 does not
    assert (len(first.rows), first.is_over_budget) == (2, True)
    rest = label_gold(ROWS, **shared, **models)
    assert (len(rest.rows), rest.spending.calls, rest.spending.reused) == (3, 2, 4)
    assert estimate_gold(ROWS, journal=tmp_path / "j", **models).calls == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "answer": "none"}, "row 1: the right answer 'none' holds no number"),
        ({"prompt": "q", "answer": None}, "row 1: the right answer is NoneType"),
        ({"prompt": "q", "answer": True}, "row 1: the right answer is bool"),
        ({"prompt": "q"}, "row 1: no column 'answer'; it has 'prompt'"),
        ({"answer": "4"}, "row 1: no column 'prompt'; it has 'answer'"),
        ({"prompt": " ", "answer": "4"}, "prompt 1 is empty"),
    ],
)
def test_bad_rows_are_named_before_anything_is_paid(row, message):
    models = pair()
    with pytest.raises(DataError, match=message):
        label_gold([ROWS[0], row], checker="numeric", **models)
    assert not models["strong"].asked


def test_bad_arguments_are_refused_before_anything_is_paid():
    models = pair()
    with pytest.raises(UnknownKindError, match="unknown checker"):
        label_gold(ROWS, checker="fuzzy", **models)
    with pytest.raises(ConfigurationError, match="both 's'"):
        label_gold(ROWS, checker="numeric", strong=models["strong"], weak=models["strong"])
    with pytest.raises(DataError, match=r"row 0: the checker gave 2.0, not a score in \[0, 1\]"):
        label_gold(ROWS, checker=lambda response, answer: 2.0, **models)
    assert not models["strong"].asked


def test_scores_that_are_there_already_become_labels():
    rows = [{"q": "a", "s": 1, "w": 0.5, "source": "x"}, {"q": "b", "s": True, "w": 0.0}]
    columns = {"strong_column": "s", "weak_column": "w", "prompt_column": "q"}
    labelled = label_from_scores(rows, strong_model="big", weak_model="small", **columns)
    assert labelled == [
        {
            "prompt": "a",
            "strong_model": "big",
            "weak_model": "small",
            "strong_score": 1.0,
            "weak_score": 0.5,
            "source": "x",
        },
        {
            "prompt": "b",
            "strong_model": "big",
            "weak_model": "small",
            "strong_score": 1.0,
            "weak_score": 0.0,
            "source": "gold",
        },
    ]
    for bad, message in (
        ({"q": "b", "s": float("nan"), "w": 0}, "row 1: s is nan, not a finite number"),
        ({"q": "b", "s": "1", "w": 0}, "row 1: s is '1'"),
        ({"q": "b", "w": 0}, "row 1: no column 's'"),
        ({"q": "", "s": 1, "w": 0}, "prompt 1 is empty"),
    ):
        with pytest.raises(DataError, match=message):
            label_from_scores([rows[0], bad], strong_model="big", weak_model="small", **columns)
    with pytest.raises(ConfigurationError, match="both 'big'"):
        label_from_scores(rows, strong_model="big", weak_model="big", **columns)


class Interrupting(Scripted):
    """Interrupts the main thread, as Ctrl-C does, with its fifth answer."""

    def generate(self, messages):
        self.asked.append(messages)
        if len(self.asked) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.005)  # so that not everything is done before the main thread wakes
        return Generation(text="x")


def test_interrupted_inside_a_running_loop_it_stops_paying():
    rows = [{"prompt": f"p {i}", "answer": "x"} for i in range(1000)]
    strong, weak = Interrupting("s", {}), Scripted("w", {row["prompt"]: "x" for row in rows})

    async def cell():
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as a notebook has it
        try:
            with pytest.raises(KeyboardInterrupt):
                label_gold(rows, strong=strong, weak=weak, concurrency=1)
        finally:
            signal.signal(signal.SIGINT, before)

    asyncio.run(cell())
    assert len(strong.asked) < len(rows) / 2


@pytest.mark.parametrize("answer", [None, "text", Generation(text=None), Generation(text=["x"])])
def test_an_answer_that_is_no_text_costs_one_label(answer):
    class Wrong(Scripted):
        def generate(self, messages):
            return answer if messages[0]["content"] == "half of 3?" else super().generate(messages)

    models = {**pair(), "weak": Wrong("w", pair()["weak"].answers)}
    result = label_gold(ROWS, checker="numeric", **models)
    assert [row["prompt"] for row in result.rows] == ["6 x 7?", "2 + 2?"]
    assert result.dropped.counts() == {"w gave no text": 1}


@pytest.mark.parametrize("count", [1.5, True, -1, 10**400, "3"])
def test_a_token_count_that_is_none_is_guessed_and_the_journal_opens_again(tmp_path, count):
    class Odd(Scripted):
        def generate(self, messages):
            return Generation(text="x", input_tokens=count, output_tokens=count)

    pairs = {"strong": Odd("s", {}), "weak": Odd("w", {})}
    rows = [{"prompt": "p", "answer": "x"}]
    assert label_gold(rows, journal=tmp_path / "j", **pairs).spending.guessed == 2
    assert label_gold(rows, journal=tmp_path / "j", **pairs).spending.reused == 2


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 2.5}, {"concurrency": "8"}, {"budget_usd": "5"}, {"prices": {"s": 1}}, {"prices": {"s": (1,)}}],
)
def test_numbers_that_are_none_are_refused_before_anything_is_paid(wrong):
    models = pair()
    with pytest.raises(ConfigurationError):
        label_gold(ROWS, checker="numeric", **models, **{"prices": {"s": (1, 1), "w": (1, 1)}, **wrong})
    assert not models["strong"].asked
