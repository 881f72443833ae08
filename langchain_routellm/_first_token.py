"""Whether anything of an answer has left already, be it through callbacks alone."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

__all__ = ["FirstToken"]


class FirstToken(BaseCallbackHandler):
    """Notes the first token of a model call.

    A model that is invoked inside a graph which streams sends its tokens out as they come. After one of them
    no other route may answer, or the reader gets one and a half answers.
    """

    run_inline = True
    raise_error = False

    def __init__(self) -> None:
        self.seen = False

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self._note(kwargs)

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        self._note(kwargs)

    def _note(self, kwargs: dict[str, Any]) -> None:
        if "nostream" not in (kwargs.get("tags") or ()):  # LangGraph shows nothing of those
            self.seen = True
