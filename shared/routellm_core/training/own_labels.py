"""A router from one's own labels: from fifty to a hundred thousand prompts with scores of two or more models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core._lazy import need
from routellm_core.calibration import calibrate
from routellm_core.encoders.base import checked_texts
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.evaluation.metrics import apgr
from routellm_core.evaluation.resampling import Interval, apgr_interval
from routellm_core.routers import Router
from routellm_core.routers.fitted import FittedRouter
from routellm_core.routers.metadata import Metadata
from routellm_core.training.base_router import base_with_difficulty
from routellm_core.training.cross_validation import N_FOLDS, apgr_by_labels, grouped_folds
from routellm_core.training.linking import fit_link
from routellm_core.training.prompt_features import PromptFeatures
from routellm_core.training.qualities import Qualities
from routellm_core.training.score_column import score_column

__all__ = ["FitResult", "fit_router"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_LEAST = 20  # prompts, and scores of each model
_LEAST_BOTH = 50  # prompts with both scores, for an APGR and a link of their own
_BASE_LABELS = 150.0  # labels that count as much as the base router does


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """A fitted router, and what cross-validation says of it.

    Attributes:
        router: Calibrated on the held-out win rates; ready to use and to save.
        apgr: Of the cross-validation, each prompt scored by a router that was fitted without it, over the prompts that
            have the scores of both models; None if these are fewer than 50 and some are missing, or the strong model
            is no better than the weak one in them.
        apgr_interval: 95 % over prompts; the models stay as they were fitted.
        base: What the base router is called.
        base_apgr: The base router's APGR on the same prompts, unchanged.
        quality_correlation: Of each model, Spearman's rank correlation between the qualities that were predicted for
            prompts held out and the scores given; None where all are the same. It says how well quality is told from
            the prompt, not how much routing gains.
        learning_curve: Rows by number of labels, each about twice the one before: `labels`, `apgr` with `low` and
            `high` (95 % over prompts), and `gain` over the row before with `gain_low` and `gain_high`. Where the last
            gain is clearly above 0, more labels will probably help still. Empty where it was not asked for, and where
            scores are missing.
        n_labels: Prompts fitted on.
        n_scores: Scores of each model.
    """

    router: FittedRouter
    apgr: float | None
    apgr_interval: Interval | None
    base: str
    base_apgr: float | None
    quality_correlation: Mapping[str, float | None]
    learning_curve: Sequence[Mapping[str, float]] = field(repr=False)
    n_labels: int
    n_scores: Mapping[str, int]

    def save(self, folder: str | Path) -> None:
        """Write the router to a folder, see `Router.save`."""
        self.router.save(folder)

    def __str__(self) -> str:
        is_complete = all(count == self.n_labels for count in self.n_scores.values())
        scores = ", ".join(f"{count:,} of {model}" for model, count in self.n_scores.items())
        told = ", ".join(
            f"{model} {'none' if rho is None else f'{rho:.2f}'}" for model, rho in self.quality_correlation.items()
        )
        columns = ", ".join(self.router.metadata_columns)
        known = f" with metadata ({columns})" if columns else ""
        if self.apgr is None or self.apgr_interval is None:
            if is_complete:
                return (
                    f"fitted on {self.n_labels:,} labels{known} to the base router {self.base}; the strong model is no "
                    "better in them, so there is no APGR"
                )
            return (
                f"fitted on {self.n_labels:,} prompts{known} with scores {scores} to the base router {self.base}; "
                f"held-out rank correlation: {told}; no APGR, for which the scores of both models are needed"
            )
        low, high = self.apgr_interval
        figure = (
            f"APGR {self.apgr:.3f} ({low:.3f} to {high:.3f}) in {N_FOLDS}-fold cross-validation over "
            f"{self.n_labels:,} labels{known}; the base router {self.base} alone {self.base_apgr:.3f}"
        )
        if is_complete:
            return figure
        return f"{figure}; of these the prompts with both scores ({scores}), held-out rank correlation: {told}"


def fit_router(
    prompts: Sequence[str],
    *,
    strong_scores: ArrayLike | None = None,
    weak_scores: ArrayLike | None = None,
    scores: Mapping[str, ArrayLike] | None = None,
    strong: str | None = None,
    weak: str | None = None,
    base: Router | str | Path = "default",
    metadata: Metadata | None = None,
    groups: Sequence[Any] | None = None,
    learning_curve: bool = True,
    seed: int = 0,
    name: str = "fitted",
) -> FitResult:
    """Fit a router to labels of one's own; needs the extra `fit`.

    Each model's quality is a sum of linear Gaussian processes over the base router's embedding, counts of characters
    and numbers, hashed words and pairs of words, soft clusters of the prompts where the embedding is contextual (found
    without their labels), and metadata; how much each of them says is learned by marginal likelihood. The base router
    is the prior: its difficulty counts like 150 labels. All that is reported comes from cross-validation in which every
    choice is made anew in each fold.

    Scores may be missing (NaN or None), as in feedback to routed calls, where only the model that answered has one.
    Each model is then fitted on its own prompts. Calls that a router routed are no random sample, but it looked at the
    prompt and at nothing else, so that a regression on the prompt is fair (not so after `EscalationPolicy`, which
    keeps weak answers for being good). It is fair where a model was seen: prompts of a kind that never went to it are
    extrapolated to, so send a few calls of every kind to either. Where fewer than 50 prompts have both scores, a win
    rate is worked out from the two qualities, taken for chances of a right answer (on the range of all scores) that
    are independent given the prompt: P(strong right) P(weak wrong). Models that fail on the same prompts for reasons
    the prompt does not show make this too high; graded scores, where a little better is a win, too low. The order of
    the prompts, and so a `strong_share`, does not hang on it.

    Args:
        prompts: From 20 on; a few hundred make a difference.
        strong_scores: Quality of the strong model's answer to each, shape (n,); any scale on which more is better.
            NaN where it is not known; at least 20 that are.
        weak_scores: The same of the weak model.
        scores: Instead of both: scores by model, for routing among more than two.
        strong: With `scores`: the model on the strong side. None: the best on average; where scores are missing, by
            its predicted quality over all prompts.
        weak: With `scores`: the model on the weak side. None: the worst on average, likewise.
        base: The router that serves as prior; one that learned a difficulty, such as "default".
        metadata: What else is known of each prompt, such as {"topic": [...], "tier": [...]}: categories; None for
            unknown. It must then be given with the prompts that are scored, too, see `FittedRouter.win_rate`.
        groups: What belongs together (a conversation, a template, a prompt that came several times): never split
            between fitting and checking.
        learning_curve: Also fit on parts of the labels, to see whether more would help.
        seed: Of the folds.
        name: What records call the router.

    Returns:
        The router with its figures.

    Raises:
        DataError: Too few prompts, or scores of one model; a prompt without any score, scores of another length, or
            labels that never differ; a column of metadata of another length, or whose values all differ.
        ConfigurationError: Both kinds of scores or none, or a base router that has no difficulty.
        UnknownKindError: `strong` or `weak` is no model of `scores`.
        MissingExtraError: scipy is not installed.

    Example:
        >>> result = fit_router(prompts, strong_scores=strong_scores, weak_scores=weak_scores)
        >>> print(result)
        APGR 0.641 (0.618 to 0.665) in 5-fold cross-validation over 1,500 labels; the base router default alone 0.566
        >>> result.save("my-router")
    """
    texts = checked_texts(prompts, what="prompt")
    table, models = _table(len(texts), strong_scores, weak_scores, scores)
    pair = _pair(np.nanmean(table, axis=0), models, strong, weak)
    prior = base_with_difficulty(base, "a fit")
    rng = np.random.default_rng(seed)
    features = PromptFeatures(prior, texts, metadata or {}, rng=np.random.default_rng((seed, 1)))
    difficulty = features.difficulty
    qualities = Qualities(features.blocks, table, pair)
    amplitudes = qualities.amplitudes(rng)

    folds = _folds(len(texts), groups, rng)
    held_out, deviations = np.zeros_like(table), np.zeros_like(table)
    for fold in range(N_FOLDS):
        test = np.flatnonzero(folds == fold)
        train = np.flatnonzero(folds != fold)
        deviations[test] = qualities.predicted(test, train, amplitudes, rng)
        held_out[test] = deviations[test] + qualities.mean_of(train)
    if not qualities.is_complete:  # a router that sends hard prompts to the best model makes its own scores low
        pair = _pair(held_out.mean(axis=0), models, strong, weak)
    s, w = pair
    blend = _blend(int(qualities.known[:, [s, w]].sum(axis=0).min()))
    gap, link, scale, win_rates = _linked(held_out, table, difficulty, blend, pair)

    router = features.router(
        qualities.weights(amplitudes),
        bias=qualities.mean,
        models=models,
        pair=(models[s], models[w]),
        blend=blend,
        scale=scale,
        gap=gap,
        link=link,
        base=prior,
        name=name,
    )
    router.calibration = calibrate(win_rates, source=f"{len(texts)} labelled prompts, held out in turn")

    def of_part(test: Rows, rows: Rows | None, n: int) -> Floats:
        if rows is None:
            found = held_out[test]
        else:
            found = qualities.predicted(test, rows, amplitudes, rng) + qualities.mean_of(rows)
        return _z(found[:, s] - found[:, w], difficulty[test], _blend(n))

    both = np.flatnonzero(qualities.known[:, s] & qualities.known[:, w])
    of_strong, of_weak = table[both, s], table[both, w]
    enough = qualities.is_complete or len(both) >= _LEAST_BOTH
    better = enough and bool(of_strong.mean() > of_weak.mean())
    curve = (
        apgr_by_labels(of_part, of_strong, of_weak, qualities.contrasts, folds, rng)
        if learning_curve and better and qualities.is_complete
        else []
    )
    return FitResult(
        router=router,
        apgr=apgr(win_rates[both], of_strong, of_weak) if better else None,
        apgr_interval=apgr_interval(win_rates[both], of_strong, of_weak, rng=rng) if better else None,
        base=prior.name,
        base_apgr=apgr(difficulty[both], of_strong, of_weak) if better else None,
        quality_correlation={m: _rank_correlation(deviations[:, i], table[:, i]) for i, m in enumerate(models)},
        learning_curve=curve,
        n_labels=len(texts),
        n_scores=dict(zip(models, qualities.known.sum(axis=0).tolist(), strict=True)),
    )


# -- labels
def _table(
    n: int, strong_scores: ArrayLike | None, weak_scores: ArrayLike | None, scores: Mapping[str, ArrayLike] | None
) -> tuple[Floats, tuple[str, ...]]:
    """Scores of shape (n, M), NaN where not known, and the models' names."""
    both = strong_scores is not None and weak_scores is not None
    if both == (scores is not None) or (scores is not None and (strong_scores is not None or weak_scores is not None)):
        raise ConfigurationError("give strong_scores= and weak_scores=, or scores={model: scores}, not both")
    given: dict[str, Any] = dict(scores) if scores is not None else {"weak": weak_scores, "strong": strong_scores}
    if len(given) < 2:
        raise ConfigurationError(f"scores= needs two or more models, got {', '.join(given) or 'none'}")
    if n < _LEAST:
        raise DataError(f"{n} labelled prompts are too few: {_LEAST} are the least, a few hundred make a difference")
    columns = [
        score_column(column, f"the scores of {model!r}", n, "prompt", may_miss=True) for model, column in given.items()
    ]
    table, models = np.stack(columns, axis=1), tuple(map(str, given))
    known = np.isfinite(table)
    for model, count in zip(models, known.sum(axis=0).tolist(), strict=True):
        if count < _LEAST:
            raise DataError(
                f"model {model!r} has {count} scores, which are too few: {_LEAST} are the least; gather more, or leave "
                "it out together with the prompts that only it answered"
            )
    if not known.any(axis=1).all():
        row = int(np.flatnonzero(~known.any(axis=1))[0])
        raise DataError(f"prompt {row} has no score of any model: leave out prompts without a label")
    # a constant distance between models that have answered the same prompts counts: one is always better
    if not np.ptp((table - table.mean(axis=1, keepdims=True)) if known.all() else table[known]) > 0:
        raise DataError("the scores never differ between the models, so there is nothing to learn")
    return table, models


