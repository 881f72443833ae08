"""A report that people look at: one HTML file that loads nothing, and each plot as PNG and SVG beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from routellm_core._version import __version__
from routellm_core.errors import ConfigurationError, DataError
from routellm_core.evaluation.comparing import Comparison
from routellm_core.evaluation.evaluating import Evaluation
from routellm_core.evaluation.figures import Difference
from routellm_core.evaluation.plots import (
    Palette,
    curves_figure,
    histogram_figure,
    image_files,
    inline_svg,
    reliability_figure,
)
from routellm_core.evaluation.published import published_for
from routellm_core.evaluation.report_style import STYLE
from routellm_core.evaluation.report_tables import (
    beside_quality,
    differences_table,
    figures_table,
    groups_table,
    number,
    over_cost_table,
    percent,
    span,
)
from routellm_core.persistence import write_bytes

__all__ = ["write_report"]

_EXAMPLES = 3  # of each kind
_SHOWN = 240  # characters of an example
_MANY_GROUPS = 12  # from here on their table is folded
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")


def write_report(
    results: Sequence[Evaluation | Comparison],
    out: str | Path,
    *,
    title: str = "How good is this router?",
    command: str | None = None,
    made_on: str | None = None,
    with_examples: bool = True,
    with_images: bool = True,
) -> list[Path]:
    """Write a report about one or more sets.

    Args:
        results: One of each set.
        out: The HTML file; the plots come beside it, named after it.
        title: Heading.
        command: The command line that made it.
        made_on: The date, in words.
        with_examples: Show shortened prompts. They are the only prompt text in a report.
        with_images: Write each plot as PNG and SVG, too.

    Returns:
        Every file written, the HTML file first.

    Raises:
        ConfigurationError: No results, two of sets of the same name, or a file that cannot be written.
        MissingExtraError: matplotlib is not installed (extra `eval`).
    """
    path = Path(out)
    names = [result.data.name for result in results]
    if not names:
        raise ConfigurationError("nothing to report: give at least one evaluation")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"two sets have the same name: {', '.join(sorted(names))}")
    sections = [_Section.of(result, key) for result, key in zip(results, _keys(names), strict=True)]
    page = _page(sections, title=title, command=command, made_on=made_on, with_examples=with_examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    contents: dict[Path, bytes] = {path: page.encode("utf-8", "replace")}
    for section in sections:
        for plot in section.plots() if with_images else ():
            for suffix, content in image_files(plot.draw).items():
                contents[path.with_name(f"{path.stem}-{plot.name}{suffix}")] = content
    try:
        for file, content in contents.items():
            write_bytes(file, content)
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror or error}") from error
    return list(contents)


@dataclass(frozen=True, kw_only=True)
class _Plot:
    name: str  # distinct in the report; of letters, digits and hyphens
    title: str
    description: str
    caption: str
    draw: Callable[[Any], Any]

    def html(self) -> str:
        svg = inline_svg(self.draw, name=self.name, title=self.title, description=self.description)
        return f"<figure>{svg}<figcaption>{escape(self.caption)}</figcaption></figure>"


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One set with all its routers."""

    key: str  # begins the names of its plots, and is its id
    evaluations: Mapping[str, Evaluation]
    differences: tuple[Difference, ...]

    @classmethod
    def of(cls, result: Evaluation | Comparison, key: str) -> _Section:
        if isinstance(result, Comparison):
            return cls(key=key, evaluations=result.evaluations, differences=result.differences)
        return cls(key=key, evaluations={result.router: result}, differences=())

    @property
    def first(self) -> Evaluation:
        return next(iter(self.evaluations.values()))

    def plots(self) -> list[_Plot]:
        name, routers = self.first.data.name, ", ".join(self.evaluations)
        names, found = list(self.evaluations), list(self.evaluations.values())
        level = f"{self.first.level:.0%}"
        ends = "; ".join(
            f"{router}: APGR {number(e.exact.apgr)}, half the gap at {percent(e.exact.cpt50)} strong calls"
            for router, e in self.evaluations.items()
        )
        paper = " Hollow marks: the paper's routers at CPT 50 % and 80 %." if published_for(self.first.data) else ""
        plots = [
            _Plot(
                name=f"{self.key}-curve",
                title=f"{name}: quality over the share of calls to the strong model",
                description=f"Curves of {routers} with {level} bands beside baselines. {ends}.",
                caption=f"Bands: {level} bootstrap intervals of PGR. Dots: the router's own threshold. The oracle "
                f"runs off the top.{paper}",
                draw=lambda palette: curves_figure(found, names=names, palette=palette),
            )
        ]
        if any(evaluation.reliability is not None for evaluation in found):
            plots.append(
                _Plot(
                    name=f"{self.key}-reliability",
                    title=f"{name}: are win rates the chances they claim to be?",
                    description="Observed rate of the strong model's wins in ten groups of similar win rate.",
                    caption="On the diagonal a win rate is what it says; a tie counts for the weak model. Routing "
                    "needs only the order, so being off the diagonal costs nothing there.",
                    draw=lambda palette: reliability_figure(found, names=names, palette=palette),
                )
            )
        slugs = [_slug(router) for router in self.evaluations]
        for i, (router, evaluation) in enumerate(self.evaluations.items()):
            own = "" if len(found) == 1 else f"-{slugs[i]}" if slugs.count(slugs[i]) == 1 else f"-{slugs[i]}-{i}"
            plots.append(
                _Plot(
                    name=f"{self.key}-scores{own}",
                    title=f"{name}: win rates of {router}",
                    description="Histogram of win rates, split by whether the strong model's answer was better, as "
                    "good, or worse.",
                    caption=f"Win rates of {router}. A good router has blue on the right.",
                    draw=partial(_histogram, evaluation),
                )
            )
        return plots


