"""The demo, run as a user runs it, against two real endpoints on the loopback."""

import os
import re
import subprocess
import sys
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
