"""The paper's four routers, trained by the commands a user would type, on the paper's three benchmarks.

    python benchmarks/paper_tables.py --work FOLDER [--minilm FOLDER] [--smollm FOLDER] [--only mf sw ...]

Every router is trained on Arena-shaped battles alone, and then with golden labels and those of a judge as well,
as in the paper's tables 1 to 3; those that know all models (sw, mf) also with the scores of many models. Trained
routers and win rates stay in --work, so that an interrupted run goes on. Prints a Markdown table and writes
benchmarks/results/DATE-paper-tables.json. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from evaluation_sets import BENCHMARKS, DATA, ROOT, digest, need

from routellm_core import Encoder, Router, load_router
from routellm_core.encoders import load_encoder
from routellm_core.evaluation import apgr, apgr_interval, paper_apgr, paper_cpt, read_evaluation_set
from routellm_core.evaluation.published import published_for
from routellm_core.persistence import digest_of, write_bytes
from routellm_core.routers.transformer import TransformerRouter
from routellm_core.training.run import LOG

STRONG, WEAK = "gpt-4-1106-preview", "Mixtral-8x7B-Instruct-v0.1"
TRAINING_SETS = ("arena", "augmented", "scores")
OF_ALL_MODELS = ("sw", "mf")  # the only ones that learn from models other than the pair
KINDS = ("random", "sw", "mf", "bert", "causal")
IN_DISTRIBUTION = ("llmrouter/gsm8k", "routerdc/gsm8k-train")  # GSM8K's training questions
PUBLISHED_ON_ARENA = {  # APGR of the paper's routers that were trained on Arena data alone
    "MMLU": {"sw": 0.473, "mf": 0.524, "bert": 0.502, "causal": 0.499, "random": 0.500},
    "GSM8K": {"sw": 0.475, "mf": 0.475, "bert": 0.438, "causal": 0.461, "random": 0.497},
    "MT-Bench": {"sw": 0.610, "mf": 0.580, "bert": 0.391, "causal": 0.573, "random": 0.500},
}
IN_THE_PAPER = {
    "sw": "similarity-weighted",
    "mf": "matrix factorization",
    "bert": "BERT",
    "causal": "causal LLM (Llama-3-8B)",
}


@dataclass(frozen=True)
class Trained:
    """One line of the table: a kind of router and what it was trained on."""

    kind: str
    training_set: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.training_set}"


def prepared_files(data: Path, work: Path) -> None:
    """Labels by known answers and by a judge, and scores of many models, all without GSM8K's training questions."""
    pairs = pq.read_table(data / "train" / "pairs.parquet")
    for name, table in (
        ("gold", pairs.filter(pc.equal(pairs["kind"], "correctness"))),
        ("judge", pairs.filter(pc.equal(pairs["kind"], "judge"))),
        ("scores", pq.read_table(data / "train" / "models.parquet")),
    ):
        left_out = pc.is_in(table["source"], value_set=pa.array(IN_DISTRIBUTION))
        if not (work / f"{name}.parquet").exists():
            pq.write_table(table.filter(pc.invert(left_out)), work / f"{name}.parquet")


def command(trained: Trained, arguments: argparse.Namespace) -> list[str]:
    """What a user would type."""
    line = ["train", trained.kind, "--data", str(arguments.data / "train" / "battles.parquet")]
    line += ["--exclude-model", "unnamed-arena-opponent", "--strong", STRONG, "--weak", WEAK]
    if trained.training_set == "augmented":
        line += ["--augment", str(arguments.work / "gold.parquet"), "--augment", str(arguments.work / "judge.parquet")]
    if trained.training_set == "scores":
        line += ["--data", str(arguments.work / "scores.parquet")]
    if trained.kind in ("mf", "sw"):
        line += ["--encoder", f"transformer:{arguments.minilm}"]
    else:
        line += ["--base", str(arguments.minilm if trained.kind == "bert" else arguments.smollm)]
        line += fine_tuning(trained)
    return [*line, "--out", str(arguments.work / trained.name)]


# chosen by seconds a step on two cores and by validation on training data, before anything was evaluated
STEPS = {"bert": {"arena": 400, "augmented": 500}, "causal": {"arena": 120, "augmented": 120}}
EVERY = {"bert": {"arena": 50, "augmented": 100}, "causal": {"arena": 30, "augmented": 40}}
RATE = {"bert": "5e-5", "causal": "3e-4"}
HELD_OUT = {"bert": 0.05, "causal": 0.02}  # with augmentation there is more to hold out from


def fine_tuning(trained: Trained) -> list[str]:
    """Options of bert and causal."""
    kind, on = trained.kind, trained.training_set
    options = ["--labels", "pair", "--steps", str(STEPS[kind][on]), "--max-length", "256"]
    options += ["--learning-rate", RATE[kind], "--validation", str(0.1 if on == "arena" else HELD_OUT[kind])]
    return [*options, "--set", "dtype=bfloat16", "--set", f"evaluate_every={EVERY[kind][on]}"]


def train(trained: Trained, arguments: argparse.Namespace) -> None:
    if trained.kind == "random" or (arguments.work / trained.name / "config.json").exists():
        return
    line = command(trained, arguments)
    print("routellm", *line, flush=True)
    subprocess.run([sys.executable, "-m", "routellm_core", *line], check=True)


def training_seconds(trained: Trained, work: Path) -> float | None:
    """As its log has them: prompts encoded once, everything else that ran on the machine at the time included."""
    log = work / trained.name / LOG
    return json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["seconds"] if log.exists() else None