def _pair(mean: Floats, models: tuple[str, ...], strong: str | None, weak: str | None) -> tuple[int, int]:
    """Columns of the strong and the weak model, the best and the worst by their means unless they are named."""
    for wanted in (strong, weak):
        if wanted is not None and wanted not in models:
            raise UnknownKindError(f"unknown model {wanted!r}; the scores are of {', '.join(models)}")
    if len(models) == 2 and set(models) == {"weak", "strong"} and strong is None and weak is None:
        return models.index("strong"), models.index("weak")
    s = models.index(strong) if strong is not None else int(mean.argmax())
    w = models.index(weak) if weak is not None else int(mean.argmin())
    if s == w:
        raise ConfigurationError(f"strong and weak are the same model, {models[s]!r}")
    return s, w


def _folds(n: int, groups: Sequence[Any] | None, rng: np.random.Generator) -> Rows:
    """A fold for each prompt; equal groups share one."""
    if groups is None:
        return rng.permutation(np.arange(n) % N_FOLDS)
    if len(groups) != n:
        raise DataError(f"groups= needs one value a prompt: {n}, got {len(groups)}")
    return grouped_folds(groups, rng)


# -- from qualities to win rates
def _blend(n: int) -> float:
    return n**2 / (n**2 + _BASE_LABELS**2)


