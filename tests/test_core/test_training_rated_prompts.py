"""Prompts whose difficulty was judged: what becomes of the judges' chances, and what they do to a fit."""

import json

import numpy as np
import pytest

from routellm_core.encoders import SurfaceEncoder
from routellm_core.errors import DataError
from routellm_core.training.difficulty import Block, RatedFeatures, fit_difficulty, fit_linear_difficulty
from routellm_core.training.rated_prompts import RatedPrompts
from routellm_core.training.score_table import PairLabels, ScoreTable

THREE = ("easy", "middling", "hard")
LINE = {"prompt": "What is 2 + 2?", "strong": [0.9, 0.9], "weak": [0.8, 0.7]}
OTHER = {"prompt": "Prove it.", "strong": [0.6, 0.5], "weak": [0.1, 0.2]}


def column(*chances):
    return np.array(chances)[:, np.newaxis]


# -- from chances to difficulties
def test_difficulty_is_that_the_weak_model_fails_and_the_strong_one_less():
    rated = RatedPrompts.from_chances(THREE, strong=column(0.8, 0.8, 0.8), weak=column(0.8, 0.5, 0.2))
    # -logit of .8, .5, .2: -1.386, 0, 1.386; strong - weak: 0, .3, .6. Both are -1, 0, 1 times a factor, and the
    # standard deviation of -1, 0, 1 is sqrt(2/3), so that each is -1.2247, 0, 1.2247, and so is their sum, scaled
    np.testing.assert_allclose(rated.difficulties, [-1.224745, 0, 1.224745], atol=1e-6)
    assert rated.prompts == THREE


def test_both_parts_count_alike():
    # -logit: 0, 0, 2.197, 2.197 -> -1, -1, 1, 1; strong - weak: 0, .4, 0, .4 -> -1, 1, -1, 1; the sum -2, 0, 0, 2
    # has the standard deviation sqrt(2)
    rated = RatedPrompts.from_chances("abcd", strong=column(0.5, 0.9, 0.1, 0.5), weak=column(0.5, 0.5, 0.1, 0.1))
    np.testing.assert_allclose(rated.difficulties, [-(2**0.5), 0, 0, 2**0.5], atol=1e-6)


def test_every_judge_has_the_same_say_however_bold():
    bold, shy = column(0.5, 0.5, 0.1, 0.1), column(0.5, 0.45, 0.5, 0.45)
    rated = RatedPrompts.from_chances("abcd", strong=np.full((4, 2), 0.6), weak=np.hstack([bold, shy]))
    # with two values each, -logit and gap alike: bold -1, -1, 1, 1; shy -1, 1, -1, 1; the sum -2, 0, 0, 2
    np.testing.assert_allclose(rated.difficulties, [-(2**0.5), 0, 0, 2**0.5], atol=1e-6)


def test_judges_who_contradict_each_other_leave_nothing():
    opposite = np.hstack([column(0.8, 0.5, 0.2), column(0.48, 0.5, 0.52)])
    with pytest.raises(DataError, match="tell no prompt from another"):
        RatedPrompts.from_chances(THREE, strong=np.full((3, 2), 0.9), weak=opposite)


