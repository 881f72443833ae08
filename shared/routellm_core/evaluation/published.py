"""The paper's own figures, for reference beside measured ones.

Source: Ong et al. 2024, arXiv:2406.18665v4, tables 1 to 3, routers trained with augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from routellm_core.evaluation.sets import EvaluationSet

__all__ = ["Published", "published_for"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One router's line for one benchmark, computed by the paper's way; fractions.

    Attributes:
        router: As the paper calls it.
        cpt50: Strong share that recovers half the gap.
        cpt80: Likewise for 80 %.
        apgr: Area under PGR.
    """

    router: str
    cpt50: float
    cpt80: float
    apgr: float


def _lines(**figures: tuple[float, float, float]) -> tuple[Published, ...]:
    return tuple(
        Published(router=_NAMES[kind], cpt50=round(cpt50 / 100, 4), cpt80=round(cpt80 / 100, 4), apgr=apgr)
        for kind, (cpt50, cpt80, apgr) in figures.items()
    )


_NAMES = {
    "sw": "similarity-weighted",
    "mf": "matrix factorization",
    "bert": "BERT",
    "causal": "causal LLM (Llama-3-8B)",
    "random": "random",
}
_FIGURES = {
    "mtbench": _lines(
        mf=(13.40, 31.31, 0.802),
        sw=(23.21, 36.04, 0.759),
        bert=(19.58, 34.02, 0.751),
        causal=(31.50, 48.75, 0.679),
        random=(49.03, 78.08, 0.500),
    ),
    "mmlu": _lines(
        sw=(35.40, 71.55, 0.603),
        causal=(35.49, 70.31, 0.600),
        mf=(35.46, 71.40, 0.597),
        bert=(41.30, 72.20, 0.572),
        random=(50.07, 79.93, 0.500),
    ),
    "gsm8k": _lines(
        causal=(33.64, 63.26, 0.622),
        sw=(41.21, 72.20, 0.568),
        mf=(38.82, 72.62, 0.565),
        bert=(44.76, 79.09, 0.531),
        random=(50.00, 80.08, 0.497),
    ),
}
_STRONG, _WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"


def published_for(data: EvaluationSet) -> tuple[Published, ...]:
    """The paper's lines for a set, best first; none unless it is one of the three benchmarks with the paper's pair."""
    if (data.strong or "").lower().rsplit("/", 1)[-1] != _STRONG or (data.weak or "").lower().rsplit("/", 1)[
        -1
    ] != _WEAK:
        return ()
    return _FIGURES.get("".join(c for c in data.name.lower() if c.isalnum()), ())
