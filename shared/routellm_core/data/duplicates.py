"""Verdicts that say the same thing twice, and prompts that are nearly the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.data.battles import Battles
from routellm_core.data.filters import without
from routellm_core.data.steps import Step
from routellm_core.data.words import WordNumbers, shingles, words_of
from routellm_core.errors import ConfigurationError

__all__ = ["NearDuplicates", "group_near_duplicates", "merge_duplicates", "near_duplicate_groups"]

NearDuplicates: TypeAlias = Literal["group", "drop", "ignore"]
"""What becomes of prompts that nearly repeat each other."""
_RUN = 3  # words in a shingle
_BANDS, _ROWS = 16, 4  # sets of similarity 0.7 become candidates with probability 1 - (1 - 0.7^4)^16 = 0.988


def merge_duplicates(battles: Battles) -> tuple[Battles, Step]:
    """One verdict for each prompt and unordered pair of models: the majority's, a tie where it is even.

    Several annotators may have judged one pair; which of them stands first in a file should not decide, and a
    pair judged four times is no more evidence about the prompt than one judged once by four. The first battle of
    each stays, with the merged outcome; `Step.changed` counts those whose outcome it changed. Prompts are the
    same when they differ in white space or Unicode composition only; such prompts share a group from here on.
    """
    text_of: dict[str, int] = {}
    same = np.array(
        [
            text_of.setdefault(" ".join(unicodedata.normalize("NFC", prompt).split()), i)
            for i, prompt in enumerate(battles.prompts)
        ],
        dtype=np.int64,
    )
    low, high = np.minimum(battles.model_a, battles.model_b), np.maximum(battles.model_a, battles.model_b)
    n = max(1, len(battles.models))
    _, first, verdict = np.unique(
        (same[battles.prompt_index] * n + low) * n + high, return_index=True, return_inverse=True
    )
    verdict = verdict.ravel()
    for_low = np.where(battles.model_a == low, battles.outcome, -battles.outcome)
    majority = np.sign(np.bincount(verdict, for_low, minlength=first.size))
    outcome = battles.outcome.copy()
    outcome[first] = np.where(battles.model_a[first] == low[first], majority, -majority).astype(np.int8)
    dropped = np.ones(len(battles), dtype=bool)
    dropped[first] = False
    changed = int((outcome != battles.outcome).sum())
    merged = battles.with_outcome(outcome).with_groups(_joined(battles.groups, same))
    note = f"{changed} of the kept ones took the majority's outcome" if changed else ""
    return without(merged, dropped, "duplicates", "same prompt and pair of models", changed=changed, note=note)


def group_near_duplicates(
    battles: Battles, *, then: Literal["group", "drop"] = "group", similarity: float = 0.7
) -> tuple[Battles, Step]:
    """Put nearly equal prompts into one group, so that no split separates them.

    Args:
        battles: Any; groups they have are kept and joined.
        then: "drop" also leaves out the battles of all but the first prompt of each group.
        similarity: See `near_duplicate_groups`.

    Raises:
        ConfigurationError: `then` or `similarity` is none of its values.
        MissingExtraError: datasketch or scipy is not installed.
    """
    if then not in ("group", "drop"):
        raise ConfigurationError(f"near-duplicates are 'group'ed or 'drop'ped, got {then!r}")
    groups = _joined(battles.groups, near_duplicate_groups(battles.prompts, similarity=similarity))
    grouped = battles.with_groups(groups)
    _, first, size = np.unique(groups, return_index=True, return_counts=True)
    if then == "group":
        alike = np.isin(groups, groups[first[size > 1]])
        changed = int(alike[battles.prompt_index].sum())
        note = f"{int(alike.sum())} prompts in {int((size > 1).sum())} groups of more than one" if changed else ""
        nothing = np.zeros(len(battles), dtype=bool)
        return without(grouped, nothing, "near-duplicates", "", changed=changed, note=note)
    later = np.ones(len(battles.prompts), dtype=bool)
    later[first] = False
    return without(grouped, later[battles.prompt_index], "near-duplicates", "nearly the same prompt as another")


def near_duplicate_groups(prompts: tuple[str, ...], *, similarity: float = 0.7) -> NDArray[np.int64]:
    """A number for each prompt, the same for those that nearly repeat each other, directly or through others.

    Two do when their sets of runs of three words (case, punctuation and spacing aside) have a Jaccard
    similarity of `similarity` or more. Candidates come from MinHash and are then compared exactly, so that
    no two are joined by chance; one pair in 80 at the limit of 0.7 is missed, fewer above it.

    Args:
        prompts: Shape (Q,).
        similarity: 0.5..1.

    Returns:
        Shape (Q,).

    Raises:
        ConfigurationError: `similarity` out of range.
        MissingExtraError: datasketch or scipy is not installed.

    Source: A. Broder 1997, doi:10.1109/SEQUEN.1997.666900.
    """
    if not 0.5 <= similarity <= 1.0:
        raise ConfigurationError(f"similarity is between 0.5 and 1, got {similarity!r}")
    datasketch = need("datasketch", extra="fit", why="finding near-duplicates")
    sparse = need("scipy.sparse", extra="fit", why="finding near-duplicates")
    csgraph = need("scipy.sparse.csgraph", extra="fit", why="finding near-duplicates")
    # of fewer words, the whole prompt is the run
    words = [each + [""] * (_RUN - len(each)) for each in map(words_of, prompts)]
    runs, prompt = shingles(*WordNumbers().of(words), _RUN)
    sets = _sets(runs, prompt, len(prompts))
    pairs = [(i, j) for i, j in _candidates(sets, similarity, datasketch) if _jaccard(sets[i], sets[j]) >= similarity]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    size = (len(prompts), len(prompts))
    graph = sparse.coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=size)
    groups: NDArray[np.int64] = csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _sets(runs: NDArray[np.uint64], prompt: NDArray[np.int64], n: int) -> list[NDArray[np.uint64]]:
    """The distinct runs of each of n prompts, ascending."""
    order = np.lexsort((runs, prompt))
    runs, prompt = runs[order], prompt[order]
    is_new = np.ones(runs.size, dtype=bool)
    is_new[1:] = (runs[1:] != runs[:-1]) | (prompt[1:] != prompt[:-1])
    return np.split(runs[is_new], np.searchsorted(prompt[is_new], np.arange(1, n)))


def _candidates(sets: list[NDArray[np.uint64]], similarity: float, datasketch: Any) -> Iterator[tuple[int, int]]:
    """Pairs of sets that MinHash finds alike; equal sets only once, with their first."""
    index = datasketch.MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    first: dict[bytes, int] = {}
    hashes = datasketch.MinHash.generator(
        ((each & np.uint64(0xFFFFFFFF)).tolist() for each in sets), num_perm=_BANDS * _ROWS, seed=1, hashfunc=int
    )
    for i, (each, minhash) in enumerate(zip(sets, hashes, strict=True)):
        known = first.setdefault(each.tobytes(), i)
        if known != i:
            yield known, i
            continue
        yield from ((j, i) for j in index.query(minhash))
        index.insert(i, minhash, check_duplication=False)


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / (one.size + other.size - shared)


def _joined(groups: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The finest grouping in which whoever shared a group in either still does."""
    labels = np.arange(groups.size)
    members = [np.unique(each, return_inverse=True)[1].ravel() for each in (groups, others)]
    while True:
        before = labels
        for member in members:
            lowest = np.full(groups.size, groups.size)
            np.minimum.at(lowest, member, labels)
            labels = lowest[member]
        if np.array_equal(before, labels):
            return labels
