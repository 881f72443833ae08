"""Shared fixtures. Sockets are closed by default; `loopback` opens 127.0.0.1 for the tests that use it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_socket

pytest.register_assert_rewrite(
    "routellm_core.testing", "llamaindex_routellm.testing", "llamaindex_routellm._contract_tools"
)

from routellm_core.testing import LoopbackOpenAI  # noqa: E402 - the line above must come first

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def loopback(socket_enabled: None) -> Iterator[LoopbackOpenAI]:
    """A running OpenAI-protocol endpoint; connections to any other host are refused."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"])
    try:
        with LoopbackOpenAI() as server:
            yield server
    finally:
        pytest_socket._remove_restrictions()


@pytest.fixture(scope="session", autouse=True)
def _no_implicit_event_loop() -> None:
    """After one run, asyncio makes no loop unasked; LlamaIndex would leave such a one open, which is a warning."""
    asyncio.run(asyncio.sleep(0))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The project's data, from ROUTELLM_DATA or beside the repository; the test skips without it."""
    folder = Path(os.environ.get("ROUTELLM_DATA") or ROOT / ".." / "shared" / "data").resolve()
    if not (folder / "eval").is_dir():
        pytest.skip(f"no data in {folder}; set ROUTELLM_DATA")
    return folder
