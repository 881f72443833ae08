"""Keys, prompts and answers stay where they belong: planted secrets must be found nowhere else."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, SummaryIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llamaindex_routellm import RouteLLM, RoutingDecisionEvent, events, force_route, pinned, query_scope
from routellm_core import collect_decisions
from routellm_core.errors import RouteLLMError
from routellm_core.testing import Reply, ToolCall

KEY, PROMPT, ANSWER, ARGUMENT, PAST = (
    "sk-plantedkey",
    "plantedprompt",
    "plantedanswer",
    "plantedargument",
    "plantedpast",
)
SECRETS = (KEY, PROMPT, ANSWER, ARGUMENT, PAST)


class Out(BaseModel):
    answer: str


def leaks(shown: list[str]) -> list[str]:
    return [text for text in shown if any(secret in text for secret in SECRETS)]


def reply(request: dict[str, Any]) -> Reply:
    if request["model"] == "broken":
        return Reply(status=503)
    if request.get("tools"):
        return Reply(tool_calls=(ToolCall(name="look", arguments={"q": ARGUMENT}),))
    return Reply(text=f"{ANSWER} {request['model']}")


def history(kit: Any) -> list[ChatMessage]:
    looked = kit.call("look", {"q": ARGUMENT})
    result = ChatMessage(role="tool", content=PAST, additional_kwargs={"tool_call_id": "c1"})
    return [kit.user(f"{PAST} once"), looked, result, kit.assistant(f"{PAST} and {ANSWER}"), kit.user(f"{PROMPT} now")]


async def everything(llm: RouteLLM, kit: Any) -> list[Any]:
    """Each kind of call, with secrets in all that goes in and comes out; the responses."""
    messages, prompt = history(kit), PromptTemplate("{context_str} {query_str}")
    arguments = {"context_str": PAST, "query_str": f"{PROMPT} here"}
    llm.predict(prompt, **arguments)
    list(llm.stream(prompt, **arguments))
    await llm.apredict(prompt, **arguments)
    llm.predict_and_call([kit.LOOK], user_msg=PROMPT)
    with query_scope(PROMPT), pinned():
        llm.complete(PROMPT)
    index = SummaryIndex.from_documents([Document(text=PAST)], embed_model=MockEmbedding(8))
    index.as_query_engine(llm=llm).query(PROMPT)
    return [
        llm.chat(messages),
        await llm.achat(messages),
        *llm.stream_chat(messages),
        *[item async for item in await llm.astream_chat(messages)],
        llm.complete(PROMPT),
        *llm.stream_complete(PROMPT),
        llm.chat_with_tools([kit.LOOK], user_msg=PROMPT, chat_history=messages[:-1]),
        *llm.stream_chat_with_tools([kit.LOOK], chat_history=messages),
    ]


@pytest.mark.parametrize("scorer", ["scores", "fails", "is late"])
async def test_no_secret_is_in_a_dump_an_event_a_span_a_log_line_or_a_record(
    scorer: str, kit: Any, client: Any, loopback: Any, caplog: Any, monkeypatch: Any
):
    caplog.set_level(logging.DEBUG)
    loopback.reply = reply
    own, root, attributes = kit.Catch(), kit.Catch(), {}
    events.dispatcher.add_event_handler(own)
    get_dispatcher().add_event_handler(root)

    class Span:
        def set_attribute(self, name: str, value: Any) -> None:
            attributes[name] = [*attributes.get(name, []), value]

    monkeypatch.setattr("llamaindex_routellm._attempts.current_span", Span)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    router = {
        "scores": kit.ScriptedRouter(0.1),
        "fails": kit.ScriptedRouter(error=ValueError(f"cannot score {PROMPT}")),
        "is late": kit.ScriptedRouter(lambda text: [__import__("time").sleep(0.05), 0.1][1]),
    }[scorer]
    made = kit.pair(
        router,
        weak=client("broken", api_key=KEY),
        strong=client("big", api_key=KEY),
        fallback="stronger",
        router_timeout_s=0.01 if scorer == "is late" else None,
        utility_backend=client("small", api_key=KEY),
        callback_manager=CallbackManager([debug]),
    )
    with collect_decisions() as taken:
        answers = await everything(made.llm, kit)
    assert len(taken) == 14 and ANSWER in str(answers[0]) and made.llm.utility.api_key == KEY  # they are there
    shown = [
        repr(taken),
        json.dumps([answer.additional_kwargs["routellm"] for answer in answers]),
        json.dumps([event.model_dump(mode="json") for event in own.seen]),
        repr(own.seen),
        json.dumps(attributes),
        repr(made.llm._caller.ledger._routes),
    ]
    for llm in (made.llm, made.llm.rewriting, kit.pair(strong=made.llm).llm, made.llm.as_structured_llm(Out)):
        shown += [repr(llm), str(llm), llm.to_json(), json.dumps(llm.to_dict()), llm.model_dump_json()]
        shown += [repr(llm.model_dump()), repr(llm.policy) if isinstance(llm, RouteLLM) else ""]
        if hasattr(llm, "to_payload"):  # upstream's own have it from llama-index-core 0.14.23 on
            shown.append(json.dumps(llm.to_payload(), default=str))
    assert {type(event) for event in own.seen} == {RoutingDecisionEvent} and len(own.seen) >= len(taken)
    assert attributes["routellm.route"] and leaks(shown) == []
    ours = [r for r in caplog.records if r.name.startswith(("routellm_core", "llamaindex_routellm"))]
    assert len(ours) >= 14  # of the fallbacks at least
    assert leaks([logging.Formatter().format(r) + repr(r.args) for r in ours]) == []
    # what LlamaIndex itself says of models: its older releases put whole dumps, keys included, into payloads
    if hasattr(made.strong, "to_payload"):
        payloads = [
            e.payload for e in debug.get_events(CBEventType.LLM) if EventPayload.SERIALIZED in (e.payload or {})
        ]
        assert payloads and not [p for p in payloads if KEY in repr(p[EventPayload.SERIALIZED])]
        assert not [e for e in root.seen if KEY in repr(getattr(e, "model_dict", ""))]


async def test_no_secret_is_in_an_error_of_ours(kit: Any, client: Any, caplog: Any):
    caplog.set_level(logging.DEBUG)
    backend = client("big", api_key=KEY)
    failing = kit.ScriptedRouter(error=ValueError(f"cannot score {PROMPT}"))

    def forced() -> Any:
        with force_route("medium"):
            kit.pair(strong=backend).llm.chat(history(kit))

    said = []
    for ask in (
        lambda: RouteLLM(strong=backend, weak=object()),
        lambda: RouteLLM(strong=backend),
        lambda: kit.pair(strong=backend, api_key=KEY),
        lambda: kit.pair(strong=backend, system_prompt=PROMPT),
        lambda: kit.pair(strong=backend, utility_backend=[backend]),
        lambda: kit.pair(strong=backend).llm.utility,
        lambda: kit.pair(strong=backend, weak=kit.Fake(), text=lambda messages: messages).llm.chat(history(kit)),
        lambda: kit.pair(failing, strong=backend, on_error="raise").llm.complete(PROMPT),
        lambda: list(kit.pair(failing, strong=backend, on_error="raise").llm.stream_chat(history(kit))),
        forced,
    ):
        with pytest.raises(RouteLLMError) as caught:
            ask()
        said.append(f"{caught.value!r} {getattr(caught.value, '__notes__', '')}")
    assert len(said) == 10 and leaks(said) == []
