"""One model, many spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core.data import find_model, model_key
from routellm_core.errors import UnknownKindError
from routellm_core.training.score_table import model_key as model_key_from_before

KNOWN = ("gpt4", "gpt4_0314", "claude-2.1", "text_davinci_003", "meta-llama/Llama-2-70b-chat-hf", "llama-27b", "Yi-6B")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("gpt4", "gpt4"),
        ("gpt-4", "gpt4"),
        ("GPT 4", "gpt4"),
        ("gpt-4-0314", "gpt4_0314"),
        ("claude-2-1", "claude-2.1"),
        ("anthropic/claude-2.1", "claude-2.1"),
        ("text-davinci-003", "text_davinci_003"),
        ("llama-2-70b-chat", "meta-llama/Llama-2-70b-chat-hf"),
        ("LLAMA2-70B-chat", "meta-llama/Llama-2-70b-chat-hf"),
        ("yi-6b", "Yi-6B"),
    ],
)
def test_a_usual_spelling_finds_the_model(asked, found):
    assert find_model(asked, KNOWN) == found


@given(st.sampled_from(KNOWN))
def test_every_model_finds_itself(name):
    assert find_model(name, KNOWN) == name
    assert find_model(name.upper(), KNOWN) == name


def test_numbers_do_not_run_together():
    with pytest.raises(UnknownKindError, match="unknown model 'llama-2-7b'"):
        find_model("llama-2-7b", KNOWN)


def test_the_exact_name_wins_over_another_spelling_of_it():
    assert find_model("Yi-6b-chat", ["Yi-6b-Chat", "Yi-6b-chat"]) == "Yi-6b-chat"


def test_a_name_that_means_several_lists_them():
    with pytest.raises(UnknownKindError, match="any of 'Yi-6b-Chat', 'Yi-6b-chat'"):
        find_model("yi-6b-chat", ["Yi-6b-chat", "Yi-6b-Chat"])


def test_an_unknown_name_lists_the_known_ones_when_they_are_few():
    with pytest.raises(UnknownKindError, match=r"'gpt5'; known: a, b"):
        find_model("gpt5", ["b", "a"])


def test_an_unknown_name_lists_the_closest_when_they_are_many():
    with pytest.raises(UnknownKindError, match=r"the closest of 50 known ones: .*model-4\b"):
        find_model("modell-4", [f"model-{i}" for i in range(50)])


def test_the_key_is_where_training_had_it():
    assert model_key_from_before is model_key
