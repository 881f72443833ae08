"""The endpoint on the loopback says what is wrong with the answers it was given."""

import pytest

from routellm_core.testing import LoopbackOpenAI, Reply

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
