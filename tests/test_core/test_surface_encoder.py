"""The surface encoder: what it counts, and that it takes any text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core.encoders.surface import SURFACE_FEATURES, SurfaceEncoder
from routellm_core.errors import ConfigurationError
from routellm_core.testing import EncoderContract

ANY_TEXT = st.text(st.characters(blacklist_categories=()), max_size=300)  # lone surrogates included
QUESTION = "Which gas do plants take in?"
OPTIONS = "\nA. Oxygen\nB. Carbon dioxide\nC. Helium"


def features(text):
    return dict(zip(SURFACE_FEATURES, SurfaceEncoder().encode([text])[0].astype(float), strict=True))


def count(text, name):
    return round(np.expm1(features(text)[name]))


class TestSurface(EncoderContract):
    def make(self):
        return SurfaceEncoder()


class TestSomeFeatures(EncoderContract):
    def make(self):
        return SurfaceEncoder(["log_numbers", "log_stem_characters"], max_characters=500)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("hi", "log_stem_characters", 2),
        ("12 apples, 345 pears and 6.5 kg", "log_numbers", 4),
        ("x^2 + \\frac{1}{y}", "log_marks", 7),  # ^ + \ { } { }
        ("one\ntwo\n\nfour", "log_lines", 3),
        ("a, b, c", "log_commas", 2),
        ("Why? How?", "log_questions", 2),
        (QUESTION + OPTIONS, "log_options", 3),
    ],
)
def test_a_count_is_what_a_reader_counts(text, name, expected):
    assert count(text, name) == expected


def test_words_sentences_and_shares_are_what_a_reader_counts():
    got = features("I am Bob. You ask me 1234 things. Ok?")
    # 8 words of letters in 3 sentences; the letters are 1+2+3+3+3+2+6+2; the last sentence ends at the end of the text
    assert np.expm1(got["log_words_per_sentence"]) == pytest.approx(8 / 3, rel=1e-5)
    assert got["mean_word_length"] == pytest.approx(22 / 8)
    assert got["digits_per_number"] == 4
    assert got["upper_share"] == pytest.approx(4 / 37)
    assert features("né")["non_ascii_share"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "options", [OPTIONS, OPTIONS + "\nD. Neon\nE. Argon", "\nA) 1\nB) 2", "\n(A) 1\n(B) 2", "\nA: 1\nB: 2"]
)
def test_options_are_counted_apart_from_the_question_whatever_their_style_and_number(options):
    alone, with_options = features(QUESTION), features(QUESTION + options)
    # the line break before the options stays with the question
    assert with_options["log_stem_characters"] == pytest.approx(alone["log_stem_characters"], abs=0.05)
    assert with_options["log_lines"] == alone["log_lines"] == 0
    assert with_options["log_options"] > 1


def test_a_question_after_the_options_counts_as_stem():
    assert count("A. one\nB. two\nWhich is larger?", "log_stem_characters") == len("\nWhich is larger?")


@pytest.mark.parametrize(
    "text", ["Note\nA. single", "A.", "\nA", "\n(A", "\n(A\n(B", "\n(A.\n(", "x\nA.B. names", "Anna\nBob\nCarl"]
)
def test_what_is_no_choice_has_no_options(text):
    assert count(text, "log_options") == 0
    assert count(text, "log_stem_characters") == len(text)


def test_neighbours_in_a_batch_do_not_touch():
    encoder = SurfaceEncoder()
    texts = ["12", "34", "Q\nA. x\nB. y", "\nA. only", "C. alone", ""]
    np.testing.assert_array_equal(encoder.encode(texts), np.concatenate([encoder.encode([text]) for text in texts]))


def test_a_batch_larger_than_one_block_is_the_same_as_its_parts():
    encoder = SurfaceEncoder(max_characters=5000)
    texts = [f"{i}, " + "lorem ipsum. " * 300 for i in range(500)]  # 2 million characters
    few = [texts[0], texts[250], texts[499]]
    np.testing.assert_array_equal(encoder.encode(texts)[[0, 250, 499]], encoder.encode(few))


def test_a_megabyte_counts_no_more_than_its_cut():
    assert features("1 " * 500_000)["log_numbers"] <= np.log1p(4096)


def test_only_the_features_asked_for_come_in_the_order_asked_for():
    wanted = ["log_questions", "log_stem_characters"]
    got = SurfaceEncoder(wanted).encode(["Why?"])[0]
    np.testing.assert_array_equal(got, [np.float32(features("Why?")[name]) for name in wanted])


def test_settings_that_change_vectors_change_the_digest():
    made = [
        SurfaceEncoder(),
        SurfaceEncoder(max_characters=100),
        SurfaceEncoder(SURFACE_FEATURES[:3]),
        SurfaceEncoder(SURFACE_FEATURES[2::-1]),
    ]
    assert len({encoder.digest for encoder in made}) == len(made)


@pytest.mark.parametrize(
    "wrong",
    [{"features": []}, {"features": ["length"]}, {"features": ["log_marks", "log_marks"]}, {"max_characters": 1}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="got"):
        SurfaceEncoder(**wrong)


@given(st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_any_text_gets_finite_bounded_features_that_do_not_depend_on_its_neighbours(texts):
    encoder = SurfaceEncoder()
    batch = encoder.encode(texts)
    assert np.isfinite(batch).all()
    assert (batch >= 0).all()
    assert (batch <= 20).all()
    np.testing.assert_array_equal(batch, np.concatenate([encoder.encode([text]) for text in texts]))
