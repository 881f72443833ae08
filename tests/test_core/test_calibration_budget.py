"""Money to strong shares, and thresholds chosen by cost and benefit."""

import numpy as np
import pytest

from routellm_core.calibration import Budget, Calibration, calibrate
from routellm_core.errors import CalibrationError, ConfigurationError, UnknownKindError

SAMPLE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
COSTS = {"strong_usd": 0.01, "weak_usd": 0.001}


def test_a_budget_becomes_the_share_it_pays_for():
    # $100 for 20,000 calls is $.005 a call: (.005 - .001) / (.01 - .001) = .444
    assert Budget(100, per="month", calls=20_000, **COSTS).strong_share() == pytest.approx(4 / 9)


def test_of_the_sample_no_more_than_that_share_goes_strong():
    # .444 of 10 prompts: 4, although 5 would be as near
    calibration = calibrate(SAMPLE, budget=Budget(100, calls=20_000, **COSTS))
    assert (calibration.realised_share, calibration.threshold) == (0.4, pytest.approx(0.65))
    tied = calibrate([0.2] * 4 + [0.6] * 6, budget=Budget(0.0063, per="call", **COSTS))  # a share of .589 < .6
    assert tied.realised_share == 0.0


def test_a_budget_for_all_strong_is_a_share_of_one_and_for_just_all_weak_of_zero():
    assert Budget(0.01, per="call", **COSTS).strong_share() == 1.0
    assert Budget(5, per="call", **COSTS).strong_share() == 1.0
    assert calibrate(SAMPLE, budget=Budget(0.001, per="call", **COSTS)).realised_share == 0.0


def test_a_budget_below_all_weak_is_refused_with_the_numbers():
    with pytest.raises(CalibrationError, match=r"\$10 per month .* all weak costs \$20, all strong \$200 per month"):
        calibrate(SAMPLE, budget=Budget(10, calls=20_000, **COSTS))


def test_a_strong_model_that_costs_less_is_always_paid_for():
    assert Budget(0.01, per="call", strong_usd=0.005, weak_usd=0.02).strong_share() == 1.0


@pytest.mark.parametrize("budget", [Budget(100, **COSTS), Budget(100, calls=10), Budget(100, calls=10, weak_usd=1)])
def test_a_budget_that_leaves_something_out_says_what(budget):
    with pytest.raises(CalibrationError, match="calls=|strong_usd="):
        budget.strong_share()


@pytest.mark.parametrize(
    ("usd", "more"),
    [
        (-1, {}),
        (float("nan"), {}),
        (float("inf"), {}),
        (True, {}),
        (1, {"per": "year"}),
        (1, {"calls": 0}),
        (1, {"strong_usd": -0.1}),
    ],
)
def test_a_budget_of_no_money_is_refused(usd, more):
    with pytest.raises(ConfigurationError):
        Budget(usd, **more)


def test_a_budget_is_read_as_people_write_it():
    assert Budget.parse("100/month", calls=5) == Budget(100, per="month", calls=5)
    assert Budget.parse("$0.002/call") == Budget(0.002, per="call")
    for wrong in ("100", "/month", "x/month", "100/year", "-1/day", "nan/day"):
        with pytest.raises(ConfigurationError):
            Budget.parse(wrong)


def test_prices_come_from_the_list():
    pytest.importorskip("genai_prices")
    # gpt-4.1: $2 and $8 a million tokens; the nano: $.10 and $.40
    budget = Budget.for_models(
        1, per="day", calls=9, strong="openai:gpt-4.1", weak="openai:gpt-4.1-nano", input_tokens=400, output_tokens=300
    )
    assert (budget.strong_usd, budget.weak_usd) == (pytest.approx(0.0032), pytest.approx(0.00016))
    with pytest.raises(UnknownKindError):
        Budget.for_models(1, strong="none:none", weak="openai:gpt-4.1", input_tokens=1, output_tokens=1)


def test_a_calibration_by_budget_is_saved_and_restored():
    calibration = calibrate(SAMPLE, budget=Budget(100, calls=20_000, **COSTS))
    restored = Calibration.restore(calibration.to_dict(), calibration.tensors())
    assert restored.to_dict() == calibration.to_dict()
    assert restored.budget == calibration.budget
    assert "$100 per month" in restored.guarantee


def test_something_that_is_no_budget_is_refused():
    with pytest.raises(CalibrationError, match="such as Budget"):
        calibrate(SAMPLE, budget=100)


# -- cost and benefit
def judged():
    # the strong model gains 1, .8, ... on the highest win rates, down to 0: quality rises ever more slowly
    gain = np.array([0.0, 0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.8, 1.0])
    return Calibration.from_win_rates(SAMPLE, strong_scores=gain, weak_scores=np.zeros(10))


def test_the_optimum_takes_every_prompt_that_gains_more_than_it_costs():
    # a strong call costs .01 more; at 50 units of quality a dollar that is .5: only gains .6, .8 and 1 are worth it
    best = judged().optimum(quality_per_usd=50, strong_usd=0.011, weak_usd=0.001)
    assert (best.strong_share, best.threshold) == (pytest.approx(0.3), pytest.approx(0.75))
    assert best.quality == pytest.approx((0.6 + 0.8 + 1.0) / 10)
    low, high = best.strong_share_interval
    assert 0 <= low <= 0.3 <= high <= 1


def test_free_calls_go_strong_wherever_that_gains_and_dear_ones_never():
    assert judged().optimum(quality_per_usd=0, strong_usd=1, weak_usd=0).strong_share == pytest.approx(0.7)
    assert judged().optimum(quality_per_usd=9, strong_usd=1, weak_usd=0).strong_share == 0.0


def test_the_knee_takes_every_prompt_that_gains_more_than_the_average():
    # the mean gain is .36: the five of .4 and more
    knee = judged().knee()
    assert (knee.strong_share, knee.quality_per_strong_share) == (pytest.approx(0.5), pytest.approx(0.36))


def test_more_labels_make_the_interval_narrower():
    widths = []
    for n in (100, 2000):
        rng = np.random.default_rng(0)
        win_rates = rng.random(n)
        scores = {"strong_scores": np.ones(n), "weak_scores": (rng.random(n) > win_rates).astype(float)}
        low, high = Calibration.from_win_rates(win_rates, **scores).knee().threshold_interval
        assert low <= 0.5 <= high  # P(the strong model gains) is the win rate, its mean one half
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_an_optimum_needs_labels_and_sense():
    with pytest.raises(CalibrationError, match="needs scores"):
        Calibration.from_win_rates(SAMPLE).knee()
    with pytest.raises(CalibrationError, match="no knee"):
        Calibration.from_win_rates(SAMPLE, strong_scores=[0] * 10, weak_scores=[1] * 10).knee()
    for wrong in ({"quality_per_usd": -1}, {"strong_usd": float("nan")}, {"level": 1}, {"n_resamples": 0}):
        with pytest.raises(CalibrationError):
            judged().optimum(**{"quality_per_usd": 1, "strong_usd": 1, "weak_usd": 0, **wrong})


def test_an_amount_beyond_all_floats_is_refused():
    with pytest.raises(ConfigurationError, match="finite"):
        Budget(10**400)
