"""ChatRouteLLM: a chat model that hands each call to the cheapest backend that answers it as well."""

from __future__ import annotations

import asyncio
import difflib
import pickle  # noqa: TID251 - to find out what cannot be; nothing is read
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, SupportsIndex, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import ConfigDict, Field, InstanceOf, PrivateAttr, ValidationError
from typing_extensions import Self

from langchain_routellm import _events, _routed
from langchain_routellm._backends import check_each, checked_models, common_profile, made, tuned
from langchain_routellm._generate import GenerateHost, as_one, generate_configs, with_stop
from langchain_routellm._host import ChatHost
from langchain_routellm._saved import arguments, config_of
from langchain_routellm._structured import StructuredRoute
from langchain_routellm._tools import DeferredTools, RouterBinding
from routellm_core.calibration import Budget
from routellm_core.errors import ConfigurationError
from routellm_core.policy import POLICY_DEFAULTS, EscalationPolicy, RoutingPolicy, policy_from
from routellm_core.routers import Router, router_and_threshold
from routellm_core.types import Fallback, OnError, Stickiness

__all__ = ["ChatRouteLLM"]

_OPTIONS = (*POLICY_DEFAULTS, "strong", "weak", "models", "policy", "text", "normalize_history", "profile")
_PASSED_DOWN = {"output_version": None, "disable_streaming": False}  # behaviour of the call: the backends need it


