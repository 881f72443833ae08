"""An endpoint that speaks Anthropic's protocol on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from routellm_core.testing.loopback import LoopbackServer, Reply, new_id, words_in, words_of

__all__ = ["LoopbackAnthropic"]

_SIGNATURE = "signed-on-the-loopback"
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_BLOCKS = ("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking")


class LoopbackAnthropic(LoopbackServer):
    """`with LoopbackAnthropic() as server: ChatAnthropic(base_url=server.url, api_key="none", model="m")`.

    Serves `POST /v1/messages`, as JSON or as server-sent events, thinking included. Tokens are counted as words.
    As Anthropic does, it refuses (status 400) a tool's result that the turn before did not ask for, content blocks
    of other providers, and thinking that it has not signed.
    """

    root: ClassVar[str] = ""  # clients add /v1

    def _refusal(self, status: int, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}

    def _complaint(self, path: str, body: dict[str, Any]) -> str | None:
        return _complaint(body["messages"]) if path.endswith("/messages") else None

    def _answer(self, path: str, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
        if not path.endswith("/messages"):
            raise LookupError(path)
        return _message(body, reply)

    def _chunks(self, path: str, body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
        if not path.endswith("/messages"):
            raise LookupError(path)
        return (f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in _events(body, reply))


def _complaint(messages: list[dict[str, Any]]) -> str | None:
    asked: set[str] = set()
    for message in messages:
        if message["role"] not in ("user", "assistant"):
            return f"unexpected role {message['role']!r}; system is a parameter of its own"
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            kind = block.get("type")
            if kind not in _BLOCKS:
                return f"input tag {kind!r} does not match any of the expected tags"
            if kind == "thinking" and block.get("signature") != _SIGNATURE:
                return "invalid signature in thinking block"
            if kind == "tool_result" and block["tool_use_id"] not in asked:
                return "unexpected tool_use_id in tool_result blocks: no such tool_use in the previous message"
        asked = {block["id"] for block in blocks if block.get("type") == "tool_use"}
    return None


def _content(reply: Reply) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.thinking:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": _SIGNATURE})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in reply.tool_calls
    ]
    return blocks


def _message(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": _content(reply),
        "stop_reason": "tool_use" if reply.tool_calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": words_in(body["messages"]), "output_tokens": words_in(reply.text)},
    }


def _events(body: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    whole = _message(body, reply)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 0}}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(whole["content"]):
        empty: dict[str, Any]
        if block["type"] == "text":
            empty = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": word} for word in words_of(block["text"])]
        elif block["type"] == "thinking":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        else:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": whole["usage"]}
    yield {"type": "message_stop"}
