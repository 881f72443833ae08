"""A chat model that is asked for ratings from 1 to 5: its calls, many at once, and reading what it says."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeAlias

from routellm_core.backends import Backend, Message, is_passing, resolve_backend
from routellm_core.errors import ConfigurationError, RouteLLMError, ScoringError

__all__ = ["RATING_ORDER", "Question", "RatingModel", "read_rating"]

RATING_ORDER = "Reply with one digit from 1 to 5 and nothing else."
Question: TypeAlias = Callable[[bool], list[Message]]
"""What to ask; given True the second time, after an answer without a rating."""

_BEST = 5
_NO_RATING = re.compile(
    r"\A.*</think(?:ing)?>"  # thoughts, whose beginning some chat templates keep,
    r"|<think(?:ing)?>.*"  # and which may be cut off
    r"|\b1\s{0,3}(?:-|–|to|and|through|\.\.+)\s{0,3}5\b"  # the scale
    r"|\bout of\s{1,3}(?:5|five)\b|\b5[-\s](?:star|point)",
    re.DOTALL | re.IGNORECASE,
)
# not in 10, 4.5, 4/10, 4% or gpt-4, nor the 5 of 4/5
_RATING = re.compile(r"(?<![^\W_])(?<![.,/–-])[1-5](?![^\W_]|[.,]\d|\s?%|\s?/\s?(?!5\b)\d)")
_LABEL = re.compile(r"\brating\W{0,6}(?:is\W{0,3})?(?=[1-5])", re.IGNORECASE)


class RatingModel:
    """Asks a chat model; a rating r counts as the win rate (5 - r) / 4.

    Args:
        llm: A chat model of a framework, a `Backend`, or a "provider:model" string, which becomes one on first use.
        max_concurrency: Calls of one batch under way at once.

    Attributes:
        spec: The string, if it was one; only then can it be saved, as clients hold keys and connections.

    Raises:
        ConfigurationError: `max_concurrency` is below 1.
        UnknownKindError: `llm` is none of these.
    """

    def __init__(self, llm: Any, *, max_concurrency: int) -> None:
        if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool) or max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency must be an int of at least 1, got {max_concurrency!r}")
        self.spec = llm if isinstance(llm, str) and llm else None
        # a string may import a provider's package, for seconds, and ask for its key: not before it is needed
        self._backend: Backend | None = None if self.spec else resolve_backend(llm)
        self.max_concurrency = max_concurrency

    def win_rates(self, questions: Sequence[Question], who: str) -> list[float]:
        """One win rate a question; one that is alone is asked in this thread.

        Args:
            questions: At least one.
            who: Asks; for messages of errors.

        Raises:
            ScoringError: The client failed, or gave no rating twice.
        """
        backend = self._resolved()
        if len(questions) == 1:
            return [self._ask(backend, questions[0], who)]
        pool = ThreadPoolExecutor(min(self.max_concurrency, len(questions)), thread_name_prefix="routellm-rating")
        try:
            # a context each, since one cannot be entered twice: tracing and callbacks follow it into the threads
            jobs = [pool.submit(contextvars.copy_context().run, self._ask, backend, each, who) for each in questions]
            for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                job.result()  # raises, while others may still hang
            return [job.result() for job in jobs]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error the others are not asked

    async def awin_rates(self, questions: Sequence[Question], who: str) -> list[float]:
        """`win_rates`, awaiting the model's own asynchronous calls."""
        backend = await asyncio.to_thread(self._resolved) if self._backend is None else self._backend
        if len(questions) == 1:
            return [await self._aask(backend, questions[0], who)]
        slots = asyncio.Semaphore(self.max_concurrency)

        async def ask(question: Question) -> float:
            async with slots:
                return await self._aask(backend, question, who)

        tasks = [asyncio.create_task(ask(question)) for question in questions]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _ask(self, backend: Backend, question: Question, who: str) -> float:
        for again in (False, True):
            try:
                rating = read_rating(backend.generate(question(again)).text)
            except RouteLLMError:
                raise
            except Exception as error:
                raise _client_failure(error, who) from error
            if rating is not None:
                return (_BEST - rating) / (_BEST - 1)
        raise _unreadable(who)

    async def _aask(self, backend: Backend, question: Question, who: str) -> float:
        for again in (False, True):
            try:
                rating = read_rating((await backend.agenerate(question(again))).text)
            except RouteLLMError:
                raise
            except Exception as error:
                raise _client_failure(error, who) from error
            if rating is not None:
                return (_BEST - rating) / (_BEST - 1)
        raise _unreadable(who)

    def _resolved(self) -> Backend:
        if self._backend is None:
            self._backend = resolve_backend(self.spec)  # two threads may both get here; either result will do
        return self._backend

    def saved_as(self, cls: str) -> str:
        """The string to save.

        Raises:
            ConfigurationError: It was made around an object.
        """
        if self.spec is None:
            raise ConfigurationError(
                f"a {cls} around a model object cannot be saved, since clients hold keys and connections; make it "
                f"with the model's name, as {cls}('openai:gpt-4.1-nano'), and it can"
            )
        return self.spec

    def __getstate__(self) -> dict[str, Any]:
        # what a name stands for is made again where it is needed
        return {**self.__dict__, "_backend": None} if self.spec is not None else self.__dict__


def _client_failure(error: Exception, who: str) -> ScoringError:
    # the type only: a client's message may quote the prompt, and ours go into records and logs
    return ScoringError(f"{who} failed with {type(error).__name__}", is_retryable=is_passing(error))


def _unreadable(who: str) -> ScoringError:
    return ScoringError(
        f"{who} was asked twice and gave no rating from 1 to 5; a model that thinks aloud needs "
        "room for it, and a very small one may not follow the system text"
    )


def read_rating(answer: str) -> int | None:
    """The first digit from 1 to 5 that stands by itself, one called a rating before others; None: there is none.

    Thinking is passed over. "4", "[[4]]", "**4**", "Rating: 4/5" and "1. Clear. Rating: 4" are 4; "10", "4.5" and
    "gpt-4" hold none.
    """
    said = _NO_RATING.sub(" ", answer)
    labelled = (_RATING.match(said, label.end()) for label in _LABEL.finditer(said))
    found = next(filter(None, labelled), None) or _RATING.search(said)
    return int(found[0]) if found is not None else None
