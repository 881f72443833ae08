"""Strings "provider:model", such as "openai:gpt-4.1-mini", as LlamaIndex LLMs."""

from __future__ import annotations

import os
from typing import Any

from llama_index.core.llms.llm import LLM

from routellm_core._lazy import Registry
from routellm_core.errors import ConfigurationError, MissingExtraError, UnknownKindError

__all__ = ["PROVIDERS", "check_spec", "make_llm"]

PROVIDERS = Registry(
    "LlamaIndex provider",
    {
        "anthropic": "llama_index.llms.anthropic:Anthropic",
        "deepseek": "llama_index.llms.deepseek:DeepSeek",
        "google_genai": "llama_index.llms.google_genai:GoogleGenAI",
        "groq": "llama_index.llms.groq:Groq",
        "mistralai": "llama_index.llms.mistralai:MistralAI",
        "ollama": "llama_index.llms.ollama:Ollama",
        "openai": "llama_index.llms.openai:OpenAI",
        "openrouter": "llama_index.llms.openrouter:OpenRouter",
    },
    group="llamaindex_routellm.providers",
)
"""Provider to "module:Class"; the class takes `model=` and finds its key in the environment."""

_COMPATIBLE = "llama_index.llms.openai_like:OpenAILike"
_COMPATIBLE_WINDOW = 32_768  # of a model whose size nobody knows: a common least among servers of today


def check_spec(spec: str) -> None:
    """Refuse a string that can never become a backend, without importing anything.

    Raises:
        ConfigurationError: It is not of the form "provider:model".
        UnknownKindError: The provider is not in the table; the message lists those that are.
    """
    provider, colon, model = spec.partition(":")
    if not (provider and colon and model):
        raise ConfigurationError(
            f"a backend is an LLM or a string 'provider:model' such as 'openai:gpt-4.1-mini', got {spec!r}"
        )
    if provider not in PROVIDERS.table and provider not in PROVIDERS.kinds():
        raise UnknownKindError(
            f"unknown provider {provider!r} in {spec!r}; known: {', '.join(PROVIDERS.kinds())}. "
            "For another one, build its LLM and give that"
        )


def make_llm(spec: str) -> LLM:
    """The LLM that a "provider:model" string names.

    `openai:` with OPENAI_BASE_URL set is a chat model that can call tools, behind that address; build
    an `OpenAILike` yourself where a server's model differs.

    Raises:
        MissingExtraError: The provider's integration package is not installed.
        ConfigurationError: The provider refuses, for want of a key for example.
    """
    provider, _, model = spec.partition(":")
    base_url = os.environ.get("OPENAI_BASE_URL")
    arguments: dict[str, Any] = {"model": model}
    if provider == "openai" and base_url:
        cls, arguments = _load(_COMPATIBLE, spec), _compatible(model, base_url)
    elif provider in PROVIDERS.table:
        cls = _load(PROVIDERS.table[provider], spec)
    else:
        cls = PROVIDERS.load(provider)
    try:
        llm: LLM = cls(**arguments)
    except Exception as error:  # a missing key, for example
        raise ConfigurationError(f"the backend {spec!r} cannot be made: {type(error).__name__}: {error}") from error
    return llm


def _compatible(model: str, base_url: str) -> dict[str, Any]:
    return {
        "model": model,
        "api_base": base_url,
        "api_key": os.environ.get("OPENAI_API_KEY") or "none",  # the client insists on one, local servers do not
        "context_window": _window(model),
        "is_chat_model": True,
        "is_function_calling_model": True,
    }


def _window(model: str) -> int:
    try:
        from llama_index.llms.openai.utils import openai_modelname_to_contextsize

        return int(openai_modelname_to_contextsize(model))
    except (ImportError, ValueError):  # a server's own model
        return _COMPATIBLE_WINDOW


def _load(target: str, spec: str) -> Any:
    import importlib

    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (module == missing or module.startswith(f"{missing}.")):
            raise  # the integration is there, something it needs is not
        package = module.replace("llama_index", "llama-index").replace(".", "-").replace("_", "-")
        raise MissingExtraError(
            f"the backend {spec!r} needs the package {package!r}: pip install {package}", name=module
        ) from error
