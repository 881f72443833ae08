"""Whether traffic is still what was calibrated: the batch test, the monitor, the embeddings."""

import json
import threading

import numpy as np
import pytest

from routellm_core import Decision
from routellm_core.calibration import Calibration, DriftMonitor, drift
from routellm_core.calibration.binomial import beta_binomial, binomial_p_value, predictive_p_value
from routellm_core.calibration.drift import same_distribution_p_value
from routellm_core.calibration.embeddings import EmbeddingSummary
from routellm_core.errors import CalibrationError, DataError


def rng(seed=0):
    return np.random.default_rng(seed)


def calibrated(n=400, seed=0, **more):
    return Calibration.from_win_rates(rng(seed).random(n), strong_share=0.3, **more)


# -- p-values
def test_the_two_sample_test_by_hand():
    # 3 against 3, fully apart: of the 20 arrangements 2 are as extreme, so p is about .1
    p = same_distribution_p_value([1, 2, 3], [4, 5, 6], n_permutations=20_000)
    assert p == pytest.approx(0.1, abs=0.01)


def test_equal_values_say_nothing():
    assert same_distribution_p_value([0.5] * 9, [0.5] * 4) == 1.0


@pytest.mark.parametrize("distinct", [3, 10_000])
def test_the_two_sample_test_errs_at_its_rate_ties_or_not(distinct):
    source = rng(1)
    p_values = [
        same_distribution_p_value(*np.split(source.integers(distinct, size=70), [50]), n_permutations=99, rng=source)
        for _ in range(600)
    ]
    assert np.mean(np.array(p_values) <= 0.1) <= 0.1 + 3 * (0.09 / 600) ** 0.5


def test_beta_binomial_probabilities_by_hand():
    # Beta(1, 1): the share is uniform, so is the count
    np.testing.assert_allclose(beta_binomial(4, 1, 1), [0.2] * 5)
    # one prompt: a / (a + b)
    np.testing.assert_allclose(beta_binomial(1, 3, 1), [0.25, 0.75])


def test_p_values_of_counts_by_hand():
    assert binomial_p_value(5, 5, 0.5) == pytest.approx(2 / 32)
    assert binomial_p_value(0, 3, 0.0) == 1.0
    assert binomial_p_value(1, 3, 0.0) == 0.0
    # 1 of 1 above a threshold that none of 9 reached: the new one is the largest of 10 with probability .1
    assert predictive_p_value(1, 1, k=0, m=9) == pytest.approx(0.2)
    assert predictive_p_value(1, 1, k=0, m=9, only_above=True) == pytest.approx(0.1)
    assert predictive_p_value(0, 1, k=0, m=9) == 1.0


# -- a batch
def test_the_same_kind_of_traffic_has_not_drifted_and_another_has():
    calibration = calibrated()
    same = drift(calibration, rng(5).random(200))
    other = drift(calibration, rng(5).random(200) ** 0.5)
    assert (same.drifted, other.drifted) == (False, True)
    assert "no drift shown" in str(same)
    assert str(other).startswith("drifted (false alarms: at most 0.05); 200 prompts against 400 calibrated")


def test_a_report_says_which_share_was_meant_and_which_was_met():
    calibration = calibrated()
    report = drift(calibration, [0.0, 0.0, 1.0, 1.0], target_share=0.25)
    assert (report.strong_share, report.target_share) == (0.5, 0.25)
    # P(2 or more of 4 at .25) = 1 - .3164 - .4219 = .2617, doubled
    assert report.share_p_value == pytest.approx(2 * 0.26171875)
    assert drift(calibration, [0.0, 1.0]).target_share == pytest.approx(0.3)
    json.dumps(report.to_dict(), allow_nan=False)


def test_batches_of_the_same_traffic_are_flagged_at_most_at_the_rate_alpha():
    flagged = [
        drift(
            calibrated(150, seed, vectors=rng([seed, 1]).normal(size=(150, 6))),
            rng([seed, 2]).random(60),
            vectors=rng([seed, 3]).normal(size=(60, 6)),
            alpha=0.2,
            rng=rng(seed),
        ).drifted
        for seed in range(80)
    ]
    assert np.mean(flagged) <= 0.2 + 2 * (0.16 / 80) ** 0.5


