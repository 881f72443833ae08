"""One chain run per call, one child run per attempt: the plumbing every routing runnable shares.

An LLM run cannot have children, so a router that called its backends from `_generate` would show up as two
sibling LLM runs, count usage twice and stream every token twice. Hence the public entry points are routed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import chain
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, patch_config

from langchain_routellm._call import Call, Host, adecide, scoring, turns
from langchain_routellm._config import DECISION, split, with_defaults
from langchain_routellm._first_token import aopening, opening
from langchain_routellm._record import stamped
from routellm_core.policy import RouteRequest
from routellm_core.types import Decision

__all__ = ["adecided", "ainvoke", "astream", "decided", "invoke", "stream"]

_SLICE = 64  # items of a batch that are prepared in one turn of an event loop, in a millisecond or so


def _batch_calls(
    host: Host, inputs: Sequence[Any], configs: list[RunnableConfig], kwargs: dict[str, Any], *, may_wait: bool
) -> list[RouteRequest]:
    requests = []
    for value, config in zip(inputs, configs, strict=True):
        settings, rest = split(config, kwargs, model_names_route=host.model_names_route)
        requests.append(host.request(value, settings, rest, may_wait=may_wait, metadata=host.metadata(config)))
    return requests


def _with_decisions(configs: list[RunnableConfig], decisions: list[Decision]) -> list[RunnableConfig]:
    return [patch_config(c, configurable={DECISION: d}) for c, d in zip(configs, decisions, strict=True)]


def decided(
    host: Host, inputs: Sequence[Any], config: Any, kwargs: dict[str, Any], *, return_exceptions: bool
) -> list[RunnableConfig]:
    """One config per item of a batch, with its decision inside: the router is asked once for all of them."""
    configs = get_config_list(config, len(inputs))
    if len(inputs) < 2 or host.decides_in_run:
        return configs  # the item itself decides
    try:
        requests = _batch_calls(host, inputs, configs, kwargs, may_wait=True)
        with scoring(host.policy, with_defaults(configs[0], host.defaults), None):
            decisions = host.policy.decide(requests)
        return _with_decisions(configs, decisions)  # outside, or items would inherit from the scoring run's config
    except Exception:
        if not return_exceptions:
            raise
        return configs  # each item decides for itself, and only the bad ones fail


async def adecided(
    host: Host, inputs: Sequence[Any], config: Any, kwargs: dict[str, Any], *, return_exceptions: bool
) -> list[RunnableConfig]:
    """`decided` without blocking the event loop."""
    configs = get_config_list(config, len(inputs))
    if len(inputs) < 2 or host.decides_in_run:
        return configs
    try:
        requests, routed = [], []
        slices = [slice(start, start + _SLICE) for start in range(0, len(inputs), _SLICE)]
        for part in slices:
            requests += _batch_calls(host, inputs[part], configs[part], kwargs, may_wait=False)
            await asyncio.sleep(0)
        with scoring(host.policy, with_defaults(configs[0], host.defaults), None):
            decisions = await adecide(host, requests)
        for part in slices:
            routed += _with_decisions(configs[part], decisions[part])
            await asyncio.sleep(0)
        return routed
    except Exception:
        if not return_exceptions:
            raise
        return configs


# -- the four ways to call
def invoke(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Any:
    """Decide, call the chosen target, and return its answer with the record."""
    call = Call(host, value, config, kwargs)
    run = call.start()
    try:
        decision = call.decide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = call.child(decision, run)
                answer = target.invoke(child_input, child_config, **child_kwargs)
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=True)
                continue
            route, decision = decision.route, call.verified(run, decision, answer)
            if decision.route == route:
                break
        answer = stamped(answer, decision)
    except BaseException as error:
        run.on_chain_error(error)
        raise
    call.answered(decision, answer)
    run.on_chain_end(answer)
    return answer


async def ainvoke(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Any:
    """`invoke`, awaiting the target's own asynchronous method."""
    await turns.take()
    call = Call(host, value, config, kwargs)
    run = await call.astart()
    try:
        decision = await call.adecide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = await call.achild(decision, run)
                answer = await target.ainvoke(child_input, child_config, **child_kwargs)
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=False)
                continue
            route, decision = decision.route, await call.averified(run, decision, answer)
            if decision.route == route:
                break
        answer = stamped(answer, decision)
    except BaseException as error:
        await run.on_chain_error(error)
        raise
    call.answered(decision, answer)
    await run.on_chain_end(answer)
    return answer


