"""The demo and the examples, run as a user runs them, against endpoints on the loopback."""

import importlib
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_demo(loopback, **variables):
    for module in ("langchain_openai", "llama_index.llms.openai_like", "genai_prices"):
        pytest.importorskip(module)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")]),
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": loopback.url,
        **variables,
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
    )


def test_the_demo_routes_between_two_endpoints_and_prints_the_bill(loopback):
    done = run_demo(loopback, ROUTELLM_STRONG="openai:gpt-4.1", ROUTELLM_WEAK="openai:gpt-4.1-mini")
    assert done.returncode == 0, done.stderr
    models = [request["model"] for request in loopback.requests]
    assert len(models) == 16  # twelve prompts and four questions, one call each
    lines = re.findall(r"win_rate (0\.\d+) -> (strong|weak)  (\d+)\+(\d+) tokens, \$(0\.\d+)", done.stdout)
    assert [f"gpt-4.1{'' if route == 'strong' else '-mini'}" for _, route, *_ in lines] == models
    assert all(int(asked) > 0 and int(answered) > 0 and float(cost) > 0 for _, _, asked, answered, cost in lines)
    strong = models.count("gpt-4.1")
    assert f"strong share  {strong}/16" in done.stdout
    assert 0 < strong < 16
    routed, all_strong, all_weak = (
        float(re.search(rf"{name}\s+\$([0-9.]+)", done.stdout).group(1))
        for name in ("routed", "all strong", "all weak")
    )
    assert all_weak < routed < all_strong
    assert routed == pytest.approx(sum(float(line[4]) for line in lines), abs=2e-5)
    assert "stand-in" not in done.stdout


def test_with_one_model_every_line_says_stand_in(loopback):
    done = run_demo(loopback, ROUTELLM_WEAK="openai:gpt-4.1-mini")
    assert done.returncode == 0, done.stderr
    assert {request["model"] for request in loopback.requests} == {"gpt-4.1-mini"}
    decisions = [line for line in done.stdout.split("\n") if " -> " in line]
    assert len(decisions) == 16
    assert all("stand-in" in line for line in decisions)


def test_models_of_ones_own_have_no_price_and_still_answer(loopback):
    done = run_demo(loopback, ROUTELLM_STRONG="openai:my-own-70b", ROUTELLM_WEAK="openai:my-own-1b")
    assert done.returncode == 0, done.stderr
    assert {request["model"] for request in loopback.requests} == {"my-own-70b", "my-own-1b"}
    assert done.stdout.count("price unknown") == 16
    assert "no bill: openai:my-own-70b or openai:my-own-1b is in no price list" in done.stdout


# -- the examples for LangChain
PRINTED = {
    "agent": [
        r"weak \(score\): get_weather\n  weak \(tool_loop\): The answer is: sunny in Oslo",
        r"strong \(score\): convert\n  strong \(tool_loop\): The answer is: 250 euros",
        r"for 4 answers, \d+% saved",
    ],
    "chain": [
        r"capital of France\?\n  win_rate 0\.\d+ -> weak: \(what gpt-4.1-mini would say\)",
        r"no others\.\n  win_rate 0\.\d+ -> strong: \(what gpt-4.1 would say\)",
        r"Strong share 0\.33; \$[\d.e-]+ instead of \$[\d.e-]+ for 3 answers, \d+% saved",
        r"on order: strong \(forced\)",
    ],
    "own_data": [
        r"threshold 0\.270 would send 20% of these 40 prompts strong",
        r"Threshold for 25%, from half of them: 0\.2\d+",
        r"Strong share of the other half: \d+%; .* for 20 answers, \d+% saved",
    ],
    "rag": [
        r"warehouse open\?\n  win_rate 0\.\d+ -> weak: The warehouse opens at 06:00",
        r"descaled\?\n  win_rate 0\.\d+ -> weak: .* descale it every two months",
        r"-> strong: A forklift moves one pallet at a time",
        r"for 3 answers, \d+% saved",
    ],
    "streaming": [
        r"\n\[weak\] \(what gpt-4.1-mini would say\)\n(.*\n)*\[strong\] \(what gpt-4.1 would say\)\n",
        r"Both at once:\n\[weak\] .* say\)\n\[strong\] .* say\)\n",
        r"for 4 answers, \d+% saved",
    ],
    "structured_output": [
        r"-> weak: Ticket\(sender='Ann', team='shipping', urgent=False\)",
        r"-> strong: Ticket\(sender='Bert', team='legal', urgent=True\)",
        r"for 2 answers, \d+% saved",
    ],
    "three_models": [
        r"Cuts: 0\.\d+, 0\.\d+",
        r"-> small: .*nano(.*\n)*.*-> medium: .*mini(.*\n)*.*-> large: \(what gpt-4.1 would say",
        r"for 3 answers, \d+% saved",
    ],
    "whole_chains": [
        r"-> weak: \(what gpt-4.1-mini(.*\n)*.*-> strong: \(what gpt-4.1 would",
        r"for 2 answers, \d+% saved",
        r"With a branch: branch:1 \(forced\), weak \(score\), strong \(score\)",
    ],
}


@pytest.fixture
def examples(monkeypatch):
    """The folder, importable; the stand-ins' server is closed again."""
    for module in ("langchain.agents", "langchain_openai", "genai_prices"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    backends = importlib.import_module("_backends")
    yield ROOT / "examples"
    if backends._server.cache_info().currsize:
        backends._server().__exit__(None, None, None)
        backends._server.cache_clear()


def test_every_example_is_tested(examples):
    assert {file.stem.removeprefix("langchain_") for file in examples.glob("langchain_*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_an_example_runs_offline_and_shows_routes_and_saving(name, examples, loopback, capsys):
    importlib.import_module(f"langchain_{name}").main()
    printed = capsys.readouterr().out
    for pattern in PRINTED[name]:
        assert re.search(pattern, printed), f"{pattern}\n{printed}"
    assert loopback.requests == []  # its own stand-ins answered


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_changing_the_line_it_says_takes_an_example_online(name, examples, loopback, capsys, monkeypatch):
    loopback.reply = importlib.import_module("_backends")._answer
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    source = (examples / f"langchain_{name}.py").read_text(encoding="utf-8")
    changed, count = re.subn(r"^( +)\S.*  # online: (.+)$", r"\1\2", source, flags=re.M)
    assert count == 1
    module = types.ModuleType(f"online_{name}")
    module.__file__ = str(examples / f"langchain_{name}.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pydantic looks there for the names of annotations
    exec(compile(changed, module.__file__, "exec"), module.__dict__)  # noqa: S102 - our own file
    module.main()
    printed = capsys.readouterr().out
    for pattern in PRINTED[name][:-1]:
        assert re.search(pattern, printed), f"{pattern}\n{printed}"
    assert {request["model"] for request in loopback.requests} >= {"gpt-4.1-mini", "gpt-4.1"}


def test_an_example_runs_as_a_script(examples):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(examples / "langchain_chain.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")])},
        cwd=ROOT.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "Strong share 0.33" in done.stdout
