"""Thresholds from a sample of win rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core import Calibration
from routellm_core.calibration import ABOVE_ALL
from routellm_core.errors import CalibrationError, RouterFormatError

SAMPLE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def share_at(sample, threshold):
    return float(np.mean(np.asarray(sample) >= threshold))


def test_the_threshold_lies_midway_between_the_last_strong_and_the_first_weak():
    # three of ten go strong: .8, .9, 1.0; the cut is midway between .7 and .8
    assert Calibration.from_win_rates(SAMPLE, strong_share=0.3).threshold == pytest.approx(0.75)


def test_a_share_of_one_is_threshold_zero_and_a_share_of_zero_lets_nothing_through():
    assert Calibration.from_win_rates(SAMPLE, strong_share=1.0).threshold == 0.0
    none = Calibration.from_win_rates(SAMPLE, strong_share=0.0)
    assert none.threshold == ABOVE_ALL
    assert none.realised_share == 0.0  # although the sample holds a win rate of 1.0


def test_ties_go_together_and_the_nearer_share_is_taken():
    tied = [0.2] * 4 + [0.6] * 6
    assert Calibration.from_win_rates(tied, strong_share=0.5).realised_share == 0.6
    assert Calibration.from_win_rates(tied, strong_share=0.25).realised_share == 0.0
    # .3 is as far from 0 as from .6: the cheaper one
    assert Calibration.from_win_rates(tied, strong_share=0.3).realised_share == 0.0


def test_neighbouring_floats_are_still_told_apart():
    low, high = 0.5, float(np.nextafter(0.5, 1))
    calibration = Calibration.from_win_rates([low, high], strong_share=0.5)
    assert share_at([low, high], calibration.threshold) == 0.5


def test_asking_again_gives_what_asking_first_would_have_given():
    first = Calibration.from_win_rates(SAMPLE, strong_share=0.9)
    again = first.at(strong_share=0.2)
    assert again.threshold == Calibration.from_win_rates(SAMPLE, strong_share=0.2).threshold
    assert first.strong_share == 0.9  # the record asked is not changed


def test_equal_cuts_give_three_routes_a_third_each():
    win_rates = np.linspace(0, 1, 300)
    low, high = Calibration.from_win_rates(win_rates).cuts(3)
    assert [np.sum(win_rates < low), np.sum((win_rates >= low) & (win_rates < high)), np.sum(win_rates >= high)] == [
        100,
        100,
        100,
    ]


@pytest.mark.parametrize("sample", [[], [0.5, float("nan")], [-0.1], [1.1]])
def test_a_sample_that_is_none_is_refused(sample):
    with pytest.raises(CalibrationError):
        Calibration.from_win_rates(sample)


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), 30])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(CalibrationError, match="fraction from 0 to 1"):
        Calibration.from_win_rates(SAMPLE, strong_share=share)


def test_the_sample_cannot_be_changed_behind_the_record():
    given = np.array(SAMPLE)
    calibration = Calibration.from_win_rates(given)
    given[:] = 0
    assert calibration.win_rates.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        calibration.win_rates[0] = 1


def test_a_record_without_its_fields_is_a_format_error():
    with pytest.raises(RouterFormatError):
        Calibration.restore({}, np.array(SAMPLE))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 1))
def test_the_realised_share_is_the_true_one_and_no_other_cut_comes_nearer(sample, share):
    calibration = Calibration.from_win_rates(sample, strong_share=share)
    assert calibration.realised_share == share_at(sample, calibration.threshold)
    best = min(abs(share_at(sample, cut) - share) for cut in [*sample, 0.0, ABOVE_ALL])
    assert abs(calibration.realised_share - share) == pytest.approx(best, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_has_a_higher_threshold(sample, one, other):
    calibration = Calibration.from_win_rates(sample)
    low, high = sorted((one, other))
    assert calibration.at(strong_share=low).threshold >= calibration.at(strong_share=high).threshold


# -- how sure
def test_the_interval_of_the_share_is_that_of_clopper_and_pearson():
    # 3 of 10: the tabulated 95 % interval is .0667 to .6525
    low, high = Calibration.from_win_rates(SAMPLE, strong_share=0.3).share_interval()
    assert (low, high) == (pytest.approx(0.06674, abs=1e-5), pytest.approx(0.65245, abs=1e-5))


def test_at_the_ends_the_interval_reaches_the_end():
    # 0 of 10: the upper end is 1 - .025^(1/10) = .3085, and the other way round
    assert Calibration.from_win_rates(SAMPLE, strong_share=0.0).share_interval() == (
        0.0,
        pytest.approx(0.30850, abs=1e-5),
    )
    assert Calibration.from_win_rates(SAMPLE, strong_share=1.0).share_interval() == (
        pytest.approx(0.69150, abs=1e-5),
        1.0,
    )


def test_a_prediction_for_one_prompt_by_hand():
    # the next win rate falls into one of the 11 gaps of 10 with equal chance: 3 or 4 of 11 gaps lie above the cut,
    # 7 or 8 below; both outcomes have more than .05, and at level .2 (tails .4) "strong" has at most 4/11 < .4
    calibration = Calibration.from_win_rates(SAMPLE, strong_share=0.3)
    assert calibration.predicted_share(1, level=0.9) == (0.0, 1.0)
    assert calibration.predicted_share(1, level=0.2) == (0.0, 0.0)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_predictions_hold_at_their_rate_and_the_long_run_interval_would_not(level, share):
    rng = np.random.default_rng(1)
    inside, too_narrow, trials = 0, 0, 2000
    base = Calibration.from_win_rates(np.linspace(0, 1, 40), strong_share=share)
    low, high = base.predicted_share(60, level)
    narrow_low, narrow_high = base.share_interval(level)
    for _ in range(trials):
        sample = rng.random(40)
        realised = share_at(rng.random(60), Calibration.from_win_rates(sample, strong_share=share).threshold)
        inside += low <= realised <= high
        too_narrow += narrow_low <= realised <= narrow_high
    assert inside / trials >= level - 3 * (level * (1 - level) / trials) ** 0.5
    if share == 0.5 and level > 0.5:
        assert too_narrow / trials < level


def test_the_prediction_for_very_many_prompts_is_the_interval_for_the_long_run():
    calibration = Calibration.from_win_rates(np.linspace(0, 1, 200), strong_share=0.4)
    assert calibration.predicted_share(1_000_000) == pytest.approx(calibration.share_interval(), abs=1e-4)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_prediction_needs_a_number_of_prompts(n):
    with pytest.raises(CalibrationError, match="number of prompts"):
        Calibration.from_win_rates(SAMPLE).predicted_share(n)


def test_a_share_promises_no_quality():
    calibration = Calibration.from_win_rates(SAMPLE, strong_share=0.3)
    assert "30.0% of the 10 calibration prompts" in calibration.guarantee
    assert "quality is not promised" in calibration.guarantee


@pytest.mark.parametrize(
    "wanted", [{}, {"strong_share": 0.5, "quality_floor": 0.9}, {"strong_share": 0.5, "delta": 0.1}]
)
def test_one_thing_is_asked_for_at_a_time(wanted):
    with pytest.raises(CalibrationError):
        Calibration.from_win_rates(SAMPLE).at(**wanted)


def test_a_calibration_from_before_labels_loads():
    record = {"strong_share": 0.3, "threshold": 0.75, "realised_share": 0.3, "n_prompts": 10, "source": "old"}
    restored = Calibration.restore(record, np.array(SAMPLE))
    assert (restored.threshold, restored.source, restored.labels) == (pytest.approx(0.75), "old", None)
