"""One model, many spellings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from routellm_core.errors import UnknownKindError

__all__ = ["find_model", "model_key"]

_LISTED = 12  # names in a message


def model_key(name: str) -> str:
    """The name under which spellings of one model meet: lower case, without owner, host or file format.

    >>> model_key("meta-llama/Meta-Llama-3.1-8B-Instruct"), model_key("Meta-Llama-3_1-8B-Instruct@host")
    ('llama-3.1-8b-instruct', 'llama-3.1-8b-instruct')
    """
    key = name.lower().rsplit("/", 1)[-1].split("@", 1)[0]
    key = re.sub(r"(?<=\d)_(?=\d)", ".", key)
    return re.sub(r"-hf$", "", re.sub(r"^meta-", "", key))


def find_model(name: str, models: Sequence[str]) -> str:
    """The one of `models` that `name` means: itself, else the only one of the same `model_key`, else of the same words.

    Separators are read loosely at last, so that "gpt4" finds "gpt-4", "claude-2-1" finds "claude-2.1" and
    "text davinci 003" finds "text_davinci_003"; numbers never run together ("llama-2-7b" is not "llama-27b").

    Raises:
        UnknownKindError: None of them, or several equally well; lists the closest or the several.

    >>> find_model("llama-2-70b-chat", ["gpt4", "meta-llama/Llama-2-70b-chat-hf"])
    'meta-llama/Llama-2-70b-chat-hf'
    """
    if name in models:
        return name
    keys: tuple[Callable[[str], str], ...] = (str.lower, model_key, _loose)
    for key in keys:
        wanted = key(name)
        found = sorted({model for model in models if key(model) == wanted})
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownKindError(f"model {name!r} could be any of {', '.join(map(repr, found))}; give one of these")
    if len(models) <= _LISTED:
        raise UnknownKindError(f"unknown model {name!r}; known: {', '.join(sorted(models)) or 'none'}")
    by_key = {_loose(model): model for model in models}
    close = [by_key[each] for each in difflib.get_close_matches(_loose(name), list(by_key), n=_LISTED, cutoff=0.5)]
    nearest = f"the closest of {len(models)} known ones: {', '.join(close)}" if close else f"{len(models)} are known"
    raise UnknownKindError(f"unknown model {name!r}; {nearest}")


def _loose(name: str) -> str:
    """Separators between a letter and a number go, between numbers become ".", elsewhere "-"."""
    key = re.sub(r"[\s_.\-]+", "-", model_key(name)).strip("-")
    return re.sub(r"(?<=\d)-(?=\d)", ".", re.sub(r"(?<=[^\W\d])-(?=\d)", "", key))
