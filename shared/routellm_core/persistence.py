"""Folders of config.json + model.safetensors: read strictly, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save_file as save_tensors

from routellm_core.errors import ConfigurationError, RouterFormatError

__all__ = [
    "CONFIG",
    "FILES",
    "FORMAT",
    "TENSORS",
    "check_files",
    "check_replaceable",
    "digest_of",
    "digests_of_files",
    "read_config",
    "read_tensors",
    "replace_folder",
    "try_lock",
    "write_bytes",
    "write_config",
    "write_tensors",
]

FORMAT = 1  # raised when an older version could not read the folder any more
CONFIG = "config.json"
TENSORS = "model.safetensors"
FILES = "files"  # folder of what a router keeps beside its tensors, such as a transformer
_OURS = (CONFIG, TENSORS, FILES, "encoder")
_REPLACED = ".replaced"  # suffix of the previous folder while a new one takes its name
_DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "BOOL": "?",
}  # safetensors' names of what numpy can hold


def digest_of(*parts: bytes | str) -> str:
    """SHA-256 over the parts, each preceded by its length, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    A link is followed and an existing file keeps its mode.

    Raises:
        OSError: The folder is missing or not writable, or something other than a file is there.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = _beside(path)
    # created like any file, so that the kernel applies the umask; asking for the umask would change it
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json: sorted keys, so that equal content is equal bytes. NaN is refused."""
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / CONFIG, (text + "\n").encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json and check its `format`.

    Raises:
        RouterFormatError: No such folder or file, not JSON, or written by a newer version.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        previous = folder.with_name(folder.name + _REPLACED)
        hint = f"; an interrupted save left the previous one in {previous}: rename it back" if previous.is_dir() else ""
        raise RouterFormatError(f"no {CONFIG} in {folder}, so there is nothing to load{hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RouterFormatError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise RouterFormatError(f"{path} must hold a JSON object, not {type(config).__name__}")
    version = config.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version > FORMAT or version < 1:
        raise RouterFormatError(
            f"{path} has format {version!r}; this version reads formats 1 to {FORMAT}. "
            "If it is newer, upgrade routellm-integrations"
        )
    return config


def write_tensors(folder: Path, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write model.safetensors and return its SHA-256. The tensors are not copied to one block of memory first."""
    path = Path(os.path.realpath(folder / TENSORS))
    temporary = _beside(path)
    # made like any file and its mode put back after: safetensors gives its files a mode of their own
    temporary.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        save_tensors({name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}, temporary)
        os.chmod(temporary, mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        digest = _sha256(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return digest


def read_tensors(folder: Path, sha256: str | None = None, *, mapped: bool = False) -> dict[str, NDArray[Any]]:
    """Read model.safetensors.

    Args:
        folder: Where the file is.
        sha256: What config.json says of it; None skips the check.
        mapped: Leave the tensors in the file and map it into memory: read-only arrays whose pages the system
            loads, shares between processes and drops as it likes. The file may be replaced, as `write_tensors`
            and `replace_folder` do, but not changed in place while it is in use.

    Raises:
        RouterFormatError: Missing, damaged, or another file than config.json was written with.
    """
    path = folder / TENSORS
    try:
        if mapped:
            tensors, digest = _map_tensors(path, hashed=sha256 is not None)
        else:
            content = path.read_bytes()
            tensors, digest = dict(parse_tensors(content)), hashlib.sha256(content).hexdigest()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RouterFormatError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if sha256 is not None and digest != sha256:
        raise RouterFormatError(
            f"{path} is not the file that {CONFIG} beside it was written with (SHA-256 differs); "
            "copy the whole folder again"
        )
    return tensors


def _map_tensors(path: Path, *, hashed: bool) -> tuple[dict[str, NDArray[Any]], str]:
    with safe_open(path, framework="np"):
        pass  # the library checks the header: offsets inside the file, without gaps, fitting the shapes
    with path.open("rb") as file:
        digest = _sha256_of(file) if hashed else ""
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        dtype, (first, last) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
        flat: NDArray[Any] = np.zeros(0, dtype)
        if last > first:
            flat = np.frombuffer(content, dtype, (last - first) // dtype.itemsize, start + first)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, digest


def digests_of_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it; nothing if there is no such folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Check that the files which `digests_of_files` saw are all there and unchanged.

    Raises:
        RouterFormatError: One is missing, unreadable or another.
    """
    for name, digest in digests.items():
        path = folder / name
        try:
            found = _sha256(path)
        except OSError as error:
            raise RouterFormatError(f"{path} cannot be read: {error.strerror or error}") from error
        if found != digest:
            raise RouterFormatError(
                f"{path} is not the file that {CONFIG} was written with (SHA-256 differs); copy the whole folder again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256_of(file)


def _sha256_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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
    previous = folder.with_name(folder.name + _REPLACED)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(folder, previous)
        is_empty = folder.exists() and not any(folder.iterdir())
        temporary = folder / _beside(folder).name if is_empty else _beside(folder)
        temporary.mkdir()
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(f"{str(folder)!r} cannot be a folder: {error}") from error
    try:
        fill(temporary)
        if is_empty:
            _move_up(temporary)
        else:
            _swap(folder, temporary, previous)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _move_up(temporary: Path) -> None:
    """The files to the folder above, which has none; without config.json nothing of it can be loaded."""
    names = sorted((path.name for path in temporary.iterdir()), key=CONFIG.__eq__)
    moved = [temporary.parent / name for name in names]
    try:
        for target in moved:
            os.rename(temporary / target.name, target)
    except BaseException:
        _remove(moved)
        raise
    temporary.rmdir()


def _swap(folder: Path, temporary: Path, previous: Path) -> None:
    if folder.exists():
        for other in folder.iterdir():
            if other.name not in _OURS:
                _copy(other, temporary / other.name)
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
    try:
        os.rename(temporary, folder)
    except BaseException:
        if previous.exists() and not folder.exists():
            os.rename(previous, folder)
        raise


def _clear_up(folder: Path, previous: Path) -> None:
    """What a killed save left: half-written folders go, and the router it had moved away comes back."""
    if previous.is_dir() and not folder.exists():
        os.rename(previous, folder)  # the files beside the router are copied from there
    if folder.is_dir() and (inside := _half_written(folder, folder.name)):
        _remove(inside if (folder / CONFIG).exists() else [*(folder / name for name in _OURS), *inside])
    _remove(_half_written(folder.parent, folder.name))


def _half_written(above: Path, name: str) -> list[Path]:
    """Folders that saves to a folder of this name have begun."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}")
    return [p for p in above.iterdir() if pattern.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


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
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise ConfigurationError(f"{str(folder)[:200]!r} cannot be a folder: {error}") from error
    is_empty = exists and _is_empty(real)
    if exists and not is_empty:
        _check_can_go(real, part)
    above = real if is_empty or not real.name else next(each for each in real.parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{str(real)!r} cannot be a folder: {above} is none that may be written to")
    return real


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


def try_lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed, or the process ends; False if somebody else has it."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing stops a second process there
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
