"""What can be seen of an answer without knowing whether it is right: a hundred signs that cost nothing."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routellm_core._lazy import need
from routellm_core.encoders.text import clean_and_cut
from routellm_core.verifiers.answer import Answer
from routellm_core.verifiers.arithmetic import (
    calculations,
    final_number,
    is_near,
    numbers,
    numbers_of_question,
)

__all__ = ["CHECKS", "check_answers"]

_MAX_CHARACTERS = 8192
_NAN = math.nan
_WORDS = re.compile(r"[a-z']+")
_HEDGES = re.compile(
    r"\b(?:might|may|maybe|perhaps|possibly|probably|likely|seems?|appears?|assum(?:e|es|ed|ing|ption)|approximately|"
    r"roughly|around|not sure|unclear|unknown|depends?|however|unfortunately|but|without knowing|"
    r"not (?:specified|given|provided|enough|clear|possible)|cannot be determined|don't know)\b"
)
_REFUSALS = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able|afraid)|as an ai\b|language model|not appropriate|inappropriate|"
    r"i (?:can(?:not|'t| not)|do not|don't|won't) (?:help|assist|provide|have|access|do|create|generate|answer|engage)|"
    r"unable to|cannot (?:provide|assist|be answered|fulfill|generate|determine)|against (?:my|ethical)|"
    r"does not (?:contain|provide|specify|include|mention)|do not have)"
)
_CORRECTIONS = re.compile(r"\b(?:wait|actually|correction|mistake|apologi[sz]e|let me re|re-?check|incorrect|oops)\b")
_PLACEHOLDERS = re.compile(r"\[[A-Z][^\]\n]{2,30}\]|\.\.\.|TODO|\b[Yy]our_")
_VARIABLES = re.compile(r"\b(?:[Ll]et|[Dd]enote|variable)\b|\b[a-zA-Z]\s?=\s?|\d[xyz]\b")
_SENTENCE_ENDS = re.compile(r"[.!?](?:\s|$)")
_ITEMS = re.compile(r"^[ \t]{0,8}(?:[-*•]|\d{1,3}[.)])\s", re.MULTILINE)
_HEADINGS = re.compile(r"^#{1,6} ", re.MULTILINE)
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "MAX_TOKENS", "content_filter")
_SHORT = 150  # characters

CHECKS = (
    # size and shape
    "log_words", "log_characters_squared", "is_short", "log_items", "log_headings", "log_bold", "log_colons",
    "log_quotes", "log_table_bars", "log_code_fences", "longest_line", "distinct_words", "first_person",
    "second_person",
    # doubt
    "log_hedges", "hedge_rate", "log_refusals", "refuses_first", "log_corrections", "log_placeholders",
    "ends_with_question",
    # not finished
    "was_cut_off", "ends_mid_sentence", "ends_open", "open_fence", "open_brackets", "open_note",
    # going round in circles
    "compressibility", "repeated_phrases", "repeated_lines",
    # numbers
    "has_number", "has_marked_final", "log_final_marks", "log_final", "final_is_fraction", "final_is_long_fraction",
    "final_is_negative", "final_is_zero", "log_largest_number",
    # calculations
    "log_calculations", "no_calculation", "false_calculations", "any_false_calculation", "unreadable_calculations",
    "log_sums", "log_differences", "log_products", "log_quotients", "numbers_from_nowhere", "dangling_results",
    "any_dangling_result", "final_is_result", "final_is_last_result", "fractional_results", "negative_result",
    "repeated_results", "log_variables", "no_note",
    # against the prompt
    "prompt_words_covered", "words_from_prompt", "length_over_prompt", "unused_numbers", "unused_number_share",
    "not_calculated_with", "not_calculated_with_share", "unused_number_words", "prompt_numbers",
    "prompt_number_words", "final_in_prompt", "final_over_largest", "calculations_per_number",
    # agreement of resamples
    "resamples_agree", "resamples_word_overlap",
    # token probabilities
    "mean_logprob", "lowest_logprob", "unsure_tokens",
    # form
    "calls_tools", "tool_calls_valid", "is_json", "schema_valid",
)  # fmt: skip
"""Names of the checks in their order; NaN where an answer gives nothing to look at."""


def check_answers(answers: list[Answer], prompts: list[str | None]) -> NDArray[np.float64]:
    """All checks of all answers, shape (n, len(CHECKS)); NaN where there is nothing to look at.

    Raises:
        MissingExtraError: An answer has a JSON schema, and jsonschema is not installed.
    """
    found = np.full((len(answers), len(CHECKS)), np.nan)
    for row, (answer, prompt) in enumerate(zip(answers, prompts, strict=True)):
        text = clean_and_cut([answer.text], _MAX_CHARACTERS)[0].strip()
        asked = clean_and_cut([prompt], _MAX_CHARACTERS)[0] if prompt is not None else None
        lowered = text.lower().replace("\u2019", "'")
        words = _WORDS.findall(lowered)
        values = _shape(text, words) | _doubt(text, lowered, len(words)) | _unfinished(text, answer)
        values |= _circles(text, words) | _arithmetic(text, words, asked)
        values |= _agreement(text, words, answer) | _confidence(answer) | _form(text, answer)
        found[row] = [values.get(name, _NAN) for name in CHECKS]
    return found


def _log(count: float) -> float:
    return math.log1p(max(count, 0.0))


def _shape(text: str, words: list[str]) -> dict[str, float]:
    n = max(len(words), 20)
    counts = Counter(words)
    return {
        "log_words": _log(len(words)),
        "log_characters_squared": (_log(len(text)) - 6.5) ** 2,  # both too short and too long
        "is_short": float(len(text) < _SHORT),
        "log_items": _log(len(_ITEMS.findall(text))),
        "log_headings": _log(len(_HEADINGS.findall(text))),
        "log_bold": _log(text.count("**")),
        "log_colons": _log(text.count(":")),
        "log_quotes": _log(text.count('"')),
        "log_table_bars": _log(text.count("|")),
        "log_code_fences": _log(text.count("```")),
        "longest_line": _log(max(map(len, text.split("\n")))),
        "distinct_words": len(counts) / math.sqrt(max(len(words), 1)),
        "first_person": (counts["i"] + counts["i'm"] + counts["i'll"]) / n,
        "second_person": (counts["you"] + counts["your"]) / n,
    }


def _doubt(text: str, lowered: str, n_words: int) -> dict[str, float]:
    hedges = len(_HEDGES.findall(lowered))
    refusals = [match.start() for match in _REFUSALS.finditer(lowered)]
    return {
        "log_hedges": _log(hedges),
        "hedge_rate": hedges / max(n_words, 20),
        "log_refusals": _log(len(refusals)),
        "refuses_first": float(bool(refusals) and refusals[0] < 200),
        "log_corrections": _log(len(_CORRECTIONS.findall(lowered))),
        "log_placeholders": _log(len(_PLACEHOLDERS.findall(text))),
        "ends_with_question": float(text.endswith("?")),
    }


def _unfinished(text: str, answer: Answer) -> dict[str, float]:
    reason = answer.finish_reason
    return {
        "was_cut_off": _NAN if reason is None else float(reason in _CUT_OFF),
        "ends_mid_sentence": float(text != "" and (text[-1].isalpha() or text[-1] in ",;")),
        "ends_open": float(text.endswith((",", "(", "-", "+", "*", "/", "=", "<", ":"))),
        "open_fence": float(text.count("```") % 2),
        "open_brackets": _log(abs(text.count("(") - text.count(")"))),
        "open_note": float(text.count("<<") != text.count(">>")),
    }


def _circles(text: str, words: list[str]) -> dict[str, float]:
    raw = text.encode()
    phrases = len(words) - 3
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return {
        "compressibility": len(zlib.compress(raw, 1)) / max(len(raw), 60),
        "repeated_phrases": (
            1 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / phrases if phrases > 0 else 0.0
        ),
        "repeated_lines": 1 - len(set(lines)) / len(lines) if lines else 0.0,
    }


def _arithmetic(text: str, words: list[str], prompt: str | None) -> dict[str, float]:
    digits, spelled = numbers_of_question(prompt) if prompt is not None else ([], [])
    seen = numbers(text)
    found = calculations(text, [*digits, *spelled])
    final, is_marked = final_number(text, seen)
    results = [each.result for each in found.found]
    signs = Counter("".join(each.signs for each in found.found))
    false = sum(not each.holds for each in found.found)
    dangling = sum(final is None or not is_near(result, final) for result in found.dangling)
    value = 0.0 if final is None else final
    values = {
        "has_number": float(final is not None),
        "has_marked_final": float(is_marked),
        "log_final_marks": _log(text.count("####")),
        "log_final": _log(min(abs(value), 1e9)),
        "final_is_fraction": float(not value.is_integer()),
        "final_is_long_fraction": float(abs(100 * value - round(100 * value)) > 1e-6),
        "final_is_negative": float(value < 0),
        "final_is_zero": float(final == 0),
        "log_largest_number": _log(min(max(map(abs, seen), default=0.0), 1e12)),
        "log_calculations": _log(len(results)),
        "no_calculation": float(not results),
        "false_calculations": min(false, 3),
        "any_false_calculation": float(false > 0),
        "unreadable_calculations": _log(sum(each.value is None for each in found.found)),
        "log_sums": _log(signs["+"]),
        "log_differences": _log(signs["-"]),
        "log_products": _log(signs["*"]),
        "log_quotients": _log(signs["/"]),
        "dangling_results": _log(dangling),
        "any_dangling_result": float(dangling > 0),
        "final_is_result": float(final is not None and any(is_near(final, result) for result in results)),
        "final_is_last_result": float(final is not None and bool(results) and is_near(final, results[-1])),
        "fractional_results": _log(sum(not result.is_integer() for result in results)),
        "negative_result": float(any(result < 0 for result in results)),
        "repeated_results": _log(len(results) - len(set(results))),
        "log_variables": _log(len(_VARIABLES.findall(text))),
        "no_note": float("<<" not in text),
    }
    if prompt is not None:
        values["numbers_from_nowhere"] = _log(found.from_nowhere)
        values |= _against_prompt(words, prompt, digits, spelled, seen, found.operands, final, len(results))
    return values


def _against_prompt(
    words: list[str],
    prompt: str,
    digits: list[float],
    spelled: list[float],
    seen: list[float],
    operands: list[float],
    final: float | None,
    n_results: int,
) -> dict[str, float]:
    asked = _WORDS.findall(prompt.lower())
    telling = {word for word in asked if len(word) > 3}
    given = set(words)
    distinct = set(digits)
    used, shown = set(operands), {abs(number) for number in seen}

    def is_in(value: float, among: set[float]) -> bool:
        return value in among or value / 100 in among or any(is_near(value, each) for each in among)

    unused = sum(not (is_in(value, shown) or is_in(value, used)) for value in distinct)
    not_used = sum(not is_in(value, used) for value in distinct)
    # half of something is also "/ 2"
    unused_words = sum(not (is_in(v, shown) or is_in(v, used) or is_in(1 / v, used)) for v in set(spelled))
    largest = max(digits, default=0.0)
    value = 0.0 if final is None else abs(final)
    return {
        "prompt_words_covered": len(telling & given) / len(telling) if telling else _NAN,
        "words_from_prompt": sum(word in telling for word in words) / max(len(words), 1),
        "length_over_prompt": _log(len(words)) - _log(len(asked)),
        "unused_numbers": _log(unused),
        "unused_number_share": unused / max(len(distinct), 1),
        "not_calculated_with": _log(not_used),
        "not_calculated_with_share": not_used / max(len(distinct), 1),
        "unused_number_words": _log(unused_words),
        "prompt_numbers": _log(len(digits)),
        "prompt_number_words": _log(len(spelled)),
        "final_in_prompt": float(final is not None and any(is_near(value, each) for each in (*digits, *spelled))),
        "final_over_largest": _log(min(value, 1e9)) - _log(min(largest, 1e9)) if digits else 0.0,
        "calculations_per_number": n_results / max(len(digits) + len(spelled), 1),
    }


def _agreement(text: str, words: list[str], answer: Answer) -> dict[str, float]:
    """Whether other answers of the same model end with the same number, or are the same; and how alike their words are.

    Source: Wang et al. 2022, Self-consistency, arXiv:2203.11171; Yue et al. 2023, arXiv:2310.03094 (cascades).
    """
    others = clean_and_cut(list(answer.resamples), _MAX_CHARACTERS)
    if not others:
        return {}
    own, _ = final_number(text, numbers(text))
    same, overlap = 0, 0.0
    mine = set(words)
    for other in others:
        final, _ = final_number(other, numbers(other))
        if own is None:
            same += final is None and other.strip().lower() == text.lower()
        else:
            same += final is not None and is_near(own, final)
        theirs = set(_WORDS.findall(other.lower()))
        overlap += len(mine & theirs) / max(len(mine | theirs), 1)
    return {"resamples_agree": same / len(others), "resamples_word_overlap": overlap / len(others)}


def _confidence(answer: Answer) -> dict[str, float]:
    if answer.logprobs is None or not len(answer.logprobs):
        return {}
    logprobs = np.clip(np.nan_to_num(np.asarray(answer.logprobs, dtype=np.float64), nan=-20.0), -20.0, 0.0)
    return {
        "mean_logprob": float(logprobs.mean()),
        "lowest_logprob": float(logprobs.min()),
        "unsure_tokens": float((logprobs < math.log(0.5)).mean()),
    }


# -- form
def _form(text: str, answer: Answer) -> dict[str, float]:
    values = {"calls_tools": float(bool(answer.tool_calls))}
    if answer.tool_calls and answer.tools is not None:
        valid = [
            call.get("name") in answer.tools
            and _is_valid(_parsed(call.get("arguments")), answer.tools[str(call["name"])])
            for call in answer.tool_calls
        ]
        values["tool_calls_valid"] = float(all(valid))
    parsed = _parsed(_unfenced(text)) if text[:1] in ("{", "[", "`") or answer.schema is not None else None
    values["is_json"] = float(isinstance(parsed, (dict, list)))
    if answer.schema is not None:
        values["schema_valid"] = float(parsed is not None and _is_valid(parsed, answer.schema))
    return values


def _unfenced(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and len(text) >= 6:
        return text[3:-3].partition("\n")[2]
    return text


def _parsed(value: Any) -> Any:
    """What JSON text holds; None: it is no JSON. Anything but text is taken as parsed."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _is_valid(value: Any, schema: Any) -> bool:
    jsonschema = need("jsonschema", extra="verify", why="checking an answer against its JSON schema")
    try:
        jsonschema.Draft202012Validator(schema).validate(value)
    except (jsonschema.ValidationError, RecursionError):
        return False
    except Exception:  # noqa: BLE001 - a schema that is none says nothing against the answer
        return True
    return True
