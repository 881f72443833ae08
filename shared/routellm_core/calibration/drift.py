"""Is a batch of traffic still what was calibrated?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration.binomial import binomial_p_value, predictive_p_value
from routellm_core.calibration.share import Calibration
from routellm_core.errors import CalibrationError, DataError

__all__ = ["DriftReport", "drift", "same_distribution_p_value"]

_BEYOND = 0.99  # an embedding farther out than this share of the calibration's own counts as out of distribution
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What was compared, and whether it differs. Holds no prompt.

    Attributes:
        drifted: Whether the traffic is shown to be another than the calibrated.
        alpha: Probability of saying so falsely: for this batch, or for a monitor within `horizon` prompts.
        n_prompts: Prompts compared; of a monitor, those in its window.
        n_calibration: Prompts calibrated on.
        win_rate_p_value: Two-sample test on win rates.
        strong_share: Share of the prompts that reach the threshold.
        target_share: What it was meant to be.
        share_p_value: Test of the one against the other.
        embedding_p_value: Two-sample test on the embeddings' distances from the calibration's mean; None without.
        out_of_distribution_share: Share of prompts whose embedding lies farther out than 99 % of the calibration's;
            None without embeddings.
        out_of_distribution_p_value: Test that this share is above one in a hundred.
        n_observed: Of a monitor: prompts seen in all since its start.
        alarm_at: Of a monitor: number of the prompt that raised the alarm.
        horizon: Of a monitor: prompts to which `alpha` refers.
    """

    drifted: bool
    alpha: float
    n_prompts: int
    n_calibration: int
    win_rate_p_value: float | None
    strong_share: float | None
    target_share: float
    share_p_value: float | None
    embedding_p_value: float | None = None
    out_of_distribution_share: float | None = None
    out_of_distribution_p_value: float | None = None
    n_observed: int | None = None
    alarm_at: int | None = None
    horizon: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        verdict = "drifted" if self.drifted else "no drift shown"
        if self.alarm_at is not None:
            verdict += f" at prompt {self.alarm_at}"
        within = f" within {self.horizon:,} prompts" if self.horizon is not None else ""
        lines = [
            f"{verdict} (false alarms: at most {self.alpha:g}{within}); {self.n_prompts} prompts against "
            f"{self.n_calibration} calibrated"
        ]
        if self.win_rate_p_value is not None:
            lines.append(f"win rates: p = {self.win_rate_p_value:.2g}")
        if self.strong_share is not None and self.share_p_value is not None:
            lines.append(
                f"strong share: {self.strong_share:.1%}, meant to be {self.target_share:.1%}: "
                f"p = {self.share_p_value:.2g}"
            )
        if self.embedding_p_value is not None:
            lines.append(f"embeddings: p = {self.embedding_p_value:.2g}")
        if self.out_of_distribution_share is not None and self.out_of_distribution_p_value is not None:
            lines.append(
                f"out of distribution: {self.out_of_distribution_share:.1%} of embeddings, 1 % expected: "
                f"p = {self.out_of_distribution_p_value:.2g}"
            )
        return "\n".join(lines)


def drift(
    calibration: Calibration,
    win_rates: ArrayLike,
    *,
    vectors: ArrayLike | None = None,
    target_share: float | None = None,
    alpha: float = 0.05,
    rng: np.random.Generator | None = None,
) -> DriftReport:
    """Compare a batch of traffic with the calibration sample, once. For a running service see `DriftMonitor`.

    Up to four tests: the distribution of win rates (`same_distribution_p_value`); the strong share against the
    calibration's (beta-binomial, as the calibration is a sample too) or against a given target (binomial); the same
    two-sample test on the embeddings' distances from the calibration's mean; the share of embeddings farther out than
    99 % of the calibration's (beta-binomial). `drifted` is true when the smallest p-value, times the number of tests,
    is at most alpha.

    Args:
        calibration: What the router was calibrated on, with the threshold in use.
        win_rates: Of the batch, shape (n,), each in [0, 1].
        vectors: Embeddings of the batch, shape (n, d); used where the calibration has a summary of its own.
        target_share: The strong share it should have, 0..1; default: the calibration's.
        alpha: Probability of a false alarm, 0..1.
        rng: Source of randomness of the permutation test; default: seed 0.

    Raises:
        DataError: The batch is empty, or holds something that is no win rate, or the lengths differ.
        CalibrationError: `target_share` or `alpha` is out of range.
        MissingExtraError: scipy is not installed (extra `fit`).
    """
    if not 0 < alpha < 1:
        raise CalibrationError(f"alpha is a probability between 0 and 1, got {alpha!r}")
    if target_share is not None and not 0 <= target_share <= 1:
        raise CalibrationError(f"target_share is a fraction from 0 to 1, got {target_share!r}")
    batch = checked_batch(win_rates)
    distances = None
    if vectors is not None and calibration.embeddings is not None:
        distances = calibration.embeddings.distance(vectors)
        if distances.size != batch.size:
            raise DataError(f"lengths differ: {batch.size} win rates, {distances.size} embeddings")
    return compared(calibration, batch, distances, target_share=target_share, alpha=alpha, rng=rng)


