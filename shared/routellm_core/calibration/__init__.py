"""Win rates to thresholds."""

from __future__ import annotations

from routellm_core.calibration.share import ABOVE_ALL, Calibration

__all__ = ["ABOVE_ALL", "Calibration"]
