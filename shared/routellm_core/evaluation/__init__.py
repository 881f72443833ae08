"""How good is a router: quality over strong share, beside baselines, and how sure that is."""

from __future__ import annotations

from routellm_core.evaluation.comparing import Comparison, compare
from routellm_core.evaluation.evaluating import Evaluation, evaluate
from routellm_core.evaluation.figures import Difference, Figures
from routellm_core.evaluation.many_models import QualityOverCost, aiq, quality_over_cost
from routellm_core.evaluation.metrics import Curve, apgr, cpt, curve, oracle_apgr, paper_apgr, paper_cpt, pgr
from routellm_core.evaluation.reliability import Reliability, reliability
from routellm_core.evaluation.resampling import apgr_interval
from routellm_core.evaluation.sets import EvaluationSet, read_evaluation_set

__all__ = [
    "Comparison",
    "Curve",
    "Difference",
    "Evaluation",
    "EvaluationSet",
    "Figures",
    "QualityOverCost",
    "Reliability",
    "aiq",
    "apgr",
    "apgr_interval",
    "compare",
    "cpt",
    "curve",
    "evaluate",
    "oracle_apgr",
    "paper_apgr",
    "paper_cpt",
    "pgr",
    "quality_over_cost",
    "read_evaluation_set",
    "reliability",
]
