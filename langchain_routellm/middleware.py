"""RouteLLMMiddleware: an agent's model calls, each sent to the cheapest model that answers it as well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.types import Command
from typing_extensions import NotRequired

from langchain_routellm._cache_control import takes_cache_control, unmarked_tools, without_marker
from langchain_routellm._call import Call, adecide, scoring, turns
from langchain_routellm._config import SETTINGS, checked, for_child
from langchain_routellm._host import ChatHost
from langchain_routellm._record import RECORD, stamped
from langchain_routellm.chat_models import ChatRouteLLM
from routellm_core.calibration import Budget
from routellm_core.errors import MissingExtraError
from routellm_core.policy import RoutingPolicy, refuse_escalation
from routellm_core.routers import Router
from routellm_core.types import Decision, Fallback, OnError, Stickiness

try:
    from langchain.agents.middleware import ExtendedModelResponse
except ImportError as error:  # pragma: no cover - an old langchain, installed without our extra
    raise MissingExtraError(
        "RouteLLMMiddleware needs langchain 1.2.11 or newer: pip install 'routellm-integrations[langchain]'",
        name="langchain",
    ) from error

__all__ = ["RouteLLMMiddleware", "RouteState"]


def _newest(old: Any, new: Any) -> Any:
    """Reducer: agents that run in parallel may write to their common graph in the same step."""
    return new


class RouteState(AgentState[Any]):
    """The agent's state, with the record of its newest model call."""

    # "| None" keeps the channel empty until the first record; a plain dict would begin as {}
    routellm: NotRequired[Annotated[dict[str, Any] | None, _newest]]


class _AgentHost(ChatHost):
    """A ChatRouteLLM's routes, for one model call of an agent."""

    def __init__(self, router: ChatRouteLLM, request: ModelRequest[Any]) -> None:
        super().__init__(router)
        self.structured = request.response_format is not None
        if isinstance(request.response_format, ProviderStrategy):
            self.method = "json_schema"  # named by the caller; else the agent asks the chosen backend what it can