def _z(gap: Floats, difficulty: Floats, blend: float) -> Floats:
    """The labels' say and the base's, each in standard deviations."""
    own: Floats = (gap - gap.mean()) / (gap.std() or 1.0)
    prior: Floats = (difficulty - difficulty.mean()) / (difficulty.std() or 1.0)
    return blend * own + (1.0 - blend) * prior


def _linked(
    held_out: Floats, table: Floats, difficulty: Floats, blend: float, pair: tuple[int, int]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Scale of the gap and link to a win rate for each ordered pair, scale of the base, win rates of the pair."""
    m = table.shape[1]
    gap, link = np.zeros((2, m, m)), np.zeros((2, m, m))
    gap[1] = 1.0
    win_rates = np.zeros(len(table))
    for s, w in permutations(range(m), 2):
        difference = held_out[:, s] - held_out[:, w]
        gap[0, s, w], gap[1, s, w] = difference.mean(), difference.std() or 1.0
        z = _z(difference, difficulty, blend)
        rows, wins = _wins(held_out, table, s, w)
        link[:, s, w] = fit_link(z[rows], wins)
        if (s, w) == pair:
            win_rates = 1.0 / (1.0 + np.exp(-(link[0, s, w] * z + link[1, s, w])))
    scale = np.array([difficulty.mean(), difficulty.std() or 1.0])
    return gap, link, scale, win_rates


def _wins(held_out: Floats, table: Floats, s: int, w: int) -> tuple[Rows, NDArray[Any]]:
    """Rows to fit a link on, and whether the strong model won there, or the chance that it would have."""
    both = np.flatnonzero(np.isfinite(table[:, s]) & np.isfinite(table[:, w]))
    if len(both) == len(table) or len(both) >= _LEAST_BOTH:
        return both, table[both, s] > table[both, w]
    low, high = np.nanmin(table), np.nanmax(table)
    # a score that is known stands for itself: predictions alone would confirm themselves
    chances = (np.where(np.isfinite(table), table, held_out) - low) / (high - low)
    chances = np.clip(chances, 0.0, 1.0)
    return np.arange(len(table)), chances[:, s] * (1.0 - chances[:, w])


def _rank_correlation(predicted: Floats, given: Floats) -> float | None:
    known = np.isfinite(given)
    if not np.ptp(predicted[known]) > 0 or not np.ptp(given[known]) > 0:
        return None
    stats = need("scipy.stats", extra="fit", why="fit_router")
    return float(stats.spearmanr(predicted[known], given[known]).statistic)
