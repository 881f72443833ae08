"""Structured output, decided late: the method is the chosen backend's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, PrivateAttr

from langchain_routellm import _routed
from langchain_routellm._host import ChatHost

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

    from langchain_routellm.chat_models import ChatRouteLLM

__all__ = ["StructuredRoute"]


class _StructuredHost(ChatHost):
    structured = True
    hides_usage = True
    escalates = False

    def __init__(self, runnable: StructuredRoute) -> None:
        super().__init__(runnable.router)
        self.runnable = runnable
        self.method = runnable.options.get("method")

    def target(self, route: str, kwargs: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        return self.runnable._on(route, self.router._backend(route)), dict(kwargs)


class StructuredRoute(RunnableSerializable[LanguageModelInput, Any]):
    """What `ChatRouteLLM.with_structured_output` returns."""

    router: Any
    target_schema: Any
    options: dict[str, Any]

    model_config = ConfigDict(arbitrary_types_allowed=True)
    _made: dict[str, tuple[Any, Runnable[Any, Any]]] = PrivateAttr(default_factory=dict)

    def __init__(self, *, router: ChatRouteLLM, target_schema: Any, options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(router=router, target_schema=target_schema, options=options, **kwargs)
        # a dict or class that pydantic must not copy: the parser returns instances of this very class
        self.target_schema = target_schema

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        routed: str = self.router.get_name(suffix, name=name or self.name)
        return routed

    def _on(self, route: str, backend: BaseChatModel) -> Runnable[Any, Any]:
        known, of = self._made.get(route), (backend, self.target_schema, self.options)
        # a copy shares what was made, and may have another schema
        if known is None or any(each is not now for each, now in zip(known[0], of, strict=True)):
            known = (of, backend.with_structured_output(self.target_schema, **self.options))
            self._made[route] = known
        return known[1]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> StructuredRoute:
        memo = {} if memo is None else memo
        memo[id(self._made)] = {}
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        state["__pydantic_private__"] = {"_made": {}}  # holds clients, and is quickly made again
        return state

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return _routed.invoke(_StructuredHost(self), input, config, kwargs)

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return await _routed.ainvoke(_StructuredHost(self), input, config, kwargs)

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        return _routed.stream(_StructuredHost(self), input, config, kwargs)

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        return _routed.astream(_StructuredHost(self), input, config, kwargs)

    def batch(
        self, inputs: list[LanguageModelInput], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[Any]:
        configs = _routed.decided(_StructuredHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self, inputs: list[LanguageModelInput], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[Any]:
        configs = await _routed.adecided(
            _StructuredHost(self), inputs, config, kwargs, return_exceptions=return_exceptions
        )
        return await super().abatch(inputs, configs, return_exceptions=return_exceptions, **kwargs)
