"""Golden labels: both models answer questions with known answers, and a checker says who is right.

Source: Ong et al. 2024, arXiv:2406.18665 (golden-labelled augmentation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routellm_core.augmentation.calls import (
    ANSWER_TOKENS,
    LabellingResult,
    PaidCalls,
    both,
    check_pair,
    checked_prompts,
    distinct_needs,
    in_own_loop,
    label_each,
    opened,
    paid_calls,
    question,
)
from routellm_core.augmentation.checkers import Checker, resolve_checker
from routellm_core.augmentation.journal import Journal
from routellm_core.augmentation.spending import Estimate, Meter, Need, PriceList
from routellm_core.backends import Backend, resolve_backend
from routellm_core.errors import ConfigurationError, DataError

__all__ = ["alabel_gold", "estimate_gold", "label_from_scores", "label_gold"]


def label_gold(
    rows: Sequence[Mapping[str, Any]],
    *,
    strong: Any,
    weak: Any,
    checker: str | Checker = "exact",
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    source: str = "gold",
    journal: Journal | str | Path | None = None,
    budget_usd: float | None = None,
    concurrency: int = 8,
    weak_first: bool = False,
    prices: Mapping[str, tuple[float, float]] | None = None,
    framework: str | None = None,
    progress: bool = False,
) -> LabellingResult:
    """Let both models answer, and check the answers.

    Args:
        rows: With a prompt and the right answer each; a `source` in a row goes into its label.
        strong: A `Backend`, a LangChain chat model, a LlamaIndex LLM, or a "provider:model" string.
        weak: Likewise.
        checker: "choice", "numeric", "exact", or a function (response, answer) -> score 0..1.
        prompt_column: Where the prompts are, worded so that a free answer can be checked.
        answer_column: Where the right answers are.
        source: What `source` says where a row has none.
        journal: Keeps every paid call, so that the same run can be interrupted and go on; see `Journal`.
        budget_usd: For everything the journal holds; the run stops before it would be exceeded, by estimate.
        concurrency: Calls under way at once.
        weak_first: Ask the strong model only where the weak one's answer is not fully right. Where it is, the strong
            model can be no better, and is taken for as good (`strong_assumed` in the row): for the same number of
            strong answers about twice as many prompts are labelled, and a router learns more from them, see
            benchmarks/README.md. Train on such labels; do not calibrate a quality floor or evaluate on them, as the
            answers that only the strong model got wrong are missing.
        prices: Of models genai-prices does not know, US dollars per million tokens in and out.
        framework: Who makes models from strings, see `resolve_backend`.
        progress: Show a bar on standard error.

    Returns:
        Rows with the checker's scores, in the order of the input.

    Raises:
        DataError: A row without a prompt, or with an answer the checker cannot use; names it. Nothing is paid then.
        ConfigurationError: A model given twice, a budget without prices, or a provider that refuses every call or
            cannot be reached.
        UnknownKindError: No such checker, or no framework knows a model.
    """
    return in_own_loop(
        lambda: _label(
            rows,
            strong=strong,
            weak=weak,
            checker=checker,
            prompt_column=prompt_column,
            answer_column=answer_column,
            source=source,
            journal=journal,
            budget_usd=budget_usd,
            concurrency=concurrency,
            weak_first=weak_first,
            prices=prices,
            framework=framework,
            progress=progress,
            in_threads=True,
        )
    )


async def alabel_gold(
    rows: Sequence[Mapping[str, Any]],
    *,
    strong: Any,
    weak: Any,
    checker: str | Checker = "exact",
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    source: str = "gold",
    journal: Journal | str | Path | None = None,
    budget_usd: float | None = None,
    concurrency: int = 8,
    weak_first: bool = False,
    prices: Mapping[str, tuple[float, float]] | None = None,
    framework: str | None = None,
    progress: bool = False,
) -> LabellingResult:
    """`label_gold` with the models' asynchronous clients."""
    return await _label(
        rows,
        strong=strong,
        weak=weak,
        checker=checker,
        prompt_column=prompt_column,
        answer_column=answer_column,
        source=source,
        journal=journal,
        budget_usd=budget_usd,
        concurrency=concurrency,
        weak_first=weak_first,
        prices=prices,
        framework=framework,
        progress=progress,
        in_threads=False,
    )


def estimate_gold(
    rows: Sequence[Mapping[str, Any]],
    *,
    strong: Any,
    weak: Any,
    prompt_column: str = "prompt",
    journal: Journal | str | Path | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
    framework: str | None = None,
) -> Estimate:
    """What `label_gold` would cost: what the journal has is left out; answers of 500 tokens are assumed."""
    pair = _pair(strong, weak, framework)
    prompts = checked_prompts(_column(rows, prompt_column))
    with opened(journal) as own:
        price_list = PriceList(prices)
        calls = PaidCalls(own, Meter(price_list), concurrency=1, in_threads=False)
        return price_list.estimate(distinct_needs(_needs(prompt, pair, calls) for prompt in prompts))