class ChatRouteLLM(BaseChatModel):
    """A chat model over two or more others: easy prompts go to the cheap one, hard ones to the good one.

    Every way to call a chat model works and is routed, tools and structured output included. Each answer says
    where it came from in `response_metadata["routellm"]`.

    The newest human message is scored (a short follow-up such as "why?" together with the last substantial
    one). A tool loop stays on the route where it began. One call can differ through
    `config["configurable"]`: `routellm_route` (a route's name), `routellm_threshold`, `routellm_stickiness`;
    `model="strong"` as a call argument names a route too. A router that was fitted with metadata finds its columns in
    the run's metadata: `config={"metadata": {"topic": "law"}}`, here or on a chain around this.

    Args:
        strong: The better backend: a chat model, or a "provider:model" string that becomes one on first use
            (needs the package langchain and the provider's own). Generation settings belong to the backends.
        weak: The cheaper backend.
        models: Instead of both: backends by route name, weakest first.
        router: What scores: "default", a folder, a hub name or a `Router`; "router-mf-0.11593" names a published
            router together with its threshold.
        encoder: With a router's name: the embedding model it reads: LangChain or LlamaIndex embeddings, an OpenAI
            client, an `Encoder`, or a name such as "openai:text-embedding-3-small".
        threshold: Win rates from here on go to the strong model, 0..1; N routes: N-1 ascending cuts.
        strong_share: Instead of `threshold`, for two routes: the share of prompts that should go strong.
        budget: Instead, for two routes: money and what calls cost, turned into such a share.
        quality_floor: Instead, for two routes: the fraction of the strong model's mean quality to keep; for a
            router calibrated on labels.
        policy: Instead of all routing options: a `RoutingPolicy` over the same route names; of an `EscalationPolicy`
            the weak answers are verified before they are given.
        text: From the messages to the text that is scored; None or "" means there is none.
        stickiness: Which earlier decisions are kept: "none", "tool_loop" or "conversation".
        fallback: Routes tried when a backend fails before its first token: "none", "stronger" or "any".
        on_error: The route when scoring fails, is late, or finds no text: "strong", "weak" or "raise".
        router_timeout_s: Seconds that scoring may take; None: no limit.
        normalize_history: Rewrite turns of other routes into text and tool calls, as most clients refuse the
            content blocks of others.
        profile: What all backends can do; None: the intersection of theirs, nothing if one has none.
        **kwargs: `callbacks`, `tags`, `metadata`, `name`, `output_version`, `disable_streaming` and `verbose`
            as for every chat model; callbacks also see the backends' runs.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range.
        MissingExtraError: On first use of a string, when a package for it is not installed.
        RouteLLMError: The router cannot be loaded; in a call, as `RoutingPolicy.decide`.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from routellm_core.testing import ScriptedRouter
        >>> router = ScriptedRouter(lambda prompt: 0.9 if "prove" in prompt else 0.1)
        >>> llm = ChatRouteLLM(
        ...     strong=FakeListChatModel(responses=["a proof"]),
        ...     weak=FakeListChatModel(responses=["hello"]),
        ...     router=router, threshold=0.5)
        >>> answer = llm.invoke("Please prove it.")
        >>> answer.text, answer.response_metadata["routellm"]["route"]
        ('a proof', 'strong')
    """

    # frozen: what decides is made from them once, and would not follow an assignment; model_copy() does
    models: dict[str, BaseChatModel | InstanceOf[str]] = Field(default_factory=dict, frozen=True)
    router: Any = Field(default="default", exclude=True, frozen=True)
    encoder: Any = Field(default=None, exclude=True, repr=False, frozen=True)
    threshold: Any = Field(default=None, frozen=True)
    strong_share: float | None = Field(default=None, frozen=True)
    budget: Budget | None = Field(default=None, frozen=True)
    quality_floor: float | None = Field(default=None, frozen=True)
    policy: Any = Field(default=None, exclude=True, repr=False, frozen=True)
    text: Callable[..., Any] | None = Field(default=None, exclude=True)
    stickiness: Stickiness = Field(default="tool_loop", frozen=True)
    fallback: Fallback = Field(default="none", frozen=True)
    on_error: OnError = Field(default="strong", frozen=True)
    router_timeout_s: float | None = Field(default=None, frozen=True)
    normalize_history: bool = True

    model_config = ConfigDict(arbitrary_types_allowed=True)
    _policy: RoutingPolicy = PrivateAttr()
    _made: dict[str, BaseChatModel] = PrivateAttr(default_factory=dict)

    def __init__(
        self,
        *,
        strong: BaseChatModel | str | None = None,
        weak: BaseChatModel | str | None = None,
        models: Mapping[str, BaseChatModel | str] | None = None,
        router: Router | str | Path = "default",
        encoder: Any = None,
        threshold: float | Sequence[float] | None = None,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        policy: RoutingPolicy | None = None,
        text: Callable[[list[BaseMessage]], str | None] | None = None,
        stickiness: Stickiness = "tool_loop",
        fallback: Fallback = "none",
        on_error: OnError = "strong",
        router_timeout_s: float | None = None,
        normalize_history: bool = True,
        profile: ModelProfile | None = None,
        **kwargs: Any,
    ) -> None:
        # all of it before pydantic, which would wrap our errors into its own
        routes = checked_models(strong, weak, models)
        if text is not None and not callable(text):
            raise ConfigurationError(f"text= is a function from the messages to a str, got {type(text).__name__}")
        options = {
            "router": router,
            "encoder": encoder,
            "threshold": threshold,
            "strong_share": strong_share,
            "budget": budget,
            "quality_floor": quality_floor,
            "stickiness": stickiness,
            "fallback": fallback,
            "on_error": on_error,
            "router_timeout_s": router_timeout_s,
        }
        decides = policy_from(policy, tuple(routes), options, escalates=True)
        names_threshold = isinstance(router, str) and router_and_threshold(router) is not None
        unknown = sorted(set(kwargs) - set(type(self).model_fields))
        for name in unknown:
            meant = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.75)
            if meant:  # a misspelled option would route by the default, and nobody would know
                raise ConfigurationError(f"{type(self).__name__} has no argument {name!r}; did you mean {meant[0]!r}?")
        if unknown:
            warnings.warn(
                f"{type(self).__name__} ignores {', '.join(unknown)}: set what concerns the answer on its backends",
                stacklevel=2,
            )
        ignored = [name for name in ("cache", "rate_limiter") if kwargs.get(name) not in (None, False)]
        if ignored:
            warnings.warn(
                f"{type(self).__name__} ignores {' and '.join(ignored)}: set them on its backends", stacklevel=2
            )
        super().__init__(
            **{name: value for name, value in kwargs.items() if name not in unknown},
            models=routes,
            router=decides.router,
            policy=policy,
            text=text,
            profile=profile,
            # of a policy, or of a router's name that holds one, what it amounts to; copies would lose it
            threshold=threshold if policy is None and not names_threshold else decides.settings()["threshold"],
            strong_share=strong_share,
            budget=budget,
            quality_floor=quality_floor,
            stickiness=decides.stickiness,
            fallback=decides.fallback,
            on_error=decides.on_error,
            router_timeout_s=decides.router_timeout_s,
            normalize_history=normalize_history,
        )
        self._policy = decides

    # -- what is behind it
    @property
    def routing_policy(self) -> RoutingPolicy:
        """What decides: the policy that was given, or the one made of the constructor's arguments."""
        return self._policy

    def _is_made(self, route: str) -> bool:
        return route in self._made or not isinstance(self.models[route], str)

    def _backend(self, route: str) -> BaseChatModel:
        backend = self._made.get(route)
        if backend is None:
            given = self.models[route]
            backend = made(given, route) if isinstance(given, str) else given
            passed = {
                name: getattr(self, name) for name, default in _PASSED_DOWN.items() if getattr(self, name) != default
            }
            # two threads may both get here; one result wins
            backend = self._made.setdefault(route, tuned(backend, passed))
        return backend

    def _resolve_model_profile(self) -> ModelProfile | None:
        return common_profile(self.models.values())

    # -- saving
    def to_config(self, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
        """Everything but code and secrets, as plain JSON; `from_config` makes such a router again.

        Keys and other secrets are never in it: the chat models read them from the environment again. Backends are
        written as "provider:model" strings, with the settings they were given; the router as its name or the folder
        it was loaded from or saved to, with the calibration it has there.

        Args:
            leave_out: Names of routes whose backends, and of "router", "encoder", "text", "callbacks" and
                "custom_get_token_ids" that are not written, to be given to `from_config` instead.

        Raises:
            ConfigurationError: Something cannot be written, and is not left out; the message names it.

        Example:
            >>> llm = ChatRouteLLM(strong="openai:gpt-4.1", weak="ollama:llama3.1", router="random", strong_share=0.3)
            >>> llm.to_config()["models"]
            [{'route': 'weak', 'model': 'ollama:llama3.1'}, {'route': 'strong', 'model': 'openai:gpt-4.1'}]
            >>> ChatRouteLLM.from_config(llm.to_config()).strong_share
            0.3
        """
        return config_of(self, leave_out)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        models: Mapping[str, BaseChatModel | str] | None = None,
        router: Router | str | Path | None = None,
        encoder: Any = None,
        text: Callable[[list[BaseMessage]], str | None] | None = None,
        callbacks: Callbacks = None,
        custom_get_token_ids: Callable[[str], list[int]] | None = None,
    ) -> Self:
        """The router that `to_config` described.

        Read only what you trust: a configuration says which hosts the requests, and with them the keys, go to.

        Args:
            config: What `to_config` gave.
            models: Backends by route name, instead of those described, and for those left out.
            router: Instead of the one described.
            encoder: As for the constructor, and so for those that follow.
            text: From the messages to the text that is scored.
            callbacks: Handlers of every call.
            custom_get_token_ids: Counts tokens.

        Raises:
            ConfigurationError: It is no such dict, has unknown keys, comes from a newer version, or leaves out
                what is not given here.
            RouteLLMError: The router cannot be loaded.
        """
        given = {
            "router": router,
            "encoder": encoder,
            "text": text,
            "callbacks": callbacks,
            "custom_get_token_ids": custom_get_token_ids,
        }
        found = arguments(config, models, given)
        try:
            return cls(**found)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ConfigurationError(f"the configuration cannot be used: {wrong}") from None

    # -- copies and pickles
    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._made = {}
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo[id(self._made)] = {}  # holds clients, and is quickly made again
        try:
            return super().__deepcopy__(memo)
        except Exception:
            check_each(self.models, deepcopy, "copied deeply")
            raise

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy whose routing follows the updated fields.

        Raises:
            ConfigurationError: A field that does not exist, or values that contradict each other.
        """
        update = dict(update or {})
        for name in update:
            if name not in type(self).model_fields:  # pydantic would set it, and nothing would follow
                hint = "models={'weak': ..., 'strong': ...}" if name in ("strong", "weak") else "one of its fields"
                raise ConfigurationError(f"{type(self).__name__} has no field {name!r}; update {hint}")
        if "models" in update:
            update["models"] = checked_models(None, None, update["models"])
            if "profile" not in update and self.profile == common_profile(self.models.values()):
                update["profile"] = common_profile(update["models"].values())
        copy = super().model_copy(update=update, deep=deep)
        copy._made = {}
        if not set(update).isdisjoint((*POLICY_DEFAULTS, "policy", "models")):
            options = {name: getattr(copy, name) for name in POLICY_DEFAULTS}
            copy._policy = policy_from(copy.policy, tuple(copy.models), options, escalates=True)
        return copy

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        check_each(self.models, pickle.dumps, "pickled")
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        state["__pydantic_private__"] = {**(state["__pydantic_private__"] or {}), "_made": {}}
        return state

    # -- identity: never that of a backend, or agents would pick its native structured output for all of them
    @property
    def _llm_type(self) -> str:
        return "routellm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"routes": list(self.models), **self._policy.settings()}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "routellm"
        params.setdefault("ls_model_name", "routellm")
        return params

    def get_num_tokens(self, text: str) -> int:
        """An estimate; the backends count differently, and the inherited counter needs transformers."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens(text)
        return count_tokens_approximately([HumanMessage(text)])

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """An estimate, as `get_num_tokens`."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        return count_tokens_approximately(messages, tools=list(tools) if tools else None)

    # -- calls
    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        return cast("AIMessage", _routed.invoke(ChatHost(self), input, config, with_stop(stop, kwargs)))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        return cast("AIMessage", await _routed.ainvoke(ChatHost(self), input, config, with_stop(stop, kwargs)))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        return _routed.stream(ChatHost(self), input, config, with_stop(stop, kwargs))

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        return _routed.astream(ChatHost(self), input, config, with_stop(stop, kwargs))

    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, version: str = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":
            return _events.stream_events(ChatHost(self), input, config, kwargs)
        return super().stream_events(input, config, version=cast("Any", version), **kwargs)

    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, version: str = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":
            return _events.astream_events(ChatHost(self), input, config, kwargs)
        return super().astream_events(input, config, version=cast("Any", version), **kwargs)

    # -- many at once: the router is asked once
    def batch(
        self, inputs: list[LanguageModelInput], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[AIMessage]:
        configs = _routed.decided(ChatHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self, inputs: list[LanguageModelInput], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[AIMessage]:
        configs = await _routed.adecided(ChatHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        return await super().abatch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def batch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: Any = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[Any]:
        configs = _routed.decided(ChatHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        yield from super().batch_as_completed(
            inputs, configs, return_exceptions=cast("Any", return_exceptions), **kwargs
        )

    async def abatch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: Any = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        configs = await _routed.adecided(ChatHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        async for item in super().abatch_as_completed(
            inputs, configs, return_exceptions=cast("Any", return_exceptions), **kwargs
        ):
            yield item

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Each prompt goes its own way; the generations' messages carry the records."""
        host, configs, kwargs = GenerateHost(self), *generate_configs(len(messages), callbacks, stop, kwargs)
        configs = _routed.decided(host, messages, configs, kwargs, return_exceptions=False)
        return as_one(
            [
                _routed.invoke(GenerateHost(self), prompt, config, kwargs)
                for prompt, config in zip(messages, configs, strict=True)
            ]
        )

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Each prompt goes its own way; the generations' messages carry the records."""
        host, configs, kwargs = GenerateHost(self), *generate_configs(len(messages), callbacks, stop, kwargs)
        configs = await _routed.adecided(host, messages, configs, kwargs, return_exceptions=False)
        # all are awaited, so that every run is closed before an error is raised
        results = await asyncio.gather(
            *(
                _routed.ainvoke(GenerateHost(self), prompt, config, kwargs)
                for prompt, config in zip(messages, configs, strict=True)
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return as_one(cast("list[LLMResult]", results))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # abstract in the base class, and reached only by code that bypasses the public methods; such code has
        # opened an LLM run of its own, so ours stay silent or usage would count twice
        answer = self.invoke(messages, {"callbacks": []}, stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = await self.ainvoke(messages, {"callbacks": []}, stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    # -- declarations
    def bind(self, **kwargs: Any) -> RouterBinding:  # type: ignore[override] # core's own class is private
        """Call arguments for every call; they reach the chosen backend unchanged."""
        if "tools" in kwargs and not isinstance(kwargs["tools"], DeferredTools) and kwargs["tools"]:
            kwargs["tools"] = DeferredTools(kwargs["tools"])
        return RouterBinding(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> RouterBinding:
        """A configuration for every call, which tools bound later keep (after core's own method they lose it)."""
        return RouterBinding(bound=self, kwargs={}, config=cast("RunnableConfig", {**(config or {}), **kwargs}))

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> RouterBinding:
        """Bind tools, which the chosen backend turns into its own format.

        A provider's built-in tools pass through untouched, and so tie the calls to that provider.
        """
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=DeferredTools(tools), **choice, **kwargs)

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Structured output by the chosen backend's own method; `include_raw=True` carries the record in "raw"."""
        if isinstance(self._policy, EscalationPolicy):
            warnings.warn(
                "structured output is not verified: by this EscalationPolicy's first cut alone the weak model answers, "
                "and keeps its answers",
                stacklevel=2,
            )
        return StructuredRoute(router=self, target_schema=schema, options={"include_raw": include_raw, **kwargs})
