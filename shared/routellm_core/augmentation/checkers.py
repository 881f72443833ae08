"""Is a free answer right? Checkers for multiple choice, numbers and exact text, open to others by name."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable
from typing import TypeAlias

from routellm_core._lazy import Registry
from routellm_core.errors import ConfigurationError, DataError

__all__ = [
    "CHECKERS",
    "Checker",
    "chosen_letter",
    "final_number",
    "is_choice",
    "is_exact",
    "is_numeric",
    "resolve_checker",
]

Checker: TypeAlias = Callable[[str, str], float]
"""From a model's answer and the right one to a score 0..1. Raises DataError when the right one is unusable."""

CHECKERS = Registry(
    "checker",
    {
        "choice": "routellm_core.augmentation.checkers:is_choice",
        "exact": "routellm_core.augmentation.checkers:is_exact",
        "numeric": "routellm_core.augmentation.checkers:is_numeric",
    },
    group="routellm_core.checkers",
)


def resolve_checker(checker: str | Checker) -> Checker:
    """A checker as it is, or by its name.

    Raises:
        UnknownKindError: No checker of that name; lists the known ones.
        ConfigurationError: Something else was given.
    """
    if callable(checker):
        return checker
    if isinstance(checker, str):
        found: Checker = CHECKERS.load(checker)
        return found
    raise ConfigurationError(
        f"a checker is a function (response, answer) -> score or one of {', '.join(CHECKERS.kinds())}, "
        f"got {type(checker).__name__}"
    )


# -- multiple choice
_LETTER = r"[A-J]"
# all repeats of blanks are bounded: an answer may hold any run of them, and must not take minutes
_OPEN, _CLOSE = r"[\s*_`\"'(\[{$:]{0,8}", r"[*_`\"')\]}$]{0,8}"
# "A" and "I" are words too: bare, they count only where no sentence goes on with them
_BARE = r"(?:[B-HJ]\b(?!['’])|[AI]\b(?!['’])(?=\s*(?:[.,;:)\]*`\"$]|\n|$|because\b|since\b|as\b|and\b)))"
_BOXED_LETTER = re.compile(rf"\\boxed\s*\{{\s*(?:\\(?:text|mathrm|textbf|mathbf)\s*\{{)?\s*\(?({_LETTER})\b", re.I)
_STATED = re.compile(
    r"(?:answer|option|choice)s?(?:\s{1,3}(?:is|would be|should be|must be))?(?:\s{1,3}(?:option|choice))?"
    rf"\s{{0,3}}(?::|=|is)?(?:{_OPEN}[(\[]\s*({_LETTER}|[a-j])\s*[)\]]|{_OPEN}({_BARE}){_CLOSE})",
    re.I | re.M,
)
_LEADING = re.compile(rf"^{_OPEN}({_LETTER}|[a-j](?=\s*[)\].]|\s*$))(?:{_CLOSE}\s*$|[)\].:]{_CLOSE}(?:\s|$))")
_BRACKETED = re.compile(rf"\(\s*({_LETTER})\s*\)")
_OWN_LINE = re.compile(rf"^[ \t\r*_`(\[]*({_LETTER})[ \t\r*_`)\].]*$", re.M)


def chosen_letter(response: str) -> str | None:
    r"""The option A to J that a free answer settles on; None if it names none.

    Looks for, in this order: the last \boxed{C}; the last "answer is C" (or "Answer: (C)", "option C"); a letter
    that the answer begins with; the last letter on a line of its own; the last "(C)".
    """
    if found := _BOXED_LETTER.findall(response):
        return str(found[-1]).upper()
    stated = [bracketed or bare for bracketed, bare in _stated(response)]
    if stated:
        return stated[-1].upper()
    if leading := _LEADING.match(response):
        return leading.group(1).upper()
    for pattern in (_OWN_LINE, _BRACKETED):
        if found := pattern.findall(response):
            return str(found[-1])
    return None


def _stated(response: str) -> list[tuple[str, str]]:
    # the words in any case, a bare letter in upper case only: "the answer is a matter of taste"
    return [m.groups("") for m in _STATED.finditer(response) if not (m.group(2) and m.group(2).islower())]  # type: ignore[misc]


def is_choice(response: str, answer: str) -> float:
    """1 if the answer settles on the right option.

    Raises:
        DataError: The right option is not one letter A to J, in whatever brackets.
    """
    right = answer.strip().strip("()[].: ").upper()
    if not re.fullmatch(_LETTER, right):
        raise DataError(f"the right option {_shown(answer)} is not a letter A to J")
    return float(chosen_letter(response) == right)


