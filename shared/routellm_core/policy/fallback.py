"""Which failures another route could survive."""

from __future__ import annotations

import sys

__all__ = ["may_fall_back"]

_CONFLICT_OR_BUSY = (408, 409, 429)


def may_fall_back(error: BaseException) -> bool:
    """Whether a backend's error is a passing one: busy, unreachable, late, or broken inside (5xx).

    An allow-list, because everything else (bad requests, wrong keys, parser errors, bugs, control
    flow of agent frameworks, cancellation) must reach the caller. Client libraries are recognised
    by what their errors carry, so none is imported.
    """
    if not isinstance(error, Exception):
        return False
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and not isinstance(status, bool):
        return status in _CONFLICT_OR_BUSY or status >= 500
    retryable = getattr(error, "is_retryable", None)
    if isinstance(retryable, bool):
        return retryable
    # client libraries raise an error of their own from the one their HTTP client met
    return _is_out_of_reach(error) or _is_out_of_reach(error.__cause__)


def _is_out_of_reach(error: BaseException | None) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    # some integrations let their HTTP client's errors out as they are
    clients = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return any(client is not None and isinstance(error, client.TransportError) for client in clients)
