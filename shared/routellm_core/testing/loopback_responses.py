"""OpenAI's Responses API as `LoopbackOpenAI` serves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from routellm_core.testing.loopback import Reply, new_id, words_in, words_of

__all__ = ["complaint_about", "response", "response_events"]

_ENCRYPTED = "encrypted-on-the-loopback"
_PARTS = ("input_text", "output_text", "input_image", "input_file", "refusal")


def complaint_about(given: Any) -> str | None:
    """What OpenAI would refuse an input for: parts it does not know, results of no call, reasoning of others."""
    asked: set[str] = set()
    for item in given if isinstance(given, list) else ():
        kind = item.get("type", "message")
        if kind == "function_call":
            asked.add(item["call_id"])
        elif kind == "function_call_output" and item["call_id"] not in asked:
            return f"no tool call found for function call output with call_id {item['call_id']}"
        elif kind == "reasoning" and item.get("encrypted_content") not in (None, _ENCRYPTED):
            return "the encrypted content could not be verified"
        elif kind == "message" and isinstance(item.get("content"), list):
            for part in item["content"]:
                if part.get("type") not in _PARTS:
                    return f"invalid value: {part.get('type')!r}"
    return None


def _items(reply: Reply) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if reply.thinking:
        summary = [{"type": "summary_text", "text": reply.thinking}]
        items.append({"type": "reasoning", "id": new_id("rs"), "summary": summary, "encrypted_content": _ENCRYPTED})
    if reply.text or not reply.tool_calls:
        content = [{"type": "output_text", "text": reply.text, "annotations": []}]
        items.append(
            {"type": "message", "id": new_id("msg"), "role": "assistant", "status": "completed", "content": content}
        )
    for call in reply.tool_calls:
        arguments = json.dumps(call.arguments)
        items.append(
            {
                "type": "function_call",
                "id": new_id("fc"),
                "call_id": call.id,
                "name": call.name,
                "arguments": arguments,
                "status": "completed",
            }
        )
    return items


def response(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """The answer as JSON."""
    asked, answered = words_in(body["input"]), words_in(reply.text)
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "output": _items(reply),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + answered,
        },
    }


def response_events(body: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    """The answer as server-sent events."""
    number = iter(range(10**9))

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": f"response.{kind}", "sequence_number": next(number), **fields}

    whole = response(body, reply)
    yield event("created", response={**whole, "status": "in_progress", "output": [], "usage": None})
    for i, item in enumerate(whole["output"]):
        place: dict[str, Any] = {"output_index": i, "item_id": item["id"]}
        if item["type"] == "message":
            empty = {"type": "output_text", "text": "", "annotations": []}
            yield event("output_item.added", output_index=i, item={**item, "status": "in_progress", "content": []})
            yield event("content_part.added", **place, content_index=0, part=empty)
            for word in words_of(reply.text):
                yield event("output_text.delta", **place, content_index=0, delta=word, logprobs=[])
            yield event("output_text.done", **place, content_index=0, text=reply.text, logprobs=[])
            yield event("content_part.done", **place, content_index=0, part=item["content"][0])
        elif item["type"] == "function_call":
            yield event("output_item.added", output_index=i, item={**item, "status": "in_progress", "arguments": ""})
            yield event("function_call_arguments.delta", **place, delta=item["arguments"])
            yield event("function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"])
        else:
            yield event("output_item.added", output_index=i, item={**item, "summary": []})
            part = item["summary"][0]
            yield event("reasoning_summary_part.added", **place, summary_index=0, part={**part, "text": ""})
            yield event("reasoning_summary_text.delta", **place, summary_index=0, delta=part["text"])
            yield event("reasoning_summary_text.done", **place, summary_index=0, text=part["text"])
            yield event("reasoning_summary_part.done", **place, summary_index=0, part=part)
        yield event("output_item.done", output_index=i, item=item)
    yield event("completed", response=whole)
