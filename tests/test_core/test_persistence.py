"""Files: whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from routellm_core import RandomRouter, folders, load_router, persistence
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
            load_router(tmp_path / "router")
        os.rename(tmp_path / ".router.replaced", tmp_path / "router")
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
    folder.rename(tmp_path / ".router.replaced")  # killed between the two renames
    (tmp_path / ".router.0123abcd.unfinished").mkdir()  # killed while writing
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


# -- what is somebody's own
def test_folders_that_only_look_like_those_of_a_killed_save_stay(tmp_path):
    beside = [".router.20261122", "router.replaced"]  # a copy by its date, and an older router put aside
    for name in beside:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    RandomRouter(seed=8).save(tmp_path / "kept" / "router.replaced")
    for seed in (1, 2):
        RandomRouter(seed=seed).save(tmp_path / "router")
        RandomRouter(seed=seed).save(tmp_path / "kept" / "router")
        (tmp_path / "router" / ".router.20261122").mkdir(exist_ok=True)
    assert [(tmp_path / name / "notes.txt").read_text() for name in beside] == ["mine", "mine"]
    assert (tmp_path / "router" / ".router.20261122").is_dir()
    assert load_router(tmp_path / "kept" / "router.replaced").seed == 8


@pytest.mark.parametrize("there", ["a file", "a link", "a verifier", "notes", "a router, and the folder empty"])
def test_what_lies_where_the_previous_router_is_put_is_neither_replaced_nor_removed(tmp_path, there):
    aside = tmp_path / ".router.replaced"
    if there == "a file":
        aside.write_text("mine")
    elif there == "a link":
        RandomRouter().save(tmp_path / "linked")
        aside.symlink_to(tmp_path / "linked")
    else:
        RandomRouter().save(aside)
        config = json.loads((aside / "config.json").read_text())
        if there == "a verifier":
            (aside / "config.json").write_text(json.dumps({**config, "part": "verifier"}))
        elif there == "notes":
            (aside / "config.json").unlink()
        else:
            (tmp_path / "router").mkdir()
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(ConfigurationError, match=r"\.router\.replaced is in the way"):
        RandomRouter().save(tmp_path / "router")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_folders_called_files_and_encoder_of_a_router_that_has_none_stay(tmp_path):
    RandomRouter(seed=1).save(tmp_path / "router")
    for name in ("files", "encoder"):
        (tmp_path / "router" / name).mkdir()
        (tmp_path / "router" / name / "labels.csv").write_text("mine")
    RandomRouter(seed=2).save(tmp_path / "router")
    assert load_router(tmp_path / "router").seed == 2
    assert [(tmp_path / "router" / name / "labels.csv").read_text() for name in ("files", "encoder")] == ["mine"] * 2


class WithFile(RandomRouter):
    """Beside its tensors it keeps a file."""

    file = "weights.bin"

    def save_files(self, folder):
        (folder / self.file).write_text("ours")


def test_a_file_among_those_of_the_router_stays_and_the_routers_own_go(tmp_path):
    WithFile().save(tmp_path / "router")
    (tmp_path / "router" / "files" / "below").mkdir()
    (tmp_path / "router" / "files" / "below" / "labels.csv").write_text("mine")
    RandomRouter(seed=2).save(tmp_path / "router")
    assert sorted(p.name for p in (tmp_path / "router").rglob("*") if p.is_file()) == [
        "config.json",
        "labels.csv",
        "model.safetensors",
    ]


def test_a_router_with_a_file_of_the_name_of_somebody_elses_is_not_saved_over_it(tmp_path):
    RandomRouter(seed=1).save(tmp_path / "router")
    (tmp_path / "router" / "files").mkdir()
    (tmp_path / "router" / "files" / "weights.bin").write_text("mine")
    with pytest.raises(ConfigurationError, match="files is no part of what is saved there, but in its way"):
        WithFile().save(tmp_path / "router")
    assert (tmp_path / "router" / "files" / "weights.bin").read_text() == "mine"
    assert os.listdir(tmp_path) == ["router"]


def test_a_log_that_is_being_written_in_the_folder_goes_on(tmp_path):
    RandomRouter(seed=1).save(tmp_path / "router")
    with (tmp_path / "router" / "calls.jsonl").open("a") as log:
        print("before", file=log, flush=True)
        RandomRouter(seed=2).save(tmp_path / "router")
        print("after", file=log)
    assert (tmp_path / "router" / "calls.jsonl").read_text() == "before\nafter\n"


def test_without_links_the_other_files_are_copied_and_a_mounted_disk_is_left_alone(tmp_path, monkeypatch):
    RandomRouter(seed=1).save(tmp_path / "router")
    (tmp_path / "router" / "data").mkdir()
    (tmp_path / "router" / "data" / "x").write_text("mine")
    failure = OSError(errno.EPERM, "no links here")

    def link(source, target):
        raise failure

    monkeypatch.setattr(os, "link", link)
    RandomRouter(seed=2).save(tmp_path / "router")
    assert (tmp_path / "router" / "data" / "x").read_text() == "mine"
    failure = OSError(errno.EXDEV, "another disk")  # removing the old folder would remove what is on the disk
    with pytest.raises(ConfigurationError, match=r"a disk is mounted at .*router.data.x or above"):
        RandomRouter(seed=3).save(tmp_path / "router")
    assert load_router(tmp_path / "router").seed == 2
    assert os.listdir(tmp_path) == ["router"]


@pytest.mark.parametrize("first", ["nothing", "an empty folder"])
def test_files_that_come_while_a_router_is_being_saved_stay(tmp_path, first):
    folder = tmp_path / "router"

    class Slow(RandomRouter):
        def save_files(self, _):
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("mine")

    if first != "nothing":
        folder.mkdir()
    with pytest.raises(ConfigurationError, match="give another path"):
        Slow().save(folder)
    assert (folder / "config.json").read_text() == "mine"
    assert (os.listdir(tmp_path), os.listdir(folder)) == (["router"], ["config.json"])


def test_a_private_folder_stays_private(tmp_path):
    RandomRouter().save(tmp_path / "router")
    (tmp_path / "router").chmod(0o700)
    RandomRouter().save(tmp_path / "router")
    assert (tmp_path / "router").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["x" * 250, "ä" * 124, "circle"])
def test_a_name_that_a_save_could_not_work_with_is_refused_before_the_work(tmp_path, name):
    # file systems take 255 bytes; the temporary folder's name has 20 more
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ConfigurationError, match="cannot be a folder"):
        folders.check_replaceable(tmp_path / name)


def test_there_is_nothing_to_load_where_a_path_has_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (".", "/"):
        with pytest.raises(RouterFormatError, match="nothing to load"):
            persistence.read_config(Path(path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_at_any_step_of_a_save_loses_no_file_of_anybody(tmp_path):
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from routellm_core import RandomRouter, load_router

        def stepping(real):
            def step(*args, **options):
                global left
                left -= 1
                if left < 0:
                    os._exit(9)
                return real(*args, **options)
            return step

        for killed_at in range(100):
            folder = Path(sys.argv[1], str(killed_at), "router")
            RandomRouter(seed=1).save(folder)
            (folder / "README.md").write_text("mine")
            child = os.fork()
            if child == 0:
                left = killed_at
                for name in ("rename", "replace", "link", "mkdir", "rmdir", "unlink"):
                    setattr(os, name, stepping(getattr(os, name)))
                RandomRouter(seed=2).save(folder)
                os._exit(0)
            is_over = os.waitpid(child, 0)[1] == 0
            RandomRouter(seed=3).save(folder)
            assert load_router(folder).seed == 3
            assert (folder / "README.md").read_text() == "mine"
            assert os.listdir(folder.parent) == ["router"]
            if is_over:
                break
        print(killed_at)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)]  # a fork beside threads
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert 5 < int(done.stdout) < 99  # it was killed at some steps, and at last at none