def stream(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Iterator[Any]:
    """Decide, and yield the chosen target's chunks; another route is tried only before the first that says something.

    The first chunk carries the record, and no other: merging two would concatenate their values. An answer that is
    to be verified is read to its end before its first chunk is given.
    """
    call = Call(host, value, config, kwargs)
    run = call.start()
    holds_back = host.policy.fallback != "none"
    seen: list[Any] = []
    source: Any = None
    try:
        decision = call.decide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = call.child(decision, run)
                source = target.stream(child_input, child_config, **child_kwargs)
                if call.buffers(decision):
                    chunks = list(source)
                else:
                    chunks = opening(source, holds_back=holds_back)
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=True)
                continue
            if not call.buffers(decision):
                break
            route, decision = decision.route, call.verified(run, decision, _joined(chunks), chunks)
            if decision.route == route:
                break
        usage = call.observed(decision)
        if chunks:
            chunks[0] = stamped(chunks[0], decision)
        for chunk in chain(chunks, source):
            if run.handlers:
                seen.append(chunk)
            if usage is not None:
                usage.add(chunk)
            yield chunk
        if usage is not None:
            usage.report(decision)
    except GeneratorExit:  # the consumer has had enough
        try:
            _close(source)
        finally:
            run.on_chain_end(_joined(seen))
        raise
    except BaseException as error:
        try:
            _close(source)
        finally:
            run.on_chain_error(error)
        raise
    run.on_chain_end(_joined(seen))


async def astream(host: Host, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
    """`stream`, over the target's own asynchronous method."""
    await turns.take()
    call = Call(host, value, config, kwargs)
    run = await call.astart()
    holds_back = host.policy.fallback != "none"
    seen: list[Any] = []
    source: Any = None
    try:
        decision = await call.adecide(run)
        while True:
            try:
                target, child_input, child_config, child_kwargs = await call.achild(decision, run)
                source = target.astream(child_input, child_config, **child_kwargs)
                if call.buffers(decision):
                    chunks = [chunk async for chunk in source]
                else:
                    chunks = await aopening(source, holds_back=holds_back)
            except Exception as error:  # noqa: BLE001 - next_attempt() raises all but passing failures
                decision = call.next_attempt(decision, error, may_wait=False)
                continue
            if not call.buffers(decision):
                break
            route, decision = decision.route, await call.averified(run, decision, _joined(chunks), chunks)
            if decision.route == route:
                break
        usage = call.observed(decision)
        if chunks:
            chunks[0] = stamped(chunks[0], decision)
        for chunk in chunks:
            if run.handlers:
                seen.append(chunk)
            if usage is not None:
                usage.add(chunk)
            yield chunk
        async for chunk in source:
            if run.handlers:
                seen.append(chunk)
            if usage is not None:
                usage.add(chunk)
            yield chunk
        if usage is not None:
            usage.report(decision)
    except GeneratorExit:
        try:
            await _aclose(source)
        finally:
            await run.on_chain_end(_joined(seen))
        raise
    except BaseException as error:
        try:
            await _aclose(source)
        finally:
            await run.on_chain_error(error)
        raise
    await run.on_chain_end(_joined(seen))


def _close(source: Any) -> None:
    if hasattr(source, "close"):
        source.close()


async def _aclose(source: Any) -> None:
    if hasattr(source, "aclose"):
        await source.aclose()


def _joined(chunks: list[Any]) -> Any:
    """What the chunks amount to, for the trace."""
    if not chunks:
        return None
    whole, rest = chunks[0], chunks[1:]
    if isinstance(whole, AIMessageChunk):
        return whole.__add__(rest) if rest else whole  # at once, because pairwise is quadratic
    for chunk in rest:
        try:
            whole = whole + chunk
        except TypeError:  # structured output grows from chunk to chunk
            whole = chunk
    return whole
