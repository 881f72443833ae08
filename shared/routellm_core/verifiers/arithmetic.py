"""Calculations in a text, read and worked out again; nothing is evaluated as code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Calculation", "Calculations", "calculations", "final_number", "is_near", "numbers", "numbers_of_question"]

_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?\d[\d,]{0,15}(?:\.\d{1,9})?")
_FRACTION = re.compile(r"(?<![\d.,/])(\d{1,9})\s{0,2}/\s{0,2}(\d{1,9})(?![\d,/])")
_WORD = re.compile(r"[a-z]+")
_RESULT = re.compile(r"\s{0,3}\$?\s{0,2}([-−]?\$?\d[\d,]{0,15}(?:\.\d{1,9})?%?)")
_ANNOTATION = re.compile(r"<<([^<>=\n]{1,80})=([^<>=\n]{1,30})>>")  # GSM8K's calculator notes
_TOKEN = re.compile(r"\\times|\\div|\\cdot|[-+*/×÷()−]|\d[\d,]*(?:\.\d+)?%?|\.\d+%?|[A-Za-z]+")
_CLAUSE = re.compile(r"[:;=<>\n]|\. |, ")
_FINAL = re.compile(r"####[^\S\n]{0,3}([^\n]{0,60})|\\boxed\{([^{}\n]{1,60})\}")
_TIMES = ("*", "×", "x", "\\times", "\\cdot")
_OVER = ("/", "÷", "\\div")
_MINUS = "-−"
_MOST = 64  # calculations of one text
_REACH = 80  # characters before an equals sign
_UNIT_WORDS = 4  # between a number and the next sign, as in "252 eggs / 12 eggs per dozen"
_MOST_TOKENS, _DEEPEST = 60, 20
_NAMES = {
    name: float(value)
    for value, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
    if value > 1  # "one" is seldom a quantity
} | {
    "thirty": 30.0,
    "forty": 40.0,
    "fifty": 50.0,
    "sixty": 60.0,
    "seventy": 70.0,
    "eighty": 80.0,
    "ninety": 90.0,
    "hundred": 100.0,
    "thousand": 1000.0,
    "dozen": 12.0,
    "half": 0.5,
    "quarter": 0.25,
    "third": 1 / 3,
    "twice": 2.0,
    "double": 2.0,
    "couple": 2.0,
    "pair": 2.0,
    "triple": 3.0,
    "thrice": 3.0,
}


@dataclass(frozen=True, slots=True)
class Calculation:
    """One "expression = result" of a text.

    Attributes:
        operands: The numbers of the expression.
        signs: Its "+", "-", "*" and "/".
        value: What it gives; None: it cannot be read, or divides by zero.
        result: What the text says it gives.
    """

    operands: tuple[float, ...]
    signs: str
    value: float | None
    result: float

    @property
    def holds(self) -> bool:
        """Whether the result is right, rounding and percent forgiven; an expression that cannot be read is."""
        if self.value is None:
            return True
        rounded = self.result.is_integer() and abs(self.value) > 20 and abs(self.value - self.result) <= 0.5
        return rounded or is_near(self.value, self.result, 6e-3) or is_near(100 * self.value, self.result, 6e-3)


@dataclass(slots=True)
class Calculations:
    """All calculations of a text, and how they hang together.

    Attributes:
        found: In the order of the text, each once.
        operands: Of all of them.
        dangling: Results that no later calculation uses.
        from_nowhere: Operands that are neither given, nor a result, nor a usual constant.
    """

    found: list[Calculation] = field(default_factory=list)
    operands: list[float] = field(default_factory=list)
    dangling: list[float] = field(default_factory=list)
    from_nowhere: int = 0


_CONSTANTS = (0.5, 1.0, 2.0, 7.0, 12.0, 24.0, 30.0, 52.0, 60.0, 100.0, 365.0)


def calculations(text: str, given: list[float]) -> Calculations:
    """The calculations of an answer.

    Args:
        text: The answer.
        given: Numbers of the question.
    """
    if "=" not in text:
        return Calculations()
    out = Calculations()
    used: set[int] = set()
    results: list[float] = []
    seen = set()
    for _, expression, result in sorted([*_notes(text), *_plain(_ANNOTATION.sub(" ", text))])[:_MOST]:
        stated = _number(result)
        if stated is None or (tuple(expression), stated) in seen:
            continue
        seen.add((tuple(expression), stated))
        value, operands, signs = _worked_out(expression)
        for operand in operands:
            hits = [j for j, earlier in enumerate(results) if is_near(operand, earlier)]
            used.update(hits)
            if not hits and not _is_among(operand, given, out.operands, _CONSTANTS):
                out.from_nowhere += 1
        out.operands += operands
        results.append(stated)
        out.found.append(Calculation(tuple(operands), "".join(signs), value, stated))
    out.dangling = [result for j, result in enumerate(results) if j not in used]
    return out


def numbers(text: str) -> list[float]:
    """The numbers of a text, without the calculator notes."""
    found = (_number(match[0]) for match in _NUMBER.finditer(_ANNOTATION.sub(" ", text) if "<<" in text else text))
    return [number for number in found if number is not None]


def numbers_of_question(text: str) -> tuple[list[float], list[float]]:
    """Numbers written in digits (a fraction is one number), and those written as words."""
    values = [int(match[1]) / int(match[2]) for match in _FRACTION.finditer(text) if int(match[2])]
    values += [abs(number) for number in numbers(_FRACTION.sub(" ", text))]
    words = [_NAMES[word] for word in _WORD.findall(text.lower()) if word in _NAMES]
    return values, words


def final_number(text: str, all_numbers: list[float]) -> tuple[float | None, bool]:
    """The number an answer ends with, and whether it is marked as the final one (#### or a box)."""
    for match in reversed(list(_FINAL.finditer(text))):
        marked = numbers(match[1] or match[2] or "")
        if marked:
            return marked[0], True
    return (all_numbers[-1], False) if all_numbers else (None, False)


def is_near(one: float, other: float, tolerance: float = 1e-6) -> bool:
    """Whether two numbers are the same but for rounding."""
    return abs(one - other) <= max(tolerance * max(abs(one), abs(other)), 1e-9)


def _is_among(value: float, given: list[float], operands: list[float], constants: tuple[float, ...]) -> bool:
    return (
        value in constants
        or any(is_near(value, each) or is_near(100 * value, each) for each in given)
        or any(is_near(value, each) for each in operands)
    )


def _number(text: str) -> float | None:
    plain = text.replace(",", "").replace("$", "").replace("−", "-").replace(" ", "")
    try:
        return float(plain.rstrip("%")) / (100.0 if plain.endswith("%") else 1.0)
    except ValueError:
        return None


# -- reading
def _notes(text: str) -> list[tuple[int, list[str], str]]:
    return [(m.start(), _expression(m[1]), m[2]) for m in _ANNOTATION.finditer(text)] if "<<" in text else []


def _plain(text: str) -> list[tuple[int, list[str], str]]:
    """Expressions before an equals sign. One bounded look back from each sign, so the time is linear in the text."""
    found = []
    start = 0
    for _ in range(_MOST):
        at = text.find("=", start)
        if at < 0:
            break
        result = _RESULT.match(text, at + 1, at + 30)
        if result is not None:
            left = _CLAUSE.split(text[max(start, at - _REACH) : at])[-1]
            expression = _expression(left)
            if sum(token[0].isdigit() or token[0] == "." for token in expression) >= 2:
                found.append((at, expression, result[1]))
        start = at + 1
    return found


def _expression(text: str) -> list[str]:
    """The last run of numbers and signs, unit words left out."""
    kept: list[str] = []
    words = 0
    for token in reversed(_TOKEN.findall(text.replace("$", ""))):
        if token[0].isalpha() and token != "x":
            words += 1
            if words > _UNIT_WORDS:
                break
            continue
        words = 0
        kept.append(token)
    kept.reverse()
    start = 0
    for i in range(1, len(kept)):  # where two operands stand beside each other, the expression begins anew
        if (kept[i][0].isdigit() or kept[i] == "(") and (kept[i - 1][0].isdigit() or kept[i - 1] == ")"):
            start = i
    while start < len(kept) and (kept[start] == ")" or kept[start] in _TIMES or kept[start] in _OVER):
        start += 1
    return kept[start:]


def _worked_out(tokens: list[str]) -> tuple[float | None, list[float], list[str]]:
    """Value, operands and signs; the value is None where the expression is broken."""
    reader = _Reader(tokens)
    if len(tokens) > _MOST_TOKENS:
        return None, [], []
    try:
        value: float | None = reader.sum(0)
    except (ValueError, OverflowError):
        value = None
    if reader.at < len(tokens) or value is None or abs(value) == float("inf"):
        value = None
    return value, reader.operands, reader.signs


class _Reader:
    """Sums, products and brackets, by recursive descent."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0
        self.operands: list[float] = []
        self.signs: list[str] = []

    def next_is(self, *wanted: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in wanted

    def sum(self, depth: int) -> float:
        value = self.product(depth)
        while self.next_is("+", *_MINUS):
            sign = "+" if self.tokens[self.at] == "+" else "-"
            self.at += 1
            other = self.product(depth)
            self.signs.append(sign)
            value = value + other if sign == "+" else value - other
        return value

    def product(self, depth: int) -> float:
        value = self.atom(depth)
        while self.next_is(*_TIMES, *_OVER):
            is_over = self.tokens[self.at] in _OVER
            self.at += 1
            other = self.atom(depth)
            self.signs.append("/" if is_over else "*")
            if is_over and other == 0:
                raise ValueError
            value = value / other if is_over else value * other
        return value

    def atom(self, depth: int) -> float:
        if self.at >= len(self.tokens) or depth > _DEEPEST:
            raise ValueError
        token = self.tokens[self.at]
        self.at += 1
        if token in _MINUS:
            return -self.atom(depth + 1)
        if token == "(":
            value = self.sum(depth + 1)
            if not self.next_is(")"):
                raise ValueError
            self.at += 1
            return value
        number = _number(token)
        if number is None:
            raise ValueError
        self.operands.append(number)
        return number
