"""A conversation keeps its route through a checkpointer, in another process too: the record is in the messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

import langchain_routellm
from langchain_routellm import ChatRouteLLM
from tests.test_langchain.fakes import RECORD, backend, fake, get_weather, routed

sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")

LABELS = ("small", "mid", "large")
ROOT = Path(langchain_routellm.__file__).parent.parent


def three(**options: Any) -> ChatRouteLLM:
    models = {name: fake(name, blocks=True) for name in LABELS}
    return routed(**{"models": models, "threshold": [0.3, 0.7], "stickiness": "conversation", **options})


def asked(agent: Any, question: str, thread: str = "1", **configurable: Any) -> list[tuple[str, str]]:
    """Ask, and give the route and the reason of every answer in the whole thread."""
    config: Any = {"configurable": {"thread_id": thread, **configurable}}
    state = agent.invoke({"messages": [HumanMessage(question)]}, config)
    records = [m.response_metadata[RECORD] for m in state["messages"] if isinstance(m, AIMessage)]
    return [(record["route"], record["reason"]) for record in records]


def test_a_conversation_with_a_checkpointer_stays_on_the_route_of_its_first_answer() -> None:
    agent = create_agent(three(), [], checkpointer=InMemorySaver())
    assert asked(agent, "a medium question") == [("mid", "score")]
    assert asked(agent, "an easy question") == [("mid", "score"), ("mid", "conversation")]
    assert asked(agent, "an easy question", thread="2") == [("small", "score")]  # another conversation


def test_a_forced_call_moves_a_conversation_and_it_stays_there() -> None:
    agent = create_agent(three(), [], checkpointer=InMemorySaver())
    asked(agent, "an easy question")
    asked(agent, "an easy question", routellm_route="large")
    assert asked(agent, "an easy question")[1:] == [("large", "forced"), ("large", "conversation")]
    # and one call can be scored anew
    assert asked(agent, "an easy question", routellm_stickiness="tool_loop")[-1] == ("small", "score")


OTHER_PROCESS = """
import json, sys
from langchain.agents import create_agent
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.test_langchain.fakes import backend, get_weather
from tests.test_langchain.test_conversations import asked, three

with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
    llm = three()
    agent = create_agent(llm, [], checkpointer=saver)
    routes = asked(agent, "an easy question")
    seen = backend(llm, routes[-1][0]).seen[0]
    print(json.dumps({"routes": routes, "content": seen[1].content}))
"""


def test_a_conversation_goes_on_in_another_process_from_a_sqlite_file(tmp_path: Path) -> None:
    file = str(tmp_path / "conversations.sqlite")
    with sqlite.SqliteSaver.from_conn_string(file) as saver:
        assert asked(create_agent(three(), [], checkpointer=saver), "a hard question") == [("large", "score")]
    paths = [str(ROOT), *(path for path in sys.path if path)]
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, file],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(paths), "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["routes"] == [["large", "score"], ["large", "conversation"]]
    # its own turn comes back from the file as it was, thinking included
    assert [block["type"] for block in found["content"]] == ["thinking", "text"]


def test_an_open_tool_loop_is_taken_up_on_its_route_after_a_stop(tmp_path: Path) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up a city."""
        raise RuntimeError("the process dies here")

    file = str(tmp_path / "loops.sqlite")
    config: Any = {"configurable": {"thread_id": "1"}}
    with sqlite.SqliteSaver.from_conn_string(file) as saver:
        agent = create_agent(three(stickiness="tool_loop"), [look_up], checkpointer=saver)
        with pytest.raises(RuntimeError, match="dies"):
            agent.invoke({"messages": [HumanMessage("a hard question about 'Rome'")]}, config)
    with sqlite.SqliteSaver.from_conn_string(file) as saver:
        look_up.func = get_weather.func
        llm = three(stickiness="tool_loop", threshold=[1.0, 1.0])  # scored again, it would be the small one
        agent = create_agent(llm, [look_up], checkpointer=saver)
        last = agent.invoke(None, config)["messages"][-1]
    assert (last.response_metadata[RECORD]["route"], last.response_metadata[RECORD]["reason"]) == ("large", "tool_loop")
    assert len(backend(llm, "large").seen) == 1
