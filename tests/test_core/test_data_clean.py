"""Filters, duplicates, overlap, and the whole pipeline."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routellm_core.data import (
    Battles,
    clean,
    drop_models,
    drop_overlap,
    drop_short,
    group_near_duplicates,
    labels_over_tiers,
    merge_duplicates,
    prepare,
    read_battles,
    read_prompts,
)
from routellm_core.data.duplicates import near_duplicate_groups
from routellm_core.data.overlap import overlap_with
from routellm_core.data.words import words_of
from routellm_core.encoders import Encoder
from routellm_core.errors import ConfigurationError, DataError, MissingExtraError, UnknownKindError

A, T, B = 1, 0, -1


def battles(*rows):
    prompts, a, b, outcome = zip(*rows, strict=True)
    return Battles.from_columns(prompts, a, b, outcome)


def rows_of(given):
    return [
        (given.prompts[p], given.models[a], given.models[b], int(o))
        for p, a, b, o in zip(given.prompt_index, given.model_a, given.model_b, given.outcome, strict=True)
    ]


def same_groups(groups):
    """Sets of row numbers that share a group."""
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in groups}


class TestFilters:
    def test_short_prompts_go_and_white_space_around_them_does_not_count(self):
        made = battles(("x" * 16, "x", "y", A), ("x" * 15, "x", "y", A), ("  " + "x" * 15 + "\n", "x", "y", A))
        left, step = drop_short(made)
        assert rows_of(left) == [("x" * 16, "x", "y", A)]
        assert step.rows.tolist() == [1, 2]
        assert str(step) == "length: 3 -> 1 (2 shorter than 16 characters)"

    def test_a_limit_of_zero_keeps_all(self):
        left, step = drop_short(battles(("x", "x", "y", A)), min_characters=0)
        assert (len(left), step.after) == (1, 1)
        with pytest.raises(ConfigurationError, match="min_characters"):
            drop_short(left, min_characters=-1)

    def test_excluded_models_go_by_any_spelling_on_either_side(self):
        made = battles(("p", "gpt4", "y", A), ("p", "y", "z", A), ("p", "z", "gpt4", A), ("p", "z", "u", A))
        left, step = drop_models(made, ["gpt-4", "u"])
        assert rows_of(left) == [("p", "y", "z", A)]
        assert step.counts() == {"with gpt4": 2, "with u": 1}
        with pytest.raises(UnknownKindError, match="unknown model 'w'"):
            drop_models(made, ["w"])


class TestDuplicates:
    def test_one_verdict_is_left_for_a_prompt_and_an_unordered_pair(self):
        made = battles(("p", "x", "y", A), ("p", "y", "x", B), ("p", "x", "z", A), ("q", "x", "y", A))
        left, step = merge_duplicates(made)
        assert rows_of(left) == [("p", "x", "y", A), ("p", "x", "z", A), ("q", "x", "y", A)]
        assert step.rows.tolist() == [1]
        assert str(step) == "duplicates: 4 -> 3 (1 same prompt and pair of models)"

    @pytest.mark.parametrize(
        ("verdicts", "merged"),
        [
            ([A, B, B], B),  # two against one
            ([A, B], T),  # annotators disagree
            ([A, T], A),  # one for a, none for b
            ([T, A, B, T], T),
            ([B, B], B),
        ],
    )
    @pytest.mark.parametrize("turned", [0, 1, 2, 3])
    def test_the_majority_decides_whatever_the_sides(self, verdicts, merged, turned):
        rows = [("p", "y", "x", -o) if i == turned else ("p", "x", "y", o) for i, o in enumerate(verdicts)]
        left, step = merge_duplicates(battles(("q", "x", "y", A), *rows))  # the first settles which model comes first
        assert len(left) == 2
        _, first, _, outcome = rows_of(left)[1]
        assert first == ("y" if turned == 0 else "x")
        assert outcome == (merged if first == "x" else -merged)
        assert step.changed == (merged != verdicts[0])

    def test_white_space_and_unicode_composition_make_no_other_prompt(self):
        made = battles(
            ("caf\u00e9 au lait", "x", "y", A), ("cafe\u0301  au\n lait ", "x", "y", A), ("Café au lait", "x", "y", A)
        )
        assert len(merge_duplicates(battles(("x²", "x", "y", A), ("x2", "x", "y", A)))[0]) == 2
        left, _ = merge_duplicates(made)
        assert left.prompts == ("caf\u00e9 au lait", "Café au lait")

    def test_prompts_that_are_the_same_share_a_group_where_both_stay(self):
        made = battles(("p q", "x", "y", A), ("p  q", "x", "z", A), ("r", "x", "y", A))
        left, _ = merge_duplicates(made)
        assert same_groups(left.groups) == {frozenset({0, 1}), frozenset({2})}

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["p", "q", "q "]), st.sampled_from(["xy", "yx", "xz", "zy"]), st.sampled_from([A, T, B])
            ),
            min_size=1,
            max_size=30,
        )
    )
    def test_what_is_left_has_no_duplicates_and_nothing_is_lost(self, rows):
        made = battles(*((prompt, *pair, outcome) for prompt, pair, outcome in rows))
        left, step = merge_duplicates(made)
        keys = [(p.strip(), *sorted([a, b])) for p, a, b, _ in rows_of(left)]
        assert len(set(keys)) == len(keys)
        assert set(keys) == {(p.strip(), *sorted([a, b])) for p, a, b, _ in rows_of(made)}
        assert step.before == len(made) and step.after == len(left) == step.before - len(step.rows)


LONG = "Write a short story about a lighthouse keeper who finds a message in a bottle and answers it every year"


class TestNearDuplicates:
    def setup_method(self):
        pytest.importorskip("datasketch")

    def test_nearly_equal_prompts_share_a_group_and_others_do_not(self):
        prompts = (
            LONG,
            LONG.upper() + "!!",
            LONG.replace("short", "long"),
            "What is the capital of France?",
            "What is the capital of Spain?",
            LONG + ", and then explain in detail why it makes sense to answer letters of people whom one never met",
        )
        # the third: 20 words, 18 runs of three, of which one changed word touches 3: 15 / 21 = 0.714
        assert same_groups(near_duplicate_groups(prompts)) == {
            frozenset({0, 1, 2}),
            frozenset({3}),
            frozenset({4}),
            frozenset({5}),
        }
        assert same_groups(near_duplicate_groups(prompts, similarity=0.72)) == {
            frozenset({0, 1}),
            *map(frozenset, ([2], [3], [4], [5])),
        }

    def test_prompts_of_few_words_or_none_are_compared_whole(self):
        prompts = ("Hi", "hi!", "hi there", "?!", "?!", "!?", "你好世界", "你好,世界")
        assert same_groups(near_duplicate_groups(prompts)) == {
            frozenset({0, 1}),
            frozenset({2}),
            frozenset({3, 4}),
            frozenset({5}),
            frozenset({6, 7}),
        }

    def test_grouping_keeps_all_battles_and_dropping_keeps_the_first_prompts(self):
        made = battles((LONG, "x", "y", A), (LONG + "!", "x", "z", A), ("Something else altogether", "x", "y", B))
        grouped, step = group_near_duplicates(made)
        assert rows_of(grouped) == rows_of(made)
        assert grouped.groups[0] == grouped.groups[1] != grouped.groups[2]
        assert step.changed == 2
        assert str(step) == "near-duplicates: 3 -> 3 (2 prompts in 1 groups of more than one)"
        dropped, step = group_near_duplicates(made, then="drop")
        assert rows_of(dropped) == [rows_of(made)[0], rows_of(made)[2]]
        assert str(step) == "near-duplicates: 3 -> 2 (1 nearly the same prompt as another)"

    def test_groups_there_were_are_joined_not_forgotten(self):
        made = battles((LONG, "x", "y", A), (LONG + "!", "x", "y", A), ("Something else altogether", "x", "y", B))
        grouped, _ = group_near_duplicates(made.with_groups([0, 1, 1]))
        assert len(set(grouped.groups.tolist())) == 1

    def test_a_split_never_separates_them(self):
        rng = np.random.default_rng(0)
        texts = [" ".join(f"w{i}" for i in rng.integers(1000, size=30)) for _ in range(50)]
        made = battles(*((text + end, "x", "y", A) for text in texts for end in ("", " please", "!")))
        grouped, _ = group_near_duplicates(made)
        rest, part = grouped.split(0.2, rng=rng)
        assert {p[:40] for p in rest.prompts}.isdisjoint(p[:40] for p in part.prompts)
        assert len(part) == 30  # 10 of 50 texts, three spellings each

    @settings(max_examples=30)
    @given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=12))
    def test_equal_words_always_meet(self, prompts):
        groups = near_duplicate_groups(tuple(prompts))
        for i, one in enumerate(prompts):
            for j, other in enumerate(prompts):
                if words_of(one) == words_of(other):
                    assert groups[i] == groups[j]

    def test_options_and_the_missing_package_are_named(self, monkeypatch):
        made = battles((LONG, "x", "y", A))
        with pytest.raises(ConfigurationError, match="'group'ed or 'drop'ped"):
            group_near_duplicates(made, then="ignore")
        with pytest.raises(ConfigurationError, match="between 0.5 and 1"):
            group_near_duplicates(made, similarity=0.2)
        monkeypatch.setitem(sys.modules, "datasketch", None)
        with pytest.raises(MissingExtraError, match=r"'routellm-integrations\[fit\]'"):
            group_near_duplicates(made)


class TableEncoder(Encoder):
    """Two numbers for each text."""

    kind = "table"
    dim = 2
    digest = "0" * 64

    def __init__(self, table):
        self.table = table

    def settings(self):
        return {}

    def _encode(self, texts):
        return np.array([self.table[text] for text in texts], dtype=np.float32)


class TestOverlap:
    def test_each_reason_is_found(self):
        words = [f"word{i}" for i in range(30)]
        evaluation = ["What is 2 + 2?", " ".join(words)]
        prompts = [
            "what is   2+2",
            "Prefix, then: " + ", ".join(words[7:20]).upper() + "?",  # 13 words in a row
            "Prefix, then " + " ".join(words[7:19]) + " other",  # 12
            "Nothing alike at all",
        ]
        reasons = overlap_with(prompts, evaluation)
        assert reasons.tolist() == [
            "same text as an evaluation prompt",
            "13 words in a row of an evaluation prompt",
            "",
            "",
        ]

    def test_thirteen_words_across_two_prompts_are_no_run(self):
        words = [f"word{i}" for i in range(13)]
        reasons = overlap_with([" ".join(words[:7]), " ".join(words[7:])], [" ".join(words)])
        assert reasons.tolist() == ["", ""]

    def test_cosine_counts_above_the_limit_and_a_zero_vector_never(self):
        # cosines with (1, 0): 0.8, 0.96, and none for the zero vector
        table = {"e": (2, 0), "far": (4, 3), "near": (24, 7), "zero": (0, 0)}
        made = battles(("far", "x", "y", A), ("near", "x", "y", A), ("zero", "x", "y", A), ("near", "x", "z", A))
        left, step = drop_overlap(made, ["e"], encoder=TableEncoder(table))
        assert rows_of(left) == [rows_of(made)[0], rows_of(made)[2]]
        assert step.rows.tolist() == [1, 3]
        assert step.counts() == {"cosine over 0.92 with an evaluation prompt": 2}
        assert len(drop_overlap(made, ["e"], encoder=TableEncoder(table), max_cosine=0.97)[0]) == 4
        assert len(drop_overlap(made, ["e"], encoder=TableEncoder(table), max_cosine=0.7)[0]) == 1

    def test_an_encoder_to_which_all_prompts_are_alike_is_refused_instead_of_dropping_them(self):
        prompts = [f"prompt {i}" for i in range(200)]
        alike = {prompt: (1, i % 2) for i, prompt in enumerate(prompts)}  # cosine 1 with one half, 0.707 with the other
        with pytest.raises(ConfigurationError, match=r"50% of all pairs .* by encoder 'table'.*sentence encoder"):
            overlap_with(prompts[:100], prompts[100:], encoder=TableEncoder(alike))

    def test_no_evaluation_prompts_keep_everything(self):
        made = battles(("p", "x", "y", A))
        assert drop_overlap(made, [])[0] is made

    def test_what_cannot_be_meant_is_refused(self):
        with pytest.raises(DataError, match="got one str"):
            overlap_with(["p"], "p")
        with pytest.raises(ConfigurationError, match="max_cosine"):
            overlap_with(["p"], ["p"], max_cosine=92)

    @given(st.text(max_size=30))
    def test_a_prompt_always_overlaps_itself(self, text):
        assert overlap_with([text], ["other", text]).tolist() == ["same text as an evaluation prompt"]


def raw():
    """Twelve models on 40 prompts: the lower number mostly wins; enough to be rated together."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(40):
        for _ in range(12):
            a, b = rng.choice(12, size=2, replace=False)
            prompt = f"prompt number {i} is about {' '.join(f'w{i}x{j}' for j in range(12))}"
            wins = rng.random() < 1 / (1 + np.exp(0.5 * (a - b)))
            rows.append((prompt, f"m{a:02}", f"m{b:02}", A if wins else B))
    return battles(*rows)


