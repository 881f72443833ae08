"""Fitting a router by difficulty: what is known is recovered, what is held out stays held out."""

import numpy as np
import pytest

from routellm_core.encoders import StackedEncoder, SurfaceEncoder
from routellm_core.encoders.hashing import HashingEncoder
from routellm_core.errors import DataError
from routellm_core.routers.loading import load_router
from routellm_core.training import difficulty as training
from routellm_core.training.difficulty import (
    Block,
    HeldOutCalibration,
    fit_difficulty,
    fit_linear_difficulty,
    fit_platt,
)
from routellm_core.training.rasch import fit_rasch
from routellm_core.training.score_table import PairLabels, ScoreTable, model_key

ABILITIES = {"tiny": -2.0, "small": -1.0, "mid": 0.0, "large": 1.0, "huge": 2.0}
N_SOURCES, PER_SOURCE = 8, 150
BLOCKS = (Block(width=64, penalty=1.0), Block(width=2, penalty=0.001, per_column=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def encoder():
    return StackedEncoder([HashingEncoder(64, ngrams=(3,)), SurfaceEncoder(["log_numbers", "log_questions"])])


def world(seed=0, slope=1.5):
    """Prompts whose difficulty is the number of their numbers; each source has some models only."""
    rng = np.random.default_rng(seed)
    rows, prompts, sources, wins = [], [], [], []
    for source in range(N_SOURCES):
        models = rng.permutation(list(ABILITIES))[:4]
        for i in range(PER_SOURCE):
            numbers = int(rng.integers(0, 20))
            difficulty = slope * (np.log1p(numbers) - 1.8)
            listed = " ".join(str(number) for number in rng.integers(10, 99, numbers))
            prompt = f"case {chr(97 + source)} {listed} item{'x' * i}"
            for model in models:
                solved = rng.random() < sigmoid(ABILITIES[model] - difficulty)
                rows.append((prompt, str(model), float(solved), f"s/{source}"))
            prompts.append(prompt)
            sources.append(f"s/{source}")
            wins.append(rng.random() < sigmoid(0.8 * difficulty - 1.0))
    return ScoreTable.from_rows(rows), PairLabels(prompts=prompts, sources=sources, strong_wins=np.array(wins))


@pytest.fixture(scope="module")
def fitted():
    table, labels = world()
    fit = fit_difficulty(
        table,
        encoder=encoder(),
        blocks=BLOCKS,
        labels=labels,
        not_fitted={"s/7"},
        n_folds=4,
        sample_per_source=50,
        rng=np.random.default_rng(1),
    )
    return table, labels, fit


def test_known_abilities_and_difficulties_are_recovered_from_incomplete_scores():
    rng = np.random.default_rng(0)
    ability, difficulty = rng.normal(0, 1.5, 80), rng.normal(0, 1.0, 400)
    prompt, model = np.nonzero(rng.random((400, 80)) < 0.5)  # half of the pairs were never scored
    scores = (rng.random(prompt.size) < sigmoid(ability[model] - difficulty[prompt])).astype(float)
    d, a = fit_rasch(prompt, model, scores)
    assert np.corrcoef(d, difficulty)[0, 1] > 0.9
    assert np.corrcoef(a, ability)[0, 1] > 0.98
    assert np.polyfit(ability, a, 1)[0] == pytest.approx(1.0, abs=0.15)  # in logits, not only in order


def test_a_prompt_that_every_model_solves_has_a_finite_difficulty():
    d, a = fit_rasch(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([1.0, 1.0, 0.0, 0.0]))
    # abilities stay 0; the prior pulls by |d| / 4, two answers push by 2 / (1 + exp(|d|)): equal at |d| = 1.4815
    np.testing.assert_allclose(d, [-1.4815, 1.4815], atol=1e-3)
    np.testing.assert_allclose(a[0], a[1], atol=1e-4)


def test_a_model_seen_elsewhere_tells_a_hard_source_from_weak_models():
    # in both sources half of the scores are 1; source 1 was scored by the stronger model, so it is harder
    rows = [(f"easy {i}", "weak", float(i % 2), "s/0") for i in range(40)]
    rows += [(f"hard {i}", "strong", float(i % 2), "s/1") for i in range(40)]
    rows += [(f"both {i}", model, score, "s/2") for i in range(40) for model, score in (("strong", 1.0), ("weak", 0.0))]
    table = ScoreTable.from_rows(rows)
    d, _ = fit_rasch(table.prompt_index, table.model_index, table.scores)
    sources = np.array(table.sources)
    assert d[sources == "s/1"].mean() > d[sources == "s/0"].mean() + 1.0


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        (
            ["meta-llama/Meta-Llama-3.1-8B-Instruct", "Meta-Llama-3_1-8B-Instruct", "llama-3.1-8b-instruct@host"],
            "llama-3.1-8b-instruct",
        ),
        (["mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-instruct-v0.1"], "mixtral-8x7b-instruct-v0.1"),
        (["Llama-2-7b-hf"], "llama-2-7b"),
    ],
)
def test_spellings_of_one_model_meet_in_one_key(spellings, key):
    assert {model_key(each) for each in spellings} == {key}


