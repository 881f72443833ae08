"""Names that are imported on first use: optional dependencies, and tables of implementations."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from routellm_core.errors import MissingExtraError, RouteLLMError, UnknownKindError

__all__ = ["Registry", "load", "need"]


def load(target: str) -> Any:
    """Import "module:Name" and return the object."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def need(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional dependency, or say how to install it.

    Args:
        module: Dotted module name, such as "scipy.stats".
        extra: The extra of this distribution that brings it.
        why: What needs it; begins the message.

    Raises:
        MissingExtraError: The top-level package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there, something inside it is broken
        raise MissingExtraError(
            f"{why} needs the package {module.partition('.')[0]!r}: pip install 'routellm-integrations[{extra}]'",
            name=module,
        ) from None  # the message says it all


class Registry:
    """A table from a kind to "module:Class", open to other distributions.

    Args:
        what: What the table holds, for messages ("router").
        table: Our own entries.
        group: Entry-point group where other distributions add theirs, with the same kind of string.
    """

    def __init__(self, what: str, table: dict[str, str], group: str) -> None:
        self.what = what
        self.table = table
        self.group = group

    def kinds(self) -> list[str]:
        """Every known kind, sorted."""
        return sorted({*self.table, *(entry.name for entry in entry_points(group=self.group))})

    def load(self, kind: str) -> Any:
        """The class registered under `kind`. Our own entries win over others'.

        Raises:
            UnknownKindError: Nothing is registered under that name.
            RouteLLMError: Another distribution's entry cannot be imported.
        """
        if kind in self.table:
            return load(self.table[kind])
        for entry in entry_points(group=self.group, name=kind):
            try:
                return entry.load()
            except Exception as error:
                raise RouteLLMError(
                    f"the {self.what} {kind!r}, registered as {entry.value!r}, cannot be imported: "
                    f"{type(error).__name__}: {error}"
                ) from error
        raise UnknownKindError(f"unknown {self.what} {kind!r}; known: {', '.join(self.kinds())}")
