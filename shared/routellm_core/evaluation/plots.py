"""Plots of evaluations, drawn with matplotlib; nothing is shown or kept globally."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from routellm_core._lazy import need
from routellm_core.evaluation.evaluating import Evaluation
from routellm_core.evaluation.metrics import Curve
from routellm_core.evaluation.published import published_for
from routellm_core.evaluation.resampling import SHARES

__all__ = [
    "LIGHT",
    "VARIABLES",
    "Palette",
    "curves_figure",
    "histogram_figure",
    "image_files",
    "inline_svg",
    "reliability_figure",
]


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of a plot, as "#rrggbb".

    Attributes:
        text: Letters and axes.
        faint: Grid and what stands back.
        series: Routers, one after another.
        baselines: Baselines that put prompts in an order, one after another.
        outcomes: Strong better, equal, weak better.
    """

    text: str
    faint: str
    series: tuple[str, ...]
    baselines: tuple[str, ...]
    outcomes: tuple[str, str, str]


# Okabe and Ito's colours, which people with any kind of colour blindness can tell apart
LIGHT = Palette(
    text="#222222",
    faint="#9a9a9a",
    series=("#0072b2", "#d55e00", "#007a5a", "#a8437e", "#8a6d00", "#444444"),
    baselines=("#a8437e", "#8a6d00", "#007a5a", "#555555"),
    outcomes=("#0072b2", "#b9b9b9", "#d55e00"),
)
# No colours: each is replaced by a CSS variable, so that one plot is legible on light and on dark
_MARKED = Palette(
    text="#fe0100",
    faint="#fe0101",
    series=tuple(f"#fe02{i:02x}" for i in range(6)),
    baselines=tuple(f"#fe03{i:02x}" for i in range(4)),
    outcomes=("#fe0400", "#fe0401", "#fe0402"),
)
VARIABLES: dict[str, str] = {
    _MARKED.text: "--text",
    _MARKED.faint: "--faint",
    **{colour: f"--series-{i}" for i, colour in enumerate(_MARKED.series)},
    **{colour: f"--baseline-{i}" for i, colour in enumerate(_MARKED.baselines)},
    **{colour: f"--outcome-{i}" for i, colour in enumerate(_MARKED.outcomes)},
}
"""The CSS variable that stands for each marked colour in `inline_svg`."""

_SERIES_LINES = ("-", (0, (6, 1.5)), (0, (4, 1, 1, 1)), (0, (2, 1)), "-", "-")
_BASELINE_LINES = {"prompt_length": (0, (5, 2)), "rules": (0, (1, 1.5)), "topic": (0, (3, 1.5, 1, 1.5))}
_MARKERS = "osD^v"
_SIZE = (4.6, 3.9)  # inches: on a phone the plot fills the width and its letters stay legible


def curves_figure(
    evaluations: Sequence[Evaluation], *, names: Sequence[str] | None = None, palette: Palette = LIGHT
) -> Any:
    """Quality over strong share of routers on one set, with bands, baselines and the paper's points.

    Args:
        evaluations: At least one, all of the same set.
        names: Of the routers; default: their own.
        palette: Colours.

    Raises:
        MissingExtraError: matplotlib is not installed (extra `eval`).
    """
    first = evaluations[0]
    figure, axes = _axes(palette)
    weak, strong = float(first.data.weak_scores.mean()), float(first.data.strong_scores.mean())
    axes.plot([0, 100], [weak, strong], color=palette.faint, linewidth=1.2, label="chance")
    if (oracle := first.curves.get("oracle")) is not None:
        axes.plot(*_thinned(oracle), color=palette.faint, linewidth=1, linestyle=(0, (1, 1)), label="oracle")
    for colour, (name, found) in zip(
        palette.baselines, ((n, c) for n, c in first.curves.items() if n != "oracle"), strict=False
    ):
        _band(axes, first, name, colour, 0.08)
        label = name.replace("_", " ")
        axes.plot(*_thinned(found), color=colour, linewidth=1, linestyle=_BASELINE_LINES.get(name, "-"), label=label)
    for i, evaluation in enumerate(evaluations):
        colour, line = palette.series[i % len(palette.series)], _SERIES_LINES[i % len(_SERIES_LINES)]
        _band(axes, evaluation, "", colour, 0.2)
        label = names[i] if names is not None else evaluation.router
        axes.plot(*_thinned(evaluation.curve), color=colour, linewidth=2, linestyle=line, label=_plain(label))
        if (at := evaluation.at_threshold) is not None:
            axes.plot([100 * at.strong_share], [at.quality], marker="o", markersize=6, color=colour, linestyle="none")
    printed = [line for line in published_for(first.data) if line.router != "random"]
    for marker, each in zip(_MARKERS, printed, strict=False):
        shares = [100 * each.cpt50, 100 * each.cpt80]
        levels = [weak + pgr * (strong - weak) for pgr in (0.5, 0.8)]
        axes.plot(
            shares,
            levels,
            marker=marker,
            markersize=4.5,
            markerfacecolor="none",
            color=palette.text,
            linestyle="none",
            label=f"paper: {each.router.split(' (')[0]}",
        )
    for pgr in (0.0, 0.5, 0.8, 1.0):
        level = weak + pgr * (strong - weak)
        axes.axhline(level, color=palette.faint, linewidth=0.5, zorder=0)
        axes.annotate(
            f"PGR {pgr:.0%}",
            (100, level),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=palette.text,
            annotation_clip=False,
        )
    tops = [found.quality.max() for name, found in first.curves.items() if name != "oracle"]
    tops += [evaluation.curve.quality.max() for evaluation in evaluations]
    lows = [found.quality.min() for name, found in first.curves.items()]
    lows += [evaluation.curve.quality.min() for evaluation in evaluations]
    # the oracle runs off the top: with all of it in the picture, nothing else could be told apart
    axes.set_ylim(min(lows) - 0.06 * (strong - weak), max(tops) + 0.15 * (strong - weak))
    axes.set_xlim(0, 100)
    axes.set_xlabel("calls to the strong model, %")
    axes.set_ylabel("mean score")
    _legend(figure, axes, palette)
    return figure


