"""A calibration's thresholds as a table and as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from routellm_core._lazy import need
from routellm_core.calibration.thresholds import between, possible_cuts

if TYPE_CHECKING:
    from routellm_core.calibration.share import Calibration

__all__ = ["columns", "frame", "plot"]


def columns(calibration: Calibration) -> dict[str, Any]:
    """Every threshold that makes a difference on the sample, ascending, with what it gives there."""
    n, labels = calibration.win_rates.size, calibration.labels
    cuts = possible_cuts(calibration.win_rates)
    found: dict[str, Any] = {
        "threshold": np.array([between(calibration.win_rates, cut) for cut in cuts.tolist()]),
        "strong_share": (n - cuts) / n,
    }
    if labels is not None:
        lost = np.append(0.0, np.cumsum(labels.weak_scores - labels.strong_scores))
        found["quality"] = labels.strong_scores.mean() + lost[cuts] / n
    return found


def frame(calibration: Calibration) -> Any:
    """`columns` as a pandas DataFrame."""
    return need("pandas", extra="eval", why="Calibration.to_frame").DataFrame(columns(calibration))


def plot(calibration: Calibration) -> Any:
    """A matplotlib figure: quality over strong share where there are labels, else strong share over threshold."""
    figure = need("matplotlib.figure", extra="eval", why="Calibration.plot").Figure(layout="constrained")
    axes = figure.subplots()
    found = columns(calibration)
    across, up = ("strong_share", "quality") if "quality" in found else ("threshold", "strong_share")
    axes.plot(found[across], found[up])
    at = int(np.searchsorted(found["threshold"], calibration.threshold))
    axes.plot(found[across][at], found[up][at], "o", label=f"threshold {calibration.threshold:.4f}")
    if calibration.quality_floor is not None and "quality" in found:
        floor = calibration.quality_floor * found["quality"][0]
        axes.axhline(floor, linestyle="--", label=f"floor: {calibration.quality_floor:g} of the strong model")
    axes.set_xlabel(across.replace("_", " "))
    axes.set_ylabel(up.replace("_", " "))
    axes.legend()
    return figure
