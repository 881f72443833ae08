"""Two cuts calibrated together, and the policy that decides twice."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from routellm_core import EscalationPolicy, RoutingPolicy, calibrate_escalation
from routellm_core.calibration import ABOVE_ALL, Escalation
from routellm_core.errors import CalibrationError, ConfigurationError, DataError, ScoringError
from routellm_core.policy import RouteRequest, policy_from
from routellm_core.routers import Router
from routellm_core.verifiers import Answer, Verifier

# Four prompts; strong always right, weak right on the first two. The verifier sees which, the router does not.
SAMPLE = {
    "win_rates": [0.5, 0.5, 0.5, 0.5],
    "answer_win_rates": [0.1, 0.2, 0.7, 0.8],
    "strong_scores": [1, 1, 1, 1],
    "weak_scores": [1, 1, 0, 0],
    "strong_usd": 10.0,
    "weak_usd": 1.0,
}


class Fixed(Router):
    is_quick = True

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def _score(self, prompts: list[str]) -> np.ndarray:
        return np.full(len(prompts), self.value)


class Says(Verifier):
    is_quick = True

    def __init__(self, value: float = 0.9, error: Exception | None = None) -> None:
        super().__init__()
        self.value, self.error = value, error
        self.seen: list[tuple[str, str | None]] = []

    def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
        if self.error is not None:
            raise self.error
        self.seen += [(answer.text, prompt) for answer, prompt in zip(answers, prompts, strict=True)]
        return np.full(len(answers), self.value)


def policy(verifier: Verifier | None = None, *, win_rate: float = 0.3, **options: object) -> EscalationPolicy:
    given = {"threshold": 0.8, "escalation_threshold": 0.6, **options}
    return EscalationPolicy(verifier or Says(), Fixed(win_rate), **given)  # type: ignore[arg-type]


# -- calibration
def test_a_budget_buys_the_most_quality_with_the_weak_calls_charged() -> None:
    # all weak: 1, quality .5. One escalated: (4 * 1 + 10) / 4 = 3.5, quality .75; both: 24 / 4 = 6, quality 1
    found = calibrate_escalation(**SAMPLE, budget_usd=6.0)

    assert found.point.usd == 6.0
    assert found.point.quality == 1.0
    assert found.threshold == ABOVE_ALL
    assert 0.2 < found.escalation_threshold <= 0.7
    assert [(each.usd, each.quality) for each in found.frontier] == [(1.0, 0.5), (3.5, 0.75), (6.0, 1.0)]
    assert (found.weak_usd, found.strong_usd) == (1.0, 10.0)


def test_where_verifying_costs_more_than_it_saves_prompts_go_straight_to_the_strong_model() -> None:
    # with a weak model at 9 of the strong one's 10, verifying for quality 1 costs (4 * 9 + 2 * 10) / 4 = 14 > 10
    found = calibrate_escalation(**{**SAMPLE, "weak_usd": 9.0}, budget_usd=20.0)

    assert found.threshold == 0.0
    assert (found.point.usd, found.point.quality, found.point.asked_share) == (10.0, 1.0, 0.0)


def test_both_cuts_together_beat_each_alone() -> None:
    # the router knows the last prompt (.9), the verifier the third answer. Straight the one, escalate the other:
    # (3 * 1 + 2 * 10) / 4 = 5.75 instead of 6
    found = calibrate_escalation(
        **{**SAMPLE, "win_rates": [0.5, 0.5, 0.5, 0.9], "answer_win_rates": [0.1, 0.2, 0.7, 0.1]}, budget_usd=100.0
    )

    assert found.point.usd == 5.75
    assert (found.point.strong_share, found.point.straight_share, found.point.asked_share) == (0.5, 0.25, 0.75)


def test_a_verifier_that_costs_is_not_asked_about_prompts_that_the_weak_model_surely_answers() -> None:
    found = calibrate_escalation(**{**SAMPLE, "win_rates": [0.1, 0.2, 0.6, 0.7]}, verifier_usd=4.0, budget_usd=8.0)

    # the two easy prompts unasked: (4 * 1 + 2 * 4 + 2 * 10) / 4 = 8; but straight is cheaper: (2 * 1 + 2 * 10) / 4
    assert found.point.usd == 5.5
    assert found.threshold == pytest.approx(0.4)

    # with a router that cannot tell the hard ones apart, the third answer must be asked about
    sample = {**SAMPLE, "win_rates": [0.1, 0.6, 0.6, 0.6], "weak_usd": 0.1}
    asked = calibrate_escalation(**sample, verifier_usd=0.5, budget_usd=6.0)
    assert 0.1 < asked.verify_from <= 0.6
    assert asked.point.asked_share == 0.75


def test_a_strong_share_is_not_exceeded() -> None:
    found = calibrate_escalation(**SAMPLE, strong_share=0.25)

    assert found.point.strong_share == 0.25
    assert found.point.quality == 0.75


def test_equal_win_rates_of_answers_are_escalated_together() -> None:
    found = calibrate_escalation(**{**SAMPLE, "answer_win_rates": [0.1, 0.7, 0.7, 0.8]}, strong_share=0.5)

    assert found.point.strong_share == 0.25  # two of three equal ones cannot be taken


def labelled(n: int, seed: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    weak = (rng.random(n) < 0.6).astype(float)
    return {
        "win_rates": rng.random(n),
        "answer_win_rates": np.clip(0.8 - 0.6 * weak + rng.normal(0, 0.1, n), 0, 1),
        "strong_scores": (rng.random(n) < 0.95).astype(float),
        "weak_scores": weak,
        "strong_usd": 10.0,
        "weak_usd": 1.0,
    }


def test_a_quality_floor_is_shown_on_the_half_that_the_cuts_were_not_chosen_on() -> None:
    found = calibrate_escalation(**labelled(4000), quality_floor=0.9)

    unseen = labelled(40_000, seed=1)
    strong = np.asarray(unseen["answer_win_rates"]) >= found.escalation_threshold
    strong |= np.asarray(unseen["win_rates"]) >= found.threshold
    quality = np.where(strong, unseen["strong_scores"], unseen["weak_scores"]).mean()
    assert quality >= 0.9 * np.mean(unseen["strong_scores"])
    assert found.point.strong_share < 0.75


def test_too_few_labels_for_a_floor_are_refused_with_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match=r"40 labelled answers cannot certify .* label about [\d,]+ answers"):
        calibrate_escalation(**labelled(40), quality_floor=0.9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, CalibrationError, "give one of"),
        ({"budget_usd": 1.0, "strong_share": 0.5}, CalibrationError, "give one of"),
        ({"budget_usd": 0.5}, CalibrationError, "does not pay for the cheapest way, 1"),
        ({"strong_share": 1.5}, CalibrationError, r"\[0, 1\], got 1.5"),
        ({"budget_usd": 6.0, "weak_scores": [1, 1]}, DataError, "weak_scores must be 4"),
        ({"budget_usd": 6.0, "answer_win_rates": [0, 0, 0, 2]}, DataError, r"answer_win_rates must lie in \[0, 1\]"),
        ({"budget_usd": 6.0, "weak_usd": -1.0}, DataError, "weak_usd must lie"),
        ({"quality_floor": 1.0}, CalibrationError, "quality_floor must lie between"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        calibrate_escalation(**{**SAMPLE, **change})  # type: ignore[arg-type]


# -- the policy
def test_a_hard_prompt_goes_straight_to_the_strong_model_and_is_not_verified() -> None:
    cascade = policy(win_rate=0.85)
    decision = cascade.decide([RouteRequest(text="hard")])[0]

    assert (decision.route, decision.reason) == ("strong", "score")
    assert not cascade.may_escalate(decision)


def test_a_bad_weak_answer_is_escalated_with_the_verifiers_figures_on_record() -> None:
    verifier = Says(0.6)
    cascade = policy(verifier)
    decision = cascade.decide([RouteRequest(text="easy?")])[0]
    assert cascade.may_escalate(decision, RouteRequest(text="easy?"))

    final = cascade.verified(decision, "no idea", "easy?")

    assert (final.route, final.reason, final.win_rate, final.threshold) == ("strong", "escalated", 0.6, 0.6)
    assert final.router == "Says"
    assert final.scorer_ms is not None
    assert verifier.seen == [("no idea", "easy?")]


def test_a_good_weak_answer_keeps_the_very_same_decision() -> None:
    cascade = policy(Says(0.59))
    decision = cascade.decide([RouteRequest(text="easy")])[0]

    assert cascade.verified(decision, "42") is decision
    assert asyncio.run(cascade.averified(decision, "42")) is decision


def test_only_short_answers_are_read_on_the_event_loop() -> None:
    threads: list[threading.Thread] = []

    class Where(Says):
        def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
            threads.append(threading.current_thread())
            return super()._score(answers, prompts)

    cascade = policy(Where())
    decision = cascade.decide([RouteRequest(text="x")])[0]
    for answer in ("short", Answer(text="long " * 2000)):
        assert asyncio.run(cascade.averified(decision, answer, "x")).route == "strong"

    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


@pytest.mark.parametrize(
    "request_",
    [
        RouteRequest(text="x", forced="weak"),
        RouteRequest(text="x", tool_loop="weak"),
        RouteRequest(text="x", tool_loop="weak", stickiness="none"),
        RouteRequest(text="x", pinned="weak"),
        RouteRequest(text="x", conversation="weak", stickiness="conversation"),
        RouteRequest(text="x", capable=lambda route: route == "weak"),
    ],
)
def test_calls_whose_route_is_settled_never_escalate(request_: RouteRequest) -> None:
    cascade = policy()
    decision = cascade.decide([request_])[0]

    assert decision.route == "weak"
    assert not cascade.may_escalate(decision, request_)


def test_an_open_tool_loop_whose_beginning_is_not_on_record_does_not_escalate() -> None:
    cascade = policy()
    decision = cascade.decide([RouteRequest(text="x")])[0]

    assert not cascade.may_escalate(decision, in_tool_loop=True)


def test_a_weak_answer_that_stood_in_for_a_failed_strong_model_is_kept() -> None:
    cascade = policy(win_rate=0.9, fallback="any")
    first, second = cascade.attempts(cascade.decide([RouteRequest(text="x")])[0])

    assert (second.route, second.fallback_from) == ("weak", "strong")
    assert not cascade.may_escalate(first)
    assert not cascade.may_escalate(second)


def test_prompts_below_verify_from_are_kept_unasked() -> None:
    cascade = policy(verify_from=0.4)

    assert not cascade.may_escalate(cascade.decide([RouteRequest(text="x")])[0])


@pytest.mark.parametrize(("on_error", "route"), [("strong", "strong"), ("weak", "weak")])
def test_a_verifier_that_fails_counts_as_on_error_says_and_shows_no_text(on_error: str, route: str) -> None:
    cascade = policy(Says(error=ValueError("secret answer")), on_error=on_error)
    decision = cascade.decide([RouteRequest(text="x")])[0]

    for final in (cascade.verified(decision, "a"), asyncio.run(cascade.averified(decision, "a"))):
        assert (final.route, final.reason) == (route, "scorer_error")
        assert final.error == "ScoringError: verifier 'Says' failed with ValueError"


def test_a_verifier_that_fails_raises_if_asked_to() -> None:
    cascade = policy(Says(error=ValueError("secret")), on_error="raise")
    decision = cascade.decide([RouteRequest(text="x")])[0]

    with pytest.raises(ScoringError, match="failed with ValueError"):
        cascade.verified(decision, "a")


class Hangs(Verifier):
    """Answers only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.calls = 0

    def _score(self, answers: list[Answer], prompts: list[str | None]) -> np.ndarray:
        self.calls += 1
        self.let_go.wait()
        return np.zeros(len(answers))