def _slug(name: str) -> str:
    """A part of a file name and of an id."""
    return _SEPARATORS.sub("-", name).strip("-").lower() or "unnamed"


def _keys(names: Sequence[str]) -> list[str]:
    """Distinct slugs: of two names without a Latin letter, both have the same."""
    keys: list[str] = []
    for slug in map(_slug, names):
        key, i = slug, 1
        while key in keys:
            i += 1
            key = f"{slug}-{i}"
        keys.append(key)
    return keys


def _histogram(evaluation: Evaluation, palette: Palette) -> Any:
    return histogram_figure(evaluation, palette=palette)


def _page(
    sections: Sequence[_Section], *, title: str, command: str | None, made_on: str | None, with_examples: bool
) -> str:
    body = [f"<h1>{escape(title)}</h1>", _introduction(sections, made_on)]
    if len(sections) > 1:
        links = "".join(f'<li><a href="#{s.key}">{escape(s.first.data.name)}</a></li>' for s in sections)
        body.append(f'<nav aria-label="Sets"><ul>{links}</ul></nav>')
    body += [_section(section, with_examples) for section in sections]
    body.append(_calibrations(sections[0]))
    body.append(_provenance(sections, command))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # what a prompt's text may contain can never load or run anything
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _introduction(sections: Sequence[_Section], made_on: str | None) -> str:
    routers = ", ".join(f"<b>{escape(name)}</b>" for name in sections[0].evaluations)
    date = f" Made on {escape(made_on)}." if made_on else ""
    return (
        f"<p>Measured: {routers}.{date}</p>"
        '<p class="quiet">A router sends some prompts to a strong, dear model and the others to a weak, cheap one. PGR '
        "is the share of the strong model's lead that is kept; APGR averages it over all shares of strong calls "
        "(chance: .5); CPT&nbsp;50&nbsp;% is the share of strong calls that keeps half of it: lower is cheaper.</p>"
    )


def _section(section: _Section, with_examples: bool) -> str:
    first = section.first
    data = first.data
    strong, weak = float(data.strong_scores.mean()), float(data.weak_scores.mean())
    dropped = f" ({data.n_contaminated} contaminated ones left out)" if data.n_contaminated else ""
    if data.n_incomplete:
        dropped += f" ({data.n_incomplete:,} left out that lack a score of one of the two models)"
    parts = [
        f'<section><h2 id="{section.key}">{escape(data.name)}</h2>',
        f"<p>{len(data):,} prompts{dropped}. Strong: {escape(str(data.strong))}, mean score {number(strong)}; weak: "
        f"{escape(str(data.weak))}, {number(weak)}.</p>",
    ]
    if first.note:
        parts.append(f'<p class="note">{escape(first.note)}.</p>')
    parts += [_verdict(name, evaluation) for name, evaluation in section.evaluations.items()]
    plots = section.plots()
    parts.append(f'<div class="plots">{"".join(plot.html() for plot in plots)}</div>')
    parts.append(figures_table(section.evaluations))
    if section.differences:
        parts.append(differences_table(section.differences))
    parts.append(over_cost_table(section.evaluations))
    parts.append(beside_quality(section.evaluations))
    if data.groups is not None:
        table, n = groups_table(section.evaluations), len(first.groups)
        folded = table if n < _MANY_GROUPS else f"<details><summary>All {n}</summary>{table}</details>"
        parts.append(f"<h3>By {escape(data.group_column or 'group')}</h3>{folded}")
    if with_examples:
        parts += [_examples(name, evaluation) for name, evaluation in section.evaluations.items()]
    return "\n".join(part for part in parts if part) + "</section>"


