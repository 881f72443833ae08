"""One training run on disk: what it was started with, where it stands, and its log. It outlives a kill."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.folders import check_replaceable
from routellm_core.persistence import try_lock, write_bytes
from routellm_core.routers import Router

__all__ = ["LOG", "TrainingResult", "TrainingRun", "check_seed"]

LOG = "training_log.jsonl"
_STATE = "state.safetensors"
_LOCK = "lock"
_logger = logging.getLogger("routellm_core.training")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingResult:
    """A trained router, calibrated on the prompts it was validated on, and the log of its training.

    Attributes:
        router: Ready to use; saved already where a folder was given.
        log: Rows as `TrainingRun.log` took them.
    """

    router: Router
    log: Sequence[Mapping[str, Any]] = field(repr=False)


class TrainingRun:
    """Checkpoints and log of one training, in `<out>.training` beside the router's folder.

    A checkpoint is one file, written whole or not at all: tensors with a JSON record of progress and of
    what the run was started with. Without `out` nothing touches the disk. To be used in a `with` statement:
    until its end no other process can train into that folder.

    Args:
        out: The folder the router will be saved to; None keeps the log in memory only.
        started_with: Everything that decides the result: data digest, settings, seed; plain JSON. A run is only
            continued with the same. The router's name is none of it: it is that of the call that finishes.
        restart: Throw an unfinished run away instead of continuing it.

    Attributes:
        rows: The log so far: dicts with `step`, `loss`, ... and `seconds` of training.

    Raises:
        ConfigurationError: `out` cannot become a router's folder, another process trains into it, or an unfinished
            run was started with something else; the message names it.
        RouterFormatError: Its checkpoint is damaged.
    """

    def __init__(self, out: Path | None, started_with: Mapping[str, Any], *, restart: bool = False) -> None:
        self.folder: Path | None = None
        self._lock: BinaryIO | None = None
        self.started_with = json.loads(json.dumps(dict(started_with), sort_keys=True))
        self.rows: list[dict[str, Any]] = []
        self._tensors: dict[str, NDArray[Any]] = {}
        self._progress: dict[str, Any] = {}
        self._seconds = 0.0
        self._since = time.monotonic()
        if out is None:
            return
        out = check_replaceable(out)
        self.folder = out.with_name(out.name + ".training")
        self._lock = _locked(self.folder)
        try:
            if restart:
                (self.folder / _STATE).unlink(missing_ok=True)
            if (self.folder / _STATE).exists():
                self._read(self.folder / _STATE)
        except BaseException:
            self._lock.close()
            raise

    @property
    def resumed(self) -> bool:
        """Whether an earlier, unfinished run is being continued."""
        return bool(self._progress)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Tensors and progress of the last checkpoint; None at the beginning."""
        return (self._tensors, self._progress) if self._progress else None

    def log(self, **row: Any) -> None:
        """Add a row to the log: numbers and None; `seconds` is added."""
        row["seconds"] = round(self.seconds, 3)
        self.rows.append(row)
        _logger.info("%s", ", ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))

    @property
    def seconds(self) -> float:
        """Training time, that before a kill included up to its last checkpoint."""
        return self._seconds + time.monotonic() - self._since

    def checkpoint(self, tensors: Mapping[str, NDArray[Any]], **progress: Any) -> None:
        """Remember where the run stands.

        Args:
            tensors: Weights and the state of the optimiser.
            progress: At least one entry; plain JSON, such as `step` and the state of a random generator.
        """
        self._tensors, self._progress = dict(tensors), dict(progress)
        if self.folder is None:
            return
        record = {
            "started_with": self.started_with,
            "progress": progress,
            "rows": self.rows,
            "seconds": self.seconds,
        }
        content = format_tensors(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()}, {"run": json.dumps(record)}
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / _STATE, content)

    def finish(self, out: Path) -> None:
        """Write the log into the saved router's folder, and remove the checkpoints."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_bytes(out / LOG, lines.encode())
        self._release(remove=True)

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._progress and self._lock is not None:
            _logger.info("training stopped; the same call continues from the last checkpoint in %s", self.folder)
        self._release(remove=not self._progress)

    def _release(self, *, remove: bool) -> None:
        if self.folder is None or self._lock is None:
            return
        if os.name == "nt":  # which removes no open file
            self._lock.close()
        if remove:
            with contextlib.suppress(OSError):  # a folder with files of somebody else stays
                for path in (self.folder / _STATE, *self.folder.glob(f".{_STATE}.*"), self.folder / _LOCK):
                    path.unlink(missing_ok=True)
                self.folder.rmdir()
        self._lock.close()
        self._lock = None  # from here on the folder may be another run's

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="np") as file:
                record = json.loads((file.metadata() or {})["run"])
            tensors = parse_tensors(path.read_bytes())
            before, progress, rows = record["started_with"], record["progress"], record["rows"]
            seconds = float(record["seconds"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RouterFormatError(
                f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}); "
                "restart the training (--restart) or remove it"
            ) from error
        if before != self.started_with:
            names = sorted(
                k for k in {*before, *self.started_with} if before.get(k, ...) != self.started_with.get(k, ...)
            )
            what = "; ".join(f"{k}: {before.get(k)!r} then, {self.started_with.get(k)!r} now" for k in names)
            raise ConfigurationError(
                f"{path.parent} holds an unfinished training with other settings ({what}). Give those to continue it, "
                "restart (--restart), or choose another folder"
            )
        self._tensors, self._progress, self.rows, self._seconds = tensors, progress, rows, seconds


def check_seed(seed: Any) -> None:
    """Check that numpy and torch can be seeded with it.

    Raises:
        ConfigurationError: It is no whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigurationError(f"seed is a whole number from 0, got {seed!r}")


def _locked(folder: Path) -> BinaryIO:
    """A file in the folder that nobody else can lock until it is closed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("ab")
    except OSError as error:
        raise ConfigurationError(f"no checkpoint can be written to {folder}: {error.strerror or error}") from error
    if not try_lock(file):
        file.close()
        raise ConfigurationError(
            f"another process trains into {folder}; wait for it, stop it, or choose another folder"
        )
    return file
