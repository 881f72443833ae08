"""The configuration of a call: what the constructor adds to it, what of it is ours, what a child sees of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManagerForChainRun,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config

from langchain_routellm._record import PREFIX
from routellm_core.errors import ConfigurationError

__all__ = [
    "DECISION",
    "SETTINGS",
    "aside",
    "checked",
    "for_child",
    "joined_callbacks",
    "metadata_of",
    "split",
    "with_defaults",
    "without_record",
]

DECISION = "__routellm_decision"
"""A batch's decision on its way to the item; langchain keeps keys with "__" out of traces."""

SETTINGS = (PREFIX + "route", PREFIX + "threshold", PREFIX + "stickiness")
"""What one call can change, in `config["configurable"]`."""


def with_defaults(config: RunnableConfig | None, own: RunnableConfig) -> RunnableConfig:
    """The call's config with the constructor's part, which becomes inheritable.

    In LangChain a constructor's callbacks are local to the run; a usage handler would then see chain events
    only and count nothing. Merged by hand: merge_configs() would bring back the ambient callbacks that a
    caller silenced with {"callbacks": []}.
    """
    merged = ensure_config(config)
    if own_tags := own.get("tags"):
        merged["tags"] = [*own_tags, *merged.get("tags", [])]
    if own_metadata := own.get("metadata"):
        merged["metadata"] = {**own_metadata, **merged.get("metadata", {})}
    if own_callbacks := own.get("callbacks"):
        merged["callbacks"] = joined_callbacks(own_callbacks, merged.get("callbacks"))
    return merged


def metadata_of(config: RunnableConfig, own: RunnableConfig) -> Mapping[str, Any]:
    """The metadata that the call's run has: what runs around it pass on, the constructor's, its own; the last wins."""
    manager = config.get("callbacks")
    # a chain that calls us with metadata of its own does not give us what it was called with, but its callbacks do
    inherited = manager.inheritable_metadata if isinstance(manager, BaseCallbackManager) else {}
    return {**inherited, **own.get("metadata", {}), **config.get("metadata", {})}


def joined_callbacks(own: Any, given: Any) -> Any:
    """Callbacks of a config with our own first; neither is changed."""
    handlers: list[BaseCallbackHandler] = list(own.handlers if isinstance(own, BaseCallbackManager) else own)
    if given is None or isinstance(given, list):
        return [*handlers, *(handler for handler in given or [] if handler not in handlers)]
    manager = given.copy()
    for handler in handlers:
        manager.add_handler(handler, inherit=True)
    return manager


def checked(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, if all of our settings in it exist.

    Raises:
        ConfigurationError: A `routellm_` setting that does not; ignored, it would look obeyed.
    """
    for name in settings:
        if _is_ours(name) and name not in SETTINGS:
            raise ConfigurationError(f"unknown setting {name!r}; the settings of a call are {', '.join(SETTINGS)}")
    return settings


def split(
    config: RunnableConfig, kwargs: dict[str, Any], *, model_names_route: bool = True
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """This call's settings, and its arguments without `model=`, where that names a route.

    Raises:
        ConfigurationError: As `checked`.
    """
    settings = checked(config.get("configurable") or {})
    if not model_names_route or "model" not in kwargs:
        return settings, kwargs
    rest = {name: value for name, value in kwargs.items() if name != "model"}
    if kwargs["model"] is None:
        return settings, rest
    return {**settings, PREFIX + "route": kwargs["model"]}, rest


def without_record(config: RunnableConfig) -> RunnableConfig:
    """The config of a child run without the record of a router around it; a callback manager in it is changed."""
    config["metadata"] = {name: value for name, value in config.get("metadata", {}).items() if not _is_ours(name)}
    manager = config.get("callbacks")
    if isinstance(manager, BaseCallbackManager):
        manager.remove_metadata([name for name in manager.inheritable_metadata if _is_ours(name)])
    return config


def _is_ours(name: Any) -> bool:
    return isinstance(name, str) and name.startswith(PREFIX)


def for_child(config: RunnableConfig, callbacks: BaseCallbackManager | None) -> RunnableConfig:
    """The config of a child run. Our own settings stop here, or a nested router would obey its parent's."""
    child = dict(config)
    child.pop("run_name", None)
    if callbacks is not None:
        child["callbacks"] = callbacks
    child["configurable"] = {
        # None instead of nothing: a binding merges the ambient config in, where the setting still stands
        name: None if _is_ours(name) else value
        for name, value in (config.get("configurable") or {}).items()
        if name != DECISION
    }
    return cast("RunnableConfig", child)


@contextlib.contextmanager
def aside(
    config: RunnableConfig, run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun | None
) -> Iterator[None]:
    """Models called inside run as our children, and their tokens stay out of the user's stream."""
    manager = config.get("callbacks") if run is None else run.get_child()
    child = for_child(config, manager.copy() if isinstance(manager, BaseCallbackManager) else None)
    child = without_record(child)  # or its tokens would look like an answer of the route around us
    child.pop("run_id", None)  # that of a batch's first item
    child["tags"] = [*child.get("tags", []), "nostream"]
    token = var_child_runnable_config.set(child)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
