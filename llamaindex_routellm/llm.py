"""RouteLLM: the LLM that hands every call to one of several."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr, model_serializer
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported silently
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode, TokenAsyncGen, TokenGen

from llamaindex_routellm._backends import (
    Backends,
    as_function_calling,
    checked_models,
    checked_utility,
)
from llamaindex_routellm._calling import RECORD_KEY, Caller, Question
from llamaindex_routellm._capability import Capability, ContextPolicy, ToolPolicy
from llamaindex_routellm._settings import SETTINGS_OF_BACKENDS, check_choices, refuse_settings
from llamaindex_routellm._text import TextFunction, scored_prompt, scored_text, template_question
from llamaindex_routellm.structured import RoutedStructuredLLM
from routellm_core.calibration import Budget
from routellm_core.errors import ConfigurationError
from routellm_core.policy import EscalationPolicy, RoutingPolicy, policy_from
from routellm_core.routers import Router
from routellm_core.types import Fallback, OnError, Stickiness

if TYPE_CHECKING:
    from llama_index.core.chat_engine.types import AgentChatResponse
    from llama_index.core.program.utils import FlexibleModel
    from llama_index.core.tools.types import BaseTool

__all__ = ["RouteLLM"]

_dispatcher = get_dispatcher(__name__)
_SHARED = ("callback_manager", "pydantic_program_mode")  # what LlamaIndex assigns to an LLM from outside


class RouteLLM(FunctionCallingLLM):
    """An LLM that scores each call's question and sends the call to the weakest backend that will do.

    Any LlamaIndex component can hold it: query engines, chat engines, agents, workflows, `Settings.llm`.
    The question is scored, not the context that a query engine packs around it, and a whole agent run
    is about one question. The record of the decision is on each response, as
    `additional_kwargs["routellm"]`; `routellm_core.collect_decisions()` sees those behind query engines
    and agents too. A router that was fitted with metadata finds its columns in `metadata_scope`, or
    in LlamaIndex's `instrument_tags`, around the call.

    Prompt settings (`system_prompt`, `output_parser`, ...) and rate limiters belong to the backends,
    where they take effect.

    Args:
        strong: Backend of the route "strong": an LLM, or a string such as "openai:gpt-4.1".
        weak: Backend of the route "weak".
        models: Instead of these two: any number of routes, `{name: backend}`, weakest first.
        router: What scores: "default", a folder, a hub name or a `Router`; "router-mf-0.11593" names a published
            router together with its threshold.
        encoder: With a router's name: the embedding model it reads: LangChain or LlamaIndex embeddings, an OpenAI
            client, an `Encoder`, or a name such as "openai:text-embedding-3-small".
        threshold: Win rates from here on go strong, in [0, 1]; with N routes N-1 ascending numbers.
        strong_share: Instead of `threshold`: the share of prompts that should go strong.
        budget: Instead, for two routes: money and what calls cost, turned into such a share.
        quality_floor: Instead, for two routes: the fraction of the strong model's mean quality to keep; for a
            router calibrated on labels.
        policy: Instead of `router` and all words about routing: a `RoutingPolicy` over the same routes, or an
            `EscalationPolicy`, which has weak answers verified before anybody sees them.
        text: What of the messages is scored: a function from them to a str. Not asked where a prompt
            template carries the question. Default: the newest user message, with the last substantial
            one before it when it is a short follow-up.
        stickiness: When an earlier decision is kept: "none", "tool_loop" (default) or "conversation".
            Answers are recognised in histories by fingerprint, within this process.
        fallback: Other routes tried when one is unreachable, busy or broken before its first token:
            "none" (default), "stronger" or "any". If all fail, the first error is raised.
        on_error: The route when scoring fails or there is nothing to score: "strong" (default), "weak",
            or "raise".
        router_timeout_s: Seconds scoring may take; None: no limit, and a quick router scores inline.
        tool_policy: "all" (default): this is a model that calls tools if all backends do. "capable": if one does;
            calls with tools then go only to those that do.
        context_policy: "min" (default): the window is that of the tightest backend. "escalate": of the widest;
            calls that do not fit the chosen backend go to a stronger one that they fit, as the tokenizer of
            LlamaIndex's settings counts.
        normalize_history: Rewrite answers of other routes into text and tool calls, in what is sent only, as most
            clients refuse each other's thinking and lack each other's ids.
        utility_backend: For steps that rewrite questions, see `utility` and `rewriting`: a route, or an LLM or
            "provider:model" of its own.
        callback_manager: Set on the backends too, now or when it is assigned later.
        pydantic_program_mode: Set on the backends too.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range.
        UnknownKindError: A backend string names an unknown provider, or no such router exists.
        MissingExtraError: At first use of a backend string, when its integration is not installed.

    Example:
        >>> llm = RouteLLM(strong="openai:gpt-4.1", weak="openai:gpt-4.1-nano", strong_share=0.3)
        >>> answer = llm.complete("What is the capital of France?")
        >>> answer.additional_kwargs["routellm"]["route"]
        'weak'
    """

    # excluded from dumps and repr: a backend's own hold its credentials
    models: dict[str, Any] = Field(exclude=True, repr=False, frozen=True)
    policy: RoutingPolicy = Field(exclude=True, repr=False, frozen=True)
    text: Any = Field(default=None, exclude=True, repr=False)
    tool_policy: ToolPolicy = Field(default="all", frozen=True)
    context_policy: ContextPolicy = Field(default="min", frozen=True)
    utility_backend: Any = Field(default=None, exclude=True, repr=False, frozen=True)
    normalize_history: bool = Field(default=True, frozen=True)

    _backends: Backends = PrivateAttr()
    _caller: Caller = PrivateAttr()
    _to_utility: str = PrivateAttr(default="nothing")  # or "completions" or "everything"

    def __init__(
        self,
        strong: LLM | str | None = None,
        weak: LLM | str | None = None,
        *,
        models: Mapping[str, LLM | str] | None = None,
        router: Router | str | Path | None = None,
        encoder: Any = None,
        threshold: float | Sequence[float] | None = None,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        policy: RoutingPolicy | None = None,
        text: TextFunction | None = None,
        stickiness: Stickiness | None = None,
        fallback: Fallback | None = None,
        on_error: OnError | None = None,
        router_timeout_s: float | None = None,
        tool_policy: ToolPolicy = "all",
        context_policy: ContextPolicy = "min",
        utility_backend: LLM | str | None = None,
        normalize_history: bool = True,
        callback_manager: CallbackManager | None = None,
        pydantic_program_mode: PydanticProgramMode | None = None,
        **others: Any,
    ) -> None:
        # checked before pydantic runs, which would wrap these errors in its own
        own = {name: others.pop(name) for name in self._own_fields() if name in others}
        refuse_settings(others, text)
        check_choices(tool_policy, context_policy)
        chosen = checked_models(strong, weak, models)
        utility = checked_utility(utility_backend, list(chosen))
        chosen_policy = policy_from(
            policy,
            tuple(chosen),
            {
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
            },
            escalates=True,
        )
        super().__init__(
            models=chosen,
            policy=chosen_policy,
            text=text,
            tool_policy=tool_policy,
            context_policy=context_policy,
            utility_backend=utility,
            normalize_history=normalize_history,
            **own,
        )
        self._backends = Backends(self.models, self.utility_backend if self._utility_route is None else None)
        capability = Capability(self._backends, tool_policy, context_policy)
        self._caller = Caller(self.policy, self._backends, capability, normalizes=normalize_history)
        if callback_manager is not None:
            self.callback_manager = callback_manager
        if pydantic_program_mode is not None:
            self.pydantic_program_mode = pydantic_program_mode

    @classmethod
    def _own_fields(cls) -> set[str]:
        """What a subclass has added."""
        return set(cls.model_fields) - set(RouteLLM.model_fields)

    @classmethod
    def class_name(cls) -> str:
        return "RouteLLM"

    def __setattr__(self, name: str, value: Any) -> None:
        if "_caller" in (self.__pydantic_private__ or {}):  # the base class fills in defaults before
            if name == "text":
                refuse_settings({}, value)
            elif name in SETTINGS_OF_BACKENDS:
                refuse_settings({name: value}, None)
        super().__setattr__(name, value)
        if name in _SHARED:
            self._backends.share(name, value)

    # -- what it says of itself
    @property
    def metadata(self) -> LLMMetadata:
        """What holds for every backend; read when asked for, because some ask their server."""
        return self._backends.metadata(tools=self.tool_policy, context=self.context_policy)

    def to_payload(self) -> dict[str, Any]:
        """For events: routes, models and settings; no credentials."""
        each = {name: self._backends.told(name).model_name for name in self.models}
        return {
            "class_name": self.class_name(),
            **self.metadata.model_dump(),
            "models": each,
            **self._settings(),
        }

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: Any, info: Any) -> dict[str, Any]:
        """Settings only; `RouteLLM.from_dict(dump, models=..., router=...)` restores."""
        added = self._own_fields()
        own = {name: value for name, value in handler(self).items() if name in added} if added else {}
        return {**own, **self._settings(), "class_name": self.class_name()}

    def _settings(self) -> dict[str, Any]:
        settings = {
            **self.policy.settings(),
            "tool_policy": self.tool_policy,
            "context_policy": self.context_policy,
            "normalize_history": self.normalize_history,
        }
        if isinstance(self.policy, EscalationPolicy):
            settings["escalation"] = {
                "verifier": self.policy.verifier.name,
                "escalation_threshold": self.policy.escalation_threshold,
                "verify_from": self.policy.verify_from,
            }
        if isinstance(self.utility_backend, str):
            settings["utility_backend"] = self.utility_backend
        return settings

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        shown = {name: llm if isinstance(llm, str) else llm.class_name() for name, llm in self.models.items()}
        return [("models", shown), ("policy", self.policy)]

    # The base class drops what cannot be pickled and breaks on loading; this fails where the cause is.
    def __getstate__(self) -> dict[Any, Any]:
        state = self._state()
        state.pop("callback_manager", None)  # handlers do not travel
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        state = dict(state)
        to_utility = state.pop("_to_utility")
        RouteLLM.__init__(self, **state)
        self._to_utility = to_utility

    def _state(self) -> dict[str, Any]:
        names = ("models", "policy", "text", "tool_policy", "context_policy", "utility_backend", "normalize_history")
        state = {name: getattr(self, name) for name in (*names, *self._own_fields())}
        # only what was assigned: backends may have had settings of their own before
        return {**state, **self._backends.shared, "_to_utility": self._to_utility}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RouteLLM:
        return self._made_of(copy.deepcopy(self.__getstate__(), memo))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> RouteLLM:
        """A copy that routes by the updated arguments, such as `models`, `policy` or `text`.

        Raises:
            ConfigurationError: As when it is made.
        """
        state = copy.deepcopy(self.__getstate__()) if deep else self._state()
        return self._made_of({**state, **(update or {})})

    def _made_of(self, state: dict[str, Any]) -> RouteLLM:
        clone = type(self).__new__(type(self))
        clone.__setstate__(state)
        return clone

    # -- steps that rewrite questions
    @property
    def utility(self) -> LLM:
        """For components that only rewrite, such as `HyDEQueryTransform`: the LLM of `utility_backend`.

        If that is a route, calls are recorded as forced to it.

        Raises:
            ConfigurationError: There is no `utility_backend`.
        """
        if self.utility_backend is None:
            raise ConfigurationError("RouteLLM(utility_backend=) says which LLM rewrites questions; it is not given")
        return self._backends.utility if self._utility_route is None else self._steered("everything")

    @property
    def rewriting(self) -> RouteLLM:
        """For components that rewrite by `complete` and answer by other calls: this, with `complete` on `utility`.

        Such is `CondensePlusContextChatEngine`, which takes one LLM for both.

        Raises:
            ConfigurationError: There is no `utility_backend`.
        """
        if self.utility_backend is None:
            _ = self.utility  # says what to give
        return self._steered("completions")

    def _steered(self, to_utility: str) -> RouteLLM:
        clone = self.__copy__()  # shares backends, pins and what was answered
        clone._to_utility = to_utility
        return clone

    # -- questions
    def _asked(self, messages: Sequence[ChatMessage], options: Mapping[str, Any]) -> Question:
        tools = bool(options.get("tools"))
        return Question(
            scored_text(messages, self.text),
            lambda: messages,
            tools,
            route=self._route,
            is_text=not tools and options.get("response_format") is None,
        )

    def _asked_prompt(self, prompt: str, options: Mapping[str, Any]) -> Question:
        route = self._utility_route if self._to_utility == "completions" else self._route
        return Question(
            scored_prompt(prompt, self.text),
            lambda: [ChatMessage(role=MessageRole.USER, content=prompt)],
            route=route,
            is_text=options.get("response_format") is None,
        )

    def _asked_template(
        self, prompt: BasePromptTemplate, arguments: dict[str, Any], *, is_text: bool = False
    ) -> Question:
        question = template_question(prompt, arguments)
        if question is None:
            messages = prompt.format_messages(llm=self, **arguments)
            return Question(scored_text(messages, self.text), lambda: messages, route=self._route, is_text=is_text)
        filled = functools.cache(lambda: prompt.format_messages(llm=self, **arguments))  # may call functions of its own
        return Question(question, filled, is_template=True, route=self._route, is_text=is_text)

    def _asked_tools(
        self,
        user_msg: str | ChatMessage | None,
        history: Sequence[ChatMessage] | None,
        tools: Sequence[BaseTool],
        *,
        must_call: bool,
    ) -> Question:
        messages = list(history or [])
        if isinstance(user_msg, ChatMessage):
            messages.append(user_msg)
        elif user_msg:
            messages.append(ChatMessage(role=MessageRole.USER, content=user_msg))
        return Question(
            scored_text(messages, self.text), lambda: messages, must_call, route=self._route, tools=list(tools)
        )

    @property
    def _utility_route(self) -> str | None:
        utility = self.utility_backend
        return utility if isinstance(utility, str) and utility in self.models else None

    @property
    def _route(self) -> str | None:
        return self._utility_route if self._to_utility == "everything" else None

    @property
    def _completes(self) -> LLM | None:
        """Who completes prompts in this one's stead: a utility backend that is behind no route."""
        if self._to_utility != "completions" or self._utility_route is not None:
            return None
        return self._backends.utility

    # -- the eight endpoints. Without LlamaIndex's callback decorators: the backend's own report the call, and a
    # second layer would count its tokens twice.
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._caller.call(
            self._asked(messages, kwargs),
            lambda llm: llm.chat(self._caller.history(llm, messages), **kwargs),
        )

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._caller.acall(
            self._asked(messages, kwargs),
            lambda llm: llm.achat(self._caller.history(llm, messages), **kwargs),
        )

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._caller.stream(
            self._asked(messages, kwargs),
            lambda llm: llm.stream_chat(self._caller.history(llm, messages), **kwargs),
        )

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return await self._caller.astream(
            self._asked(messages, kwargs),
            lambda llm: llm.astream_chat(self._caller.history(llm, messages), **kwargs),
        )

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        if (other := self._completes) is not None:
            return other.complete(prompt, formatted=formatted, **kwargs)
        return self._caller.call(
            self._asked_prompt(prompt, kwargs), lambda llm: llm.complete(prompt, formatted=formatted, **kwargs)
        )

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        if (other := self._completes) is not None:
            return await other.acomplete(prompt, formatted=formatted, **kwargs)
        return await self._caller.acall(
            self._asked_prompt(prompt, kwargs), lambda llm: llm.acomplete(prompt, formatted=formatted, **kwargs)
        )

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        if (other := self._completes) is not None:
            return other.stream_complete(prompt, formatted=formatted, **kwargs)
        return self._caller.stream(
            self._asked_prompt(prompt, kwargs), lambda llm: llm.stream_complete(prompt, formatted=formatted, **kwargs)
        )

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        if (other := self._completes) is not None:
            return await other.astream_complete(prompt, formatted=formatted, **kwargs)
        return await self._caller.astream(
            self._asked_prompt(prompt, kwargs), lambda llm: llm.astream_complete(prompt, formatted=formatted, **kwargs)
        )

    # -- prompt templates. Forwarded whole, so that the backend's template branch, system prompt and parser apply.
    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled template; its question is scored, not what else fills it."""
        return self._caller.call(
            self._asked_template(prompt, prompt_args, is_text=True), lambda llm: llm.predict(prompt, **prompt_args)
        )

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        return await self._caller.acall(
            self._asked_template(prompt, prompt_args, is_text=True), lambda llm: llm.apredict(prompt, **prompt_args)
        )

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        return self._caller.stream(
            self._asked_template(prompt, prompt_args, is_text=True), lambda llm: llm.stream(prompt, **prompt_args)
        )

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        return await self._caller.astream(
            self._asked_template(prompt, prompt_args, is_text=True), lambda llm: llm.astream(prompt, **prompt_args)
        )

    # -- structured output. The backend's own, which keeps its JSON-schema mode; some write into `llm_kwargs`.
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        answer: Model = self._caller.call(
            self._asked_template(prompt, prompt_args),
            lambda llm: llm.structured_predict(output_cls, prompt, llm_kwargs=_own(llm_kwargs), **prompt_args),
        )
        return answer

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        return await self._caller.acall(
            self._asked_template(prompt, prompt_args),
            lambda llm: llm.astructured_predict(output_cls, prompt, llm_kwargs=_own(llm_kwargs), **prompt_args),
        )

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | FlexibleModel, None, None]:
        return self._caller.stream(
            self._asked_template(prompt, prompt_args),
            lambda llm: llm.stream_structured_predict(output_cls, prompt, llm_kwargs=_own(llm_kwargs), **prompt_args),
        )

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        return await self._caller.astream(
            self._asked_template(prompt, prompt_args),
            lambda llm: llm.astream_structured_predict(output_cls, prompt, llm_kwargs=_own(llm_kwargs), **prompt_args),
        )

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLLM:
        """An LLM whose answers are objects of `output_cls`, routed on the question like this one."""
        return RoutedStructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    # -- tools. Spans are asked for by name here: LlamaIndex gives these methods none, and the record of an agent's
    # step would land on the agent's span.
    def _prepare_chat_with_tools(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError("RouteLLM forwards tool calls whole; its backends prepare them")

    @_dispatcher.span
    def chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponse:
        return self._caller.call(
            self._asked_tools(user_msg, chat_history, tools, must_call=True),
            lambda llm: as_function_calling(llm).chat_with_tools(
                tools, user_msg, self._history(llm, chat_history), *args, **kwargs
            ),
        )

    @_dispatcher.span
    async def achat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponse:
        return await self._caller.acall(
            self._asked_tools(user_msg, chat_history, tools, must_call=True),
            lambda llm: as_function_calling(llm).achat_with_tools(
                tools, user_msg, self._history(llm, chat_history), *args, **kwargs
            ),
        )

    @_dispatcher.span
    def stream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponseGen:
        return self._caller.stream(
            self._asked_tools(user_msg, chat_history, tools, must_call=True),
            lambda llm: as_function_calling(llm).stream_chat_with_tools(
                tools, user_msg, self._history(llm, chat_history), *args, **kwargs
            ),
        )

    @_dispatcher.span
    async def astream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponseAsyncGen:
        return await self._caller.astream(
            self._asked_tools(user_msg, chat_history, tools, must_call=True),
            lambda llm: as_function_calling(llm).astream_chat_with_tools(
                tools, user_msg, self._history(llm, chat_history), *args, **kwargs
            ),
        )

    def _history(self, llm: LLM, history: Sequence[ChatMessage] | None) -> list[ChatMessage] | None:
        return None if history is None else self._caller.history(llm, history)

    # a backend that cannot call tools goes through them by prompting, unless the others hide that there is one
    def predict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> AgentChatResponse:
        return self._caller.call(
            self._asked_tools(user_msg, chat_history, tools, must_call=self.tool_policy == "capable"),
            lambda llm: llm.predict_and_call(
                list(tools), user_msg, self._history(llm, chat_history), verbose, *args, **kwargs
            ),
        )

    async def apredict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> AgentChatResponse:
        return await self._caller.acall(
            self._asked_tools(user_msg, chat_history, tools, must_call=self.tool_policy == "capable"),
            lambda llm: llm.apredict_and_call(
                list(tools), user_msg, self._history(llm, chat_history), verbose, *args, **kwargs
            ),
        )

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Tool calls of an answer, read by the backend that gave it.

        Raises:
            ValueError: There are none, and `error_on_no_tool_call` is true.
        """
        record = response.additional_kwargs.get(RECORD_KEY) or {}
        backend = self._backends.reader_of(record.get("route"))
        if backend is None:
            # some agents ask by type, and the type of a router always says yes
            if error_on_no_tool_call:
                raise ValueError("the backend that gave this answer cannot call tools")
            return []
        if "inner" in record:  # the backend is a router and looks for its own record
            extra = {**response.additional_kwargs, RECORD_KEY: record["inner"]}
            response = response.model_copy(update={"additional_kwargs": extra})
        # nothing else is passed: not every integration takes more
        return backend.get_tool_calls_from_response(response, error_on_no_tool_call=error_on_no_tool_call)


def _own(llm_kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if llm_kwargs is None else dict(llm_kwargs)


# LlamaIndex's span decorator asks for a method's signature at every call, and building it takes longer than routing.
for _member in list(vars(RouteLLM).values()):
    _method = getattr(_member, "__wrapped__", None)
    if inspect.isfunction(_method):
        _method.__signature__ = inspect.signature(_method)  # type: ignore[attr-defined]
