"""Backends: chat models, or "provider:model" strings that become one on first use; and what they can take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately

from routellm_core._lazy import need
from routellm_core.errors import ConfigurationError, MissingExtraError
from routellm_core.policy import named_routes

__all__ = ["Needs", "can_take", "checked_models", "common_profile", "made", "tuned"]


def checked_models(strong: Any, weak: Any, models: Any) -> dict[str, BaseChatModel | str]:
    """The routes by name, weakest first.

    Raises:
        ConfigurationError: Neither or both of the two forms were given, or something is no backend.
    """
    routes = named_routes(strong, weak, models)
    for name, backend in routes.items():
        if isinstance(backend, str) and backend.strip():
            continue
        if not isinstance(backend, BaseChatModel):
            raise ConfigurationError(
                f"route {name!r}: a backend is a chat model or a 'provider:model' string, got "
                f"{type(backend).__name__ if backend != '' else 'an empty string'}. Retries and settings belong to the "
                "chat model itself (max_retries=, temperature=), fallbacks to fallback= here"
            )
    return routes


def made(spec: str, route: str | None = None) -> BaseChatModel:
    """The chat model a "provider:model" string stands for; messages name the route it is for.

    Raises:
        MissingExtraError: langchain, or the provider's package, is not installed.
        ConfigurationError: The provider is unknown, or refuses (a missing key, for example).
    """
    where = "" if route is None else f"route {route!r}: "
    chat_models = need("langchain.chat_models", extra="langchain", why=f"{where}the backend {spec!r}")
    try:
        return cast("BaseChatModel", chat_models.init_chat_model(spec))
    except ImportError as error:
        raise MissingExtraError(f"{where}the backend {spec!r}: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"{where}the backend {spec!r} cannot be made: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def tuned(backend: BaseChatModel, settings: Mapping[str, Any]) -> BaseChatModel:
    """A copy with other settings; the backend itself when there are none."""
    if not settings:
        return backend
    copy = backend.model_copy(update=dict(settings))
    copy.__dict__.pop("_serialized", None)  # cached in the original; kept, the copy would share its cache key
    return copy


def common_profile(backends: Iterable[Any]) -> ModelProfile | None:
    """What every backend can do: booleans AND, integers the smallest. None if one of them has no profile."""
    profiles = [backend.profile if isinstance(backend, BaseChatModel) else None for backend in backends]
    merged: dict[str, Any] = {}
    known = [profile for profile in profiles if profile]
    if not profiles or len(known) < len(profiles):
        return None
    for key in known[0]:
        values = [cast("dict[str, Any]", profile).get(key) for profile in known]
        if all(isinstance(value, bool) for value in values):
            merged[key] = all(values)
        elif all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            merged[key] = min(cast("list[int]", values))
    return cast("ModelProfile", merged)


_INPUTS = {
    "image": "image_inputs",
    "image_url": "image_inputs",
    "audio": "audio_inputs",
    "input_audio": "audio_inputs",
    "video": "video_inputs",
}


class Needs:
    """What one request asks of a backend; the messages are looked at once, whatever the number of routes.

    Args:
        messages: The request.
        tools: Whether tools are bound.
        structured: Whether structured output is wanted.
    """

    def __init__(self, messages: Sequence[BaseMessage], *, tools: bool, structured: bool) -> None:
        self.messages = messages
        self.tools = tools
        self.structured = structured
        self.inputs = {
            kind
            for message in messages
            if isinstance(message.content, list)
            for block in message.content
            if isinstance(block, dict) and (kind := _input_kind(block)) is not None
        }
        self._tokens: int | None = None

    @property
    def tokens(self) -> int:
        """An estimate, without any tokenizer."""
        if self._tokens is None:
            self._tokens = count_tokens_approximately(self.messages)
        return self._tokens


def _input_kind(block: dict[str, Any]) -> str | None:
    kind = str(block.get("type"))
    if kind == "file" and block.get("mime_type") == "application/pdf":
        return "pdf_inputs"
    return _INPUTS.get(kind)


def can_take(backend: BaseChatModel, needs: Needs) -> bool:
    """Whether nothing is known that stops the backend from taking the request."""
    profile: Mapping[str, Any] = backend.profile or {}
    has_tools = type(backend).bind_tools is not BaseChatModel.bind_tools and profile.get("tool_calling") is not False
    if needs.tools and not has_tools:
        return False
    if needs.structured and not has_tools and profile.get("structured_output") is not True:
        if type(backend).with_structured_output is BaseChatModel.with_structured_output:
            return False
    limit = profile.get("max_input_tokens")
    if limit and needs.tokens > limit:
        return False
    return all(profile.get(kind) is not False for kind in needs.inputs)
