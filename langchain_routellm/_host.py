"""What a ChatRouteLLM tells the plumbing: the request, the history and the backend of each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_routellm._backends import Needs, can_take
from langchain_routellm._call import Host
from langchain_routellm._history import conversation_route, in_tool_loop, text_to_score, tool_loop_route
from langchain_routellm._portable import portable
from langchain_routellm._record import PREFIX
from langchain_routellm._tools import bound_to
from routellm_core.errors import ConfigurationError, MissingExtraError
from routellm_core.policy import RouteRequest

if TYPE_CHECKING:
    from langchain_routellm.chat_models import ChatRouteLLM

__all__ = ["ChatHost"]


class ChatHost(Host):
    """Routes to the backends of a `ChatRouteLLM`."""

    escalates = True
    structured = False
    method: str | None = None  # of structured output, if the caller named one

    def __init__(self, router: ChatRouteLLM) -> None:
        self.router = router
        self.policy = router.routing_policy
        self.name = router.get_name()
        self.verbose = router.verbose
        self.defaults = RunnableConfig()
        if router.callbacks:
            self.defaults["callbacks"] = router.callbacks
        if router.tags:
            self.defaults["tags"] = router.tags
        if router.metadata:
            self.defaults["metadata"] = router.metadata
        # the input is looked at by request() and child_input(), and converted once
        self._converted: tuple[Any, list[BaseMessage]] | None = None

    def messages(self, value: Any) -> list[BaseMessage]:
        """The input as messages."""
        if self._converted is None or self._converted[0] is not value:
            self._converted = (value, self.router._convert_input(value).to_messages())
        return self._converted[1]

    def request(
        self,
        value: Any,
        settings: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        *,
        may_wait: bool,
        metadata: Mapping[str, Any] | None = None,
    ) -> RouteRequest:
        messages = self.messages(value)
        # an agent that was told to use native structured output says so with this argument
        method = "json_schema" if kwargs.get("response_format") is not None else self.method
        needs = Needs(messages, tools=bool(kwargs.get("tools")), structured=self.structured, method=method)
        router = self.router

        def capable(route: str) -> bool:
            # before a "provider:model" string is resolved nothing is known; resolving may take seconds
            if not (may_wait or router._is_made(route)):
                return True
            try:
                backend = router._backend(route)
            except (ConfigurationError, MissingExtraError):
                return True  # called, it says what is wrong; passed over, nobody would learn of it
            return can_take(backend, needs)

        return RouteRequest(
            text=text_to_score(messages, router.text),
            forced=settings.get(PREFIX + "route"),
            tool_loop=tool_loop_route(messages),
            conversation=conversation_route(messages),
            threshold=settings.get(PREFIX + "threshold"),
            stickiness=settings.get(PREFIX + "stickiness"),
            metadata=metadata,
            capable=capable,
        )

    def in_tool_loop(self, value: Any) -> bool:
        return in_tool_loop(self.messages(value))

    def target(self, route: str, kwargs: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        return bound_to(self.router._backend(route), route, kwargs)

    def child_input(self, value: Any, route: str) -> Any:
        if not self.router.normalize_history:
            return value
        messages = self.messages(value)
        rewritten = portable(messages, route, self.router._backend(route))
        return value if rewritten is messages else rewritten

    def is_ready(self, route: str) -> bool:
        return self.router._is_made(route)

    def make_ready(self, route: str) -> None:
        self.router._backend(route)
