"""Budgets and quality floors as words of a policy."""

import numpy as np
import pytest

from routellm_core import RandomRouter, RoutingPolicy
from routellm_core.calibration import Budget, calibrate
from routellm_core.errors import CalibrationError, ConfigurationError

BUDGET = Budget(0.0028, per="call", strong_usd=0.01, weak_usd=0.001)  # a share of .2


@pytest.fixture
def router():
    rng = np.random.default_rng(0)
    win_rates = rng.random(500)
    weak = (rng.random(500) > win_rates**3).astype(float)
    calibration = calibrate(win_rates, strong_scores=np.ones(500), weak_scores=weak, quality_floor=0.95)
    made = RandomRouter(seed=0)
    made.calibration = calibration
    return made


def test_a_policy_takes_a_floor_or_a_budget_from_the_calibration(router):
    calibration = router.calibration
    assert RoutingPolicy(router, quality_floor=0.9).thresholds == (calibration.at(quality_floor=0.9).threshold,)
    assert RoutingPolicy(router, budget=BUDGET).thresholds == (calibration.at(strong_share=0.2).threshold,)


def test_without_a_word_the_calibrated_threshold_holds(router):
    assert RoutingPolicy(router).thresholds == (router.calibration.threshold,)


def test_two_words_at_once_are_refused(router):
    with pytest.raises(ConfigurationError, match="strong_share= or quality_floor=, not both"):
        RoutingPolicy(router, strong_share=0.5, quality_floor=0.9)
    with pytest.raises(ConfigurationError, match="threshold= or strong_share= or budget=, not several"):
        RoutingPolicy(router, threshold=0.1, strong_share=0.5, budget=BUDGET)


def test_three_routes_need_thresholds(router):
    with pytest.raises(ConfigurationError, match="quality_floor is for two routes"):
        RoutingPolicy(router, routes=("a", "b", "c"), quality_floor=0.9)


def test_a_floor_needs_a_router_calibrated_on_labels(router):
    router.calibration = calibrate(router.calibration.win_rates)
    with pytest.raises(CalibrationError, match="needs scores of both models"):
        RoutingPolicy(router, quality_floor=0.9)
