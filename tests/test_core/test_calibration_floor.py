"""Quality floors: what is certified, what is refused, and that certificates are true."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routellm_core import RandomRouter, load_router
from routellm_core.calibration import Calibration, calibrate
from routellm_core.calibration.betting import means_above_zero
from routellm_core.errors import CalibrationError, DataError, RouterFormatError


def labelled(n, seed=0, gap=2.0):
    """Prompts of growing difficulty: both models fail on hard ones, the weak one sooner."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    strong = (rng.random(n) < 1 / (1 + np.exp(difficulty - 2))).astype(float)
    weak = (rng.random(n) < 1 / (1 + np.exp(difficulty - 2 + gap))).astype(float)
    return 1 / (1 + np.exp(-difficulty - rng.normal(size=n))), strong, weak


def floored(n=600, **wanted):
    win_rates, strong, weak = labelled(n)
    return calibrate(win_rates, strong_scores=strong, weak_scores=weak, **{"quality_floor": 0.9, **wanted})


# -- the test itself
def test_six_sure_wins_multiply_the_capital_past_twenty_and_five_do_not():
    # the stake is at most .75 of what can be lost: 1.75^5 = 16.4 < 1 / .05 = 20 <= 1.75^6 = 28.7
    for n, enough in ((5, False), (6, True)):
        assert means_above_zero(np.ones((n, 1)).__getitem__, n, low=-1, high=1, delta=0.05).tolist() == [enough]


@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_a_mean_of_zero_is_called_positive_at_most_at_the_rate_delta(gain, delta):
    # -1 with probability gain / (1 + gain), else gain: the mean is 0 and the distribution as lopsided as it gets
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((300, 4000)) < gain / (1 + gain), -1.0, gain)
    rate = means_above_zero(rows.__getitem__, 300, low=-1, high=gain, delta=delta).mean()
    assert rate <= delta + 3 * (delta * (1 - delta) / 4000) ** 0.5


def test_the_test_sees_nearly_what_the_normal_test_sees():
    # mean .1, standard deviation 1, 1,000 rows: the normal test's power is P(Z > 1.645 - 3.16) = .94
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((1000, 400)) < 0.55, 1.0, -1.0)
    assert means_above_zero(rows.__getitem__, 1000, low=-1, high=1, delta=0.05).mean() > 0.85


# -- floors
def test_prompts_the_weak_model_answers_as_well_go_weak_and_the_others_do_not():
    # both right on the 40 lowest win rates, only the strong model on the 40 highest; floor 1 - 1/8 would allow
    # 10 losses of 80, and certainty allows fewer
    win_rates = np.linspace(0, 1, 80)
    weak = np.repeat([1.0, 0.0], 40)
    calibration = calibrate(win_rates, strong_scores=np.ones(80), weak_scores=weak, quality_floor=7 / 8)
    assert 40 <= round((1 - calibration.realised_share) * 80) < 50


def test_of_equal_win_rates_all_or_none_go_weak():
    win_rates = np.repeat([0.2, 0.8], 100)
    weak = np.append(np.ones(100), np.zeros(100))
    calibration = calibrate(win_rates, strong_scores=np.ones(200), weak_scores=weak, quality_floor=0.9)
    assert (calibration.threshold, calibration.realised_share) == (pytest.approx(0.5), 0.5)


def test_a_group_of_equal_win_rates_is_tested_as_a_whole():
    # the upper 8 of 24 lose: the mean gain .167 is 1.7 standard errors above the floor, too little for delta .01
    win_rates, weak = np.repeat([0.1, 0.9], [16, 8]), np.repeat([1.0, 0.0], [16, 8])
    sample = Calibration.from_win_rates(win_rates, strong_scores=np.ones(24), weak_scores=weak)
    assert sample.labels.n_weak(0.5, 0.01) == 16


def test_the_walk_ends_at_the_first_threshold_that_fails_although_later_ones_would_pass():
    # the weak model is as good on the lowest 60, worse on the next 4, better on the last 100: after the 4, the mean
    # gain is 2.4 / 164, only 1.2 standard errors above the floor; in the end it is far above
    strong, weak = np.repeat([1.0, 1.0, 0.0], [60, 4, 100]), np.repeat([1.0, 0.0, 1.0], [60, 4, 100])
    sample = Calibration.from_win_rates(np.linspace(0, 1, 164), strong_scores=strong, weak_scores=weak)
    assert weak.mean() > strong.mean()
    assert 60 <= sample.labels.n_weak(0.9, 0.01) < 64


def test_where_even_the_worst_answer_reaches_the_floor_everything_goes_weak():
    # scores lie in 9..10, so any answer has at least .9 of any other
    calibration = calibrate(
        [0.1, 0.9], strong_scores=[10, 10], weak_scores=[9, 10], quality_floor=0.9, score_range=(9, 10)
    )
    assert calibration.realised_share == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 0.99), st.integers(60, 300))
