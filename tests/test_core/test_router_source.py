"""A router knows what it can be loaded from again."""

from __future__ import annotations

from pathlib import Path

import pytest

from routellm_core import RoutingPolicy, load_router
from routellm_core.testing import ScriptedRouter


def test_a_named_router_is_loaded_by_that_name_even_beside_a_folder_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert load_router("default").source == "default"
    assert load_router("random").source == "random"
    assert RoutingPolicy("router-random-0.5").router.source == "random"


def test_a_folder_is_kept_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load_router("random").save("mine")
    load_router("random").save("random")
    for source in ("mine", Path("mine"), tmp_path / "mine"):
        assert load_router(source).source == str(tmp_path / "mine")
    assert load_router("random").source == str(tmp_path / "random")  # a folder of that name comes first


def test_a_router_in_memory_has_none_until_it_is_saved(tmp_path: Path) -> None:
    assert ScriptedRouter(0.5).source is None
    router = load_router("random")
    router.save(tmp_path / "mine")
    assert router.source == str(tmp_path / "mine")
