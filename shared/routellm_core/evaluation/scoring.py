"""Win rates of a router on a set, timed, and kept where a cache folder is given."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as tensor_bytes

from routellm_core.calibration import Calibration
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.evaluation.sets import EvaluationSet
from routellm_core.persistence import digest_of, read_config, write_bytes
from routellm_core.routers import Router
from routellm_core.routers.loading import resolve_router
from routellm_core.routers.metadata import asked

__all__ = ["RouterLike", "Scored", "router_digest", "scored"]

RouterLike: TypeAlias = "Router | str | Path | Any"
"""A router, its name or folder, or an array of win rates in the order of the prompts."""

_SINGLES, _SINGLES_S = 30, 2.0  # prompts timed one by one, and the seconds after which no more are


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What a router gave for a set.

    Attributes:
        router: Its name; None for win rates that were given.
        win_rates: Shape (n,).
        batch_ms: Milliseconds a prompt, all scored together; None for win rates that were given.
        single_ms: Median milliseconds of a prompt scored alone.
        digest: Of the router, where a cache was used.
        calibration: The router's own.
    """

    router: str | None
    win_rates: NDArray[np.float64] = field(repr=False)
    batch_ms: float | None = None
    single_ms: float | None = None
    digest: str | None = None
    calibration: Calibration | None = field(default=None, repr=False)


def scored(router: RouterLike, data: EvaluationSet, *, cache: str | Path | None = None) -> Scored:
    """Score the set's prompts, or take win rates as they are.

    Args:
        router: See `RouterLike`.
        data: The set.
        cache: Folder where win rates are kept under the digests of router, prompts and metadata; made if missing. A
            router that cannot be saved has no digest and is scored anew.

    Raises:
        DataError: An array of another length, or with values that are not finite.
        RouteLLMError: As `load_router` and `Router.win_rate`.
    """
    if not isinstance(router, (Router, str, Path)):
        return Scored(router=None, win_rates=_given(router, data))
    router = resolve_router(router)
    digest = router_digest(router) if cache is not None else None
    if cache is None or digest is None:
        return _timed(router, data, None)
    known = _metadata(router, data)
    of_metadata = () if known is None else (json.dumps(known, sort_keys=True),)
    path = Path(cache) / f"{digest_of(digest, data.prompts_digest, *of_metadata)[:32]}.safetensors"
    found = _cached(path, router, digest, len(data))
    if found is None:
        found = _timed(router, data, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        times = np.array([found.batch_ms, found.single_ms], dtype=np.float64)
        write_bytes(path, tensor_bytes({"win_rates": found.win_rates, "times_ms": times}))
    return found


def router_digest(router: Router) -> str | None:
    """64 hexadecimal digits over all that its win rates depend on; None if it cannot be saved."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            router.save(Path(folder) / "router")
        except ConfigurationError:
            return None
        config = read_config(Path(folder) / "router")
    return digest_of(json.dumps({**config, "name": None}, sort_keys=True))


def _given(win_rates: Any, data: EvaluationSet) -> NDArray[np.float64]:
    try:
        array = np.asarray(win_rates, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"expected a router, its name or folder, or an array of win rates, got {type(win_rates).__name__}"
        ) from None
    if array.shape != (len(data),):
        raise DataError(f"{data.name}: win rates of shape {array.shape} for {len(data)} prompts")
    if not np.isfinite(array).all():
        raise DataError(f"{data.name}: the win rate of prompt {int(np.argmin(np.isfinite(array)))} is not finite")
    return array


def _metadata(router: Router, data: EvaluationSet) -> dict[str, tuple[str | None, ...]] | None:
    """What the set says of the columns that the router wants."""
    columns = router.metadata_columns
    if not columns:
        return None
    known: dict[str, tuple[str | None, ...]] = {}
    if data.groups is not None and data.group_column is not None:
        known[data.group_column] = data.groups
    known |= data.metadata or {}
    return {column: known[column] for column in columns if column in known} or None


def _timed(router: Router, data: EvaluationSet, digest: str | None) -> Scored:
    known = _metadata(router, data)

    def win_rate(rows: slice) -> NDArray[np.float64]:
        beside = None if known is None else {column: values[rows] for column, values in known.items()}
        return asked(router.win_rate, data.prompts[rows], beside)

    win_rate(slice(1))  # what loads on first use is not the prompts' time
    start = time.perf_counter()
    win_rates = win_rate(slice(None))
    batch_ms = 1000 * (time.perf_counter() - start) / len(data)
    singles: list[float] = []
    begun = time.perf_counter()
    for row in range(0, len(data), max(1, len(data) // _SINGLES)):
        if len(singles) >= _SINGLES or time.perf_counter() - begun > _SINGLES_S:
            break
        start = time.perf_counter()
        win_rate(slice(row, row + 1))
        singles.append(1000 * (time.perf_counter() - start))
    return Scored(
        router=router.name,
        win_rates=win_rates,
        batch_ms=batch_ms,
        single_ms=float(np.median(singles)),
        digest=digest,
        calibration=router.calibration,
    )


def _cached(path: Path, router: Router, digest: str, n: int) -> Scored | None:
    try:
        tensors = parse_tensors(path.read_bytes())
        win_rates, times = tensors["win_rates"], tensors["times_ms"]
    except FileNotFoundError:
        return None
    except Exception:  # noqa: BLE001 - a damaged file is scored again and replaced
        return None
    if win_rates.shape != (n,) or times.shape != (2,):
        return None
    return Scored(
        router=router.name,
        win_rates=win_rates,
        batch_ms=float(times[0]),
        single_ms=float(times[1]),
        digest=digest,
        calibration=router.calibration,
    )