def test_the_sample_itself_reaches_what_is_certified(seed, floor, n):
    win_rates, strong, weak = labelled(n, seed)
    sample = Calibration.from_win_rates(win_rates, strong_scores=strong, weak_scores=weak)
    n_weak = sample.labels.n_weak(floor, 0.1)
    routed = np.append(sample.labels.weak_scores[:n_weak], sample.labels.strong_scores[n_weak:])
    assert routed.mean() >= floor * strong.mean() - 1e-12


@pytest.mark.parametrize(("scale", "score_range"), [(1, (0.0, 1.0)), (9, (0.0, 9.0))])
def test_floors_are_missed_at_most_at_the_rate_delta(scale, score_range):
    win_rates, strong, weak = labelled(20_000, 99)
    floor, delta, samples = 0.9, 0.2, 150
    missed = saved = 0
    for seed in range(samples):
        drawn = np.random.default_rng(seed).integers(win_rates.size, size=200)
        sample = Calibration.from_win_rates(
            win_rates[drawn],
            strong_scores=scale * strong[drawn],
            weak_scores=scale * weak[drawn],
            score_range=score_range,
        )
        n_weak = sample.labels.n_weak(floor, delta)
        threshold = sample._cut(n_weak).threshold
        missed += np.where(win_rates >= threshold, strong, weak).mean() < floor * strong.mean()
        saved += n_weak > 0
    assert missed / samples <= delta + 2 * (delta * (1 - delta) / samples) ** 0.5
    assert saved == samples  # it is not true for want of trying


def test_a_stricter_promise_costs_strong_calls():
    shares = [floored(quality_floor=floor).realised_share for floor in (0.8, 0.9, 0.95)]
    assert shares == sorted(shares)
    assert len(set(shares)) == 3
    assert floored(delta=0.3).realised_share <= floored(delta=0.01).realised_share


def test_the_row_order_of_a_sorted_file_does_not_matter_much():
    win_rates, strong, weak = labelled(1500)
    order = np.argsort(weak, kind="stable")
    one = calibrate(win_rates, strong_scores=strong, weak_scores=weak, quality_floor=0.9)
    other = calibrate(win_rates[order], strong_scores=strong[order], weak_scores=weak[order], quality_floor=0.9)
    assert one.realised_share == pytest.approx(other.realised_share, abs=0.05)


def test_asking_again_is_as_asking_first_and_needs_no_prompts():
    assert floored(strong_share=0.5, quality_floor=None).at(quality_floor=0.9).threshold == floored().threshold


def test_the_guarantee_is_said_in_words():
    words = floored(delta=0.1).guarantee
    assert "probability at least 0.9 " in words
    assert "600 labelled prompts" in words
    assert "at least 0.9 of the strong model's" in words


def test_the_table_has_a_row_for_every_threshold_that_makes_a_difference():
    pytest.importorskip("pandas")
    table = Calibration.from_win_rates([0.2, 0.2, 0.8], strong_scores=[1, 1, 1], weak_scores=[1, 0, 0]).to_frame()
    assert table["strong_share"].tolist() == pytest.approx([1, 1 / 3, 0])
    assert table["quality"].tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert table["threshold"].tolist()[:2] == [0.0, 0.5]


def test_the_plot_shows_the_floor():
    pytest.importorskip("matplotlib")
    calibration = floored()
    words = {text.get_text() for text in calibration.plot().axes[0].get_legend().get_texts()}
    assert words == {f"threshold {calibration.threshold:.4f}", "floor: 0.9 of the strong model"}
    assert calibrate(calibration.win_rates).plot().axes[0].get_xlabel() == "threshold"


