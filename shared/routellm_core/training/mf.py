"""Matrix factorisation from battles, in numpy: stochastic gradients with exact derivatives."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration import Calibration
from routellm_core.data import Battles, LabelledPrompts, labels_for_pair
from routellm_core.data.battles import A_WINS, TIE
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.vectors import vectors_of
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.persistence import digest_of
from routellm_core.routers.linear import sigmoid
from routellm_core.routers.mf import MatrixFactorizationRouter
from routellm_core.training.run import TrainingResult, TrainingRun, check_seed
from routellm_core.training.validation import validation_apgr

__all__ = ["Decided", "decided_battles", "train_mf"]

_BLOCK = 8192  # battles whose loss is computed together
_PARTS = ("P", "W", "c")  # names of the paper: model vectors, projection, classifier

_Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Decided:
    """Battles that somebody won: rows of vectors, and of P."""

    prompt: NDArray[np.int64] = field(repr=False)
    winner: NDArray[np.int64] = field(repr=False)
    loser: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return int(self.prompt.size)


def train_mf(
    battles: Battles,
    *,
    encoder: Encoder,
    strong: str,
    weak: str,
    dim: int = 128,
    epochs: int = 100,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-5,
    batch_size: int = 64,
    noise: float = 0.1,
    validation: float = 0.1,
    patience: int = 10,
    seed: int = 0,
    vectors: ArrayLike | None = None,
    name: str | None = None,
    out: Path | None = None,
    restart: bool = False,
) -> TrainingResult:
    """Train a matrix factorisation over all models of the battles.

    Minimises -log sigmoid(delta(winner, q) - delta(loser, q)) by Adam with L2 weight decay; ties are left out.
    A part of the prompts, by whole groups, is held out; the weights that do best on it are kept, and training stops
    when they have not been bettered for `patience` epochs. Each distinct prompt is encoded once.

    With `out`, every epoch ends with a checkpoint. A run that was killed continues from the last one when it is
    called again with the same arguments, to the same weights as one that was not.

    Args:
        battles: n verdicts over Q distinct prompts and N models.
        encoder: Of any kind.
        strong: Model that the router is saved with as the strong one.
        weak: The same for the weak one.
        dim: Width of a model's vector.
        epochs: Passes over the battles, at most.
        learning_rate: Of Adam.
        weight_decay: Added to the gradient as this times the weight, as Adam with L2 penalty has it.
        batch_size: Battles a step.
        noise: Standard deviation of the Gaussian noise on each entry of a prompt's vector, drawn anew each step.
        validation: Fraction of the groups of prompts that is held out; 0 holds nothing out and runs all epochs.
        patience: Epochs without a better validation loss before training stops.
        seed: Of the split, the first weights, the order and the noise.
        vectors: The encoder's vectors of `battles.prompts`, where they exist already, shape (Q, encoder.dim).
        name: What records call the router; None calls it by its kind. A continued run may be given another.
        out: Save the router here.
        restart: Throw an unfinished run away instead of continuing it.

    Returns:
        The router, calibrated on the prompts of all battles. The log begins with a row of counts (step 0: `ties`
        that were left out, `untrained_models` that won or lost no battle in training, which the router does
        not know), then a row an epoch: `loss` (with noise), `validation_loss`, and `validation_apgr` over the
        held-out prompts on which the pair met; None where there are none.

    Raises:
        DataError: No battle but ties, `strong` or `weak` without a battle to learn from, or unusable vectors.
        UnknownKindError: `strong` or `weak` is not among the models.
        ConfigurationError: An argument is out of range, an unfinished run had others, or training diverged.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 (matrix factorization) and its public code.
    """
    _check_arguments(locals())
    for model in (strong, weak):
        if model not in battles.models:
            raise UnknownKindError(f"no battle has a model {model!r}; there are {', '.join(sorted(battles.models))}")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(battles), dtype=bool)
    if validation > 0:
        _, held_battles = battles.split(validation, rng=rng)
        held = np.isin(battles.prompt_index, _rows(battles, held_battles.prompts))
    decided = battles.outcome != TIE
    training, heldout = decided_battles(battles, decided & ~held), decided_battles(battles, decided & held)
    trained = np.union1d(training.winner, training.loser)
    if not len(training):
        raise DataError(
            f"of {len(battles)} battles {int((~decided).sum())} are ties, and none that somebody won is left to use"
        )
    for model in (strong, weak):
        if battles.models.index(model) not in trained:
            raise DataError(f"{model!r} won and lost no battle in training, so nothing can be learned of it")
    known = np.isin(heldout.winner, trained) & np.isin(heldout.loser, trained)
    heldout = Decided(heldout.prompt[known], heldout.winner[known], heldout.loser[known])
    labels = _labels(battles, held, strong, weak)
    given = None if vectors is None else vectors_of(battles.prompts, encoder, vectors)
    started_with = {
        "kind": "mf",
        "battles": battles.digest,
        "encoder": encoder.digest,
        "vectors": None if given is None else digest_of(np.ascontiguousarray(given).tobytes()),
        **{"strong": strong, "weak": weak, "dim": dim, "epochs": epochs, "learning_rate": learning_rate},
        **{"weight_decay": weight_decay, "batch_size": batch_size, "noise": noise, "validation": validation},
        **{"patience": patience, "seed": seed},
    }
    with TrainingRun(out, started_with, restart=restart) as run, _one_thread():
        # only now: vectors may cost money, and everything that can be refused has been
        e = vectors_of(battles.prompts, encoder) if given is None else given
        label_vectors = e[_rows(battles, labels.prompts)] if labels is not None else None
        state = run.state()
        if state is None:
            weights = _first_weights(len(battles.models), dim, encoder.dim, rng)
            adam = _Adam(weights, learning_rate, weight_decay)
            best, best_loss, best_epoch, epoch = weights, np.inf, 0, 0
            run.log(
                step=0,
                battles=len(training),
                validation_battles=len(heldout),
                ties=int((~decided).sum()),
                prompts=len(battles.prompts),
                models=int(trained.size),
                untrained_models=len(battles.models) - int(trained.size),
            )
        else:
            tensors, progress = state
            weights = {part: tensors[part].copy() for part in _PARTS}
            best = {part: tensors[f"best.{part}"] for part in _PARTS}
            adam = _Adam(weights, learning_rate, weight_decay)
            adam.restore(tensors, progress["adam_steps"])
            rng.bit_generator.state = progress["rng"]
            epoch, best_epoch = progress["epoch"], progress["best_epoch"]
            best_loss = np.inf if progress["best_loss"] is None else progress["best_loss"]
        while epoch < epochs and epoch - best_epoch < patience:
            epoch += 1
            with np.errstate(over="ignore", invalid="ignore"):  # said below
                loss = _epoch(weights, adam, e, training, batch_size=batch_size, noise=noise, rng=rng)
            if not np.isfinite(loss):
                raise ConfigurationError(f"training diverged in epoch {epoch}; lower learning_rate={learning_rate!r}")
            validation_loss = _loss(weights, e, heldout) if len(heldout) else None
            if validation_loss is None or validation_loss < best_loss:
                best = {part: weights[part].copy() for part in _PARTS}
                best_epoch = epoch
                best_loss = np.inf if validation_loss is None else validation_loss
            apgr = None
            if labels is not None and label_vectors is not None:
                pair = battles.models.index(strong), battles.models.index(weak)
                apgr = validation_apgr(_pair_win_rates(weights, label_vectors, *pair), labels)
            run.log(step=epoch, loss=loss, validation_loss=validation_loss, validation_apgr=apgr)
            run.checkpoint(
                {**weights, **{f"best.{part}": best[part] for part in _PARTS}, **adam.tensors()},
                epoch=epoch,
                best_epoch=best_epoch,
                best_loss=best_loss if np.isfinite(best_loss) else None,
                adam_steps=adam.steps,
                rng=rng.bit_generator.state,
            )
        router = MatrixFactorizationRouter(
            encoder=encoder,
            model_vectors=best["P"][trained],
            projection=best["W"],
            classifier=best["c"],
            models=[battles.models[i] for i in trained],
            strong=strong,
            weak=weak,
            name=name,
        )
        pair = router.models.index(strong), router.models.index(weak)
        router.calibration = Calibration.from_win_rates(
            _pair_win_rates({**best, "P": router.model_vectors}, e, *pair), source="the prompts of the battles"
        )
        if out is not None:
            router.save(out)
            run.finish(out)
    return TrainingResult(router=router, log=run.rows)


def _one_thread() -> AbstractContextManager[Any]:
    """Matrix products on one thread, where threadpoolctl (it comes with scikit-learn) is there to say so.

    A step's products are so small that threads wait for each other longer than they compute: 70 times longer
    was seen on a busy machine. It also makes the weights independent of the number of processors.
    """
    try:
        limits: AbstractContextManager[Any] = importlib.import_module("threadpoolctl").threadpool_limits(1)
    except ModuleNotFoundError:
        return nullcontext()
    return limits


def _check_arguments(given: dict[str, Any]) -> None:
    for name in ("dim", "epochs", "batch_size", "patience"):
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name} is a positive integer, got {value!r}")
    for name in ("learning_rate", "weight_decay", "noise", "validation"):
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < np.inf:
            raise ConfigurationError(f"{name} is a number from 0, got {value!r}")
    check_seed(given["seed"])
    if not given["validation"] < 1:
        raise ConfigurationError(f"validation is a fraction below 1, got {given['validation']!r}")


def _rows(battles: Battles, prompts: Sequence[str]) -> NDArray[np.int64]:
    row = {prompt: i for i, prompt in enumerate(battles.prompts)}
    return np.array([row[prompt] for prompt in prompts], dtype=np.int64)


def decided_battles(battles: Battles, which: NDArray[np.bool_]) -> Decided:
    """The battles of a mask, shape (n,), that nobody tied, by who won."""
    won = battles.outcome[which] == A_WINS
    a, b = battles.model_a[which], battles.model_b[which]
    return Decided(battles.prompt_index[which], np.where(won, a, b), np.where(won, b, a))


def _labels(battles: Battles, held: NDArray[np.bool_], strong: str, weak: str) -> LabelledPrompts | None:
    if not held.any():
        return None
    part = battles.take(held)
    if strong not in part.models or weak not in part.models:
        return None
    try:
        return labels_for_pair(part, strong, weak)
    except DataError:  # they met on none of these prompts
        return None


def _first_weights(n: int, dim: int, width: int, rng: np.random.Generator) -> _Weights:
    """As the paper's code has them: standard normal vectors, uniform projections of variance 1/(3 inputs)."""
    return {
        "P": rng.standard_normal((n, dim), dtype=np.float32),
        "W": rng.uniform(-1, 1, (dim, width)).astype(np.float32) / np.float32(np.sqrt(width)),
        "c": rng.uniform(-1, 1, dim).astype(np.float32) / np.float32(np.sqrt(dim)),
    }