def test_difficulties_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    strong, weak = rng.uniform(0.3, 1.0, (50, 3)), rng.uniform(0.0, 0.7, (50, 3))
    difficulties = RatedPrompts.from_chances([str(i) for i in range(50)], strong=strong, weak=weak).difficulties
    assert difficulties.shape == (50,)
    assert (difficulties.mean(), difficulties.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_certainty_counts_no_more_than_a_judge_can_tell():
    strong = column(1.0, 1.0, 1.0)
    sure = RatedPrompts.from_chances(THREE, strong=strong, weak=column(1.0, 0.5, 0.3)).difficulties
    nearly = RatedPrompts.from_chances(THREE, strong=strong, weak=column(0.97, 0.5, 0.3)).difficulties
    np.testing.assert_allclose(sure, nearly, atol=0.03)  # one logit for both; the gaps differ by .03


@pytest.mark.parametrize(
    ("strong", "weak"),
    [
        (column(0.9, 0.8), column(0.5, 0.4)),  # two rows for three prompts
        (column(0.9, 0.8, 0.7), np.full((3, 2), 0.5)),
        (np.full(3, 0.5), np.full(3, 0.5)),
        (np.zeros((3, 0)), np.zeros((3, 0))),
        (column(0.9, 0.8, 1.1), column(0.5, 0.4, 0.3)),
        (column(0.9, 0.8, 0.7), column(0.5, 0.4, -0.1)),
        (column(0.9, 0.8, np.nan), column(0.5, 0.4, 0.3)),
        ([[0.9], [0.8], ["high"]], column(0.5, 0.4, 0.3)),
        ([[0.9], [0.8], [0.7, 0.6]], column(0.5, 0.4, 0.3)),
        ([[0.9], [0.8], None], column(0.5, 0.4, 0.3)),
        (column(0.9, 0.9, 0.9), column(0.5, 0.5, 0.5)),  # tells no prompt from another
        (column(0.6, 0.7, 0.8), column(0.5, 0.6, 0.7)),  # always .1 apart, but for the last digit
    ],
)
def test_chances_that_make_no_difficulty_are_refused(strong, weak):
    with pytest.raises(DataError):
        RatedPrompts.from_chances(THREE, strong=strong, weak=weak)


# -- from a file
def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_file_is_read_as_its_rows(tmp_path):
    rated = RatedPrompts.read(write(tmp_path / "rated.jsonl", LINE, OTHER, ""))
    strong, weak = [LINE["strong"], OTHER["strong"]], [LINE["weak"], OTHER["weak"]]
    assert rated.prompts == ("What is 2 + 2?", "Prove it.")
    expected = RatedPrompts.from_chances(rated.prompts, strong=strong, weak=weak).difficulties
    np.testing.assert_array_equal(rated.difficulties, expected)


def test_several_files_are_read_as_one(tmp_path):
    files = [write(tmp_path / "one.jsonl", LINE), write(tmp_path / "two.jsonl", OTHER)]
    whole = RatedPrompts.read(write(tmp_path / "whole.jsonl", LINE, OTHER))
    parts = RatedPrompts.read(*files)
    assert parts.prompts == whole.prompts
    np.testing.assert_array_equal(parts.difficulties, whole.difficulties)
    with pytest.raises(DataError, match="no rows"):
        RatedPrompts.read()


def test_a_line_ends_where_its_json_does(tmp_path):
    odd = "one\u2028two\x85three"  # what str.splitlines takes for ends of lines
    text = json.dumps({**LINE, "prompt": odd}, ensure_ascii=False)
    assert RatedPrompts.read(write(tmp_path / "rated.jsonl", text, OTHER)).prompts[0] == odd


@pytest.mark.parametrize(
    "line",
    [
        "no JSON: s3cret",
        "[1]",
        {"prompt": "s3cret", "strong": [0.9, 0.9]},
        {**LINE, "prompt": None},
        {**LINE, "prompt": 5},
        {**LINE, "strong": 0.9},
        {**LINE, "strong": "11"},
        {**LINE, "strong": ["high", "low"]},
        {**LINE, "strong": [None, 0.5]},
    ],
)
def test_a_line_of_another_form_is_named_by_its_number_and_not_shown(tmp_path, line):
    with pytest.raises(DataError, match=r"rated\.jsonl, line 2: ") as caught:
        RatedPrompts.read(write(tmp_path / "rated.jsonl", LINE, line))
    assert "s3cret" not in str(caught.value)


def test_files_without_what_is_needed_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        RatedPrompts.read(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="no rows"):
        RatedPrompts.read(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="no prompts"):
        RatedPrompts.read(write(tmp_path / "other.jsonl", {"question": "What?"}))
    with pytest.raises(DataError, match="by each judge"):
        RatedPrompts.read(write(tmp_path / "uneven.jsonl", LINE, {**OTHER, "weak": [0.1]}))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "\xe9"}'.encode("latin-1"))
    with pytest.raises(DataError, match="utf-8"):
        RatedPrompts.read(tmp_path / "latin.jsonl")


def test_the_repr_shows_no_prompt():
    assert "easy" not in repr(
        RatedPrompts.from_chances(THREE, strong=column(0.8, 0.8, 0.8), weak=column(0.8, 0.5, 0.2))
    )


# -- in the regression
BLOCKS = [Block(width=1, penalty=0.0)]


