"""Copies, pickles and subclasses of a router, and what is assigned to one later."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.types import PydanticProgramMode
from pydantic import Field

from llamaindex_routellm import RouteLLM, _backends
from routellm_core.errors import ConfigurationError
from routellm_core.testing import ScriptedRouter


class TeamLLM(RouteLLM):
    team: str
    tags: list[str] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "TeamLLM"


class NamedLLM(RouteLLM):
    label: str = ""

    def __init__(self, label: str, **words: Any) -> None:
        super().__init__(**words)
        self.label = label


def words() -> dict[str, Any]:
    return {"strong": MockLLM(), "weak": MockLLM(), "router": ScriptedRouter(0.1), "threshold": 0.5}


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda llm: llm.model_copy(),
    "deep model_copy": lambda llm: llm.model_copy(deep=True),
    "pickle": lambda llm: pickle.loads(pickle.dumps(llm)),  # noqa: S301 - our own bytes
}


@pytest.fixture(params=list(COPIES))
def copied(request: Any) -> Callable[[Any], Any]:
    return COPIES[request.param]


def test_a_subclass_with_fields_of_its_own_keeps_them(copied: Any) -> None:
    llm = copied(TeamLLM(**words(), team="search", tags=["a"]))

    assert (type(llm), llm.team, llm.tags) == (TeamLLM, "search", ["a"])
    assert llm.complete("hi").additional_kwargs["routellm"]["route"] == "weak"


def test_a_dump_of_a_subclass_holds_its_fields_and_restores_them() -> None:
    llm = TeamLLM(**words(), team="search", tags=["a"])
    dump = llm.to_dict()

    made = TeamLLM.from_dict(dump, **{name: words()[name] for name in ("strong", "weak", "router")})

    assert (dump["team"], dump["class_name"], "models" in dump) == ("search", "TeamLLM", False)
    assert (made.team, made.tags, made.policy.thresholds) == ("search", ["a"], (0.5,))


def test_a_subclass_that_is_made_in_another_way_keeps_its_fields(copied: Any) -> None:
    llm = copied(NamedLLM("eu", **words()))

    assert (type(llm), llm.label) == (NamedLLM, "eu")


def test_a_subclass_is_told_of_arguments_that_nobody_knows() -> None:
    with pytest.raises(ConfigurationError, match="no argument 'taem'"):
        TeamLLM(**words(), team="search", taem="x")


@pytest.mark.parametrize("view", ["utility", "rewriting"])
def test_a_utility_view_stays_one(view: str, copied: Any) -> None:
    llm = copied(getattr(RouteLLM(**words(), utility_backend="strong"), view))

    record = llm.complete("hi").additional_kwargs["routellm"]
    assert (record["route"], record["reason"]) == ("strong", "forced")


def test_a_backends_own_program_mode_survives_copies(copied: Any) -> None:
    weak = MockLLM(pydantic_program_mode=PydanticProgramMode.LLM)
    llm = RouteLLM(**{**words(), "weak": weak})

    assert copied(llm).models["weak"].pydantic_program_mode == PydanticProgramMode.LLM
    assert weak.pydantic_program_mode == PydanticProgramMode.LLM


def test_a_program_mode_that_was_assigned_travels_with_copies(copied: Any) -> None:
    llm = RouteLLM(**words())
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION

    made = copied(llm)

    assert made.pydantic_program_mode == PydanticProgramMode.FUNCTION
    assert made.models["weak"].pydantic_program_mode == PydanticProgramMode.FUNCTION


@pytest.mark.parametrize("deep", [False, True])
def test_a_copy_routes_by_what_was_updated(deep: bool, kit: Any) -> None:
    p = kit.pair()
    others = {"weak": kit.Fake(tag="small"), "strong": kit.Fake(tag="large")}

    made = p.llm.model_copy(update={"models": others}, deep=deep)

    assert (made.complete(kit.EASY).text, made.complete(kit.HARD).text) == ("small answer here", "large answer here")
    assert p.llm.complete(kit.EASY).text == "weak answer here"


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"tool_policy": "any"}, "tool_policy must be one of"),
        ({"models": {"weak": 3, "strong": 4}}, "must be a LlamaIndex LLM"),
        ({"models": {"a": "openai:x", "b": "openai:y"}}, "the backends are a, b"),
        ({"system_prompt": "be brief"}, "set system_prompt on the backends"),
        ({"text": "question"}, "text= is a function"),
    ],
)
def test_a_copy_is_checked_like_what_is_made_anew(update: dict[str, Any], message: str, kit: Any) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kit.pair().llm.model_copy(update=update)


def test_a_copy_tells_backends_that_are_made_later_what_was_assigned(kit: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(_backends, "make_llm", lambda spec: kit.Fake(tag=spec))
    llm = kit.pair(weak="openai:x").llm
    llm.callback_manager = manager = CallbackManager([])

    made = llm.model_copy()

    assert made.complete(kit.EASY).text == "openai:x answer here"
    assert made._backends["weak"].callback_manager is made.callback_manager is manager


def test_a_setting_of_the_backends_is_refused_when_it_is_assigned_too(kit: Any) -> None:
    llm = kit.pair().llm

    with pytest.raises(ConfigurationError, match="set system_prompt on the backends"):
        llm.system_prompt = "be brief"
    with pytest.raises(ConfigurationError, match="text= is a function"):
        llm.text = "question"
    llm.system_prompt = None
    llm.text = lambda messages: kit.HARD

    assert llm.chat([kit.user(kit.EASY)]).additional_kwargs["routellm"]["route"] == "strong"
