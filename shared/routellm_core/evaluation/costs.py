"""What routing costs, beside what it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.evaluation.metrics import Curve, descending_groups
from routellm_core.evaluation.resampling import CPTS
from routellm_core.evaluation.sets import EvaluationSet

__all__ = ["Cost", "Prices", "cost_of", "costs_usd"]

Prices: TypeAlias = "Mapping[str, tuple[float, float]]"
"""US dollars per million tokens in and out, by model; `strong` and `weak` mean the pair."""
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """US dollars per 1,000 prompts of the set. The router itself is not in it.

    Attributes:
        all_strong: Everything to the strong model.
        all_weak: Everything to the weak model.
        at_cpt50: At the strong share that recovers half the gap; None where it is never reached.
        at_cpt80: Likewise for 80 %.
        saving_at_cpt50: Against all strong, as a fraction of that.
        saving_at_cpt80: Likewise.
    """

    all_strong: float
    all_weak: float
    at_cpt50: float | None
    at_cpt80: float | None
    saving_at_cpt50: float | None
    saving_at_cpt80: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"unit": "USD per 1,000 prompts", **asdict(self)}


def costs_usd(data: EvaluationSet, prices: Prices | None) -> tuple[Floats, Floats] | None:
    """What the strong and the weak answer to each prompt cost, shapes (n,); None where nothing says so.

    Prices win over costs that stand in the data.

    Raises:
        DataError: Prices without token counts.
        UnknownKindError: No price for one of the two models.
        ConfigurationError: A price that is no pair of amounts.
    """
    strong, weak = data.sides
    if prices is None:
        return None if data.costs_usd is None else (data.costs_usd[:, strong], data.costs_usd[:, weak])
    if data.input_tokens is None or data.output_tokens is None:
        raise DataError(
            f"{data.name}: prices need token counts; give the columns strong_input_tokens, strong_output_tokens, "
            "weak_input_tokens and weak_output_tokens (input_tokens alone if both models count alike)"
        )
    found = []
    for side, column in (("strong", strong), ("weak", weak)):
        model = data.models[column]
        if model not in prices and side not in prices:
            raise UnknownKindError(f"no price for {model!r}; given: {', '.join(prices) or 'none'}")
        price = prices[model] if model in prices else prices[side]
        if len(price) != 2 or not all(math.isfinite(value) and value >= 0 for value in price):
            raise ConfigurationError(f"the price of {model!r} is two amounts of 0 or more, got {price!r}")
        asked, answered = price
        found.append((data.input_tokens[:, column] * asked + data.output_tokens[:, column] * answered) / 1e6)
    return found[0], found[1]


def cost_of(curve: Curve, win_rates: Floats, strong_usd: Floats, weak_usd: Floats) -> Cost:
    """Cost along the exact curve of a router."""
    n = win_rates.size
    order, ends = descending_groups(win_rates)
    shares = np.append(0.0, (ends + 1) / n)
    usd = weak_usd.mean() + np.append(0.0, np.cumsum((strong_usd - weak_usd)[order])[ends]) / n
    at = [None if share is None else 1000 * float(np.interp(share, shares, usd)) for share in map(curve.cpt, CPTS)]
    all_strong = 1000 * float(strong_usd.mean())
    saved = [None if usd is None or all_strong == 0 else 1 - usd / all_strong for usd in at]
    return Cost(
        all_strong=all_strong,
        all_weak=1000 * float(weak_usd.mean()),
        at_cpt50=at[0],
        at_cpt80=at[1],
        saving_at_cpt50=saved[0],
        saving_at_cpt80=saved[1],
    )