class RouteLLMMiddleware(AgentMiddleware[RouteState, Any, Any]):
    """Middleware for `langchain.agents.create_agent` that picks the model of each call.

    The arguments, the rules and the record are those of `ChatRouteLLM`. The difference is who sees what: the
    middleware that comes later in the list, and the agent's choice between native and tool-based structured
    output, see the chosen backend itself. So put it before everything that looks at the model's class, such as
    `AnthropicPromptCachingMiddleware`, and before `ModelFallbackMiddleware` and retries.

    A tool loop stays on the route where it began. Each answer carries its record in
    `response_metadata["routellm"]`; the newest is in the agent's state under "routellm". One call can differ by
    `config["configurable"]`, or by the same names in the run's `context=` (which also works in async code on
    Python 3.10): `routellm_route`, `routellm_threshold`, `routellm_stickiness`. A router that was fitted with metadata
    finds its columns in the run's metadata, else by name in `context=`.

    The agent's own `model` argument must be given and is never called; the strong model is a good choice.

    Args:
        strong: The better backend: a chat model, or a "provider:model" string that becomes one on first use.
        weak: The cheaper backend.
        models: Instead of both: backends by route name, weakest first.
        router: What scores, as for `ChatRouteLLM`, and so for all that follow.
        encoder: With a router's name: the embedding model it reads.
        threshold: Win rates from here on go to the strong model; N routes: N-1 ascending cuts.
        strong_share: Instead: the share of prompts that should go strong.
        budget: Instead: money and what calls cost.
        quality_floor: Instead: the fraction of the strong model's mean quality to keep.
        policy: Instead of all routing options: a `RoutingPolicy` over the same route names.
        text: From the messages to the text that is scored.
        stickiness: Which earlier decisions are kept: "none", "tool_loop" or "conversation".
        fallback: Routes tried when a backend fails before its first token: "none", "stronger" or "any".
        on_error: The route when scoring fails, is late, or finds no text: "strong", "weak" or "raise".
        router_timeout_s: Seconds that scoring may take; None: no limit.
        normalize_history: Rewrite turns of other routes into text and tool calls, in the request only.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range.
        RouteLLMError: The router cannot be loaded; in a call, as `RoutingPolicy.decide`.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from routellm_core.testing import ScriptedRouter
        >>> strong, weak = FakeListChatModel(responses=["a proof"]), FakeListChatModel(responses=["hello"])
        >>> router = ScriptedRouter(lambda prompt: 0.9 if "prove" in prompt else 0.1)
        >>> routing = RouteLLMMiddleware(strong=strong, weak=weak, router=router, threshold=0.5)
        >>> agent = create_agent(strong, [], middleware=[routing])
        >>> agent.invoke({"messages": [("user", "Please prove it.")]})["routellm"]["route"]
        'strong'
    """

    state_schema = RouteState

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
    ) -> None:
        super().__init__()
        refuse_escalation(policy)
        # never called itself: it holds the routes and the rules, and checks the arguments
        self._router = ChatRouteLLM(
            strong=strong,
            weak=weak,
            models=models,
            router=router,
            encoder=encoder,
            threshold=threshold,
            strong_share=strong_share,
            budget=budget,
            quality_floor=quality_floor,
            policy=policy,
            text=text,
            stickiness=stickiness,
            fallback=fallback,
            on_error=on_error,
            router_timeout_s=router_timeout_s,
            normalize_history=normalize_history,
        )

    @property
    def routing_policy(self) -> RoutingPolicy:
        """What decides: the policy that was given, or the one made of the constructor's arguments."""
        return self._router.routing_policy

    @property
    def models(self) -> Mapping[str, BaseChatModel | str]:
        """The backends by route name, weakest first."""
        return self._router.models

    # -- one model call
    def _call(self, request: ModelRequest[Any]) -> Call:
        messages = list(request.messages)
        value = messages if request.system_message is None else [request.system_message, *messages]
        wanted = request.response_format
        # a schema alone becomes a tool where nothing native is known
        needs_tools = bool(request.tools) or not (wanted is None or isinstance(wanted, ProviderStrategy))
        call = Call(_AgentHost(self._router, request), value, None, {"tools": needs_tools})
        given = {name: value for name, value in call.settings.items() if value is not None}
        call.settings = {**_of_context(request.runtime), **given}
        if call.metadata is not None:
            columns = self.routing_policy.router.metadata_columns
            call.metadata = {**_named(request.runtime, columns), **call.metadata}
        return call

    def _routed(self, request: ModelRequest[Any], call: Call, decision: Decision) -> ModelRequest[Any]:
        """The request as the route's backend can take it; the agent's state keeps its own messages."""
        backend = self._router._backend(decision.route)
        messages = call.host.child_input(call.value, decision.route)
        changes: dict[str, Any] = {"model": backend, "messages": messages}
        if request.system_message is not None:
            changes |= {"system_message": messages[0], "messages": messages[1:]}
        if not takes_cache_control(backend):
            changes["model_settings"] = without_marker(request.model_settings)
            changes["tools"] = unmarked_tools(request.tools)
        return request.override(**changes)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Decide, and let the chosen backend answer."""
        call = self._call(request)
        with scoring(self.routing_policy, call.config, None):
            decision = self.routing_policy.decide([call.request(may_wait=True)])[0]
        while True:
            try:
                routed = self._routed(request, call, decision)
                with _marked(call, decision):
                    response = handler(routed)
                break
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=True)
        return _answer(response, call, decision)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """`wrap_model_call` without blocking the event loop."""
        await turns.take()
        call = self._call(request)
        with scoring(self.routing_policy, call.config, None):
            decision = (await adecide(call.host, [call.request(may_wait=False)]))[0]
        while True:
            try:
                if not call.host.is_ready(decision.route):
                    await asyncio.to_thread(call.host.make_ready, decision.route)
                routed = self._routed(request, call, decision)
                with _marked(call, decision):
                    response = await handler(routed)
                break
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=False)
        return _answer(response, call, decision)


def _of_context(runtime: Any) -> dict[str, Any]:
    """The call's settings in the run's context: a dict, or an object with such attributes."""
    context = getattr(runtime, "context", None)
    if isinstance(context, Mapping):
        checked(context)
    return {name: value for name, value in _named(runtime, SETTINGS).items() if value is not None}


def _named(runtime: Any, names: Sequence[str]) -> dict[str, Any]:
    """What the run's context has under these names."""
    context = getattr(runtime, "context", None)
    if isinstance(context, Mapping):
        return {name: context[name] for name in names if name in context}
    return {name: getattr(context, name) for name in names if hasattr(context, name)}


@contextlib.contextmanager
def _marked(call: Call, decision: Decision) -> Iterator[None]:
    """Runs inside carry the record: the agent calls its model without a config, which then takes this one."""
    manager = call.config.get("callbacks")
    # a copy: it is changed, and the agent's other runs go on with it
    config = for_child(call.config, manager.copy() if isinstance(manager, BaseCallbackManager) else None)
    token = var_child_runnable_config.set(call.marked(config, decision))
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def _answer(response: ModelResponse[Any] | AIMessage, call: Call, decision: Decision) -> ExtendedModelResponse[Any]:
    if isinstance(response, AIMessage):
        response = ModelResponse(result=[response])
    result = [stamped(message, decision) if isinstance(message, AIMessage) else message for message in response.result]
    call.answered(decision, next((message for message in result if isinstance(message, AIMessage)), None))
    return ExtendedModelResponse(
        model_response=replace(response, result=result),
        command=Command(update={RECORD: decision.to_dict()}),
    )
