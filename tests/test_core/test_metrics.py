"""APGR and CPT against curves computed by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core.errors import DataError
from routellm_core.evaluation import (
    apgr,
    apgr_interval,
    cpt,
    curve,
    oracle_apgr,
    paper_apgr,
    paper_cpt,
    pgr,
    reliability,
)
from routellm_core.evaluation.metrics import random_apgr_interval
from routellm_core.evaluation.resampling import beats, interval, resample


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


def test_pgr_is_the_share_of_the_quality_gap_recovered():
    # weak .4, strong .8, gap .4; the router reaches .7, so .3 of .4 is recovered
    assert pgr(quality=0.7, weak=0.4, strong=0.8) == pytest.approx(0.75)
    with pytest.raises(DataError, match="no PGR"):
        pgr(quality=0.7, weak=0.8, strong=0.8)


def test_the_curve_has_a_point_for_every_group_of_equal_win_rates():
    found = curve([0.9, 0.5, 0.5, 0.1], [1, 1, 1, 1], [0, 1, 0, 1])
    # gains 1, then .5 twice (1 of the two, averaged), then 0, from a weak mean of .5
    assert found.strong_share.tolist() == [0, 0.25, 0.75, 1]
    assert found.quality.tolist() == [0.5, 0.75, 1, 1]
    assert found.pgr.tolist() == [0, 0.5, 1, 1]
    assert found.thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert found.quality_at([0.5, 1]).tolist() == [0.875, 1]


def test_the_papers_eleven_points_by_hand():
    # Twenty prompts with scores 0..19; quantile edges at 1.9 k: 0, 1.9, 3.8, 5.7, 7.6, 9.5, 11.4, 13.3, 15.2, 17.1, 19.
    # At least that much have 20, 18, 16, 14, 12, 10, 8, 6, 4, 2 prompts, and none is above 19.
    scores = np.arange(20.0)
    weak = np.zeros(20)
    strong = np.where(scores >= 16, 1.0, 0.0)  # the four highest gain
    found = curve(scores, strong, weak, way="paper")
    np.testing.assert_allclose(found.strong_share, [0, *np.arange(2, 21, 2) / 20], atol=1e-12)
    # 2 of the four at share .1, all from share .2 on; each is worth 1/20 of quality
    np.testing.assert_allclose(found.quality, [0, 0.1, *[0.2] * 9], atol=1e-12)
    # area: .1 * .05 + .1 * .15 + .8 * .2 = .18; between 0 and .2 that is .9
    assert found.apgr == pytest.approx(0.9, abs=1e-12)
    # half of the gap is .1 of quality: share .1; 80 % is .16: .1 + .1 * .06 / .1
    assert found.cpt(0.5) == pytest.approx(0.1, abs=1e-12)
    assert found.cpt(0.8) == pytest.approx(0.16, abs=1e-12)


def test_ties_move_the_papers_shares_by_hand():
    # Scores 0 (four times), 1 (three), 2 (three): positions .9 k in their order give the edges 0, 0, 0, 0, .6, 1, 1,
    # 1.3, 2, 2, 2, at or above which are 10, 10, 10, 10, 6, 6, 6, 3, 3, 3 prompts; none is above 2
    scores = np.array([0.0] * 4 + [1.0] * 3 + [2.0] * 3)
    strong = np.array([1.0, 0, 0, 0] + [1.0, 1, 0] + [1.0, 1, 1])
    weak = np.zeros(10)
    found = curve(scores, strong, weak, way="paper")
    assert found.strong_share.tolist() == [0, 0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 1, 1, 1, 1]
    np.testing.assert_allclose(found.quality, [0, *[0.3] * 3, *[0.5] * 3, *[0.6] * 4], atol=1e-12)
    # area: .3 * .15 + .3 * .4 + .4 * .55 = .385 of .6
    assert paper_apgr(scores, strong, weak) == pytest.approx(0.385 / 0.6, abs=1e-12)
    # half is .3: reached at share .3; 80 % is .48: .3 + .3 * .18 / .2
    assert paper_cpt(scores, strong, weak, pgr=0.5) == pytest.approx(0.3, abs=1e-12)
    assert paper_cpt(scores, strong, weak, pgr=0.8) == pytest.approx(0.57, abs=1e-12)


def test_the_oracle_by_hand():
    # gains 1, 0, 0, -1 of a mean gap... of (2 - 1) / 4 = 1/4: PGR 0, 2, 2, 2, 1 with two winners first
    # order by gain: 1, 1, 0, -1; PGR at shares 0..1: 0, 1, 2, 2, 1; trapezoids of 1/4: .125 + .375 + .5 + .375
    assert oracle_apgr([1, 1, 1, 0], [0, 0, 1, 1]) == pytest.approx(1.375, abs=1e-12)


def test_random_orders_land_in_their_interval():
    rng = np.random.default_rng(5)
    weak, strong = rng.random(300), rng.random(300) + 0.2
    low, high = random_apgr_interval(strong, weak, level=0.9)
    found = np.array([apgr(rng.random(300), strong, weak) for _ in range(2000)])
    assert np.mean((found >= low) & (found <= high)) == pytest.approx(0.9, abs=0.03)  # four standard deviations


def test_every_figure_of_a_resample_is_the_figure_of_the_drawn_prompts():
    rng = np.random.default_rng(3)
    n = 60
    scores = {"tied": rng.integers(0, 6, n) / 6, "plain": rng.random(n)}
    weak = rng.random(n)
    strong = weak + rng.random(n) - 0.3
    found = resample(scores, strong, weak, rng=np.random.default_rng(9), n_resamples=40, with_curves=True)
    again = np.random.default_rng(9).integers(0, n, size=(40, n))  # the same draws, by hand
    for name, values in scores.items():
        for b, rows in enumerate(again):
            exact = curve(values[rows], strong[rows], weak[rows])
            paper = curve(values[rows], strong[rows], weak[rows], way="paper")
            drawn = found[name]
            assert drawn.apgr[b] == pytest.approx(exact.apgr, abs=1e-12)
            assert drawn.cpt[b] == pytest.approx([exact.cpt(0.5), exact.cpt(0.8)], abs=1e-9)
            assert drawn.paper_apgr[b] == pytest.approx(paper.apgr, abs=1e-12)
            assert drawn.paper_cpt[b] == pytest.approx([paper.cpt(0.5), paper.cpt(0.8)], abs=1e-9)
            expected = np.interp(np.linspace(0, 1, 101), exact.strong_share, exact.pgr)
            np.testing.assert_allclose(drawn.pgr[b], expected, atol=1e-9)


def test_resamples_without_a_gap_are_left_out_not_nan():
    # of two prompts, one draw in four has only the one on which both are equal
    found = resample({"": [0.9, 0.1]}, [1, 1], [0, 1], rng=np.random.default_rng(0), n_resamples=200)[""]
    undefined = np.isnan(found.apgr)
    assert 0.1 < undefined.mean() < 0.4
    assert all(np.isfinite(interval(found.apgr)))
    assert interval(np.array([np.nan])) is None
    assert beats(np.array([np.nan])) is None


def test_the_p_value_counts_resamples_that_speak_against():
    # two of nine are not above zero; each side counts one more: 3 of 10
    assert beats(np.array([1, 1, 1, 1, 1, 1, 1, 0, -1.0])) == pytest.approx(0.3)


def test_reliability_by_hand():
    # win rates .1, .1, .8, .8: the strong model wins 0 of 2 and 1 of 2 (a tie counts for the weak model)
    found = reliability([0.1, 0.1, 0.8, 0.8], [1, 0, 1, 1], [1, 1, 0, 1])
    # squared distances .01, .01, .04, .64
    assert found.brier == pytest.approx(0.175)
    assert found.brier_of_the_mean == pytest.approx(0.1875)  # of .25: .0625 three times, .5625
    assert [(b.n_prompts, b.win_rate, b.observed) for b in found.bins] == [
        (2, pytest.approx(0.1), 0),
        (2, pytest.approx(0.8), 0.5),
    ]
    assert found.calibration_error == pytest.approx((2 * 0.1 + 2 * 0.3) / 4)
    # Wilson for 1 of 2: centre .5, half width 1.96 / (1 + 1.96^2 / 2) * sqrt(.125 + 1.96^2 / 16) = .4055
    assert (found.bins[1].low, found.bins[1].high) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    with pytest.raises(DataError, match="outside 0..1"):
        reliability([1.2], [1], [0])


def test_resamples_whose_gains_cancel_but_for_rounding_have_no_apgr():
    # two of (.2 - .1) and two of (.1 - .3) + (.2 - .1) cancel; in floats 2.8e-17 is left, to be divided by
    low, high = apgr_interval(
        [0.1, 0.2, 0.3, 0.4], [0.2] * 4, [0.1, 0.1, 0.1, 0.3], rng=np.random.default_rng(0), n_resamples=200
    )
    assert -10 < low <= high < 10


def test_a_lead_of_nothing_but_rounding_is_no_lead():
    # .1 + .2 and .3 differ by 5.6e-17
    with pytest.raises(DataError, match="not above"):
        apgr([0.1, 0.9], [0.1 + 0.2] * 2, [0.3] * 2)
