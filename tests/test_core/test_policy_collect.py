"""What collected answers cost, against all of them from the strong route."""

from __future__ import annotations

import math

import pytest

from routellm_core import Decision, collect_decisions
from routellm_core.errors import ConfigurationError
from routellm_core.policy import is_collecting, observe, observe_discarded, observe_usage
from routellm_core.types import Usage

PRICES = {"weak": (1.0, 2.0), "strong": (10.0, 40.0)}  # US dollars per million tokens in and out


def answered(route, tokens=None):
    decision = Decision(route=route, reason="score")
    observe(decision)
    if tokens is not None:
        observe_usage(decision, Usage(input_tokens=tokens[0], output_tokens=tokens[1]))
    return decision


def test_the_saving_is_worked_out_from_the_tokens_of_each_answer():
    with collect_decisions() as decisions:
        answered("weak", (1000, 500))  # 0.001 + 0.001 = 0.002; strong: 0.01 + 0.02 = 0.03
        answered("strong", (100, 100))  # 0.001 + 0.004 = 0.005
    saving = decisions.saving(PRICES)
    assert saving.usd == pytest.approx(0.007)
    assert saving.all_strong_usd == pytest.approx(0.035)
    assert saving.fraction == pytest.approx(0.8)
    assert str(saving) == "$0.007 instead of $0.035 for 2 answers, 80% saved"
    assert decisions.share("strong") == 0.5 == decisions.share("weak")


def test_a_discarded_weak_answer_counts_in_what_was_spent_and_not_in_all_strong():
    with collect_decisions() as decisions:
        escalated = answered("strong", (1000, 500))  # 0.01 + 0.02 = 0.03
        observe_discarded(escalated, "weak", Usage(input_tokens=1000, output_tokens=500))  # 0.001 + 0.001 = 0.002
        unknown = answered("strong", (1000, 500))
        observe_discarded(unknown, "weak", None)
    saving = decisions.saving(PRICES)
    assert saving.usd == pytest.approx(0.032)
    assert saving.all_strong_usd == pytest.approx(0.03)
    assert (saving.answers, saving.without_usage) == (1, 1)  # half of what the second took is not known
    assert decisions.discarded_usage_of(escalated) == Usage(input_tokens=1000, output_tokens=500)
    assert decisions.discarded_usage_of(unknown) is None
    assert len(decisions) == 2
    with pytest.raises(ConfigurationError, match="missing: weak"):
        decisions.saving({"small": (1.0, 2.0), "strong": (10.0, 40.0)})


def test_equal_decisions_keep_their_own_tokens_and_answers_without_any_are_counted_apart():
    with collect_decisions() as decisions:
        first, second = answered("weak", (10, 0)), answered("weak", (30, 0))
        answered("weak")
    assert first == second
    assert [decisions.usage_of(d) and decisions.usage_of(d).input_tokens for d in decisions] == [10, 30, None]
    saving = decisions.saving(PRICES)
    assert (saving.usd, saving.answers, saving.without_usage) == (pytest.approx(40e-6), 2, 1)
    assert str(saving).endswith("; 1 without a token count")


def test_prices_may_come_from_the_price_list():
    pytest.importorskip("genai_prices")
    with collect_decisions() as decisions:
        answered("weak", (1_000_000, 0))
    saving = decisions.saving({"weak": (0.0, 0.0), "strong": "openai:gpt-4.1"})
    assert saving.usd == 0.0 and saving.all_strong_usd > 0.0 and saving.fraction == 1.0


def test_strong_is_compared_with_wherever_it_stands_and_else_the_last_one():
    with collect_decisions() as decisions:
        answered("weak", (1_000_000, 0))
    assert decisions.saving(dict(reversed(PRICES.items()))).all_strong_usd == pytest.approx(10.0)
    assert decisions.saving({"weak": (1.0, 1.0), "large": (3.0, 3.0)}).all_strong_usd == pytest.approx(3.0)


def test_small_amounts_are_readable_and_one_answer_is_one():
    with collect_decisions() as decisions:
        answered("weak", (10, 0))
    assert str(decisions.saving(PRICES)) == "$0.00001 instead of $0.0001 for 1 answer, 90% saved"


def test_the_route_to_compare_with_can_be_named():
    with collect_decisions() as decisions:
        answered("weak", (1_000_000, 0))
    assert decisions.saving(PRICES, strong="weak").all_strong_usd == pytest.approx(1.0)


def test_what_is_free_has_no_fraction_and_no_answers_have_no_share():
    with collect_decisions() as decisions:
        pass
    assert math.isnan(decisions.share()) and math.isnan(decisions.saving(PRICES).fraction)


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({}, "it has none"),
        ({"weak": (1, 1)}, "it has weak"),
        ({"mid": (1, 1), "strong": (1, 1)}, "missing: weak"),
        ({"weak": (1.0,), "strong": (1, 1)}, "a price is"),
        ({"weak": (1.0, math.nan), "strong": (1, 1)}, "a price is"),
        ({"weak": (-1.0, 1.0), "strong": (1, 1)}, "a price is"),
    ],
)
def test_prices_that_are_none_are_refused(prices, message):
    with collect_decisions() as decisions:
        answered("weak", (1, 1))
    with pytest.raises(ConfigurationError, match=message):
        decisions.saving(prices)


def test_nested_collectors_both_see_the_tokens_and_none_is_open_outside():
    assert not is_collecting()
    with collect_decisions() as outer:
        with collect_decisions() as inner:
            decision = answered("weak", (1, 2))
        assert is_collecting()
    assert outer.usage_of(decision) == inner.usage_of(decision) == Usage(input_tokens=1, output_tokens=2)
    assert not is_collecting()


def test_what_was_taken_out_of_the_list_leaves_no_token_count_to_others():
    """A new decision may get the id of one that is gone."""
    with collect_decisions() as decisions:
        for number in range(200):
            decision = Decision(route="weak", reason="forced")
            observe(decision)
            assert decisions.usage_of(decision) is None
            observe_usage(decision, Usage(input_tokens=number, output_tokens=1))
            del decision
            decisions.clear()
