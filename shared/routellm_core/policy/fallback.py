"""Which failures another route could survive."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from routellm_core.backends import is_passing

__all__ = ["error_to_raise", "may_fall_back"]


def may_fall_back(error: BaseException) -> bool:
    """Whether a backend's error is a passing one, see `is_passing`: then another route may answer."""
    return is_passing(error)


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
            before = getattr(chosen, "__notes__", [])  # a client may raise the same object again
            chosen.__notes__ = [*before, *(note for note in notes if note not in before)]  # type: ignore[attr-defined]
    return chosen
