"""What every router is held against: rules that need no training, and the best that could be done."""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core.evaluation.sets import EvaluationSet

__all__ = ["baseline_scores", "prompt_length", "rules", "shown", "topic_gain"]

Floats: TypeAlias = NDArray[np.float64]

_FOLDS = 5
_HARD = frozenset(
    """algorithm algorithms analyse analyze calculate code compare debug derive design equation evaluate explain
    function implement integral optimise optimize probability program prove refactor solve theorem tradeoff tradeoffs
    why""".split()
)
_EASY_START = frozenset("define hello hey hi list name spell thanks translate when where who".split())
_WORD = re.compile(r"[a-z]+")
_CODE = re.compile(r"```|^\s*(?:def|class|import|from|public|SELECT) |[;{}]\s*$", re.MULTILINE)
_READ = 4000  # characters of a prompt that the rule looks at


def baseline_scores(data: EvaluationSet, *, seed: int = 0) -> dict[str, Floats]:
    """Scores of the baselines that put prompts in an order, by name, each of shape (n,).

    `oracle` knows the true gain, `prompt_length` counts characters, `rules` is `rules`, and `topic`, where the
    set has groups, is `topic_gain`. The random one has no order: its figures are known without drawing.

    Args:
        data: With a pair chosen.
        seed: Of the folds of `topic_gain`.
    """
    scores = {
        "oracle": data.strong_scores - data.weak_scores,
        "prompt_length": prompt_length(data.prompts),
        "rules": rules(data.prompts),
    }
    if data.groups is not None and len(set(data.groups)) > 1:
        scores["topic"] = topic_gain(data, rng=np.random.default_rng(seed))
    return scores


def shown(name: str) -> str:
    """What people read for a baseline's name: "random" is chance, known without drawing, and no router of that name."""
    return "chance" if name == "random" else name.replace("_", " ")


def prompt_length(prompts: tuple[str, ...]) -> Floats:
    """Characters of each prompt, shape (n,)."""
    return np.fromiter(map(len, prompts), dtype=np.float64, count=len(prompts))


def rules(prompts: tuple[str, ...]) -> Floats:
    """What a rule of thumb makes of each prompt: words that sound hard, code, numbers, length; shape (n,).

    Written down once, from how such rules look elsewhere, and fitted to nothing.
    """
    return np.fromiter(map(_rule, prompts), dtype=np.float64, count=len(prompts))


def _rule(prompt: str) -> float:
    start = prompt[:_READ]
    words = _WORD.findall(start.lower())
    hard = min(sum(word in _HARD for word in words), 4)
    easy = bool(words) and words[0] in _EASY_START
    code = _CODE.search(start) is not None
    digits = min(sum(start.count(digit) for digit in "0123456789"), 20) / 20
    return hard - easy + 2.0 * code + digits + float(np.log10(1 + len(prompt)))


def topic_gain(data: EvaluationSet, *, rng: np.random.Generator) -> Floats:
    """How much more than all the group of each prompt gains, shape (n,): what one knows who knows only the topic.

    Learned in five folds from the prompts of the other four, so that no prompt's own score is in its figure, and
    as a deviation from their mean, so that folds can be put in one order. That is a little too modest (a group
    without any effect ends below chance on few prompts); learned on all prompts at once it would be far too proud.
    A group that stands in one fold only counts as average.
    """
    assert data.groups is not None
    _, group = np.unique(np.asarray(data.groups, dtype=object).astype(str), return_inverse=True)
    gain = data.strong_scores - data.weak_scores
    fold = rng.permutation(np.arange(len(data)) % _FOLDS)
    found = np.empty(len(data))
    for here in range(_FOLDS):
        others = fold != here
        counts = np.bincount(group[others], minlength=int(group.max()) + 1)
        sums = np.bincount(group[others], weights=gain[others], minlength=counts.size)
        overall = gain[others].mean() if others.any() else 0.0
        means = np.where(counts > 0, sums / np.maximum(counts, 1) - overall, 0.0)
        found[~others] = means[group[~others]]
    return found
