"""Win rates of a sample of prompts, and what is wanted, turned into a threshold."""

from __future__ import annotations

from numpy.typing import ArrayLike

from routellm_core.calibration.budget import Budget
from routellm_core.calibration.share import Calibration

__all__ = ["calibrate"]


def calibrate(
    win_rates: ArrayLike,
    *,
    strong_scores: ArrayLike | None = None,
    weak_scores: ArrayLike | None = None,
    strong_share: float | None = None,
    budget: Budget | None = None,
    quality_floor: float | None = None,
    delta: float | None = None,
    score_range: tuple[float, float] = (0.0, 1.0),
    source: str = "",
    vectors: ArrayLike | None = None,
) -> Calibration:
    """The threshold for a strong share, a budget or a quality floor, from a sample of your own prompts.

    The record answers again, `calibration.at(quality_floor=.95)`, without scoring; set as `router.calibration` it
    is saved with the router.

    Args:
        win_rates: What the router gives for the prompts, shape (n,), each in [0, 1].
        strong_scores: Quality of the strong model's answers to the same prompts, shape (n,). A quality floor
            needs both models' scores; anything else does not.
        weak_scores: The same of the weak model.
        strong_share: Wanted share of strong calls, 0..1. None of the three given: 0.5.
        budget: What may be spent.
        quality_floor: Fraction of the strong model's mean quality that the routed answers must reach, 0..1.
        delta: With `quality_floor`: probability that the threshold misses it all the same. Default: 0.05.
        score_range: Lowest and highest possible score, such as (1, 10) of a judge.
        source: Where the prompts came from, in words.
        vectors: Embeddings of the prompts, shape (n, d): drift can then be seen in them too.

    Raises:
        CalibrationError: The sample cannot give what is wanted; for a quality floor the message has the best floor
            that these labels certify and how many labels would be needed.
        DataError: Scores of another length, or outside their range.
    """
    sample = Calibration.from_win_rates(
        win_rates,
        source=source,
        strong_scores=strong_scores,
        weak_scores=weak_scores,
        score_range=score_range,
        vectors=vectors,
    )
    if strong_share is None and budget is None and quality_floor is None and delta is None:
        return sample
    return sample.at(strong_share=strong_share, budget=budget, quality_floor=quality_floor, delta=delta)