def test_a_verifier_that_hangs_is_left_alone_after_three_calls() -> None:
    verifier = Hangs()
    cascade = policy(verifier, verifier_timeout_s=0.01)
    decision = cascade.decide([RouteRequest(text="x")])[0]
    try:
        finals = [cascade.verified(decision, "a") for _ in range(2)]
        finals += [asyncio.run(cascade.averified(decision, "a")) for _ in range(2)]
    finally:
        verifier.let_go.set()

    assert verifier.calls <= 3  # a call that is given up before a thread takes it never runs
    assert [final.route for final in finals] == ["strong"] * 4
    assert "within 0.01 s" in str(finals[2].error)
    assert "left alone for 30 s" in str(finals[3].error)


def test_a_calibration_gives_the_policy_its_cuts() -> None:
    found = calibrate_escalation(**SAMPLE, budget_usd=6.0)
    cascade = EscalationPolicy(Says(), Fixed(0.3), escalation=found)

    assert isinstance(found, Escalation)
    assert cascade.thresholds == (ABOVE_ALL,)
    assert cascade.escalation_threshold == found.escalation_threshold


def test_the_adapters_refuse_it_since_they_would_keep_weak_answers_unverified() -> None:
    cascade = EscalationPolicy(Says(), Fixed(1.0), escalation_threshold=0.6)  # nothing goes straight to strong

    assert isinstance(cascade, RoutingPolicy)
    assert cascade.decide([RouteRequest(text="a proof")])[0].route == "weak"
    with pytest.raises(ConfigurationError, match="keep weak answers unverified"):
        policy_from(cascade, ("weak", "strong"), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"escalation_threshold": None}, "give escalation="),
        ({"escalation_threshold": 1.5}, "escalation_threshold is a win rate from 0 to 1, got 1.5"),
        ({"escalation_threshold": True}, "escalation_threshold is a win rate"),
        ({"verify_from": -0.1}, "verify_from is a win rate"),
        ({"verifier_timeout_s": 0}, "verifier_timeout_s must be None or seconds above 0"),
        ({"strong_share": 0.5}, "takes no strong_share"),
        ({"routes": ("a", "b", "c"), "threshold": 0.5}, "3 routes need 2"),
    ],
)
def test_arguments_that_make_no_cascade_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        policy(**options)
    with pytest.raises(ConfigurationError, match="holds the cuts"):
        policy(escalation=calibrate_escalation(**SAMPLE, budget_usd=6.0))