def test_rows_of_one_prompt_are_joined_within_a_source_and_kept_apart_between_sources():
    table = ScoreTable.from_rows([("q", "a", 1.0, "s/0"), ("q", "b", 0.0, "s/0"), ("q", "a", 1.0, "s/1")])
    assert table.prompts == ("q", "q")
    assert table.sources == ("s/0", "s/1")
    assert table.models == ("a", "b")
    np.testing.assert_array_equal(table.prompt_index, [0, 0, 1])


@pytest.mark.parametrize("rows", [[], [("q", "a", 1.5, "s")], [("q", "a", float("nan"), "s")]])
def test_rows_that_cannot_be_used_are_refused(rows):
    with pytest.raises(DataError):
        ScoreTable.from_rows(rows)


def test_the_ridge_finds_the_weights_of_a_linear_difficulty_and_the_penalty_shrinks_them():
    rng = np.random.default_rng(3)
    features = np.column_stack([rng.normal(5, 2, 600), rng.normal(0, 0.01, 600)]).astype(np.float32)
    difficulty = 0.5 * (features[:, 0] - 5) + 80 * features[:, 1]
    rows = [
        (str(i), f"m{m}", float(rng.random() < sigmoid(m / 5 - 4 - difficulty[i])), "s")
        for i in range(600)
        for m in range(40)
    ]
    table = ScoreTable.from_rows(rows)
    light = fit_linear_difficulty(table, features, blocks=[Block(width=2, penalty=1e-4, per_column=True)])
    # the prior on difficulties shrinks by a few percent
    np.testing.assert_allclose(light.weights, [0.5, 80], rtol=0.15)
    heavy = fit_linear_difficulty(table, features, blocks=[Block(width=1, penalty=100.0), Block(width=1, penalty=1e-4)])
    assert abs(heavy.weights[0]) < 0.02
    assert heavy.weights[1] == pytest.approx(80, rel=0.2)


def test_a_source_left_out_changes_nothing_however_its_scores_change():
    table, _ = world()
    features = encoder().encode(table.prompts)
    fit = fit_linear_difficulty(table, features, blocks=BLOCKS, without={"s/3"})
    held_out = np.array(table.sources)[table.prompt_index] == "s/3"
    flipped = with_scores(table, np.where(held_out, 1 - table.scores, table.scores))
    again = fit_linear_difficulty(flipped, features, blocks=BLOCKS, without={"s/3"})
    np.testing.assert_array_equal(fit.weights, again.weights)
    assert fit.n_prompts == (N_SOURCES - 1) * PER_SOURCE


