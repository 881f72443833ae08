"""A ChatRouteLLM as plain JSON and back: everything but code and secrets."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from pydantic import SecretStr

from langchain_routellm._backends import ModelString, common_profile
from routellm_core.calibration import Budget
from routellm_core.errors import ConfigurationError
from routellm_core.policy import RoutingPolicy

if TYPE_CHECKING:
    from langchain_routellm.chat_models import ChatRouteLLM

__all__ = ["CONFIG_FORMAT", "arguments", "config_of"]

CONFIG_FORMAT = 1
"""Raised when an older version could not read the dict any more."""

_PLAIN = ("strong_share", "quality_floor", "stickiness", "fallback", "on_error", "router_timeout_s")
_OPTIONS = ("normalize_history", "name", "tags", "metadata", "verbose", "output_version", "disable_streaming")
_KEYS = ("format", "models", "router", "encoder", "threshold", "budget", "profile", *_PLAIN, *_OPTIONS)
_CODE = ("text", "callbacks", "custom_get_token_ids")  # functions and handlers
_PROVIDERS = {  # chat models whose constructor init_chat_model() calls with the very same arguments
    ("langchain_anthropic", "ChatAnthropic"): "anthropic",
    ("langchain_google_genai", "ChatGoogleGenerativeAI"): "google_genai",
    ("langchain_ollama", "ChatOllama"): "ollama",
    ("langchain_openai", "ChatOpenAI"): "openai",
}
# what may hold a secret: names of settings,
_SECRET = re.compile(
    r"api[-_ ]?key|^key$|(private|access|signing)[-_ ]?key|token$|secret|passw|passphrase|(^|[-_])auth($|[-_])"
    r"|authori[sz]ation|bearer|credential|cookie|^sig(nature)?$|headers?$|default_query",
    re.IGNORECASE,
)
# what the keys of well-known services look like,
_KEY = re.compile(
    r"^(bearer|basic)\s+\S|^(sk|rk|gsk|xai|pplx|nvapi|r8|hf|ghp|github_pat|xox[bp])[-_][\w-]{12,}$|^AIza[\w-]{30,}$",
    re.IGNORECASE,
)
# and addresses with a user, a query or a fragment
_ADDRESS = re.compile(r"://[^/?#\s]*@|://\S*[?#]\S")
_USER_AT_HOST = re.compile(r"^[^/?#@:\s]+:[^/?#@\s]+@\S")
_OF_THE_VERSION = "lc_versions"  # metadata that langchain adds to every chat model


# -- writing
def config_of(router: ChatRouteLLM, leave_out: Collection[str]) -> dict[str, Any]:
    """See `ChatRouteLLM.to_config`."""
    if isinstance(leave_out, str):
        raise ConfigurationError(f"leave_out= is a list of names, got the str {leave_out!r}")
    known = (*router.models, "router", "encoder", *_CODE)
    for name in leave_out:
        if name not in known:
            raise ConfigurationError(f"leave_out= names {name!r}; what can be left out is {', '.join(known)}")
    policy = router.routing_policy
    if type(policy) is not RoutingPolicy:
        raise ConfigurationError(f"a policy of class {type(policy).__name__} is code, which no configuration can hold")
    for name in _CODE:
        if getattr(router, name) is not None and name not in leave_out:
            raise ConfigurationError(f"{name}= is code, which no configuration can hold: {_again(name)}")
    config: dict[str, Any] = {
        "format": CONFIG_FORMAT,
        # a list, as JSON writers may sort the keys of objects, and the order of the routes means something
        "models": [_model_config(name, backend, name in leave_out) for name, backend in router.models.items()],
    }
    if "router" not in leave_out:
        if policy.router.source is None:
            raise ConfigurationError(
                f"the router {policy.router.name!r} exists in memory only: save it with router.save(folder), or "
                f"{_again('router')}"
            )
        config["router"] = policy.router.source
    if "encoder" not in leave_out:
        if isinstance(router.encoder, str):
            config["encoder"] = router.encoder
        elif "router" in config and policy.router.encoder is not None and policy.router.encoder.kind == "remote":
            raise ConfigurationError(
                f"the router {policy.router.name!r} reads the embeddings of an object, which no configuration can "
                f"hold: give encoder= as a 'provider:model' string, or {_again('encoder')}"
            )
    if router.threshold is not None:
        cuts = list(policy.thresholds)
        config["threshold"] = cuts[0] if len(cuts) == 1 else cuts
    if router.budget is not None:
        config["budget"] = {name: value for name, value in asdict(router.budget).items() if value is not None}
    if router.profile != common_profile(router.models.values()):
        config["profile"] = _plain(router.profile, "profile")
    for name in (*_PLAIN, *_OPTIONS):
        try:
            value = _plain(getattr(router, name), name)
            _check_no_secret(name, value)
        except ConfigurationError as error:
            raise ConfigurationError(f"the router {error}") from None
        if name == "metadata" and isinstance(value, dict):
            value = {key: item for key, item in value.items() if key != _OF_THE_VERSION} or None
        if value is not None:
            config[name] = value
    return config


def _again(name: str) -> str:
    return f"to_config(leave_out=[{name!r}]) leaves it out, and from_config(config, {name}=...) takes it again"


def _model_config(route: str, backend: BaseChatModel | str, left_out: bool) -> dict[str, Any]:
    if left_out:
        return {"route": route}
    try:
        if isinstance(backend, str):
            name, settings = str(backend), dict(backend.settings) if isinstance(backend, ModelString) else {}
            _check_no_secret("", settings)
            if _KEY.search(name) or _ADDRESS.search(name):
                raise ConfigurationError("has a name that may hold a secret")
        else:
            name, settings = _described(backend)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"route {route!r}: its backend {error}. Give it as a 'provider:model' string, or "
            f"to_config(leave_out=[{route!r}]) leaves it out, and from_config(config, models={{{route!r}: ...}}) "
            "takes it again"
        ) from error.__cause__
    return {"route": route, "model": name, **({"settings": settings} if settings else {})}


def _described(backend: BaseChatModel) -> tuple[str, dict[str, Any]]:
    """The "provider:model" string and the settings that make such a chat model; keys come from the environment."""
    cls = type(backend)
    provider = _PROVIDERS.get((cls.__module__.partition(".")[0], cls.__name__))
    if provider is None:
        raise ConfigurationError(f"of class {cls.__name__} cannot be written as a 'provider:model' string")
    model = str(backend._get_ls_params().get("ls_model_name"))
    secret = {
        name: value
        for name in cls.model_fields
        if isinstance(value := getattr(backend, name), SecretStr) or name in backend.lc_secrets
    }
    try:
        bare = cls(model=model, **{name: value for name, value in secret.items() if value is not None})
        settings: dict[str, Any] = {}
        for name in cls.model_fields:
            value, usual = getattr(backend, name), getattr(bare, name)
            if type(value) is type(usual) and not _is_plain(value):  # a secret, or a client that it made itself
                continue
            if value != usual:
                settings[name] = _plain(value, name)
        again = cls(model=model, **{name: value for name, value in secret.items() if value is not None}, **settings)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever its constructor or a validator raises
        raise ConfigurationError(f"{cls.__name__} cannot be made again: {type(error).__name__}") from None
    for name in cls.model_fields:
        if _is_plain(getattr(backend, name)) and getattr(backend, name) != getattr(again, name):
            raise ConfigurationError(f"{cls.__name__} has a setting that does not survive: {name}")
    if isinstance(settings.get("metadata"), dict):
        settings["metadata"].pop(_OF_THE_VERSION, None)
    for name, value in settings.items():
        _check_no_secret(name, value)
    written = json.dumps(settings)
    for value in secret.values():
        if isinstance(value, SecretStr) and len(value.get_secret_value()) >= 8 and value.get_secret_value() in written:
            raise ConfigurationError(f"{cls.__name__} has its key in other settings too")
    return f"{provider}:{model}", settings


def _check_no_secret(name: str, value: Any) -> None:
    if _SECRET.search(name) and value is not None:
        raise ConfigurationError(f"has a setting that may hold a secret: {name}")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_no_secret(key, item)
    elif isinstance(value, list):
        for item in value:
            _check_no_secret("", item)
    elif isinstance(value, str):
        if _KEY.search(value):
            raise ConfigurationError(f"has a setting that may hold a secret: a key in {name or 'a list'}")
        if _ADDRESS.search(value) or _USER_AT_HOST.search(value):
            raise ConfigurationError(f"has a setting that may hold a secret: an address in {name or 'a list'}")


def _is_plain(value: Any) -> bool:
    try:
        _plain(value, "")
    except ConfigurationError:
        return False
    return True


def _plain(value: Any, where: str) -> Any:
    """The value as JSON holds it.

    Raises:
        ConfigurationError: JSON cannot hold it.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where) for key, item in value.items()}
    raise ConfigurationError(f"has a setting that is no plain JSON: {where}")


