"""Trying again what may work later: too many requests, servers in trouble, lost connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from routellm_core.backends import is_passing

__all__ = ["address_of", "is_out_of_money", "is_retryable", "retry_after_s", "with_retries"]

T = TypeVar("T")

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_LONGEST_ASKED_S = 600.0  # a server that wants more has run out of quota, not of breath


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may work later: as `is_passing`, unless the account has no money left."""
    return is_passing(error) and not is_out_of_money(error)


def is_out_of_money(error: BaseException) -> bool:
    """Whether this is the status 429 that no waiting helps, as OpenAI marks it."""
    return getattr(error, "code", None) == "insufficient_quota"


def retry_after_s(error: BaseException, *, now: datetime | None = None) -> float | None:
    """Seconds the server asks to wait: the header Retry-After, as seconds or as a date; None if it says nothing."""
    for source in _with_causes(error):
        headers = getattr(getattr(source, "response", None), "headers", None)
        value = _header(headers)
        if value is None:
            continue
        try:
            return max(0.0, float(value))
        except ValueError:
            pass
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            continue
        if then.tzinfo is None:
            then = then.replace(tzinfo=timezone.utc)
        return max(0.0, (then - (now or datetime.now(timezone.utc))).total_seconds())
    return None


def address_of(error: BaseException) -> str | None:
    """The base URL that was called, where the error or its cause knows it; without what may be a key."""
    for source in _with_causes(error):
        try:
            url = urlsplit(str(source.request.url))  # type: ignore[attr-defined]
            where = url.netloc.rpartition("@")[2]
        except (AttributeError, RuntimeError, ValueError):  # httpx raises RuntimeError where there is no request
            continue
        if url.scheme and where:
            return f"{url.scheme}://{where}{url.path.removesuffix('/chat/completions')}"
    return None


async def with_retries(
    call: Callable[[], Awaitable[T]],
    *,
    attempts: int,
    rng: random.Random,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    on_retry: Callable[[], None] = lambda: None,
) -> T:
    """The result of `call`, tried up to `attempts` times.

    Waits what the server asks for, else up to 1, 2, 4, ... 60 seconds, at random, so that calls which failed
    together do not come back together.

    Raises:
        Exception: The last error, as it came.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return await call()
        except Exception as error:
            asked = retry_after_s(error)
            hopeless = not is_retryable(error) or (asked is not None and asked > _LONGEST_ASKED_S)
            if hopeless or attempt >= attempts:
                raise
        backoff = rng.uniform(0.5, 1.0) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1))
        on_retry()
        await sleep(backoff if asked is None else asked + rng.uniform(0.0, 0.5))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised from: clients wrap each other's."""
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__


def _header(headers: Any) -> str | None:
    try:
        value = headers.get("retry-after") or headers.get("Retry-After")
    except AttributeError:
        return None
    return value if isinstance(value, str) else None
