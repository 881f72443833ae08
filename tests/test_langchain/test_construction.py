"""What the constructor takes and refuses, strings as backends, profiles, identity, copies and pickles."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, load
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

import langchain_routellm
from langchain_routellm import ChatRouteLLM
from routellm_core import RoutingPolicy, __version__
from routellm_core.errors import ConfigurationError, MissingExtraError
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter, ToolCall
from tests.test_langchain.fakes import RECORD, Runs, backend, by_words, fake, get_weather, pickled, routed

ROUTER = ScriptedRouter(by_words)


class City(BaseModel):
    """A city."""

    name: str


def options(**changed: Any) -> dict[str, Any]:
    return {"strong": fake("strong"), "weak": fake("weak"), "router": ROUTER, "threshold": 0.5, **changed}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weak": None}, "give both strong= and weak=.*; got strong"),
        ({"weak": None, "strong": None}, "got neither"),
        ({"models": {"a": fake("a"), "b": fake("b")}}, "not both"),
        ({"weak": None, "strong": None, "models": {"a": fake("a")}}, "at least two"),
        ({"weak": None, "strong": None, "models": [fake("a"), fake("b")]}, "a dict of at least two"),
        ({"weak": None, "strong": None, "models": {1: fake("a"), "b": fake("b")}}, "a str that is not empty, got 1"),
        ({"weak": ""}, "an empty string"),
        ({"weak": 3}, "route 'weak': a backend is a chat model or a 'provider:model' string, got int"),
        ({"weak": RunnableLambda(str)}, "got RunnableLambda"),
        ({"weak": fake("weak").with_retry()}, "got RunnableRetry. Retries and settings belong to the chat model"),
        ({"threshold": 1.5}, "from 0 to 1, got 1.5"),
        ({"threshold": [0.2, 0.4]}, "2 routes need 1"),
        ({"strong_share": 0.5}, "threshold= or strong_share=, not both"),
        ({"stickiness": "sometimes"}, "stickiness must be one of"),
        ({"fallback": "weaker"}, "fallback must be one of"),
        ({"on_error": "ignore"}, "on_error must be one of"),
        ({"router_timeout_s": 0}, "router_timeout_s"),
        ({"router": 3}, "router must be a Router"),
        ({"text": "question"}, "text= is a function"),
        (
            {"policy": RoutingPolicy(ROUTER, threshold=0.5), "threshold": 0.4},
            "policy= decides it all: give .*threshold",
        ),
        ({"policy": RoutingPolicy(ROUTER, threshold=0.5), "fallback": "any"}, "policy= decides it all: give fallback"),
        ({"policy": "default", "router": "default", "threshold": None}, "policy= is a RoutingPolicy, got str"),
        (
            {"policy": RoutingPolicy(ROUTER, routes=("a", "b"), threshold=0.5)},
            "routes between a, b, but the backends are",
        ),
    ],
)
def test_arguments_that_contradict_each_other_are_our_own_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        ChatRouteLLM(**options(**changed))
    assert type(caught.value) is ConfigurationError  # and not pydantic's wrapper around it


def test_what_the_constructor_does_not_know_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="ChatRouteLLM ignores max_tokens, temperature"):
        routed(temperature=0, max_tokens=4)


def test_a_cache_or_a_rate_limiter_of_the_router_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="ignores cache and rate_limiter: set them on its backends"):
        routed(cache=InMemoryCache(), rate_limiter=InMemoryRateLimiter())


def test_the_cache_of_a_backend_serves_and_every_hit_gets_its_own_record() -> None:
    cache, runs = InMemoryCache(), Runs()
    llm = routed(weak=fake("weak", cache=cache))
    first = llm.invoke("q").response_metadata[RECORD]
    second = llm.invoke("q", {"callbacks": [runs], "configurable": {"routellm_route": "weak"}})
    assert len(backend(llm, "weak").seen) == 1
    assert (first["reason"], second.response_metadata[RECORD]["reason"]) == ("score", "forced")
    stored = next(iter(cache._cache.values()))[0].message  # type: ignore[attr-defined]
    assert RECORD not in stored.response_metadata
    assert runs.kinds == ["chain", "llm"]


def test_disable_streaming_and_output_version_go_to_copies_of_the_backends() -> None:
    weak = fake("weak")
    llm = routed(weak=weak, disable_streaming=True)
    assert len(list(llm.stream("q"))) == 1
    assert weak.disable_streaming is False
    assert len(list(routed().stream("q"))) == 2
    assert routed(output_version="v1").invoke("q").content == [{"type": "text", "text": "fake-weak answers"}]


def test_a_copied_backend_does_not_share_the_originals_cache_key() -> None:
    openai = ChatOpenAI(model="gpt-4.1", api_key="x", output_version="v0")  # type: ignore[arg-type]
    before = openai._get_llm_string()
    assert "output_version" in before
    llm = routed(weak=openai, output_version="v1")
    assert llm._backend("weak")._get_llm_string() != before


# -- strings
async def test_a_string_becomes_a_chat_model_on_first_use_and_only_then(
    loopback: LoopbackOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    llm = routed(weak="openai:gpt-4.1-mini", strong="nonsense:model")
    assert not llm._is_made("weak")
    answer = llm.invoke("easy")
    assert answer.text == "gpt-4.1-mini answers: easy"
    assert answer.response_metadata[RECORD]["route"] == "weak"
    assert isinstance(llm._backend("weak"), ChatOpenAI)
    assert llm._backend("weak") is llm._backend("weak")
    assert not llm._is_made("strong")
    with pytest.raises(ConfigurationError, match=r"route 'strong': the backend 'nonsense:model' cannot be made"):
        await llm.ainvoke("hard")
    assert "gpt-4.1-mini answers" in (await routed(weak="openai:gpt-4.1-mini").ainvoke("easy")).text
    copied = pickled(routed(weak="openai:gpt-4.1-mini", router=ScriptedRouter(0.1)))
    assert copied.invoke("easy").text == "gpt-4.1-mini answers: easy"


def test_a_router_over_strings_pickles_even_after_use(
    loopback: LoopbackOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    llm = routed(weak="openai:gpt-4.1-mini", router=ScriptedRouter(0.1))
    llm.invoke("q")
    assert pickled(llm).invoke("q").text == "gpt-4.1-mini answers: q"
    loopback.reply = lambda body: Reply(tool_calls=(ToolCall(name="City", arguments={"name": "Oslo"}),))
    bound, structured = llm.bind_tools([City]), llm.with_structured_output(City, method="function_calling")
    for _ in range(2):  # the second time without the ChatOpenAI that the first one made
        assert bound.invoke("q").tool_calls[0]["args"] == {"name": "Oslo"}
        assert structured.invoke("q") == City(name="Oslo")
        bound, structured = pickled(bound), pickled(structured)


async def test_resolving_a_string_never_blocks_the_event_loop_and_respects_what_the_model_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []

    def slow(spec: str, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        time.sleep(0.05)
        return fake(spec, profile={"max_input_tokens": 50 if spec == "p:weak" else 1000})

    monkeypatch.setattr("langchain.chat_models.init_chat_model", slow)
    llm = routed(weak="p:weak", strong="p:strong")
    answer = await llm.ainvoke("easy " * 100)
    assert answer.response_metadata[RECORD]["reason"] == "capability"  # known only once the weak one was resolved
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    assert routed(weak="p:weak").invoke("easy " * 100).response_metadata[RECORD]["reason"] == "capability"


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_groq", None)
    with pytest.raises(MissingExtraError, match="pip install langchain-groq"):
        routed(weak="groq:llama").invoke("q")
    monkeypatch.delitem(sys.modules, "langchain.chat_models", raising=False)

    def without_langchain(name: str, *args: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("routellm_core._lazy.importlib.import_module", without_langchain)
    with pytest.raises(MissingExtraError, match=r"pip install 'routellm-integrations\[langchain\]'"):
        routed(weak="openai:gpt-4.1-mini").invoke("q")


# -- profile and identity
def test_the_profile_is_what_all_backends_can_do() -> None:
    one: Any = {"max_input_tokens": 100, "structured_output": True, "tool_calling": True, "image_inputs": True}
    other: Any = {"max_input_tokens": 50, "structured_output": False, "tool_calling": True, "name": "x"}
    llm = routed(weak=fake("a", profile=one), strong=fake("b", profile=other))
    assert llm.profile == {"max_input_tokens": 50, "structured_output": False, "tool_calling": True}
    assert routed(weak=fake("a", profile=one)).profile is None  # one unknown backend: promise nothing
    assert routed(weak="openai:gpt-4.1-mini", strong=fake("b", profile=other)).profile is None
    assert routed(
        weak=fake("a", profile=one), strong=fake("b", profile=other), profile={"max_input_tokens": 7}
    ).profile == {"max_input_tokens": 7}


def test_the_router_never_passes_for_one_of_its_backends() -> None:
    from langchain.agents.factory import _supports_provider_strategy

    llm = routed(strong=ChatOpenAI(model="gpt-4o", api_key="x"))  # type: ignore[arg-type]
    assert not any(hasattr(llm, name) for name in ("model", "model_name", "model_id"))
    assert not _supports_provider_strategy(llm)

    class Mine(ChatRouteLLM):
        pass

    assert Mine(**options())._get_ls_params()["ls_provider"] == "routellm"
    assert llm._get_ls_params(model="strong")["ls_model_name"] == "strong"
    assert llm.asdict() == {
        "_type": "routellm",
        "routes": ["weak", "strong"],
        "router": "scripted",
        "threshold": 0.5,
        "stickiness": "tool_loop",
        "router_timeout_s": None,
        "fallback": "none",
        "on_error": "strong",
    }


def test_tokens_are_counted_without_a_tokenizer_unless_one_is_given() -> None:
    llm = routed()
    assert llm.get_num_tokens("some words here") > 0
    assert llm.get_num_tokens_from_messages([HumanMessage("hi")]) > 0
    assert routed(custom_get_token_ids=lambda text: [1, 2]).get_num_tokens("x") == 2


def test_it_is_not_serializable_and_says_so() -> None:
    llm = routed()
    described = dumpd(llm)
    assert described["type"] == "not_implemented"
    with pytest.raises(NotImplementedError), pytest.warns(match="beta"):
        load(described, allowed_objects="all")
    secret = routed(weak=ChatOpenAI(model="gpt-4o", api_key="sk-secret"))  # type: ignore[arg-type]
    assert "sk-secret" not in str(dumpd(secret)) + str(dumpd(secret.bind_tools([get_weather]))) + repr(secret)


# -- copies
def test_it_pickles_and_copies_when_its_backends_do() -> None:
    for made in (pickled(routed(router=ScriptedRouter(0.9))), copy(routed()), deepcopy(routed())):
        assert made.invoke("hard").response_metadata[RECORD]["route"] == "strong"


def test_a_backend_that_cannot_be_pickled_or_copied_is_named_with_its_route() -> None:
    # ChatOpenAI itself holds a lock
    llm = routed(router=ScriptedRouter(0.9), strong=ChatOpenAI(model="gpt-4o", api_key="sk-secret"))  # type: ignore[arg-type]
    for attempt, what in ((pickled, "pickled"), (deepcopy, "copied deeply")):
        with pytest.raises(
            ConfigurationError, match=f"route 'strong'.*ChatOpenAI, cannot be {what}.*to_config"
        ) as caught:
            attempt(llm)
        assert "sk-secret" not in str(caught.value)
    assert copy(llm).invoke("q", model="weak").text == "fake-weak answers"  # a shallow copy shares it


def test_a_used_router_over_strings_is_copied_deeply_without_the_models_it_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    llm = routed(weak="openai:gpt-4.1-mini")
    assert isinstance(llm._backend("weak"), ChatOpenAI)
    structured = llm.with_structured_output(City)
    structured._on("weak", llm._backend("weak"))  # type: ignore[attr-defined]
    for made in (deepcopy(llm), llm.model_copy(deep=True), deepcopy(structured).router):
        assert made._made == {}
        assert made.models["weak"] == "openai:gpt-4.1-mini"
    assert set(llm._made) == {"weak"}


def test_a_pickled_router_with_a_running_pool_leaves_it_behind() -> None:
    llm = routed(router=ScriptedRouter(0.9), router_timeout_s=5)
    llm.invoke("q")
    assert pickled(llm).invoke("q").response_metadata[RECORD]["route"] == "strong"


def test_a_copy_with_other_settings_routes_by_them() -> None:
    llm = routed()
    other = llm.model_copy(update={"threshold": 0.95})
    assert other.invoke("hard").response_metadata[RECORD]["route"] == "weak"
    assert llm.invoke("hard").response_metadata[RECORD]["route"] == "strong"
    assert len(list(llm.model_copy(update={"disable_streaming": True}).stream("q"))) == 1


@pytest.mark.parametrize("name", ["strong", "weak", "treshold", "profil"])
def test_a_copy_with_a_field_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no field '{name}'"):
        routed().model_copy(update={name: 0.5})


def test_a_copy_with_other_backends_has_their_profile_unless_one_was_given() -> None:
    def of(limit: int) -> Any:
        return fake("x", profile={"max_input_tokens": limit})

    others = {"weak": of(7), "strong": of(9)}
    copied = routed(weak=of(1000), strong=of(2000)).model_copy(update={"models": others})
    assert copied.profile == {"max_input_tokens": 7}
    assert copied.invoke("an easy question that has more than seven tokens in it").response_metadata[RECORD]
    assert routed(profile={"max_input_tokens": 5}).model_copy(update={"models": others}).profile == {
        "max_input_tokens": 5
    }
    assert routed(weak=of(1)).model_copy(update={"models": others}).profile == {"max_input_tokens": 7}
    with pytest.raises(ConfigurationError, match="route 'weak': a backend is a chat model"):
        routed().model_copy(update={"models": {"weak": 3, "strong": of(1)}})
    with pytest.raises(ConfigurationError, match="3 routes need 2 ascending"):
        routed().model_copy(update={"models": {**others, "best": of(1)}})
    three = routed().model_copy(update={"models": {**others, "best": of(1)}, "threshold": [0.3, 0.7]})
    assert three.routing_policy.routes == ("weak", "strong", "best")


# -- what makes another runnable of it
def test_configurable_fields_build_a_router_with_the_same_parts() -> None:
    llm = routed().configurable_fields(threshold=ConfigurableField(id="t"), fallback=ConfigurableField(id="f"))
    config: Any = {"configurable": {"t": 0.99, "f": "any"}}
    assert llm.invoke("hard", config).response_metadata[RECORD]["route"] == "weak"
    assert llm.invoke("hard").response_metadata[RECORD]["route"] == "strong"
    with pytest.raises(ConfigurationError, match="threshold is a win rate"):
        llm.invoke("hard", {"configurable": {"t": 7}})


def test_a_configurable_field_is_lost_after_bind_tools_and_a_setting_of_the_call_is_not() -> None:
    llm = routed().configurable_fields(threshold=ConfigurableField(id="t"))
    bound = llm.bind_tools([get_weather])  # type: ignore[attr-defined]
    config: Any = {"configurable": {"t": 0.99}}
    assert bound.invoke("hard 'Rome'", config).response_metadata[RECORD]["route"] == "strong"  # LangChain's own trap
    config = {"configurable": {"routellm_threshold": 0.99}}
    assert bound.invoke("hard 'Rome'", config).response_metadata[RECORD]["route"] == "weak"


def test_configurable_alternatives_choose_between_a_router_and_a_plain_model() -> None:
    llm = routed().configurable_alternatives(
        ConfigurableField(id="who"), default_key="routed", plain=fake("plain"), cautious=routed(threshold=0.0)
    )
    assert llm.invoke("easy").response_metadata[RECORD]["route"] == "weak"
    assert (
        llm.with_config(configurable={"who": "cautious"}).invoke("easy").response_metadata[RECORD]["route"] == "strong"
    )
    assert RECORD not in llm.invoke("easy", {"configurable": {"who": "plain"}}).response_metadata


def test_with_config_keeps_its_settings_for_every_call() -> None:
    llm = routed().with_config(configurable={"routellm_route": "strong"}, tags=["mine"])
    runs = Runs()
    assert llm.invoke("easy", {"callbacks": [runs]}).response_metadata[RECORD]["reason"] == "forced"
    assert [start["tags"] for start in runs.starts if start["kind"] == "llm"] == [["mine"]]


def test_tools_bound_before_or_after_with_config_reach_the_backend() -> None:
    config: Any = {"routellm_route": "strong"}
    before = routed().bind_tools([get_weather]).with_config(configurable=config)
    after = routed().with_config(configurable=config).bind_tools([get_weather])
    for llm in (before, after):
        answer = llm.invoke("'Rome'")
        assert answer.tool_calls[0]["args"] == {"city": "Rome"}
        assert answer.response_metadata[RECORD]["reason"] == "forced"
    structured = routed().with_config(configurable=config).with_structured_output(City, include_raw=True)
    assert structured.invoke("'Oslo'")["raw"].response_metadata[RECORD]["reason"] == "forced"


def test_with_retry_retries_the_whole_decision_and_keeps_bound_tools() -> None:
    failing = fake("weak", error=ConnectionError())
    llm = routed(weak=failing)
    runs = Runs()
    with pytest.raises(ConnectionError):
        llm.bind_tools([get_weather]).with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke(
            "'Rome'", {"callbacks": [runs]}
        )
    assert [start["name"] for start in runs.starts].count("FakeBackend") == 2
    assert len(failing.bindings) == 1  # bound once for both
    assert not hasattr(llm.with_retry(), "bind_tools")


def test_with_fallbacks_passes_tools_on_to_the_router_and_to_what_replaces_it() -> None:
    failing = routed(weak=fake("weak", error=ConnectionError()))
    spare = fake("spare")
    answer = failing.with_fallbacks([spare]).bind_tools([get_weather]).invoke("'Rome'")  # type: ignore[attr-defined]
    assert answer.tool_calls[0]["args"] == {"city": "Rome"}
    assert RECORD not in answer.response_metadata
    works = routed().with_fallbacks([spare]).bind_tools([get_weather]).invoke("'Rome'")  # type: ignore[attr-defined]
    assert works.response_metadata[RECORD]["route"] == "weak"
    as_a_spare = fake("first", error=ConnectionError()).with_fallbacks([routed()])
    assert as_a_spare.invoke("hard").response_metadata[RECORD]["route"] == "strong"


# -- the package
def test_importing_brings_no_provider_and_no_langchain_and_defines_its_names() -> None:
    code = (
        "import sys, langchain_routellm as p;"
        "assert not [m for m in sys.modules if m.startswith('langchain_core')];"
        "p.ChatRouteLLM; bad = {'langchain', 'langgraph', 'langchain_openai', 'openai', 'transformers', 'torch'};"
        "assert not bad & set(sys.modules), bad & set(sys.modules); print(p.__version__, dir(p))"
    )
    root = Path(langchain_routellm.__file__).parent.parent
    paths = [str(root), str(Path(sys.modules["routellm_core"].__file__ or "").parent.parent)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(paths), "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{__version__} {sorted(langchain_routellm.__all__)}"
    assert "ChatRouteLLM" in langchain_routellm.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = langchain_routellm.Nothing


def test_the_documented_example_is_true() -> None:
    import doctest

    from langchain_routellm import chat_models

    assert doctest.testmod(chat_models) == (0, 9)


def test_a_router_can_be_a_backend() -> None:
    inner = routed()
    llm = routed(strong=inner)
    answer = llm.bind_tools([get_weather]).invoke("hard 'Rome'")
    assert answer.tool_calls[0]["args"] == {"city": "Rome"}
    assert answer.response_metadata["model_name"] == "fake-strong"


def test_a_misspelled_option_is_an_error_that_names_the_right_one() -> None:
    for wrong, right in (("treshold", "threshold"), ("strong_shre", "strong_share"), ("falback", "fallback")):
        with pytest.raises(ConfigurationError, match=f"no argument '{wrong}'; did you mean '{right}'"):
            routed(**{wrong: 0.1})


def test_a_misspelled_setting_of_a_call_is_an_error_not_ignored() -> None:
    with pytest.raises(ConfigurationError, match="unknown setting 'routellm_treshold'.*routellm_threshold"):
        routed().invoke("hello", {"configurable": {"routellm_treshold": 0.1}})


def test_routing_cannot_be_reassigned_because_nothing_would_follow() -> None:
    llm = routed()
    for name in ("threshold", "router", "models", "policy", "stickiness", "fallback", "on_error", "router_timeout_s"):
        with pytest.raises(ValueError, match="frozen"):
            setattr(llm, name, None)
    assert (
        llm.model_copy(update={"threshold": 0.0}).invoke("an easy one").response_metadata["routellm"]["route"]
        == "strong"
    )
