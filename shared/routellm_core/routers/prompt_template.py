"""A prompt between the texts that make a language model classify it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError

__all__ = ["QUESTION", "PromptTemplate", "rendered_texts"]

QUESTION = "{question}"
"""Where the prompt goes in the classifier text."""

_CHARACTERS_A_TOKEN = 16  # far above any language's mean
_LEAST_QUESTION = 16  # tokens
_PLACE = "\ue000question\ue001"  # stands for the prompt while the chat template is applied


class PromptTemplate:
    """Token ids of prompts between a fixed beginning and a fixed end.

    Args:
        tokenizer: Of transformers.
        head: What stands before the prompt, special tokens spelled out.
        tail: What stands behind it, the answer prefix included.
        max_tokens: Of the whole.

    Raises:
        ConfigurationError: `max_tokens` leaves less than 16 tokens for the prompt.
    """

    def __init__(self, tokenizer: Any, head: str, tail: str, *, max_tokens: int) -> None:
        self.tokenizer, self.head, self.tail, self.max_tokens = tokenizer, head, tail, max_tokens
        self._n_head, self._n_tail = map(len, self._tokenize([head, tail]))
        if max_tokens < self._n_head + self._n_tail + _LEAST_QUESTION:
            raise ConfigurationError(
                f"max_tokens is {max_tokens}, but the texts around the prompt take {self._n_head + self._n_tail}; "
                f"{_LEAST_QUESTION} more are the least"
            )
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        spelled = [re.escape(text) for text in sorted(special, key=len, reverse=True) if len(text) > 1]
        self._special = re.compile("|".join(spelled)) if spelled else None

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt in its place; a long one loses its middle."""
        if not prompts:
            return []
        texts = clean_and_cut(prompts, _CHARACTERS_A_TOKEN * self.max_tokens)
        if self._special is not None:
            texts = [self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text) for text in texts]
        return [self._cut(row) for row in self._tokenize([self.head + text + self.tail for text in texts])]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return ids

    def _cut(self, ids: list[int]) -> list[int]:
        surplus = len(ids) - self.max_tokens
        if surplus <= 0:
            return ids
        keep = (self._n_head + len(ids) - self._n_tail - surplus) // 2
        return ids[:keep] + ids[keep + surplus :]


def rendered_texts(tokenizer: Any, system_text: str, classifier_text: str, answer_prefix: str) -> tuple[str, str]:
    """What stands before and after the prompt: in the tokenizer's chat template, or as plain paragraphs.

    Raises:
        ConfigurationError: No single place for the prompt, or the template cannot take the texts.
    """
    if classifier_text.count(QUESTION) != 1:
        raise ConfigurationError(f"classifier_text must say once, as {QUESTION}, where the prompt goes")
    user = classifier_text.replace(QUESTION, _PLACE)
    if getattr(tokenizer, "chat_template", None):
        text = _in_chat_template(tokenizer, system_text, user)
    else:
        starts = tokenizer.bos_token or ""
        if not starts or tokenizer("")["input_ids"][:1] != [tokenizer.bos_token_id]:
            starts = ""
        text = starts + (f"{system_text}\n\n" if system_text else "") + f"{user}\n"
    head, place, tail = text.partition(_PLACE)
    if not place or _PLACE in tail:
        raise ConfigurationError("the tokenizer's chat template does not give back the user's message as it is")
    return head, tail + answer_prefix


def _in_chat_template(tokenizer: Any, system_text: str, user: str) -> str:
    system = [{"role": "system", "content": system_text}] if system_text else []
    apart = [*system, {"role": "user", "content": user}]
    together = [{"role": "user", "content": f"{system_text}\n\n{user}" if system_text else user}]
    errors = []
    for messages in (apart, together):  # some templates know no system message
        try:
            text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # noqa: BLE001 - a template raises what it likes
            errors.append(f"{type(error).__name__}: {error}")
        else:
            return text
    raise ConfigurationError(f"the tokenizer's chat template cannot be applied: {errors[-1]}")
