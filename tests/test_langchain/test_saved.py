"""A router as plain JSON: written, read, refused where something would be lost."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_openai import ChatOpenAI

from langchain_routellm import ChatRouteLLM
from langchain_routellm._backends import ModelString
from langchain_routellm._saved import _KEYS
from routellm_core import Budget, RoutingPolicy, load_router
from routellm_core.calibration import Calibration
from routellm_core.errors import ConfigurationError, RouteLLMError
from routellm_core.routers import Router
from routellm_core.testing import LoopbackOpenAI, ScriptedRouter
from tests.test_langchain.fakes import RECORD, fake, pickled

STRONG, WEAK = "openai:gpt-4.1", "openai:gpt-4.1-mini"
KEY = "sk-do-not-write-me"
OTHER = "another-secret-thing"


def strings(**options: Any) -> ChatRouteLLM:
    if "models" not in options:
        options.update(strong=options.get("strong", STRONG), weak=options.get("weak", WEAK))
    if "policy" not in options:
        options.setdefault("router", "random")
    return ChatRouteLLM(**options)


def through_json(llm: ChatRouteLLM, **given: Any) -> ChatRouteLLM:
    """Written to a file whose writer sorts keys, and read again."""
    leave_out = [*(given.get("models") or {}), *(name for name in given if name != "models")]
    text = json.dumps(llm.to_config(leave_out=leave_out), sort_keys=True, allow_nan=False)
    assert KEY not in text
    return type(llm).from_config(json.loads(text), **given)


# -- there and back
def test_the_plainest_router_is_a_short_dict() -> None:
    assert strings().to_config() == {
        "format": 1,
        "models": [{"route": "weak", "model": WEAK}, {"route": "strong", "model": STRONG}],
        "router": "random",
        "stickiness": "tool_loop",
        "fallback": "none",
        "on_error": "strong",
        "normalize_history": True,
        "verbose": False,
        "disable_streaming": False,
    }


fractions = st.floats(0, 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "stickiness": st.sampled_from(["none", "tool_loop", "conversation"]),
        "fallback": st.sampled_from(["none", "stronger", "any"]),
        "on_error": st.sampled_from(["strong", "weak", "raise"]),
        "router_timeout_s": st.floats(0.01, 1e6),
        "normalize_history": st.booleans(),
        "profile": st.fixed_dictionaries({"max_input_tokens": st.integers(1, 10**6), "tool_calling": st.booleans()}),
        "tags": st.lists(st.text(max_size=5), max_size=3),
        "metadata": st.dictionaries(st.text(max_size=5), json_values, max_size=3),
        "name": st.text(min_size=1, max_size=5),
        "output_version": st.sampled_from(["v0", "v1"]),
        "disable_streaming": st.sampled_from([True, False, "tool_calling"]),
    },
)
two_routes = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries({"threshold": fractions}),
    st.fixed_dictionaries({"strong_share": fractions}),
    st.fixed_dictionaries(
        {"budget": st.builds(Budget, st.floats(1, 1e6), st.just("call"), strong_usd=st.just(1e6), weak_usd=st.just(1))}
    ),
)
n_routes = st.integers(3, 5).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            "models": st.lists(st.text(min_size=1, max_size=6), min_size=n, max_size=n, unique=True).map(
                lambda names: {name: f"openai:m{i}" for i, name in enumerate(names)}
            ),
        },
        optional={"threshold": st.lists(fractions, min_size=n - 1, max_size=n - 1, unique=True).map(sorted)},
    )
)


@given(given_options=options, cuts=two_routes | n_routes)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_comes_back_is_what_was_written_whatever_the_options(
    given_options: dict[str, Any], cuts: dict[str, Any]
) -> None:
    llm = strings(**given_options, **cuts)
    again = through_json(llm)
    assert again.to_config() == llm.to_config()
    assert list(again.models.items()) == list(llm.models.items())  # the order of the routes too
    assert again.routing_policy.settings() == llm.routing_policy.settings()
    for name in (*given_options, *cuts):
        if name == "metadata":
            assert {k: v for k, v in (again.metadata or {}).items() if k != "lc_versions"} == given_options["metadata"]
        else:
            assert getattr(again, name) == getattr(llm, name)


def test_a_router_read_from_a_file_answers_as_the_one_written(
    loopback: LoopbackOpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (tmp_path / "router.json").write_text(json.dumps(strings(threshold=0.0).to_config()), encoding="utf-8")
    llm = ChatRouteLLM.from_config(json.loads((tmp_path / "router.json").read_text(encoding="utf-8")))
    answer = llm.invoke("hello")
    assert answer.text == "gpt-4.1 answers: hello"
    assert answer.response_metadata[RECORD]["route"] == "strong"


def test_a_subclass_reads_itself() -> None:
    class Mine(ChatRouteLLM):
        pass

    assert type(Mine.from_config(strings().to_config())) is Mine


# -- the router
def test_a_saved_router_is_written_as_its_folder_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_router("default").save("mine")
    for router in ("mine", Path("mine"), load_router("mine")):
        config = strings(router=router).to_config()
        assert config["router"] == str(tmp_path / "mine")
    monkeypatch.chdir("/")
    assert isinstance(ChatRouteLLM.from_config(config).router, Router)


def test_a_router_that_was_just_saved_is_written_as_its_folder(tmp_path: Path) -> None:
    router = load_router("random")
    router.calibration = Calibration.from_win_rates(np.linspace(0, 1, 100), strong_share=0.25)
    router.save(tmp_path / "mine")
    llm = strings(router=router)
    assert llm.to_config()["router"] == str(tmp_path / "mine")
    assert through_json(llm).routing_policy.thresholds == llm.routing_policy.thresholds


def test_the_embedded_router_keeps_its_name() -> None:
    assert strings(router="default").to_config()["router"] == "default"
    assert strings(router=load_router("default")).to_config()["router"] == "default"


def test_a_router_in_memory_is_refused_or_left_out_and_given_again() -> None:
    llm = strings(router=ScriptedRouter(0.9))
    with pytest.raises(ConfigurationError, match=r"'scripted' exists in memory only: save it.*leave_out=\['router'\]"):
        llm.to_config()
    with pytest.raises(ConfigurationError, match="leaves the router out: give router="):
        ChatRouteLLM.from_config(llm.to_config(leave_out=["router"]))
    assert through_json(llm, router=ScriptedRouter(0.9)).router.kind == "scripted"
    assert ChatRouteLLM.from_config(strings().to_config(), router="default").router.name == "default"


def test_an_encoder_that_is_an_object_is_refused_and_a_string_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote:
        kind = "remote"

    router = ScriptedRouter(0.9)
    router.source = "mf"
    router.encoder = Remote()  # type: ignore[assignment]
    llm = strings(router=router)
    with pytest.raises(ConfigurationError, match=r"embeddings of an object.*leave_out=\['encoder'\]"):
        llm.to_config()
    assert "encoder" not in llm.to_config(leave_out=["encoder"])
    named = llm.model_copy()
    named.__dict__["encoder"] = "openai:text-embedding-3-small"
    assert named.to_config()["encoder"] == "openai:text-embedding-3-small"


def test_a_policy_is_written_as_the_options_that_make_it() -> None:
    policy = RoutingPolicy("random", threshold=0.25, stickiness="conversation", fallback="any")
    again = through_json(strings(policy=policy))
    assert again.routing_policy.settings() == policy.settings()
    assert (again.threshold, again.stickiness, again.fallback) == (0.25, "conversation", "any")
    named = strings(router="router-random-0.75").to_config()  # a name that holds its threshold
    assert (named["router"], named["threshold"]) == ("random", 0.75)

    class Mine(RoutingPolicy):
        pass

    with pytest.raises(ConfigurationError, match="class Mine is code"):
        strings(policy=Mine("random", threshold=0.25)).to_config()


def test_thresholds_of_numpy_are_plain_numbers() -> None:
    llm = strings(models={"a": "p:1", "b": "p:2", "c": "p:3"}, threshold=np.array([0.25, 0.5]))
    assert json.dumps(llm.to_config()["threshold"]) == "[0.25, 0.5]"
    assert strings(threshold=np.float32(0.25)).to_config()["threshold"] == 0.25


# -- the backends
def openai(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4.1", "api_key": KEY, **options})


def test_a_chat_model_is_written_as_its_string_and_its_own_settings_without_its_key() -> None:
    llm = strings(
        strong=openai(temperature=0, max_retries=0, timeout=3, base_url="http://127.0.0.1:1/v1", stop=["x"]),
        weak=openai(model="gpt-4.1-mini"),
    )
    weak, strong = llm.to_config()["models"]
    assert weak == {"route": "weak", "model": "openai:gpt-4.1-mini"}
    assert strong == {
        "route": "strong",
        "model": "openai:gpt-4.1",
        "settings": {
            "temperature": 0.0,
            "max_retries": 0,
            "request_timeout": 3.0,
            "openai_api_base": "http://127.0.0.1:1/v1",
            "stream_usage": None,  # what its class makes of an address of one's own
            "stop": ["x"],
        },
    }


def test_settings_come_back_on_first_use_and_survive_pickles_and_another_writing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the environment")
    llm = strings(strong=openai(temperature=0, model_kwargs={"user": "me"}, profile={"max_input_tokens": 9}))
    for again in (through_json(llm), pickled(through_json(llm)), through_json(through_json(llm))):
        assert isinstance(again.models["strong"], ModelString)
        assert not again._is_made("strong")
        made: Any = again._backend("strong")
        assert (made.temperature, made.model_kwargs, made.profile) == (0.0, {"user": "me"}, {"max_input_tokens": 9})
        assert made.openai_api_key.get_secret_value() == "of the environment"
        assert again.to_config() == llm.to_config()


@pytest.mark.parametrize(
    ("module", "cls", "options", "settings"),
    [
        ("langchain_anthropic", "ChatAnthropic", {"model": "claude-sonnet-4-5", "api_key": KEY}, None),
        (
            "langchain_anthropic",
            "ChatAnthropic",
            {"model": "claude-sonnet-4-5", "api_key": KEY, "thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        ),
        ("langchain_ollama", "ChatOllama", {"model": "llama3.1", "num_ctx": 99}, {"num_ctx": 99}),
        (
            "langchain_google_genai",
            "ChatGoogleGenerativeAI",
            {"model": "gemini-3-pro-preview", "google_api_key": KEY, "temperature": 0.5},
            {"temperature": 0.5},
        ),
    ],
)
def test_chat_models_of_other_providers_are_written_too(
    module: str, cls: str, options: dict[str, Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = getattr(pytest.importorskip(module), cls)(**options)
    llm = strings(weak=backend)
    entry = llm.to_config()["models"][0]
    assert entry["model"].endswith(f":{options['model']}")
    assert entry.get("settings") == settings
    for name in ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, KEY)
    again = through_json(llm)._backend("weak")
    assert type(again) is type(backend)
    assert again._get_ls_params() == backend._get_ls_params()


class MyOpenAI(ChatOpenAI):
    pass


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (lambda: fake("x"), "of class FakeBackend cannot be written"),
        (lambda: MyOpenAI(model="gpt-4.1", api_key=KEY), "of class MyOpenAI cannot be written"),  # type: ignore[arg-type]
        (lambda: openai(callbacks=[BaseCallbackHandler()]), "no plain JSON: callbacks"),
        (lambda: openai(default_headers={"Authorization": KEY}), "may hold a secret: default_headers"),
        (lambda: openai(model_kwargs={"extra": {"my_api_key": KEY}}), "may hold a secret: my_api_key"),
        (lambda: openai(base_url=f"https://user:{KEY}@x.example/v1"), "may hold a secret: an address"),
        (lambda: openai(base_url=f"https://x.example/v1?code={KEY}"), "may hold a secret: an address"),
        (lambda: openai(model_kwargs={"user": f"me and {KEY}"}), "has its key in other settings too"),
        (lambda: strings(), "of class ChatRouteLLM cannot be written"),
        (lambda: openai(base_url=f"user:{OTHER}@x.example/v1"), "may hold a secret: an address"),
        (lambda: openai(base_url=f"https://x.example/v1#{OTHER}"), "may hold a secret: an address"),
        (lambda: openai(default_query={"code": OTHER}), "may hold a secret: default_query"),
        (lambda: openai(extra_body={"x-api-key": OTHER}), "may hold a secret: x-api-key"),
        (lambda: openai(extra_body={"key": OTHER}), "may hold a secret: key"),
        (lambda: openai(extra_body={"auth": OTHER}), "may hold a secret: auth"),
        (lambda: openai(extra_body={"accessToken": OTHER}), "may hold a secret: accessToken"),
        (lambda: openai(extra_body={"a": [{"passphrase": OTHER}]}), "may hold a secret: passphrase"),
        (lambda: openai(extra_body={"a": f"Bearer {OTHER}"}), "may hold a secret: a key in a"),
        (lambda: openai(tags=[f"sk-{OTHER}"]), "may hold a secret: a key in a list"),
        (lambda: ModelString("openai:gpt-4.1", {"api_key": OTHER}), "may hold a secret: api_key"),
        (lambda: f"openai:https://user:{OTHER}@x.example", "a name that may hold a secret"),
    ],
)
def test_a_chat_model_that_would_lose_something_is_refused_or_left_out(backend: Any, message: str) -> None:
    llm = strings(strong=backend())
    with pytest.raises(ConfigurationError, match=f"route 'strong': its backend .*{message}.*models=") as caught:
        llm.to_config()
    assert KEY not in str(caught.value) and OTHER not in str(caught.value)
    config = llm.to_config(leave_out=["strong"])
    assert config["models"][1] == {"route": "strong"}
    with pytest.raises(ConfigurationError, match=r"route 'strong': the configuration leaves its backend out"):
        ChatRouteLLM.from_config(config)
    assert ChatRouteLLM.from_config(config, models={"strong": "p:m"}).models == {"weak": WEAK, "strong": "p:m"}


def test_a_client_of_the_callers_own_is_not_lost_in_silence() -> None:
    import httpx

    with httpx.Client() as client:
        with pytest.raises(ConfigurationError, match="no plain JSON: http_client"):
            strings(strong=openai(http_client=client)).to_config()


# -- code
def test_functions_and_handlers_are_refused_or_left_out_and_given_again() -> None:
    def last(messages: list[Any]) -> str:
        return str(messages[-1].text)

    handler = BaseCallbackHandler()
    for name, value in (("text", last), ("callbacks", [handler]), ("custom_get_token_ids", lambda text: [1])):
        llm = strings(**{name: value})
        with pytest.raises(ConfigurationError, match=rf"{name}= is code.*leave_out=\['{name}'\].*{name}=\.\.\."):
            llm.to_config()
        assert getattr(through_json(llm, **{name: value}), name) is not None
    with pytest.raises(ConfigurationError, match="no plain JSON: metadata"):
        strings(metadata={"client": object()}).to_config()


@pytest.mark.parametrize("leave_out", ["strong", ["nobody"], [3]])
def test_leaving_out_what_is_not_there_is_refused(leave_out: Any) -> None:
    with pytest.raises(ConfigurationError, match="leave_out="):
        strings().to_config(leave_out=leave_out)


# -- reading what somebody edited
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "format 2; this version reads formats 1 to 1.*upgrade"),
        ({"format": None}, "format None"),
        ({"format": True}, "format True"),
        ({"treshold": 0.5}, "unknown key 'treshold' in the configuration; did you mean 'threshold'"),
        ({"anything": 1}, "unknown key 'anything' in the configuration; known: format, models"),
        ({"models": {"weak": WEAK}}, "models in a configuration is a list"),
        ({"models": [{"route": "weak", "modle": WEAK}]}, "unknown key 'modle'.*did you mean 'model'"),
        ({"models": [{"model": WEAK}]}, "names its own route, got None"),
        ({"models": [{"route": "a", "model": WEAK}] * 2}, "names its own route, got 'a'"),
        ({"models": [{"route": "a", "model": WEAK, "settings": 3}]}, "route 'a': settings are a dict, got int"),
        ({"models": [{"route": "a", "model": 3}]}, "route 'a': the configuration leaves its backend out"),
        ({"models": [{"route": "a", "model": WEAK}]}, "at least two"),
        ({"router": 3}, "router in a configuration is str, got int"),
        ({"normalize_history": "no"}, "normalize_history in a configuration is bool, got str"),
        ({"budget": 100}, "budget in a configuration is a dict"),
        ({"budget": {"usd": 1, "pro": "day"}}, "unknown key 'pro' in its budget"),
        ({"budget": {"usd": -1}}, "usd of a budget"),
        ({"threshold": "high"}, "threshold must be a number"),
        ({"stickiness": "always"}, "stickiness must be one of"),
        ({"threshold": 0.5, "strong_share": 0.5}, "not both"),
    ],
)
def test_a_configuration_that_is_none_is_refused_with_the_reason(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ChatRouteLLM.from_config({**strings().to_config(), **changed})


def test_what_is_no_dict_or_names_routes_that_are_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is a dict as to_config"):
        ChatRouteLLM.from_config(json.dumps(strings().to_config()))  # type: ignore[arg-type]
    with pytest.raises(
        ConfigurationError, match="models= names 'best', but the configuration's routes are weak, strong"
    ):
        ChatRouteLLM.from_config(strings().to_config(), models={"best": "p:m"})


@pytest.mark.parametrize(
    "option",
    [{"metadata": {"api_key": OTHER}}, {"metadata": {"a": f"https://u:{OTHER}@x"}}, {"tags": [f"Bearer {OTHER}"]}],
)
def test_secrets_of_the_router_itself_are_refused_too(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="the router has a setting that may hold a secret") as caught:
        strings(**option).to_config()
    assert OTHER not in str(caught.value)


def test_settings_that_only_look_like_secrets_are_written() -> None:
    config = strings(strong=openai(max_tokens=9, extra_body={"prompt_cache_key": "a", "author": "b"})).to_config()
    assert config["models"][1]["settings"]["max_tokens"] == 9
    vertex = strings(strong="google_vertexai:claude-sonnet-4@20250514")
    assert vertex.to_config()["models"][1]["model"] == "google_vertexai:claude-sonnet-4@20250514"


WEIRD = [
    None,
    0,
    -1,
    1.5,
    math.nan,
    math.inf,
    10**400,
    True,
    "",
    "x",
    "\ud800",
    [],
    [1],
    [[1], 2],
    {},
    {"a": 1},
    {"usd": []},
]


@pytest.mark.filterwarnings("ignore:Unrecognized keys in model profile")
@pytest.mark.parametrize("key", _KEYS)
def test_whatever_a_configuration_holds_it_is_used_or_refused_with_our_own_error(key: str) -> None:
    for value in WEIRD:
        config = {**strings().to_config(), key: value}
        with contextlib.suppress(RouteLLMError):
            ChatRouteLLM.from_config(config)


def test_settings_that_make_no_chat_model_are_refused_on_first_use() -> None:
    config = strings().to_config()
    config["models"][1]["settings"] = {"configurable_fields": "any"}
    with pytest.raises(ConfigurationError, match=r"route 'strong': .* no chat model"):
        ChatRouteLLM.from_config(config).invoke("hello", {"configurable": {"routellm_route": "strong"}})