def label_from_scores(
    rows: Sequence[Mapping[str, Any]],
    *,
    strong_model: str,
    weak_model: str,
    strong_column: str = "strong_score",
    weak_column: str = "weak_score",
    prompt_column: str = "prompt",
    source: str = "gold",
) -> list[dict[str, Any]]:
    """Labels from scores that stand in the rows already.

    Raises:
        DataError: A row without a prompt or with a score that is no finite number; names it.
        ConfigurationError: Both models have one name.
    """
    if strong_model == weak_model:
        raise ConfigurationError(f"the strong and the weak model are both {strong_model!r}; give two models")
    prompts = checked_prompts(_column(rows, prompt_column))
    labelled = []
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        scores = [_score(row, column, number) for column in (strong_column, weak_column)]
        labelled.append(_labelled(prompt, (strong_model, weak_model), scores, str(row.get("source") or source)))
    return labelled


async def _label(
    rows: Sequence[Mapping[str, Any]],
    *,
    strong: Any,
    weak: Any,
    checker: str | Checker,
    prompt_column: str,
    answer_column: str,
    source: str,
    journal: Journal | str | Path | None,
    budget_usd: float | None,
    concurrency: int,
    weak_first: bool,
    prices: Mapping[str, tuple[float, float]] | None,
    framework: str | None,
    progress: bool,
    in_threads: bool,
) -> LabellingResult:
    check = resolve_checker(checker)
    prompts = checked_prompts(_column(rows, prompt_column))
    answers = [_answer(value, number) for number, value in enumerate(_column(rows, answer_column))]
    for number, answer in enumerate(answers):
        _checked(check, "", answer, number)  # before anything is paid
    pair = _pair(strong, weak, framework)
    with (
        opened(journal) as own,
        paid_calls(
            own,
            [backend.name for backend in pair],
            budget_usd=budget_usd,
            concurrency=concurrency,
            prices=prices,
            in_threads=in_threads,
        ) as calls,
    ):

        async def work(i: int) -> dict[str, Any]:
            messages = question(prompts[i])
            names, kind = (pair[0].name, pair[1].name), str(rows[i].get("source") or source)
            async with calls.meter.hold(_needs(prompts[i], pair, calls)) as hold:
                if weak_first:
                    of_weak = await calls.ask("answer", pair[1], messages, output_tokens=ANSWER_TOKENS, hold=hold)
                    score = _checked(check, of_weak, answers[i], i)
                    if score >= 1.0:
                        return {**_labelled(prompts[i], names, [score, score], kind), "strong_assumed": True}
                    of_strong = await calls.ask("answer", pair[0], messages, output_tokens=ANSWER_TOKENS, hold=hold)
                    responses = (of_strong, of_weak)
                else:
                    responses = await both(
                        calls.ask("answer", pair[0], messages, output_tokens=ANSWER_TOKENS, hold=hold),
                        calls.ask("answer", pair[1], messages, output_tokens=ANSWER_TOKENS, hold=hold),
                    )
            scores = [_checked(check, response, answers[i], i) for response in responses]
            return _labelled(prompts[i], names, scores, kind)

        return await label_each(prompts, work, calls, name="gold", progress=progress)


def _labelled(prompt: str, models: tuple[str, str], scores: Sequence[float], source: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "strong_model": models[0],
        "weak_model": models[1],
        "strong_score": scores[0],
        "weak_score": scores[1],
        "source": source,
    }


def _needs(prompt: str, pair: tuple[Backend, Backend], calls: PaidCalls) -> list[Need]:
    needs = [calls.need("answer", backend, question(prompt), output_tokens=ANSWER_TOKENS) for backend in pair]
    return [need for need in needs if need is not None]


def _pair(strong: Any, weak: Any, framework: str | None) -> tuple[Backend, Backend]:
    pair = (resolve_backend(strong, framework=framework), resolve_backend(weak, framework=framework))
    check_pair(*pair)
    return pair


def _column(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    values = []
    for number, row in enumerate(rows):
        if column not in row:
            raise DataError(f"row {number}: no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}")
        values.append(row[column])
    return values


def _answer(value: Any, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"row {number}: the right answer is {type(value).__name__}, not text or a number")
    return value if isinstance(value, str) else repr(value)


def _checked(check: Checker, response: str, answer: str, number: int) -> float:
    try:
        score = float(check(response, answer))
    except DataError as error:
        raise DataError(f"row {number}: {error}") from None
    if not 0.0 <= score <= 1.0:
        raise DataError(f"row {number}: the checker gave {score}, not a score in [0, 1]")
    return score


def _score(row: Mapping[str, Any], column: str, number: int) -> float:
    if column not in row:
        raise DataError(f"row {number}: no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}")
    value = row[column]
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"row {number}: {column} is {value!r}, not a finite number")
    return float(value)