class TestPrepare:
    def setup_method(self):
        pytest.importorskip("datasketch")
        pytest.importorskip("scipy")

    def test_the_steps_are_recorded_in_order_and_add_up(self):
        made = Battles.concatenated([raw(), battles(("too short", "m00", "m01", A), (LONG, "m00", "unnamed", A))])
        prepared = prepare(
            made, exclude_models=["Unnamed"], evaluation_prompts=[made.prompts[3]], tiers=4, anchor="m05"
        )
        assert [step.name for step in prepared.steps] == [
            "length",
            "models",
            "duplicates",
            "near-duplicates",
            "overlap",
        ]
        for before, after in zip(prepared.steps, prepared.steps[1:], strict=False):
            assert before.after == after.before
        assert prepared.steps[-1].after == len(prepared.battles)
        assert made.prompts[3] not in prepared.battles.prompts
        assert prepared.ratings.of("m05") == pytest.approx(1082)
        assert len(prepared.tiers) == 4
        assert len(labels_over_tiers(prepared.battles, prepared.tiers)) > 20

    def test_it_does_not_change_what_it_was_given(self):
        made = raw()
        before = made.digest
        prepare(made, tiers=3)
        assert made.digest == before

    def test_a_step_that_leaves_nothing_is_named(self):
        with pytest.raises(DataError, match="no battles are left after the step length: 480 -> 0"):
            clean(raw(), min_characters=1000)

    def test_fewer_models_than_tiers_is_an_error(self):
        with pytest.raises(DataError, match="12 rated models cannot make 13 tiers"):
            prepare(raw(), tiers=13)

    def test_near_duplicates_can_be_ignored_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasketch", None)
        _, steps = clean(raw(), near_duplicates="ignore")
        assert [step.name for step in steps] == ["length", "duplicates"]
        with pytest.raises(ConfigurationError, match="one of group, drop, ignore, got 'keep'"):
            clean(raw(), near_duplicates="keep")

    @pytest.mark.slow
    def test_the_projects_own_battles_go_through(self, data_folder):
        pytest.importorskip("pyarrow")
        made, _ = read_battles(data_folder / "train" / "battles.parquet")
        evaluation = [
            prompt
            for name in ("mmlu", "gsm8k", "mt_bench")
            for prompt in read_prompts(data_folder / "eval" / f"{name}.parquet")
        ]
        prepared = prepare(made, evaluation_prompts=evaluation)
        assert prepared.steps[0].counts() == {"shorter than 16 characters": 236}
        assert prepared.steps[-1].rows.size == 0  # the data had their overlap removed
        assert prepared.ratings.anchor == "llama-2-70b-chat-hf"
        # the two that met nobody else
        assert set(prepared.ratings.unrated) == {"llama-3-70b-instruct", "unnamed-arena-opponent"}
        assert len(prepared.tiers) == 10