class Remembering(Encoder):
    """Another encoder, whose vectors of a whole list of texts are kept in a file: several routers score the same."""

    kind = "remembering"

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder, self._folder = encoder, folder

    dim = property(lambda self: self._encoder.dim)
    digest = property(lambda self: self._encoder.digest)
    name = property(lambda self: self._encoder.name)

    def settings(self) -> dict[str, object]:
        return self._encoder.settings()

    def _encode(self, texts: list[str]) -> np.ndarray:
        path = self._folder / f"{digest_of(self.digest, *texts)[:16]}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            np.save(path, self._encoder.encode(texts), allow_pickle=False)
        return np.load(path, allow_pickle=False)


def loaded(trained: Trained, work: Path) -> Router:
    if trained.kind == "random":
        return load_router("random")
    folder = work / trained.name
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))["encoder"]
    if described is None:
        router = load_router(folder)
        if isinstance(router, TransformerRouter):
            router.to(dtype="bfloat16")  # 2.5 times as fast on a CPU
        return router
    return load_router(folder, encoder=Remembering(load_encoder(described, folder / "encoder"), work / "vectors"))


def win_rates(trained: Trained, name: str, prompts: list[str], work: Path) -> np.ndarray:
    path = work / "win_rates" / f"{trained.name}-{name}-{digest_of(*prompts)[:12]}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    router = loaded(trained, work)
    started = time.monotonic()
    rates = router.win_rate(prompts)
    print(f"{trained.name}: {len(prompts)} prompts of {name} in {time.monotonic() - started:.0f} s", flush=True)
    path.parent.mkdir(exist_ok=True)
    np.save(path, rates, allow_pickle=False)
    return rates


def evaluate(trained: Trained, arguments: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    for title, name in BENCHMARKS:
        found = read_evaluation_set(arguments.data / "eval" / f"{name}.parquet")
        prompts, strong, weak = list(found.prompts), found.strong_scores, found.weak_scores
        published = {line.router: line.apgr for line in published_for(found)}
        sampled = trained.kind == "causal" and len(prompts) > arguments.causal_prompts
        if sampled:  # minutes instead of hours on two cores; drawn before any score is seen
            chosen = np.sort(np.random.default_rng(0).permutation(len(prompts))[: arguments.causal_prompts])
            prompts, strong, weak = [prompts[i] for i in chosen], strong[chosen], weak[chosen]
        rates = win_rates(trained, name, prompts, arguments.work)
        low, high = apgr_interval(rates, strong, weak, rng=np.random.default_rng(0))
        rows.append(
            {
                "router": trained.kind,
                "training_set": trained.training_set,
                "benchmark": title,
                "prompts": len(prompts),
                "sampled": sampled,
                "apgr": apgr(rates, strong, weak),
                "apgr_interval": [low, high],
                "paper_apgr": paper_apgr(rates, strong, weak),
                "paper_cpt50": paper_cpt(rates, strong, weak, pgr=0.5),
                "paper_cpt80": paper_cpt(rates, strong, weak, pgr=0.8),
                "published_apgr": PUBLISHED_ON_ARENA[title][trained.kind]
                if trained.training_set != "augmented"
                else published[IN_THE_PAPER[trained.kind]],
            }
        )
    return rows


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| router | trained on | " + " | ".join(title for title, _ in BENCHMARKS) + " |",
        "| --- | --- |" + " --- |" * len(BENCHMARKS),
    ]
    for kind in KINDS:
        for training_set in TRAINING_SETS:
            cells = [r for r in rows if r["router"] == kind and r["training_set"] == training_set]
            if cells:
                shown = " | ".join(
                    f"{r['apgr']:.3f} ({r['apgr_interval'][0]:.3f} to {r['apgr_interval'][1]:.3f})"  # type: ignore[index]
                    f"{'*' if r['sampled'] else ''}; {r['published_apgr']:.3f}"
                    for r in cells
                )
                lines.append(f"| {kind} | {training_set} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for trained routers and win rates")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2; encoder of mf and sw, base of bert")
    parser.add_argument("--smollm", type=Path, help="folder or GGUF file of SmolLM2-135M-Instruct; base of causal")
    parser.add_argument("--only", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--sets", nargs="*", default=TRAINING_SETS, choices=TRAINING_SETS)
    parser.add_argument("--causal-prompts", type=int, default=1000, help="prompts of a benchmark that causal scores")
    parser.add_argument("--train-only", action="store_true", help="evaluate nothing")
    arguments = parser.parse_args()
    need(arguments.data)
    arguments.work.mkdir(parents=True, exist_ok=True)
    prepared_files(arguments.data, arguments.work)
    lines = [
        Trained(kind, on)
        for kind in arguments.only
        for on in arguments.sets
        if on == "arena" or (kind != "random" and (on != "scores" or kind in OF_ALL_MODELS))
    ]
    for trained in lines:
        train(trained, arguments)
    if arguments.train_only:
        return
    rows = [row for trained in lines for row in evaluate(trained, arguments)]
    print(table(rows))
    path = ROOT / "benchmarks" / "results" / f"{date.today()}-paper-tables.json"
    content = {
        "date": str(date.today()),
        "data_digest": digest(arguments.data),
        "training_seconds": {each.name: training_seconds(each, arguments.work) for each in lines},
        "rows": rows,
    }
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
