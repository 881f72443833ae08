"""What of a call is scored: its question, not the context that was packed around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from llamaindex_routellm._scopes import current_query
from routellm_core.errors import ConfigurationError
from routellm_core.policy import conversation_text, routing_text
from routellm_core.policy.text import FOLLOW_UP_CHARACTERS

__all__ = [
    "QUESTION_VARIABLES",
    "TextFunction",
    "scored_prompt",
    "scored_text",
    "task_messages",
    "task_text",
    "template_question",
]

TextFunction: TypeAlias = Callable[[Sequence[ChatMessage]], str]

QUESTION_VARIABLES = ("query_str", "question", "query")
"""Template variables that hold the user's question in LlamaIndex's own prompts."""

_LOOP_NOISE = (
    "Observation:",  # ReAct: a tool's output
    "Error while parsing the output:",  # ReAct: the model broke the format
    "FAILURE: Your previous response was empty.",  # ReAct
    "Result of executing the code given:",  # CodeAct
)
"""How user messages begin that an agent loop wrote, not the user."""


def task_messages(messages: Sequence[ChatMessage]) -> list[str]:
    """What the user asked, oldest first: texts of user messages that no agent loop wrote, "" where one has none.

    ReAct and CodeAct feed tool output back as user messages, so the last of those changes at every
    step; the task does not. An answer comes before such a message, so a question that merely begins
    like one is kept.
    """
    return [text for i in range(len(messages)) if (text := task_text(messages, i)) is not None]


def task_text(messages: Sequence[ChatMessage], position: int) -> str | None:
    """The text of one message, if it is one of `task_messages`."""
    message = messages[position]
    if message.role != MessageRole.USER:
        return None
    text = message.content or ""
    if text.startswith(_LOOP_NOISE) and position > 0 and messages[position - 1].role == MessageRole.ASSISTANT:
        return None
    return text


def scored_text(messages: Sequence[ChatMessage], text: TextFunction | None) -> str:
    """What stands for these messages: the scope's question, the caller's choice, or the task.

    Raises:
        ConfigurationError: The caller's function returned something else than a str or None.
    """
    scope = current_query()
    if scope is not None:
        return scope
    if text is not None:
        chosen = text(messages)
        if chosen is not None and not isinstance(chosen, str):
            raise ConfigurationError(f"text= must return a str or None, got {type(chosen).__name__}")
        return chosen or ""
    # some prompts are a single system message: nobody has asked anything in them
    return conversation_text(task_messages(messages), (message.content or "" for message in messages))


def scored_prompt(prompt: str, text: TextFunction | None) -> str:
    """`scored_text` of a bare prompt, which need not become a message for it.

    Raises:
        ConfigurationError: As `scored_text`.
    """
    if text is not None:
        return scored_text([ChatMessage(role=MessageRole.USER, content=prompt)], text)
    scope = current_query()
    return prompt if scope is None else scope


def template_question(prompt: Any, arguments: Mapping[str, Any]) -> str | None:
    """The question a prompt template is filled with, however it was bound; None when it has none.

    A short follow-up comes with the last substantial user message that stands in the template before it, where
    chat engines put the history.
    """
    bound: dict[str, Any] = dict(getattr(prompt, "kwargs", None) or {})  # refine and tree modes bind it early
    selector = getattr(prompt, "selector", None)  # a LangChain template keeps it there
    if selector is not None:
        bound.update(getattr(selector.default_prompt, "partial_variables", None) or {})
    for name in QUESTION_VARIABLES:
        for values in (arguments, bound):
            value = values.get(name)
            if isinstance(value, str) and value.strip():
                return value if len(value.strip()) >= FOLLOW_UP_CHARACTERS else _with_history(prompt, name, value)
    return None


def _with_history(prompt: Any, name: str, question: str) -> str:
    mappings = getattr(prompt, "template_var_mappings", None) or {}
    asked = "{" + str(mappings.get(name, name)) + "}"
    unfilled = ["{" + variable + "}" for variable in getattr(prompt, "template_vars", ())]
    before: list[ChatMessage] = []
    for message in getattr(prompt, "message_templates", ()):
        content = message.content or ""
        if asked in content:
            break
        if not any(variable in content for variable in unfilled):
            before.append(message)
    return routing_text([*task_messages(before), question])