@pytest.mark.parametrize("batch", [[], [0.5, float("nan")], [1.5], ["x"]])
def test_a_batch_that_is_none_is_refused(batch):
    with pytest.raises(DataError):
        drift(calibrated(), batch)


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": 1}, {"target_share": 30}, {"target_share": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(CalibrationError):
        drift(calibrated(), [0.5], **wrong)


# -- embeddings
def test_one_in_a_hundred_lies_beyond_the_limit_and_strangers_all_do():
    summary = EmbeddingSummary.fit(rng().normal(size=(4000, 12)))
    assert np.mean(summary.distance(rng(1).normal(size=(4000, 12))) > summary.limit()) == pytest.approx(0.01, abs=0.008)
    assert (summary.distance(rng(1).normal(size=(50, 12)) + 5) > summary.limit()).all()


def test_distances_count_in_standard_deviations_of_each_direction():
    vectors = rng().normal(size=(20_000, 2)) * [10.0, 0.1]
    far, near = EmbeddingSummary.fit(vectors).distance([[0.0, 1.0], [1.0, 0.0]])
    assert (far, near) == (pytest.approx(10, rel=0.05), pytest.approx(0.1, abs=0.03))


def test_a_summary_of_wide_embeddings_is_small():
    summary = EmbeddingSummary.fit(rng().normal(size=(6000, 300)))
    assert sum(array.nbytes for array in summary.tensors().values()) < 60_000


def test_embeddings_that_never_vary_do_not_divide_by_zero():
    summary = EmbeddingSummary.fit(np.ones((40, 3)))
    assert np.isfinite(summary.distance(np.ones((2, 3)))).all()
    assert (summary.distance(np.zeros((1, 3))) > summary.limit()).all()


def test_embeddings_out_of_distribution_are_drift_although_win_rates_are_not():
    calibration = calibrated(vectors=rng(1).normal(size=(400, 5)))
    report = drift(calibration, rng(2).random(100), vectors=rng(3).normal(size=(100, 5)) + 4)
    assert report.drifted
    assert report.out_of_distribution_share > 0.9
    assert report.win_rate_p_value > 0.05
    assert "out of distribution" in str(report)


@pytest.mark.parametrize(
    "vectors", [np.zeros((5, 3)), np.zeros(400), np.full((400, 3), np.nan), np.zeros((399, 3)), np.zeros((400, 0))]
)
def test_embeddings_that_do_not_fit_are_refused(vectors):
    with pytest.raises((DataError, CalibrationError)):
        calibrated(vectors=vectors)


def test_embeddings_of_another_encoder_are_refused():
    calibration = calibrated(vectors=rng().normal(size=(400, 5)))
    with pytest.raises(DataError, match="width 4, the calibrated ones 5"):
        drift(calibration, [0.5], vectors=np.zeros((1, 4)))
    with pytest.raises(DataError, match="lengths differ"):
        drift(calibration, [0.5], vectors=np.zeros((2, 5)))


# -- the monitor
def test_the_monitor_sees_a_change_soon_at_once_and_later():
    for before in (0, 1500):
        monitor = DriftMonitor(calibrated(2000))
        assert not any(monitor.observe(win_rate) for win_rate in rng(1).random(before))
        changed = (rng(2).random(200) ** 0.3).tolist()
        assert any(monitor.observe(win_rate) for win_rate in changed)
        assert before < monitor.report().alarm_at <= before + 100


def test_the_monitor_is_wrong_at_most_at_its_rate_within_its_horizon():
    alpha, runs = 0.2, 150
    false = 0
    for seed in range(runs):
        monitor = DriftMonitor(calibrated(60, seed), alpha=alpha, window=50, horizon=300, seed=seed)
        false += any(monitor.observe(win_rate) for win_rate in rng([seed, 1]).random(300).tolist())
    assert false / runs <= alpha + 2 * (alpha * (1 - alpha) / runs) ** 0.5


