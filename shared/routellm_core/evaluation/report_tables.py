"""The tables of a report, and how it writes numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from routellm_core.evaluation.baselines import shown
from routellm_core.evaluation.evaluating import Evaluation
from routellm_core.evaluation.figures import Difference, Figures
from routellm_core.evaluation.published import Published, published_for

__all__ = [
    "beside_quality",
    "differences_table",
    "figures_table",
    "groups_table",
    "number",
    "over_cost_table",
    "percent",
    "span",
]

_FEW = 30  # prompts in a group, under which its row is grey


def figures_table(evaluations: Mapping[str, Evaluation]) -> str:
    """APGR and CPT of routers, baselines and the paper's routers, by both ways."""
    first = next(iter(evaluations.values()))
    alone = len(evaluations) == 1
    rows: list[tuple[str, str, Figures, Figures, Difference | None]] = [
        ("ours", name, each.exact, each.paper, None) for name, each in evaluations.items()
    ]
    for name, baseline in first.baselines.items():
        if baseline.exact is not None and baseline.paper is not None:
            rows.append(("", shown(name), baseline.exact, baseline.paper, baseline.difference))
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{escape(name)}</th>'
        f"<td>{number(exact.apgr)}<small>{span(exact.apgr_interval)}</small></td>"
        + (_difference_cell(difference) if alone else "")
        + f"<td>{percent(exact.cpt50)}<small>{_percents(exact.cpt50_interval)}</small></td>"
        f"<td>{percent(exact.cpt80)}<small>{_percents(exact.cpt80_interval)}</small></td></tr>"
        for kind, name, exact, _, difference in rows
    )
    about = (
        f"{first.level:.0%} intervals over prompts, {first.n_resamples:,} resamples. Of chance: where that share of "
        "random orders lands."
    )
    if alone:
        about += " p: that the router is no better."
    heads = ["", "APGR", *(["router − this,<br>in APGR"] if alone else []), "CPT 50 %", "CPT 80 %"]
    printed = published_for(first.data)
    ways: list[tuple[str, str, Figures | Published]] = [(kind, name, paper) for kind, name, _, paper, _ in rows]
    ways += [("printed", f"paper: {line.router}", line) for line in printed]
    body_by_paper = "".join(
        f'<tr class="{kind}"><th scope="row">{escape(name)}</th><td>{number(line.apgr)}</td>'
        f"<td>{percent(line.cpt50)}</td><td>{percent(line.cpt80)}</td></tr>"
        for kind, name, line in ways
    )
    about_paper = "Eleven thresholds at the quantiles of the win rates" + (
        ", as the paper’s tables have it; its routers were trained on other data with paid labels." if printed else "."
    )
    return (
        "<h3>Call performance</h3>"
        + _table(about, heads, body)
        + "<h3>Call performance, the paper’s way</h3>"
        + _table(about_paper, ("", "APGR", "CPT 50 %", "CPT 80 %"), body_by_paper)
    )


def differences_table(differences: Sequence[Difference]) -> str:
    """Every pair of routers, by the exact curve."""
    body = "".join(
        f'<tr><th scope="row">{escape(each.a)} − {escape(each.b)}</th><td>{_signed(each.apgr)}'
        f"<small>{span(each.apgr_interval, _signed)}</small></td><td>{_p_value(each.p_value)}</td></tr>"
        for each in differences
        if each.way == "exact"
    )
    about = "On the same resamples. p: that the first is no better than the second."
    return "<h3>Differences</h3>" + _table(about, ("", "in APGR", "p, one-sided"), body)


