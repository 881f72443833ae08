"""Tools and call arguments that wait for the decision: formats differ from provider to provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.utils.function_calling import convert_to_openai_tool

__all__ = ["DeferredTool", "DeferredTools", "RouterBinding", "bound_to"]


class DeferredTool(dict[str, Any]):
    """A tool in OpenAI's format, for code that looks into it, which remembers what it was made from."""

    raw: Any = None

    @classmethod
    def of(cls, tool: Any) -> DeferredTool:
        """Wrap a tool; a provider's built-in one (a dict with a `type` of its own) stays as it is."""
        if isinstance(tool, cls):
            return tool
        is_builtin = isinstance(tool, dict) and "type" in tool and "function" not in tool and "properties" not in tool
        deferred = cls(tool if is_builtin else convert_to_openai_tool(tool))
        deferred.raw = tool
        return deferred


class DeferredTools(list[DeferredTool]):
    """The tools of one binding; remembers what they became on each route."""

    def __init__(self, tools: Sequence[Any] = ()) -> None:
        super().__init__(DeferredTool.of(tool) for tool in tools)
        # the newest of each route: a binding whose arguments change with every call must not pile up
        self._bound: dict[str, tuple[BaseChatModel, list[Any], dict[str, Any], Runnable[Any, Any]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return DeferredTools, (list(self),)  # what was bound holds clients, and is quickly made again

    def bound(self, backend: BaseChatModel, route: str, options: dict[str, Any]) -> Runnable[Any, Any]:
        """The backend with these tools, in its own format. Binding costs some 25 us a tool: done once."""
        known = self._bound.get(route)
        # the list may have been edited since; its elements compare by identity first, which is quick
        if known is not None and known[0] is backend and known[1] == self and _are_equal(known[2], options):
            return known[3]
        bound = _bind_tools(backend, self, options)
        self._bound[route] = (backend, list(self), options, bound)  # two threads may both get here; either will do
        return bound


def _are_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    try:
        return one == other
    except Exception:  # noqa: BLE001 - an array among them has no truth value, for example
        return False


def _bind_tools(backend: BaseChatModel, tools: Sequence[Any], options: Mapping[str, Any]) -> Runnable[Any, Any]:
    # a user's own tool may have an attribute of that name
    return backend.bind_tools([tool.raw if isinstance(tool, DeferredTool) else tool for tool in tools], **options)


def bound_to(
    backend: BaseChatModel, route: str, kwargs: Mapping[str, Any]
) -> tuple[Runnable[Any, Any], dict[str, Any]]:
    """The backend with a call's tools bound its own way, and the arguments left for the call."""
    if "tools" not in kwargs:
        return backend, dict(kwargs)
    tools = kwargs["tools"]
    if not tools:
        return backend, {name: value for name, value in kwargs.items() if name not in ("tools", "tool_choice")}
    options = {name: value for name, value in kwargs.items() if name not in ("tools", "stop")}
    if options.get("tool_choice", ...) is None:
        del options["tool_choice"]
    of_the_call = {"stop": kwargs["stop"]} if kwargs.get("stop") is not None else {}
    if isinstance(tools, DeferredTools):
        return tools.bound(backend, route, options), of_the_call
    return _bind_tools(backend, tools, options), of_the_call


class RouterBinding(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef] # as in core
    """A router with arguments. What is declared on it later keeps them (core's own binding drops them)."""

    @classmethod
    def lc_id(cls) -> list[str]:
        return [*cls.get_lc_namespace(), "RunnableBinding"]

    @property
    def _router(self) -> BaseChatModel:
        assert isinstance(self.bound, BaseChatModel)
        return self.bound

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> RouterBinding:
        """Bind these tools instead; other arguments and the config stay."""
        rest = {name: value for name, value in self.kwargs.items() if name not in ("tools", "tool_choice")}
        again = self._router.bind_tools(tools, tool_choice=tool_choice, **{**rest, **kwargs})
        assert isinstance(again, RouterBinding)
        return again.model_copy(update={"config": self.config, "config_factories": self.config_factories})

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """Structured output with the arguments and the config of this binding.

        Raises:
            NotImplementedError: Tools are bound; how the two go together differs per provider.
        """
        if self.kwargs.get("tools"):
            raise NotImplementedError(
                "structured output on top of bound tools is specific to each provider; "
                "use create_agent(model, tools, response_format=...)"
            )
        structured: Runnable[LanguageModelInput, Any] = self._router.with_structured_output(schema, **kwargs)
        if self.kwargs:
            structured = structured.bind(**self.kwargs)
        return structured.with_config(self.config)
