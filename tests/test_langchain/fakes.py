"""A chat model for tests: tools from their JSON schema, usage, chunks, failures on order; and what goes with it."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from langchain_routellm import ChatRouteLLM
from routellm_core.testing import ScriptedRouter

RECORD = "routellm"


def example_value(name: str, schema: dict[str, Any], hint: str) -> Any:
    """Something the schema allows; strings and integers are taken from the hint if it quotes any."""
    if "anyOf" in schema:
        return example_value(name, schema["anyOf"][0], hint)
    if schema.get("enum"):
        return schema["enum"][0]
    quoted, numbers = re.findall(r"'([^']+)'", hint), [int(n) for n in re.findall(r"\d+", hint)]
    kind = schema.get("type")
    if kind == "object":
        return {key: example_value(key, value, hint) for key, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_value(name, schema.get("items", {}), hint)]
    simple: dict[str, Any] = {"integer": numbers[0] if numbers else 1, "number": 1.0, "boolean": True}
    return simple.get(str(kind), quoted[0] if quoted else f"some {name}")


class FakeBackend(BaseChatModel):
    """Deterministic: calls the first tool on a human message, else answers "<label> answers".

    Attributes:
        label: Its model name.
        provider: What it says it is.
        error: Raised instead of answering,
        error_after: after so many chunks when streaming.
        blocks: Answer with a provider's content blocks, thinking included.
        echo: Answer with the last message's text.
        seen: The messages of every call.
        calls: The arguments of every call.
        bindings: The tools of every `bind_tools`.
    """

    label: str = "fake"
    provider: str = "fakeprov"
    error: Any = None
    error_after: int = 0
    blocks: bool = False
    echo: bool = False
    seen: list[Any] = Field(default_factory=list)
    calls: list[Any] = Field(default_factory=list)
    bindings: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return f"fake-{self.label}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"label": self.label}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {
            **super()._get_ls_params(stop=stop, **kwargs),
            "ls_provider": self.provider,
            "ls_model_name": self.label,
        }

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
        self.bindings.append(list(tools))
        return self.bind(tools=[convert_to_openai_tool(t) for t in tools], tool_choice=tool_choice, **kwargs)

    def _answer(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> AIMessage:
        self.seen.append(messages)
        self.calls.append({"stop": stop, **kwargs})
        tools, choice, last = kwargs.get("tools"), kwargs.get("tool_choice"), messages[-1]
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        metadata = {"model_name": kwargs.get("model", self.label), "model_provider": self.provider}
        if tools and (choice or isinstance(last, HumanMessage)) and not isinstance(last, ToolMessage):
            function = tools[0]["function"]
            args = example_value("root", {"type": "object", **function.get("parameters", {})}, str(last.text))
            call = {"name": function["name"], "args": args, "id": f"call_{len(self.seen)}", "type": "tool_call"}
            return AIMessage("", tool_calls=[call], usage_metadata=usage, response_metadata=metadata)
        text = str(last.text) if self.echo else f"{self.label} answers"
        content: Any = text
        if self.blocks:
            content = [{"type": "thinking", "thinking": "t", "signature": "S"}, {"type": "text", "text": text}]
        return AIMessage(content, usage_metadata=usage, response_metadata=metadata)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.error is not None:
            raise self.error
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages, stop, kwargs))])

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        if self.error is not None and self.error_after == 0:
            raise self.error
        answer = self._answer(messages, stop, kwargs)
        parts = [""] if answer.tool_calls else re.findall(r"\S+\s*|^$", str(answer.text)) or [""]
        for sent, part in enumerate(parts):
            if self.error is not None and sent >= self.error_after:
                raise self.error
            chunk = AIMessageChunk(part)
            if sent == len(parts) - 1:
                chunk = AIMessageChunk(
                    part,
                    usage_metadata=answer.usage_metadata,
                    response_metadata=answer.response_metadata,
                    chunk_position="last",
                    tool_call_chunks=[
                        {
                            "name": c["name"],
                            "args": json.dumps(c["args"], ensure_ascii=False),
                            "id": c["id"],
                            "index": 0,
                            "type": "tool_call_chunk",
                        }
                        for c in answer.tool_calls
                    ],
                )
            yield ChatGenerationChunk(message=chunk)


def fake(label: str, **options: Any) -> FakeBackend:
    return FakeBackend(label=f"fake-{label}", **options)


def by_words(prompt: str) -> float:
    """`hard` in the prompt means strong, `medium` is in the middle."""
    return 0.9 if "hard" in prompt else 0.5 if "medium" in prompt else 0.1


def routed(**options: Any) -> ChatRouteLLM:
    """A ChatRouteLLM over two fakes and a scripted router, unless told otherwise."""
    if "models" not in options:
        options.setdefault("weak", fake("weak"))
        options.setdefault("strong", fake("strong"))
    if "policy" not in options:
        options.setdefault("router", ScriptedRouter(by_words))
        if options.get("strong_share") is None:
            options.setdefault("threshold", 0.5)
    return ChatRouteLLM(**options)


def pickled(value: Any) -> Any:
    """What comes out of a pickle of it."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made the line before


def backend(llm: ChatRouteLLM, route: str) -> FakeBackend:
    found = llm.models[route]
    assert isinstance(found, FakeBackend)
    return found


class Runs(BaseCallbackHandler):
    """Remembers the runs it sees."""

    run_inline = True

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.ends: list[tuple[str, Any]] = []
        self.errors: list[tuple[str, BaseException]] = []
        self.closed: list[str] = []
        self.tokens: list[str] = []

    def _start(self, kind: str, serialized: Any, kwargs: dict[str, Any]) -> None:
        name = kwargs.get("name") or (serialized or {}).get("id", [None])[-1]
        self.starts.append(
            {
                "kind": kind,
                "name": name,
                "run_id": kwargs["run_id"],
                "parent": kwargs.get("parent_run_id"),
                "tags": kwargs.get("tags") or [],
                "metadata": kwargs.get("metadata") or {},
                "options": kwargs.get("options"),
            }
        )

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self._start("chain", serialized, kwargs)

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self._start("llm", serialized, kwargs)

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(str(token))

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.ends.append(("chain", outputs))
        self.closed.append("chain end")

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ends.append(("llm", response))
        self.closed.append("llm end")

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(("chain", error))
        self.closed.append("chain error")

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(("llm", error))
        self.closed.append("llm error")

    @property
    def kinds(self) -> list[str]:
        return [start["kind"] for start in self.starts]


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"
