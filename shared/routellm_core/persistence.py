"""Folders of config.json + model.safetensors: read strictly, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save_file as save_tensors

from routellm_core.errors import RouterFormatError
from routellm_core.folders import CONFIG, FILES, TENSORS, beside, is_interrupted, previous_of

__all__ = [
    "CONFIG",
    "FILES",
    "FORMAT",
    "TENSORS",
    "check_files",
    "digest_of",
    "digests_of_files",
    "read_config",
    "read_tensors",
    "try_lock",
    "write_bytes",
    "write_config",
    "write_tensors",
]

FORMAT = 1  # raised when an older version could not read the folder any more
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
    temporary = beside(path)
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
        hint = ""
        if is_interrupted(folder):
            previous = previous_of(Path(os.path.realpath(folder)))
            hint = f"; an interrupted save left the previous one in {previous}: rename it back"
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
    temporary = beside(path)
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
