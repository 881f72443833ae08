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
from routellm_core.encoders import StackedEncoder, SurfaceEncoder
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.encoders.ngrams import TokenCounts, count_ngrams
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.evaluation.metrics import apgr
from routellm_core.evaluation.resampling import Interval, apgr_interval, interval, resample
from routellm_core.routers import Router, resolve_router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.routers.fitted import FittedRouter, Metadata, metadata_columns, tokenizing_part
from routellm_core.training.additive import Amplitudes, Blocks, fit_amplitudes, predict, solve

__all__ = ["LARGEST_SCORE", "FitResult", "fit_router"]

Floats = NDArray[np.float64]

_LEAST = 20  # labels
LARGEST_SCORE = 1e100  # of a score, which is squared and summed up
_WIDTH = 1 << 16
_FOLDS = 5
_BASE_LABELS = 150.0  # labels that count as much as the base router does
_CLIP = 3.0  # standard deviations of a surface feature
_CURVE = (0.25, 0.5, 1.0)  # of the labels that a fold leaves


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """A fitted router, and what cross-validation says of it.

    Attributes:
        router: Calibrated on the held-out win rates; ready to use and to save.
        apgr: Of the cross-validation, each prompt scored by a router that was fitted without it; None if the strong
            model is no better than the weak one in these labels.
        apgr_interval: 95 % over prompts; the models stay as they were fitted.
        base_apgr: The base router's on the same prompts, unchanged.
        learning_curve: Rows by number of labels, each about twice the one before: `labels`, `apgr` with `low` and
            `high` (95 % over prompts), and `gain` over the row before with `gain_low` and `gain_high`. Where the last
            gain is clearly above 0, more labels will probably help still. Empty where it was not asked for.
        n_labels: Prompts fitted on.
    """

    router: FittedRouter
    apgr: float | None
    apgr_interval: Interval | None
    base_apgr: float | None
    learning_curve: Sequence[Mapping[str, float]] = field(repr=False)
    n_labels: int

    def save(self, folder: str | Path) -> None:
        """Write the router to a folder, see `Router.save`."""
        self.router.save(folder)

    def __str__(self) -> str:
        if self.apgr is None or self.apgr_interval is None:
            return f"fitted on {self.n_labels:,} labels; the strong model is no better in them, so there is no APGR"
        low, high = self.apgr_interval
        return (
            f"APGR {self.apgr:.3f} ({low:.3f} to {high:.3f}) in {_FOLDS}-fold cross-validation over "
            f"{self.n_labels:,} labels; the base router alone {self.base_apgr:.3f}"
        )


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
    and numbers, hashed words and pairs of words, and metadata; how much each of them says is learned by marginal
    likelihood. The base router is the prior: its difficulty counts like 150 labels. All that is reported comes
    from cross-validation in which every choice is made anew in each fold.

    Args:
        prompts: From 20 on; a few hundred make a difference.
        strong_scores: Quality of the strong model's answer to each, shape (n,); any scale on which more is better.
        weak_scores: The same of the weak model.
        scores: Instead of both: scores by model, for routing among more than two.
        strong: With `scores`: the model on the strong side. None: the best on average.
        weak: With `scores`: the model on the weak side. None: the worst on average.
        base: The router that serves as prior; one that learned a difficulty, such as "default".
        metadata: What else is known of each prompt, such as {"topic": [...], "tier": [...]}: categories; None for
            unknown. It must then be given with the prompts that are scored, too, see `FittedRouter.win_rate`.
        groups: What belongs together (a conversation, a template): never split between fitting and checking.
        learning_curve: Also fit on parts of the labels, to see whether more would help.
        seed: Of the folds.
        name: What records call the router.

    Returns:
        The router with its figures.

    Raises:
        DataError: Too few prompts, scores that are missing or of another length, or labels that never differ.
        ConfigurationError: Both kinds of scores or none, or a base router that has no difficulty.
        UnknownKindError: `strong` or `weak` is no model of `scores`.
        MissingExtraError: scipy is not installed.

    Example:
        >>> result = fit_router(prompts, strong_scores=strong_scores, weak_scores=weak_scores)
        >>> print(result)
        APGR 0.641 (0.618 to 0.665) in 5-fold cross-validation over 1,500 labels; the base router alone 0.566
        >>> result.save("my-router")
    """
    texts = checked_texts(prompts, what="prompt")
    table, models = _table(len(texts), strong_scores, weak_scores, scores)
    s, w = _pair(table, models, strong, weak)
    if not np.ptp(table - table.mean(axis=1, keepdims=True)) > 0:
        raise DataError("the scores never differ between the models, so there is nothing to learn")
    prior = _base(base)
    rng = np.random.default_rng(seed)
    features = _Features(prior, texts, metadata or {})
    difficulty = prior.difficulty(texts) - prior.bias  # as the fitted router works it out
    contrasts = table[:, [s]] - table[:, [w]] if len(models) == 2 else table - table.mean(axis=1, keepdims=True)
    amplitudes = fit_amplitudes(features.blocks, contrasts - contrasts.mean(axis=0), rng=rng)

    folds = _folds(len(texts), groups, rng)
    held_out = np.zeros_like(table)
    for fold in range(_FOLDS):
        test = np.flatnonzero(folds == fold)
        train = np.flatnonzero(folds != fold)
        held_out[test] = _fit_predict(features.blocks, table, contrasts, train, test, amplitudes, rng)
    blend = _blend(len(texts))
    gap, link, scale, win_rates = _linked(held_out, table, difficulty, blend, (s, w))

    weights = solve(features.blocks, table - table.mean(axis=0), amplitudes)
    router = features.router(
        weights,
        bias=table.mean(axis=0),
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
    better = table[:, s].mean() > table[:, w].mean()
    of_strong, of_weak = table[:, s], table[:, w]
    curve = (
        _curve(features.blocks, table, contrasts, difficulty, held_out, folds, amplitudes, (s, w), rng)
        if learning_curve and better
        else []
    )
    return FitResult(
        router=router,
        apgr=apgr(win_rates, of_strong, of_weak) if better else None,
        apgr_interval=apgr_interval(win_rates, of_strong, of_weak, rng=rng) if better else None,
        base_apgr=apgr(difficulty, of_strong, of_weak) if better else None,
        learning_curve=curve,
        n_labels=len(texts),
    )


# -- labels
def _table(
    n: int, strong_scores: ArrayLike | None, weak_scores: ArrayLike | None, scores: Mapping[str, ArrayLike] | None
) -> tuple[Floats, tuple[str, ...]]:
    """Scores of shape (n, M), and the models' names."""
    both = strong_scores is not None and weak_scores is not None
    if both == (scores is not None) or (scores is not None and (strong_scores is not None or weak_scores is not None)):
        raise ConfigurationError("give strong_scores= and weak_scores=, or scores={model: scores}, not both")
    given: dict[str, Any] = dict(scores) if scores is not None else {"weak": weak_scores, "strong": strong_scores}
    if len(given) < 2:
        raise ConfigurationError(f"scores= needs two or more models, got {', '.join(given) or 'none'}")
    if n < _LEAST:
        raise DataError(f"{n} labelled prompts are too few: {_LEAST} are the least, a few hundred make a difference")
    columns = []
    for model, column in given.items():
        try:
            array = np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"the scores of {model!r} are not numbers: {error}") from None
        if array.shape != (n,):
            raise DataError(f"the scores of {model!r} have shape {array.shape}, but there are {n} prompts")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise DataError(
                f"the score of {model!r} for prompt {row} is {array[row]}: leave out prompts without a label"
            )
        if np.abs(array).max() > LARGEST_SCORE:
            raise DataError(f"the scores of {model!r} reach {np.abs(array).max():.3g}; give them on a smaller scale")
        columns.append(array)
    return np.stack(columns, axis=1), tuple(map(str, given))


