"""Battles in columns, steps, and labels made of battles."""

import numpy as np
import pytest

from routellm_core.data import Battles, Step, Tiers, labels_for_pair, labels_for_sides, labels_over_tiers
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError

A, T, B = 1, 0, -1


def battles(*rows, sources=None):
    """From rows of prompt, model a, model b, outcome."""
    prompts, a, b, outcome = zip(*rows, strict=True)
    return Battles.from_columns(prompts, a, b, outcome, sources=sources)


def rows_of(given):
    return [
        (given.prompts[p], given.models[a], given.models[b], int(o))
        for p, a, b, o in zip(given.prompt_index, given.model_a, given.model_b, given.outcome, strict=True)
    ]


ROWS = [("one", "x", "y", A), ("two", "y", "z", T), ("one", "z", "x", B), ("three", "x", "z", A)]


def test_rows_come_back_as_they_were_put_in():
    made = battles(*ROWS, sources=["s", "t", "s", "t"])
    assert rows_of(made) == ROWS
    assert made.prompts == ("one", "two", "three")
    assert [made.sources[i] for i in made.source_index] == ["s", "t", "s", "t"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("", "x", "y", A), "row 1: the prompt is empty"),
        (("p", " ", "y", A), "row 1: model_a is ' '"),
        (("p", "x", None, A), "row 1: model_b is None"),
        (("p", "x", "x", A), "row 1: 'x' battles itself"),
        (("p", "x", "y", 2), "row 1: outcome"),
    ],
)
def test_a_bad_row_is_named_with_the_reason(row, why):
    with pytest.raises(DataError, match=why):
        battles(("p", "x", "y", A), row)


def test_taking_some_drops_what_no_battle_uses():
    taken = battles(*ROWS).take([1])
    assert rows_of(taken) == [ROWS[1]]
    assert taken.prompts == ("two",)
    assert taken.models == ("y", "z")


def test_concatenating_meets_equal_names_and_joins_groups():
    one = battles(("p", "x", "y", A), ("q", "x", "y", A)).with_groups([0, 0])
    other = battles(("r", "y", "z", B), ("q", "z", "y", T)).with_groups([5, 5])
    both = Battles.concatenated([one, other])
    assert rows_of(both) == rows_of(one) + rows_of(other)
    assert len(set(both.groups.tolist())) == 1  # p-q in one, q-r in the other


def test_a_split_separates_no_group():
    made = battles(*((f"p{i}", "x", "y", A) for i in range(40))).with_groups(np.arange(40) // 4)
    rest, part = made.split(0.3, rng=np.random.default_rng(0))
    assert len(part) == 12  # 3 of 10 groups of 4
    assert not set(rest.groups.tolist()) & set(part.groups.tolist())


def test_other_outcomes_keep_all_else_and_are_checked():
    made = battles(*ROWS)
    assert rows_of(made.with_outcome([B, A, T, T])) == [
        (*row[:3], o) for row, o in zip(ROWS, (B, A, T, T), strict=True)
    ]
    with pytest.raises(DataError, match="row 2: outcome 7"):
        made.with_outcome([B, A, 7, T])
    with pytest.raises(DataError, match="shape"):
        made.with_outcome([A])


def test_a_step_says_what_left_and_why():
    step = Step(name="length", before=5, rows=np.array([0, 3, 4]), reasons=("long", "short", "short"))
    assert step.after == 2
    assert str(step) == "length: 5 -> 2 (2 short, 1 long)"
    empty = np.zeros(0, dtype=np.int64)
    assert str(Step(name="merge", before=5, rows=empty, reasons=(), changed=3)) == "merge: 5 -> 5 (3 changed)"
    assert str(Step(name="read", before=5, rows=empty, reasons=(), note="9 made")) == "read: 5 -> 5 (9 made)"


def test_labels_count_verdicts_for_the_strong_side_whichever_side_it_is_on():
    made = battles(
        ("p", "strong", "weak", A), ("p", "weak", "strong", A), ("p", "weak", "strong", T), ("q", "strong", "other", A)
    )
    labels = labels_for_pair(made, "strong", "weak")
    assert labels.prompts == ("p",)
    assert labels.counts.tolist() == [[1, 1, 1]]
    assert labels.strong_scores.tolist() == [0.5]


def test_a_pair_is_found_by_its_usual_spellings():
    made = battles(("p", "gpt4", "meta/Llama-2-7b-chat-hf", A))
    assert labels_for_pair(made, "gpt-4", "llama-2-7b-chat").counts.tolist() == [[1, 0, 0]]
    with pytest.raises(UnknownKindError, match="'gpt-5'; known: gpt4"):
        labels_for_pair(made, "gpt-5", "gpt4")


def test_labels_over_tiers_take_the_top_two_against_the_third():
    tiers = Tiers(tiers=(("a",), ("b", "c"), ("d",), ("e",)), ratings=((9.0,), (8.0, 7.0), (6.0,), (5.0,)))
    made = battles(
        ("p", "a", "d", A),
        ("p", "d", "c", A),
        ("q", "b", "d", T),
        ("r", "a", "b", A),  # both strong
        ("r", "a", "e", A),  # the fourth tier is not the weak side
        ("r", "a", "unrated", A),
    )
    labels = labels_over_tiers(made, tiers)
    assert dict(zip(labels.prompts, labels.counts.tolist(), strict=True)) == {"p": [1, 0, 1], "q": [0, 1, 0]}


def test_labels_over_tiers_that_never_met_say_what_to_do():
    tiers = Tiers(tiers=(("a",), ("b",), ("c",)), ratings=((9.0,), (8.0,), (6.0,)))
    with pytest.raises(DataError, match=r"tiers of 1, 1, 1 models: no battle .*make fewer tiers, or name a pair"):
        labels_over_tiers(battles(("p", "a", "b", A)), tiers)
    with pytest.raises(ConfigurationError, match="but there are 2"):
        labels_over_tiers(battles(("p", "a", "b", A)), Tiers(tiers=(("a",), ("b",)), ratings=((2.0,), (1.0,))))


def test_a_model_on_both_sides_is_refused():
    with pytest.raises(DataError, match="'x' is on both sides"):
        labels_for_sides(battles(*ROWS), [True, False, False], [True, True, False])