def compared(
    calibration: Calibration,
    win_rates: NDArray[np.float64],
    distances: NDArray[np.float64] | None,
    *,
    target_share: float | None,
    alpha: float,
    rng: np.random.Generator | None,
) -> DriftReport:
    """`drift` of checked win rates, with the embeddings' distances instead of the embeddings."""
    sample = calibration.win_rates
    n_permutations = max(999, int(np.ceil(40 / alpha)))  # ten times what the smallest p-value must reach
    win_rate_p = same_distribution_p_value(sample, win_rates, n_permutations=n_permutations, rng=rng)
    n_strong = int((win_rates >= calibration.threshold).sum())
    k = int((sample >= calibration.threshold).sum())
    if target_share is None:
        share_p = predictive_p_value(n_strong, win_rates.size, k=k, m=sample.size)
    else:
        share_p = binomial_p_value(n_strong, win_rates.size, target_share)
    p_values = [win_rate_p, share_p]
    embedding_p = beyond_share = beyond_p = None
    if distances is not None and calibration.embeddings is not None:
        limit = calibration.embeddings.limit(_BEYOND)
        own = calibration.embeddings.distances
        embedding_p = same_distribution_p_value(own, distances, n_permutations=n_permutations, rng=rng)
        n_beyond = int((distances > limit).sum())
        beyond_share = n_beyond / distances.size
        beyond_p = predictive_p_value(n_beyond, distances.size, k=int((own > limit).sum()), m=own.size, only_above=True)
        p_values += [embedding_p, beyond_p]
    return DriftReport(
        drifted=min(p_values) * len(p_values) <= alpha,
        alpha=alpha,
        n_prompts=int(win_rates.size),
        n_calibration=int(sample.size),
        win_rate_p_value=win_rate_p,
        strong_share=n_strong / win_rates.size,
        target_share=calibration.realised_share if target_share is None else float(target_share),
        share_p_value=share_p,
        embedding_p_value=embedding_p,
        out_of_distribution_share=beyond_share,
        out_of_distribution_p_value=beyond_p,
    )


def same_distribution_p_value(
    one: ArrayLike, other: ArrayLike, *, n_permutations: int = 999, rng: np.random.Generator | None = None
) -> float:
    """Permutation p-value of the two-sample Cramer-von-Mises statistic: exact for every size, ties included.

    Args:
        one: Shape (m,).
        other: Shape (n,).
        n_permutations: Random permutations; the p-value is a multiple of 1 / (n_permutations + 1).
        rng: Source of randomness; default: seed 0.

    Source: Anderson 1962; Hemerik and Goeman 2018 on random permutations.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    rng = np.random.default_rng(0) if rng is None else rng
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(pooled[order]) > 0, True))
    weights = np.diff(np.append(-1, ends)).astype(np.float64)
    n, m = second.size, first.size

    def statistic(is_second: NDArray[np.bool_]) -> NDArray[np.float64]:
        # F_second - F_first is linear in the count of the second sample among the lowest rows
        count = np.cumsum(is_second, axis=1, dtype=np.int32)[:, ends]
        gap = count / n - (ends + 1 - count) / m
        return np.asarray((gap * gap) @ weights)

    observed = statistic((order >= m)[None, :])[0]
    labels = np.repeat([False, True], [m, n])
    reached = done = 0
    while done < n_permutations:
        rows = min(n_permutations - done, max(1, _BLOCK_BYTES // (32 * pooled.size)))
        permuted = rng.permuted(np.broadcast_to(labels, (rows, labels.size)), axis=1)
        # equal arrangements may differ in the last digit
        reached += int((statistic(permuted) >= observed * (1 - 1e-12)).sum())
        done += rows
    return (1 + reached) / (1 + n_permutations)


def checked_batch(win_rates: ArrayLike) -> NDArray[np.float64]:
    """Win rates of traffic, shape (n,), n at least 1.

    Raises:
        DataError: None, or something that is no win rate.
    """
    try:
        batch = np.asarray(win_rates, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("win rates must be numbers in [0, 1]") from error
    if batch.size == 0:
        raise DataError("no win rates to compare with the calibration")
    valid = (batch >= 0) & (batch <= 1)
    if not valid.all():
        row = int(np.argmin(valid))
        raise DataError(f"win rate {row} is {batch[row]}, not in [0, 1]")
    return batch