def scored():
    """Two prompts, one wrong and one right, of features 1 and -1: difficulties d and -d."""
    rows = [("hard", "a", 0.0, "s"), ("hard", "b", 0.0, "s"), ("easy", "a", 1.0, "s"), ("easy", "b", 1.0, "s")]
    return ScoreTable.from_rows(rows), np.array([[1.0], [-1.0]], dtype=np.float32)


def judged(features, difficulties, **options):
    return RatedFeatures(
        features=np.array(features, dtype=np.float32)[:, np.newaxis], difficulties=np.array(difficulties), **options
    )


def test_rated_prompts_pull_the_weights_by_their_share():
    table, features = scored()
    plain = fit_linear_difficulty(table, features, blocks=BLOCKS)
    d = 1.4815  # as the Rasch fit of two right or two wrong answers gives it: |d| / 4 = 2 / (1 + exp(|d|))
    np.testing.assert_allclose([plain.weights[0], plain.bias], [d, 0], atol=1e-3)
    # judged the other way round, brought to the scored ones' deviation d: slope (d - weight * d) / (1 + weight)
    for weight, slope in ((1.0, 0.0), (0.5, d / 3), (3.0, -d / 2)):
        fit = fit_linear_difficulty(
            table, features, blocks=BLOCKS, rated=judged([1.0, -1.0], [-1.0, 1.0], weight=weight)
        )
        np.testing.assert_allclose([fit.weights[0], fit.bias], [slope, 0], atol=1e-3)


def test_the_weight_is_of_all_rated_prompts_together():
    table, features = scored()
    two = judged([1.0, -1.0], [-1.0, 1.0], weight=0.5)
    many = judged([1.0, -1.0] * 10, [-1.0, 1.0] * 10, weight=0.5)
    slopes = [fit_linear_difficulty(table, features, blocks=BLOCKS, rated=each).weights[0] for each in (two, many)]
    assert slopes[0] == pytest.approx(slopes[1])


def test_a_kind_of_prompt_that_nobody_scored_is_learned_from_the_judges_alone():
    table, features = scored()
    wide = np.hstack([features, np.zeros((2, 1), dtype=np.float32)])  # the second feature is of the unscored kind
    rated = RatedFeatures(
        features=np.array([[0.0, 1.0], [0.0, -1.0]], dtype=np.float32), difficulties=np.array([1.0, -1.0])
    )
    blocks = [Block(width=2, penalty=1e-6)]
    assert fit_linear_difficulty(table, wide, blocks=blocks).weights[1] == pytest.approx(0, abs=1e-9)
    fit = fit_linear_difficulty(table, wide, blocks=blocks, rated=rated)
    np.testing.assert_allclose(fit.weights, [1.4815, 1.4815], atol=1e-2)


def test_ratings_that_agree_with_the_scores_change_nothing():
    table, features = scored()
    fit = fit_linear_difficulty(table, features, blocks=BLOCKS, rated=judged([1.0, -1.0], [1.0, -1.0]))
    plain = fit_linear_difficulty(table, features, blocks=BLOCKS)
    np.testing.assert_allclose([fit.weights[0], fit.bias], [plain.weights[0], plain.bias], atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight):
    table, features = scored()
    with pytest.raises(DataError, match="positive weight"):
        fit_linear_difficulty(table, features, blocks=BLOCKS, rated=judged([1.0], [0.0], weight=weight))


@pytest.mark.parametrize(
    ("features_of", "difficulties"), [(np.zeros((2, 2)), [0.0, 1.0]), (np.zeros((2, 1)), [0.0]), (np.zeros(2), [0, 1])]
)
def test_rated_features_of_another_shape_are_refused(features_of, difficulties):
    table, features = scored()
    rated = RatedFeatures(features=features_of.astype(np.float32), difficulties=np.array(difficulties))
    with pytest.raises(DataError, match="rows of width 1"):
        fit_linear_difficulty(table, features, blocks=BLOCKS, rated=rated)


