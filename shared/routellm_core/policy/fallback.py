"""Which failures another route could survive."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError

__all__ = ["error_to_raise", "may_fall_back"]

_CONFLICT_OR_BUSY = (408, 409, 429)
# before Python 3.11 the timeouts of asyncio and of futures are classes of their own
_UNREACHABLE = (ConnectionError, TimeoutError, asyncio.TimeoutError, FutureTimeoutError, socket.gaierror)
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_CLIENT_ERRORS = {
    "httpx": ("TransportError",),
    "httpx2": ("TransportError",),
    "requests": ("ConnectionError", "Timeout"),
    "aiohttp": ("ClientConnectionError", "ServerTimeoutError"),
}


def may_fall_back(error: BaseException) -> bool:
    """Whether a backend's error is a passing one: busy, unreachable, late, or broken inside (5xx).

    An allow-list, because everything else (bad requests, wrong keys, parser errors, bugs, control
    flow of agent frameworks, cancellation) must reach the caller. Client libraries are recognised
    by what their errors carry, so none is imported.
    """
    if not isinstance(error, Exception):
        return False
    status = _status(error)
    if status is not None:
        return status in _CONFLICT_OR_BUSY or status >= 500
    retryable = getattr(error, "is_retryable", None)
    if isinstance(retryable, bool):
        return retryable
    # client libraries raise an error of their own from the one their HTTP client met
    return _is_out_of_reach(error) or _is_out_of_reach(error.__cause__)


def error_to_raise(failures: Sequence[tuple[str, Exception]], *, last_is_passing: bool) -> Exception:
    """What the caller gets when no route has answered, with what the other routes said in its `__notes__`.

    The last error itself where no other route could have survived it: a wrong key, a bug, or the control
    flow of an agent framework must not hide behind a busy server. Else the first: that is the route the
    call was meant for.

    Args:
        failures: Routes and their errors, in order; at least one.
        last_is_passing: Whether another route, were one left, could have survived the last error.
    """
    chosen = failures[0][1] if last_is_passing else failures[-1][1]
    notes = [
        f"route {route!r} was tried too and failed: {type(error).__name__}: {error}"
        for route, error in failures
        if error is not chosen
    ]
    if notes:
        with contextlib.suppress(AttributeError, TypeError):  # an exception may refuse attributes
            # not add_note(), which is there only from Python 3.11
            chosen.__notes__ = [*getattr(chosen, "__notes__", []), *notes]  # type: ignore[attr-defined]
    return chosen


def _status(error: Exception) -> int | None:
    """The HTTP status an error carries, wherever its library puts it."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status_code"), (error, "code"), (error, "status"), (response, "status_code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return status
    return None


def _is_out_of_reach(error: BaseException | None) -> bool:
    if isinstance(error, _UNREACHABLE) or (isinstance(error, OSError) and error.errno in _NO_WAY):
        return True
    # some integrations let their HTTP client's errors out as they are
    for module, names in _CLIENT_ERRORS.items():
        client = sys.modules.get(module)
        if client is not None and isinstance(error, tuple(getattr(client, name) for name in names)):
            return True
    return False
