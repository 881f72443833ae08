"""Gradient descent on a transformer that classifies prompts: what the bert and the causal router share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.calibration import Calibration
from routellm_core.data.labels import LabelledPrompts
from routellm_core.encoders.pretrained import batches_by_length, tokens_at_once
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.persistence import digest_of, digests_of_files
from routellm_core.routers import Router
from routellm_core.training.run import TrainingRun
from routellm_core.training.validation import log_loss, validation_apgr

__all__ = [
    "Examples",
    "FineTuning",
    "calibrated",
    "digest_of_base",
    "digest_of_labels",
    "fine_tune",
    "held_out",
    "prompt_weights",
    "seeded",
]

_VERDICTS_WORTH_ONE_MORE = 2.0
_MOST_TOKENS = 1 << 12  # in one pass forward and back: what is kept for the way back takes memory
_CLIPPED_AT = 1.0  # norm of the gradient


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How to descend.

    Attributes:
        steps: Of the optimiser (AdamW).
        batch_size: Prompts a step.
        learning_rate: At its highest.
        weight_decay: On matrices; biases and normalisation have none.
        warmup: Share of the steps over which the rate rises from 0; over the rest it falls back to 0.
        evaluate_every: Steps between two rows of the log.
        checkpoint_every: Steps between two checkpoints.
        patience: Stop after that many evaluations in a row that were no better; None goes on to the end.
        dtype: "float32", or "bfloat16" for the matrix products alone; weights are float32 either way.
        seed: Of the batches and of dropout.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    evaluate_every: int
    checkpoint_every: int
    patience: int | None
    dtype: str
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.patience is not None and self.patience < 1:
            raise ConfigurationError(f"patience must be at least 1, or None for none, got {self.patience!r}")
        if not 0.0 <= self.warmup <= 1.0:
            raise ConfigurationError(f"warmup is a share of the steps, 0 to 1, got {self.warmup!r}")
        if not self.learning_rate > 0.0 or not self.weight_decay >= 0.0:
            raise ConfigurationError(
                "learning_rate must be above 0 and weight_decay at least 0, "
                f"got {self.learning_rate!r} and {self.weight_decay!r}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigurationError(f"training runs in float32 or bfloat16, got dtype {self.dtype!r}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 1."""
        rising = self.warmup * self.steps
        if step <= rising:
            return self.learning_rate * step / rising
        return self.learning_rate * (self.steps - step + 1) / (self.steps - rising + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Prompts as a model sees them, with what it should say.

    Attributes:
        labels: The prompts and the verdicts on each, Q of them.
        ids: Token ids of each prompt.
        targets: Wanted probability of each of the K outputs, shape (Q, K).
    """

    labels: LabelledPrompts
    ids: Sequence[Sequence[int]] = field(repr=False)
    targets: NDArray[np.float32] = field(repr=False)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of each prompt in the batches, shape (Q,)."""
        return prompt_weights(self.labels.counts)


def prompt_weights(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each prompt is drawn: n verdicts count as 3 n / (n + 2) single ones; sums to 1, shape (Q,).

    The verdicts on one prompt are not independent: after a few, one more tells little of what other prompts
    are like. With b the variance between prompts and w that of a single verdict, a prompt's share of verdicts
    has variance b + w / n, so its weight goes as n / (n + w / b). w / b is near 2 where judges gave several
    verdicts a prompt (1.6 to 2.5 on AlpacaEval's).
    """
    n = counts.sum(axis=1)
    weights = n / (n + _VERDICTS_WORTH_ONE_MORE)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def held_out(
    labels: LabelledPrompts, validation: float, *, seed: int
) -> tuple[LabelledPrompts, LabelledPrompts | None]:
    """Labels to learn from, and those of about a fraction of the groups to validate on; no group is in both.

    Raises:
        ConfigurationError: The fraction is not in [0, 1).
        DataError: No prompts, or fewer than two groups, so that nothing can be held out.
    """
    if not 0.0 <= validation < 1.0:
        raise ConfigurationError(f"validation is the share of prompts held out, 0 to below 1, got {validation!r}")
    if not len(labels):
        raise DataError("no labelled prompts to learn from")
    if validation == 0.0:
        return labels, None
    groups = np.unique(labels.groups)
    if groups.size < 2:
        raise DataError("fewer than two groups of prompts, so none can be held out; give more, or validation=0")
    count = min(max(1, round(validation * groups.size)), groups.size - 1)
    chosen = np.isin(labels.groups, np.random.default_rng(seed).permutation(groups)[:count])
    return labels.take(~chosen), labels.take(chosen)


def fine_tune(
    model: Any,
    *,
    logits: Callable[[Sequence[Sequence[int]]], Any],
    n_wins: int,
    training: Examples,
    validation: Examples | None,
    settings: FineTuning,
    run: TrainingRun,
) -> None:
    """Train the parameters of `model` that ask for gradients; those best in validation are left in it.

    Best is the lowest cross-entropy on the held-out prompts, weighted as in training. Batches and dropout of a
    step depend on the seed and the number of the step alone, so that a continued run goes the way it would have
    gone (exactly on a CPU; on a GPU up to its own lack of determinism).

    Args:
        model: A torch module.
        logits: Token ids to a tensor of shape (rows, K), differentiable.
        n_wins: How many of the K outputs, from the first, mean that the strong side wins.
        training: What to learn from.
        validation: Held out; None keeps the last weights.
        settings: How.
        run: Takes the log and the checkpoints. A row has `step`, `loss` (mean since the last row), `learning_rate`,
            and with validation `validation_loss`, `validation_log_loss` and `validation_apgr`.

    Raises:
        ConfigurationError: The loss is not finite any more.
    """
    torch = need("torch", extra="train", why="training a transformer")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained.values() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )
    best: dict[str, Any] = {}
    best_loss, worse, step, losses = float("inf"), 0, 0, 0.0
    if (state := run.state()) is not None:
        tensors, progress = state
        step, worse, losses = progress["step"], progress["worse"], progress["losses"]
        best_loss = float("inf") if progress["best_loss"] is None else progress["best_loss"]
        best = _restore(tensors, trained, optimizer, step)
    with seeded(settings.seed, device=next(model.parameters()).device):
        while step < settings.steps and not (settings.patience is not None and worse >= settings.patience):
            step += 1
            losses += _one_step(model, optimizer, list(trained.values()), logits, training, settings, step)
            if not np.isfinite(losses):
                raise ConfigurationError(f"the loss is not finite at step {step}; give a lower learning_rate")
            if step % settings.evaluate_every == 0 or step == settings.steps:
                since = step % settings.evaluate_every or settings.evaluate_every
                row: dict[str, Any] = {"loss": losses / since, "learning_rate": settings.rate_at(step)}
                losses = 0.0
                if validation is not None:
                    row |= _validated(model, logits, n_wins, validation, settings)
                    worse += 1
                    if row["validation_loss"] < best_loss:
                        best_loss, worse = row["validation_loss"], 0
                        best = {name: p.detach().cpu().clone() for name, p in trained.items()}
                run.log(step=step, **row)
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                run.checkpoint(
                    _state(trained, optimizer, best),
                    step=step,
                    worse=worse,
                    losses=losses,
                    best_loss=best_loss if best else None,
                )
    with torch.no_grad():
        for name, values in best.items():
            trained[name].copy_(values)
    model.eval()


@contextmanager
def seeded(seed: int, *, device: Any = None) -> Iterator[None]:
    """Torch's random numbers from this seed on; behind it the caller's go on as if nothing had happened."""
    torch = need("torch", extra="train", why="training a transformer")
    with torch.random.fork_rng(devices=[] if device is None or device.type != "cuda" else [device]):
        torch.manual_seed(seed)
        yield


def calibrated(
    router: Router, training: LabelledPrompts, validation: LabelledPrompts | None, *, out: Path | None, run: TrainingRun
) -> Router:
    """Calibrate a trained router on the prompts it was validated on, else on those it learned from, and save it."""
    sample, what = (training, "it was trained on") if validation is None else (validation, "held out in training")
    router.calibration = Calibration.from_win_rates(
        router.win_rate(sample.prompts), source=f"{len(sample)} prompts {what}"
    )
    if out is not None:
        router.save(out)
        run.finish(out)
    return router


def digest_of_labels(labels: LabelledPrompts) -> str:
    """64 hexadecimal digits over prompts, verdicts and groups, in their order."""
    prompts = digest_of(*(prompt.encode("utf-8", "surrogatepass") for prompt in labels.prompts))
    counts = np.ascontiguousarray(labels.counts).astype("<f8").tobytes()
    return digest_of(prompts, counts, np.ascontiguousarray(labels.groups).astype("<i8").tobytes())


def digest_of_base(base: str | Path, model: Any) -> str:
    """What a run is tied to: the files of a folder, else the hub's name with its commit."""
    path = Path(base)
    if path.is_dir():
        return digest_of(json.dumps(digests_of_files(path), sort_keys=True))
    if path.is_file():
        return digests_of_files(path.parent)[path.name]
    return f"{base}@{getattr(model.config, '_commit_hash', None)}"


def _one_step(
    model: Any,
    optimizer: Any,
    parameters: list[Any],
    logits: Callable[[Sequence[Sequence[int]]], Any],
    training: Examples,
    settings: FineTuning,
    step: int,
) -> float:
    """Descend once; the mean loss of the batch before it."""
    torch = need("torch", extra="train", why="training a transformer")
    sequence = np.random.SeedSequence([settings.seed, step])
    rows = np.random.default_rng(sequence).choice(len(training.ids), size=settings.batch_size, p=training.weights)
    torch.manual_seed(int(sequence.generate_state(1)[0]))
    for group in optimizer.param_groups:
        group["lr"] = settings.rate_at(step)
    model.train()
    total = 0.0
    # in passes of like length: little padding, and memory that the batch size does not decide
    for part in batches_by_length([len(training.ids[row]) for row in rows], min(tokens_at_once(model), _MOST_TOKENS)):
        picked = rows[part]
        loss = _log_probabilities(model, logits, training, picked, settings)[1].sum() / settings.batch_size
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(parameters, _CLIPPED_AT)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _log_probabilities(
    model: Any,
    logits: Callable[[Sequence[Sequence[int]]], Any],
    examples: Examples,
    rows: NDArray[np.int64],
    settings: FineTuning,
) -> tuple[Any, Any]:
    """Log probabilities of the outputs on some rows, and the cross-entropy of each with its target."""
    torch = need("torch", extra="train", why="training a transformer")
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.dtype == "bfloat16"):
        raw = logits([examples.ids[row] for row in rows])
    logarithms = torch.log_softmax(raw.float(), dim=-1)
    return logarithms, -(logarithms * torch.from_numpy(examples.targets[rows]).to(device)).sum(dim=-1)


def _validated(
    model: Any,
    logits: Callable[[Sequence[Sequence[int]]], Any],
    n_wins: int,
    examples: Examples,
    settings: FineTuning,
) -> dict[str, float | None]:
    torch = need("torch", extra="train", why="training a transformer")
    model.eval()
    win_rates, losses = np.zeros(len(examples.ids)), np.zeros(len(examples.ids))
    for rows in batches_by_length([len(ids) for ids in examples.ids], tokens_at_once(model)):
        with torch.inference_mode():
            logarithms, entropies = _log_probabilities(model, logits, examples, rows, settings)
        win_rates[rows] = logarithms[:, :n_wins].double().exp().sum(dim=-1).cpu().numpy()
        losses[rows] = entropies.cpu().numpy()
    return {
        "validation_loss": float(losses @ examples.weights),
        "validation_log_loss": log_loss(win_rates, examples.labels),
        "validation_apgr": validation_apgr(win_rates, examples.labels),
    }


_MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW remembers of each parameter


def _state(trained: dict[str, Any], optimizer: Any, best: dict[str, Any]) -> dict[str, NDArray[Any]]:
    tensors = {f"model.{name}": p.detach() for name, p in trained.items()}
    tensors |= {f"best.{name}": values for name, values in best.items()}
    for name, p in trained.items():
        tensors |= {f"{moment}.{name}": optimizer.state[p][moment] for moment in _MOMENTS if p in optimizer.state}
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _restore(tensors: dict[str, NDArray[Any]], trained: dict[str, Any], optimizer: Any, step: int) -> dict[str, Any]:
    """Put a checkpoint back into model and optimiser; the best weights so far."""
    torch = need("torch", extra="train", why="training a transformer")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(torch.from_numpy(tensors[f"model.{name}"]))
            if f"{_MOMENTS[0]}.{name}" in tensors:
                optimizer.state[p] = {"step": torch.tensor(float(step))} | {
                    moment: torch.from_numpy(tensors[f"{moment}.{name}"].copy()).to(p.device) for moment in _MOMENTS
                }
    return {name: torch.from_numpy(tensors[f"best.{name}"].copy()) for name in trained if f"best.{name}" in tensors}
