"""Win rates to thresholds, how sure they are, and whether they still hold."""

from __future__ import annotations

from routellm_core.calibration.budget import Budget
from routellm_core.calibration.calibrate import calibrate
from routellm_core.calibration.drift import DriftReport, drift
from routellm_core.calibration.escalation import Escalation, EscalationPoint, calibrate_escalation
from routellm_core.calibration.monitor import DriftMonitor
from routellm_core.calibration.optimum import Optimum
from routellm_core.calibration.share import Calibration
from routellm_core.calibration.thresholds import ABOVE_ALL

__all__ = [
    "ABOVE_ALL",
    "Budget",
    "Calibration",
    "DriftMonitor",
    "DriftReport",
    "Escalation",
    "EscalationPoint",
    "Optimum",
    "calibrate",
    "calibrate_escalation",
    "drift",
]
