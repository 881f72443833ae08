"""A folder is replaced by a new one whole or not at all, and what a user keeps in it or beside it stays."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from routellm_core.errors import ConfigurationError

__all__ = [
    "CONFIG",
    "FILES",
    "TENSORS",
    "beside",
    "check_replaceable",
    "is_interrupted",
    "previous_of",
    "replace_folder",
]

CONFIG = "config.json"
TENSORS = "model.safetensors"
FILES = "files"  # folder of what a router keeps beside its tensors, such as a transformer
_OURS = (CONFIG, TENSORS, FILES, "encoder")
_REPLACED = ".replaced"  # suffix of the previous folder while a new one takes its name
_UNFINISHED = ".unfinished"  # suffix of a folder that is being written, or removed


def replace_folder(folder: Path, fill: Callable[[Path], None], *, part: str = "router") -> None:
    """Make `folder` hold what `fill` writes, whole or not at all, also when the process is killed.

    `fill` gets a temporary folder, which takes the folder's place when complete. An empty folder stays the one it is,
    as somebody may stand in it: it gets the files, config.json last. Files in the folder that are no part of a router
    (a README, say) stay. Only one process may save to a folder at a time. `part` is as for `check_replaceable`.

    Raises:
        ConfigurationError: The path cannot be a folder, holds something that is no saved router, or a router that
            cannot be replaced as a whole, see `check_replaceable`.
    """
    folder = check_replaceable(folder, part=part)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(folder)
        is_empty = folder.exists() and not any(folder.iterdir())
        temporary = folder / _unfinished(folder).name if is_empty else _unfinished(folder)
        temporary.mkdir()
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(f"{str(folder)!r} cannot be a folder: {error}") from error
    try:
        fill(temporary)
        if is_empty:
            _move_up(temporary)
        else:
            _swap(folder, temporary, part)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _move_up(temporary: Path) -> None:
    """The files to the folder above, which has none; without config.json nothing of it can be loaded."""
    names = sorted((path.name for path in temporary.iterdir()), key=CONFIG.__eq__)
    moved: list[Path] = []
    try:
        for name in names:
            target = temporary.parent / name
            if os.path.lexists(target):
                raise ConfigurationError(f"{target} has come there meanwhile: give another path")
            os.rename(temporary / name, target)
            moved.append(target)
    except BaseException:
        _remove(moved)
        raise
    temporary.rmdir()


def _swap(folder: Path, temporary: Path, part: str) -> None:
    previous = previous_of(folder)
    if folder.exists():
        if any(folder.iterdir()):
            _check_can_go(folder, part)  # it may have come there meanwhile
            _keep_others(folder, temporary)
        shutil.copymode(folder, temporary)
        os.rename(folder, previous)
    try:
        os.rename(temporary, folder)
    except BaseException:
        if previous.exists() and not folder.exists():
            os.rename(previous, folder)
        raise
    _remove_whole(previous)


def _keep_others(folder: Path, target: Path) -> None:
    """What is no part of the router gets a second name, as a file may be open: a log that is being written."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    digests = config.get("files_sha256") or {}
    for other in folder.iterdir():
        if other.name in (CONFIG, TENSORS) or (other.name == "encoder" and config.get("encoder")):
            continue
        if other.name == FILES and digests and not other.is_symlink():
            for path in sorted(other.rglob("*")):
                name = path.relative_to(other).as_posix()
                if name not in digests and (path.is_symlink() or not path.is_dir()):
                    _keep(path, target / FILES / name)
        else:
            _keep(other, target / other.name)