def reliability_figure(evaluations: Sequence[Evaluation], *, names: Sequence[str], palette: Palette = LIGHT) -> Any:
    """Observed against predicted rate of the strong model's wins, with 95 % intervals.

    Args:
        evaluations: Of one set; those whose scores are no probabilities are left out.
        names: Of the routers.
        palette: Colours.
    """
    figure, axes = _axes(palette)
    highs = [max(b.win_rate, b.high) for e in evaluations if e.reliability is not None for b in e.reliability.bins]
    end = min(1.0, np.ceil(10 * max(highs, default=1.0)) / 10)
    axes.plot([0, end], [0, end], color=palette.faint, linewidth=1, label="as predicted")
    for i, evaluation in enumerate(evaluations):
        if evaluation.reliability is None:
            continue
        bins = evaluation.reliability.bins
        x, y = [b.win_rate for b in bins], np.array([b.observed for b in bins])
        errors = np.stack([y - [b.low for b in bins], [b.high for b in bins] - y])
        axes.errorbar(
            x,
            y,
            yerr=np.maximum(errors, 0),
            color=palette.series[i % len(palette.series)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            linestyle=_SERIES_LINES[i % len(_SERIES_LINES)],
            label=_plain(names[i]),
        )
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.set_xlabel("win rate the router gave")
    axes.set_ylabel("how often strong did win")
    _legend(figure, axes, palette)
    return figure


def histogram_figure(evaluation: Evaluation, *, palette: Palette = LIGHT) -> Any:
    """How many prompts have which score, by what came out."""
    figure, axes = _axes(palette)
    gain = evaluation.data.strong_scores - evaluation.data.weak_scores
    rates = evaluation.win_rates
    axes.hist(
        [rates[gain > 0], rates[gain == 0], rates[gain < 0]],
        bins=np.histogram_bin_edges(rates, bins=30).tolist(),
        stacked=True,
        color=list(palette.outcomes),
        label=["strong better", "equal", "weak better"],
    )
    if (at := evaluation.at_threshold) is not None:
        axes.axvline(at.threshold, color=palette.text, linewidth=1, linestyle=(0, (4, 2)), label="threshold")
    axes.set_xlabel("win rate" if evaluation.reliability is not None else "score")
    axes.set_ylabel("prompts")
    _legend(figure, axes, palette)
    return figure


def inline_svg(draw: Any, *, name: str, title: str, description: str) -> str:
    """A plot as an SVG element for a page whose style sheet sets the colours in `VARIABLES`.

    Args:
        draw: Draws the figure: `draw(palette) -> figure`.
        name: Distinct on the page; letters, digits and hyphens.
        title: What it shows, for people who do not see it.
        description: What is to be seen, likewise.
    """
    svg = _svg(draw(_MARKED))
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = body.replace("xlink:href", "href")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", body)
    return (
        f'<svg {box.group()} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>{body}'
    )


def image_files(draw: Any) -> dict[str, bytes]:
    """A plot as files by suffix: ".png" and ".svg", on white."""
    figure = draw(LIGHT)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=200, facecolor="white")
    return {".png": png.getvalue(), ".svg": _svg(figure).encode()}


def _svg(figure: Any) -> str:
    matplotlib = need("matplotlib", extra="eval", why="plotting")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "routellm"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _axes(palette: Palette) -> tuple[Any, Any]:
    # not pyplot: it keeps every figure, and picks a window system
    need("matplotlib", extra="eval", why="plotting")
    module = need("matplotlib.figure", extra="eval", why="plotting")
    figure = module.Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.faint)
    axes.tick_params(colors=palette.text, labelsize=8.5)
    axes.xaxis.label.set(color=palette.text, fontsize=9.5)
    axes.yaxis.label.set(color=palette.text, fontsize=9.5)
    return figure, axes


def _legend(figure: Any, axes: Any, palette: Palette) -> None:
    _, labels = axes.get_legend_handles_labels()
    figure.legend(
        loc="outside lower center",
        ncols=2 if len(labels) > 3 else len(labels),
        frameon=False,
        fontsize=8.5,
        labelcolor=palette.text,
        handlelength=2.2,
        columnspacing=1.2,
    )


def _band(axes: Any, evaluation: Evaluation, name: str, colour: str, opacity: float) -> None:
    # of PGR, drawn on the scale of the scores: how sure the way between all weak and all strong is
    weak, strong = float(evaluation.data.weak_scores.mean()), float(evaluation.data.strong_scores.mean())
    low, high = weak + evaluation.bands[name] * (strong - weak)
    axes.fill_between(100 * SHARES, low, high, color=colour, alpha=opacity, linewidth=0)


def _thinned(found: Curve) -> tuple[Any, Any]:
    """At most 401 points: nobody sees more, and a page with 14,000 is slow."""
    share = found.strong_share
    at = share if share.size <= 401 else np.linspace(0, 1, 401)
    return 100 * at, found.quality_at(at)


def _plain(label: str) -> str:
    """A label that matplotlib takes literally: no mathematics, and not hidden."""
    return label.replace("$", r"\$").lstrip("_") or "router"
