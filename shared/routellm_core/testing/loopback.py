"""Endpoints on 127.0.0.1 that answer as a test tells them, so that real clients run without a network.

What all protocols share is here: the words an answer is scripted in, the server, and the ways to fail. Each
protocol has a module of its own.
"""

from __future__ import annotations

import itertools
import json
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar

from typing_extensions import Self

__all__ = [
    "LoopbackServer",
    "Reply",
    "ToolCall",
    "echo",
    "ends_in_tool_result",
    "last_text",
    "new_id",
    "words_in",
    "words_of",
]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool call in an answer.

    Attributes:
        name: Of the tool.
        arguments: Its arguments.
        id: What the tool's result refers to; Ollama's protocol has no ids.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = "call_1"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an endpoint answers, in the words of every protocol.

    Attributes:
        text: The answer, or the error's message.
        tool_calls: Tools it wants called.
        thinking: What it thought before, where the protocol has a place for it.
        status: HTTP status; from 400 on an error body is sent.
        retry_after_s: Header of an error: when to come again.
        delay_s: Seconds before answering.
        hang: Say nothing until the server's `release`; with `cut_after` only after so many chunks.
        hang_up: Close the connection before the first byte.
        cut_after: When streaming, drop the connection after so many of the protocol's chunks or events.
        cut_inside: Drop it in the middle of the next chunk; without streaming, of the answer.
        body: Sent instead of the answer, as it is: wrong JSON, for example.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    status: int = 200
    retry_after_s: float | None = None
    delay_s: float = 0.0
    hang: bool = False
    hang_up: bool = False
    cut_after: int | None = None
    cut_inside: bool = False
    body: str | None = None


def _newest(body: dict[str, Any]) -> dict[str, Any]:
    asked: Any = body["messages"] if "messages" in body else body["input"]
    return {"role": "user", "content": asked} if isinstance(asked, str) else asked[-1]


def last_text(body: dict[str, Any]) -> str:
    """The text of a request's newest message or tool result, in any of the protocols; "" when it has none."""
    return _text_of(_newest(body))


def _text_of(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(filter(None, map(_text_of, value)))
    if isinstance(value, dict):
        return _text_of(next((value[key] for key in ("text", "content", "output") if value.get(key)), ""))
    return str(value)


def ends_in_tool_result(body: dict[str, Any]) -> bool:
    """Whether a request, in any of the protocols, ends in what a tool gave, so that a scripted tool loop goes on."""
    newest = _newest(body)
    content = newest.get("content")
    return (
        newest.get("role") == "tool"
        or newest.get("type") == "function_call_output"
        or (isinstance(content, list) and any(part.get("type") == "tool_result" for part in content))
    )


def echo(request: dict[str, Any]) -> Reply:
    """The default answer: the model's name and the question."""
    return Reply(text=f"{request['model']} answers: {last_text(request)[:80]}")


_numbers = itertools.count(1)


def new_id(prefix: str) -> str:
    """An id that no answer had before: message histories tell answers apart by it."""
    return f"{prefix}_{next(_numbers)}"


def words_of(text: str) -> list[str]:
    """The pieces in which a text is streamed; together they are the text."""
    return [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))] if text else []


