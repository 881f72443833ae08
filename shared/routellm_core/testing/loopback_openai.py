"""An endpoint that speaks OpenAI's protocol on 127.0.0.1."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.persistence import digest_of
from routellm_core.testing.loopback import LoopbackServer, Reply, echo, new_id, words_in, words_of
from routellm_core.testing.loopback_responses import complaint_about, response, response_events

__all__ = ["LoopbackOpenAI"]

_PARTS = ("text", "image_url", "input_audio", "file", "refusal")


class LoopbackOpenAI(LoopbackServer):
    """`with LoopbackOpenAI() as server: ChatOpenAI(base_url=server.url, api_key="none", model="m")`.

    Serves `POST /v1/chat/completions` and `POST /v1/responses`, as JSON or as server-sent events. Tokens are
    counted as words. As OpenAI does, it refuses (status 400) a tool's result that no call asked for, content
    parts of other providers, and reasoning that it has not encrypted.

    Serves `POST /v1/embeddings` too: each text's vector has unit length and is made from its hash, so equal
    texts have equal vectors, see `vector`. As OpenAI does, it refuses an empty text with status 400.
    The body of an embedding request has `input` instead of `messages`, and of its answer status and delay count.
    """

    root: ClassVar[str] = "/v1"

    @staticmethod
    def vector(text: Any, dim: int = 1536) -> NDArray[np.float32]:
        """The endpoint's embedding of a text, or of a list of token ids; shape (dim,), length 1."""
        seed = int(digest_of(json.dumps(text))[:16], 16)
        numbers = np.random.default_rng(seed).standard_normal(dim)
        unit: NDArray[np.float32] = (numbers / np.linalg.norm(numbers)).astype(np.float32)
        return unit

    def _refusal(self, status: int, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "scripted"}}

    def _own_reply(self, path: str, body: dict[str, Any]) -> Reply | None:
        if not path.endswith("/embeddings"):
            return None
        if any(not text for text in _inputs(body)):
            return Reply(status=400)
        # the default answer looks for a question, which an embedding request has none of
        return Reply() if self.reply is echo else None

    def _complaint(self, path: str, body: dict[str, Any]) -> str | None:
        if path.endswith("/responses"):
            return complaint_about(body["input"])
        return _complaint(body["messages"]) if path.endswith("/chat/completions") else None

    def _is_streamed(self, path: str, body: dict[str, Any]) -> bool:
        return bool(body.get("stream")) and not path.endswith("/embeddings")

    def _answer(self, path: str, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
        if path.endswith("/embeddings"):
            return _embeddings(body)
        if path.endswith("/responses"):
            return response(body, reply)
        if path.endswith("/chat/completions"):
            return _completion(body, reply)
        raise LookupError(path)

    def _chunks(self, path: str, body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
        if path.endswith("/responses"):
            return (f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in response_events(body, reply))
        if path.endswith("/chat/completions"):
            return _completion_chunks(body, reply)
        raise LookupError(path)


def _complaint(messages: list[dict[str, Any]]) -> str | None:
    asked: set[str] = set()
    for message in messages:
        if isinstance(message.get("content"), list):
            for part in message["content"]:
                if part.get("type") not in _PARTS:
                    return f"invalid content part of type {part.get('type')!r}"
        if message["role"] == "assistant":
            asked = {call["id"] for call in message.get("tool_calls") or ()}
        elif message["role"] == "tool" and message.get("tool_call_id") not in asked:
            return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
    return None


def _inputs(body: dict[str, Any]) -> list[Any]:
    given = body["input"]
    is_one = isinstance(given, str) or (given and isinstance(given[0], int))
    return [given] if is_one else list(given)


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    vectors = [LoopbackOpenAI.vector(text, int(body.get("dimensions") or 1536)) for text in _inputs(body)]
    packed = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": base64.b64encode(each.tobytes()).decode() if packed else each.tolist(),
        }
        for i, each in enumerate(vectors)
    ]
    tokens = sum(words_in(str(text)) for text in _inputs(body))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _usage(body: dict[str, Any], reply: Reply) -> dict[str, int]:
    asked, answered = words_in(body["messages"]), words_in(reply.text)
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "index": i,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for i, call in enumerate(reply.tool_calls)
    ]


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _completion(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(reply)
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply)}],
        "usage": _usage(body, reply),
    }


def _completion_chunks(body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
    base = {"id": new_id("chatcmpl"), "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in words_of(reply.text)]
    if reply.tool_calls:
        deltas.append({"tool_calls": _tool_calls(reply)})
    events = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**base, "choices": [], "usage": _usage(body, reply)})
    yield from (f"data: {json.dumps(event)}\n\n".encode() for event in events)
    yield b"data: [DONE]\n\n"
