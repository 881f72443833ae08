"""The endpoints on the loopback answer, and fail, as they are told, in every protocol."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from routellm_core.testing import (
    LoopbackAnthropic,
    LoopbackOllama,
    LoopbackOpenAI,
    Reply,
    ToolCall,
    ends_in_tool_result,
    last_text,
)

httpx = pytest.importorskip("httpx")


def post(server):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi?"}]}
    return httpx.post(f"{server.url}/chat/completions", json=body)


@pytest.mark.parametrize("reply", ["Hello.", Reply(text="Hello.")])
def test_a_reply_is_a_reply_or_its_text(loopback, reply):
    loopback.reply = lambda request: reply
    answer = post(loopback)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello."


@pytest.mark.usefixtures("loopback")  # opens 127.0.0.1
def test_it_is_given_its_replies_when_it_is_made():
    with LoopbackOpenAI(lambda request: f"{request['model']} says hello") as server:
        assert post(server).json()["choices"][0]["message"]["content"] == "m says hello"


@pytest.mark.parametrize(("wrong", "kind"), [(None, "NoneType"), ({"text": "x"}, "dict"), (b"x", "bytes")])
def test_anything_else_is_status_500_and_says_what_a_reply_is(loopback, wrong, kind):
    loopback.reply = lambda request: wrong
    answer = post(loopback)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].endswith(f"reply must return a Reply or str, it returned {kind}")


def test_a_reply_that_raises_is_status_500_and_says_why(loopback):
    loopback.reply = lambda request: request["question"]
    answer = post(loopback)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].endswith("reply raised KeyError: 'question'")


def test_an_error_may_have_a_message_of_its_own(loopback):
    loopback.reply = lambda request: Reply(status=503)
    assert post(loopback).json()["error"]["message"] == "scripted 503"
    loopback.reply = lambda request: Reply(status=503, text="come back at noon")
    assert post(loopback).json()["error"]["message"] == "come back at noon"


def test_what_is_served_nowhere_is_not_found(loopback):
    answer = httpx.post(f"{loopback.url}/chats", json={"model": "m", "messages": [{"role": "user", "content": "Hi?"}]})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "LoopbackOpenAI serves nothing at /v1/chats"
    assert httpx.post(f"{loopback.url}/chat/completions", content=b"{]").status_code == 400


# -- the same words in every protocol
PROTOCOLS = {
    "openai": (LoopbackOpenAI, "/chat/completions", "messages"),
    "responses": (LoopbackOpenAI, "/responses", "input"),
    "anthropic": (LoopbackAnthropic, "/v1/messages", "messages"),
    "ollama": (LoopbackOllama, "/api/chat", "messages"),
}


class Asked:
    """A running endpoint of a protocol."""

    def __init__(self, protocol, server, client):
        self.server, self.protocol, self.client = server, protocol, client
        _, self.path, self.key = PROTOCOLS[protocol]

    def body(self, text, stream):
        return {"model": "m", self.key: [{"role": "user", "content": text}], "stream": stream}

    def post(self, text="Hi?", *, stream=False):
        return self.send(self.body(text, stream))

    def send(self, body):
        return self.client.post(self.server.url + self.path, json=body)

    def texts(self, pieces):
        """The text pieces of a stream's events."""
        if self.protocol == "ollama":
            events = [json.loads(line) for line in pieces.splitlines()]
            return [event["message"]["content"] for event in events if event["message"]["content"]]
        lines = [line.removeprefix("data: ") for line in pieces.splitlines() if line.startswith("data: ")]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        if self.protocol == "openai":
            deltas = [choice["delta"] for event in events for choice in event["choices"]]
            return [delta["content"] for delta in deltas if delta.get("content")]
        if self.protocol == "anthropic":
            return [e["delta"]["text"] for e in events if e.get("delta", {}).get("type") == "text_delta"]
        return [e["delta"] for e in events if e["type"] == "response.output_text.delta"]

    def text(self, answer):
        if self.protocol == "openai":
            return answer["choices"][0]["message"]["content"]
        if self.protocol == "responses":
            return answer["output"][0]["content"][0]["text"]
        return answer["content"][0]["text"] if self.protocol == "anthropic" else answer["message"]["content"]


@pytest.fixture(params=PROTOCOLS)
def asked(request, loopback):
    with PROTOCOLS[request.param][0]() as server, httpx.Client(verify=False, timeout=20) as client:  # noqa: S501
        yield Asked(request.param, server, client)


def test_a_streamed_answer_is_the_answer_in_words(asked):
    asked.server.reply = lambda body: "one two three"
    assert asked.text(asked.post().json()) == "one two three"
    assert asked.texts(asked.post(stream=True).text) == ["one", " two", " three"]


def test_the_default_answer_is_the_question(asked):
    assert asked.text(asked.post("What now?").json()) == "m answers: What now?"


def test_requests_are_kept_with_their_headers_and_paths(asked):
    asked.post("one")
    asked.post("two")
    assert [last_text(body) for body in asked.server.requests] == ["one", "two"]
    assert [headers["content-type"] for headers in asked.server.headers] == ["application/json"] * 2
    assert [path.endswith(asked.path) for path in asked.server.paths] == [True] * 2
    asked.server.reset()
    assert (asked.server.requests, asked.server.headers, asked.server.paths) == ([], [], [])


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_says_when_to_come_again(asked, stream):
    asked.server.reply = lambda body: Reply(status=429, retry_after_s=2.5)
    answer = asked.post(stream=stream)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2.5")
    assert "scripted 429" in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_it_hangs_up_before_the_first_byte(asked, stream):
    asked.server.reply = lambda body: Reply(hang_up=True)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        asked.post(stream=stream)


