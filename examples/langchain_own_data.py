"""Calibrating on your own prompts: the threshold that sends the wanted share of them to the strong model.

pip install '.[langchain,prices]' langchain-openai    # in a clone
python examples/langchain_own_data.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _backends import stand_in

from langchain_routellm import ChatRouteLLM
from routellm_core import calibrate, collect_decisions, load_router

WEAK, STRONG = "openai:gpt-4.1-mini", "openai:gpt-4.1"
PROMPTS = Path(__file__).resolve().parent / "own_prompts.txt"  # yours: a few hundred from your log, one a line

WANTED = 0.25


def main() -> None:
    weak, strong = stand_in(WEAK), stand_in(STRONG)  # online: weak, strong = WEAK, STRONG
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    router = load_router("default")
    win_rates = router.win_rate(prompts)
    default = router.calibration.threshold
    share = (win_rates >= default).mean()
    print(f"The router's own threshold {default:.3f} would send {share:.0%} of these {len(prompts)} prompts strong.")

    # every other prompt sets the threshold, so that the rest can say what came of it
    sample, unseen = prompts[::2], prompts[1::2]
    calibration = calibrate(router.win_rate(sample), strong_share=WANTED, source="own prompts")
    print(f"Threshold for {WANTED:.0%}, from half of them: {calibration.threshold:.3f}")
    # with grades of both models' answers, calibrate(win_rates, strong_scores=..., weak_scores=..., quality_floor=.95)
    # finds the threshold that keeps 95% of the strong model's quality, with a guarantee; that takes some hundred grades

    with tempfile.TemporaryDirectory() as folder:
        router.calibration = calibration
        router.save(folder)  # the threshold travels with the router
        llm = ChatRouteLLM(weak=weak, strong=strong, router=folder)
    with collect_decisions() as decisions:
        llm.batch(unseen)
    print(
        f"Strong share of the other half: {decisions.share():.0%}; {decisions.saving({'weak': WEAK, 'strong': STRONG})}"
    )


if __name__ == "__main__":
    main()