# -- in the whole fit
def world():
    """Eight sources whose prompts are the harder the more numbers they have; no prompt asks anything."""
    rng = np.random.default_rng(0)
    rows, prompts, sources, wins = [], [], [], []
    for source in range(8):
        for i in range(60):
            numbers = int(rng.integers(0, 20))
            difficulty = 1.5 * (np.log1p(numbers) - 1.8)
            prompt = f"case {source} {i} " + " ".join(["7"] * numbers)
            for model in range(4):
                rows.append(
                    (
                        prompt,
                        f"m{model}",
                        float(rng.random() < 1 / (1 + np.exp(difficulty - model + 1.5))),
                        f"s/{source}",
                    )
                )
            prompts.append(prompt)
            sources.append(f"s/{source}")
            wins.append(rng.random() < 1 / (1 + np.exp(1 - 0.8 * difficulty)))
    return ScoreTable.from_rows(rows), PairLabels(prompts=prompts, sources=sources, strong_wins=np.array(wins))


def whole_fit(**options):
    table, labels = world()
    return fit_difficulty(
        table,
        encoder=SurfaceEncoder(["log_numbers", "log_questions"]),
        blocks=[Block(width=2, penalty=0.001, per_column=True)],
        labels=labels,
        n_folds=4,
        sample_per_source=50,
        rng=np.random.default_rng(1),
        **options,
    )


def test_rated_prompts_teach_what_the_scored_ones_do_not_show_and_are_in_no_threshold():
    questions = ["Is it so" + "?" * (i % 5) for i in range(40)]
    chances = np.array([[0.9 - 0.15 * (i % 5)] for i in range(40)])  # more marks, harder
    rated = RatedPrompts.from_chances(questions, strong=np.full((40, 1), 0.9), weak=chances)
    plain, taught = whole_fit().router, whole_fit(rated=rated, rated_weight=0.5).router
    assert plain.weights[1] == pytest.approx(0, abs=1e-6)
    assert taught.weights[1] > 0.1
    ask = ["Is it so", "Is it so????"]
    assert np.ptp(plain.win_rate(ask)) < 1e-6 < 0.05 < np.diff(taught.win_rate(ask))[0]
    assert plain.calibration.win_rates.size == taught.calibration.win_rates.size == 400  # 50 of each source


def test_a_fit_without_rated_prompts_is_the_fit_as_it_was():
    first, second = whole_fit().router, whole_fit(rated=None, rated_weight=0.0).router
    np.testing.assert_array_equal(first.weights, second.weights)
    with pytest.raises(DataError, match="positive weight"):
        rated = RatedPrompts.from_chances(THREE, strong=column(0.8, 0.8, 0.8), weak=column(0.8, 0.5, 0.2))
        whole_fit(rated=rated, rated_weight=0.0)


# -- within sources
def two_sources():
    """Source "b" is the harder one; its prompts have feature 0. Feature 1 tells the harder of each source's two."""
    scores = {("a", 0): (1.0, 1.0), ("a", 1): (1.0, 0.0), ("b", 0): (1.0, 0.0), ("b", 1): (0.0, 0.0)}
    rows = [
        (f"{source} {i}", model, score, source)
        for (source, i), both in scores.items()
        for model, score in zip("mn", both, strict=True)
    ]
    features = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    return ScoreTable.from_rows(rows), features


def test_within_sources_what_parts_the_sources_counts_for_nothing():
    table, features = two_sources()
    blocks = [Block(width=2, penalty=0.0)]
    plain = fit_linear_difficulty(table, features, blocks=blocks)
    within = fit_linear_difficulty(table, features, blocks=blocks, within_sources=True)
    assert plain.weights[0] > 0.5
    # the same step in both sources, so that it does not matter to feature 1 that the intercepts are their own
    np.testing.assert_allclose(within.weights, [0.0, plain.weights[1]], atol=1e-6)
    # and the mean difficulty is kept: half of the prompts have feature 1
    assert within.bias + within.weights[1] / 2 == pytest.approx(plain.bias + plain.weights.sum() / 2)


def test_within_sources_it_is_the_judges_who_say_how_kinds_differ():
    table, features = two_sources()
    rated = RatedFeatures(features=np.array([[0, 0], [1, 0]], dtype=np.float32), difficulties=np.array([1.0, -1.0]))
    fit = fit_linear_difficulty(table, features, blocks=[Block(width=2, penalty=0.0)], within_sources=True, rated=rated)
    plain = fit_linear_difficulty(table, features, blocks=[Block(width=2, penalty=0.0)])
    # judged against the scores: "b" is easier, by two deviations of the scored difficulties about their mean
    scored_difficulties = features @ plain.weights
    np.testing.assert_allclose(fit.weights, [-2 * scored_difficulties.std(), plain.weights[1]], rtol=1e-6)