def _keep(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise ConfigurationError(f"{source} is no part of what is saved there, but in its way: move it elsewhere")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    if not os.path.islink(source):
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno == errno.EXDEV:  # what is mounted there would be emptied with the old folder
                raise ConfigurationError(
                    f"a disk is mounted at {source} or above: a router there cannot be replaced as a whole, give "
                    "another path"
                ) from error
    shutil.copy2(source, target, follow_symlinks=False)  # a file system without links


def _clear_up(folder: Path) -> None:
    """What a killed save left: half-written folders go, and the router it had moved away comes back."""
    previous = previous_of(folder)
    if previous.is_dir():
        if folder.exists():
            _remove_whole(previous)
        else:
            os.rename(previous, folder)  # the files beside the router are kept from there
    if folder.is_dir() and (inside := _half_written(folder, folder.name)):
        _remove(inside if (folder / CONFIG).exists() else [*(folder / name for name in _OURS), *inside])
    _remove(_half_written(folder.parent, folder.name))


def _half_written(above: Path, name: str) -> list[Path]:
    """Folders that saves to a folder of this name have begun."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}{re.escape(_UNFINISHED)}")
    return [p for p in above.iterdir() if pattern.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _remove_whole(previous: Path) -> None:
    """Killed in between, it is no router any more, so it gets a name that says so."""
    if previous.exists():
        gone = previous.with_name(previous.name.removesuffix(_REPLACED) + f".{secrets.token_hex(4)}{_UNFINISHED}")
        os.rename(previous, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_replaceable(folder: Path, *, part: str = "router") -> Path:
    """The folder's real path, if `replace_folder` may write it: to be asked before hours of work.

    Args:
        folder: Where to save to.
        part: What is to be saved, "router" or "verifier"; neither replaces the other.

    Raises:
        ConfigurationError: The path cannot be a folder, holds something that is no saved router (or verifier), or lies
            where nothing may be written; or it holds one and cannot be renamed, as this program runs in it, or a disk
            is mounted there.
    """
    try:
        real = Path(os.path.realpath(folder))
        exists = real.exists()
        _unfinished(real).exists()  # its name is the longest
        if os.path.lexists(real) and not exists:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if real.is_dir() and not os.access(real, os.R_OK | os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        is_empty = exists and _is_empty(real)
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise ConfigurationError(f"{str(folder)[:200]!r} cannot be a folder: {error}") from error
    if exists and not is_empty:
        _check_can_go(real, part)
    above = real if is_empty or not real.name else next(each for each in real.parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{str(real)!r} cannot be a folder: {above} is none that may be written to")
    previous = previous_of(real)
    if os.path.lexists(previous) and (is_empty or previous.is_symlink() or _part_in(previous) != part):
        raise ConfigurationError(
            f"{previous} is in the way, where a save puts the previous {part} for a moment: move it, or give another "
            "path"
        )
    return real


def is_interrupted(folder: Path) -> bool:
    """Whether a killed save left nothing under this name, but what was there under another; `read_config` says so."""
    try:
        real = Path(os.path.realpath(folder))
        return not real.exists() and _part_in(previous_of(real)) is not None
    except (OSError, ValueError):  # no path at all
        return False


def _check_can_go(folder: Path, part: str) -> None:
    there = _part_in(folder)
    if there is None:
        raise ConfigurationError(f"{folder} exists and does not hold a saved {part}; give another path")
    if there != part:
        raise ConfigurationError(f"{folder} holds a {there}, which a {part} would replace; give another path")
    if _is_within(folder):
        raise ConfigurationError(
            f"the {part} in {folder} cannot be replaced as a whole, as this program runs in it: change to another "
            "folder (cd ..), or give another path"
        )
    if os.path.ismount(folder):
        raise ConfigurationError(
            f"the {part} in {folder} cannot be replaced as a whole, as a disk is mounted there: give another path"
        )


def _is_within(folder: Path) -> bool:
    """Whether the working folder is this one, or below it."""
    try:
        return Path(os.getcwd()).is_relative_to(folder)
    except OSError:  # it is gone
        return False


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing in it but what a killed save into it when it was empty has left."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    begun = {path.name for path in _half_written(folder, folder.name)}
    return names == begun or (bool(begun) and CONFIG not in names and names <= {*_OURS, *begun})


def _part_in(folder: Path) -> str | None:
    """What of ours it holds, "router" or "verifier"; a config.json alone is no sign, others have one too."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or not {"format", "kind", "settings", "tensors_sha256"} <= config.keys():
        return None
    return str(config.get("part", "router"))


def _unfinished(folder: Path) -> Path:
    """A new folder beside it for half of a router; nobody else names folders so, such as by a date."""
    temporary = beside(folder)
    return temporary.with_name(temporary.name + _UNFINISHED)


def previous_of(folder: Path) -> Path:
    """Where a save puts what was in the folder while the new one takes its name."""
    return folder.parent / f".{folder.name}{_REPLACED}"


def beside(path: Path) -> Path:
    """A name in the same folder that nobody uses, for what is to be renamed to the path."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