def beside_quality(evaluations: Mapping[str, Evaluation]) -> str:
    """Latency, cost, and calibration quality, as far as known."""
    with_cost = any(evaluation.cost is not None for evaluation in evaluations.values())
    body = ""
    for name, evaluation in evaluations.items():
        took, cost, reliable = evaluation.scored, evaluation.cost, evaluation.reliability
        cells = [_milliseconds(took.single_ms), _milliseconds(took.batch_ms), "–", "–"]
        if reliable is not None:
            mean = number(reliable.brier_of_the_mean)
            cells[2:] = f"{number(reliable.brier)}<small>mean alone: {mean}</small>", number(reliable.calibration_error)
        if cost is not None:
            cells += map(_money, (cost.all_strong, cost.all_weak, cost.at_cpt50))
            cells.append(f"{_money(cost.at_cpt80)}<small>saves {percent(cost.saving_at_cpt80)}</small>")
        body += f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    about, heads = "Time on the machine that made this report.", ["", "one decision", "a decision<br>in a batch"]
    heads += ["Brier score", "calibration<br>error"]
    if with_cost:
        about += " Money: US dollars per 1,000 prompts."
        heads += ["all strong", "all weak", "at CPT 50 %", "at CPT 80 %"]
    return "<h3>Beside quality</h3>" + _table(about, heads, body)


def over_cost_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Choosing among all models by quality and cost; nothing where no router can."""
    body = ""
    for name, evaluation in evaluations.items():
        found = evaluation.over_cost
        if found is not None:
            body += (
                f'<tr><th scope="row">{escape(name)}</th><td>{number(found.aiq)}<small>{span(found.aiq_interval)}'
                f"</small></td><td>{number(found.aiq_of_single_models)}</td><td>{number(found.aiq_of_oracle)}</td>"
                f"<td>{span(found.gain_interval, _signed)}</td><td>{_p_value(found.p_value)}</td></tr>"
            )
    about = (
        "AIQ: average quality over the costs that single models span, on the convex hull. p: that the router is no "
        "better than single models and random mixes of them."
    )
    heads = ("", "AIQ", "single models", "oracle", "gain", "p, one-sided")
    return f"<h3>Over all models</h3>{_table(about, heads, body)}" if body else ""


def groups_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Every group of the set, with each router's APGR there."""
    first = next(iter(evaluations.values()))
    heads = ["", "prompts", "strong", "weak"]
    for name in evaluations:
        of = f",<br>{escape(name)}" if len(evaluations) > 1 else ""
        heads += [f"APGR{of}", f"share strong{of}"]
    body = ""
    for group, figures in first.groups.items():
        cells = [f"{figures.n_prompts:,}", number(figures.strong), number(figures.weak)]
        for evaluation in evaluations.values():
            each = evaluation.groups[group]
            cells.append(f"{number(each.apgr)}<small>{span(each.apgr_interval)}</small>")
            cells.append(percent(each.strong_share))
        kind = ""
        if figures.n_prompts < _FEW:
            kind, cells[0] = ' class="few"', f"{cells[0]}<small>few</small>"
        title = escape(group.replace("_", " "))
        body += f'<tr{kind}><th scope="row">{title}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    about = (
        "APGR inside each group; a dash where the strong model is no better. Share: of the group among the half of all "
        "prompts with the highest win rates."
    )
    if any(figures.n_prompts < _FEW for figures in first.groups.values()):
        about += f" Grey, few: under {_FEW} prompts, on which an APGR says next to nothing."
    return _table(about, heads, body)


def number(value: float | None) -> str:
    """Three digits, a dash for what is undefined."""
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A fraction in percent, a dash for what is undefined."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def span(bounds: tuple[float, float] | None, form: Callable[[float], str] = number) -> str:
    """An interval; nothing for what is undefined."""
    return "" if bounds is None else f"{form(bounds[0])} to {form(bounds[1])}"


def _percents(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}\u00a0%"


def _table(about: str, heads: Iterable[str], body: str) -> str:
    # a wide table scrolls on a phone; what it is about does not
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<p class="quiet">{about}</p><div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _difference_cell(difference: Difference | None) -> str:
    if difference is None:
        return "<td></td>"
    return (
        f"<td>{_signed(difference.apgr)}<small>{span(difference.apgr_interval, _signed)}<br>"
        f"p {_p_value(difference.p_value)}</small></td>"
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _money(value: float | None) -> str:
    return "–" if value is None else f"${value:,.2f}"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms"


def _p_value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value >= 0.001 else "&lt; .001"
