"""What a RouterRunnable tells the plumbing: the question, the overrides and the route of each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_routellm._call import Call, Host
from langchain_routellm._config import for_child
from langchain_routellm._history import conversation_route, tool_loop_route, with_inner_record
from langchain_routellm._question import messages_of, question_of
from langchain_routellm._record import PREFIX, record_of
from routellm_core.policy import RouteRequest
from routellm_core.types import Decision

if TYPE_CHECKING:
    from langchain_routellm.runnables import RouterRunnable

__all__ = ["RunnableHost", "branch_name"]


class RunnableHost(Host):
    """Routes to the runnables of a `RouterRunnable`."""

    model_names_route = False  # `model=` is a call argument like others, and belongs to the route
    hides_usage = True  # the last message of a chain, if it ends in one, is not all that it took

    def __init__(self, router: RouterRunnable[Any, Any]) -> None:
        self.router = router
        self.policy = router.routing_policy
        self.name = router.get_name()
        self.defaults = RunnableConfig()
        self.decides_in_run = bool(router.overrides)

    def request(
        self,
        value: Any,
        settings: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        *,
        may_wait: bool,
        metadata: Mapping[str, Any] | None = None,
    ) -> RouteRequest:
        forced = settings.get(PREFIX + "route")
        # of a dict nobody knows whose answers its messages are; of messages, the route's answers are stamped by us
        history = messages_of(value) or []
        return RouteRequest(
            text=None if forced is not None else question_of(value, self.router.text),
            forced=forced,
            tool_loop=tool_loop_route(history),
            conversation=conversation_route(history),
            threshold=settings.get(PREFIX + "threshold"),
            stickiness=settings.get(PREFIX + "stickiness"),
            metadata=metadata,
        )

    def target(self, route: str, kwargs: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        return self.router._targets[route], dict(kwargs)

    def child_input(self, value: Any, route: str) -> Any:
        return _with_inner_records(value)

    def override(self, call: Call, run: CallbackManagerForChainRun) -> Decision | None:
        if call.settings.get(PREFIX + "route") is not None:
            return None
        for number, (condition, _) in enumerate(self.router.overrides, 1):
            config = for_child(call.config, run.get_child(tag=f"condition:{number}"))
            if condition.invoke(call.value, config):
                return Decision(route=branch_name(number), reason="forced")
        return None

    async def aoverride(self, call: Call, run: AsyncCallbackManagerForChainRun) -> Decision | None:
        if call.settings.get(PREFIX + "route") is not None:
            return None
        for number, (condition, _) in enumerate(self.router.overrides, 1):
            config = for_child(call.config, run.get_child(tag=f"condition:{number}"))
            if await condition.ainvoke(call.value, config):
                return Decision(route=branch_name(number), reason="forced")
        return None


def branch_name(number: int) -> str:
    """Of an override, in records; counted from 1."""
    return f"branch:{number}"  # as RunnableBranch tags it


def _with_inner_records(value: Any) -> Any:
    """The input with the records of routers inside the routes put back; the same object when there are none."""
    if isinstance(value, dict):
        changed = {name: new for name, old in value.items() if (new := _with_inner_records_in(old)) is not old}
        return {**value, **changed} if changed else value
    return _with_inner_records_in(value)


def _with_inner_records_in(value: Any) -> Any:
    if not isinstance(value, list) or not any(_has_inner_record(each) for each in value):
        return value
    return [with_inner_record(each) if _has_inner_record(each) else each for each in value]


def _has_inner_record(value: Any) -> bool:
    return isinstance(value, AIMessage) and "inner" in (record_of(value) or {})
