"""What was paid for already: one line a call, on the disk before its answer is used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from routellm_core.backends import Generation, Message
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.persistence import digest_of, try_lock

__all__ = ["Journal", "key_of"]

_BEGINS = b'{"key": "'  # every line; what does not is somebody's file, and not ours to cut


def key_of(role: str, model: str, messages: Sequence[Message]) -> str:
    """What a call is known by: its role, the model's name and every word it is asked.

    The model's settings (temperature, say) are no part of it: use another journal for other settings.
    """
    return digest_of(role, model, json.dumps([[m["role"], m["content"]] for m in messages]))


class Journal:
    """Answers by key, in a JSONL file that outlives a kill; without a path, in memory only.

    A line is appended and synced to the disk for every paid call, so an interrupted run pays for nothing twice
    except the calls that were under way. A torn last line, as a kill leaves it, is cut off. It holds the models'
    answers, not the prompts. One process at a time may have it open.

    Args:
        path: Made when missing, with its folder.

    Raises:
        ConfigurationError: Another process has it open, or it cannot be written.
        DataError: It is damaged before its last line, or no journal at all; names the line.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._answers: dict[str, Generation] = {}
        self._models: dict[str, str] = {}
        self._file: BinaryIO | None = None
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the journal {self.path} cannot be opened: {_why(error)}") from error
        try:
            if not try_lock(self._file):
                raise ConfigurationError(f"the journal {self.path} is open in another process; wait for it, or stop it")
            self._read(self._file)
        except OSError as error:  # a device, say
            self.close()
            raise ConfigurationError(f"the journal {self.path} cannot be read: {_why(error)}") from error
        except BaseException:
            self.close()
            raise

    def get(self, key: str) -> Generation | None:
        """The answer that was paid for, if any."""
        return self._answers.get(key)

    def add(self, key: str, *, role: str, model: str, generation: Generation) -> None:
        """Keep an answer; when this returns it is on the disk."""
        self._answers[key] = generation
        self._models[key] = model
        if self._file is None:
            return
        record = {
            "key": key,
            "role": role,
            "model": model,
            "text": generation.text,
            "input_tokens": generation.input_tokens,
            "output_tokens": generation.output_tokens,
        }
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def calls(self) -> list[tuple[str, Generation]]:
        """The model and answer of every call in it."""
        return [(self._models[key], generation) for key, generation in self._answers.items()]

    def close(self) -> None:
        """Let other processes open it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._answers)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        end = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                if not (line.startswith(_BEGINS) or _BEGINS.startswith(line)):
                    raise DataError(f"{self.path}, line {number}: not a line of a journal; choose another file")
                break  # torn: the answer was paid for, but is lost
            self._take(line, number)
            end += len(line)
        file.truncate(end)

    def _take(self, line: bytes, number: int) -> None:
        try:
            record: dict[str, Any] = json.loads(line)
            generation = Generation(
                text=_typed(record["text"], str),
                input_tokens=_typed(record["input_tokens"], int, type(None)),
                output_tokens=_typed(record["output_tokens"], int, type(None)),
            )
            key, model = _typed(record["key"], str), _typed(record["model"], str)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{self.path}, line {number}: not a line of a journal ({type(error).__name__}); "
                "choose another file, or remove the line"
            ) from None
        self._answers[key] = generation
        self._models[key] = model


def _typed(value: Any, *types: type) -> Any:
    if not isinstance(value, types) or isinstance(value, bool):
        raise TypeError(type(value).__name__)
    return value


def _why(error: OSError | ValueError) -> object:
    return getattr(error, "strerror", None) or error
