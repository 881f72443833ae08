"""Keys, prompts and answers stay where they belong: planted secrets must be found nowhere else."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

from langchain_routellm import ChatRouteLLM
from routellm_core import collect_decisions
from routellm_core.errors import RouteLLMError
from routellm_core.testing import LoopbackOpenAI, Reply, ScriptedRouter
from routellm_core.testing import ToolCall as ToolReply
from tests.test_langchain.fakes import RECORD, fake, get_weather, routed

KEY, PROMPT, ANSWER, ARGUMENT, PAST = (
    "sk-plantedkey",
    "plantedprompt",
    "plantedanswer",
    "plantedargument",
    "plantedpast",
)
SECRETS = (KEY, PROMPT, ANSWER, ARGUMENT, PAST)


class Described(BaseCallbackHandler):
    """What runs say of themselves, apart from what went in and came out."""

    run_inline = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def _start(self, serialized: Any, kwargs: dict[str, Any]) -> None:
        own = {name: kwargs.get(name) for name in ("name", "tags", "metadata", "options", "invocation_params")}
        self.said.append(json.dumps([serialized, own], default=str))

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self._start(serialized, kwargs)

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self._start(serialized, kwargs)


def leaks(shown: list[str], secrets: tuple[str, ...] = SECRETS) -> list[str]:
    return [text for text in shown if any(secret in text for secret in secrets)]


def client(server: LoopbackOpenAI, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=server.url, api_key=KEY, max_retries=0)  # type: ignore[arg-type]


def reply(request: dict[str, Any]) -> Reply:
    if request["model"] == "broken":
        return Reply(status=503)
    if request.get("tools"):
        return Reply(tool_calls=(ToolReply(name="get_weather", arguments={"city": ARGUMENT}),))
    return Reply(text=f"{ANSWER} {request['model']}")


def history() -> list[BaseMessage]:
    call = ToolCall(name="get_weather", args={"city": ARGUMENT}, id="c1")
    return [
        HumanMessage(f"{PAST} once"),
        AIMessage("", tool_calls=[call]),
        ToolMessage(PAST, tool_call_id="c1"),
        AIMessage(f"{PAST} and {ANSWER}"),
        HumanMessage(f"{PROMPT} now"),
    ]


async def everything(llm: ChatRouteLLM, config: Any) -> list[Any]:
    """Each kind of call, with secrets in all that goes in and comes out; the answers."""
    tools = llm.bind_tools([get_weather])
    merged: Any = None
    for chunk in llm.stream(history(), config):
        merged = chunk if merged is None else merged + chunk
    chain = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{question}")]) | llm
    return [
        llm.invoke(history(), config),
        await llm.ainvoke(history(), config),
        merged,
        [chunk async for chunk in llm.astream(history(), config)][0],
        *llm.batch([history(), history()], config),
        tools.invoke(history(), config),
        chain.invoke({"context": PAST, "question": PROMPT}, config),
    ]


@pytest.mark.parametrize("scorer", ["scores", "fails", "is late"])
async def test_no_secret_is_in_a_dump_a_run_a_log_line_or_a_record(
    scorer: str, loopback: LoopbackOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    loopback.reply = reply

    def late(text: str) -> float:
        time.sleep(0.05)
        return 0.1

    router = {
        "scores": ScriptedRouter(0.1),
        "fails": ScriptedRouter(error=ValueError(f"cannot score {PROMPT}")),
        "is late": ScriptedRouter(late),
    }[scorer]
    llm = routed(
        router=router,
        weak=client(loopback, "broken"),
        strong=client(loopback, "big"),
        fallback="stronger",
        router_timeout_s=0.01 if scorer == "is late" else None,
    )
    described = Described()
    with collect_decisions() as taken:
        answers = await everything(llm, {"callbacks": [described], "metadata": {"mine": 1}})
    assert len(taken) == 8 and ANSWER in answers[0].text  # the secrets are there
    shown = [repr(taken), json.dumps([answer.response_metadata[RECORD] for answer in answers])]
    for each in (llm, routed(strong=llm)):
        shown += [repr(each), str(each), str(dumpd(each)), dumps(each), repr(each._identifying_params)]
        shown += [each._llm_type, repr(each._get_ls_params()), repr(each.routing_policy)]
    shown += [str(dumpd(llm.bind_tools([get_weather]))), json.dumps(llm.to_config(leave_out=["router"]), default=repr)]
    assert leaks(shown) == []
    assert len(described.said) > 16 and leaks(described.said) == []
    ours = [r for r in caplog.records if r.name.startswith(("routellm_core", "langchain_routellm"))]
    assert len(ours) >= 7  # of the fallbacks at least
    assert leaks([logging.Formatter().format(r) + repr(r.args) for r in ours]) == []


def test_no_secret_is_in_an_error_of_ours(loopback: LoopbackOpenAI) -> None:
    backend = client(loopback, "big")
    failing: dict[str, Any] = {
        "router": ScriptedRouter(error=ValueError(f"cannot score {PROMPT}")),
        "on_error": "raise",
    }
    odd: Any = lambda messages: messages  # noqa: E731
    said = []
    for ask in (
        lambda: ChatRouteLLM(strong=backend, weak=object()),  # type: ignore[arg-type]
        lambda: ChatRouteLLM(strong=backend),
        lambda: routed(strong=backend, text=odd).invoke(history()),
        lambda: routed(strong=backend, **failing).invoke(history()),
        lambda: list(routed(strong=backend, **failing).stream(history())),
        lambda: routed(strong=backend).invoke(history(), {"configurable": {"routellm_route": "medium"}}),
        lambda: routed(strong=backend).invoke(history(), {"configurable": {"routellm_threshold": 7}}),
        lambda: routed(weak=fake("weak"), strong=backend, models={"weak": backend}),
    ):
        with pytest.raises(RouteLLMError) as caught:
            ask()
        said.append(f"{caught.value!r} {getattr(caught.value, '__notes__', '')}")
    assert len(said) == 8 and leaks(said) == []
