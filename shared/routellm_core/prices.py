"""What a call costs, by the price list of the package genai-prices."""

from __future__ import annotations

from routellm_core._lazy import need
from routellm_core.errors import UnknownKindError

__all__ = ["cost_usd"]


def cost_usd(model: str, *, input_tokens: int, output_tokens: int) -> float:
    """Price of one call in US dollars, from the list shipped with genai-prices (nothing is fetched).

    Args:
        model: "provider:model" as backends are written ("openai:gpt-4.1"), or the bare model name.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.

    Raises:
        MissingExtraError: genai-prices is not installed (extra `prices`).
        UnknownKindError: The list has no such model.
    """
    prices = need("genai_prices", extra="prices", why="counting cost")
    provider, _, name = model.rpartition(":")
    usage = prices.Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    try:
        return float(prices.calc_price(usage, name, provider_id=provider or None).total_price)
    except LookupError:
        raise UnknownKindError(f"no price known for {model!r}; the list is that of the package genai-prices") from None
