"""Helpers for tests, ours and users': contracts to subclass, a scripted router, endpoints on the loopback."""

from __future__ import annotations

from routellm_core.testing.contracts import EncoderContract, RouterContract
from routellm_core.testing.fakes import ScriptedRouter
from routellm_core.testing.loopback import LoopbackServer, Reply, ToolCall, ends_in_tool_result, last_text
from routellm_core.testing.loopback_anthropic import LoopbackAnthropic
from routellm_core.testing.loopback_ollama import LoopbackOllama
from routellm_core.testing.loopback_openai import LoopbackOpenAI

__all__ = [
    "EncoderContract",
    "LoopbackAnthropic",
    "LoopbackOllama",
    "LoopbackOpenAI",
    "LoopbackServer",
    "Reply",
    "RouterContract",
    "ScriptedRouter",
    "ToolCall",
    "ends_in_tool_result",
    "last_text",
]
