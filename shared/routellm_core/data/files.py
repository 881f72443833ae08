"""Tables from files, rows in memory and Hugging Face data sets, a block of rows at a time."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from routellm_core._lazy import need
from routellm_core.errors import DataError

__all__ = ["Block", "Source", "blocks"]

Source: TypeAlias = "str | os.PathLike[str] | Sequence[Any] | Any"
"""A path, a Hugging Face data set's name, rows (list of dicts, pandas, polars or pyarrow table), or a list of these."""

_ROWS = 8192  # in a block: bounds the memory beside the result
_JSONL, _CSV = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
_FILES = (*_JSONL, ".json", *_CSV, ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some rows of one source.

    Attributes:
        name: Of the source: a file's path, a data set's name, or "the rows given".
        label: Short name of the source, for `Battles.sources`.
        unit: What `numbers` count: "line" from 1 in text files of one row a line, "row" from 0 elsewhere.
        numbers: Number of each row.
        columns: Values by column; a row without a column has None there.
    """

    name: str
    label: str
    unit: str
    numbers: Sequence[int]
    columns: Mapping[str, Sequence[Any]]

    def where(self, i: int) -> str:
        """Where row `i` of this block stands, for messages."""
        return f"{self.name}, {self.unit} {self.numbers[i]}"


def blocks(source: Source, wanted: frozenset[str], *, split: str = "train") -> Iterator[Block]:
    """The rows of a source, or of several in order, in blocks.

    Args:
        source: See `Source`.
        wanted: Columns to keep; the others are not even read where the format allows that.
        split: Which split of a Hugging Face data set.

    Raises:
        DataError: A file that is missing, of an unknown format, not readable as what it claims to be, or
            without rows.
        MissingExtraError: pyarrow or datasets is needed and not installed.
    """
    if isinstance(source, (str, os.PathLike)):
        found = _named(source, wanted, split)
        name = os.fspath(source)
    elif isinstance(source, Sequence) and source and not isinstance(source[0], Mapping):
        for part in source:
            yield from blocks(part, wanted, split=split)
        return
    else:
        found, name = _in_memory(source, wanted), "the rows given"
    empty = True
    for block in found:
        empty = False
        yield block
    if empty:
        raise DataError(f"{name}: no rows in it")


def _named(source: str | os.PathLike[str], wanted: frozenset[str], split: str) -> Iterator[Block]:
    path = Path(source)
    suffix = path.suffix.lower()
    # of os.path, since those of Path raise for what is too long for a path
    if suffix not in _FILES and isinstance(source, str) and source.count("/") == 1 and not os.path.exists(path):
        return _data_set(source, wanted, split)
    if not os.path.isfile(path):
        raise DataError(f"{path}: {'not a file' if os.path.exists(path) else 'no such file'}")
    if suffix == ".parquet":
        return _parquet(path, wanted)
    read: dict[str, Callable[[Path, frozenset[str]], Iterator[Block]]] = {".json": _json}
    read.update(dict.fromkeys(_JSONL, _jsonl) | dict.fromkeys(_CSV, _csv))
    if suffix not in read:
        raise DataError(f"{path}: unknown format {suffix or 'without suffix'!r}; known: {', '.join(_FILES)}")
    return _decoded(path, read[suffix](path, wanted))


def _decoded(path: Path, found: Iterator[Block]) -> Iterator[Block]:
    try:
        yield from found
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start} of a block)") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _jsonl(path: Path, wanted: frozenset[str]) -> Iterator[Block]:
    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with path.open("rb") as file:  # bytes, so that text in another encoding is named with its line
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(_parsed(line, f"{path}, line {number}"), f"{path}, line {number}")

    return _blocks_of_rows(rows(), wanted, name=str(path), label=path.stem, unit="line")


def _json(path: Path, wanted: frozenset[str]) -> Iterator[Block]:
    content = _parsed(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a JSON list of objects, got {type(content).__name__}; JSONL is read too")
    rows = ((number, _object(row, f"{path}, row {number}")) for number, row in enumerate(content))
    yield from _blocks_of_rows(rows, wanted, name=str(path), label=path.stem, unit="row")


def _csv(path: Path, wanted: frozenset[str]) -> Iterator[Block]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=_CSV[path.suffix.lower()], strict=True)
        rows = _numbered_rows(reader, path, wanted)
        while True:
            # prompts may be longer than the module's limit, which is one for the whole process
            limit = csv.field_size_limit(sys.maxsize)
            try:
                some = list(islice(rows, _ROWS))
            finally:
                csv.field_size_limit(limit)
            if not some:
                return
            yield from _blocks_of_rows(iter(some), wanted, name=str(path), label=path.stem, unit="line")


def _numbered_rows(
    reader: csv.DictReader[str], path: Path, wanted: frozenset[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        _check_distinct(str(path), [name for name in reader.fieldnames or () if name in wanted])
    except csv.Error as error:
        raise DataError(f"{path}, line 1: not CSV: {error}") from None
    while True:
        first = max(reader.line_num + 1, 2)
        try:
            row: dict[Any, Any] = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {first}: not CSV: {error}") from None
        if None in row or None in row.values():
            raise DataError(f"{path}, line {first}: another number of fields than the header")
        yield first, row


def _parquet(path: Path, wanted: frozenset[str]) -> Iterator[Block]:
    parquet = need("pyarrow.parquet", extra="fit", why="reading Parquet")
    arrow = need("pyarrow", extra="fit", why="reading Parquet")
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if name in wanted]
        _check_distinct(str(path), columns)
        if not columns:
            yield _headers(str(path), file.schema_arrow.names)
        start = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            yield _of_arrow(batch, start, name=str(path), label=path.stem)
            start += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _data_set(name: str, wanted: frozenset[str], split: str) -> Iterator[Block]:
    datasets = need("datasets", extra="train", why=f"reading the Hugging Face data set {name!r}")
    try:
        found = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise DataError(
            f"{name}: no such file, and not to be had as a Hugging Face data set ({type(error).__name__}: {error})"
        ) from error
    return _of_data_set(found, wanted, name=name, label=name)


def _of_data_set(found: Any, wanted: frozenset[str], *, name: str, label: str) -> Iterator[Block]:
    columns = [column for column in found.column_names if column in wanted]
    if not columns:
        yield _headers(name, found.column_names)
        return
    start = 0
    for table in found.select_columns(columns).with_format("arrow").iter(batch_size=_ROWS):
        yield _of_arrow(table, start, name=name, label=label)
        start += table.num_rows


def _in_memory(source: Any, wanted: frozenset[str]) -> Iterator[Block]:
    name = "the rows given"
    if isinstance(source, Mapping):
        raise DataError("expected rows or a path, got one mapping; write [row], or one split of a data set")
    if hasattr(source, "with_format") and hasattr(source, "select_columns"):  # a datasets.Dataset
        return _of_data_set(source, wanted, name=name, label="")
    if hasattr(source, "to_pydict"):  # a pyarrow table
        return _of_table(source, source.schema.names, "to_pylist", wanted)
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):  # pandas or polars
        return _of_table(source, source.columns, "to_list", wanted)
    try:
        rows = enumerate(source)
    except TypeError:
        raise DataError(f"expected rows or a path, got {type(source).__name__}") from None
    return _blocks_of_rows(
        ((number, _object(row, f"{name}, row {number}")) for number, row in rows),
        wanted,
        name=name,
        label="",
        unit="row",
    )


def _of_table(table: Any, names: Iterable[Any], to_list: str, wanted: frozenset[str]) -> Iterator[Block]:
    name, names = "the rows given", list(names)
    _check_distinct(name, [key for key in names if key in wanted])
    columns = {key: getattr(table[key], to_list)() for key in names if key in wanted}
    if not columns:
        yield _headers(name, names)
    total = len(next(iter(columns.values()), ()))
    for start in range(0, total, _ROWS):
        yield Block(
            name=name,
            label="",
            unit="row",
            numbers=range(start, min(start + _ROWS, total)),
            columns={key: values[start : start + _ROWS] for key, values in columns.items()},
        )


def _blocks_of_rows(
    rows: Iterator[tuple[int, Mapping[str, Any]]], wanted: frozenset[str], *, name: str, label: str, unit: str
) -> Iterator[Block]:
    # trimmed as they come: the answers beside a prompt are most of an Arena file
    trimmed = ((number, {key: row[key] for key in row if key in wanted}, row.keys()) for number, row in rows)
    while some := list(islice(trimmed, _ROWS)):
        keys = dict.fromkeys(key for _, row, _ in some for key in row)
        if not keys:
            yield _headers(name, some[0][2])
            return
        yield Block(
            name=name,
            label=label,
            unit=unit,
            numbers=[number for number, _, _ in some],
            columns={key: [row.get(key) for _, row, _ in some] for key in keys},
        )


def _of_arrow(table: Any, start: int, *, name: str, label: str) -> Block:
    return Block(
        name=name,
        label=label,
        unit="row",
        numbers=range(start, start + table.num_rows),
        columns={key: table.column(key).to_pylist() for key in table.schema.names},
    )


def _check_distinct(name: str, columns: Sequence[str]) -> None:
    for column in columns:
        if columns.count(column) > 1:  # which of them is meant?
            raise DataError(f"{name}: two columns {column!r}; leave one of them out")


def _headers(name: str, columns: Iterable[str]) -> Block:
    """A block that only tells which columns there are: none of them is wanted."""
    return Block(name=name, label="", unit="row", numbers=(), columns={str(key): () for key in columns})


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with columns, got {type(row).__name__}")
    return row
