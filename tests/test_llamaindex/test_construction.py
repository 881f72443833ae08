"""Arguments, names, metadata, dumps, copies: what a RouteLLM is before anybody calls it."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import PromptTemplate, Settings
from llama_index.core.base.llms.types import LLMMetadata, MessageRole
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.llms import MockLLM
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

import llamaindex_routellm
from llamaindex_routellm import RouteLLM, _providers
from routellm_core import Budget, Calibration, RandomRouter, RoutingPolicy
from routellm_core.errors import ConfigurationError, MissingExtraError, UnknownKindError


class Out(BaseModel):
    answer: str


def fixed_text(messages: Any) -> str:
    return "Prove it"


# -- arguments
def test_two_routes_are_named_weak_and_strong_and_n_routes_by_their_keys(kit: Any):
    assert list(kit.pair().llm.models) == ["weak", "strong"]
    made = {name: kit.Fake(tag=name) for name in ("small", "mid", "large")}
    llm = RouteLLM(models=made, router=kit.ScriptedRouter(lambda text: float(text)), threshold=[0.3, 0.7])
    routes = [llm.complete(text).additional_kwargs["routellm"]["route"] for text in ("0.1", "0.3", "0.69", "0.7")]
    assert routes == ["small", "mid", "mid", "large"]


@pytest.mark.parametrize(
    ("threshold", "win_rate", "route"),
    [(0.0, 0.0, "strong"), (0.0, 1.0, "strong"), (1.0, 0.99, "weak"), (1.0, 1.0, "strong")],
)
def test_thresholds_of_zero_and_one_are_values(threshold: float, win_rate: float, route: str, kit: Any):
    record = kit.pair(win_rate, threshold=threshold).llm.complete("x").additional_kwargs["routellm"]
    assert (record["route"], record["threshold"]) == (route, threshold)


def test_a_strong_share_takes_its_threshold_from_the_routers_calibration(kit: Any):
    # the scripted router is calibrated on win rates .005, .015, ..., .995: the top fifth begins at .805
    record = kit.pair(0.79, threshold=None, strong_share=0.2).llm.complete("x").additional_kwargs["routellm"]
    assert record["route"] == "weak" and 0.79 < record["threshold"] <= 0.81


def test_a_saved_router_with_scores_takes_a_quality_floor_or_a_budget(kit: Any, tmp_path: Path):
    router = RandomRouter()
    # win rates .005, .015, ... .995; the weak model fails on the upper half only
    router.calibration = Calibration.from_win_rates(
        np.arange(0.005, 1, 0.01), strong_scores=np.ones(100), weak_scores=np.repeat([1.0, 0.0], 50)
    )
    router.save(tmp_path / "router")

    def threshold(**words: Any) -> float:
        llm = RouteLLM(strong=kit.Fake(tag="strong"), weak=kit.Fake(tag="weak"), router=tmp_path / "router", **words)
        return float(llm.policy.thresholds[0])

    # the floor of .6 is proved for fewer weak calls than the .9 of the sample that would just reach it
    assert 0.5 < threshold(quality_floor=0.6) < 0.9
    # $2 a call, a strong one costs $3 and a weak one $1: half of the calls
    assert threshold(budget=Budget(2, "call", strong_usd=3, weak_usd=1)) == pytest.approx(0.5)
    with pytest.raises(ConfigurationError, match="budget= or quality_floor=, not both"):
        threshold(quality_floor=0.6, budget=Budget(2, "call", strong_usd=3, weak_usd=1))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"strong": None}, "both strong= and weak="),
        ({"models": {"a": MockLLM(), "b": MockLLM()}}, "not both"),
        ({"strong": object()}, "route 'strong' must be a LlamaIndex LLM"),
        ({"weak": "gpt-4.1"}, "provider:model"),
        ({"weak": "openai:"}, "provider:model"),
        ({"threshold": 0.5, "strong_share": 0.5}, "not both"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"threshold": [0.1, 0.2]}, "1 ascending"),
        ({"fallback": "weaker"}, "fallback must be one of"),
        ({"stickiness": "forever"}, "stickiness must be one of"),
        ({"on_error": "ignore"}, "on_error must be one of"),
        ({"router_timeout_s": 0}, "router_timeout_s must be"),
        ({"text": "last"}, "text= is a function"),
        ({"tool_policy": "any"}, "tool_policy must be one of 'all', 'capable', got 'any'"),
        ({"context_policy": None}, "context_policy must be one of 'min', 'escalate'"),
        ({"utility_backend": "small"}, r"utility_backend= is a route \(weak, strong\), an LLM or 'provider:model'"),
        ({"utility_backend": 3}, "utility_backend= is a route, an LLM or a string, got int"),
        ({"router": 3}, "router must be a Router"),
        ({"system_prompt": "x"}, "set system_prompt on the backends"),
        ({"rate_limiter": object()}, "set rate_limiter on the backends"),
        ({"treshold": 0.3}, "no argument 'treshold'"),
    ],
)
def test_what_contradicts_itself_is_a_configuration_error_that_pydantic_does_not_wrap(
    words: dict[str, Any], says: str, kit: Any
):
    given = {"strong": kit.Fake(), "weak": kit.Fake(), "router": kit.ScriptedRouter(), **words}
    with pytest.raises(ConfigurationError, match=says) as caught:
        RouteLLM(**given)
    assert type(caught.value) is ConfigurationError


def test_a_policy_says_everything_about_routing_and_must_be_about_the_same_routes(kit: Any):
    policy = RoutingPolicy(kit.ScriptedRouter(0.9), routes=("weak", "strong"), threshold=0.95)
    assert kit.pair(policy=policy).llm.complete("x").additional_kwargs["routellm"]["route"] == "weak"
    with pytest.raises(ConfigurationError, match="policy= decides it all: give threshold"):
        kit.pair(policy=policy, threshold=0.1)
    with pytest.raises(ConfigurationError, match="routes between weak, strong"):
        RouteLLM(models={"strong": kit.Fake(), "weak": kit.Fake()}, policy=policy)
    with pytest.raises(ConfigurationError, match="RoutingPolicy, got str"):
        kit.pair(policy="cheap")


def test_routes_and_policy_cannot_be_exchanged_afterwards_because_nothing_would_follow(kit: Any):
    for name in ("models", "policy"):
        with pytest.raises(ValueError, match="frozen"):
            setattr(kit.pair().llm, name, None)


# -- strings
def test_an_unknown_provider_lists_the_known_ones_when_the_router_is_built(kit: Any):
    with pytest.raises(UnknownKindError, match=r"unknown provider 'closedai'.*anthropic.*ollama.*openai"):
        RouteLLM(strong="closedai:m", weak=kit.Fake(), router=kit.ScriptedRouter())


def test_a_missing_integration_package_is_named_when_its_route_is_first_used(kit: Any, monkeypatch: Any):
    monkeypatch.setitem(sys.modules, "llama_index.llms.mistralai", None)  # as if it were not installed
    llm = RouteLLM(
        strong="mistralai:large", weak=kit.Fake(tag="weak"), router=kit.ScriptedRouter(kit.by_word), threshold=0.5
    )
    assert llm.complete(kit.EASY).text.startswith("weak")
    with pytest.raises(MissingExtraError, match="pip install llama-index-llms-mistralai"):
        llm.complete(kit.HARD)


def test_a_package_that_breaks_inside_is_not_reported_as_missing(monkeypatch: Any):
    monkeypatch.setitem(_providers.PROVIDERS.table, "broken", "routellm_core.no_such_module:X")
    monkeypatch.setattr("importlib.import_module", lambda name: exec("import a_dependency_of_it"))
    with pytest.raises(ModuleNotFoundError, match="a_dependency_of_it") as caught:
        _providers.make_llm("broken:m")
    assert not isinstance(caught.value, MissingExtraError)


def test_a_string_is_resolved_once_and_told_what_the_router_was_told_before(kit: Any, monkeypatch: Any):
    built: list[Any] = []

    def make(spec: str) -> Any:
        built.append(kit.Fake(tag=spec))
        return built[-1]

    monkeypatch.setattr("llamaindex_routellm._backends.make_llm", make)
    llm = RouteLLM(strong="openai:big", weak=kit.Fake(), router=kit.ScriptedRouter(0.9), threshold=0.5)
    assert built == []
    _, llm.callback_manager = kit.debug()
    llm.complete("x")
    llm.complete("x")
    assert len(built) == 1 and built[0].callback_manager is llm.callback_manager
    assert llm.models["strong"] == "openai:big"


async def test_a_string_is_not_resolved_on_the_event_loop(kit: Any, monkeypatch: Any):
    import threading

    where: list[str] = []

    def make(spec: str) -> Any:
        where.append(threading.current_thread().name)
        return kit.Fake(tag=spec)

    monkeypatch.setattr("llamaindex_routellm._backends.make_llm", make)
    llm = RouteLLM(strong="openai:big", weak="openai:small", router=kit.ScriptedRouter(0.9), threshold=0.5)
    await llm.acomplete("x")
    await llm.achat_with_tools([kit.ADD], user_msg="x")
    assert len(where) == 2 and threading.main_thread().name not in where


def test_openai_without_a_base_url_is_the_openai_integration(monkeypatch: Any):
    pytest.importorskip("llama_index.llms.openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    llm = _providers.make_llm("openai:gpt-4.1-mini")
    assert (llm.class_name(), llm.metadata.model_name) == ("openai_llm", "gpt-4.1-mini")


def test_openai_with_a_base_url_is_a_chat_model_that_can_call_tools(monkeypatch: Any):
    pytest.importorskip("llama_index.llms.openai_like")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    llm = _providers.make_llm("openai:my-own")
    assert llm.api_base == "http://127.0.0.1:1/v1"
    assert llm.metadata.is_chat_model and llm.metadata.is_function_calling_model
    assert llm.metadata.context_window == 32_768
    assert _providers.make_llm("openai:gpt-4.1-mini").metadata.context_window > 1_000_000


# -- metadata
def test_metadata_is_what_holds_for_every_backend(kit: Any):
    small = kit.Fake(tag="a", window=4096, out=256, can_call=False)
    metadata = RouteLLM(
        weak=small, strong=kit.Fake(tag="b", window=128_000, out=16_384), router=kit.ScriptedRouter()
    ).metadata
    assert (metadata.context_window, metadata.num_output) == (4096, 256)
    assert metadata.is_chat_model and not metadata.is_function_calling_model
    assert metadata.model_name == "routellm(fake-a|fake-b)"
    assert PromptHelper.from_llm_metadata(metadata).repack(PromptTemplate("{context_str}"), ["x"]) == ["x"]


def test_the_room_for_a_prompt_is_what_the_tightest_backend_leaves(kit: Any):
    # 8192 - 4096 = 4096 is tighter than 8192 - 256, and an output of -1 counts as 256
    for out, room in ((4096, 4096), (-1, 8192 - 256)):
        metadata = kit.pair(weak=kit.Fake(window=8192, out=256), strong=kit.Fake(window=8192, out=out)).llm.metadata
        assert metadata.context_window - metadata.num_output == room


def test_metadata_is_never_read_while_a_router_is_built(kit: Any):
    class Asks(kit.Fake):
        @property
        def metadata(self) -> LLMMetadata:
            raise AssertionError("a server was asked")

    llm = kit.pair(strong=Asks(), weak=Asks(), callback_manager=CallbackManager([])).llm
    assert repr(llm) and llm.to_dict()
    with pytest.raises(AssertionError, match="a server was asked"):
        _ = llm.metadata


def test_the_system_role_is_translated_for_the_backend_that_differs(kit: Any):
    made = kit.pair(strong=kit.Fake(tag="strong", role=MessageRole.DEVELOPER))
    assert made.llm.metadata.system_role == MessageRole.SYSTEM
    sent = [kit.user("be brief").model_copy(update={"role": MessageRole.SYSTEM}), kit.user(kit.HARD)]
    made.llm.chat(sent)
    made.llm.chat([sent[0], kit.user(kit.EASY)])
    assert made.strong._calls[0][1][0].role == MessageRole.DEVELOPER
    assert made.weak._calls[0][1][0].role == MessageRole.SYSTEM and sent[0].role == MessageRole.SYSTEM


def test_a_completion_model_can_be_a_backend(kit: Any):
    llm = kit.pair(weak=MockLLM()).llm
    assert llm.metadata.is_chat_model and kit.EASY in llm.chat([kit.user(kit.EASY)]).message.content


# -- callbacks
def test_a_callback_manager_reaches_the_backends_when_it_is_given_or_assigned(kit: Any):
    made = kit.pair()
    made.llm.callback_manager = manager = CallbackManager([])
    assert made.strong.callback_manager is manager and made.weak.callback_manager is manager
    given = kit.pair(callback_manager=manager)
    assert given.strong.callback_manager is manager and given.llm.callback_manager is manager
    own = kit.Fake(callback_manager=manager)
    kit.pair(strong=own)
    assert own.callback_manager is manager  # nothing given, nothing overwritten


def test_what_settings_assign_reaches_the_backends(kit: Any, monkeypatch: Any):
    made, manager = kit.pair(), CallbackManager([])
    monkeypatch.setattr(Settings, "_llm", made.llm)
    monkeypatch.setattr(Settings, "_callback_manager", manager)
    assert Settings.llm is made.llm and made.strong.callback_manager is manager
    Settings.pydantic_program_mode = PydanticProgramMode.LLM
    assert made.weak.pydantic_program_mode == PydanticProgramMode.LLM


# -- dumps and copies
def test_a_dump_holds_settings_and_no_backend_and_restores_with_them(kit: Any):
    made = kit.pair(threshold=0.25, fallback="any", on_error="weak", stickiness="none", router_timeout_s=2.0)
    dump = made.llm.to_dict()
    assert dump == {
        "class_name": "RouteLLM",
        "router": "scripted",
        "threshold": 0.25,
        "stickiness": "none",
        "fallback": "any",
        "on_error": "weak",
        "router_timeout_s": 2.0,
        "tool_policy": "all",
        "context_policy": "min",
        "normalize_history": True,
    }
    again = RouteLLM.from_dict(dump, models=made.llm.models, router=made.router)
    assert again.to_dict() == dump and json.loads(made.llm.to_json()) == dump
    with pytest.raises(ConfigurationError, match="models="):
        RouteLLM.from_dict(dump)


def test_no_dump_payload_or_repr_holds_a_key(kit: Any):
    made = kit.pair(strong=kit.Fake(tag="strong", api_key="sk-secret"))
    for llm in (made.llm, kit.pair(strong=made.llm).llm, made.llm.as_structured_llm(Out)):
        shown = [repr(llm), str(llm), llm.to_json(), llm.model_dump_json(), repr(llm.model_dump())]
        if hasattr(llm, "to_payload"):  # upstream's own have it from llama-index-core 0.14.23 on
            shown.append(json.dumps(llm.to_payload(), default=str))
        assert not [text for text in shown if "sk-" in text]
    assert "fake-strong" in repr(made.llm.to_payload())
    assert "'strong': 'Fake'" in repr(made.llm) and "thresholds=(0.5,)" in repr(made.llm)
    assert "sk-secret" in made.strong.to_json()  # the backend's own dump would have held it


def test_copies_and_pickles_route_alike(kit: Any):
    made = kit.pair(kit.ScriptedRouter(0.9), text=fixed_text, router_timeout_s=30)
    made.llm.complete("x")  # a used one, with its threads running
    pickled = pickle.loads(pickle.dumps(made.llm))  # noqa: S301 - our own object, dumped in this line
    for other in (copy.deepcopy(made.llm), pickled, made.llm.model_copy()):
        assert other.complete("x").additional_kwargs["routellm"]["route"] == "strong"
        assert other.to_dict() == made.llm.to_dict() and other.text is fixed_text
    deep = copy.deepcopy(made.llm)
    assert deep.models["strong"] is not made.strong and deep.policy.router is not made.router


def test_what_cannot_be_pickled_fails_when_it_is_dumped(kit: Any):
    with pytest.raises(Exception, match="pickle"):
        pickle.dumps(kit.pair(text=lambda messages: "x").llm)


# -- the package
def test_every_public_name_is_there_and_nothing_loads_before_it_is_used():
    assert set(llamaindex_routellm.__all__) <= set(dir(llamaindex_routellm))
    for name in llamaindex_routellm.__all__:
        assert getattr(llamaindex_routellm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'RouteLlm'"):
        _ = llamaindex_routellm.RouteLlm
    code = (
        "import sys, llamaindex_routellm as p; assert p.__version__; print('llama_index.core' in sys.modules);"
        "p.RouteLLM; print([m for m in ('openai', 'torch', 'langchain_core') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


def test_without_llama_index_core_the_extra_is_named(monkeypatch: Any):
    monkeypatch.setitem(sys.modules, "llama_index.core", None)
    monkeypatch.delitem(vars(llamaindex_routellm), "pinned", raising=False)
    with pytest.raises(MissingExtraError, match=r"routellm-integrations\[llama-index\]"):
        _ = llamaindex_routellm.pinned


def test_a_copy_follows_its_updated_models_and_policy(kit: Any):
    made = kit.pair(kit.ScriptedRouter(0.9))
    other = kit.pair(kit.ScriptedRouter(0.9))
    copied = made.llm.model_copy(update={"models": other.llm.models})
    copied.complete("anything")
    assert other.strong.calls if hasattr(other.strong, "calls") else other.strong._calls
    weak = made.llm.model_copy(update={"policy": RoutingPolicy(kit.ScriptedRouter(0.9), threshold=0.95)})
    assert weak.complete("anything").additional_kwargs["routellm"]["route"] == "weak"
    assert made.llm.complete("anything").additional_kwargs["routellm"]["route"] == "strong"
