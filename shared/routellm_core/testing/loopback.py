"""An endpoint that speaks OpenAI's protocol on 127.0.0.1, so that real clients run without a network."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core.persistence import digest_of

__all__ = ["LoopbackOpenAI", "Reply", "ToolCall"]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool call in an answer.

    Attributes:
        name: Of the tool.
        arguments: Its arguments.
        id: What the tool's result refers to.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = "call_1"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the endpoint answers.

    Attributes:
        text: The answer, or the error's message.
        tool_calls: Tools it wants called.
        status: HTTP status; from 400 on an error body is sent.
        delay_s: Seconds before answering.
        cut_after: When streaming, drop the connection after so many chunks.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    status: int = 200
    delay_s: float = 0.0
    cut_after: int | None = None


def _echo(request: dict[str, Any]) -> Reply:
    content = request["messages"][-1].get("content") or ""
    if not isinstance(content, str):
        content = " ".join(part.get("text", "") for part in content)
    return Reply(text=f"{request['model']} answers: {content[:80]}")


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # tests send hundreds of requests at once; the default refuses them after five

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that time out or close a stream early leave like this."""


class LoopbackOpenAI:
    """`with LoopbackOpenAI() as server: ChatOpenAI(base_url=server.url, api_key="none", model="m")`.

    Serves `POST /v1/chat/completions`, as JSON or as server-sent events. Tokens are counted as words.
    Serves `POST /v1/embeddings` too: each text's vector has unit length and is made from its hash, so equal
    texts have equal vectors, see `vector`. As OpenAI does, it refuses an empty text with status 400.

    Args:
        reply: From the request's body to the answer, a `Reply` or just its text; by default the model's name and the
            question. The body of an embedding request has `input` instead of `messages`, and of its answer status
            and delay count. Where it raises, or returns something else, the client gets status 500, which says so.

    Attributes:
        requests: The bodies of all requests, in order.
        headers: Their headers, with lower-case names.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], Reply | str] = _echo) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._server: ThreadingHTTPServer | None = None

    @staticmethod
    def vector(text: Any, dim: int = 1536) -> NDArray[np.float32]:
        """The endpoint's embedding of a text, or of a list of token ids; shape (dim,), length 1."""
        seed = int(digest_of(json.dumps(text))[:16], 16)
        numbers = np.random.default_rng(seed).standard_normal(dim)
        unit: NDArray[np.float32] = (numbers / np.linalg.norm(numbers)).astype(np.float32)
        return unit

    @property
    def url(self) -> str:
        """The base URL, with /v1.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._server is None:
            raise RuntimeError("LoopbackOpenAI is not running; use it in a with statement")
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> LoopbackOpenAI:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass  # tests read `requests` instead

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        is_embedding = handler.path.endswith("/embeddings")
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        # the default answer looks at messages, which an embedding request has none of
        reply = Reply() if is_embedding and self.reply is _echo else self._replied(body)
        if is_embedding and any(not text for text in _inputs(body)):
            reply = Reply(status=400)
        time.sleep(reply.delay_s)
        if reply.status >= 400:
            message = reply.text or f"scripted {reply.status}"
            _send_json(handler, reply.status, {"error": {"message": message, "type": "scripted"}})
        elif is_embedding:
            _send_json(handler, 200, _embeddings(body))
        elif body.get("stream"):
            _send_events(handler, body, reply)
        else:
            _send_json(handler, 200, _completion(body, reply))

    def _replied(self, body: dict[str, Any]) -> Reply:
        try:
            reply: object = self.reply(body)
        except Exception as error:  # noqa: BLE001 - else a lost connection that says nothing
            return Reply(status=500, text=f"LoopbackOpenAI: reply raised {type(error).__name__}: {error}")
        if isinstance(reply, str):
            return Reply(text=reply)
        if not isinstance(reply, Reply):
            kind = type(reply).__name__
            return Reply(status=500, text=f"LoopbackOpenAI: reply must return a Reply or str, it returned {kind}")
        return reply


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
    tokens = sum(len(str(text).split()) for text in _inputs(body))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _usage(body: dict[str, Any], reply: Reply) -> dict[str, int]:
    asked, answered = len(json.dumps(body["messages"]).split()), len(reply.text.split())
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
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply)}],
        "usage": _usage(body, reply),
    }


def _send_json(handler: BaseHTTPRequestHandler, status: int, payload: dict[str, Any]) -> None:
    content = json.dumps(payload).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _send_events(handler: BaseHTTPRequestHandler, body: dict[str, Any], reply: Reply) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")  # so that a client can tell a cut from an end
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    words = reply.text.split(" ") if reply.text else []
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
    if reply.tool_calls:
        deltas.append({"tool_calls": _tool_calls(reply)})
    events = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**base, "choices": [], "usage": _usage(body, reply)})
    for sent, event in enumerate(events):
        if sent == reply.cut_after:
            return  # without the last chunk, as a lost connection ends
        _send_chunk(handler, f"data: {json.dumps(event)}\n\n".encode())
    _send_chunk(handler, b"data: [DONE]\n\n")
    _send_chunk(handler, b"")


def _send_chunk(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    handler.wfile.flush()
