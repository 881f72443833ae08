"""Money turned into a strong share."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, Literal, get_args

from routellm_core.errors import CalibrationError, ConfigurationError
from routellm_core.prices import cost_usd

__all__ = ["Budget"]

Period = Literal["call", "day", "month"]


@dataclass(frozen=True)
class Budget:
    """What may be spent, and what calls cost.

    Attributes:
        usd: US dollars for each `per`.
        per: "call", "day" or "month".
        calls: Calls expected in that day or month.
        strong_usd: Mean cost of a call to the strong model.
        weak_usd: Mean cost of a call to the weak model.

    Raises:
        ConfigurationError: A number that is negative or not finite, or an unknown period.
    """

    usd: float
    per: Period = "month"
    calls: float | None = field(default=None, kw_only=True)
    strong_usd: float | None = field(default=None, kw_only=True)
    weak_usd: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.per not in get_args(Period):
            raise ConfigurationError(f"a budget is per {', '.join(get_args(Period))}; got {self.per!r}")
        for name, value in asdict(self).items():
            if name != "per" and value is not None and not _is_amount(value):
                raise ConfigurationError(f"{name} of a budget is a finite number from 0 on, got {value!r}")
        if self.calls is not None and not self.calls > 0:
            raise ConfigurationError(f"calls of a budget must be above 0, got {self.calls!r}")

    @classmethod
    def for_models(
        cls,
        usd: float,
        per: Period = "month",
        *,
        calls: float | None = None,
        strong: str,
        weak: str,
        input_tokens: float,
        output_tokens: float,
        weak_output_tokens: float | None = None,
    ) -> Budget:
        """A budget whose prices come from the price list (extra `prices`).

        Args:
            usd: US dollars for each `per`.
            per: "call", "day" or "month".
            calls: Calls expected in that day or month.
            strong: "provider:model" of the strong model.
            weak: "provider:model" of the weak model.
            input_tokens: Mean tokens of a prompt, history and tools included.
            output_tokens: Mean tokens of an answer.
            weak_output_tokens: The same for the weak model, where it differs.

        Raises:
            ConfigurationError: A number that is negative or not finite.
            UnknownKindError: A model without a known price.
            MissingExtraError: The price list is not installed.
        """
        answer = output_tokens if weak_output_tokens is None else weak_output_tokens
        for name, value in (("input_tokens", input_tokens), ("output_tokens", output_tokens), ("answer", answer)):
            if not _is_amount(value):
                raise ConfigurationError(f"{name} is a finite number from 0 on, got {value!r}")
        prompt = round(input_tokens)
        return cls(
            usd,
            per,
            calls=calls,
            strong_usd=cost_usd(strong, input_tokens=prompt, output_tokens=round(output_tokens)),
            weak_usd=cost_usd(weak, input_tokens=prompt, output_tokens=round(answer)),
        )

    @classmethod
    def parse(cls, text: str, **costs: float | None) -> Budget:
        """`"100/month"` as a budget; the costs as in the constructor.

        Raises:
            ConfigurationError: The text is no amount and period.
        """
        amount, slash, period = text.partition("/")
        try:
            usd = float(amount.strip().removeprefix("$"))
        except ValueError:
            usd = math.nan
        if not slash or not _is_amount(usd):
            raise ConfigurationError(f"a budget is written like 100/month, 3.50/day or 0.002/call; got {text!r}")
        return cls(usd, period.strip(), **costs)  # type: ignore[arg-type]  # checked when constructed

    @property
    def usd_per_call(self) -> float:
        """What one call may cost on average.

        Raises:
            CalibrationError: The budget is per day or month and does not say how many calls that has.
        """
        if self.per == "call":
            return self.usd
        if self.calls is None:
            raise CalibrationError(f"a budget per {self.per} needs calls=, the calls expected in a {self.per}")
        return self.usd / self.calls

    def strong_share(self) -> float:
        """The largest share of strong calls whose mean cost stays within the budget, 0..1.

        Raises:
            CalibrationError: Prices are missing, or not even all-weak is paid for.
        """
        strong, weak = self._prices()
        affordable = self.usd_per_call
        if affordable >= strong:
            return 1.0
        if affordable < weak:
            raise CalibrationError(
                f"${self.usd:g} per {self.per} does not even pay for the weak model: all weak costs "
                f"${self.usd_at(0.0):g}, all strong ${self.usd_at(1.0):g} per {self.per}"
            )
        return (affordable - weak) / (strong - weak)

    def usd_at(self, strong_share: float) -> float:
        """What this share of strong calls costs on average, in US dollars for each `per`.

        Args:
            strong_share: 0..1.

        Raises:
            CalibrationError: Prices are missing.
        """
        strong, weak = self._prices()
        calls = 1.0 if self.calls is None or self.per == "call" else self.calls
        return calls * (weak + strong_share * (strong - weak))

    def _prices(self) -> tuple[float, float]:
        if self.strong_usd is None or self.weak_usd is None:
            raise CalibrationError(
                "a budget needs what calls cost: give strong_usd= and weak_usd=, or Budget.for_models(...)"
            )
        return self.strong_usd, self.weak_usd

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Budget:
        """The budget that `to_dict` described."""
        names = ("usd", "per", "calls", "strong_usd", "weak_usd")
        return cls(**{name: record[name] for name in names if name in record})

    def __str__(self) -> str:
        return f"${self.usd:g} per {self.per}"


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return bool(0 <= value <= sys.float_info.max)  # type: ignore[operator]  # float() of a huge int would raise
