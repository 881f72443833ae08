"""Helpers for tests, ours and users': contracts to subclass, a scripted router, an endpoint on the loopback."""

from __future__ import annotations

from routellm_core.testing.contracts import EncoderContract, RouterContract
from routellm_core.testing.fakes import ScriptedRouter
from routellm_core.testing.loopback import LoopbackOpenAI, Reply, ToolCall

__all__ = ["EncoderContract", "LoopbackOpenAI", "Reply", "RouterContract", "ScriptedRouter", "ToolCall"]
