"""A verifier from labelled answers: how much better the strong model's answer would be than this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core._lazy import need
from routellm_core.encoders import StackedEncoder, SurfaceEncoder
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.evaluation.metrics import apgr
from routellm_core.evaluation.resampling import Interval, apgr_interval
from routellm_core.routers import Router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.training.additive import Amplitudes, Blocks, fit_amplitudes, predict, solve
from routellm_core.training.base_router import base_with_difficulty, stacked_on_surface
from routellm_core.training.cross_validation import N_FOLDS, apgr_by_labels, grouped_folds
from routellm_core.training.linking import fit_link
from routellm_core.training.score_column import score_column
from routellm_core.verifiers import Answer
from routellm_core.verifiers.answer import checked_answers
from routellm_core.verifiers.features import raw_features
from routellm_core.verifiers.fitted import FittedVerifier, grams, prompt_signs, scaled

__all__ = ["VerifierResult", "fit_verifier"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_LEAST = 40  # labels
_WIDTH = 1 << 16
_CHOICE_ROWS = 1500  # labels that the gain and the weak score are compared on: each costs kernels, more tell little
_SAME = 0.999  # correlation from which the two are one label


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifierResult:
    """A fitted verifier, and what cross-validation says of it.

    Attributes:
        verifier: Fitted on all answers; ready to use and to save.
        win_rates: Of each answer, by a verifier fitted without it, shape (n,): what `calibrate_escalation` wants.
        apgr: Of these, the strong share on the horizontal axis and the weak calls not charged; None if the strong
            model is no better than the weak one in these labels, or was not given.
        apgr_interval: 95 % over answers; the models stay as they were fitted.
        prompt_apgr: The base router's on the same prompts, unchanged: what is known before the answer is there. None
            without prompts.
        learning_curve: Rows by number of labels: `labels`, `apgr` with `low` and `high` (95 % over answers), and
            `gain` over the row before with `gain_low` and `gain_high`. Empty where it was not asked for.
        n_labels: Answers fitted on.
        learned: What the verifier was fitted to, "gain" or "weak_score", see `fit_verifier`. With the latter it knows
            the order of the gains and not their size: `verifier.gain` refuses.
    """

    verifier: FittedVerifier
    win_rates: Floats = field(repr=False)
    apgr: float | None
    apgr_interval: Interval | None
    prompt_apgr: float | None
    learning_curve: Sequence[Mapping[str, float]] = field(repr=False)
    n_labels: int
    learned: Literal["gain", "weak_score"]

    def save(self, folder: str | Path) -> None:
        """Write the verifier to a folder, see `Verifier.save`."""
        self.verifier.save(folder)

    def __str__(self) -> str:
        learned = ""
        if self.learned == "weak_score":
            learned = "; learned from the weak scores, so it knows which answers gain more, not how much"
        if self.apgr is None or self.apgr_interval is None:
            return f"fitted on {self.n_labels:,} answers; there is no better strong model in them, so no APGR{learned}"
        low, high = self.apgr_interval
        prompt = "" if self.prompt_apgr is None else f"; the prompt alone, by the base router, {self.prompt_apgr:.3f}"
        return (
            f"APGR {self.apgr:.3f} ({low:.3f} to {high:.3f}) in {N_FOLDS}-fold cross-validation over "
            f"{self.n_labels:,} answers{prompt}{learned}"
        )


def fit_verifier(
    answers: Sequence[str | Answer],
    *,
    weak_scores: ArrayLike,
    strong_scores: ArrayLike | None = None,
    prompts: Sequence[str | None] | None = None,
    base_router: Router | str | Path = "default",
    groups: Sequence[Any] | None = None,
    learning_curve: bool = True,
    seed: int = 0,
    name: str = "fitted",
) -> VerifierResult:
    """Fit a verifier to labelled answers of the weak model; needs the extra `fit`.

    What is learned is the gain, strong score less weak score, and not whether the weak answer is good: a question
    that both models get wrong is not worth a second call. Only where a fit to the weak scores alone puts held out
    answers into a better order by gain, by more than a standard error, is that one taken: so it may be where the
    strong model is hardly better, and its scores add more noise than they tell.

    The label is a sum of linear Gaussian processes over the answer's embedding, its checks
    (`verifiers.checks.CHECKS`), hashed words, its opening words, and the same of the prompt with the base router's
    difficulty; how much each of them says is learned by marginal likelihood. A link turns it into P(strong better).
    All that is reported comes from cross-validation in which every choice is made anew in each fold.

    Args:
        answers: The weak model's answers, from 40 on; a few hundred make a difference. Give what else is known
            (finish_reason, logprobs, resamples, ...) here if it will be known in use.
        weak_scores: Quality of each, shape (n,); any scale on which more is better.
        strong_scores: The same of the strong model's answers to the same prompts. None: the strong model is taken to
            reach the best of `weak_scores` every time, which is right where the strong model hardly fails; what is
            learned is then the weak score.
        prompts: What was asked; None where it is not known.
        base_router: Gives the encoder, and the prompt's difficulty; one that learned a difficulty, such as "default".
        groups: What belongs together: never split between fitting and checking. None: equal prompts.
        learning_curve: Also fit on parts of the labels, to see whether more would help.
        seed: Of the folds.
        name: What records call the verifier.

    Raises:
        DataError: Too few answers, scores that are missing or of another length, or labels that never differ.
        ConfigurationError: A base router that has no difficulty, or no static encoder.
        MissingExtraError: scipy is not installed.

    Example:
        >>> result = fit_verifier(answers, weak_scores=weak_scores, strong_scores=strong_scores, prompts=prompts)
        >>> print(result)
        APGR 0.824 (0.800 to 0.846) in 5-fold cross-validation over 1,307 answers; the prompt alone, ...
        >>> result.save("my-verifier")
    """
    records, questions = checked_answers(answers, prompts)
    n = len(records)
    if n < _LEAST:
        raise DataError(f"{n} labelled answers are too few: {_LEAST} are the least, a few hundred make a difference")
    weak = score_column(weak_scores, "weak_scores", n, "answer")
    strong = (
        np.full(n, weak.max()) if strong_scores is None else score_column(strong_scores, "strong_scores", n, "answer")
    )
    gain = strong - weak
    if not np.ptp(gain) > 0:
        raise DataError("the strong model's gain is the same for every answer, so there is nothing to learn")
    rng = np.random.default_rng(seed)
    base = base_with_difficulty(base_router, "a verifier")
    features = _Features(base, records, questions)
    together = _groups(groups, questions)
    fit = _Fit(features.blocks, strong, weak, together, seed)
    weights, learned = fit.weights(np.arange(n), rng)
    if strong_scores is None:
        learned = "weak_score"

    folds = grouped_folds(together, rng)
    held_out = np.zeros(n)
    for fold in range(N_FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        held_out[test] = fit.predicted(train, test, rng)
    link = _link(held_out, gain > 0)
    win_rates = 1.0 / (1.0 + np.exp(-(link[0] * held_out + link[1])))

    def of_part(test: Rows, rows: Rows | None, _: int) -> Floats:
        return held_out[test] if rows is None else fit.predicted(rows, test, rng)

    verifier = features.verifier(
        [each[:, 0] for each in weights], bias=float(gain.mean()), link=link, learned=learned, name=name
    )
    better = strong_scores is not None and gain.mean() > 0
    has_prompts = better and None not in questions
    return VerifierResult(
        verifier=verifier,
        win_rates=win_rates,
        apgr=apgr(win_rates, strong, weak) if better else None,
        apgr_interval=apgr_interval(win_rates, strong, weak, rng=rng) if better else None,
        prompt_apgr=apgr(base.win_rate([q or "" for q in questions]), strong, weak) if has_prompts else None,
        learning_curve=(apgr_by_labels(of_part, strong, weak, gain, folds, rng) if learning_curve and better else []),
        n_labels=n,
        learned=learned,
    )


class _Features:
    """Blocks of features of the labelled answers, and the way back from their weights to a verifier."""

    def __init__(self, base: DifficultyRouter, answers: list[Answer], prompts: list[str | None]) -> None:
        sparse = need("scipy.sparse", extra="fit", why="fit_verifier")
        self.encoder, self.base_weights = _encoder(base)
        raw = raw_features(self.encoder, answers, prompts, width=_WIDTH)
        means, sizes = [], []
        vectors = []
        for each in (raw.answer, raw.prompt):
            mean = _known_mean(each)
            centred = np.nan_to_num(each - mean)
            size = float(np.sqrt((centred**2).sum(axis=1).mean())) or 1.0
            means.append(mean)
            sizes.append(size)
            vectors.append(centred / size)
        self.embedding_mean, self.embedding_size = np.stack(means), np.array(sizes)
        signs, asked = raw.signs, prompt_signs(raw, self.base_weights)
        self.scales = [_scale(each) for each in (signs, asked)]
        # a row's length is about 1, as an embedding's is
        of_signs, of_prompts = (
            scaled(each, scale) / np.sqrt(each.shape[1])
            for each, scale in zip((signs, asked), self.scales, strict=True)
        )
        # rare n-grams say more; those never seen keep the weight of the rarest, and have no say
        self.importance = np.stack(
            [np.log((1 + len(answers)) / (1 + counts.document_counts())) + 1 for counts in grams(raw)]
        )
        matrices: list[Any] = [vectors[0], of_signs]
        for counts, importance in zip(grams(raw), self.importance, strict=True):
            found = counts.weighted(importance)
            matrices.append(
                sparse.csr_matrix((found.values, (found.rows, found.columns)), shape=(found.n_texts, found.width))
            )
        self.has_prompts = any(prompt is not None for prompt in prompts)
        self.blocks = Blocks([*matrices, vectors[1], of_prompts] if self.has_prompts else matrices[:-1])

    def verifier(self, weights: Sequence[Floats], **others: Any) -> FittedVerifier:
        answer, signs, ngrams, opening, *rest = weights
        asked, prompt, of_prompts = rest or (
            np.zeros(_WIDTH),
            np.zeros_like(answer),
            np.zeros(self.scales[1].shape[1]),
        )
        return FittedVerifier(
            encoder=self.encoder,
            embedding_weights=np.stack([answer, prompt]) / self.embedding_size[:, None],
            embedding_mean=self.embedding_mean,
            sign_weights=signs / np.sqrt(len(signs)),
            sign_scale=self.scales[0],
            prompt_sign_weights=of_prompts / np.sqrt(len(of_prompts)),
            prompt_sign_scale=self.scales[1],
            base_weights=self.base_weights,
            ngram_weights=np.stack([ngrams, opening, asked]),
            ngram_importance=self.importance,
            **others,
        )


def _encoder(base: DifficultyRouter) -> tuple[StackedEncoder, Floats]:
    """The base's static encoder with all surface features behind it, and the base's difficulty over that."""
    first, *others = base.encoder.encoders if isinstance(base.encoder, StackedEncoder) else (base.encoder,)
    if not hasattr(first, "tokens") or len(others) > 1 or not all(isinstance(p, SurfaceEncoder) for p in others):
        raise ConfigurationError(f"router {base.name!r} has no static encoder to fit on; take 'default'")
    encoder, weights, _ = stacked_on_surface(base)
    return encoder, weights


def _known_mean(values: Floats) -> Floats:
    """Mean of each column over its known values; 0 where there is none."""
    known = np.isfinite(values)
    total: Floats = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return total


def _scale(values: Floats) -> Floats:
    """Mean and standard deviation of each column over its known values, shape (2, d); both finite."""
    mean = _known_mean(values)
    deviation = np.sqrt(_known_mean((values - mean) ** 2))
    return np.stack([mean, deviation + 1e-3])


# -- cross-validation
def _groups(groups: Sequence[Any] | None, prompts: list[str | None]) -> Sequence[Any]:
    """What belongs together: as given, else answers to equal prompts."""
    if groups is None:
        return [f"{row}" if prompt is None else f"prompt {prompt}" for row, prompt in enumerate(prompts)]
    if len(groups) != len(prompts):
        raise DataError(f"groups= needs one value an answer: {len(prompts)}, got {len(groups)}")
    return groups


class _Fit:
    """Fits to some of the labelled answers; each chooses anew whether to learn the gain or the weak score."""

    def __init__(self, blocks: Blocks, strong: Floats, weak: Floats, groups: Sequence[Any], seed: int) -> None:
        self.blocks, self.gain, self.badness, self.seed = blocks, strong - weak, -weak, seed
        self.members = np.unique([str(group) for group in groups], return_inverse=True)[1]

    def weights(self, rows: Rows, rng: np.random.Generator) -> tuple[list[Floats], Literal["gain", "weak_score"]]:
        """Of each block, shape (d_b, 1), and what they were fitted to."""
        own = self.blocks.take(rows)
        labels = _centred(self.gain[rows])
        amplitudes = fit_amplitudes(own, labels, rng=rng)
        others = self._better(rows, amplitudes)
        if others is None:
            return solve(own, labels, amplitudes), "gain"
        return solve(own, _centred(self.badness[rows]), others), "weak_score"

    def predicted(self, train: Rows, test: Rows, rng: np.random.Generator) -> Floats:
        """Gain of the test answers, by a fit to the others, about the mean of all.

        Not about the mean of the others: that is the lower, the higher the test answers' own is, and would put the
        folds in the wrong order.
        """
        weights, _ = self.weights(train, rng)
        found: Floats = predict(self.blocks.take(test), weights)[:, 0] + self.gain.mean()
        return found

    def _better(self, rows: Rows, amplitudes: Amplitudes) -> Amplitudes | None:
        """Amplitudes of a fit to the weak scores, if it is clearly better than these of a fit to the gains.

        Better: in folds within the rows, the mean of gain times rank, which is what APGR adds up, is higher by more
        than its standard error. All draws are its own, so that where it finds nothing it changes nothing.
        """
        rng = np.random.default_rng((self.seed, len(rows)))
        if len(rows) > _CHOICE_ROWS:
            rows = np.sort(rng.choice(rows, _CHOICE_ROWS, replace=False))
        gain, badness = self.gain[rows], self.badness[rows]
        if not (gain.std() > 0 and badness.std() > 0) or abs(np.corrcoef(gain, badness)[0, 1]) > _SAME:
            return None
        if len(np.unique(self.members[rows])) < N_FOLDS:
            return None
        stats = need("scipy.stats", extra="fit", why="fit_verifier")
        own = self.blocks.take(rows)
        folds = grouped_folds(self.members[rows].tolist(), rng)
        kernels = own.kernels(own)
        others = fit_amplitudes(own, _centred(badness), rng=rng)
        ranks = [
            stats.rankdata(_held_out(kernels, labels, sizes, folds)) / len(rows)
            for labels, sizes in ((gain, amplitudes), (badness, others))
        ]
        difference = gain * (ranks[1] - ranks[0])
        return others if difference.mean() > difference.std() / np.sqrt(len(rows)) else None


def _centred(labels: Floats) -> Floats:
    """As one column."""
    column: Floats = (labels - labels.mean())[:, None]
    return column


def _held_out(kernels: Sequence[Floats], labels: Floats, amplitudes: Amplitudes, folds: Rows) -> Floats:
    """Each label about the mean of the others, by a fit to the other folds, shape (n,)."""
    covariance = np.zeros_like(kernels[0])
    for kernel, size in zip(kernels, amplitudes.blocks, strict=True):
        covariance += size * kernel
    found = np.zeros(len(labels))
    for fold in range(N_FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        own = covariance[np.ix_(train, train)]
        own[np.diag_indices_from(own)] += amplitudes.noise
        found[test] = covariance[np.ix_(test, train)] @ np.linalg.solve(own, labels[train] - labels[train].mean())
    return found


def _link(gain: Floats, wins: NDArray[np.bool_]) -> Floats:
    """Slope and intercept of P(win | gain), on the gain's own scale."""
    mean, deviation = gain.mean(), gain.std() or 1.0
    slope, intercept = fit_link((gain - mean) / deviation, wins)
    return np.array([slope / deviation, intercept - slope * mean / deviation])