# -- reading
def arguments(config: Mapping[str, Any], models: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments.

    Args:
        config: What `config_of` gave.
        models: Backends by route name, instead of those in it.
        given: Other arguments, instead of those in it; None: not given.

    Raises:
        ConfigurationError: The dict is no such configuration, or leaves something out that is not given.
    """
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"a configuration is a dict as to_config() gives it, got {type(config).__name__}")
    version = config.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= CONFIG_FORMAT:
        raise ConfigurationError(
            f"the configuration has format {version!r}; this version reads formats 1 to {CONFIG_FORMAT}. "
            "If it is newer, upgrade routellm-integrations"
        )
    _only(config, _KEYS, "the configuration")
    found = {name: config[name] for name in (*_PLAIN, "threshold", "encoder", "profile") if name in config}
    for name, kinds in _KINDS.items():
        if name in config:
            if not isinstance(config[name], kinds):
                raise ConfigurationError(
                    f"{name} in a configuration is {' or '.join(kind.__name__ for kind in kinds)}, "
                    f"got {type(config[name]).__name__}"
                )
            found[name] = config[name]
    if "budget" in config:
        if not isinstance(config["budget"], Mapping) or "usd" not in config["budget"]:
            raise ConfigurationError("budget in a configuration is a dict with usd and more")
        _only(config["budget"], tuple(Budget.__dataclass_fields__), "its budget")
        found["budget"] = Budget(**config["budget"])
    found["models"] = _models(config.get("models"), models)
    found.update({name: value for name, value in given.items() if value is not None})
    if "router" not in found:
        raise ConfigurationError("the configuration leaves the router out: give router=")
    return found


_KINDS: dict[str, tuple[type, ...]] = {
    "router": (str,),
    "normalize_history": (bool,),
    "name": (str,),
    "tags": (list,),
    "metadata": (dict,),
    "verbose": (bool,),
    "output_version": (str,),
    "disable_streaming": (bool, str),
}


def _only(config: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in config:
        if name not in known:
            meant = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {meant[0]!r}?" if meant else f"; known: {', '.join(known)}"
            raise ConfigurationError(f"unknown key {name!r} in {what}{hint}")


def _models(entries: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigurationError("models in a configuration is a list of {'route': name, 'model': 'provider:model'}")
    models: dict[str, Any] = {}
    rest = dict(given or {})
    for entry in entries:
        _only(entry, ("route", "model", "settings"), "a model of the configuration")
        route, model, settings = entry.get("route"), entry.get("model"), entry.get("settings") or {}
        if not isinstance(route, str) or route in models:
            raise ConfigurationError(f"each model of a configuration names its own route, got {route!r}")
        if not isinstance(settings, dict):
            raise ConfigurationError(f"route {route!r}: settings are a dict, got {type(settings).__name__}")
        if route in rest:
            models[route] = rest.pop(route)
        elif isinstance(model, str):
            models[route] = ModelString(model, settings) if settings else model
        else:
            raise ConfigurationError(
                f"route {route!r}: the configuration leaves its backend out: give models={{{route!r}: ...}}"
            )
    if rest:
        raise ConfigurationError(
            f"models= names {', '.join(map(repr, rest))}, but the configuration's routes are {', '.join(models)}"
        )
    return models
