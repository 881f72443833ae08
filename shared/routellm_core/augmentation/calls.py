"""Paid calls: never twice, never too many at once, within a budget, tried again where that may help."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from routellm_core.augmentation.journal import Journal, key_of
from routellm_core.augmentation.retry import address_of, is_out_of_money, is_retryable, with_retries
from routellm_core.augmentation.spending import (
    BudgetReached,
    Hold,
    Meter,
    Need,
    PriceList,
    Spending,
    approximate_tokens,
)
from routellm_core.backends import Backend, Generation, Message, status_of
from routellm_core.data.steps import Step
from routellm_core.encoders.base import checked_texts
from routellm_core.errors import ConfigurationError, DataError

__all__ = [
    "ANSWER_TOKENS",
    "OVER_BUDGET",
    "CallFailed",
    "LabellingResult",
    "PaidCalls",
    "both",
    "check_pair",
    "checked_prompts",
    "distinct_needs",
    "in_own_loop",
    "label_each",
    "opened",
    "paid_calls",
    "question",
]

T = TypeVar("T")

ANSWER_TOKENS = 500
"""Expected of an answer until one was longer."""
OVER_BUDGET = "over the budget"
_ATTEMPTS = 6
_MOST_LOST = 3  # calls to a model that never answered, each tried so often, before the run is given up
_REFUSED = (401, 402, 403, 404, 405)  # wrong key, model or address, no money left: no other prompt will fare better


class CallFailed(Exception):
    """A call that gave nothing usable, for one prompt; the message says who and why, without any text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabellingResult:
    """Labels, what went without one and why, and what it cost.

    Attributes:
        rows: Pair scores: prompt, strong_model, weak_model, strong_score, weak_score, source; the judge's name too.
        dropped: Prompts without a label, by their number in the input, with the reasons.
        spending: Calls, tokens and money.
    """

    rows: Sequence[dict[str, Any]] = field(repr=False)
    dropped: Step
    spending: Spending

    @property
    def is_over_budget(self) -> bool:
        """Whether the budget stopped it; the same call with a larger one goes on from the journal."""
        return OVER_BUDGET in self.dropped.reasons


