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
    sentences = re.split(r"(?<=[.!?])\s+", context.partition("Context:")[2])
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
