"""routellm_core: which prompts need the strong model, and which do not.

Importing does nothing but define names; each is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routellm_core._version import __version__

if TYPE_CHECKING:
    from routellm_core import augmentation as augmentation
    from routellm_core import data as data
    from routellm_core import encoders as encoders
    from routellm_core import errors as errors
    from routellm_core import evaluation as evaluation
    from routellm_core import recording as recording
    from routellm_core import testing as testing
    from routellm_core import training as training
    from routellm_core.calibration import Budget as Budget
    from routellm_core.calibration import Calibration as Calibration
    from routellm_core.calibration import DriftMonitor as DriftMonitor
    from routellm_core.calibration import calibrate as calibrate
    from routellm_core.calibration import calibrate_escalation as calibrate_escalation
    from routellm_core.encoders import Encoder as Encoder
    from routellm_core.errors import RouteLLMError as RouteLLMError
    from routellm_core.evaluation import compare as compare
    from routellm_core.evaluation import evaluate as evaluate
    from routellm_core.policy import CostAwarePolicy as CostAwarePolicy
    from routellm_core.policy import EscalationPolicy as EscalationPolicy
    from routellm_core.policy import RoutingPolicy as RoutingPolicy
    from routellm_core.policy import collect_decisions as collect_decisions
    from routellm_core.routers import Router as Router
    from routellm_core.routers import load_router as load_router
    from routellm_core.routers.bert import BertRouter as BertRouter
    from routellm_core.routers.causal import CausalLLMRouter as CausalLLMRouter
    from routellm_core.routers.difficulty import DifficultyRouter as DifficultyRouter
    from routellm_core.routers.llm import LLMRouter as LLMRouter
    from routellm_core.routers.mf import MatrixFactorizationRouter as MatrixFactorizationRouter
    from routellm_core.routers.random import RandomRouter as RandomRouter
    from routellm_core.routers.sw import SimilarityWeightedRouter as SimilarityWeightedRouter
    from routellm_core.training.own_labels import fit_router as fit_router
    from routellm_core.training.verifier import fit_verifier as fit_verifier
    from routellm_core.types import Decision as Decision
    from routellm_core.verifiers import Answer as Answer
    from routellm_core.verifiers import JudgeVerifier as JudgeVerifier
    from routellm_core.verifiers import Verifier as Verifier
    from routellm_core.verifiers import load_verifier as load_verifier

_SUBPACKAGES = ("augmentation", "data", "encoders", "errors", "evaluation", "recording", "testing", "training")
_NAMES = {
    "Answer": "routellm_core.verifiers",
    "BertRouter": "routellm_core.routers.bert",
    "Budget": "routellm_core.calibration",
    "Calibration": "routellm_core.calibration",
    "CausalLLMRouter": "routellm_core.routers.causal",
    "CostAwarePolicy": "routellm_core.policy",
    "Decision": "routellm_core.types",
    "DifficultyRouter": "routellm_core.routers.difficulty",
    "DriftMonitor": "routellm_core.calibration",
    "Encoder": "routellm_core.encoders",
    "EscalationPolicy": "routellm_core.policy",
    "JudgeVerifier": "routellm_core.verifiers",
    "LLMRouter": "routellm_core.routers.llm",
    "MatrixFactorizationRouter": "routellm_core.routers.mf",
    "RandomRouter": "routellm_core.routers.random",
    "RouteLLMError": "routellm_core.errors",
    "Router": "routellm_core.routers",
    "RoutingPolicy": "routellm_core.policy",
    "SimilarityWeightedRouter": "routellm_core.routers.sw",
    "Verifier": "routellm_core.verifiers",
    "calibrate": "routellm_core.calibration",
    "calibrate_escalation": "routellm_core.calibration",
    "collect_decisions": "routellm_core.policy",
    "compare": "routellm_core.evaluation",
    "evaluate": "routellm_core.evaluation",
    "fit_router": "routellm_core.training.own_labels",
    "fit_verifier": "routellm_core.training.verifier",
    "load_router": "routellm_core.routers",
    "load_verifier": "routellm_core.verifiers",
}

__all__ = [
    "Answer",
    "BertRouter",
    "Budget",
    "Calibration",
    "CausalLLMRouter",
    "CostAwarePolicy",
    "Decision",
    "DifficultyRouter",
    "DriftMonitor",
    "Encoder",
    "EscalationPolicy",
    "JudgeVerifier",
    "LLMRouter",
    "MatrixFactorizationRouter",
    "RandomRouter",
    "RouteLLMError",
    "Router",
    "RoutingPolicy",
    "SimilarityWeightedRouter",
    "Verifier",
    "__version__",
    "augmentation",
    "calibrate",
    "calibrate_escalation",
    "collect_decisions",
    "compare",
    "data",
    "encoders",
    "errors",
    "evaluate",
    "evaluation",
    "fit_router",
    "fit_verifier",
    "load_router",
    "load_verifier",
    "recording",
    "testing",
    "training",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _SUBPACKAGES:
        return importlib.import_module(f"routellm_core.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'routellm_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