def _verdict(name: str, evaluation: Evaluation) -> str:
    exact = evaluation.exact
    cards = [
        (number(exact.apgr), "APGR", span(exact.apgr_interval)),
        (percent(exact.cpt50), "strong calls keep half of the lead", "chance: 50 %"),
        (percent(exact.cpt80), "strong calls keep 80 % of it", "chance: 80 %"),
    ]
    if (at := evaluation.at_threshold) is not None:
        cards.append(
            (
                percent(at.strong_share),
                f"go strong at its own threshold, {at.threshold:.3f}",
                f"PGR {at.pgr:.0%} there",
            )
        )
    if evaluation.cost is not None and evaluation.cost.saving_at_cpt80 is not None:
        cards.append(
            (f"{evaluation.cost.saving_at_cpt80:.0%}", "of the bill saved at CPT 80 %", "the router’s own cost aside")
        )
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b>{escape(what)}<span>{escape(more)}</span></div>'
        for value, what, more in cards
    )
    return f'<h3>{escape(name)}: {escape(_in_words(evaluation))}</h3><div class="cards">{inner}</div>'


def _in_words(evaluation: Evaluation) -> str:
    """What the intervals of the differences allow to say."""
    verdicts: dict[str, list[str]] = {}
    for name, what in (("random", "chance"), ("prompt_length", "prompt length"), ("rules", "rules of thumb")):
        difference = evaluation.baselines[name].difference
        bounds = None if difference is None else difference.apgr_interval
        if bounds is None:
            continue
        verdict = "better than" if bounds[0] > 0 else "worse than" if bounds[1] < 0 else "not clearly different from"
        verdicts.setdefault(verdict, []).append(what)
    if not verdicts:
        return "nothing can be said on these prompts"
    return ", ".join(f"{verdict} {_listed(names)}" for verdict, names in verdicts.items())


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _examples(name: str, evaluation: Evaluation) -> str:
    rates = evaluation.win_rates
    gain = evaluation.data.strong_scores - evaluation.data.weak_scores
    rising = np.argsort(rates, kind="stable")
    kinds = (
        ("Highest win rates", rising[::-1]),
        ("Lowest win rates", rising),
        ("Sent weak first though strong is better", rising[gain[rising] > 0]),
        ("Sent strong first though weak is better", rising[::-1][gain[rising[::-1]] < 0]),
    )
    columns = []
    for heading, order in kinds:
        shown = "".join(_example(evaluation, int(row)) for row in order[:_EXAMPLES])
        columns.append(f"<div><h4>{heading}</h4>{shown or '<p class=quiet>None.</p>'}</div>")
    return (
        f"<h3>Examples: {escape(name)}</h3><details open><summary>{_EXAMPLES} of each kind</summary>"
        f'<div class="examples">{"".join(columns)}</div></details>'
    )


def _example(evaluation: Evaluation, row: int) -> str:
    data = evaluation.data
    text = " ".join(data.prompts[row].split())
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    group = "" if data.groups is None else f" · {data.groups[row].replace('_', ' ')}"
    return (
        f'<div class="example"><span>{evaluation.win_rates[row]:.3f} · strong {data.strong_scores[row]:g}, weak '
        f'{data.weak_scores[row]:g}{escape(group)}</span><p dir="auto">{escape(text)}</p></div>'
    )


def _calibrations(section: _Section) -> str:
    parts = ["<section><h2>Calibration</h2>"]
    for name, evaluation in section.evaluations.items():
        calibration = evaluation.scored.calibration
        if calibration is None:
            parts.append(f"<p><b>{escape(name)}</b> is not calibrated: no threshold comes with it.</p>")
            continue
        source = f" on {escape(calibration.source)}" if calibration.source else ""
        parts.append(
            f"<p><b>{escape(name)}</b> was calibrated{source}: threshold {calibration.threshold:.4f} for a strong "
            f"share of {percent(calibration.strong_share)}.</p><p>{escape(calibration.guarantee)}</p>"
        )
    parts.append(
        '<p class="quiet">What a threshold sends to the strong model depends on the prompts: calibrate on a sample of '
        "your own before you rely on a share.</p></section>"
    )
    return "".join(parts)


def _provenance(sections: Sequence[_Section], command: str | None) -> str:
    first = sections[0].first
    entries = [("version", f"routellm-integrations {__version__}")]
    for section in sections:
        data = section.first.data
        entries.append((f"{data.name}, digest", data.digest))
    for name, evaluation in sections[0].evaluations.items():
        if evaluation.scored.digest is not None:
            entries.append((f"{name}, digest", evaluation.scored.digest))
    entries.append(("bootstrap", f"{first.n_resamples:,} resamples of the prompts, seed {first.seed}"))
    entries.append(("definitions", "Ong et al. 2024, RouteLLM, arXiv:2406.18665"))
    listed = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in entries)
    line = f"<pre>{escape(command)}</pre>" if command else ""
    return f"<section><h2>Where this comes from</h2><dl>{listed}</dl>{line}</section>"