def _pair(table: Floats, models: tuple[str, ...], strong: str | None, weak: str | None) -> tuple[int, int]:
    for wanted in (strong, weak):
        if wanted is not None and wanted not in models:
            raise UnknownKindError(f"unknown model {wanted!r}; the scores are of {', '.join(models)}")
    if len(models) == 2 and set(models) == {"weak", "strong"} and strong is None and weak is None:
        return models.index("strong"), models.index("weak")
    mean = table.mean(axis=0)
    s = models.index(strong) if strong is not None else int(mean.argmax())
    w = models.index(weak) if weak is not None else int(mean.argmin())
    if s == w:
        raise ConfigurationError(f"strong and weak are the same model, {models[s]!r}")
    return s, w


def _base(base: Router | str | Path) -> DifficultyRouter:
    router = resolve_router(base)
    if not isinstance(router, DifficultyRouter):
        raise ConfigurationError(
            f"the base of a fit is a router that learned a difficulty, such as 'default'; {router.name!r} is of kind "
            f"{router.kind!r}"
        )
    return router


# -- features
class _Features:
    """Blocks of features of the labelled prompts, and the way back from their weights to a router."""

    def __init__(self, base: DifficultyRouter, texts: list[str], metadata: Metadata) -> None:
        sparse = need("scipy.sparse", extra="fit", why="fit_router")
        self.encoder, self.base_weights, self.n_embedding = _encoder(base)
        vectors = self.encoder.encode(texts).astype(np.float64)
        # the embedding as it is, but for its size; surface features standardised and clipped
        self.mean = np.zeros(self.encoder.dim)
        self.size = np.ones(self.encoder.dim)
        embedding, surface = slice(0, self.n_embedding), slice(self.n_embedding, None)
        self.size[embedding] = np.sqrt((vectors[:, embedding] ** 2).sum(axis=1).mean()) or 1.0
        self.mean[surface] = vectors[:, surface].mean(axis=0)
        self.size[surface] = (vectors[:, surface].std(axis=0) + 1e-3) * np.sqrt(SurfaceEncoder().dim)
        reach = _CLIP * self.size / np.sqrt(SurfaceEncoder().dim)
        self.lowest = np.where(np.arange(self.encoder.dim) < self.n_embedding, -np.inf, self.mean - reach)
        self.highest = np.where(np.arange(self.encoder.dim) < self.n_embedding, np.inf, self.mean + reach)
        scaled = (np.clip(vectors, self.lowest, self.highest) - self.mean) / self.size

        counts = count_ngrams(tokenizing_part(self.encoder).tokens(texts), width=_WIDTH)
        # rare n-grams say more; those never seen keep the weight of the rarest, and have no say
        self.importance = np.log((1 + len(texts)) / (1 + counts.document_counts())) + 1
        matrices = [scaled[:, embedding], scaled[:, surface], _matrix(counts.weighted(self.importance), sparse)]

        self.metadata_values = {
            column: tuple(sorted({str(value) for value in given if value is not None}))
            for column, given in metadata.items()
        }
        self.n_values = sum(map(len, self.metadata_values.values()))
        for rows in metadata_columns(metadata, self.metadata_values, len(texts)):
            known = np.flatnonzero(rows >= 0)
            ones = np.ones(len(known))
            matrices.append(sparse.csr_matrix((ones, (known, rows[known])), shape=(len(texts), self.n_values)))
        self.blocks = Blocks(matrices)

    def router(
        self,
        weights: Sequence[Floats],
        *,
        bias: Floats,
        models: tuple[str, ...],
        pair: tuple[str, str],
        base: DifficultyRouter,
        **others: Any,
    ) -> FittedRouter:
        embedding, surface, ngrams, *metadata = weights
        over_vectors = np.concatenate([embedding, surface]) / self.size[:, None]
        return FittedRouter(
            encoder=self.encoder,
            models=models,
            strong=pair[0],
            weak=pair[1],
            weights=over_vectors.T,
            ngram_weights=ngrams,
            ngram_importance=self.importance,
            metadata_weights=np.sum(metadata, axis=0) if metadata else np.zeros((0, len(models))),
            metadata_values=self.metadata_values,
            bias=bias - self.mean @ over_vectors,
            lowest=self.lowest,
            highest=self.highest,
            base_weights=self.base_weights,
            **others,
        )