def test_an_answer_is_cut_in_its_middle(asked):
    asked.server.reply = lambda body: Reply(text="one two three", cut_inside=True)
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        asked.post()


@pytest.mark.parametrize("inside", [False, True])
def test_a_stream_is_cut_after_so_many_chunks(asked, inside):
    asked.server.reply = lambda body: "one two three"
    whole = asked.post(stream=True).text
    asked.server.reply = lambda body: Reply(text="one two three", cut_after=2, cut_inside=inside)
    got = ""
    with (
        asked.client.stream("POST", asked.server.url + asked.path, json=asked.body("Hi?", True)) as answer,
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
    ):
        for piece in answer.iter_text():
            got += piece
    separator = "\n" if asked.protocol == "ollama" else "\n\n"
    assert got.count(separator) == 2
    assert got.endswith(separator) != inside
    assert len(got) < len(whole)


def test_a_body_of_ones_own_is_sent_as_it_is(asked):
    asked.server.reply = lambda body: Reply(body="{]")
    assert asked.post().text == "{]"
    assert asked.post(stream=True).text == "{]"


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_hangs_goes_on_when_it_is_released(asked, stream):
    asked.server.reply = lambda body: Reply(text="late", hang=True)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(asked.post, stream=stream)
        asked.server.wait_for(1)
        assert not waiting.done()
        asked.server.release()
        answer = waiting.result()
    assert asked.texts(answer.text) == ["late"] if stream else asked.text(answer.json()) == "late"
    with pytest.raises(TimeoutError, match="1 requests instead of 2 after 0.01 s"):
        asked.server.wait_for(2, timeout_s=0.01)


def test_a_server_that_ends_lets_nobody_hang_and_leaves_no_thread(loopback):
    before = set(threading.enumerate())
    with LoopbackOllama(lambda body: Reply(hang=True)) as server, ThreadPoolExecutor(1) as threads:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi?"}]}
        waiting = threads.submit(httpx.post, f"{server.url}/api/chat", json=body, timeout=20)
        server.wait_for(1)
        server.__exit__(None, None, None)
        try:
            waiting.result()  # cut or answered, but over
        except httpx.TransportError:
            pass
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="LoopbackOllama is not running"):
        server.url  # noqa: B018


def test_many_at_once_each_get_their_own_answer(asked):
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(asked.post, [f"number {i}" for i in range(48)]))
    assert [asked.text(answer.json()) for answer in answers] == [f"m answers: number {i}" for i in range(48)]
    assert len(asked.server.requests) == len(asked.server.headers) == len(asked.server.paths) == 48


def test_usage_is_counted_in_words(asked):
    asked.server.reply = lambda body: Reply(text="one two three")
    answer = asked.post("four").json()
    # the question as JSON: [{"role": "user", "content": "four"}]
    if asked.protocol == "ollama":
        assert (answer["prompt_eval_count"], answer["eval_count"]) == (4, 3)
    elif asked.protocol == "openai":
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 3)
    else:
        assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (4, 3)


# -- what the providers refuse
TOOL_RESULTS = {
    "openai": {"role": "tool", "tool_call_id": "c9", "content": "sunny"},
    "responses": {"type": "function_call_output", "call_id": "c9", "output": "sunny"},
    "anthropic": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c9", "content": "sunny"}]},
}
FOREIGN = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "somebody else's"}]}
STRING_ARGUMENTS = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}


def test_a_tools_result_that_nobody_asked_for_is_refused(asked):
    if asked.protocol not in TOOL_RESULTS:
        pytest.skip("Ollama's results refer to nothing")
    body = {"model": "m", asked.key: [TOOL_RESULTS[asked.protocol]]}
    assert ends_in_tool_result(body)
    assert last_text(body) == "sunny"
    assert asked.send(body).status_code == 400


@pytest.mark.parametrize("message", [FOREIGN, STRING_ARGUMENTS], ids=["thinking", "arguments"])
def test_turns_of_other_providers_are_refused(asked, message):
    if message is STRING_ARGUMENTS and asked.protocol != "ollama":
        pytest.skip("only Ollama takes objects")
    body = {"model": "m", asked.key: [message, {"role": "user", "content": "Hi?"}]}
    assert asked.send(body).status_code == 400


def test_ollama_says_what_models_can(loopback):
    with LoopbackOllama() as server:
        shown = httpx.post(f"{server.url}/api/show", json={"model": "m"}).json()
        assert shown["model_info"]["llama.context_length"] == 8192
        assert httpx.get(f"{server.url}/api/tags").json() == {"models": []}
        assert server.requests == []


def test_a_connection_is_open_until_its_client_hangs_up(loopback):
    loopback.reply = lambda request: Reply(text="one two three", cut_after=1, hang=True)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi?"}]}
    assert loopback.open_connections() == 0
    with httpx.Client() as client:
        with client.stream("POST", f"{loopback.url}/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            assert loopback.open_connections() == 1
        until = time.monotonic() + 10
        while loopback.open_connections() and time.monotonic() < until:
            time.sleep(0.005)
        assert loopback.open_connections() == 0


def test_every_answer_has_an_id_of_its_own(asked):
    asked.server.reply = lambda body: Reply(text="x", tool_calls=(ToolCall(name="look"),))
    ids = [asked.post().json().get("id") for _ in range(2)]
    assert asked.protocol == "ollama" or len(set(ids)) == 2
