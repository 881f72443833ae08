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
from routellm_core.errors import ConfigurationError, RouterFormatError, UnknownKindError


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
    monkeypatch.setattr(persistence, "save_tensors", lambda tensors, path: (_ for _ in ()).throw(OSError("disk full")))
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


def test_a_config_json_of_somebody_else_protects_its_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model" / "weights.bin").write_text("precious")
    with pytest.raises(ConfigurationError, match="does not hold a saved router"):
        RandomRouter().save(tmp_path / "model")
    assert (tmp_path / "model" / "weights.bin").read_text() == "precious"


def test_files_that_are_no_part_of_the_router_stay(tmp_path):
    RandomRouter(seed=1).save(tmp_path / "router")
    (tmp_path / "router" / "README.md").write_text("my notes")
    (tmp_path / "router" / "more").mkdir()
    (tmp_path / "router" / "more" / "x").write_text("x")
    RandomRouter(seed=2).save(tmp_path / "router")
    assert load_router(tmp_path / "router").seed == 2
    assert (tmp_path / "router" / "README.md").read_text() == "my notes"
    assert (tmp_path / "router" / "more" / "x").read_text() == "x"


def test_saving_through_a_link_saves_where_it_points(tmp_path):
    RandomRouter(seed=1).save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    RandomRouter(seed=2).save(tmp_path / "link")
    assert load_router(tmp_path / "real").seed == 2
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_saving_does_not_touch_the_processs_umask(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is everybody's"))
    RandomRouter().save(tmp_path / "router")


@pytest.mark.parametrize("path", ["a\0b", "file/below"])
def test_a_path_that_cannot_be_a_folder_is_a_configuration_error(tmp_path, path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="cannot be a folder"):
        RandomRouter().save(str(tmp_path) + "/" + path)


def test_a_router_whose_encoder_files_moved_or_changed_says_so(static_folder, tmp_path, monkeypatch):
    import shutil

    from routellm_core import DifficultyRouter
    from routellm_core.encoders import StaticEncoder

    copied = shutil.copytree(static_folder, tmp_path / "static")
    encoder = StaticEncoder(copied)
    router = DifficultyRouter(encoder=encoder, weights=np.zeros(encoder.dim))
    monkeypatch.chdir(tmp_path)
    router.save("relative")
    loaded = load_router("relative")
    monkeypatch.chdir("/")
    loaded.save(tmp_path / "again")
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(RouterFormatError, match="has changed"):
        router.save(tmp_path / "third")
    shutil.rmtree(copied)
    with pytest.raises(RouterFormatError, match="is gone"):
        router.save(tmp_path / "third")
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 1, "kind": "random", "settings": {"seed": Infinity}}',
        '{"format": true}',
        '{"format": 1, "kind": "difficulty"}',
    ],
)
def test_a_hostile_config_is_a_format_error(tmp_path, text):
    RandomRouter().save(tmp_path / "r")
    (tmp_path / "r" / "config.json").write_text(text)
    with pytest.raises(RouterFormatError):
        load_router(tmp_path / "r")


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b"])
def test_a_name_that_is_no_path_is_an_unknown_router(name):
    with pytest.raises(UnknownKindError):
        load_router(name)


def test_any_integer_is_a_seed():
    assert 0 <= RandomRouter(seed=10**90).win_rate(["x"])[0] < 1


def test_a_save_clears_up_what_a_killed_one_left(tmp_path):
    folder = tmp_path / "router"
    RandomRouter().save(folder)
    (folder / "NOTES.txt").write_text("mine")
    folder.rename(tmp_path / "router.replaced")  # killed between the two renames
    (tmp_path / ".router.0123abcd").mkdir()  # killed while writing
    (tmp_path / ".router.theirs").mkdir()  # no name of ours
    RandomRouter(seed=3).save(folder)
    assert (folder / "NOTES.txt").read_text() == "mine"
    assert load_router(folder).seed == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".router.theirs", "router"]


# -- where somebody stands
def test_a_save_into_the_empty_folder_one_stands_in_leaves_one_there(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    RandomRouter(seed=4).save(".")
    assert sorted(os.listdir()) == ["config.json", "model.safetensors"]  # not of a folder that is gone
    assert load_router(".").seed == 4
    assert os.listdir(tmp_path) == ["mine"]


def test_the_router_one_stands_in_is_not_replaced_and_the_message_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "mine" / "below").mkdir(parents=True)
    RandomRouter(seed=4).save(tmp_path / "router")
    (tmp_path / "router" / "below").mkdir()
    for place in ("router", "router/below"):
        monkeypatch.chdir(tmp_path / place)
        with pytest.raises(ConfigurationError, match=r"this program runs in it: change to another folder \(cd \.\.\)"):
            RandomRouter(seed=5).save(tmp_path / "router")
    monkeypatch.chdir(tmp_path)
    assert load_router("router").seed == 4
    RandomRouter(seed=5).save("router")
    assert load_router("router").seed == 5


def test_a_mounted_disk_takes_a_first_router_and_says_why_no_second(tmp_path, monkeypatch):
    # a mounted folder cannot be renamed
    disk = tmp_path / "disk"
    disk.mkdir()
    real = os.rename
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(disk))
    monkeypatch.setattr(
        os,
        "rename",
        lambda a, b: pytest.fail("device or resource busy") if disk in (a, b) else real(a, b),
    )
    RandomRouter(seed=1).save(disk)
    assert load_router(disk).seed == 1
    with pytest.raises(ConfigurationError, match="a disk is mounted there: give another path"):
        RandomRouter(seed=2).save(disk)
    assert load_router(disk).seed == 1


def test_a_save_into_an_empty_folder_that_fails_leaves_it_empty(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    real = os.rename

    def rename(source, target):
        if str(target).endswith("config.json"):
            raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="disk full"):
        RandomRouter().save(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == []


@pytest.mark.parametrize("after", range(3))
def test_a_process_killed_while_it_fills_an_empty_folder_leaves_a_whole_router_or_none(tmp_path, after):
    # renames: the tensors, then config.json; after both only the temporary folder is left to go
    (tmp_path / "mine").mkdir()
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from routellm_core import RandomRouter
        real, n = os.rename, 0
        def rename(source, target):
            global n
            if n == {after}:
                os.kill(os.getpid(), signal.SIGKILL)
            n += 1
            real(source, target)
        os.rename = rename
        gone = Path.rmdir
        Path.rmdir = lambda self: os.kill(os.getpid(), signal.SIGKILL) if self.name[0] == "." else gone(self)
        RandomRouter(seed=2).save({str(tmp_path / "mine")!r})
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    if after == 2:
        assert load_router(tmp_path / "mine").seed == 2
    else:
        with pytest.raises(RouterFormatError, match="nothing to load"):
            load_router(tmp_path / "mine")
    RandomRouter(seed=3).save(tmp_path / "mine")
    assert load_router(tmp_path / "mine").seed == 3
    assert sorted(os.listdir(tmp_path / "mine")) == ["config.json", "model.safetensors"]
