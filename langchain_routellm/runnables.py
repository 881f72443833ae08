"""RouterRunnable: a branch that is picked by a score, between whole chains, retrievers, prompts or tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import Runnable, RunnableBranch, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import ConfigurableFieldSpec, Input, Output, get_unique_config_specs
from pydantic import ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from langchain_routellm import _routed
from langchain_routellm._record import PREFIX
from langchain_routellm._runnable_host import RunnableHost, branch_name
from routellm_core.calibration import Budget
from routellm_core.errors import ConfigurationError
from routellm_core.policy import POLICY_DEFAULTS, RoutingPolicy, policy_from
from routellm_core.routers import Router, router_and_threshold
from routellm_core.types import Fallback, OnError, Stickiness

if TYPE_CHECKING:
    from langchain_core.utils.pydantic import TypeBaseModel

__all__ = ["RouterRunnable"]

_CONFIG_SPECS = (
    ConfigurableFieldSpec(
        id=PREFIX + "route", annotation=str | None, name="Route", description="The route of this call, by its name."
    ),
    ConfigurableFieldSpec(
        id=PREFIX + "threshold",
        annotation=float | list[float] | None,
        name="Threshold",
        description="The cut of this call on the win rate, 0..1; N routes: N-1 ascending ones.",
    ),
    ConfigurableFieldSpec(
        id=PREFIX + "stickiness",
        annotation=Stickiness | None,
        name="Stickiness",
        description="Which earlier decisions this call keeps.",
    ),
)


class RouterRunnable(RunnableSerializable[Input, Output]):
    """A `RunnableBranch` whose branch is picked by a score: easy inputs to the cheap route, hard ones to the good one.

    A route is anything that LangChain can run: a chain, a retriever, a prompt, a tool, an agent, a function, a
    dict. To choose between chat models, `ChatRouteLLM` keeps their tools and structured output.

    Every way to call a runnable works and is routed. Where the output is a message it carries the record in
    `response_metadata["routellm"]`; text, documents and dicts cannot, but the run of the route has the same fields
    as metadata (`routellm_route`, ...), and `collect_decisions()` yields the `Decision`.

    One call can differ through `config["configurable"]`: `routellm_route` (a route's name), `routellm_threshold`,
    `routellm_stickiness`. Routers inside a route do not see them. A router that was fitted with metadata finds its
    columns in `config["metadata"]`.

    Args:
        routes: Two or more by name, weakest first: runnables, functions, or dicts of them.
        router: What scores: "default", a folder, a hub name or a `Router`; "router-mf-0.11593" names a published
            router together with its threshold.
        encoder: With a router's name: the embedding model it reads, see `ChatRouteLLM`.
        threshold: Win rates from here on go to the strong route, 0..1; N routes: N-1 ascending cuts.
        strong_share: Instead of `threshold`, for two routes: the share of inputs that should go strong.
        budget: Instead, for two routes: money and what calls cost, turned into such a share.
        quality_floor: Instead, for two routes: the fraction of the strong route's mean quality to keep; for a
            router calibrated on labels.
        policy: Instead of all routing options: a `RoutingPolicy` over the same route names.
        text: From the input to the text that is scored, for example `lambda x: x["question"]`; None or "" means
            there is none. None: text itself; of messages the newest human one; of a dict what is under "question",
            "query", "input" or "messages" when it has exactly one of them, or under its only key.
        stickiness: Which earlier decisions are kept when the input is messages: "none", "tool_loop" or
            "conversation".
        fallback: Routes tried when one fails before its first output, and before a model in it has sent a token:
            "none", "stronger" or "any".
        on_error: The route when scoring fails, is late, or finds no text: "strong", "weak" or "raise".
        router_timeout_s: Seconds that scoring may take; None: no limit.
        overrides: (condition, runnable) pairs, asked in order before anything is scored; the first condition that
            holds decides. In records their routes are "branch:1", "branch:2", ... and the reason is "forced".
        name: Of its runs.

    Raises:
        ConfigurationError: Arguments that contradict each other or are out of range.
        RouteLLMError: The router cannot be loaded; in a call, as `RoutingPolicy.decide`.
        DataError: In a call: nobody said which part of the input is to be scored.

    Example:
        >>> from routellm_core.testing import ScriptedRouter
        >>> router = ScriptedRouter(lambda question: 0.9 if "prove" in question else 0.1)
        >>> chain = RouterRunnable(
        ...     {"weak": lambda x: "short answer", "strong": lambda x: "long answer"},
        ...     router=router, threshold=0.5, text=lambda x: x["question"])
        >>> chain.batch([{"question": "hello"}, {"question": "prove it"}])
        ['short answer', 'long answer']
    """

    # frozen: what decides is made from them once, and would not follow an assignment; model_copy() does
    routes: dict[str, Runnable[Any, Any]] = Field(default_factory=dict, frozen=True)
    overrides: list[tuple[Runnable[Any, Any], Runnable[Any, Any]]] = Field(default_factory=list, frozen=True)
    router: Any = Field(default="default", exclude=True, frozen=True)
    encoder: Any = Field(default=None, exclude=True, repr=False, frozen=True)
    threshold: Any = Field(default=None, frozen=True)
    strong_share: float | None = Field(default=None, frozen=True)
    budget: Budget | None = Field(default=None, frozen=True)
    quality_floor: float | None = Field(default=None, frozen=True)
    policy: Any = Field(default=None, exclude=True, repr=False, frozen=True)
    text: Callable[..., Any] | None = Field(default=None, exclude=True)
    stickiness: Stickiness = Field(default="tool_loop", frozen=True)
    fallback: Fallback = Field(default="none", frozen=True)
    on_error: OnError = Field(default="strong", frozen=True)
    router_timeout_s: float | None = Field(default=None, frozen=True)

    model_config = ConfigDict(arbitrary_types_allowed=True)
    _policy: RoutingPolicy = PrivateAttr()

    def __init__(
        self,
        routes: Mapping[str, RunnableLike[Any, Any] | Mapping[str, Any]],
        *,
        router: Router | str | Path = "default",
        encoder: Any = None,
        threshold: float | Sequence[float] | None = None,
        strong_share: float | None = None,
        budget: Budget | None = None,
        quality_floor: float | None = None,
        policy: RoutingPolicy | None = None,
        text: Callable[[Any], str | None] | None = None,
        stickiness: Stickiness = "tool_loop",
        fallback: Fallback = "none",
        on_error: OnError = "strong",
        router_timeout_s: float | None = None,
        overrides: Sequence[tuple[Any, Any]] = (),
        name: str | None = None,
    ) -> None:
        # all of it before pydantic, which would wrap our errors into its own
        runnables, pairs = _checked_routes(routes), _checked_overrides(overrides)
        clash = sorted({branch_name(i) for i in range(1, len(pairs) + 1)} & set(runnables))
        if clash:
            raise ConfigurationError(f"{clash[0]!r} is what records call an override; give the route another name")
        if text is not None and not callable(text):
            raise ConfigurationError(
                f"text= is a function from the input to a str, got {type(text).__name__}; "
                'for one key of a dict: text=lambda x: x["question"]'
            )
        options = {
            "router": router,
            "encoder": encoder,
            "threshold": threshold,
            "strong_share": strong_share,
            "budget": budget,
            "quality_floor": quality_floor,
            "stickiness": stickiness,
            "fallback": fallback,
            "on_error": on_error,
            "router_timeout_s": router_timeout_s,
        }
        decides = policy_from(policy, tuple(runnables), options)
        names_threshold = isinstance(router, str) and router_and_threshold(router) is not None
        super().__init__(
            routes=runnables,
            overrides=pairs,
            router=decides.router,
            policy=policy,
            text=text,
            # of a policy, or of a router's name that holds one, what it amounts to; copies would lose it
            threshold=threshold if policy is None and not names_threshold else decides.settings()["threshold"],
            strong_share=strong_share,
            budget=budget,
            quality_floor=quality_floor,
            stickiness=decides.stickiness,
            fallback=decides.fallback,
            on_error=decides.on_error,
            router_timeout_s=decides.router_timeout_s,
            name=name,
        )
        self._policy = decides

    @classmethod
    def from_branches(
        cls,
        branch: RunnableBranch[Input, Output],
        *,
        strong: RunnableLike[Input, Output] | Mapping[str, Any] | None = None,
        weak: RunnableLike[Input, Output] | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """An existing `RunnableBranch` whose default becomes a scored choice between two routes.

        Its conditions stay what they are: asked in order, before anything is scored. Where none holds, the branch
        took its default; now the score decides between that default and the runnable given here.

        Args:
            branch: Any; it is not changed.
            strong: A better runnable than the default, which becomes the route "weak".
            weak: Or a cheaper one; then the default becomes the route "strong". Exactly one of both.
            **options: As for the constructor: `router`, `threshold`, `text`, `fallback`, ...

        Raises:
            ConfigurationError: Not a branch, both or neither of `strong` and `weak`, or as the constructor.

        Example:
            >>> from langchain_core.runnables import RunnableBranch
            >>> from routellm_core.testing import ScriptedRouter
            >>> branch = RunnableBranch((lambda x: x.startswith("/"), lambda x: "a command"), lambda x: "an answer")
            >>> router = ScriptedRouter(lambda text: 0.9 if "prove" in text else 0.1)
            >>> chain = RouterRunnable.from_branches(
            ...     branch, strong=lambda x: "a proof", router=router, threshold=0.5)
            >>> chain.batch(["/help", "hello", "prove it"])
            ['a command', 'an answer', 'a proof']
        """
        if not isinstance(branch, RunnableBranch):
            raise ConfigurationError(f"from_branches takes a RunnableBranch, got {type(branch).__name__}")
        if (strong is None) == (weak is None):
            raise ConfigurationError(
                "give strong= (the branch's default is then the weak route) or weak= (then it is the strong one); "
                f"got {'neither' if strong is None else 'both'}"
            )
        routes = {
            "weak": branch.default if weak is None else weak,
            "strong": branch.default if strong is None else strong,
        }
        options.setdefault("name", branch.name)
        return cls(routes, overrides=branch.branches, **options)

    # -- what is behind it
    @property
    def routing_policy(self) -> RoutingPolicy:
        """What decides: the policy that was given, or the one made of the constructor's arguments."""
        return self._policy

    @property
    def _targets(self) -> dict[str, Runnable[Any, Any]]:
        """Everything that may answer, by the name that records use."""
        if not self.overrides:
            return self.routes
        return {**{branch_name(i): runnable for i, (_, runnable) in enumerate(self.overrides, 1)}, **self.routes}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy whose routing follows the updated fields.

        Raises:
            ConfigurationError: There is no such field, or as the constructor.
        """
        update = dict(update or {})
        for name in update:
            if name not in type(self).model_fields:
                raise ConfigurationError(f"{type(self).__name__} has no field {name!r} to update")
        if "routes" in update:
            update["routes"] = _checked_routes(update["routes"])
        if "overrides" in update:
            update["overrides"] = _checked_overrides(update["overrides"])
        copy = super().model_copy(update=update, deep=deep)
        if not set(update).isdisjoint((*POLICY_DEFAULTS, "policy", "routes")):
            options = {name: getattr(copy, name) for name in POLICY_DEFAULTS}
            copy._policy = policy_from(copy.policy, tuple(copy.routes), options)
        return copy

    # -- what it says about itself
    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """That of the first route that has one; the best route is asked first."""
        conditions = [condition for condition, _ in self.overrides]
        for runnable in (*reversed(self._targets.values()), *conditions):
            if runnable.get_input_jsonschema(config).get("type") is not None:
                return runnable.get_input_schema(config)
        return super().get_input_schema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """That of the routes, when they agree."""
        schemas = [runnable.get_output_jsonschema(config) for runnable in self._targets.values()]
        kinds = [{name: value for name, value in schema.items() if name != "title"} for schema in schemas]
        if kinds[0] and all(kind == kinds[0] for kind in kinds):
            return next(iter(self._targets.values())).get_output_schema(config)
        return super().get_output_schema(config)

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What can be configured: in the routes and conditions, and per call in the routing."""
        runnables = [*self._targets.values(), *(condition for condition, _ in self.overrides)]
        return get_unique_config_specs([*_CONFIG_SPECS, *(s for runnable in runnables for s in runnable.config_specs)])

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """The routes side by side, each behind a conditional edge with its name."""
        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        node = graph.add_node(self, metadata=config.get("metadata") if config else None)
        last = graph.add_node(self.get_output_schema(config))
        graph.add_edge(first, node)
        for name, runnable in self._targets.items():
            inner = runnable.get_graph(config)
            inner.trim_first_node()
            inner.trim_last_node()
            begin, end = graph.extend(inner) if inner else (None, None)
            if begin is None or end is None:
                graph.add_edge(node, last, name, conditional=True)
                continue
            graph.add_edge(node, begin, name, conditional=True)
            graph.add_edge(end, last)
        return graph

    # -- calls
    def invoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        return cast("Output", _routed.invoke(RunnableHost(self), input, config, kwargs))

    async def ainvoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        return cast("Output", await _routed.ainvoke(RunnableHost(self), input, config, kwargs))

    def stream(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Output]:
        return _routed.stream(RunnableHost(self), input, config, kwargs)

    def astream(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Output]:
        return _routed.astream(RunnableHost(self), input, config, kwargs)

    # -- many at once: the router is asked once
    def batch(
        self, inputs: list[Input], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[Output]:
        configs = _routed.decided(RunnableHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self, inputs: list[Input], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[Output]:
        host = RunnableHost(self)
        configs = await _routed.adecided(host, inputs, config, kwargs, return_exceptions=return_exceptions)
        return await super().abatch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def batch_as_completed(
        self, inputs: Sequence[Input], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> Iterator[Any]:
        configs = _routed.decided(RunnableHost(self), inputs, config, kwargs, return_exceptions=return_exceptions)
        yield from super().batch_as_completed(
            inputs, configs, return_exceptions=cast("Any", return_exceptions), **kwargs
        )

    async def abatch_as_completed(
        self, inputs: Sequence[Input], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> AsyncIterator[Any]:
        host = RunnableHost(self)
        configs = await _routed.adecided(host, inputs, config, kwargs, return_exceptions=return_exceptions)
        async for item in super().abatch_as_completed(
            inputs, configs, return_exceptions=cast("Any", return_exceptions), **kwargs
        ):
            yield item


def _checked_routes(routes: Any) -> dict[str, Runnable[Any, Any]]:
    if not isinstance(routes, Mapping) or len(routes) < 2:
        raise ConfigurationError("routes= is a dict of at least two runnables by name, weakest first")
    for name in routes:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a route's name is a str that is not empty, got {name!r}")
    return {name: _runnable(f"route {name!r}", given) for name, given in routes.items()}


def _checked_overrides(overrides: Any) -> list[tuple[Runnable[Any, Any], Runnable[Any, Any]]]:
    pairs = []
    for number, pair in enumerate(overrides, 1):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigurationError(f"override {number} is no (condition, runnable) pair")
        condition, runnable = pair
        where = f"override {number}"
        pairs.append((_runnable(f"{where}, condition", condition), _runnable(where, runnable)))
    return pairs


def _runnable(where: str, given: Any) -> Runnable[Any, Any]:
    try:
        return coerce_to_runnable(dict(given) if isinstance(given, Mapping) else given)
    except TypeError:
        hint = "; for 'provider:model' strings there is ChatRouteLLM" if isinstance(given, str) else ""
        raise ConfigurationError(
            f"{where}: a runnable, a function or a dict of them is needed, got {type(given).__name__}{hint}"
        ) from None
