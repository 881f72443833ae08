"""Money: what calls will cost, what they did cost, and a budget that is never knowingly exceeded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from numbers import Real

from routellm_core.backends import Generation, Message
from routellm_core.errors import ConfigurationError, MissingExtraError, UnknownKindError
from routellm_core.prices import cost_usd

__all__ = ["BudgetReached", "Estimate", "Hold", "Meter", "Need", "PriceList", "Spending", "approximate_tokens"]

_BYTES_A_TOKEN = 3  # English has about four; better to expect too much than too little
_TOKENS_A_MESSAGE = 4


class BudgetReached(Exception):
    """The next call could exceed the budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A call still to be paid.

    Attributes:
        key: What the journal will know it by; None while its words are not known yet.
        role: "answer" or "verdict".
        model: Who is called.
        input_tokens: Expected.
        output_tokens: Expected.
    """

    key: str | None
    role: str
    model: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will cost, before it starts.

    Attributes:
        calls: To be paid; those in the journal are not counted.
        usd: For the models whose price is known.
        unpriced: Models whose price is not known.
        repeats: Calls that come on top, at most: each verdict that cannot be read is asked for once more.
    """

    calls: int
    usd: float
    unpriced: tuple[str, ...] = ()
    repeats: int = 0

    @property
    def is_free(self) -> bool:
        """Whether nothing is to be paid: no calls, or prices that are all known to be zero."""
        return self.usd == 0.0 and not self.unpriced

    def __str__(self) -> str:
        calls = f"{self.calls} calls"
        if self.repeats:
            calls += f" (at most {self.calls + self.repeats}: a verdict that cannot be read is asked for twice)"
        return f"{calls}, about ${self.usd:.2f}{_without(self.unpriced)}"


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What a run did cost.

    Attributes:
        calls: Paid in this run.
        reused: Taken from the journal, or from an equal call of this run.
        retries: Calls that failed and were made again; providers rarely bill them.
        input_tokens: Of the paid calls.
        output_tokens: Of the paid calls.
        usd: Of the paid calls, for the models whose price is known.
        earlier_usd: Of the calls that stood in the journal before.
        unpriced: Models whose price is not known.
        guessed: Paid calls whose provider did not say how many tokens they took; their length was used.
    """

    calls: int = 0
    reused: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    earlier_usd: float = 0.0
    unpriced: tuple[str, ...] = ()
    guessed: int = 0

    def __str__(self) -> str:
        parts = [
            f"{self.calls} calls, {self.input_tokens} tokens in and {self.output_tokens} out, "
            f"${self.usd:.4f}{_without(self.unpriced)}"
        ]
        if self.reused:
            parts.append(f"{self.reused} calls not paid again")
        if self.earlier_usd:
            parts.append(f"${self.earlier_usd:.4f} earlier")
        if self.retries:
            parts.append(f"{self.retries} retries")
        if self.guessed:
            parts.append(f"tokens of {self.guessed} calls guessed from their length")
        return "; ".join(parts)


class PriceList:
    """Prices of models: the caller's own, then the list of genai-prices.

    Args:
        own: US dollars per million tokens in and out, by model; (0, 0) for one that runs at home.
    """

    def __init__(self, own: Mapping[str, tuple[float, float]] | None = None) -> None:
        self._own = dict(own or {})
        self._unknown: dict[str, str] = {}
        for model, price in self._own.items():
            amounts = tuple(price) if isinstance(price, Sequence) else ()
            if len(amounts) != 2 or not all(isinstance(value, Real) and 0 <= value < math.inf for value in amounts):
                raise ConfigurationError(f"the price of {model!r} is two amounts of 0 or more, got {price!r}")

    def cost(self, model: str, input_tokens: int, output_tokens: int) -> float | None:
        """US dollars; None if the price is not known."""
        if model in self._own:
            asked, answered = self._own[model]
            return (input_tokens * asked + output_tokens * answered) / 1e6
        if model in self._unknown:
            return None
        try:
            return cost_usd(model, input_tokens=input_tokens, output_tokens=output_tokens)
        except (MissingExtraError, UnknownKindError) as error:
            self._unknown[model] = str(error)
            return None

    def require(self, models: Iterable[str]) -> None:
        """Check that every price is known.

        Raises:
            ConfigurationError: One is not; a budget cannot be kept without it.
        """
        for model in models:
            if self.cost(model, 1, 1) is None:
                raise ConfigurationError(
                    f"a budget needs the price of every model: {self._unknown[model]}. Give it in US dollars per "
                    f"million tokens in and out: prices={{{model!r}: (0.5, 1.5)}}, --price '{model}=0.5/1.5'"
                )

    def estimate(self, needs: Iterable[Need]) -> Estimate:
        """What the calls will cost together."""
        calls, repeats, usd, unpriced = 0, 0, 0.0, dict[str, None]()
        for need in needs:
            calls += 1
            repeats += need.role == "verdict"
            cost = self.cost(need.model, need.input_tokens, need.output_tokens)
            if cost is None:
                unpriced[need.model] = None
            else:
                usd += cost
        return Estimate(calls=calls, usd=usd, unpriced=tuple(unpriced), repeats=repeats)


class Hold:
    """Money set aside for the calls of one prompt."""

    def __init__(self, usd: float) -> None:
        self.usd = usd


class Meter:
    """Counts what is spent, and lets a prompt begin only when all its calls are expected to fit the budget.

    Args:
        prices: Of the models.
        budget_usd: For everything the journal holds in the end; None for no limit.
        earlier: Calls that stand in the journal already.
    """

    def __init__(
        self, prices: PriceList, *, budget_usd: float | None = None, earlier: Sequence[tuple[str, Generation]] = ()
    ) -> None:
        if budget_usd is not None and not (isinstance(budget_usd, Real) and 0 <= budget_usd < math.inf):
            raise ConfigurationError(f"a budget is an amount in US dollars of 0 or more, got {budget_usd!r}")
        self._prices = prices
        self._budget = budget_usd
        self._held = 0.0
        self._turn = asyncio.Lock()  # who waits first is let in first
        self._freed = asyncio.Condition()
        self._longest: dict[tuple[str, str], int] = {}
        self._unpriced: dict[str, None] = {}
        self._calls = self._input = self._output = self._guessed = 0
        self.reused = self.retries = 0
        self._usd = 0.0
        self._earlier = sum(
            prices.cost(model, g.input_tokens or 0, g.output_tokens or 0) or 0.0 for model, g in earlier
        )
        self.is_over = False

    def expected_output(self, role: str, model: str, at_first: int) -> int:
        """Tokens to expect of an answer: the longest so far, and no less than the first guess."""
        return max(at_first, self._longest.get((role, model), 0))

    @asynccontextmanager
    async def hold(self, needs: Sequence[Need]) -> AsyncIterator[Hold]:
        """Set money aside for these calls, waiting until prompts under way are through if that may make room.

        Raises:
            BudgetReached: It does not fit; nothing that costs is let in any more.
        """
        hold = Hold(self._prices.estimate(needs).usd if self._budget is not None else 0.0)
        if self._budget is not None and needs:
            async with self._turn, self._freed:
                while not self.is_over and self._total + self._held + hold.usd > self._budget:
                    if self._held <= 0.0:
                        self.is_over = True
                    else:
                        await self._freed.wait()
                if self.is_over:
                    raise BudgetReached
                self._held += hold.usd
        else:
            hold.usd = 0.0
        try:
            yield hold
        finally:
            async with self._freed:
                self._held = self._held - hold.usd if self._held - hold.usd > 1e-12 else 0.0
                self._freed.notify_all()

    def check(self, need: Need) -> None:
        """Refuse a call that alone would exceed the budget, where prompts turn out dearer than expected.

        Raises:
            BudgetReached: It would.
        """
        if self._budget is None:
            return
        cost = self._prices.cost(need.model, need.input_tokens, need.output_tokens) or 0.0
        if self._total + cost > self._budget:
            self.is_over = True
            raise BudgetReached

    def pay(self, need: Need, generation: Generation, hold: Hold) -> Generation:
        """Count a call; returns the answer with the tokens that were counted."""
        asked, answered = generation.input_tokens, generation.output_tokens
        if asked is None or answered is None:
            self._guessed += 1
            asked = need.input_tokens if asked is None else asked
            answered = _tokens(generation.text) if answered is None else answered
        cost = self._prices.cost(need.model, asked, answered)
        if cost is None:
            self._unpriced[need.model] = None
        self._calls += 1
        self._input += asked
        self._output += answered
        self._usd += cost or 0.0
        place = (need.role, need.model)
        self._longest[place] = max(self._longest.get(place, 0), answered)
        freed = min(hold.usd, cost or 0.0)
        hold.usd -= freed
        self._held -= freed
        return Generation(text=generation.text, input_tokens=asked, output_tokens=answered)

    @property
    def _total(self) -> float:
        return self._earlier + self._usd

    def spending(self) -> Spending:
        """Everything so far."""
        return Spending(
            calls=self._calls,
            reused=self.reused,
            retries=self.retries,
            input_tokens=self._input,
            output_tokens=self._output,
            usd=self._usd,
            earlier_usd=self._earlier,
            unpriced=tuple(self._unpriced),
            guessed=self._guessed,
        )


def approximate_tokens(messages: Sequence[Message]) -> int:
    """Tokens of messages, rather too many than too few, without any tokenizer."""
    return sum(_tokens(message["content"]) + _TOKENS_A_MESSAGE for message in messages)


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _BYTES_A_TOKEN)


def _without(unpriced: tuple[str, ...]) -> str:
    return f" without {', '.join(unpriced)}, whose price is not known" if unpriced else ""
