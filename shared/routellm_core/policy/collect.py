"""Seeing the decisions taken inside other people's code: chains, query engines, agents."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real

import numpy as np

from routellm_core.errors import ConfigurationError
from routellm_core.prices import cost_usd
from routellm_core.types import Decision, Usage

__all__ = [
    "CollectedDecisions",
    "Price",
    "Saving",
    "collect_decisions",
    "is_collecting",
    "observe",
    "observe_discarded",
    "observe_usage",
]

Price = str | tuple[float, float]
"""A "provider:model" of the price list, or US dollars per million tokens in and out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """What the collected answers cost, against all of them from the strong route.

    Attributes:
        usd: What they cost, weak answers that were escalated included.
        all_strong_usd: What the strong route would have cost for the same tokens in and out. Another model would
            not write as many tokens; nobody knows how many without asking it.
        answers: Priced ones.
        without_usage: Answers left out, since their backend did not say how many tokens they took.
    """

    usd: float
    all_strong_usd: float
    answers: int
    without_usage: int

    @property
    def fraction(self) -> float:
        """Of the cost of all strong that was saved, at most 1; below 0 if it cost more, NaN if all is free."""
        return 1.0 - self.usd / self.all_strong_usd if self.all_strong_usd > 0.0 else math.nan

    def __str__(self) -> str:
        text = f"{_money(self.usd)} instead of {_money(self.all_strong_usd)} for {self.answers} answer"
        text += "" if self.answers == 1 else "s"
        if self.all_strong_usd > 0.0:
            text += f", {self.fraction:.0%} saved"
        return text + (f"; {self.without_usage} without a token count" if self.without_usage else "")


def _money(usd: float) -> str:
    """Three digits, and no exponent: a call may cost a few millionths."""
    return f"${np.format_float_positional(usd, precision=3, unique=False, fractional=False, trim='-')}"


class CollectedDecisions(list[Decision]):
    """The `Decision` behind each answer, in order; and what the answers took."""

    def __init__(self) -> None:
        super().__init__()
        # with the decision, whose id nothing else then gets, be it taken out of the list
        self._usage: dict[int, tuple[Decision, Usage]] = {}
        self._discarded: dict[int, tuple[Decision, str, Usage | None]] = {}

    def add(self, decision: Decision, usage: Usage | None = None) -> None:
        """Append a decision, with what its answer took where that is known."""
        self.append(decision)
        if usage is not None:
            self._usage[id(decision)] = decision, usage

    def usage_of(self, decision: Decision) -> Usage | None:
        """Tokens of the answer behind one of these decisions (by identity); None: its backend did not say."""
        return self._usage.get(id(decision), (decision, None))[1]

    def discarded_usage_of(self, decision: Decision) -> Usage | None:
        """Tokens of the weak answer that was not good enough; None: there was none, or its backend did not say."""
        return self._discarded.get(id(decision), (decision, "", None))[2]

    def share(self, route: str = "strong") -> float:
        """Fraction of the answers that came from a route; NaN without answers."""
        return sum(decision.route == route for decision in self) / len(self) if self else math.nan

    def saving(self, prices: Mapping[str, Price], *, strong: str | None = None) -> Saving:
        """What was spent, against sending everything to the strong route.

        Args:
            prices: By route, weakest first: "provider:model" as in the price list (extra `prices`), or a pair of
                US dollars per million tokens in and out; (0, 0) for a model that runs at home.
            strong: The route to compare with. None: "strong" if there is such a route, else the last one of `prices`.

        Raises:
            ConfigurationError: A route without a price, a price that is none, or prices of fewer than two routes.
            UnknownKindError: A model without a known price.
            MissingExtraError: The price list is not installed.
        """
        if len(prices) < 2:
            raise ConfigurationError(
                f"prices= says what each route costs, weakest first; it has {', '.join(prices) or 'none'}"
            )
        best = ("strong" if "strong" in prices else list(prices)[-1]) if strong is None else strong
        # what took no tokens needs no price: selections between query engines, routers around routers
        priced = {decision.route for decision in self if self.usage_of(decision) is not None}
        priced |= {route for _, route, usage in self._discarded.values() if usage is not None}
        missing = sorted({best, *priced} - set(prices))
        if missing:
            raise ConfigurationError(f"prices= says what each route costs; missing: {', '.join(missing)}")
        usd = all_strong = 0.0
        answers = without = 0
        for decision in self:
            usage = self.usage_of(decision)
            _, earlier, took = self._discarded.get(id(decision), (decision, "", None))
            if usage is None or (earlier and took is None):
                without += 1
                continue
            answers += 1
            usd += _cost(prices[decision.route], usage)
            if took is not None:  # to the strong model alone this prompt would have gone once
                usd += _cost(prices[earlier], took)
            all_strong += _cost(prices[best], usage)
        return Saving(usd=usd, all_strong_usd=all_strong, answers=answers, without_usage=without)


def _cost(price: Price, usage: Usage) -> float:
    if isinstance(price, str):
        return cost_usd(price, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    try:
        into, out = price
        if not all(isinstance(p, Real) and math.isfinite(p) and p >= 0.0 for p in (into, out)):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"a price is 'provider:model', or US dollars per million tokens (in, out); got {price!r}"
        ) from None
    return (into * usage.input_tokens + out * usage.output_tokens) / 1e6


# a context variable, not a thread local: agent steps and async synthesizers run in copied contexts
_collectors: ContextVar[tuple[CollectedDecisions, ...]] = ContextVar("routellm_collectors", default=())


@contextlib.contextmanager
def collect_decisions() -> Iterator[CollectedDecisions]:
    """Yield a list that receives the `Decision` behind every answer given inside, in order.

    Works in both adapters, in threads and tasks started inside, and nested. A stream's decision
    arrives with its first chunk, its token count with the last.

    Example:
        >>> with collect_decisions() as decisions:
        ...     chain.invoke("What is the capital of France?")
        >>> decisions.share("strong")
        0.0
        >>> print(decisions.saving({"weak": "openai:gpt-4.1-nano", "strong": "openai:gpt-4.1"}))
        $0.0000048 instead of $0.000096 for 1 answer, 95% saved
    """
    collected = CollectedDecisions()
    _collectors.set((*_collectors.get(), collected))
    try:
        yield collected
    finally:
        # not reset(token): a generator may be closed in another context, or after an outer block was opened
        _collectors.set(tuple(each for each in _collectors.get() if each is not collected))


def is_collecting() -> bool:
    """Whether anybody wants to know here; then adapters look for token counts."""
    return bool(_collectors.get())


def observe(decision: Decision) -> None:
    """Tell the open collectors; adapters call it once an answer's route is settled."""
    for collected in _collectors.get():
        collected.append(decision)


def observe_usage(decision: Decision, usage: Usage) -> None:
    """Tell the open collectors what an answer took; `decision` is the very object that was observed."""
    for collected in _collectors.get():
        collected._usage[id(decision)] = decision, usage


def observe_discarded(decision: Decision, route: str, usage: Usage | None) -> None:
    """Tell the open collectors what an escalated weak answer took, for which `decision`'s was given instead."""
    for collected in _collectors.get():
        collected._discarded[id(decision)] = decision, route, usage
