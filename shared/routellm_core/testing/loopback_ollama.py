"""An endpoint that speaks Ollama's protocol on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from routellm_core.testing.loopback import LoopbackServer, Reply, words_in, words_of

__all__ = ["LoopbackOllama"]

_CONTEXT = 8192


class LoopbackOllama(LoopbackServer):
    """`with LoopbackOllama() as server: ChatOllama(base_url=server.url, model="m")`.

    Serves `POST /api/chat`, as JSON or as lines of JSON, thinking included, and says which models there are
    (`/api/show`, `/api/tags`, `/api/version`): any. Tokens are counted as words. As Ollama does, it refuses
    (status 400) content that is no text and tool calls whose arguments are no object.
    """

    root: ClassVar[str] = ""

    def _refusal(self, status: int, message: str) -> dict[str, Any]:
        return {"error": message}

    def _about(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path == "/api/version":
            return {"version": "0.0.0"}
        if path == "/api/tags":
            return {"models": []}
        if path == "/api/show":
            info = {"general.architecture": "llama", "llama.context_length": _CONTEXT}
            return {"model_info": info, "details": {}, "capabilities": ["completion", "tools", "thinking"]}
        return None

    def _complaint(self, path: str, body: dict[str, Any]) -> str | None:
        for message in body["messages"] if path == "/api/chat" else ():
            if not isinstance(message.get("content") or "", str):
                return "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"
            for call in message.get("tool_calls") or ():
                if not isinstance(call["function"].get("arguments", {}), dict):
                    return "json: cannot unmarshal string into Go struct field .arguments"
        return None

    def _is_streamed(self, path: str, body: dict[str, Any]) -> bool:
        return bool(body.get("stream", True))  # Ollama streams unless told otherwise

    def _stream_type(self) -> str:
        return "application/x-ndjson"

    def _answer(self, path: str, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
        if path != "/api/chat":
            raise LookupError(path)
        return _last(body, reply, _message(reply.text, reply.thinking, reply))

    def _chunks(self, path: str, body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
        if path != "/api/chat":
            raise LookupError(path)
        return (json.dumps(part).encode() + b"\n" for part in _parts(body, reply))


def _message(text: str, thinking: str = "", calls_of: Reply | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls_of is not None and calls_of.tool_calls:
        message["tool_calls"] = [
            {"function": {"name": call.name, "arguments": call.arguments}} for call in calls_of.tool_calls
        ]
    return message


def _head(body: dict[str, Any]) -> dict[str, Any]:
    return {"model": body["model"], "created_at": "2025-01-01T00:00:00Z"}


def _last(body: dict[str, Any], reply: Reply, message: dict[str, Any]) -> dict[str, Any]:
    durations = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 1)
    counts = {"prompt_eval_count": words_in(body["messages"]), "eval_count": words_in(reply.text)}
    return {**_head(body), "message": message, "done": True, "done_reason": "stop", **durations, **counts}


def _parts(body: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    if reply.thinking:
        yield {**_head(body), "message": _message("", reply.thinking), "done": False}
    for word in words_of(reply.text):
        yield {**_head(body), "message": _message(word), "done": False}
    if reply.tool_calls:
        yield {**_head(body), "message": _message("", "", reply), "done": False}
    yield _last(body, reply, _message(""))
