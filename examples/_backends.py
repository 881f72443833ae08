"""Stand-ins for hosted models: with them every example runs without a key and without a network.

A server on 127.0.0.1 speaks OpenAI's protocol, and the real client talks to it; only the answers are made up, from the
question itself. In your own code leave this file out and give "openai:gpt-4.1", or any chat model, instead. A real
model that needs no key either is `local_model.langchain_backend()`, from the file beside this one.
"""

from __future__ import annotations

import atexit
import json
import re
from functools import cache
from typing import Any

from routellm_core.testing import LoopbackOpenAI, Reply, ToolCall


def stand_in(model: str) -> Any:
    """A LangChain chat model that claims to be `model`, such as "openai:gpt-4.1"."""
    try:
        from langchain_openai import ChatOpenAI
    except ImportError as error:
        raise SystemExit("The stand-ins are called through OpenAI's client: pip install langchain-openai") from error
    return ChatOpenAI(model=model.partition(":")[2], base_url=_server().url, api_key="none", stream_usage=True)


def llamaindex_stand_in(model: str) -> Any:
    """A LlamaIndex LLM that claims to be `model`, such as "openai:gpt-4.1"."""
    try:
        from llama_index.llms.openai_like import OpenAILike
    except ImportError as error:
        package = "llama-index-llms-openai-like"
        raise SystemExit(f"The stand-ins are called through OpenAI's client: pip install {package}") from error
    return OpenAILike(
        model=model.partition(":")[2],
        api_base=_server().url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=100_000,
        additional_kwargs={"stream_options": {"include_usage": True}},
    )


def llamaindex_embedding() -> Any:
    """The static embeddings inside the default router, so that the examples need no others; any will do."""
    from llama_index.core.embeddings import BaseEmbedding

    from routellm_core import load_router

    encoder = load_router("default").encoder.encoders[0]

    class StaticEmbedding(BaseEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return encoder.encode(texts).tolist()

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    return StaticEmbedding(model_name="static")


@cache
def _server() -> LoopbackOpenAI:
    server = LoopbackOpenAI(_answer).__enter__()
    atexit.register(server.__exit__, None, None, None)
    return server


def _answer(body: dict[str, Any]) -> Reply:
    messages = body["messages"]
    question = next(_text(m) for m in reversed(messages) if m["role"] == "user")
    if messages[-1]["role"] == "tool":
        return Reply(text=f"The answer is: {_text(messages[-1])}")
    if body.get("tools"):
        tool = max((t["function"] for t in body["tools"]), key=lambda t: _overlap(json.dumps(t), question))
        return Reply(tool_calls=(ToolCall(name=tool["name"], arguments=_filled(tool["parameters"], question)),))
    if body.get("response_format"):
        return Reply(text=json.dumps(_filled(body["response_format"]["json_schema"]["schema"], question)))
    context = "".join(_text(m) for m in messages if m["role"] == "system")
    context = "".join(re.split(r"\b[Cc]ontext:", context)[1:]).partition("Instruction:")[0]
    # LlamaIndex packs the context into the question's message, and has follow-ups rewritten
    if "\n---------------------\n" in question:
        _, context, question = question.split("---------------------\n")
        question = question.partition("Query:")[2]
    if "Standalone question:" in question:
        return Reply(text=question.rpartition("Follow Up Input:")[2].partition("Standalone question:")[0].strip())
    sentences = re.split(r"(?<=[.!?])\s+", context)
    best = max(sentences, key=lambda sentence: _overlap(sentence, question))
    return Reply(text=" ".join(best.split()) or f"(what {body['model']} would say)")


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _overlap(text: str, question: str) -> int:
    words = [set(re.findall(r"\b\w{4}", each.lower())) for each in (text, question)]  # so that "opens" is "open"
    return len(words[0] & words[1])


def _filled(schema: dict[str, Any], question: str) -> dict[str, Any]:
    """An object of that schema, from the words of the question."""
    numbers, names = re.findall(r"\d+", question), re.findall(r"\b[A-Z]\w+", question)
    return {name: _value(name, field, question, numbers, names) for name, field in schema.get("properties", {}).items()}


def _value(name: str, field: dict[str, Any], question: str, numbers: list[str], names: list[str]) -> Any:
    if "enum" in field:
        return next((option for option in field["enum"] if option in question.lower()), field["enum"][-1])
    if field.get("type") == "boolean":
        return name in question.lower()
    if field.get("type") in ("integer", "number"):
        return int(numbers.pop(0)) if numbers else 0
    return names[-1] if names else " ".join(question.split()[:6])