def with_scores(table, scores):
    return ScoreTable(
        prompts=table.prompts,
        sources=table.sources,
        models=table.models,
        prompt_index=table.prompt_index,
        model_index=table.model_index,
        scores=scores,
    )


def test_an_out_of_fold_difficulty_does_not_know_the_scores_of_its_own_fold(fitted):
    table, labels, fit = fitted
    fold = {source for source in fit.fold_of if fit.fold_of[source] == 0}
    own = np.isin(np.array(table.sources)[table.prompt_index], list(fold))
    other = fit_difficulty(
        with_scores(table, np.where(own, 1 - table.scores, table.scores)),
        encoder=encoder(),
        blocks=BLOCKS,
        labels=labels,
        not_fitted={"s/7"},
        n_folds=4,
        sample_per_source=50,
        rng=np.random.default_rng(1),
    )
    held_out = np.isin(table.sources, list(fold))
    np.testing.assert_array_equal(fit.out_of_fold[held_out], other.out_of_fold[held_out])
    assert not np.allclose(fit.out_of_fold[~held_out], other.out_of_fold[~held_out])


def test_a_held_out_win_rate_does_not_know_the_labels_of_its_own_fold(fitted):
    table, labels, fit = fitted
    fold = {source for source in fit.fold_of if fit.fold_of[source] == 0}
    own = np.isin(labels.sources, list(fold))
    all_lost = PairLabels(prompts=labels.prompts, sources=labels.sources, strong_wins=labels.strong_wins & ~own)
    other = fit_difficulty(
        table,
        encoder=encoder(),
        blocks=BLOCKS,
        labels=all_lost,
        not_fitted={"s/7"},
        n_folds=4,
        rng=np.random.default_rng(1),
    )
    held_out = np.isin(fit.held_out.sources, list(fold))
    np.testing.assert_array_equal(fit.held_out.win_rates[held_out], other.held_out.win_rates[held_out])
    np.testing.assert_array_equal(fit.held_out.base_rates[held_out], other.held_out.base_rates[held_out])
    assert not np.allclose(fit.held_out.win_rates[~held_out], other.held_out.win_rates[~held_out])


def test_features_that_do_not_fit_the_table_or_the_blocks_are_refused():
    table, _ = world()
    with pytest.raises(DataError, match="shape"):
        fit_linear_difficulty(table, np.zeros((3, 66), dtype=np.float32), blocks=BLOCKS)
    with pytest.raises(DataError, match="shape"):
        fit_linear_difficulty(table, np.zeros((len(table.prompts), 5), dtype=np.float32), blocks=BLOCKS)
    with pytest.raises(DataError, match="no rows are left"):
        fit_linear_difficulty(
            table, np.zeros((len(table.prompts), 66), dtype=np.float32), blocks=BLOCKS, without=set(table.sources)
        )


def test_the_logistic_curve_is_recovered():
    rng = np.random.default_rng(4)
    x = rng.normal(0, 2, 20_000)
    slope, intercept = fit_platt(x, rng.random(x.size) < sigmoid(0.7 * x - 0.4))
    assert slope == pytest.approx(0.7, abs=0.05)
    assert intercept == pytest.approx(-0.4, abs=0.05)


def test_labels_that_difficulty_cannot_explain_are_refused():
    x = np.linspace(-2, 2, 100)
    with pytest.raises(DataError, match="does not win more often on harder"):
        fit_platt(x, x < 0.3 * np.sin(9 * x))
    with pytest.raises(DataError, match="both outcomes"):
        fit_platt(x, np.zeros(100, dtype=bool))


def test_a_fitted_router_orders_prompts_by_their_true_difficulty(fitted):
    win_rates = fitted[2].router.win_rate(["case z item", "case z 11 12 13", "case z " + "42 " * 18])
    assert win_rates[0] < win_rates[1] < win_rates[2]


def test_out_of_fold_difficulties_follow_the_truth(fitted):
    table, _, fit = fitted
    numbers = encoder().encode(table.prompts)[:, 64]
    assert np.corrcoef(fit.out_of_fold, numbers)[0, 1] > 0.9


