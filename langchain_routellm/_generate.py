"""`generate` and `agenerate`: many prompts in, one LLMResult out, each prompt routed on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.callbacks import Callbacks
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_routellm._host import ChatHost

__all__ = ["GenerateHost", "as_one", "generate_configs", "with_stop"]


class GenerateHost(ChatHost):
    """The same for `generate`, which wants the backend's LLMResult."""

    def messages(self, value: Any) -> list[BaseMessage]:
        converted: list[BaseMessage] = value
        return converted

    def target(self, route: str, kwargs: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        bound, rest = super().target(route, kwargs)
        arguments: Mapping[str, Any] = getattr(bound, "kwargs", {})
        return _Generate(self.router._backend(route)), {**arguments, **rest}


class _Generate(Runnable[list[BaseMessage], LLMResult]):
    """`generate` as the plumbing calls a target."""

    def __init__(self, backend: BaseChatModel) -> None:
        self.backend = backend

    def invoke(self, input: list[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any) -> LLMResult:
        return self.backend.generate([input], **_run_options(config), **kwargs)

    async def ainvoke(self, input: list[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any) -> LLMResult:
        return await self.backend.agenerate([input], **_run_options(config), **kwargs)


def _run_options(config: RunnableConfig | None) -> dict[str, Any]:
    given = config or RunnableConfig()
    return {"callbacks": given.get("callbacks"), "tags": given.get("tags"), "metadata": given.get("metadata")}


def with_stop(stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call with its `stop`, when there is one."""
    return kwargs if stop is None else {**kwargs, "stop": stop}


def generate_configs(
    count: int, callbacks: Callbacks, stop: list[str] | None, kwargs: dict[str, Any]
) -> tuple[list[RunnableConfig], dict[str, Any]]:
    """Configs like those of `invoke`, one a prompt, from the arguments of `generate`; and what is left of those."""
    rest = dict(kwargs)
    given: dict[str, Any] = {"callbacks": callbacks}
    for name in ("tags", "metadata", "run_name", "run_id"):
        given[name] = rest.pop(name, None)
    configs = [{k: v for k, v in given.items() if v is not None and (i == 0 or k != "run_id")} for i in range(count)]
    return cast("list[RunnableConfig]", configs), with_stop(stop, rest)


def as_one(results: list[LLMResult]) -> LLMResult:
    """One result of many."""
    # what one backend says about its call cannot be summed with what another says
    return LLMResult(
        generations=[result.generations[0] for result in results],
        llm_output=results[0].llm_output if len(results) == 1 else {},
        run=[run for result in results for run in result.run or []] or None,
    )
