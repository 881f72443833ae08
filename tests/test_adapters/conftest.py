"""Every test here runs once for each adapter."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_socket

from routellm_core.testing import LoopbackOpenAI
from tests.test_adapters.drivers import Driver

_SERVERS: list[LoopbackOpenAI] = []
_MADE: dict[str, Driver] = {}
_NEEDS = {
    "langchain": ("langchain_openai", "LangChainDriver"),
    "llamaindex": ("llama_index.llms.openai_like", "LlamaIndexDriver"),
}


def driver_of(adapter: str) -> Driver:
    needed, cls = _NEEDS[adapter]
    pytest.importorskip(needed)
    if adapter not in _MADE:
        _MADE[adapter] = getattr(importlib.import_module(f"tests.test_adapters.{adapter}_driver"), cls)()
    return _MADE[adapter]


@pytest.fixture(params=list(_NEEDS))
def driver(request: Any) -> Driver:
    """One adapter, then the other."""
    return driver_of(request.param)


@pytest.fixture
def drivers() -> list[Driver]:
    """Both at once."""
    return [driver_of(adapter) for adapter in _NEEDS]


@pytest.fixture
def loopback(socket_enabled: None) -> Iterator[LoopbackOpenAI]:
    """As the fixture of that name everywhere, but one server for all tests: to start and stop it takes longer."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"])
    if not _SERVERS:
        _SERVERS.append(LoopbackOpenAI().__enter__())
    try:
        yield _SERVERS[0]
    finally:
        _SERVERS[0].reset()
        pytest_socket._remove_restrictions()


@pytest.fixture(scope="session", autouse=True)
def _close_all() -> Iterator[None]:
    yield
    while _SERVERS:
        _SERVERS.pop().__exit__(None, None, None)
    for made in _MADE.values():
        asyncio.run(made.close())
    _MADE.clear()