# -- refusals
def test_a_floor_too_high_is_refused_with_the_best_one_and_the_labels_needed():
    win_rates, strong, weak = labelled(100)
    with pytest.raises(CalibrationError, match=r"100 labelled prompts cannot certify quality_floor=0\.99") as error:
        calibrate(win_rates, strong_scores=strong, weak_scores=weak, quality_floor=0.99)
    words = str(error.value)
    best = float(words.partition("the best floor they certify is ")[2].partition(". ")[0])
    needed = int(words.partition("label about ")[2].partition(" prompts")[0].replace(",", ""))
    assert 0.5 < best < 0.99
    calibrate(win_rates, strong_scores=strong, weak_scores=weak, quality_floor=best)  # is indeed certified
    win_rates, strong, weak = labelled(2 * needed, seed=5)
    calibrate(win_rates, strong_scores=strong, weak_scores=weak, quality_floor=0.99)  # and these are enough
    with pytest.raises(CalibrationError):
        calibrate(
            win_rates[: needed // 4],
            strong_scores=strong[: needed // 4],
            weak_scores=weak[: needed // 4],
            quality_floor=0.99,
        )


def test_two_labels_certify_nothing():
    with pytest.raises(CalibrationError, match="they certify no floor at all"):
        calibrate([0.1, 0.9], strong_scores=[1, 1], weak_scores=[1, 0], quality_floor=0.9)


def test_a_floor_without_labels_is_refused():
    with pytest.raises(CalibrationError, match="needs scores of both models"):
        calibrate([0.1, 0.9], quality_floor=0.9)


@pytest.mark.parametrize(("strong", "weak"), [([1, 0], [1, 0]), ([0, 0], [1, 1]), ([0, 0], [0, 0])])
def test_a_strong_model_that_is_no_better_is_refused(strong, weak):
    with pytest.raises(CalibrationError, match="not above the weak one's"):
        calibrate([0.1, 0.9], strong_scores=strong, weak_scores=weak, quality_floor=0.9)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"strong_scores": [1.0]}, "both or none"),
        ({"strong_scores": [1.0], "weak_scores": [1.0, 0.0]}, "lengths differ: 2 win rates, 1 strong_scores"),
        ({"strong_scores": [1, 7], "weak_scores": [0, 0]}, r"strong_scores of row 1 is 7, outside 0\.\.1"),
        ({"strong_scores": [1, 1], "weak_scores": [0, float("nan")]}, "weak_scores of row 1 is nan"),
        ({"strong_scores": ["x", 1], "weak_scores": [0, 0]}, "not all numbers"),
        ({"strong_scores": [1, 1], "weak_scores": [0, 0], "score_range": (-1, 1)}, "0 <= lowest"),
        ({"strong_scores": [1, 1], "weak_scores": [0, 0], "score_range": (1, 1)}, "0 <= lowest"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(scores, said):
    with pytest.raises(DataError, match=said):
        calibrate([0.1, 0.9], quality_floor=0.9, **scores)


@pytest.mark.parametrize("wrong", [{"quality_floor": 0}, {"quality_floor": 95}, {"delta": 0}, {"delta": 1}])
def test_fractions_out_of_range_are_refused(wrong):
    with pytest.raises(CalibrationError):
        floored(**wrong)


# -- saving
def test_a_saved_router_keeps_the_labels_and_the_guarantee(tmp_path):
    rng = np.random.default_rng(0)
    win_rates, strong, weak = labelled(600)
    router = RandomRouter(seed=1)
    router.calibration = calibrate(
        win_rates, strong_scores=strong, weak_scores=weak, quality_floor=0.9, vectors=rng.normal(size=(600, 8))
    )
    router.save(tmp_path / "router")
    record = json.loads((tmp_path / "router" / "config.json").read_text())["calibration"]
    assert record["guarantee"] == router.calibration.guarantee
    loaded = load_router(tmp_path / "router").calibration
    assert loaded.to_dict() == router.calibration.to_dict()
    assert loaded.at(quality_floor=0.95).threshold == router.calibration.at(quality_floor=0.95).threshold
    vectors = rng.normal(size=(5, 8))
    np.testing.assert_array_equal(loaded.embeddings.distance(vectors), router.calibration.embeddings.distance(vectors))


@pytest.mark.parametrize(
    "broken",
    [
        {"order": np.zeros(600, dtype=np.int64)},
        {"weak_scores": np.full(600, 7.0)},
        {"strong_scores": np.ones(3)},
        {"embeddings.mean": np.ones(3)},
    ],
)
def test_a_damaged_sample_is_a_format_error(broken):
    calibration = floored()
    with pytest.raises(RouterFormatError):
        Calibration.restore(calibration.to_dict(), {**calibration.tensors(), **broken})


@pytest.mark.parametrize("broken", [{"threshold": "x"}, {"threshold": 7}, {"quality_floor": 2}, {"score_range": 3}])
def test_a_damaged_record_is_a_format_error(broken):
    calibration = floored()
    with pytest.raises(RouterFormatError):
        Calibration.restore({**calibration.to_dict(), **broken}, calibration.tensors())


@pytest.mark.parametrize(("floor", "delta"), [(0.1, 1e-9), (0.99996, 0.3)])
def test_a_guarantee_never_promises_certainty_by_rounding(floor, delta):
    found = calibrate(np.linspace(0, 1, 400), strong_scores=np.ones(400), weak_scores=[1.0] * 390 + [0.0] * 10)
    record = {**found.to_dict(), "quality_floor": floor, "delta": delta}
    said = Calibration.restore(record, found.tensors()).guarantee
    short = Calibration.restore({**record, "delta": 0.07}, found.tensors()).guarantee
    assert "at least 0.93 over" in short  # 1 - .07 is .9299999999999999
    assert ("at least 0.999999999 over" if delta < 0.1 else "at least 0.99996 of") in said
    assert "at least 1 " not in said


@pytest.mark.parametrize("words", [{"strong_share": 10**400}, {"quality_floor": 10**400}])
def test_an_integer_beyond_all_floats_is_out_of_range(words):
    with pytest.raises(CalibrationError, match="fraction"):
        Calibration.from_win_rates([0.1, 0.2]).at(**words)


def test_values_beyond_all_floats_are_refused():
    with pytest.raises(CalibrationError):
        Calibration.from_win_rates([10**400])
    with pytest.raises(DataError):
        calibrate([0.1], strong_scores=[10**400], weak_scores=[0])
    with pytest.raises(DataError):
        calibrate([0.1], strong_scores=[1], weak_scores=[0], score_range=(0, 10**400))
