"""APGR and CPT against curves computed by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core.errors import DataError
from routellm_core.evaluation import apgr, apgr_interval, cpt, paper_apgr, paper_cpt


def test_the_area_of_a_curve_drawn_by_hand():
    # Four prompts in the router's order gain 1, 0, 1, 0 of a total of 2: PGR at shares
    # 0, 1/4, 2/4, 3/4, 1 is 0, .5, .5, 1, 1; trapezoids of width 1/4: .0625 + .125 + .1875 + .25 = .625
    assert apgr([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0], [0, 1, 0, 0]) == pytest.approx(0.625, abs=1e-12)


def test_cpt_interpolates_on_that_curve():
    curve = ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0], [0, 1, 0, 0])
    assert cpt(*curve, pgr=0.25) == pytest.approx(0.125)  # halfway up the first segment
    assert cpt(*curve, pgr=0.5) == pytest.approx(0.25)
    assert cpt(*curve, pgr=0.8) == pytest.approx(0.65)  # .5 + .25 * (.8 - .5) / .5
    assert cpt(*curve, pgr=1.5) is None
    assert cpt(*curve, pgr=0.0) == 0.0


def test_equal_win_rates_are_averaged_over_their_orders():
    strong, weak = np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0])
    tied = apgr([0.5, 0.5, 0.5, 0.1], strong, weak)
    orders = [apgr([*(0.5 + 0.01 * np.array(order)), 0.1], strong, weak) for order in itertools.permutations(range(3))]
    assert tied == pytest.approx(np.mean(orders), abs=1e-12)


def test_a_constant_router_is_a_random_one():
    rng = np.random.default_rng(0)
    assert apgr(np.full(50, 0.3), rng.random(50) + 1, rng.random(50)) == pytest.approx(0.5)


def test_the_papers_curve_by_hand_ties_included():
    # Eleven prompts with scores 0..10: the edges are 0, 1, ..., 10, so shares are 11/11, 10/11, ..., 2/11,
    # 1/11 at the edge 9, and 0 for the last (>). Only prompt 10 gains (1 of 1).
    scores = np.arange(11.0)
    strong, weak = np.append(np.zeros(10), 1.0), np.zeros(11)
    # quality: 1/11 at every share >= 1/11 of edges 0..9 (the lowest of them selects prompts 9 and 10: 2/11), 0 at 0
    area = (2 / 11) * (1 / 11) / 2 + (9 / 11) * (1 / 11)
    assert paper_apgr(scores, strong, weak) == pytest.approx(area / (1 / 11), abs=1e-12)
    tied = np.array([0.0] * 5 + [1.0] * 6)  # edges 0 x5, 1 x6: shares 1, 6/11 and 0
    quality_tied = (6 / 11) * (1 / 11) / 2 + (5 / 11) * (1 / 11)
    assert paper_apgr(tied, strong, weak) == pytest.approx(quality_tied / (1 / 11), abs=1e-12)
    assert paper_cpt(tied, strong, weak, pgr=0.5) == pytest.approx(3 / 11, abs=1e-12)


@given(st.integers(3, 40), st.integers(0, 10_000))
def test_turning_the_router_round_mirrors_the_area(n, seed):
    rng = np.random.default_rng(seed)
    scores, weak = rng.random(n), rng.random(n)
    strong = weak + rng.random(n) * 2 - 0.5
    if strong.mean() <= weak.mean():
        strong, weak = weak, strong
    if strong.mean() - weak.mean() > 1e-3:
        assert apgr(scores, strong, weak) + apgr(-scores, strong, weak) == pytest.approx(1, abs=1e-6)


def test_the_interval_holds_the_estimate_and_shrinks_with_more_prompts():
    rng = np.random.default_rng(1)

    def width(n):
        weak, strong = rng.random(n), rng.random(n) + 0.5
        scores = strong - weak + rng.normal(size=n)
        low, high = apgr_interval(scores, strong, weak, rng=np.random.default_rng(0))
        assert low < apgr(scores, strong, weak) < high
        return high - low

    assert width(4000) < 0.5 * width(200)


def test_resampling_agrees_with_resampling_by_hand():
    rng = np.random.default_rng(2)
    n = 200
    scores = rng.integers(0, 8, n) / 8  # many ties
    weak, strong = rng.random(n), rng.random(n) + 0.5
    by_hand = []
    for _ in range(4000):
        rows = rng.integers(0, n, n)
        by_hand.append(apgr(scores[rows], strong[rows], weak[rows]))
    expected = np.quantile(by_hand, [0.025, 0.975])
    found = apgr_interval(scores, strong, weak, rng=rng, n_resamples=4000)
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5], [1, 1], [0]), "lengths differ"),
        (([], [], []), "no prompts"),
        (([np.nan, 1], [1, 1], [0, 0]), "win rate of prompt 0"),
        (([1, 1], [1, np.inf], [0, 0]), "strong score of prompt 1"),
        (([1, 2], [0, 1], [1, 0]), "undefined"),
    ],
)
def test_what_has_no_apgr_is_an_error(arguments, message):
    for measure in (apgr, paper_apgr):
        with pytest.raises(DataError, match=message):
            measure(*arguments)
