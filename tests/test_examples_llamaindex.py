"""The examples for LlamaIndex, run as a user runs them, against endpoints on the loopback."""

import importlib
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORKLIFT = r"A forklift moves one pallet at a time"
PRINTED = {
    "agent": [
        r"get_weather: sunny in Oslo, 12 degrees\n  The answer is: sunny.*\n  weak \(score\), weak \(tool_loop\)\n",
        r"convert: 250 euros .*\n  The answer is: 250 euros .*\n  strong \(score\), strong \(tool_loop\)\n",
        r"for 4 answers, \d+% saved$",
    ],
    "chat_engine": [
        r"open\?\n  The warehouse opens at 06:00 .*\n  weak \(score\)\n",
        r"accepted\?\n  Deliveries are accepted until 20:30\.\n  weak \(forced\)\n  weak \(score\)\n",
        rf"  {FORKLIFT}.*\n  weak \(forced\)\n  strong \(score\)\n",
        r"for 5 answers, \d+% saved$",
    ],
    "rag": [
        r"open\?\n  win_rate 0\.\d+ -> weak: .*The warehouse opens at 06:00.*\n  from warehouse\.md\n",
        r"descaled\?\n  win_rate 0\.\d+ -> weak: .* descale it every two months.*\n  from espresso\.md\n",
        rf"-> strong: {FORKLIFT}",
        r"Strong share 0\.33; \$[\d.e-]+ instead of \$[\d.e-]+ for 3 answers, \d+% saved$",
    ],
    "selector": [
        r"  quick: win rate 0\.\d+ of router default is below 0\.\d+\n  The warehouse opens.*\n  quick -> weak\n",
        rf"  thorough: win rate 0\.\d+ of .* reaches 0\.\d+\n  {FORKLIFT}.*\n  thorough -> strong\n",
        r"for 2 answers, \d+% saved; 2 without a token count$",
    ],
    "workflow": [
        r"wish .*\n  \(what gpt-4.1-mini would say\)\n  weak \(forced\), then weak \(score\)\n",
        r"no others\.\n  \(what gpt-4.1 would say\)\n  weak \(forced\), then strong \(score\)\n",
        r"for 4 answers, \d+% saved$",
    ],
}
# upstream's own: building a workflow looks at every member of the agent, pydantic's deprecated ones too
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` (attribute|method) is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute on the instance:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is_running.*:DeprecationWarning"),
    # the examples close no client, as few programs do
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def examples(monkeypatch):
    """The folder, importable; the stand-ins' server is closed again."""
    for module in ("llama_index.core", "llama_index.llms.openai_like", "genai_prices"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    backends = importlib.import_module("_backends")
    yield ROOT / "examples"
    if backends._server.cache_info().currsize:
        backends._server().__exit__(None, None, None)
        backends._server.cache_clear()


def check(printed, patterns):
    for pattern in patterns:
        assert re.search(pattern, printed.strip()), f"{pattern}\n{printed}"


def test_every_example_is_tested(examples):
    assert {file.stem.removeprefix("llamaindex_") for file in examples.glob("llamaindex_*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_an_example_runs_offline_and_shows_routes_and_saving(name, examples, loopback, capsys):
    importlib.import_module(f"llamaindex_{name}").main()
    check(capsys.readouterr().out, PRINTED[name])
    assert loopback.requests == []  # its own stand-ins answered


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_changing_the_line_it_says_takes_an_example_online(name, examples, loopback, capsys, monkeypatch):
    loopback.reply = importlib.import_module("_backends")._answer
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    source = (examples / f"llamaindex_{name}.py").read_text(encoding="utf-8")
    changed, count = re.subn(r"^( +)\S.*  # online: (.+)$", r"\1\2", source, flags=re.M)
    assert count == 1
    module = types.ModuleType(f"online_{name}")
    module.__file__ = str(examples / f"llamaindex_{name}.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # workflows look there for the names of annotations
    exec(compile(changed, module.__file__, "exec"), module.__dict__)  # noqa: S102 - our own file
    module.main()
    check(capsys.readouterr().out, PRINTED[name][:-1])
    assert {request["model"] for request in loopback.requests} == {"gpt-4.1-mini", "gpt-4.1"}


def test_an_example_runs_as_a_script_from_anywhere(examples):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(examples / "llamaindex_rag.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")])},
        cwd=ROOT.parent,
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout, PRINTED["rag"])
