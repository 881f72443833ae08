"""Cost of a call."""

import pytest

from routellm_core.errors import UnknownKindError
from routellm_core.prices import cost_usd

pytest.importorskip("genai_prices", reason="needs the extra 'prices'")


def test_cost_is_tokens_times_the_listed_price():
    # gpt-4.1: $2 a million in, $8 a million out
    assert cost_usd("openai:gpt-4.1", input_tokens=1_000_000, output_tokens=0) == pytest.approx(2.0)
    assert cost_usd("openai:gpt-4.1", input_tokens=1000, output_tokens=100) == pytest.approx(0.0028)
    assert cost_usd("gpt-4.1-mini", input_tokens=0, output_tokens=0) == 0


def test_a_model_without_a_price_is_an_error_not_a_zero():
    with pytest.raises(UnknownKindError, match="no price known for 'openai:my-own-model'"):
        cost_usd("openai:my-own-model", input_tokens=1, output_tokens=1)
