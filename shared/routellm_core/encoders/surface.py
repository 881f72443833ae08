"""What can be counted in a prompt without knowing a word of it: length, numbers, marks, options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core.encoders.base import Encoder
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError
from routellm_core.persistence import digest_of

__all__ = ["SURFACE_FEATURES", "SurfaceEncoder"]

_VERSION = "1"  # part of the digest; change it with anything that changes a vector
_BLOCK_CHARACTERS = 1 << 20  # bounds the memory of one pass: a few arrays of this many 8-byte numbers
_MAX_WORD, _MAX_DIGITS = 20.0, 10.0

# Classes of characters. Every count below is a sum over pairs of neighbouring classes ("a digit after
# something that is no digit" starts a number), so one histogram of class pairs gives all of them.
_OTHER, _SPACE, _NEWLINE, _LOWER, _UPPER, _FOREIGN, _DIGIT, _STOP, _COMMA, _QUESTION, _MARK = range(11)
_CLASSES = 11
_PAIRS = _CLASSES * _CLASSES
_WORD = (_LOWER, _UPPER, _FOREIGN)
_TABLE_END = 0x3000  # code points from here on are letters of some script, or pictures: one class
_LINE_CAPITAL = _NEWLINE * _CLASSES + _UPPER
_LINE_MARK = _NEWLINE * _CLASSES + _MARK
_MARK_CAPITAL = _MARK * _CLASSES + _UPPER


def _class_table() -> NDArray[np.uint8]:
    table = np.full(_TABLE_END + 1, _FOREIGN, dtype=np.uint8)
    table[:0xC0] = _OTHER  # ASCII and the Latin-1 signs; the letters follow at 0xC0
    table[0x2000:0x2070] = _OTHER  # general punctuation
    for characters, each in (
        ("abcdefghijklmnopqrstuvwxyz", _LOWER),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _UPPER),
        ("0123456789", _DIGIT),
        (" \t\r\f\v\u00a0", _SPACE),
        ("\n\u2028\u2029", _NEWLINE),
        (".!\u2026", _STOP),
        (",", _COMMA),
        ("?", _QUESTION),
        ("+-*/=<>^%|~\\${}[]()_\u00b0\u00b1\u00b2\u00b3\u00b9\u00d7\u00f7", _MARK),
    ):
        table[[ord(character) for character in characters]] = each
    table[0x2000:0x200C] = _SPACE
    table[0x2070:0x20A0] = _MARK  # superscripts and subscripts
    table[0x2190:0x2300] = _MARK  # arrows and mathematical operators
    return table


def _count_matrix() -> NDArray[np.float64]:
    """Shape (_PAIRS, 11): what a pair (previous class, class) adds to the first eleven fields of `_Counts`."""
    matrix = np.zeros((_CLASSES, _CLASSES, 11))
    word = np.isin(np.arange(_CLASSES), _WORD)
    matrix[:, _DIGIT, 0] = 1
    matrix[np.arange(_CLASSES) != _DIGIT, _DIGIT, 1] = 1
    matrix[:, _MARK, 2] = 1
    matrix[:, _NEWLINE, 3] = 1
    matrix[:, _COMMA, 4] = 1
    matrix[:, _QUESTION, 5] = 1
    matrix[:, _UPPER, 6] = 1
    matrix[:, _FOREIGN, 7] = 1
    matrix[:, :, 8] = np.outer(~word, word)
    matrix[:, word, 9] = 1
    for stop in (_STOP, _QUESTION):
        matrix[stop, [_SPACE, _NEWLINE], 10] = 1
    return matrix.reshape(_PAIRS, 11)


_CLASS_OF = _class_table()
_COUNTS_OF = _count_matrix()

Numbers: TypeAlias = NDArray[Any]


class _Counts(NamedTuple):
    """What was counted in each text; every field has shape (number of texts,)."""

    digits: Numbers
    numbers: Numbers
    marks: Numbers
    breaks: Numbers
    commas: Numbers
    questions: Numbers
    upper: Numbers
    foreign: Numbers
    words: Numbers
    letters: Numbers
    stops: Numbers
    lengths: Numbers
    options: Numbers
    option_characters: Numbers


_FORMULAS: dict[str, Callable[[_Counts], Numbers]] = {
    # length without a block of answer options: their number must not decide
    "log_stem_characters": lambda c: np.log1p(c.lengths - c.option_characters),
    # runs of digits
    "log_numbers": lambda c: np.log1p(c.numbers),
    # characters of mathematics, LaTeX and code
    "log_marks": lambda c: np.log1p(c.marks),
    # line breaks, those before answer options not counted
    "log_lines": lambda c: np.log1p(np.maximum(c.breaks - 1 - c.options, 0)),
    "log_commas": lambda c: np.log1p(c.commas),
    # question marks
    "log_questions": lambda c: np.log1p(c.questions),
    # answer options "A. ", "B) ", "(C) ", each on its own line; 0 or at least 2
    "log_options": lambda c: np.log1p(c.options),
    "log_words_per_sentence": lambda c: np.log1p(c.words / np.maximum(c.stops, 1)),
    # characters, at most 20
    "mean_word_length": lambda c: np.minimum(c.letters / np.maximum(c.words, 1), _MAX_WORD),
    # at most 10
    "digits_per_number": lambda c: np.minimum(c.digits / np.maximum(c.numbers, 1), _MAX_DIGITS),
    # of all characters, 0..1
    "upper_share": lambda c: c.upper / np.maximum(c.lengths, 1),
    # of all characters, 0..1
    "non_ascii_share": lambda c: c.foreign / np.maximum(c.lengths, 1),
}

SURFACE_FEATURES = tuple(_FORMULAS)
"""Names of the features in their order; `log_` is log(1 + n), so that an absent thing is 0."""


class SurfaceEncoder(Encoder):
    """Counts and shares of characters, words, numbers, marks and answer options; bounded, no files.

    No Python code runs per character or per prompt of a batch.

    Args:
        features: Which of `SURFACE_FEATURES`, in the order wanted. All by default.
        max_characters: Longer texts are cut, keeping both ends.

    Raises:
        ConfigurationError: A feature is unknown or named twice, none is named, or `max_characters` is below 2.
    """

    kind: ClassVar[str] = "surface"
    is_quick = True

    def __init__(self, features: Sequence[str] = SURFACE_FEATURES, *, max_characters: int = 4096) -> None:
        unknown = [name for name in features if name not in SURFACE_FEATURES]
        if unknown or not features or len(set(features)) != len(features):
            raise ConfigurationError(
                f"features must be one or more different names out of "
                f"{', '.join(SURFACE_FEATURES)}; got {list(features)}"
            )
        if max_characters < 2:
            raise ConfigurationError(f"max_characters must be at least 2, got {max_characters}")
        self.features = tuple(features)
        self.max_characters = int(max_characters)

    @property
    def dim(self) -> int:
        return len(self.features)

    @property
    def digest(self) -> str:
        return digest_of("surface", _VERSION, repr((self.features, self.max_characters)))

    def settings(self) -> dict[str, Any]:
        return {"features": list(self.features), "max_characters": self.max_characters}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        cut = clean_and_cut(texts, self.max_characters)
        lengths = np.fromiter(map(len, cut), dtype=np.int64, count=len(cut))
        vectors = np.empty((len(cut), self.dim), dtype=np.float32)
        if len(cut) == 1:
            self._fill(vectors, cut, lengths)
            return vectors
        block_of = np.cumsum(lengths + 1) // _BLOCK_CHARACTERS
        starts = np.flatnonzero(np.diff(block_of, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(cut)], strict=True):
            self._fill(vectors[start:stop], cut[start:stop], lengths[start:stop])
        return vectors

    def _fill(self, vectors: NDArray[np.float32], texts: list[str], lengths: NDArray[np.int64]) -> None:
        counts = _counted(texts, lengths)
        for column, name in enumerate(self.features):  # formulas kept here could not be pickled
            vectors[:, column] = _FORMULAS[name](counts)


def _counted(texts: list[str], lengths: NDArray[np.int64]) -> _Counts:
    n = len(texts)
    # a line break before each text and after the last: every text begins a line, and no pair of
    # neighbours joins two texts. Surrogates were replaced when the texts were cleaned.
    joined = "\n" + "\n".join(texts) + "\n"
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    classes = _CLASS_OF.take(points, mode="clip")
    pairs = classes[:-1] * _CLASSES + classes[1:]  # pair i ends with points[i + 1]; fits in a byte
    if n == 1:
        histogram = np.bincount(pairs, minlength=_PAIRS)[np.newaxis]
    else:
        row = np.repeat(np.arange(n, dtype=np.int64) * _PAIRS, lengths + 1)
        histogram = np.bincount(pairs + row, minlength=n * _PAIRS).reshape(n, _PAIRS)
    return _Counts._make((*(histogram @ _COUNTS_OF).T, lengths, *_options(points, pairs, histogram, lengths)))


def _options(
    points: NDArray[np.uint32], pairs: NDArray[np.uint8], histogram: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many answer options each text has, and how many characters their block takes.

    An option is a line that begins with "A.", "A)", "A:" or "(A)". The block runs from the first
    one to the end of the last one's line. A single such line is no choice and counts as none.

    Returns:
        Two arrays of shape (len(lengths),).
    """
    none = np.zeros_like(lengths)
    if (histogram[:, _LINE_CAPITAL] + histogram[:, _LINE_MARK]).max() < 2:
        return none, none  # most prompts: not two lines that could begin an option
    plain = np.flatnonzero(pairs == _LINE_CAPITAL)
    after = points[plain + 2]
    plain = plain[(after == ord(".")) | (after == ord(")")) | (after == ord(":"))]
    wrapped = np.flatnonzero(pairs == _LINE_MARK)
    wrapped = wrapped[(points[wrapped + 1] == ord("(")) & (pairs[wrapped + 1] == _MARK_CAPITAL)]
    wrapped = wrapped[points[wrapped + 3] == ord(")")]
    marks = np.sort(np.concatenate([plain, wrapped]))
    counts = np.bincount(np.searchsorted(np.cumsum(lengths + 1), marks, side="right"), minlength=lengths.size)
    chosen = np.flatnonzero(counts >= 2)
    if not chosen.size:
        return none, none
    past = np.cumsum(counts)[chosen]
    begin, last = marks[past - counts[chosen]], marks[past - 1]
    breaks = np.flatnonzero(pairs % _CLASSES == _NEWLINE)
    characters = none.copy()
    characters[chosen] = breaks[np.searchsorted(breaks, last, side="right")] - begin
    return np.where(counts >= 2, counts, 0), characters