def test_folds_hold_whole_sources_and_no_fold_is_empty(fitted):
    table, _, fit = fitted
    assert set(fit.fold_of) == set(table.sources) - {"s/7"}
    assert set(fit.fold_of.values()) == {0, 1, 2, 3}


def test_win_rates_on_sources_held_out_twice_are_probabilities_that_beat_the_base_rate(fitted):
    held_out = fitted[2].held_out
    assert held_out.win_rates.size == (N_SOURCES - 1) * PER_SOURCE  # s/7 is in no fold, so it cannot be held out
    assert held_out.brier < held_out.base_brier - 0.01
    for each in held_out.reliability(4):
        assert each.mean_win_rate == pytest.approx(each.share_won, abs=0.12)


def test_the_brier_score_and_the_bins_are_what_a_hand_computes():
    held_out = HeldOutCalibration(
        win_rates=np.array([0.8, 0.2, 0.6, 0.4]),
        base_rates=np.full(4, 0.5),
        strong_wins=np.array([True, False, False, False]),
        sources=np.array(["s"] * 4),
    )
    assert held_out.brier == pytest.approx((0.04 + 0.04 + 0.36 + 0.16) / 4)
    assert held_out.base_brier == pytest.approx(0.25)
    low, high = held_out.reliability(2)
    assert (low.n, low.mean_win_rate, low.share_won) == (2, pytest.approx(0.3), 0.0)
    assert (high.n, high.mean_win_rate, high.share_won) == (2, pytest.approx(0.7), 0.5)


def test_the_thresholds_come_from_every_source_alike(fitted):
    calibration = fitted[2].router.calibration
    assert calibration.win_rates.size == N_SOURCES * 50
    assert calibration.realised_share == pytest.approx(0.5, abs=0.01)


def test_the_scores_of_sources_that_are_not_fitted_do_not_matter():
    table, labels = world()
    spoiled = np.array(table.sources)[table.prompt_index] == "s/7"
    other = with_scores(table, np.where(spoiled, 0.5, table.scores))
    fits = [
        fit_difficulty(
            each,
            encoder=encoder(),
            blocks=BLOCKS,
            labels=labels,
            not_fitted={"s/7"},
            n_folds=3,
            rng=np.random.default_rng(1),
        )
        for each in (table, other)
    ]
    np.testing.assert_array_equal(fits[0].router.weights, fits[1].router.weights)
    assert fits[0].router.settings() == fits[1].router.settings()


def test_the_same_input_gives_the_same_router_and_a_saved_one_the_same_win_rates(fitted, tmp_path):
    table, labels, fit = fitted
    again = fit_difficulty(
        table,
        encoder=encoder(),
        blocks=BLOCKS,
        labels=labels,
        not_fitted={"s/7"},
        n_folds=4,
        sample_per_source=50,
        rng=np.random.default_rng(1),
    )
    fit.router.save(tmp_path / "one")
    again.router.save(tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    np.testing.assert_array_equal(
        load_router(tmp_path / "one").win_rate(labels.prompts[:20]), fit.router.win_rate(labels.prompts[:20])
    )


def test_too_few_sources_are_refused():
    table, labels = world()
    for n_folds in (2, N_SOURCES + 1):
        with pytest.raises(DataError, match="folds"):
            fit_difficulty(
                table, encoder=encoder(), blocks=BLOCKS, labels=labels, n_folds=n_folds, rng=np.random.default_rng(0)
            )


def test_prompts_are_encoded_in_pieces_without_a_seam(monkeypatch):
    texts = [f"{i} and {i + 1}?" for i in range(50)]
    whole = training._encode(encoder(), texts)
    monkeypatch.setattr(training, "_ENCODED_AT_ONCE", 7)
    np.testing.assert_array_equal(training._encode(encoder(), texts), whole)
