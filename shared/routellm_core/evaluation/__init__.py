"""How good is a router: quality over strong share."""

from __future__ import annotations

from routellm_core.evaluation.metrics import apgr, apgr_interval, cpt, paper_apgr, paper_cpt

__all__ = ["apgr", "apgr_interval", "cpt", "paper_apgr", "paper_cpt"]
