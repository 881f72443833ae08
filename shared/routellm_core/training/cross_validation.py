"""Folds that keep together what belongs together, and APGR by number of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.errors import DataError
from routellm_core.evaluation.metrics import apgr
from routellm_core.evaluation.resampling import interval, resample

__all__ = ["N_FOLDS", "apgr_by_labels", "grouped_folds"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

N_FOLDS = 5
_PARTS = (0.25, 0.5, 1.0)  # of the labels that a fold leaves


def grouped_folds(groups: Sequence[Any], rng: np.random.Generator) -> Rows:
    """A fold for each row, 0..N_FOLDS - 1; rows of equal groups, by their text, share one.

    Raises:
        DataError: Fewer groups than folds.
    """
    names, members = np.unique([str(group) for group in groups], return_inverse=True)
    if len(names) < N_FOLDS:
        raise DataError(
            f"the labels fall into {len(names)} groups; {N_FOLDS} are the least, to fit and check on others"
        )
    folds: Rows = rng.permutation(np.arange(len(names)) % N_FOLDS)[members]
    return folds


def apgr_by_labels(
    win_rates: Callable[[Rows, Rows | None, int], Floats],
    strong: Floats,
    weak: Floats,
    labels: Floats,
    folds: Rows,
    rng: np.random.Generator,
) -> list[dict[str, float]]:
    """In each fold parts of the other folds' rows are fitted on, the smaller within the larger.

    Args:
        win_rates: Of the test rows (the first argument), anything in the same order, by a fit to the second, or to
            all other folds where that is None; the third is the number of labels this stands for.
        strong: Quality of the strong model's answers, shape (n,).
        weak: The same of the weak model.
        labels: What is fitted to, shape (n,) or (n, k): a part in which it never differs ends it.
        folds: Of each row.
        rng: Of the intervals.

    Returns:
        Rows `labels`, `apgr`, `low`, `high`, and from the second on `gain`, `gain_low`, `gain_high`. Empty where a part
        holds nothing to learn from.
    """
    sizes = [round(part * len(folds) * (1 - 1 / N_FOLDS)) for part in _PARTS]
    scorers: dict[str, Floats] = {}
    for n, part in zip(sizes, _PARTS, strict=True):
        found = np.zeros(len(folds))
        for fold in range(N_FOLDS):
            test, rows = np.flatnonzero(folds == fold), None
            if part < 1.0:
                others = np.random.default_rng(fold).permutation(np.flatnonzero(folds != fold))
                rows = others[: max(2, round(part * len(others)))]
                if not np.ptp(labels[rows]) > 0:
                    return []
            found[test] = win_rates(test, rows, n)
        scorers[str(n)] = found
    drawn = resample(scorers, strong, weak, rng=rng, with_paper=False)
    curve: list[dict[str, float]] = []
    smaller = None
    for n in sizes:
        figures = drawn[str(n)].apgr
        low, high = interval(figures) or (np.nan, np.nan)
        row = {"labels": float(n), "apgr": apgr(scorers[str(n)], strong, weak), "low": low, "high": high}
        if smaller is not None:
            less, more = interval(figures - drawn[smaller].apgr) or (np.nan, np.nan)
            row |= {"gain": row["apgr"] - curve[-1]["apgr"], "gain_low": less, "gain_high": more}
        curve.append(row)
        smaller = str(n)
    return curve
