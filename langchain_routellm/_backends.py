"""Backends: chat models, or "provider:model" strings that become one on first use; and what they can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately

from routellm_core._lazy import need
from routellm_core.errors import ConfigurationError, MissingExtraError
from routellm_core.policy import named_routes

__all__ = ["ModelString", "Needs", "can_take", "check_each", "checked_models", "common_profile", "made", "tuned"]


class ModelString(str):
    """A "provider:model" string with settings for the chat model it will become.

    Args:
        spec: The string.
        settings: Arguments of the chat model's constructor.
    """

    __slots__ = ("settings",)
    settings: dict[str, Any]

    def __new__(cls, spec: str, settings: Mapping[str, Any]) -> ModelString:
        self = super().__new__(cls, spec)
        self.settings = dict(settings)
        return self

    def __getnewargs__(self) -> tuple[str, dict[str, Any]]:  # type: ignore[override] # ours takes two
        return str(self), self.settings


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
        settings = spec.settings if isinstance(spec, ModelString) else {}
        model = chat_models.init_chat_model(str(spec), **settings)
        if not isinstance(model, BaseChatModel):  # what configurable_fields= makes, which is a model only when called
            raise TypeError(f"settings that leave the model open make a {type(model).__name__}, no chat model")
        return model
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


def check_each(models: Mapping[str, Any], attempt: Callable[[Any], Any], what: str) -> None:
    """Find the backend that something cannot be done with; strings can do everything.

    Raises:
        ConfigurationError: `attempt` failed with one; names the route.
    """
    for route, backend in models.items():
        if isinstance(backend, str):
            continue
        try:
            attempt(backend)
        except Exception as error:
            raise ConfigurationError(
                f"route {route!r}: its backend, a {type(backend).__name__}, cannot be {what} "
                f"({type(error).__name__}: {error}). Give it as a 'provider:model' string, or make the router where it "
                "is needed, from its to_config()"
            ) from error


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
    "input_image": "image_inputs",
    "audio": "audio_inputs",
    "input_audio": "audio_inputs",
    "video": "video_inputs",
    "document": "pdf_inputs",
}
_OF_MIME = {"image": "image_inputs", "audio": "audio_inputs", "video": "video_inputs"}
_IN_TOOL_RESULTS = {"image_inputs": "image_tool_message", "pdf_inputs": "pdf_tool_message"}


class Needs:
    """What one request asks of a backend; the messages are looked at once, whatever the number of routes.

    Args:
        messages: The request.
        tools: Whether tools are bound.
        structured: Whether structured output is wanted.
        method: By which method it is wanted; None: by the backend's own choice.

    Attributes:
        inputs: Keys of a profile that must not be False.
    """

    def __init__(
        self, messages: Sequence[BaseMessage], *, tools: bool, structured: bool, method: str | None = None
    ) -> None:
        self.messages = messages
        self.tools = tools or method == "function_calling"
        self.structured = structured
        self.inputs = {kind for message in messages for kind in _message_inputs(message)}
        if method == "json_schema":
            self.inputs.add("structured_output")
        self._tokens: int | None = None

    @property
    def tokens(self) -> int:
        """An estimate, without any tokenizer."""
        if self._tokens is None:
            self._tokens = count_tokens_approximately(self.messages)
        return self._tokens


def _message_inputs(message: BaseMessage) -> Iterator[str]:
    # what a model itself made reaches other routes as text
    if isinstance(message.content, str) or isinstance(message, AIMessage):
        return
    for block in message.content:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "tool_result":  # Anthropic's own form
            inner = block.get("content")
            for part in inner if isinstance(inner, list) else []:
                if isinstance(part, dict) and (kind := _input_kind(part)) is not None:
                    yield _IN_TOOL_RESULTS.get(kind, kind)
        elif (kind := _input_kind(block)) is not None:
            yield kind
            if isinstance(message, ToolMessage) and kind in _IN_TOOL_RESULTS:
                yield _IN_TOOL_RESULTS[kind]


def _input_kind(block: dict[str, Any]) -> str | None:
    """The key of a profile that says whether a backend takes such a block, in any provider's form."""
    kind = str(block.get("type"))
    if kind in ("file", "input_file", "media", "document"):
        source = block.get("source") or block.get("file")
        inner = source if isinstance(source, dict) else {}
        if inner.get("type") in ("text", "content"):
            return None
        mime = str(block.get("mime_type") or inner.get("media_type") or "")
        data = str(inner.get("file_data") or block.get("file_data") or "")[:40].removeprefix("data:")
        mime = mime or data.partition(";")[0]
        if mime == "application/pdf":
            return "pdf_inputs"
        if mime.startswith("text/"):
            return None
        if mime:
            return _OF_MIME.get(mime.partition("/")[0])
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