def test_many_equal_win_rates_are_no_drift():
    monitor = DriftMonitor(Calibration.from_win_rates(np.repeat([0.2, 0.8], 100)), alpha=0.05)
    assert not any(monitor.observe(win_rate) for win_rate in rng(3).choice([0.2, 0.8], size=600).tolist())
    assert any(monitor.observe(0.8) for _ in range(100))


def test_the_monitor_sees_strange_embeddings():
    monitor = DriftMonitor(calibrated(vectors=rng(1).normal(size=(400, 5))))
    win_rates, vectors = rng(2).random(100), rng(3).normal(size=(100, 5)) + 4
    assert any(monitor.observe(w, vector=v) for w, v in zip(win_rates, vectors, strict=True))
    assert monitor.report().out_of_distribution_share > 0.9


def test_the_alarm_stays_until_reset():
    monitor = DriftMonitor(calibrated(), window=50)
    for _ in range(80):
        monitor.observe(0.99)
    assert monitor.drifted
    assert monitor.observe(0.1)
    report = monitor.report()
    assert (report.n_prompts, report.n_observed) == (50, 81)
    assert report.drifted
    assert f"drifted at prompt {report.alarm_at} (false alarms: at most 0.01 within 50,000 prompts)" in str(report)
    monitor.reset()
    assert not monitor.drifted
    assert monitor.report().n_prompts == 0
    json.dumps(monitor.report().to_dict(), allow_nan=False)


def test_decisions_without_a_win_rate_are_counted_and_left_out():
    monitor = DriftMonitor(calibrated())
    monitor.observe(Decision(route="weak", reason="forced"))
    monitor.observe(Decision(route="weak", reason="score", win_rate=0.25, threshold=0.5))
    assert (monitor.n_observed, monitor.n_skipped, monitor.report().strong_share) == (1, 1, 0.0)


def test_after_its_horizon_the_monitor_starts_anew():
    monitor = DriftMonitor(calibrated(), window=10, horizon=20)
    for win_rate in rng(1).random(50).tolist():
        monitor.observe(win_rate)
    assert monitor.n_observed == 50
    # 400 of the calibration, and the ten since the last start
    assert len(monitor._on_win_rates._values) == 410


def test_threads_lose_no_observation():
    monitor = DriftMonitor(calibrated())
    values = rng(1).random((4, 100)).tolist()
    threads = [threading.Thread(target=lambda part=part: [monitor.observe(v) for v in part]) for part in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.n_observed == 400
    assert len(monitor._on_win_rates._values) == 800


@pytest.mark.parametrize("what", [float("nan"), 1.5, "x", b"x"])
def test_what_is_no_win_rate_is_refused(what):
    with pytest.raises(DataError, match="a win rate lies in"):
        DriftMonitor(calibrated()).observe(what)


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"window": 0}, {"window": 10, "horizon": 5}])
def test_a_monitor_needs_sensible_numbers(wrong):
    with pytest.raises(CalibrationError):
        DriftMonitor(calibrated(), **wrong)
    with pytest.raises(CalibrationError, match="needs the router's Calibration"):
        DriftMonitor(None)


# -- real prompts
def test_gsm8k_is_not_mmlu(data_folder):
    pq = pytest.importorskip("pyarrow.parquet")
    from routellm_core import load_router

    router = load_router("default")
    prompts = {
        name: rng().permutation(pq.read_table(data_folder / "eval" / f"{name}.parquet")["prompt"].to_pylist()).tolist()
        for name in ("mmlu", "gsm8k")
    }
    calibration = Calibration.from_win_rates(router.win_rate(prompts["mmlu"][:600]))
    same, other = DriftMonitor(calibration), DriftMonitor(calibration)
    assert not any(map(same.observe, router.win_rate(prompts["mmlu"][600:900]).tolist()))
    assert any(map(other.observe, router.win_rate(prompts["gsm8k"][:200]).tolist()))


def test_integers_beyond_all_floats_are_no_win_rates():
    calibration = Calibration.from_win_rates([0.1, 0.2, 0.3])
    with pytest.raises(DataError):
        DriftMonitor(calibration).observe(10**400)
    with pytest.raises(DataError):
        drift(calibration, [10**400])
    with pytest.raises(CalibrationError):
        DriftMonitor(calibration, horizon=float("inf"))  # type: ignore[arg-type]
