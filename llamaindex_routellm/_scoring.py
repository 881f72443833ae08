"""Scoring with a LlamaIndex LLM: its events are told apart, and its tokens are no answer's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from llama_index.core.instrumentation.dispatcher import active_instrument_tags  # type: ignore[attr-defined] # re-exported silently

from llamaindex_routellm._open_calls import current_call
from llamaindex_routellm._scopes import holding, unsteered
from routellm_core.routers import Router
from routellm_core.verifiers import Verifier

__all__ = ["SCORING_TAG", "scoring"]

SCORING_TAG = {"routellm": "scoring"}
"""On every event and span of an LLM that scores; `event.tags` has it."""


@contextlib.contextmanager
def scoring(scorer: Router | Verifier) -> Iterator[None]:
    """Around a policy's decision: what scores may be an LLM, and that LLM a router."""
    if scorer.is_quick:  # then it calls no model
        yield
        return
    tags = {**active_instrument_tags.get(), **SCORING_TAG}
    with holding(active_instrument_tags, tags), holding(current_call, None), unsteered():
        yield