class PaidCalls:
    """The one door to models.

    Args:
        journal: What was paid for already.
        meter: Counts, and keeps the budget.
        concurrency: Calls under way at once.
        in_threads: Call `generate` in threads instead of `agenerate`. The synchronous functions do, since many
            asynchronous clients stay bound to the first event loop that used them.
    """

    def __init__(
        self,
        journal: Journal,
        meter: Meter,
        *,
        concurrency: int,
        in_threads: bool,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigurationError(f"concurrency is a whole number, at least 1, got {concurrency!r}")
        self.journal = journal
        self.meter = meter
        self.concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._threads = ThreadPoolExecutor(concurrency, "routellm-label") if in_threads else None
        self._rng = random.Random()  # spreads retries, decides nothing
        self._same: dict[str, asyncio.Lock] = {}
        self._stopped = False
        self._answered: set[str] = set()
        self._lost: Counter[str] = Counter()

    def need(self, role: str, backend: Backend, messages: Sequence[Message], *, output_tokens: int) -> Need | None:
        """The call as something still to be paid; None if the journal has it."""
        key = key_of(role, backend.name, messages)
        if self.journal.get(key) is not None:
            return None
        expected = self.meter.expected_output(role, backend.name, output_tokens)
        return Need(
            key=key, role=role, model=backend.name, input_tokens=approximate_tokens(messages), output_tokens=expected
        )

    async def ask(
        self, role: str, backend: Backend, messages: Sequence[Message], *, output_tokens: int, hold: Hold
    ) -> str:
        """A model's answer, from the journal or paid for now.

        Raises:
            CallFailed: It failed, however often it was tried.
            BudgetReached: It would exceed the budget.
            ConfigurationError: The provider refuses every call (401, 403, 404), its client does from the first on, or
                nothing is where it is looked for: the first calls all ended without a connection.
        """
        key = key_of(role, backend.name, messages)
        async with self._same.setdefault(key, asyncio.Lock()):  # an equal prompt may be under way
            known = self.journal.get(key)
            if known is not None:
                self.meter.reused += 1
                return known.text
            need = self.need(role, backend, messages, output_tokens=output_tokens)
            assert need is not None
            async with self._slots:
                if self._stopped:
                    raise CallFailed("stopped")
                self.meter.check(need)
                generation = self.meter.pay(need, await self._called(backend, messages), hold)
                self._answered.add(backend.name)
                self.journal.add(key, role=role, model=backend.name, generation=generation)
            self._same.pop(key, None)  # whoever comes now finds it in the journal
        return generation.text

    def stop(self) -> None:
        """Make no further call; those under way still reach the journal."""
        self._stopped = True

    @property
    def kept(self) -> str:
        """Where the calls so far are, as the end of an error's message."""
        path = self.journal.path
        return f"; the calls so far are in the journal {path}" if path is not None else ""

    @property
    def is_stopped(self) -> bool:
        """Whether no further call will be made."""
        return self._stopped

    def close(self) -> None:
        """Let the threads go."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _called(self, backend: Backend, messages: Sequence[Message]) -> Generation:
        async def once() -> Generation:
            if self._stopped:  # while this one waited to be tried again
                raise CallFailed("stopped")
            if self._threads is None:
                return await backend.agenerate(messages)
            return await asyncio.get_running_loop().run_in_executor(self._threads, backend.generate, messages)

        def count() -> None:
            self.meter.retries += 1

        try:
            generation = await with_retries(once, attempts=_ATTEMPTS, rng=self._rng, on_retry=count)
        except CallFailed:
            raise
        except Exception as error:
            # the type and the status only: a provider's message may quote the prompt
            status = status_of(error)
            why = type(error).__name__ + (f" ({status})" if status is not None else "")
            # without a status: a missing key, say, that the client finds by itself
            never = status is None and not is_retryable(error) and backend.name not in self._answered
            if status in _REFUSED or never or is_out_of_money(error):
                self.stop()
                raise ConfigurationError(
                    f"{backend.name} refuses to be called: {why}. Check its key, its name, its address and the account"
                    f"{self.kept}"
                ) from error
            if status is None and backend.name not in self._answered and is_retryable(error):
                self._lost[backend.name] += 1
                if self._lost[backend.name] >= _MOST_LOST:
                    self.stop()
                    raise ConfigurationError(self._unreached(backend.name, error)) from error
            raise CallFailed(f"{backend.name} failed with {why}") from error
        if not isinstance(generation, Generation) or not isinstance(generation.text, str):
            raise CallFailed(f"{backend.name} gave no text")
        return Generation(
            text=generation.text,
            input_tokens=_counted(generation.input_tokens),
            output_tokens=_counted(generation.output_tokens),
        )

    def _unreached(self, model: str, error: Exception) -> str:
        address = address_of(error)
        hint = " (for 'openai:...' strings OPENAI_BASE_URL sets it)" if model.startswith("openai:") else ""
        return (
            f"{model} cannot be reached{f' at {address}' if address else ''}: its first {_MOST_LOST} calls all ended "
            f"with {type(error).__name__}, however often they were tried. Check its address{hint} and the network"
            f"{self.kept}"
        )


async def label_each(
    prompts: Sequence[str],
    work: Callable[[int], Coroutine[Any, Any, dict[str, Any]]],
    calls: PaidCalls,
    *,
    name: str,
    progress: bool,
) -> LabellingResult:
    """Label all prompts, `calls.concurrency` of them at once, each to its end, so that a stop leaves few in pieces.

    Args:
        prompts: Texts.
        work: From a prompt's number to its row; raises CallFailed or BudgetReached where there is none.
        calls: What `work` pays with.
        name: Of the step.
        progress: Show a bar on standard error.
    """
    rows: dict[int, dict[str, Any]] = {}
    reasons: dict[int, str] = {}
    numbers = iter(range(len(prompts)))
    with _bar(name, len(prompts), shown=progress) as advance:

        async def worker() -> None:
            for i in numbers:
                try:
                    rows[i] = await work(i)
                except CallFailed as error:
                    reasons[i] = str(error)
                except BudgetReached:
                    reasons[i] = OVER_BUDGET
                except BaseException:
                    calls.stop()
                    raise
                advance()
                if calls.is_stopped:
                    return

        ended = await asyncio.gather(*(worker() for _ in range(calls.concurrency)), return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException):
            raise error
    dropped = np.array(sorted(reasons), dtype=np.int64)
    return LabellingResult(
        rows=[rows[i] for i in sorted(rows)],
        dropped=Step(name=name, before=len(prompts), rows=dropped, reasons=[reasons[int(i)] for i in dropped]),
        spending=calls.meter.spending(),
    )


@contextmanager
def opened(journal: Journal | str | Path | None) -> Iterator[Journal]:
    """The journal; one given by its path is closed in the end."""
    if isinstance(journal, Journal):
        yield journal
    else:
        with Journal(journal) as own:
            yield own


@contextmanager
def paid_calls(
    journal: Journal,
    models: Sequence[str],
    *,
    budget_usd: float | None,
    concurrency: int,
    prices: Mapping[str, tuple[float, float]] | None,
    in_threads: bool,
) -> Iterator[PaidCalls]:
    """Calls to these models.

    Raises:
        ConfigurationError: A budget without the price of every model, or a number out of range.
    """
    price_list = PriceList(prices)
    if budget_usd is not None:
        price_list.require(models)
    meter = Meter(price_list, budget_usd=budget_usd, earlier=journal.calls())
    calls = PaidCalls(journal, meter, concurrency=concurrency, in_threads=in_threads)
    try:
        yield calls
    finally:
        calls.close()


def distinct_needs(needs: Iterable[Sequence[Need]]) -> Iterator[Need]:
    """All needs, those of equal calls once."""
    seen: set[str] = set()
    for need in (need for group in needs for need in group):
        if need.key is None or need.key not in seen:
            yield need
        if need.key is not None:
            seen.add(need.key)


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Two results at once; when one fails the other is still waited for, since it is paid for and will be kept."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    for result in sorted((r for r in results if isinstance(r, BaseException)), key=lambda e: isinstance(e, CallFailed)):
        raise result
    return cast("tuple[T, T]", tuple(results))


def question(prompt: str) -> list[Message]:
    """A prompt as models are asked it."""
    return [{"role": "user", "content": prompt}]


def checked_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        DataError: There is none, or one is empty or no text; names it.
    """
    texts = checked_texts(prompts, what="prompt")
    if not texts:
        raise DataError("no prompts to label")
    for row, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"prompt {row} is empty")
    return texts


def check_pair(strong: Backend, weak: Backend) -> None:
    """Check that two models are to be compared.

    Raises:
        ConfigurationError: They go by the same name, so that labels and journal could not tell them apart.
    """
    if strong.name == weak.name:
        raise ConfigurationError(f"the strong and the weak model are both {strong.name!r}; give two models")


def in_own_loop(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def noted() -> T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await make()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(noted()))
        try:
            return future.result()
        except BaseException:  # an interrupted notebook cell would go on paying to the end
            for loop, task in running:
                if task is not None and not future.done():
                    loop.call_soon_threadsafe(task.cancel)
            raise


def _counted(tokens: Any) -> int | None:
    """The count; None, so that it is guessed, for what is none: the journal must be able to hold it."""
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**53 else None


@contextmanager
def _bar(name: str, total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, if that is a terminal; gives the function that moves it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    ) as progress:
        task = progress.add_task(name, total=total)
        yield lambda: progress.advance(task)
