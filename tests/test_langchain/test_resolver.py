"""LangChain chat models as the core's backends."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import httpx
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI

from langchain_routellm._resolver import ChatModelBackend, resolve
from routellm_core.backends import RESOLVERS, Backend, Generation, resolve_backend
from routellm_core.errors import ConfigurationError, MissingExtraError, UnknownKindError
from routellm_core.testing import LoopbackOpenAI, Reply

ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello"}]


@pytest.fixture
def registered() -> None:
    if not entry_points(group=RESOLVERS.group, name="langchain"):
        pytest.skip("the entry points are not installed; pip install -e . makes them")


@pytest.fixture
async def openai(loopback: LoopbackOpenAI) -> Any:
    blocking, asynchronous = httpx.Client(), httpx.AsyncClient()
    yield ChatOpenAI(
        model="gpt-4.1",
        base_url=loopback.url,
        api_key="none",  # type: ignore[arg-type]
        max_retries=0,
        http_client=blocking,
        http_async_client=asynchronous,
    )
    blocking.close()
    await asynchronous.aclose()


@pytest.mark.usefixtures("registered")
async def test_a_chat_model_answers_with_its_tokens(openai: ChatOpenAI, loopback: LoopbackOpenAI) -> None:
    loopback.reply = lambda request: Reply(text="hello to you")
    backend = resolve_backend(openai)
    assert backend.name == "openai:gpt-4.1"
    # the endpoint counts words: 3 of the answer, and of the messages' JSON
    # '[{"content": "Be brief.", "role": "system"}, {"content": "Say hello", "role": "user"}]' 10 whatever the order
    expected = Generation(text="hello to you", input_tokens=10, output_tokens=3)
    assert backend.generate(ASKED) == expected
    assert await backend.agenerate(ASKED) == expected
    assert [m["role"] for m in loopback.requests[0]["messages"]] == ["system", "user"]
    assert loopback.requests[0]["messages"][1]["content"] == "Say hello"


def test_a_model_that_counts_no_tokens_says_none() -> None:
    backend = resolve(GenericFakeChatModel(messages=iter([AIMessage("hi")])))
    assert isinstance(backend, ChatModelBackend)
    assert isinstance(backend, Backend)
    assert backend.generate(ASKED) == Generation(text="hi")


def test_a_model_with_bound_arguments_or_retries_is_a_chat_model() -> None:
    for bind in (lambda model: model.bind(stop=["x"]), lambda model: model.with_retry().bind(stop=["x"])):
        backend = resolve(bind(GenericFakeChatModel(messages=iter([AIMessage("hello")]))))
        assert backend is not None
        assert backend.name == "genericfakechatmodel"
        assert backend.generate(ASKED) == Generation(text="hello")


def test_what_is_not_langchains_is_left_to_others() -> None:
    assert resolve(object()) is None
    assert resolve(3) is None


def test_a_string_becomes_a_model_and_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    backend = resolve("openai:gpt-4.1-mini")
    assert backend is not None
    assert isinstance(backend.model, ChatOpenAI)
    assert (backend.name, backend.model.model_name) == ("openai:gpt-4.1-mini", "gpt-4.1-mini")


def test_a_string_nobody_can_make_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="the backend 'nonsense:model' cannot be made") as caught:
        resolve("nonsense:model")
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingExtraError, match="langchain-mistralai"):
        resolve("mistralai:x")


def test_errors_come_out_as_the_client_raised_them(openai: ChatOpenAI, loopback: LoopbackOpenAI) -> None:
    import openai as client

    loopback.reply = lambda request: Reply(status=429)
    with pytest.raises(client.RateLimitError):
        ChatModelBackend(openai).generate(ASKED)


class Own:
    name = "own"

    def generate(self, messages: Any) -> Generation:
        return Generation(text="x")

    async def agenerate(self, messages: Any) -> Generation:
        return Generation(text="x")


def test_a_backend_stays_as_it_is() -> None:
    own = Own()
    assert resolve_backend(own) is own
    with pytest.raises(UnknownKindError, match="an object of type type"):
        resolve_backend(Own)


@pytest.mark.usefixtures("registered")
def test_the_framework_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_index.core")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert isinstance(resolve_backend("openai:gpt-4.1", framework="langchain"), ChatModelBackend)
    assert isinstance(resolve_backend("openai:gpt-4.1"), ChatModelBackend)  # the first by name
    assert not isinstance(resolve_backend("openai:gpt-4.1", framework="llama-index"), ChatModelBackend)
    with pytest.raises(UnknownKindError, match="unknown framework 'haystack'; known: .*langchain"):
        resolve_backend("openai:gpt-4.1", framework="haystack")


def test_without_a_resolver_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESOLVERS, "group", "routellm_core.nothing_is_registered_here")
    with pytest.raises(MissingExtraError, match=r"routellm-integrations\[langchain\]"):
        resolve_backend("openai:gpt-4.1")
    with pytest.raises(ConfigurationError, match="got nothing"):
        resolve_backend("")


@pytest.mark.usefixtures("registered")
def test_a_framework_that_is_not_installed_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_index.core")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setitem(sys.modules, "langchain_core", None)  # how an import of something missing fails
    assert type(resolve_backend("openai:gpt-4.1")).__name__ == "LLMBackend"
    with pytest.raises(MissingExtraError, match=r"routellm-integrations\[langchain\]"):
        resolve_backend("openai:gpt-4.1", framework="langchain")


def test_looking_at_an_object_imports_no_framework() -> None:
    code = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from langchain_routellm._resolver import resolve as one\n"
        "from llamaindex_routellm._resolver import resolve as other\n"
        "assert one(object()) is None and other(object()) is None\n"
        "assert not {'langchain_core', 'llama_index.core'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