def _encoder(base: DifficultyRouter) -> tuple[Encoder, Floats, int]:
    """The base's encoder with all surface features behind it, the base's weights on that, the embedding's width."""
    parts = base.encoder.encoders if isinstance(base.encoder, StackedEncoder) else (base.encoder,)
    surface = SurfaceEncoder()
    kept: list[Encoder] = []
    over_kept: list[Floats] = []
    over_surface = np.zeros(surface.dim)
    start = 0
    for part in parts:
        own = base.weights[start : start + part.dim].astype(np.float64)
        start += part.dim
        if isinstance(part, SurfaceEncoder):
            for feature, weight in zip(part.features, own, strict=True):
                over_surface[surface.features.index(feature)] += weight
        else:
            kept.append(part)
            over_kept.append(own)
    if not kept:
        raise ConfigurationError(f"router {base.name!r} has no embedding to fit on")
    weights = np.concatenate([*over_kept, over_surface])
    return StackedEncoder([*kept, surface]), weights, sum(part.dim for part in kept)


def _matrix(counts: TokenCounts, sparse: Any) -> Any:
    return sparse.csr_matrix((counts.values, (counts.rows, counts.columns)), shape=(counts.n_texts, counts.width))


# -- cross-validation
def _folds(n: int, groups: Sequence[Any] | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold for each prompt; equal groups share one."""
    if groups is None:
        return rng.permutation(np.arange(n) % _FOLDS)
    if len(groups) != n:
        raise DataError(f"groups= needs one value a prompt: {n}, got {len(groups)}")
    names, members = np.unique([str(group) for group in groups], return_inverse=True)
    if len(names) < _FOLDS:
        raise DataError(
            f"groups= has {len(names)} different values; {_FOLDS} are the least, to fit and check on others"
        )
    return rng.permutation(np.arange(len(names)) % _FOLDS)[members]


def _fit_predict(
    blocks: Blocks,
    table: Floats,
    contrasts: Floats,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    start: Amplitudes,
    rng: np.random.Generator,
) -> Floats:
    """Qualities of the test prompts, by a fit to the others; its amplitudes begin where those of all are."""
    own = blocks.take(train)
    labels = contrasts[train]
    amplitudes = fit_amplitudes(own, labels - labels.mean(axis=0), rng=rng, start=start, steps=8)
    mean = table[train].mean(axis=0)
    qualities: Floats = predict(blocks.take(test), solve(own, table[train] - mean, amplitudes)) + mean
    return qualities


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
        link[:, s, w] = _logistic(z, table[:, s] > table[:, w])
        if (s, w) == pair:
            win_rates = 1.0 / (1.0 + np.exp(-(link[0, s, w] * z + link[1, s, w])))
    scale = np.array([difficulty.mean(), difficulty.std() or 1.0])
    return gap, link, scale, win_rates


def _logistic(z: Floats, wins: NDArray[np.bool_]) -> Floats:
    """Slope and intercept of P(win | z), the slope at least slightly positive; Newton, with half a label of doubt."""
    target = (wins * len(z) + 0.5) / (len(z) + 1.0)
    slope, intercept = 0.0, float(np.log(target.mean() / (1 - target.mean())))
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-(slope * z + intercept)))
        v = p * (1 - p) + 1e-9
        residual = target - p
        hessian = np.array([[(v * z * z).sum() + 1e-3, (v * z).sum()], [(v * z).sum(), v.sum()]])
        step = np.linalg.solve(hessian, [(residual * z).sum() - 1e-3 * slope, residual.sum()])
        slope, intercept = slope + step[0], intercept + step[1]
        if abs(step).max() < 1e-9:
            break
    return np.array([max(slope, 0.05), intercept])


def _curve(
    blocks: Blocks,
    table: Floats,
    contrasts: Floats,
    difficulty: Floats,
    held_out: Floats,
    folds: NDArray[np.int64],
    start: Amplitudes,
    pair: tuple[int, int],
    rng: np.random.Generator,
) -> list[dict[str, float]]:
    """APGR by number of labels: in each fold parts of the other folds' prompts, the smaller within the larger."""
    s, w = pair
    scorers: dict[str, Floats] = {}
    sizes = [round(part * len(table) * (1 - 1 / _FOLDS)) for part in _CURVE]
    for n, part in zip(sizes, _CURVE, strict=True):
        z = np.zeros(len(table))
        for fold in range(_FOLDS):
            test = np.flatnonzero(folds == fold)
            if part == 1.0:
                found = held_out[test]
            else:
                others = np.random.default_rng(fold).permutation(np.flatnonzero(folds != fold))
                rows = others[: max(2, round(part * len(others)))]
                if not np.ptp(contrasts[rows]) > 0:
                    return []
                found = _fit_predict(blocks, table, contrasts, rows, test, start, rng)
            z[test] = _z(found[:, s] - found[:, w], difficulty[test], _blend(n))
        scorers[str(n)] = z
    drawn = resample(scorers, table[:, s], table[:, w], rng=rng, with_paper=False)
    rows_of_curve, smaller = [], None
    for n in sizes:
        figures = drawn[str(n)].apgr
        low, high = interval(figures) or (np.nan, np.nan)
        row = {"labels": float(n), "apgr": apgr(scorers[str(n)], table[:, s], table[:, w]), "low": low, "high": high}
        if smaller is not None:
            gained = figures - drawn[smaller].apgr
            less, more = interval(gained) or (np.nan, np.nan)
            row |= {"gain": row["apgr"] - rows_of_curve[-1]["apgr"], "gain_low": less, "gain_high": more}
        rows_of_curve.append(row)
        smaller = str(n)
    return rows_of_curve