def _epoch(
    weights: _Weights,
    adam: _Adam,
    vectors: NDArray[np.float32],
    battles: Decided,
    *,
    batch_size: int,
    noise: float,
    rng: np.random.Generator,
) -> float:
    """One pass in random order; weights change in place. Returns the mean loss."""
    total = 0.0
    order = rng.permutation(len(battles))
    for start in range(0, len(battles), batch_size):
        rows = order[start : start + batch_size]
        e = vectors[battles.prompt[rows]]
        if noise > 0:
            e = e + np.float32(noise) * rng.standard_normal(e.shape, dtype=np.float32)
        loss, gradients = _loss_and_gradients(weights, e, battles.winner[rows], battles.loser[rows])
        adam.step(weights, gradients)
        total += loss * rows.size
    return total / len(battles)


def _loss_and_gradients(
    weights: _Weights, e: NDArray[np.float32], winner: NDArray[np.int64], loser: NDArray[np.int64]
) -> tuple[float, _Weights]:
    """Mean loss over b battles and its derivatives.

    Args:
        weights: P (N, D), W (D, E), c (D,).
        e: Prompts' vectors, shape (b, E).
        winner: Rows of P, shape (b,).
        loser: Rows of P, shape (b,).
    """
    p, w, c = (weights[part] for part in _PARTS)
    both = np.concatenate([winner, loser])
    lengths = np.linalg.norm(p[both], axis=1, keepdims=True)
    unit = p[both] / lengths
    b = winner.size
    apart = unit[:b] - unit[b:]
    h = e @ w.T
    margin = (apart * h) @ c  # delta(winner) - delta(loser)
    loss = float(np.logaddexp(0, -margin.astype(np.float64)).mean())
    g = (-sigmoid(-margin) / b).astype(p.dtype)[:, None]
    d_c = (g * apart * h).sum(axis=0)
    d_w = (g * apart * c).T @ e
    d_unit = g * h * c
    d_unit = np.concatenate([d_unit, -d_unit])
    # through p / |p|: what points along p changes nothing
    rows = (d_unit - unit * (unit * d_unit).sum(axis=1, keepdims=True)) / lengths
    order = np.argsort(both, kind="stable")
    models, starts = np.unique(both[order], return_index=True)
    d_p = np.zeros_like(p)
    d_p[models] = np.add.reduceat(rows[order], starts, axis=0)
    return loss, {"P": d_p, "W": d_w, "c": d_c}


