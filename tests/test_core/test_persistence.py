"""Files: whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from routellm_core import RandomRouter, load_router, persistence
from routellm_core.errors import ConfigurationError, RouterFormatError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    persistence.write_bytes(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        persistence.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_files_get_the_usual_permissions_not_those_of_temporary_ones(tmp_path):
    persistence.write_bytes(tmp_path / "file", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    RandomRouter().save(tmp_path / "router")
    os.mkdir(tmp_path / "folder")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "router").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_a_save_that_fails_leaves_the_previous_router(tmp_path, monkeypatch):
    RandomRouter(seed=1).save(tmp_path / "router")
    monkeypatch.setattr(persistence, "format_tensors", lambda tensors: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        RandomRouter(seed=2).save(tmp_path / "router")
    assert load_router(tmp_path / "router").seed == 1
    assert os.listdir(tmp_path) == ["router"]


@pytest.mark.parametrize("moment", ["fill", "between"])
def test_a_process_killed_while_saving_leaves_a_whole_router_or_says_where_it_is(tmp_path, moment):
    RandomRouter(seed=1).save(tmp_path / "router")
    code = textwrap.dedent(f"""
        import os, signal
        from routellm_core import RandomRouter, persistence
        real = os.rename
        def rename(source, target):
            if {moment!r} == "fill" or not str(target).endswith(".replaced"):
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
        os.rename = rename
        RandomRouter(seed=2).save({str(tmp_path / "router")!r})
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    if moment == "fill":
        assert load_router(tmp_path / "router").seed == 1
    else:
        with pytest.raises(RouterFormatError, match="rename it back") as caught:
            persistence.read_config(tmp_path / "router")
        os.rename(tmp_path / "router.replaced", tmp_path / "router")
        assert "router.replaced" in str(caught.value)
        assert load_router(tmp_path / "router").seed == 1
    RandomRouter(seed=3).save(tmp_path / "router")
    assert load_router(tmp_path / "router").seed == 3


@pytest.mark.parametrize(
    "make", [lambda p: p.write_text("x"), lambda p: (p.mkdir(), (p / "thesis.tex").write_text("x"))]
)
def test_something_else_at_the_target_is_never_overwritten(tmp_path, make):
    make(tmp_path / "taken")
    with pytest.raises(ConfigurationError, match="does not hold a saved router"):
        RandomRouter().save(tmp_path / "taken")


def test_equal_content_is_equal_bytes(tmp_path):
    for name in ("a", "b"):
        RandomRouter(seed=5).save(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_nan_does_not_get_into_a_config(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        persistence.write_config(tmp_path, {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.array([1, 2], dtype=np.int8)}
    sha = persistence.write_tensors(tmp_path, tensors)
    back = persistence.read_tensors(tmp_path, sha)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_a_digest_tells_apart_what_joining_would_not():
    assert persistence.digest_of("ab", "c") != persistence.digest_of("a", "bc")
    assert persistence.digest_of("a") == persistence.digest_of(b"a")


def test_a_saved_router_says_in_its_config_what_it_is(tmp_path):
    RandomRouter(seed=9).save(tmp_path / "router")
    config = json.loads((tmp_path / "router" / "config.json").read_text())
    assert (config["format"], config["kind"], config["settings"]) == (1, "random", {"seed": 9})
    assert list(config["calibration"]["thresholds"])[0] == "0.05"
    assert len(config["calibration"]["thresholds"]) == 19