def words_in(value: Any) -> int:
    """How many tokens a text, or what JSON holds, counts for: its words."""
    return len((value if isinstance(value, str) else json.dumps(value)).split())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # tests send hundreds of requests at once; the default refuses them after five

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that time out or close a stream early leave like this."""


class LoopbackServer(ABC):
    """What the endpoints share; use one of its subclasses in a with statement.

    Args:
        reply: From the request's body to the answer, a `Reply` or just its text; by default the model's name and the
            question. Where it raises, or returns something else, the client gets status 500, which says so.
            It is called from the server's threads, several at once when requests come so.

    Attributes:
        requests: The bodies of all requests, in order of arrival; questions about models are not among them.
        headers: Their headers, with lower-case names.
        paths: Their paths.
    """

    root: ClassVar[str] = ""  # of `url`, after the port

    def __init__(self, reply: Callable[[dict[str, Any]], Reply | str] = echo) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._server: ThreadingHTTPServer | None = None
        self._arrival = threading.Condition()
        self._released = threading.Event()
        self._connections: set[socket.socket] = set()

    # -- what a protocol says
    @abstractmethod
    def _refusal(self, status: int, message: str) -> dict[str, Any]:
        """The body of an error."""

    @abstractmethod
    def _answer(self, path: str, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
        """The body of an answer that is not streamed.

        Raises:
            LookupError: Nothing is served at this path.
        """

    @abstractmethod
    def _chunks(self, path: str, body: dict[str, Any], reply: Reply) -> Iterator[bytes]:
        """The chunks of a streamed answer."""

    def _is_streamed(self, path: str, body: dict[str, Any]) -> bool:
        return bool(body.get("stream"))

    def _stream_type(self) -> str:
        return "text/event-stream"

    def _about(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a question that no reply is asked for, such as which models there are; None: it is none."""
        return None

    def _complaint(self, path: str, body: dict[str, Any]) -> str | None:
        """What the provider would refuse the request for, with status 400; None: nothing."""
        return None

    # -- the server
    @property
    def url(self) -> str:
        """What clients take as their base URL.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._server is None:
            raise RuntimeError(f"{type(self).__name__} is not running; use it in a with statement")
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.root}"

    def release(self) -> None:
        """Let every reply go on that hangs, now or later."""
        self._released.set()

    def open_connections(self) -> int:
        """How many connections clients hold open, be it that they wait, read a stream, or keep one for later."""
        return sum(not _has_hung_up(connection) for connection in list(self._connections))

    def reset(self) -> None:
        """Forget what was asked and scripted, as if the server were new."""
        self.release()  # what hangs still
        self._released = threading.Event()
        with self._arrival:
            self.reply = echo
            self.requests, self.headers, self.paths = [], [], []

    def wait_for(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until so many requests have arrived.

        Raises:
            TimeoutError: They have not.
        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self.requests)} requests instead of {count} after {timeout_s} s")

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._connections.add(self.connection)

            def finish(self) -> None:
                outer._connections.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                outer._handle(self)

            def do_GET(self) -> None:
                outer._handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass  # tests read `requests` instead

        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        self.release()
        for connection in list(self._connections):  # a client that keeps one open would keep its thread
            _hang_up(connection)

    # -- one request
    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["Content-Length"] or 0)
        try:
            body = json.loads(handler.rfile.read(length)) if length else {}
        except ValueError:
            return _send(handler, 400, self._refusal(400, "the request's body is no JSON"))
        path = handler.path.partition("?")[0]
        about = self._about(path, body)
        if about is not None:
            return _send(handler, 200, about)
        with self._arrival:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.paths.append(path)
            self._arrival.notify_all()
        self._say(handler, path, body, self._replied(path, body))

    def _say(self, handler: BaseHTTPRequestHandler, path: str, body: dict[str, Any], reply: Reply) -> None:
        released = self._released  # of now: another test may reset the server
        time.sleep(reply.delay_s)
        if reply.hang and reply.cut_after is None:
            released.wait()
        if reply.hang_up:
            handler.close_connection = True
            return _hang_up(handler.connection)
        if reply.status >= 400:
            message = reply.text or f"scripted {reply.status}"
            return _send(handler, reply.status, self._refusal(reply.status, message), reply)
        try:
            if self._is_streamed(path, body) and reply.body is None:
                return self._stream(handler, reply, self._chunks(path, body, reply), released)
            answer = self._answer(path, body, reply)
        except LookupError:
            return _send(handler, 404, self._refusal(404, f"{type(self).__name__} serves nothing at {path}"))
        _send(handler, 200, answer, reply)

    def _stream(
        self, handler: BaseHTTPRequestHandler, reply: Reply, chunks: Iterator[bytes], released: threading.Event
    ) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", self._stream_type())
        handler.send_header("Transfer-Encoding", "chunked")  # so that a client can tell a cut from an end
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for sent, chunk in enumerate(chunks):
            if sent == reply.cut_after:
                if reply.cut_inside:
                    _send_chunk(handler, chunk[: len(chunk) // 2])
                if reply.hang:
                    released.wait()
                return  # without the last chunk, as a lost connection ends
            _send_chunk(handler, chunk)
        _send_chunk(handler, b"")

    def _own_reply(self, path: str, body: dict[str, Any]) -> Reply | None:
        """An answer that the protocol gives whatever was scripted; None: what was scripted counts."""
        return None

    def _replied(self, path: str, body: dict[str, Any]) -> Reply:
        own = self._own_reply(path, body)
        if own is not None:
            return own
        try:
            complaint = self._complaint(path, body)
            reply: object = self.reply(body) if complaint is None else Reply(status=400, text=complaint)
        except Exception as error:  # noqa: BLE001 - else a lost connection that says nothing
            return Reply(status=500, text=f"{type(self).__name__}: reply raised {type(error).__name__}: {error}")
        if isinstance(reply, str):
            return Reply(text=reply)
        if not isinstance(reply, Reply):
            kind = type(reply).__name__
            return Reply(
                status=500, text=f"{type(self).__name__}: reply must return a Reply or str, it returned {kind}"
            )
        return reply


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            # an end is something to read, too
            return bool(selector.select(0)) and not connection.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):  # closed on this side
        return True


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client was faster


def _send(handler: BaseHTTPRequestHandler, status: int, payload: dict[str, Any], reply: Reply | None = None) -> None:
    content = json.dumps(payload).encode()
    if reply is not None and reply.body is not None:
        content = reply.body.encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    if reply is not None and reply.retry_after_s is not None:
        handler.send_header("Retry-After", f"{reply.retry_after_s:g}")
    # an asynchronous client that kept it open past its event loop would be a warning in some later test
    handler.send_header("Connection", "close")
    handler.close_connection = True
    handler.end_headers()
    if reply is not None and reply.cut_inside and status < 400:
        content = content[: len(content) // 2]
    handler.wfile.write(content)


def _send_chunk(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    handler.wfile.flush()
