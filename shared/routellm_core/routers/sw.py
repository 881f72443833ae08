"""Similarity-weighted ranking: Bradley-Terry ratings made anew for each prompt from the battles on similar ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routellm_core.calibration import Calibration
from routellm_core.data.battles import A_WINS, B_WINS, Battles
from routellm_core.encoders.base import Encoder
from routellm_core.encoders.vectors import checked_vectors, vectors_of
from routellm_core.errors import ConfigurationError, DataError, RouterFormatError, ScoringError, UnknownKindError
from routellm_core.routers.base import Router, pair_name
from routellm_core.routers.linear import sigmoid

__all__ = ["SimilarityWeightedRouter"]

_LN10 = np.float32(np.log(10.0))
_LEAST = np.float32(-10.0)  # of sim / max sim
_ELO = 400.0 / np.log(10.0)  # one unit of a natural-log coefficient
_BLOCK_FLOATS = 1 << 24  # similarities held at once: 64 MiB; larger products are faster ones
_CACHE_FLOATS = 1 << 18  # of them worked on together after that: 1 MiB, what a processor keeps near
_FITS = 4096  # fits made together


class SimilarityWeightedRouter(Router):
    """Ratings of k tiers of models, fitted to all battles with those on similar prompts weighing more.

    For a prompt q, battle i weighs 10^(sim_i / max_j sim_j), sim_i the cosine between q's vector and that
    of battle i's prompt. (The paper writes a constant factor 10 before it, and counts each battle twice: a
    maximum-likelihood fit without penalty is the same without them.) The Bradley-Terry ratings of the tiers
    under these weights give win_rate = 1 / (1 + 10^((elo_weak - elo_strong) / 400)). A tie is half a win for each.

    The k x k matrix of weighted wins is all that the fit needs of the battles, so a decision is one product
    with the battles' vectors, one sum by pair of tiers, and a few Newton steps on k - 1 unknowns.

    Two limits that the formula leaves open. Where no battle's prompt has a positive cosine (max sim <= 0, as for
    an empty text whose vector is zero), all battles weigh the same. And sim_i / max_j sim_j is cut off below
    at -10, so that a weight never vanishes and the ratings exist: it matters only where the nearest prompt is
    less than a tenth as near as the farthest is opposite.

    Args:
        encoder: Gives vectors of width E.
        vectors: Of the battles' distinct prompts, shape (Q, E), float32. Rows of unit length, as a saved router
            has them, are used where they are, mapped files included; others are copied and divided by
            their length. A zero row is similar to nothing.
        prompt_index: Prompt of each entry, shape (m,). An entry says that among a prompt's battles
            one tier beat another so many times.
        winners: Tier that won, shape (m,).
        losers: Tier that lost, another one, shape (m,).
        counts: How many times, > 0, a tie being half a win for each side, shape (m,).
        tiers: Tier of each model, numbers 0 to k - 1; the order of the numbers means nothing here.
        strong: Which of the models is the strong one.
        weak: Which of the models is the weak one, of another tier.
        groups: Group of each prompt, shape (Q,), see `own_win_rates`; None makes every prompt its own.
        name: As in `Router`.
        calibration: Win rates of a sample of prompts.

    Attributes:
        models: The N models' names.
        tiers: Tier of each, in that order, shape (N,).

    Raises:
        DataError: Vectors or entries that cannot be used, or tiers whose ratings do not exist because one (or
            some together) never won or never lost against the others.
        ConfigurationError: Strong and weak are of the same tier.
        UnknownKindError: `strong` or `weak` is not among the models.

    Source: Ong et al. 2024, arXiv:2406.18665, section 4.2 (similarity-weighted ranking).
    """

    kind: ClassVar[str] = "sw"
    maps_tensors: ClassVar[bool] = True
    encoder: Encoder

    def __init__(
        self,
        *,
        encoder: Encoder,
        vectors: ArrayLike,
        prompt_index: ArrayLike,
        winners: ArrayLike,
        losers: ArrayLike,
        counts: ArrayLike,
        tiers: Mapping[str, int],
        strong: str,
        weak: str,
        groups: ArrayLike | None = None,
        name: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(name=name, calibration=calibration)
        self.encoder = encoder
        count = len(vectors) if isinstance(vectors, (np.ndarray, Sequence)) else 0
        self.vectors = _unit_rows(checked_vectors(vectors, count=count, dim=encoder.dim))
        self.models = tuple(tiers)
        self.tiers = _checked_tiers(tiers)
        self._n_tiers = int(self.tiers.max()) + 1
        self.groups = np.arange(count) if groups is None else np.asarray(groups, dtype=np.int64)
        if self.groups.shape != (count,):
            raise DataError(f"groups have shape {self.groups.shape} for {count} prompts")
        self._set_entries(prompt_index, winners, losers, counts)
        self.strong, self.weak = strong, weak
        self._pair = _pair(tiers, strong, weak)
        everything = self._by_cell(np.ones((1, count), dtype=np.float32))
        _check_connected(everything[0] > 0, self.models, self.tiers)
        # where all battles weigh the same; weighted fits start from it
        self._ratings = _bradley_terry(everything, np.zeros(self._n_tiers))[0]

    @classmethod
    def from_battles(
        cls,
        battles: Battles,
        *,
        encoder: Encoder,
        tiers: Mapping[str, int],
        strong: str,
        weak: str,
        vectors: ArrayLike | None = None,
        name: str | None = None,
    ) -> SimilarityWeightedRouter:
        """The router of these battles; there is nothing to train.

        Args:
            battles: n verdicts over Q distinct prompts, each of which is encoded once.
            encoder: Of any kind.
            tiers: Tier of each model, numbers 0 to k - 1. May hold models without battles.
            strong: The strong model.
            weak: The weak model.
            vectors: The encoder's vectors of `battles.prompts`, where they exist already, shape (Q, E).
            name: As in `Router`.

        Raises:
            UnknownKindError: A model of the battles, or `strong` or `weak`, has no tier.
            DataError: As the class, and without battles.
            EncoderError: The encoder failed.
        """
        prompt_index, winners, losers, counts = _entries(battles, tiers)
        numbers = _checked_tiers(tiers)
        _pair(tiers, strong, weak)
        beat = np.zeros((numbers.max() + 1,) * 2, dtype=bool)
        beat[winners, losers] = True
        _check_connected(beat, tuple(tiers), numbers)  # as the class does, but before vectors are paid for
        return cls(
            encoder=encoder,
            vectors=vectors_of(battles.prompts, encoder, vectors),
            prompt_index=prompt_index,
            winners=winners,
            losers=losers,
            counts=counts,
            tiers=tiers,
            strong=strong,
            weak=weak,
            groups=battles.groups,
            name=name,
        )

    def _set_entries(self, prompt_index: ArrayLike, winners: ArrayLike, losers: ArrayLike, counts: ArrayLike) -> None:
        k, q = self._n_tiers, len(self.vectors)
        columns = [np.asarray(column) for column in (prompt_index, winners, losers, counts)]
        if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
            raise DataError(f"the entries' columns have shapes {', '.join(str(c.shape) for c in columns)}")
        prompt, winner, loser = (column.astype(np.intp) for column in columns[:3])
        times = columns[3].astype(np.float32)
        fits = (prompt >= 0) & (prompt < q) & (np.minimum(winner, loser) >= 0) & (np.maximum(winner, loser) < k)
        fits &= (winner != loser) & (times > 0) & np.isfinite(times)
        if not fits.all():
            row = int(np.argmin(fits))
            raise DataError(
                f"entry {row}: prompt {prompt[row]}, tier {winner[row]} over {loser[row]}, {times[row]} times "
                f"does not fit {q} prompts and {k} tiers"
            )
        cell = winner * k + loser
        order = np.lexsort((prompt, cell))  # a cell's entries side by side, so that they sum in one pass
        self._prompt, self._counts = prompt[order], times[order]
        self._cells, self._starts = np.unique(cell[order], return_index=True)

    # -- scoring
    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        return self._score_vectors(self.encoder.encode(prompts))

    def _score_vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._win_rates(self._fits(vectors))

    def _win_rates(self, ratings: NDArray[np.float64]) -> NDArray[np.float64]:
        strong, weak = self._pair
        return sigmoid(ratings[:, strong] - ratings[:, weak])

    def _fits(self, vectors: NDArray[np.float32], left_out: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Ratings of the tiers for each vector, shape (len(vectors), k), natural log, tier 0 at 0.

        `left_out` is the group, for each vector, whose battles are not to count.
        """
        block = max(1, min(256, _BLOCK_FLOATS // len(self.vectors)))
        few = max(1, min(block, _CACHE_FLOATS // len(self.vectors)))
        ratings, wins = [], []
        for start in range(0, len(vectors), block):
            similarity = _unit_rows(vectors[start : start + block]) @ self.vectors.T
            for first in range(0, len(similarity), few):
                own = None
                if left_out is not None:
                    own = self.groups == left_out[start + first : start + block][:few, None]
                wins.append(self._by_cell(_weights(similarity[first : first + few], own)))
            if len(wins) * few >= _FITS or start + block >= len(vectors):
                ratings.append(_bradley_terry(np.concatenate(wins), self._ratings))
                wins = []
        return np.concatenate(ratings)

    def _by_cell(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        entries = np.take(weights, self._prompt, axis=1)
        entries *= self._counts
        wins = np.zeros((len(weights), self._n_tiers**2))
        # a cell's sum is pairwise, which float32 carries to about 1e-7
        wins[:, self._cells] = np.add.reduceat(entries, self._starts, axis=1)
        return wins.reshape(-1, self._n_tiers, self._n_tiers)

    def model_scores(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Elo rating of every model for each prompt, that of its tier; the mean over the tiers is 1000.

        Returns:
            Shape (len(prompts), N), columns in the order of `models`.

        Raises:
            DataError: An element is not a str.
            EncoderError: The encoder failed.
        """
        vectors = self.encoder.encode(prompts)
        if not len(vectors):
            return np.zeros((0, len(self.models)))
        ratings = self._fits(vectors)
        elo = 1000.0 + _ELO * (ratings - ratings.mean(axis=1, keepdims=True))
        scores: NDArray[np.float64] = elo[:, self.tiers]
        return scores

    def own_win_rates(self, prompts: ArrayLike) -> NDArray[np.float64]:
        """Win rates of some of the battles' own prompts, each as if the battles of its group were not there.

        A prompt has cosine 1 with its own battles, so scoring it as it is would show them, not the router.

        Args:
            prompts: Numbers of prompts, rows of `vectors`, shape (n,).

        Returns:
            Shape (n,).
        """
        rows = np.asarray(prompts, dtype=np.intp)
        if not rows.size:
            return np.zeros(0)
        return self._win_rates(self._fits(self.vectors[rows], self.groups[rows]))

    # -- other pairs, more battles
    def for_pair(self, strong: str, weak: str, *, name: str | None = None) -> SimilarityWeightedRouter:
        """The same router for two other of its models. It is not calibrated: thresholds differ by pair.

        Args:
            strong: One of `models`.
            weak: Another.
            name: What records call it. Default: this router's name and the pair, "sw (large over small)".

        Raises:
            UnknownKindError: A model it does not know; the message lists those it does.
            ConfigurationError: Both are of one tier.
        """
        called = name or pair_name(self.name, strong, weak, own=(self.strong, self.weak))
        tiers = dict(zip(self.models, self.tiers.tolist(), strict=True))
        return SimilarityWeightedRouter(**{**self._parts(), "name": called}, tiers=tiers, strong=strong, weak=weak)

    def add(
        self, battles: Battles, *, tiers: Mapping[str, int] | None = None, vectors: ArrayLike | None = None
    ) -> SimilarityWeightedRouter:
        """This router with more battles; it stays as it is. Tiers are not made anew.

        The new one is not calibrated, since its win rates are others.

        Args:
            battles: Their groups are taken to be others than those the router has.
            tiers: Tier, 0 to k - 1, of each model the router does not know yet.
            vectors: As in `from_battles`.

        Raises:
            UnknownKindError: A model of the battles has no tier.
            ConfigurationError: `tiers` moves a known model to another tier.
            DataError: As the class.
        """
        known = dict(zip(self.models, self.tiers.tolist(), strict=True))
        for model, tier in (tiers or {}).items():
            if known.get(model, tier) != tier:
                raise ConfigurationError(
                    f"{model!r} is of tier {known[model]} here, not {tier}; build the router anew to change its tiers"
                )
        known.update(tiers or {})
        prompt_index, winners, losers, counts = _entries(battles, known)
        parts = self._parts()
        more = {
            "prompt_index": prompt_index + len(self.vectors),
            "winners": winners,
            "losers": losers,
            "counts": counts,
            "vectors": _unit_rows(vectors_of(battles.prompts, self.encoder, vectors)),
            "groups": battles.groups - battles.groups.min() + self.groups.max() + 1,
        }
        parts.update({column: np.concatenate([parts[column], added]) for column, added in more.items()})
        return SimilarityWeightedRouter(**parts, tiers=known, strong=self.strong, weak=self.weak)

    def _parts(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "name": self.name, **self.tensors()}

    # -- saving
    def settings(self) -> dict[str, Any]:
        return {
            "models": list(self.models),
            "tiers": self.tiers.tolist(),
            "strong": self.strong,
            "weak": self.weak,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        cell = np.repeat(self._cells, np.diff(self._starts, append=self._prompt.size))
        return {
            "vectors": self.vectors,
            "groups": self.groups,
            "prompt_index": self._prompt,
            "winners": cell // self._n_tiers,
            "losers": cell % self._n_tiers,
            "counts": self._counts,
        }

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> SimilarityWeightedRouter:
        if encoder is None:
            raise RouterFormatError("a router of kind 'sw' was saved without its encoder")
        return cls(
            encoder=encoder,
            vectors=tensors["vectors"],
            prompt_index=tensors["prompt_index"],
            winners=tensors["winners"],
            losers=tensors["losers"],
            counts=tensors["counts"],
            groups=tensors["groups"],
            tiers=dict(zip(settings["models"], settings["tiers"], strict=True)),
            strong=settings["strong"],
            weak=settings["weak"],
        )


def _entries(battles: Battles, tiers: Mapping[str, int]) -> tuple[NDArray[Any], ...]:
    """Prompt, winning tier, losing tier and how many times; battles inside a tier say nothing of the tiers."""
    if not len(battles):
        raise DataError("no battles to weigh")
    missing = [model for model in battles.models if model not in tiers]
    if missing:
        raise UnknownKindError(
            f"no tier for {', '.join(missing)}; tiers were given for {', '.join(tiers)}. Give these models a tier, "
            "or leave their battles out"
        )
    tier = np.array([tiers[model] for model in battles.models], dtype=np.int64)
    a, b = tier[battles.model_a], tier[battles.model_b]
    to_a, to_b = battles.outcome != B_WINS, battles.outcome != A_WINS  # a tie goes to both, half each
    prompt = np.concatenate([battles.prompt_index[to_a], battles.prompt_index[to_b]])
    winner, loser = np.concatenate([a[to_a], b[to_b]]), np.concatenate([b[to_a], a[to_b]])
    times = np.where(to_a & to_b, 0.5, 1.0)
    times = np.concatenate([times[to_a], times[to_b]])
    between = winner != loser
    k, q = int(tier.max()) + 1, len(battles.prompts)
    distinct, entry = np.unique(((winner * k + loser) * q + prompt)[between], return_inverse=True)
    counts = np.bincount(entry.ravel(), weights=times[between], minlength=distinct.size)
    return distinct % q, distinct // q // k, distinct // q % k, counts


def _checked_tiers(tiers: Mapping[str, int]) -> NDArray[np.int64]:
    for model, tier in tiers.items():
        if isinstance(tier, bool) or not isinstance(tier, (int, np.integer)) or tier < 0:
            raise DataError(f"the tier of {model!r} is {tier!r}, not a number from 0")
    array = np.array(list(tiers.values()), dtype=np.int64)
    if np.unique(array).size < 2:
        raise DataError(f"{len(tiers)} models in {np.unique(array).size} tiers; two tiers are the least")
    for tier in np.flatnonzero(np.bincount(array) == 0)[:1]:
        raise DataError(f"no model is of tier {tier}, but tiers go up to {array.max()}; number them without gaps")
    return array


def _pair(tiers: Mapping[str, int], strong: str, weak: str) -> tuple[int, int]:
    for model in (strong, weak):
        if model not in tiers:
            raise UnknownKindError(f"unknown model {model!r}; this router knows: {', '.join(tiers)}")
    if tiers[strong] == tiers[weak]:
        raise ConfigurationError(
            f"{strong!r} and {weak!r} are of the same tier, so every win rate would be one half; "
            "name models of different tiers, or make more tiers"
        )
    return int(tiers[strong]), int(tiers[weak])


def _check_connected(beat: NDArray[np.bool_], models: Sequence[str], tier_of: NDArray[np.int64]) -> None:
    """Ratings exist exactly when each tier beats each other one, directly or over third ones (Ford 1957)."""
    reach = beat | np.eye(len(beat), dtype=bool)
    for _ in range(len(beat)):
        reach = reach @ reach
    if reach.all():
        return
    closed = [(row, "won") for row in reach] + [(column, "lost") for column in reach.T]
    tiers, what = min(closed, key=lambda each: int(each[0].sum()))
    named = ", ".join(
        f"tier {tier} ({', '.join(m for m, t in zip(models, tier_of, strict=True) if t == tier)})"
        for tier in np.flatnonzero(tiers)
    )
    raise DataError(
        f"{named} never {what} a battle against the other tiers, so no finite rating explains the battles; "
        "make fewer tiers, or add battles"
    )


def _unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1, or 0 where they were; the same array where they all are already."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    if np.all((np.abs(lengths - 1) < 3e-6) | (lengths == 0)):
        return vectors
    units: NDArray[np.float32] = vectors / np.where(lengths > 0, lengths, np.float32(1.0))
    return units


def _weights(similarity: NDArray[np.float32], left_out: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """10^(sim / max sim) for each row, in place. What is left out gets the least weight there is.

    Not 0: the ratings must exist without it too.
    """
    if left_out is not None:
        similarity[left_out] = -1.0
    nearest = similarity.max(axis=1, keepdims=True)
    positive = nearest > 0
    similarity *= np.where(positive, _LN10 / np.where(positive, nearest, np.float32(1.0)), np.float32(0.0))
    np.maximum(similarity, _LEAST * _LN10, out=similarity)
    np.exp(similarity, out=similarity)
    if left_out is not None:
        similarity[left_out] = np.float32(10.0) ** _LEAST
    return similarity


def _bradley_terry(wins: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum-likelihood coefficients of many tables of wins at once, by Newton's method.

    Args:
        wins: Of row over column, shape (B, k, k).
        start: Where to begin, shape (k,).

    Returns:
        Natural-log coefficients, the first of each table 0, shape (B, k).
    """
    games = wins + wins.transpose(0, 2, 1)
    coefficients = np.tile(start - start[0], (len(wins), 1))
    diagonal = np.arange(wins.shape[1])
    for _ in range(200):
        with np.errstate(over="ignore"):
            # of row over column; not by tanh, which has no small chances
            chance = 1.0 / (1.0 + np.exp(coefficients[:, None, :] - coefficients[:, :, None]))
        other = chance.transpose(0, 2, 1)
        curvature = -games * chance * other
        curvature[:, diagonal, diagonal] -= curvature.sum(axis=2)
        surprise = wins * other  # wins less their expectation, without the difference of two large numbers
        gradient = surprise.sum(axis=2) - surprise.sum(axis=1)
        step = np.linalg.solve(curvature[:, 1:, 1:], gradient[:, 1:, None])[..., 0]
        size = np.abs(step).max(axis=1, keepdims=True)
        coefficients[:, 1:] += step * np.minimum(1.0, 2.0 / np.maximum(size, 1e-300))  # far out, Newton overshoots
        if size.max() < 1e-6:  # it doubles the digits: 1e-12 is left
            return coefficients
    raise ScoringError(f"the ratings of {int((size >= 1e-6).sum())} prompts did not converge")
