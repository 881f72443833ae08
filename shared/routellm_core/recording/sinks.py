"""Where recorded calls go: a JSONL file, or a SQLite database."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from routellm_core.errors import ConfigurationError, DataError, StateError
from routellm_core.recording.call import Feedback, RecordedCall

__all__ = ["JsonlSink", "Sink", "SqliteSink", "open_sink"]

_DATABASES = (".db", ".sqlite", ".sqlite3")
_LINES = (".jsonl", ".ndjson")
_WAIT_S = 5.0  # for other threads and processes that write to the same database


@runtime_checkable
class Sink(Protocol):
    """Takes recorded calls; both methods may be called from several threads."""

    def write(self, call: RecordedCall) -> None:
        """Keep a call."""
        ...

    def feedback(self, feedback: Feedback) -> None:
        """Keep what somebody thought of a call."""
        ...


def open_sink(path: str | Path) -> JsonlSink | SqliteSink:
    """The sink for a file's name: *.jsonl and *.ndjson, or *.db, *.sqlite and *.sqlite3.

    Raises:
        ConfigurationError: Another ending, or it cannot be opened.
        DataError: The file is there and is something else.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _LINES:
        return JsonlSink(path)
    if suffix in _DATABASES:
        return SqliteSink(path)
    raise ConfigurationError(
        f"calls are recorded in a file named {', '.join('*' + s for s in (*_LINES, *_DATABASES))}; got {str(path)!r}"
    )


class _File:
    """What both sinks share: a path, a lock, a way to close."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        _files.add(self)

    def _forked(self) -> None:
        """In a forked child: another thread, which is not there any more, may have held the lock."""
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return type(self), (self.path.absolute(),)  # a copy opens the same file

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


_files: weakref.WeakSet[_File] = weakref.WeakSet()


def _forked() -> None:
    for file in list(_files):
        file._forked()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forked)


class JsonlSink(_File):
    """One line a call, appended whole; several processes may write to one file.

    A line that a crash has torn stays, and is skipped when the file is read.

    Args:
        path: Made when missing, with its folder.

    Raises:
        ConfigurationError: It cannot be opened.
        StateError: In a call: it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._is_torn = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
        except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
            what = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"{str(self.path)!r} cannot be opened: {what}") from error

    def write(self, call: RecordedCall) -> None:
        self._append(call.to_dict())

    def feedback(self, feedback: Feedback) -> None:
        self._append({"feedback": feedback.to_dict()})

    def _append(self, record: dict[str, Any]) -> None:
        # half a surrogate pair, which UTF-8 does not have, becomes JSON's own escape
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._is_torn:
                line = b"\n" + line
            self._is_torn = True
            try:
                # opened for appending and not buffered: one system call, which only a full disk cuts short
                is_whole = self._file.write(line) == len(line)
            except (OSError, ValueError) as error:  # a closed file is a ValueError
                what = getattr(error, "strerror", None) or error
                raise StateError(f"{self.path} cannot be written: {what}", is_retryable=True) from error
            if not is_whole:
                raise StateError(f"{self.path} cannot be written: the disk is full", is_retryable=True)
            self._is_torn = False

    def close(self) -> None:
        """Close the file; nothing more can be written."""
        with self._lock:
            self._file.close()


_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    id TEXT NOT NULL, root_id TEXT NOT NULL, time REAL NOT NULL,
    route TEXT NOT NULL, reason TEXT, win_rate REAL, model TEXT,
    input_tokens INTEGER, output_tokens INTEGER, latency_s REAL, error TEXT, prompt_digest TEXT,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS calls_id ON calls (id);
CREATE INDEX IF NOT EXISTS calls_root_id ON calls (root_id);
CREATE TABLE IF NOT EXISTS feedback (id TEXT NOT NULL, score REAL NOT NULL, time REAL NOT NULL);
"""
_APPLICATION = 0x526F7574  # "Rout", in the header of the file


class SqliteSink(_File):
    """Two tables, `calls` and `feedback`; the column `record` holds a call whole, the others are there to query.

    Several threads and processes may write to one database: each write waits up to five seconds for its turn. A sink
    that was opened before a fork connects again in the child.

    Args:
        path: Made when missing, with its folder.

    Raises:
        ConfigurationError: It cannot be opened.
        DataError: It is some other database, or no database.
        StateError: In a call: it cannot be written, or not within five seconds.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._inherited: list[sqlite3.Connection] = []
        self._is_forked = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connected()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise ConfigurationError(f"{str(self.path)!r} cannot be opened: {error}") from error
        try:
            check_database(self._db, self.path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA application_id={_APPLICATION}")
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            self._db.close()
            raise ConfigurationError(f"{self.path} cannot be written: {error}") from error
        except BaseException:
            self._db.close()
            raise

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=_WAIT_S, check_same_thread=False)

    def _forked(self) -> None:
        super()._forked()
        self._is_forked = True

    def write(self, call: RecordedCall) -> None:
        record = call.to_dict()
        self._insert(
            "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                call.id,
                call.root_id,
                call.time,
                call.route,
                call.decision.get("reason"),
                call.win_rate,
                call.model,
                call.input_tokens,
                call.output_tokens,
                call.latency_s,
                call.error,
                call.prompt_digest,
                json.dumps(record, allow_nan=False),
            ),
        )

    def feedback(self, feedback: Feedback) -> None:
        self._insert("INSERT INTO feedback VALUES (?, ?, ?)", (feedback.id, feedback.score, feedback.time))

    def _insert(self, statement: str, values: tuple[Any, ...]) -> None:
        until = time.monotonic() + _WAIT_S
        if not self._lock.acquire(timeout=_WAIT_S):
            raise StateError(f"{self.path} cannot be written: database is locked", is_retryable=True)
        try:
            if self._is_forked:  # a connection must not be used in a child, nor closed there
                self._inherited.append(self._db)
                self._db, self._is_forked = self._connected(), False
            # what is left of the wait, or threads that queue up here would each wait all of it
            self._db.execute(f"PRAGMA busy_timeout={max(0, round((until - time.monotonic()) * 1000))}")
            with self._db:  # commits, or rolls back
                self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise StateError(f"{self.path} cannot be written: {error}", is_retryable=True) from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the database; nothing more can be written."""
        with self._lock:
            if not self._is_forked:  # else it is still the parent's
                self._db.close()


def check_database(db: sqlite3.Connection, path: Path) -> None:
    """Is this a new database, or one of ours?

    Raises:
        DataError: It is some other database, or no database.
    """
    try:
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application = db.execute("PRAGMA application_id").fetchone()[0]
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is no SQLite database: {error}") from error
    if tables and application != _APPLICATION:
        raise DataError(f"{path} is a database of something else; name another file for recorded calls")