def _deltas(weights: _Weights, vectors: NDArray[np.float32], prompt: Any, model: Any) -> NDArray[np.float64]:
    p = weights["P"] / np.linalg.norm(weights["P"], axis=1, keepdims=True)
    deltas: NDArray[np.float64] = ((p * weights["c"])[model] * (vectors[prompt] @ weights["W"].T)).sum(axis=-1)
    return deltas


def _loss(weights: _Weights, vectors: NDArray[np.float32], battles: Decided) -> float:
    total = 0.0
    for start in range(0, len(battles), _BLOCK):
        part = slice(start, start + _BLOCK)
        q = battles.prompt[part]
        margin = _deltas(weights, vectors, q, battles.winner[part]) - _deltas(weights, vectors, q, battles.loser[part])
        total += float(np.logaddexp(0, -margin.astype(np.float64)).sum())
    return total / max(1, len(battles))


def _pair_win_rates(weights: _Weights, vectors: NDArray[np.float32], strong: int, weak: int) -> NDArray[np.float64]:
    p = weights["P"][[strong, weak]].astype(np.float64)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    return sigmoid(vectors @ (((p[0] - p[1]) * weights["c"]) @ weights["W"]))


class _Adam:
    """Adam with bias correction and L2 decay, over a table of arrays (Kingma and Ba 2015)."""

    def __init__(self, weights: _Weights, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate, self.weight_decay, self.steps = learning_rate, weight_decay, 0
        self.first = {part: np.zeros_like(array) for part, array in weights.items()}
        self.second = {part: np.zeros_like(array) for part, array in weights.items()}

    def step(self, weights: _Weights, gradients: _Weights, *, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        """Move the weights in place."""
        self.steps += 1
        b1, b2 = betas
        rate = np.float32(self.learning_rate / (1 - b1**self.steps))
        root = np.float32(1 / np.sqrt(1 - b2**self.steps))
        for part, w in weights.items():
            g, m, v = gradients[part], self.first[part], self.second[part]
            g += np.float32(self.weight_decay) * w
            m *= np.float32(b1)
            m += np.float32(1 - b1) * g
            g *= g
            v *= np.float32(b2)
            v += np.float32(1 - b2) * g
            np.sqrt(v, out=g)
            g *= root
            g += np.float32(1e-8)
            np.divide(m, g, out=g)
            g *= rate
            w -= g

    def tensors(self) -> _Weights:
        return {
            **{f"first.{part}": array for part, array in self.first.items()},
            **{f"second.{part}": array for part, array in self.second.items()},
        }

    def restore(self, tensors: dict[str, NDArray[Any]], steps: int) -> None:
        self.steps = steps
        self.first = {part: tensors[f"first.{part}"].copy() for part in self.first}
        self.second = {part: tensors[f"second.{part}"].copy() for part in self.second}
