"""LangChain's own standard suites. They prove the plumbing, not the routing: they pass with one backend unused."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_routellm import ChatRouteLLM
from routellm_core.testing import ScriptedRouter
from tests.test_langchain.fakes import by_words, fake

# the suites pass temperature and the like to the constructor, and use beta features of langchain-core
pytestmark = [pytest.mark.filterwarnings("ignore:ChatRouteLLM ignores"), pytest.mark.filterwarnings("ignore:.*beta")]


class _Suite:
    @property
    def chat_model_class(self) -> type[ChatRouteLLM]:
        return ChatRouteLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"weak": fake("weak"), "strong": fake("strong"), "router": ScriptedRouter(by_words), "threshold": 0.5}


class TestStandardUnit(_Suite, ChatModelUnitTests):
    pass


class TestStandardIntegration(_Suite, ChatModelIntegrationTests):
    @property
    def model_override_value(self) -> str:
        return "strong"  # `model=` names a route

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True
