"""Prompts from arguments, a file or standard input, each with the place it came from and what stands beside it."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from routellm_core.errors import DataError

__all__ = ["any_file", "from_arguments", "from_file"]

_JSONL = (".jsonl", ".ndjson")
_ADDED = ("win_rate", "route")  # what scoring adds to a row
_TABLES = (".csv", ".tsv", ".json", ".parquet")
_OTHER_FORMATS = (*_TABLES, ".xlsx")


def from_arguments(prompts: Sequence[str], column: str) -> list[dict[str, Any]]:
    """One row a prompt.

    Raises:
        DataError: A prompt is empty.
    """
    for position, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise DataError(f"argument {position} is an empty prompt")
    return [{column: prompt} for prompt in prompts]


def any_file(
    path: str, column: str, *, beside: Collection[str] | None = None, added: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows of a file as `from_file` reads it, or of a table: CSV, TSV, JSON (a list of objects) or Parquet.

    Args:
        path: "-" is standard input.
        column: That holds the prompt.
        beside: Further columns of a table to read; None: all.
        added: Columns there must not be, since the result has its own.

    Raises:
        DataError: As `from_file`.
        MissingExtraError: Parquet needs the extra "fit".
    """
    if not path.lower().endswith(_TABLES):
        return from_file(path, column, added=added)
    from routellm_core.data.files import blocks
    from routellm_core.data.layouts import BadRow, text_of

    rows: list[dict[str, Any]] = []
    for block in blocks(path, _Everything() if beside is None else frozenset({column, *beside})):
        if column not in block.columns:
            raise DataError(f"{block.name}: no column {column!r}; it has {', '.join(block.columns) or 'none'}")
        for name in added:
            if name in block.columns:
                raise DataError(
                    f"{block.name}: there is a column {name!r} already, which the result would replace; rename it"
                )
        for i, values in enumerate(zip(*block.columns.values(), strict=True)):
            row = dict(zip(block.columns, map(_plain, values), strict=True))
            try:
                text_of(row[column])
            except BadRow as error:
                raise DataError(f"{block.where(i)}: {error}") from None
            rows.append(row)
    return rows


class _Everything(frozenset[str]):
    """Every column is wanted."""

    def __contains__(self, column: object) -> bool:
        return True


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: what it has no word for becomes text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else str(value)


def from_file(path: str, column: str, *, added: Collection[str] = _ADDED) -> list[dict[str, Any]]:
    """Rows of a JSONL file, or a row for each line of a plain text file; "-" is standard input.

    A file named *.jsonl or *.ndjson, or one whose first line begins with "{", is JSONL: every line must
    be a JSON object, and blank lines are skipped. In plain text a blank line is an empty prompt, except
    at the end.

    Raises:
        DataError: No such file, not UTF-8 text, a line that is not JSON, a missing column, a prompt
            that is empty or not text, or no prompt at all. Names the file and the line.
    """
    name = "standard input" if path == "-" else path
    # not splitlines(): it also splits at characters that may stand inside a JSON string, such as U+2028
    if path.lower().endswith(_OTHER_FORMATS):
        raise DataError(f"{name}: read as plain lines it would be wrong; give JSONL (one object a line) or plain text")
    lines = _text(path, name).rstrip().split("\n")
    if lines == [""]:
        raise DataError(f"{name}: no prompts in it")
    if path.endswith(_JSONL) or lines[0].lstrip().startswith("{"):
        return [_row(line, f"{name}, line {n}", column, added) for n, line in enumerate(lines, start=1) if line.strip()]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{name}, line {number}: the prompt is empty")
    return [{column: line.rstrip("\r")} for line in lines]


def _text(path: str, name: str) -> str:
    try:
        if path == "-" and sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from error
    if b"\x00" in raw:
        line = raw[: raw.index(b"\x00")].count(b"\n") + 1
        raise DataError(f"{name}, line {line}: holds a NUL byte, so this is a binary file; give JSONL or plain text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, line {line}: not UTF-8 text; give JSONL or plain text in UTF-8") from None


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large")
    return number


def _row(line: str, where: str, column: str, added: Collection[str]) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    if column not in row:
        raise DataError(
            f"{where}: no column {column!r}; it has {', '.join(map(repr, row)) or 'none'} (choose with --column)"
        )
    prompt = row[column]
    if not isinstance(prompt, str):
        raise DataError(f"{where}: column {column!r} holds {type(prompt).__name__}, not text")
    if not prompt.strip():
        raise DataError(f"{where}: the prompt is empty")
    for name in added:
        if name in row:
            raise DataError(f"{where}: there is a field {name!r} already, which the result would replace; rename it")
    return row
