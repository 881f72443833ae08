"""Scores of many models on many prompts to a router by difficulty.

1. A Rasch fit explains every score by the ability of its model, shared between all sources, and the
   difficulty of its prompt.
2. A ridge regression predicts the difficulties from the encoder's vectors. Prompts whose difficulty was
   judged from the text alone can join here, for kinds that no models were scored on.
3. A logistic curve from difficulty to P(strong beats weak) is fitted to one pair's labels, on
   difficulties that were predicted without any prompt of the same source.

Everything is a closed form or a Newton iteration on fixed data: the same input gives the same router.

Source: Rasch 1960; Fischer 1973 (difficulties explained by features); Platt 1999 (the logistic curve).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder
from routellm_core.errors import DataError
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.routers.linear import sigmoid
from routellm_core.training.rasch import fit_rasch
from routellm_core.training.rated_prompts import RatedPrompts
from routellm_core.training.score_table import PairLabels, ScoreTable

__all__ = [
    "Block",
    "DifficultyFit",
    "HeldOutCalibration",
    "LinearDifficulty",
    "RatedFeatures",
    "ReliabilityBin",
    "fit_difficulty",
    "fit_linear_difficulty",
    "fit_platt",
]

_ENCODED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbouring features that share a scale and a penalty.

    Attributes:
        width: How many features.
        penalty: Ridge penalty per prompt on weights of features scaled to unit variance; at least 0.
        per_column: Scale each feature on its own (unlike units) instead of all by one factor (an
            embedding, whose small directions should stay small).
    """

    width: int
    penalty: float
    per_column: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearDifficulty:
    """difficulty = features @ weights + bias, in logits, on the scale of the abilities.

    Attributes:
        weights: Shape (E,).
        bias: Added to the product.
        abilities: Ability of each model seen, in logits.
        n_prompts: How many prompts it was fitted to.
    """

    weights: NDArray[np.float64] = field(repr=False)
    bias: float
    abilities: dict[str, float] = field(repr=False)
    n_prompts: int

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Difficulty of each row of features, shape (n,)."""
        predicted: NDArray[np.float64] = features.astype(np.float64) @ self.weights + self.bias
        return predicted


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """One tenth of the held-out rows, ordered by win rate."""

    n: int
    mean_win_rate: float
    share_won: float


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutCalibration:
    """Win rates of labelled rows whose source entered neither the fit nor the calibration.

    Attributes:
        win_rates: Shape (n,).
        base_rates: Share of strong wins among the rows calibrated on: the forecast to beat, shape (n,).
        strong_wins: Shape (n,).
        sources: Shape (n,).
    """

    win_rates: NDArray[np.float64] = field(repr=False)
    base_rates: NDArray[np.float64] = field(repr=False)
    strong_wins: NDArray[np.bool_] = field(repr=False)
    sources: NDArray[np.str_] = field(repr=False)

    @property
    def brier(self) -> float:
        """Mean squared error of the win rates; 0 is perfect."""
        return float(np.mean((self.win_rates - self.strong_wins) ** 2))

    @property
    def base_brier(self) -> float:
        """The same of the base rate, which knows nothing of the prompt."""
        return float(np.mean((self.base_rates - self.strong_wins) ** 2))

    def reliability(self, n_bins: int = 10) -> list[ReliabilityBin]:
        """Forecast against outcome in bins of equal size, from the lowest win rates to the highest."""
        order = np.argsort(self.win_rates, kind="stable")
        return [
            ReliabilityBin(
                n=part.size,
                mean_win_rate=float(self.win_rates[part].mean()),
                share_won=float(self.strong_wins[part].mean()),
            )
            for part in np.array_split(order, n_bins)
            if part.size
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class DifficultyFit:
    """A fitted router, and what is known of it on prompts of sources it did not see.

    Attributes:
        router: Ready to use and to save.
        out_of_fold: Difficulty of each prompt of the table by a fit without its source's fold, shape (Q,).
        fold_of: Fold of each source.
        held_out: Calibration on rows held out twice.
    """

    router: DifficultyRouter
    out_of_fold: NDArray[np.float64] = field(repr=False)
    fold_of: dict[str, int] = field(repr=False)
    held_out: HeldOutCalibration


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedFeatures:
    """What a regression needs of `RatedPrompts`.

    Attributes:
        features: Shape (R, E).
        difficulties: Shape (R,), standardised.
        weight: Of all of them together, where all prompts with scores together have 1.
    """

    features: NDArray[np.float32] = field(repr=False)
    difficulties: NDArray[np.float64] = field(repr=False)
    weight: float = 1.0


def fit_linear_difficulty(
    table: ScoreTable,
    features: NDArray[np.float32],
    *,
    blocks: Sequence[Block],
    without: Collection[str] = (),
    within_sources: bool = False,
    rated: RatedFeatures | None = None,
) -> LinearDifficulty:
    """Rasch fit, then ridge regression of the difficulties on the features.

    Args:
        table: Scores of models on prompts.
        features: Of the table's prompts, shape (Q, E).
        blocks: Their widths sum to E.
        without: Sources whose rows are not looked at, neither for difficulties nor for abilities.
        within_sources: Learn from differences within each source only: every source gets an intercept of its own, which
            drops out. What a score means differs between sources (their metric, their kind of question, the chance of a
            guess), so that differences between them are not all difficulty.
        rated: More prompts for the regression; their difficulties get the mean and the spread of those that are kept.
            They are one source, whoever judged them: with `within_sources` it is they who say how kinds differ.

    Raises:
        DataError: Nothing is left to fit, or shapes do not agree.
    """
    if features.shape[0] != len(table.prompts) or features.shape[1] != sum(block.width for block in blocks):
        raise DataError(
            f"features have shape {features.shape}, expected ({len(table.prompts)}, "
            f"{sum(block.width for block in blocks)}) for this table and these blocks"
        )
    kept = ~np.isin(np.array(table.sources), list(without))
    rows = np.flatnonzero(kept[table.prompt_index])
    if rows.size == 0:
        raise DataError(f"no rows are left without the sources {sorted(without)}")
    prompts, prompt_index = np.unique(table.prompt_index[rows], return_inverse=True)
    models, model_index = np.unique(table.model_index[rows], return_inverse=True)
    difficulties, abilities = fit_rasch(prompt_index.ravel(), model_index.ravel(), table.scores[rows])
    vectors, targets, shares = features[prompts].astype(np.float64), difficulties, np.ones(prompts.size)
    groups = np.unique(np.array(table.sources)[prompts], return_inverse=True)[1].ravel()
    if rated is not None:
        if rated.features.shape != (rated.difficulties.size, vectors.shape[1]) or not 0 < rated.weight < np.inf:
            raise DataError(
                f"rated features have shape {rated.features.shape} for {rated.difficulties.size} difficulties and "
                f"weight {rated.weight}; expected rows of width {vectors.shape[1]}, and a positive weight"
            )
        vectors = np.concatenate([vectors, rated.features.astype(np.float64)])
        targets = np.concatenate([targets, difficulties.mean() + difficulties.std() * rated.difficulties])
        each = rated.weight * prompts.size / rated.difficulties.size
        shares = np.concatenate([shares, np.full(rated.difficulties.size, each)])
        groups = np.concatenate([groups, np.full(rated.difficulties.size, groups.max() + 1)])
    if not within_sources:
        groups = np.zeros_like(groups)
    weights, bias = _ridge(vectors, targets, blocks, shares, groups)
    return LinearDifficulty(
        weights=weights,
        bias=bias,
        n_prompts=prompts.size,
        abilities={
            table.models[model]: round(float(ability), 4) for model, ability in zip(models, abilities, strict=True)
        },
    )


def fit_platt(difficulties: ArrayLike, strong_wins: ArrayLike) -> tuple[float, float]:
    """Slope and intercept such that P(strong wins) is about sigmoid(slope * difficulty + intercept).

    Raises:
        DataError: One outcome is missing, or the strong model does not win more often on harder prompts.
    """
    x, y = np.asarray(difficulties, dtype=np.float64), np.asarray(strong_wins, dtype=np.float64)
    if not 0 < y.sum() < y.size:
        raise DataError(
            f"{y.size} labels with {int(y.sum())} strong wins cannot be calibrated on; both outcomes must occur"
        )
    design = np.column_stack([x, np.ones_like(x)])
    theta = np.array([0.0, np.log(y.mean() / (1 - y.mean()))])
    for _ in range(100):
        p = sigmoid(design @ theta)
        curvature = (design * (p * (1 - p))[:, np.newaxis]).T @ design + 1e-6 * np.eye(2)
        move = np.linalg.solve(curvature, design.T @ (y - p) - 1e-6 * theta)
        theta += move
        if np.abs(move).max() < 1e-10:
            break
    slope, intercept = float(theta[0]), float(theta[1])
    if slope <= 0:
        raise DataError(
            f"on held-out prompts the strong model does not win more often on harder ones (slope "
            f"{slope:.3g}): these labels, or these scores, cannot make a router by difficulty"
        )
    return slope, intercept


def fit_difficulty(
    table: ScoreTable,
    *,
    encoder: Encoder,
    blocks: Sequence[Block],
    labels: PairLabels,
    not_fitted: Collection[str] = (),
    n_folds: int = 6,
    sample_per_source: int = 150,
    strong_share: float = 0.5,
    rng: np.random.Generator,
    name: str | None = None,
    within_sources: bool = False,
    rated: RatedPrompts | None = None,
    rated_weight: float = 1.0,
) -> DifficultyFit:
    """Fit, calibrate and assess a router by difficulty.

    Folds are made of whole sources, because a router meets kinds of prompts that it was not trained
    on; within a source, neighbours in the training half would flatter it. A fold rather than one
    source is left out at a time, which costs `n_folds` fits instead of one a source. Win rates are
    calibrated on out-of-fold difficulties, and assessed by repeating fit and calibration without
    each fold.

    The thresholds come from out-of-fold win rates with at most `sample_per_source` prompts of each
    source: every kind of prompt has the same say, however many prompts of it happen to be published.

    Args:
        table: Scores of models on prompts; at least `n_folds` sources.
        encoder: Turns prompts into features.
        blocks: Partition of the encoder's vector.
        labels: Of the pair that the win rate is for.
        not_fitted: Sources of the table that only give prompts for the thresholds: those whose
            scores do not measure how hard the prompt is.
        n_folds: At least 3.
        sample_per_source: At least 1.
        strong_share: The share whose threshold the router is saved with, 0..1.
        rng: Chooses the prompts of the threshold sample.
        name: Of the router.
        within_sources: Learn from differences within each source only, see `fit_linear_difficulty`.
        rated: More prompts, whose difficulty was judged; in every fit, in no label and no threshold.
        rated_weight: Of all of them together, where all prompts with scores together have 1; positive.

    Raises:
        DataError: Too few sources, labels of one outcome only, or labels that difficulty cannot explain.
    """
    sources = np.array(table.sources)
    fold_of = _folds(sources[~np.isin(sources, list(not_fitted))], n_folds)
    features, label_features = _encode(encoder, table.prompts), _encode(encoder, labels.prompts)
    label_folds = np.array([fold_of.get(source, -1) for source in labels.sources])
    table_folds = np.array([fold_of.get(source, -1) for source in table.sources])
    wins = np.asarray(labels.strong_wins, dtype=np.bool_)
    judged = None
    if rated is not None:
        judged = RatedFeatures(
            features=_encode(encoder, rated.prompts), difficulties=rated.difficulties, weight=rated_weight
        )

    def fitted(*left_out: int) -> LinearDifficulty:
        without = {source for source, fold in fold_of.items() if fold in left_out}
        return fit_linear_difficulty(
            table,
            features,
            blocks=blocks,
            without=without | set(not_fitted),
            within_sources=within_sources,
            rated=judged,
        )

    def predicted(
        models: Sequence[LinearDifficulty], folds: NDArray[np.int_], of: NDArray[np.float32], whole: LinearDifficulty
    ) -> NDArray[np.float64]:
        # rows of sources outside the table (fold -1) are held out from every fit already
        result = whole.predict(of)
        for fold, model in enumerate(models):
            result[folds == fold] = model.predict(of[folds == fold])
        return result

    final = fitted()
    one_out = [fitted(fold) for fold in range(n_folds)]
    slope, intercept = fit_platt(predicted(one_out, label_folds, label_features, final), wins)
    out_of_fold = predicted(one_out, table_folds, features, final)

    win_rates, base_rates = np.full(wins.size, np.nan), np.full(wins.size, np.nan)
    for fold in range(n_folds):
        test, rest = label_folds == fold, label_folds != fold
        if not test.any():
            continue
        two_out = [fitted(fold, other) if other != fold else one_out[fold] for other in range(n_folds)]
        inner = fit_platt(predicted(two_out, label_folds, label_features, one_out[fold])[rest], wins[rest])
        win_rates[test] = sigmoid(inner[0] * one_out[fold].predict(label_features[test]) + inner[1])
        base_rates[test] = wins[rest].mean()
    seen = np.isfinite(win_rates)

    sample = np.concatenate(
        [rng.permutation(np.flatnonzero(sources == source))[:sample_per_source] for source in np.unique(sources)]
    )
    router = DifficultyRouter(
        encoder=encoder,
        weights=final.weights.astype(np.float32),
        bias=final.bias,
        slope=slope,
        intercept=intercept,
        abilities=final.abilities,
        name=name,
        calibration=Calibration.from_win_rates(
            sigmoid(slope * out_of_fold[sample] + intercept),
            strong_share=strong_share,
            source=f"{sample.size} prompts of {np.unique(sources).size} training sources, at most {sample_per_source} "
            "of each, scored by fits that had not seen their source",
        ),
    )
    return DifficultyFit(
        router=router,
        out_of_fold=out_of_fold,
        fold_of=fold_of,
        held_out=HeldOutCalibration(
            win_rates=win_rates[seen],
            base_rates=base_rates[seen],
            strong_wins=wins[seen],
            sources=np.array(labels.sources)[seen],
        ),
    )


def _encode(encoder: Encoder, prompts: Sequence[str]) -> NDArray[np.float32]:
    parts = [
        encoder.encode(prompts[start : start + _ENCODED_AT_ONCE]) for start in range(0, len(prompts), _ENCODED_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else encoder.encode([])


def _folds(sources: NDArray[np.str_], n_folds: int) -> dict[str, int]:
    """Whole sources to folds of about equal size: the largest first, each to the smallest fold so far."""
    names, counts = np.unique(sources, return_counts=True)
    if n_folds < 3 or names.size < n_folds:
        raise DataError(
            f"{names.size} sources cannot be parted into {n_folds} folds; at least 3 folds and as many "
            "sources are needed, so that one can be held out from the fit and one from the calibration"
        )
    sizes = np.zeros(n_folds)
    fold_of = {}
    for position in np.lexsort((names, -counts)):
        fold = int(sizes.argmin())
        fold_of[str(names[position])] = fold
        sizes[fold] += counts[position]
    return fold_of


def _ridge(
    features: NDArray[np.float64],
    targets: NDArray[np.float64],
    blocks: Sequence[Block],
    shares: NDArray[np.float64],
    groups: NDArray[np.intp],
) -> tuple[NDArray[np.float64], float]:
    """Weights for the features as they come, and the bias; the penalties apply to scaled features.

    Args:
        features: Shape (n, E).
        targets: Shape (n,).
        blocks: Their widths sum to E.
        shares: How much each row counts, shape (n,).
        groups: Rows of a group share an intercept; 0..G-1, shape (n,). One group is the plain regression.
    """
    total = float(shares.sum())
    mean, target = shares @ features / total, float(shares @ targets) / total
    spreads = shares @ (features - mean) ** 2 / total
    scales, penalties = [], []
    start = 0
    for block in blocks:
        part = spreads[start : start + block.width]
        scales.append(np.broadcast_to(np.sqrt(part if block.per_column else part.mean()), block.width))
        penalties.append(np.full(block.width, block.penalty * total))
        start += block.width
    scale = np.concatenate(scales)
    scale = np.where(scale > 1e-12, scale, 1.0)  # a constant feature is zero once centred
    scaled, residual = (features - mean) / scale, targets - target
    if groups.any():
        counted = np.zeros((int(groups.max()) + 1, len(groups)))
        counted[groups, np.arange(len(groups))] = shares
        counted /= counted.sum(axis=1, keepdims=True)
        scaled, residual = scaled - (counted @ scaled)[groups], residual - (counted @ residual)[groups]
    weighted = scaled * shares[:, np.newaxis]
    gram = weighted.T @ scaled + np.diag(np.concatenate(penalties) + 1e-9 * total)
    weights = np.linalg.solve(gram, weighted.T @ residual) / scale
    return weights, target - float(mean @ weights)
