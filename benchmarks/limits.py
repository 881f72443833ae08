"""What routing by the prompt alone cannot do: the figures and the pictures of docs/limits.md.

    python benchmarks/limits.py [--data ../shared/data] [--images docs/images] [--out FILE]

1. oracle: quality over strong share on the three benchmarks: chance, prompt length, the default router, one fitted to
   own labels (MMLU: 1,531 random ones, all else checked; GSM8K: five folds), and an oracle that knows both scores.
2. luck: how much of the oracle's lead one more answer would undo: routerdc's questions with ten samples an answer
   (training data), and MT-Bench's two turns. And how wide an interval is at n questions.
3. topic: what the routers know on MMLU between subjects and within them.
4. worth: the share of strong calls a wish needs, times prices; and where the router is ahead of prompt length.
5. pairs: the router on other models than the paper's, drawn from the result of `python benchmarks/transfer.py`.

Needs the extras `eval`, `fit` and `onnx`; prints JSON and writes it beside the other results. Nothing is tuned here.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import permutations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
from evaluation_sets import BENCHMARKS, DATA, ROOT, digest, need, read
from matplotlib.figure import Figure
from PIL import Image

from routellm_core import load_router
from routellm_core.evaluation import EvaluationSet, apgr, cpt, curve, oracle_apgr
from routellm_core.evaluation.baselines import topic_gain
from routellm_core.evaluation.resampling import interval, resample
from routellm_core.training import fit_router

Scorers = dict[str, np.ndarray]

RESULTS = ROOT / "benchmarks" / "results"

SIZES = (72, 150, 300, 600, 1307, 2500, 5000, 14037)
RATIOS = (3, 10, 30)
WISHES = (0.5, 0.8, 0.9)
COLOURS = {
    "chance": "#9a9a9a",
    "prompt length": "#8a6d00",
    "default": "#0072b2",
    "own labels": "#d55e00",
    "oracle": "#222222",
}
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.axisbelow": True,
}


def lengths(prompts: list[str]) -> np.ndarray:
    return np.array([len(prompt) for prompt in prompts], dtype=np.float64)


# -- 1. the oracle
def own_labels(name: str, prompts: list[str], strong: np.ndarray, weak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are checked, and their win rates by a router that was fitted to other rows of the same benchmark."""
    if name == "mt_bench":  # too few to fit on
        return np.arange(len(prompts)), np.empty(0)

    def win_rates(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        fitted = fit_router(
            [prompts[i] for i in train],
            strong_scores=strong[train],
            weak_scores=weak[train],
            learning_curve=False,
        )
        return fitted.router.win_rate([prompts[i] for i in test])

    rng = np.random.default_rng(0)
    if name == "mmlu":
        order = rng.permutation(len(prompts))
        labelled = {prompts[i] for i in order[:1531]}
        rest = np.array([i for i in order[1531:] if prompts[i] not in labelled])
        return rest, win_rates(order[:1531], rest)
    folds = rng.permutation(np.arange(len(prompts)) % 5)
    found = np.zeros(len(prompts))
    for fold in range(5):
        found[folds == fold] = win_rates(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
    return np.arange(len(prompts)), found


def oracle_figures(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """APGR, the largest lead over chance in quality, and the curves, by benchmark."""
    figures: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for title, name in BENCHMARKS:
        prompts, strong, weak = read(data, name)
        rows, fitted = own_labels(name, prompts, strong, weak)
        s, w = strong[rows], weak[rows]
        texts = [prompts[i] for i in rows]
        scorers: Scorers = {
            "prompt length": lengths(texts),
            "default": load_router("default").win_rate(texts),
            **({"own labels": fitted} if fitted.size else {}),
            "oracle": s - w,
        }
        shares = np.linspace(0, 1, 101)
        curves[title] = {way: curve(scores, s, w).quality_at(shares) for way, scores in scorers.items()}
        chance = w.mean() + shares * (s.mean() - w.mean())
        figures[title] = {
            "questions": len(rows),
            "strong": s.mean(),
            "weak": w.mean(),
            "strong_better": np.mean(s > w),
            "equal": np.mean(s == w),
            "weak_better": np.mean(s < w),
            "apgr": {way: apgr(scores, s, w) for way, scores in scorers.items()},
            "largest_lead_over_chance": {way: np.max(found - chance) for way, found in curves[title].items()},
            "share_of_the_oracles_lead": {
                way: (apgr(scores, s, w) - 0.5) / (oracle_apgr(s, w) - 0.5) for way, scores in scorers.items()
            },
        }
        curves[title]["chance"] = chance
    return figures, curves


# -- 2. luck
def lead_of_samples(strong: np.ndarray, weak: np.ndarray) -> dict[str, float]:
    """What an oracle sees of questions with these chances of a right answer, from one sample and from the chances.

    Args:
        strong: Chance that the strong model's answer is right, shape (n,).
        weak: The same of the weak model.

    Returns:
        APGR of an oracle that knows the one answer of each model that is scored; of one that knows the chances but not
        the answers; and the share of the first one's lead over chance that the second does not have.
    """
    gap = strong.mean() - weak.mean()
    wins, losses = np.mean(strong * (1 - weak)), np.mean(weak * (1 - strong))
    # PGR rises from 0 to wins / gap over the share of wins, stays, and falls to 1 over the share of losses
    one = (wins / gap) * (1 - wins / 2) - (losses / gap) * losses / 2
    chances = apgr(strong - weak, strong, weak)
    return {"one_sample": float(one), "chances": chances, "luck": float((one - chances) / (one - 0.5))}


def sampled_luck(data: Path) -> dict[str, Any]:
    """`lead_of_samples` over all pairs of routerdc's seven models, where the better leads by .02 or more."""
    columns = ["prompt", "model", "score", "source"]
    rows = pq.read_table(data / "train" / "models.parquet", columns=columns).to_pylist()
    tasks = {"GSM8K (training half)": ("routerdc/gsm8k-train",), "code": ("routerdc/mbpp", "routerdc/humaneval")}
    found = {}
    for task, starts in tasks.items():
        kept = [row for row in rows if row["source"].startswith(starts)]
        models, prompts = sorted({r["model"] for r in kept}), sorted({r["prompt"] for r in kept})
        place = {prompt: i for i, prompt in enumerate(prompts)}
        chance = np.full((len(prompts), len(models)), np.nan)
        for row in kept:
            chance[place[row["prompt"]], models.index(row["model"])] = row["score"]
        assert np.allclose(chance * 10, np.round(chance * 10), atol=1e-5)
        pairs = [
            lead_of_samples(chance[:, s], chance[:, w])
            for s, w in permutations(range(len(models)), 2)
            if chance[:, s].mean() - chance[:, w].mean() >= 0.02
        ]
        found[task] = {
            "questions": len(prompts),
            "pairs": len(pairs),
            **{name: float(np.median([pair[name] for pair in pairs])) for name in pairs[0]},
            "lowest_luck": min(pair["luck"] for pair in pairs),
            "highest_luck": max(pair["luck"] for pair in pairs),
        }
    return found


def two_turns(data: Path) -> dict[str, Any]:
    """MT-Bench: how far the gap in the first turn tells the gap in the second."""
    rows = [r for r in pq.read_table(data / "eval" / "mt_bench.parquet").to_pylist() if not r["contaminated"]]
    strong, weak = (
        np.array([[r[f"{side}_score_turn{t}"] for t in (1, 2)] for r in rows]) for side in ("strong", "weak")
    )
    gap = strong - weak
    rng = np.random.default_rng(0)
    correlations = [np.corrcoef(gap[pick].T)[0, 1] for pick in rng.integers(0, len(gap), (1000, len(gap)))]
    return {
        "questions": len(gap),
        "correlation": np.corrcoef(gap.T)[0, 1],
        "interval": interval(np.array(correlations)),
        "oracle_of_the_first_turn_on_the_first": apgr(gap[:, 0], strong[:, 0], weak[:, 0]),
        "oracle_of_the_first_turn_on_the_second": apgr(gap[:, 0], strong[:, 1], weak[:, 1]),
    }


def widths(data: Path) -> dict[str, Any]:
    """Half the width of the 95 % interval of the default router's APGR on n questions; and of its lead over length."""
    found: dict[str, Any] = {}
    for title, name in BENCHMARKS:
        prompts, strong, weak = read(data, name)
        scorers = {"default": load_router("default").win_rate(prompts), "length": lengths(prompts)}
        drawn = resample(scorers, strong, weak, rng=np.random.default_rng(0), with_paper=False)
        low, high = interval(drawn["default"].apgr) or (np.nan, np.nan)
        less, more = interval(drawn["default"].apgr - drawn["length"].apgr) or (np.nan, np.nan)
        found[title] = {
            "questions": len(prompts),
            "half_width": (high - low) / 2,
            "ahead_of_length": apgr(scorers["default"], strong, weak) - apgr(scorers["length"], strong, weak),
            "ahead_of_length_interval": [less, more],
        }
        if name == "mmlu":
            found["MMLU, n at random"] = {str(n): half_width(scorers["default"], strong, weak, n) for n in SIZES}
    return found


def half_width(scores: np.ndarray, strong: np.ndarray, weak: np.ndarray, n: int, times: int = 400) -> float:
    """Of the 95 % interval over random sets of n questions."""
    rng = np.random.default_rng(n)
    values = []
    for _ in range(times):
        rows = rng.integers(0, len(scores), n)
        if strong[rows].mean() > weak[rows].mean():
            values.append(apgr(scores[rows], strong[rows], weak[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(high - low) / 2


# -- 3. topics
def topic_figures(data: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Where on MMLU the default router's order comes from."""
    rows = [r for r in pq.read_table(data / "eval" / "mmlu.parquet").to_pylist() if not r["contaminated"]]
    prompts = [row["prompt"] for row in rows]
    strong, weak = (np.array([row[f"{side}_score"] for row in rows], dtype=float) for side in ("strong", "weak"))
    names, topic = np.unique([row["domain"] for row in rows], return_inverse=True)
    win_rates = load_router("default").win_rate(prompts)
    size = np.bincount(topic)
    mean_win_rate = np.bincount(topic, win_rates) / size
    gap = np.bincount(topic, strong - weak) / size
    # known from other questions of the topic; five folds
    learned = topic_gain(
        EvaluationSet(
            name="mmlu",
            prompts=tuple(prompts),
            models=("strong", "weak"),
            scores=np.column_stack([strong, weak]),
            strong="strong",
            weak="weak",
            groups=tuple(names[topic].tolist()),
        ),
        rng=np.random.default_rng(0),
    )
    scorers: Scorers = {
        "the topic, its gap learned": learned,
        "the topic's mean win rate": mean_win_rate[topic],
        "default": win_rates,
        "default, within topics only": ranks_within(win_rates, topic),
        "prompt length": lengths(prompts),
        "prompt length, within topics only": ranks_within(lengths(prompts), topic),
    }
    drawn = resample(scorers, strong, weak, rng=np.random.default_rng(0), with_paper=False)
    order = np.argsort(gap)
    both = {"default": win_rates, "contextual": load_router("contextual").win_rate(prompts)}
    figures = {
        "topics": len(names),
        "apgr": {way: apgr(scores, strong, weak) for way, scores in scorers.items()},
        "interval": {way: interval(found.apgr) for way, found in drawn.items()},
        "correlation_of_topics_win_rate_and_gap": np.corrcoef(mean_win_rate, gap)[0, 1],
        "beside_prompt_length": {
            "all_topics": beside_length(both, prompts, strong, weak, np.full(len(prompts), True)),
            "without_the_topic_of_the_smallest_gap": beside_length(both, prompts, strong, weak, topic != order[0]),
        },
        "smallest_gaps": {str(names[i]): gap[i] for i in order[:4]},
        "largest_gaps": {str(names[i]): gap[i] for i in order[-4:]},
    }
    return figures, {"win_rate": mean_win_rate, "gap": gap, "size": size}


def beside_length(
    routers: Scorers, prompts: list[str], strong: np.ndarray, weak: np.ndarray, kept: np.ndarray
) -> dict[str, Any]:
    """APGR of each router and of prompt length on some prompts, and the paired difference."""
    scorers = {way: scores[kept] for way, scores in {**routers, "prompt length": lengths(prompts)}.items()}
    drawn = resample(scorers, strong[kept], weak[kept], rng=np.random.default_rng(0), with_paper=False)
    length = apgr(scorers["prompt length"], strong[kept], weak[kept])
    found: dict[str, Any] = {"prompt length": {"apgr": length, "interval": interval(drawn["prompt length"].apgr)}}
    for way in routers:
        reached = apgr(scorers[way], strong[kept], weak[kept])
        found[way] = {
            "apgr": reached,
            "interval": interval(drawn[way].apgr),
            "difference": reached - length,
            "interval_of_the_difference": interval(drawn[way].apgr - drawn["prompt length"].apgr),
        }
    return found


def ranks_within(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The place of each score among those of its group, 0..1; what the groups have in common is gone."""
    found = np.empty(len(scores))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        order = np.argsort(np.argsort(scores[rows], kind="stable"), kind="stable")
        found[rows] = (order + 0.5) / len(rows)
    return found


# -- 4. money
def bill(strong_share: float, price_ratio: float) -> float:
    """Cost of routed calls in shares of the all-strong bill; `price_ratio` is strong over weak, a call."""
    return strong_share + (1 - strong_share) / price_ratio


def worth(data: Path) -> dict[str, Any]:
    """Strong share that a wish needs, and what it costs; by benchmark and way."""
    found: dict[str, Any] = {}
    for title, name in BENCHMARKS:
        prompts, strong, weak = read(data, name)
        scorers = {
            "prompt length": lengths(prompts),
            "default": load_router("default").win_rate(prompts),
            "oracle": strong - weak,
        }
        found[title] = {
            way: {
                f"{wish:.0%} of the gap": {"strong_share": share, **{f"bill_at_{r}": bill(share, r) for r in RATIOS}}
                for wish in WISHES
                if (share := wish if way == "chance" else cpt(scorers[way], strong, weak, pgr=wish)) is not None
            }
            for way in ("chance", *scorers)
        }
    return found


# -- pictures
def draw(
    figures: Mapping[str, Any],
    curves: Mapping[str, Any],
    topics: Mapping[str, np.ndarray],
    pairs: Sequence[Mapping[str, Any]],
    folder: Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        save(draw_oracle(figures["oracle"], curves), folder / "limits-oracle.png")
        save(draw_luck(figures["luck"], figures["widths"]), folder / "limits-luck.png")
        save(draw_topics(figures["topics"], topics), folder / "limits-topics.png")
        save(draw_worth(figures["worth"], figures["widths"]), folder / "limits-worth.png")
        save(draw_pairs(pairs), folder / "limits-pairs.png")


def save(figure: Figure, path: Path) -> None:
    """A small PNG of few colours; the same figures give the same file."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    Image.open(drawn).convert("RGB").quantize(48).save(path, optimize=True)


def draw_pairs(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    clear = [pair for pair in pairs if pair["gap"] >= 0.1 and not pair["papers_pair"]]
    for axes, (what, label) in zip(
        figure.subplots(1, 2, sharey=True),
        (("gap", "lead of the strong model, mean score"), ("level", "mean score of both models")),
        strict=True,
    ):
        for trained_on, marker, colour, name in (
            (False, "o", COLOURS["default"], "sources it was never trained on"),
            (True, "s", COLOURS["own labels"], "the others, by a fit without them"),
        ):
            rows = [pair for pair in clear if pair["trained_on"] == trained_on]
            y = np.array([row["unseen"]["apgr"] for row in rows])
            bounds = np.array([row["unseen"]["interval"] for row in rows]).T
            axes.errorbar(
                [row[what] for row in rows], y, np.abs(bounds - y), fmt=marker, ms=3.5, lw=0.7, color=colour, label=name
            )
        axes.axhline(0.5, color="#777777", lw=0.8)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("APGR (.5 is chance)")
    figure.suptitle(f"The default router on {len(clear)} other pairs of models (leads of .1 and more)", fontsize=8.5)
    figure.axes[0].legend(loc="lower right", fontsize=7)
    return figure


def draw_oracle(figures: Mapping[str, Any], curves: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    shares = np.linspace(0, 100, 101)
    for axes, (title, ways) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        scale = 1.0 if title == "MT-Bench" else 100.0
        for way, colour in COLOURS.items():
            if way in ways:
                axes.plot(shares, scale * ways[way], color=colour, lw=1.1 if way == "chance" else 1.5, label=way)
        axes.set_title(f"{title} ({figures[title]['questions']:,} questions)", fontsize=8.5)
        axes.set_xlabel("strong calls, %")
        axes.set_ylabel("mean score, 1-10" if scale == 1.0 else "right answers, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def draw_luck(luck: Mapping[str, Any], of_sizes: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(luck))
    seen, kept = ([found[name] - 0.5 for found in luck.values()] for name in ("one_sample", "chances"))
    left.bar(places - 0.18, seen, 0.34, color=COLOURS["oracle"], label="knows the answers that are scored")
    left.bar(places + 0.18, kept, 0.34, color=COLOURS["own labels"], label="knows how often each model is right")
    left.set_xticks(places, list(luck))
    left.set_ylabel("lead over chance, APGR - .5")
    left.set_title("Two oracles on ten-sample labels (median over pairs)", fontsize=8.5)
    left.set_ylim(0, 1.45 * max(seen))
    left.legend(loc="upper right")
    at_n = of_sizes["MMLU, n at random"]
    right.plot(
        [int(n) for n in at_n], list(at_n.values()), "o-", color=COLOURS["default"], ms=3.5, label="MMLU, n drawn"
    )
    for title, marker in (("GSM8K", "D"), ("MT-Bench", "s")):
        found = of_sizes[title]
        right.plot(found["questions"], found["half_width"], marker, color=COLOURS["own labels"], ms=5)
        right.annotate(title, (found["questions"], found["half_width"]), (-4, -11), textcoords="offset points")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["± .02", "± .05", "± .10", "± .20", "± .50"])
    right.minorticks_off()
    right.set_xticks([72, 300, 1307, 5000, 14037], ["72", "300", "1,307", "5,000", "14,037"])
    right.set_xlabel("questions")
    right.set_title("95 % interval of the default router's APGR", fontsize=8.5)
    right.legend(loc="upper right")
    return figure


def draw_topics(figures: Mapping[str, Any], topics: Mapping[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    names = list(figures["apgr"])[::-1]
    values = np.array([figures["apgr"][name] for name in names])
    errors = np.abs(np.array([figures["interval"][name] for name in names]).T - values)
    colours = [COLOURS["default"] if "default" in n or "win rate" in n else COLOURS["prompt length"] for n in names]
    colours[-1] = COLOURS["oracle"]
    left.barh(names, values - 0.5, left=0.5, color=colours, xerr=errors, error_kw={"lw": 0.9, "ecolor": "#777777"})
    left.axvline(0.5, color="#777777", lw=0.8)
    left.grid(axis="y", visible=False)
    left.set_xlabel("APGR on MMLU (.5 is chance)")
    right.scatter(topics["win_rate"], topics["gap"], s=topics["size"] / 12, color=COLOURS["default"], alpha=0.6, lw=0)
    right.set_xlabel("mean win rate of the default router")
    right.set_ylabel("strong - weak")
    right.set_title(
        f"MMLU's {figures['topics']} topics, correlation {figures['correlation_of_topics_win_rate_and_gap']:.2f}",
        fontsize=8.5,
    )
    return figure


def draw_worth(found: Mapping[str, Any], of_sizes: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    wish = f"{WISHES[1]:.0%} of the gap"
    for way in ("chance", "default", "oracle"):
        share = found["GSM8K"][way][wish]["strong_share"]
        ratios = np.geomspace(1, 100, 60)
        left.plot(
            ratios,
            [100 * bill(share, r) for r in ratios],
            color=COLOURS[way],
            lw=1.5,
            label=f"{way}: {share:.0%} strong",
        )
    left.set_xscale("log")
    left.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    left.minorticks_off()
    left.set_ylim(0, 105)
    left.set_xlabel("price of a strong call, in weak calls")
    left.set_ylabel("bill, % of all strong")
    left.set_title(f"GSM8K: keeping {wish}", fontsize=8.5)
    left.legend(loc="lower left")
    titles = [title for title, _ in BENCHMARKS][::-1]
    middle = np.array([of_sizes[title]["ahead_of_length"] for title in titles])
    bounds = np.array([of_sizes[title]["ahead_of_length_interval"] for title in titles]).T
    right.errorbar(middle, titles, xerr=np.abs(bounds - middle), fmt="o", color=COLOURS["default"], capsize=3)
    right.axvline(0, color="#777777", lw=0.8)
    right.set_ylim(-0.6, len(titles) - 0.4)
    right.set_xlabel("APGR of the default router - APGR of prompt length")
    right.set_title("Ahead of prompt length? (95 %, paired)", fontsize=8.5)
    return figure


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return round(float(value), 4) if isinstance(value, (float, np.floating)) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{date.today()}-limits.json")
    given = parser.parse_args()
    need(given.data)
    transfers = sorted(RESULTS.glob("*-transfer.json"))
    if not transfers:
        raise SystemExit("run python benchmarks/transfer.py first: its figures are drawn here")
    pairs = json.loads(transfers[-1].read_text(encoding="utf-8"))["pairs"]
    oracle, curves = oracle_figures(given.data)
    of_topics, topics = topic_figures(given.data)
    figures = {
        "date": str(date.today()),
        "data": digest(given.data),
        "oracle": oracle,
        "luck": sampled_luck(given.data),
        "two_turns_of_mt_bench": two_turns(given.data),
        "widths": widths(given.data),
        "topics": of_topics,
        "worth": worth(given.data),
    }
    draw(figures, curves, topics, pairs, given.images)
    text = json.dumps(rounded(figures), indent=1)
    print(text)
    given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
