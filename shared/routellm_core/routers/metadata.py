"""Categories that are known of a prompt beside its text, such as its topic or its user's tier."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from routellm_core.errors import ConfigurationError, DataError

__all__ = ["Metadata", "asked", "category", "check_column", "check_takes_metadata", "known_category", "known_metadata"]

T = TypeVar("T")

_logger = logging.getLogger("routellm_core.routers")

Metadata = Mapping[str, Sequence[Any]]
"""Columns beside the prompts, such as {"topic": [...], "tier": [...]}: one value a prompt, None where unknown."""


def asked(method: Callable[..., T], prompts: Sequence[str], metadata: Metadata | None) -> T:
    """What a method of a router gives for prompts; it need not know the word metadata where there is none."""
    return method(prompts) if metadata is None else method(prompts, metadata=metadata)


def check_takes_metadata(method: Callable[..., Any], columns: Sequence[str], router: str) -> None:
    """See that a router which names columns can be given them, before every call fails and goes to one route.

    Raises:
        ConfigurationError: The columns are no names, or the method takes no `metadata=`.
    """
    if not columns:
        return
    if not isinstance(columns, (tuple, list)) or not all(isinstance(column, str) for column in columns):
        raise ConfigurationError(f"router {router!r}: metadata_columns must be a tuple of names, got {columns!r}")
    parameters = inspect.signature(method).parameters.values()
    if not any(each.name == "metadata" or each.kind is each.VAR_KEYWORD for each in parameters):
        raise ConfigurationError(
            f"router {router!r} names metadata_columns ({', '.join(map(repr, columns))}), but its {method.__name__} "
            "takes no metadata=: add it, or set metadata_columns = ()"
        )


def check_column(column: str, values: Any, n_prompts: int) -> None:
    """See that a column has one value a prompt.

    Raises:
        DataError: It has not.
    """
    if isinstance(values, (str, bytes, Set, Mapping)) or not hasattr(values, "__len__") or len(values) != n_prompts:
        raise DataError(f"metadata {column!r} needs one value a prompt: a list of {n_prompts}")


def category(value: Any) -> str | None:
    """A value as the text that routers know it by, in fitting and in scoring alike.

    A number or bool counts as its `str`, a whole float as that of the integer (which is what tables with gaps make of
    integers), an enum's member as its value. None, NaN and the empty text (an empty cell of a CSV file) are unknown.

    Raises:
        DataError: Anything else is no category, nor is an integer of thousands of digits, which Python does not write.
    """
    if value is None or type(value) is str:  # nearly always
        return value or None
    if isinstance(value, Enum):
        return category(value.value)
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return None
        return str(int(value)) if float(value).is_integer() else str(float(value))
    if isinstance(value, (str, bool, int, np.bool_, np.integer)):
        try:
            return str(value) or None
        except ValueError as error:
            raise DataError("metadata is categories, got an integer of thousands of digits") from error
    raise DataError(f"metadata is categories (str, int, bool, an enum's member, or None), got {type(value).__name__}")


def known_metadata(
    columns: Sequence[str], calls: Sequence[Mapping[str, Any] | None]
) -> dict[str, list[str | None]] | None:
    """What calls know of a router's columns, as its `win_rate` takes it.

    Args:
        columns: The router's, see `Router.metadata_columns`.
        calls: What each call knows; whatever else is in there is left alone.

    Returns:
        The columns that any call has, one value a call: None where that call does not say, or says something that is
        no category (which is logged once). None instead of no columns.
    """
    found = {
        column: [None if known is None else known_category(column, known.get(column)) for known in calls]
        for column in columns
        if any(known is not None and column in known for known in calls)
    }
    return found or None


def known_category(column: str, value: Any) -> str | None:
    """`category`, but what is none counts as unknown and is logged once: a hint must not cost an answer."""
    try:
        return category(value)
    except DataError:
        _warn(column, type(value).__name__)
        return None


@functools.lru_cache(maxsize=256)  # once a column and type: it may be on a hot path
def _warn(column: str, kind: str) -> None:
    _logger.warning("metadata %r of a call is %s, which is no category, and counts as unknown", column, kind)