# -- numbers
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_EXPONENT = r"(?:[eE][+-]?\d+|\s*(?:\\times|×|\*)\s*10\s*\^\s*\{?\s*([+-]?\d+)\}?)"
_NUMBER = re.compile(
    rf"(?P<minus>(?<![\w.)])[-−])?(?:[$€£¥]\s?(?P<minus2>[-−])?)?"
    rf"(?:\\[dt]?frac\s*\{{\s*(?P<top>{_DIGITS})\s*\}}\s*\{{\s*(?P<bottom>{_DIGITS})\s*\}}"
    rf"|(?<![\w.])(?:(?P<whole>\d+)\s+(?P<part>\d+)\s*/\s*(?P<of>\d+)|(?P<over>{_DIGITS})\s*/\s*(?P<under>{_DIGITS})"
    rf"|(?P<plain>{_DIGITS})(?P<exponent>{_EXPONENT})?))"
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_SAID = re.compile(r"(?:answer|result)(?:\s+is|\s*[:=])\s*([^\n]*)", re.I)
_CALCULATION = re.compile(r"<<[^<>\n]*>>")  # what GSM8K's own solutions put before a number
_SPACES = re.compile(r"\\[,!;:]|\{,\}")


def final_number(response: str) -> float | None:
    r"""The number a free answer ends in; None if it has none.

    Looks for, in this order: the one after the last "####"; in the last \boxed{}; after the last "answer is" or
    "answer:" or "result:"; the last in the text. Understands thousands commas, signs, currency signs, units, per cent
    signs (left out: "50 %" is 50), decimals, exponents, fractions as 3/4 and \frac{3}{4}, and 1 1/2.
    """
    text = _CALCULATION.sub("", _SPACES.sub(lambda found: "," if "{" in found.group() else "", response))
    text = text.replace("\\$", "$").replace("\u202f", "").replace("\u00a0", " ").replace("**", "")
    if "####" in text:
        after = text.rpartition("####")[2]
        if (value := _first(after)) is not None:
            return value
    for pattern, pick in ((_BOXED, _last), (_SAID, _last_of_equation)):
        for found in reversed(pattern.findall(text)):
            if (value := pick(found)) is not None:
                return value
    return _last(text)


def is_numeric(response: str, answer: str) -> float:
    """1 if the number the answer ends in equals the right one, to a millionth of it.

    Raises:
        DataError: There is no number in the right answer.
    """
    right = final_number(answer)
    if right is None:
        raise DataError(f"the right answer {_shown(answer)} holds no number")
    found = final_number(response)
    return float(found is not None and math.isclose(found, right, rel_tol=1e-6, abs_tol=1e-9))


def _first(text: str) -> float | None:
    return next((v for found in _NUMBER.finditer(text) if (v := _value(found)) is not None), None)


def _last(text: str) -> float | None:
    return next((v for found in reversed(list(_NUMBER.finditer(text))) if (v := _value(found)) is not None), None)


def _last_of_equation(text: str) -> float | None:
    """After "the answer is": the first number of "72 clips in May", but the last of "48 + 24 = 72"."""
    return _first(text.rpartition("=")[2] or text)


def _value(found: re.Match[str]) -> float | None:
    part = {name: text.replace(",", "") for name, text in found.groupdict().items() if text is not None}
    sign = -1.0 if ("minus" in part) != ("minus2" in part) else 1.0
    try:
        if "whole" in part:
            return sign * (float(part["whole"]) + float(part["part"]) / float(part["of"]))
        if "top" in part or "over" in part:
            top, bottom = (part["top"], part["bottom"]) if "top" in part else (part["over"], part["under"])
            return sign * float(top) / float(bottom)
        power = re.findall(r"[+-]?\d+", part["exponent"])[-1] if "exponent" in part else "0"
        value = float(f"{part['plain']}e{power}")
    except ZeroDivisionError:
        return None
    return sign * value if math.isfinite(value) else None


# -- exact text
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_exact(response: str, answer: str) -> float:
    """1 if the texts are equal without case, punctuation, articles and extra white space (as in SQuAD).

    Where that leaves nothing of the right answer ("+", say), the texts are compared as they are, trimmed.
    """
    right = _normalised(answer)
    if not right:
        if not answer.strip():
            raise DataError("the right answer is empty")
        return float(response.strip() == answer.strip())
    return float(_normalised(response) == right)


def _normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split())


def _shown(answer: str) -> str:
    return repr(answer if len(answer) <= 40 else f"{answer[:39]}…")
