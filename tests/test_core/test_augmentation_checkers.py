"""Checkers: is a free answer right?"""

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core.augmentation.checkers import (
    CHECKERS,
    chosen_letter,
    final_number,
    is_choice,
    is_exact,
    is_numeric,
    resolve_checker,
)
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("C", "C"),
        ("c)", "C"),
        ("**D**", "D"),
        ("B) Paris", "B"),
        ("D: because it is late", "D"),
        ("The answer is (C).", "C"),
        ("Answer: **C**", "C"),
        ("answer: (a)", "A"),
        ("Final answer:\n\nE", "E"),
        ("The correct answer is $\\boxed{B}$", "B"),
        ("\\boxed{\\text{(D)}}", "D"),
        ("The answer would be **B. Rome**", "B"),
        ("The best answer is therefore option C.", "C"),
        ("The correct option is B because A is wrong.", "B"),
        ("I think it's A. No, the answer is B.", "B"),
        ("So we rule out (A) and pick (C)", "C"),
        ("The answer is a matter of taste, but (B) fits", "B"),
        ("First, A seems right.\nB\n", "B"),
        ("The answer is A dog", None),  # a word, not an option
        ("The answer is b-flat minor", None),
        ("A dog", None),
        ("I don't know", None),
        ("None of these", None),
        ("The answer is not given", None),
        ("", None),
    ],
)
def test_the_letter_an_answer_settles_on(response, letter):
    assert chosen_letter(response) == letter


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from(["The answer is ({}).", "Answer: {}", "{}", "({}) it is", "{}."]))
def test_every_letter_is_found_in_every_frame(letter, frame):
    assert chosen_letter(f"{frame}".format(letter)) == letter
    assert is_choice(frame.format(letter), f"({letter.lower()})") == 1.0
    assert is_choice(frame.format(letter), "B" if letter == "A" else "A") == 0.0


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("#### 42", 42),
        ("#### $1,080\n\nnote 3", 1080),
        ("#### 60 minutes", 60),
        ("The total is $1,234.50.", 1234.5),
        ("Each pays 4*2=<<4*2=8>>8", 8),
        ("She has 7 <<7*1>>", 7),
        ("x = 3/4", 0.75),
        ("\\boxed{\\frac{3}{4}}", 0.75),
        ("so \\boxed{-5} in 2 steps", -5),
        ("1 1/2 cups", 1.5),
        ("50%", 50),
        ("-$3", -3),
        ("$-3", -3),
        ("5-3", 3),  # a minus between numbers is no sign
        ("pages 20-30", 30),
        ("3.14e5", 314000),
        ("2 \\times 10^{3}", 2000),
        ("12{,}500", 12500),
        (".5", 0.5),
        ("He has 3.", 3),
        ("The answer is 48 + 24 = 72 clips", 72),
        ("The answer is 72 clips in 5 months", 72),
        ("answer: **18** dollars", 18),
        ("The answer is unknown, but 7 fits", 7),
        ("no number", None),
        ("GPT4 and v2", None),  # part of a name
        ("5/0", None),
        ("1e999", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_the_number_an_answer_ends_in(response, number):
    assert final_number(response) == (None if number is None else pytest.approx(number))


@given(st.integers(-(10**9), 10**9))
def test_an_integer_is_found_with_and_without_commas(number):
    for text in (f"The answer is {number:,}.", f"so we get {number}", f"#### {number}", f"\\boxed{{{number:,}}}"):
        assert is_numeric(text, str(number)) == 1.0
        assert is_numeric(text, str(number + 1)) == 0.0 or abs(number) >= 10**6  # equal to a millionth


@given(st.text())
def test_no_text_breaks_a_checker(text):
    for checker, answer in ((is_choice, "A"), (is_numeric, "1"), (is_exact, "x")):
        assert checker(text, answer) in (0.0, 1.0)


@pytest.mark.parametrize(
    "unit", [" ", "answer ", "1 ", "(", "1,", "\\boxed{", "#", "1/", "-", "answer is (", "A", "\n\n\n", "(\n\n"]
)
def test_long_answers_take_time_in_proportion_to_their_length(unit):
    # a pattern that looks back over what it has seen takes minutes here, not milliseconds
    text = unit * 20_000
    started = time.process_time()
    chosen_letter(text)
    final_number(text)
    assert time.process_time() - started < 5.0


def test_exact_looks_past_case_punctuation_and_articles():
    assert is_exact("The  Eiffel tower.", "eiffel tower") == 1.0
    assert is_exact("Eiffel towers", "eiffel tower") == 0.0
    assert is_exact("+", "+") == 1.0  # nothing is left of it without punctuation
    assert is_exact("-", "+") == 0.0


@pytest.mark.parametrize(
    ("checker", "answer", "message"),
    [
        (is_choice, "K", "'K' is not a letter A to J"),
        (is_choice, "", "not a letter"),
        (is_numeric, "none", "holds no number"),
        (is_exact, " ", "is empty"),
    ],
)
def test_a_right_answer_that_cannot_be_used_is_refused(checker, answer, message):
    with pytest.raises(DataError, match=message):
        checker("A 1", answer)


def test_checkers_are_found_by_name():
    assert CHECKERS.kinds() == ["choice", "exact", "numeric"]
    assert resolve_checker("numeric") is is_numeric
    assert resolve_checker(len) is len
    with pytest.raises(UnknownKindError, match="known: choice, exact, numeric"):
        resolve_checker("fuzzy")
    with pytest.raises(ConfigurationError, match="got int"):
        resolve_checker(3)


def test_numbers_of_real_answers_agree_with_how_they_were_scored(data_folder):
    """GSM8K's right answers are not in the data; but two right answers must be equal, a right and a wrong one not."""
    parquet = pytest.importorskip("pyarrow.parquet")
    responses = parquet.read_table(data_folder / "eval" / "gsm8k_responses.parquet").to_pydict()
    scores = parquet.read_table(data_folder / "eval" / "gsm8k.parquet").to_pydict()
    assert responses["id"] == scores["id"]
    strong = [final_number(text) for text in responses["strong_response"]]
    weak = [final_number(text) for text in responses["weak_response"]]
    assert None not in strong and None not in weak
    equal = np.isclose(strong, weak, rtol=1e-6)
    right = np.array([scores["strong_score"], scores["weak_score"]]) == 1.0
    assert equal[right.all(axis=0)].mean() > 0.99
    one = right[0] ^ right[1]
    # most of the rest are amounts such as $20.00, which the published scores take for another number than 20
    assert (~equal[one]).mean() > 0.93
    texts = [f"{a}\n{b}" for a, b in zip(responses["strong_response"], responses["weak_response"], strict=True)]
    cents = np.array([bool(re.search(r"\.00\b", text[-400:])) for text in texts])
    assert (~equal[one & ~cents]).mean() > 0.97
