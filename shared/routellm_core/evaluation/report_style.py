"""The style sheet of a report: light and dark, for phone, desk and paper."""

from __future__ import annotations

__all__ = ["STYLE"]

_LIGHT = """
  --background: #ffffff; --card: #f6f7f9; --line: #d8dce2; --text: #1d2127; --quiet: #5a6270; --faint: #8f96a1;
  --accent: #0062a3; --good: #006b4f;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #007a5a; --series-3: #a8437e; --series-4: #8a6d00;
  --series-5: #444444;
  --baseline-0: #a8437e; --baseline-1: #8a6d00; --baseline-2: #007a5a; --baseline-3: #555555;
  --outcome-0: #0072b2; --outcome-1: #b9bec6; --outcome-2: #d55e00;
"""
_DARK = """
  --background: #14171b; --card: #1d2127; --line: #363c45; --text: #e8eaed; --quiet: #a7aeb9; --faint: #7d8591;
  --accent: #6cbcf5; --good: #4fd1a5;
  --series-0: #56b4e9; --series-1: #ff9a4d; --series-2: #4fd1a5; --series-3: #e58fc0; --series-4: #e6c229;
  --series-5: #c8ccd2;
  --baseline-0: #e58fc0; --baseline-1: #e6c229; --baseline-2: #4fd1a5; --baseline-3: #aab0b9;
  --outcome-0: #56b4e9; --outcome-1: #59616c; --outcome-2: #ff9a4d;
"""

STYLE = (
    ":root { color-scheme: light dark;"
    + _LIGHT
    + "}\n@media (prefers-color-scheme: dark) { :root {"
    + _DARK
    + "} }\n@media print { :root { color-scheme: light;"
    + _LIGHT
    + "} }\n"
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--background); color: var(--text); font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .4rem; padding-top: 1rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--accent); }
.quiet, figcaption { color: var(--quiet); font-size: .875em; }
.note { border-left: 4px solid var(--series-1); padding: .3rem .8rem; background: var(--card); }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: .85rem; display: block; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 2rem; }
figure { margin: .6rem 0; break-inside: avoid; min-width: 0; }
figure svg { width: 100%; max-width: 33rem; height: auto; display: block; }
figcaption { max-width: 33rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; }
thead th { border-bottom: 2px solid var(--faint); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--background); }
tr.ours th, tr.ours td { font-weight: 600; }
td small { color: var(--quiet); display: block; font-size: .86em; font-weight: 400; }
tr.printed th, tr.printed td, tr.few th, tr.few td { color: var(--quiet); font-weight: 400; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.examples h4 { margin: .4rem 0; font-size: .95rem; }
.example { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem;
  margin: 0 0 .6rem; font-size: .875rem; break-inside: avoid; }
.example p { overflow-wrap: anywhere; margin: .3rem 0 0; }
.example span { color: var(--quiet); font-size: .8rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .85em; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { main { padding: 1rem .8rem 3rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; } th, td { padding: .3rem .5rem; }
  th:first-child, td:first-child { white-space: normal; min-width: 6.5rem; }
  .cards { grid-template-columns: 1fr 1fr; } }
@media print { body { font-size: 10pt; } main { max-width: none; padding: 0; } h2 { break-before: page; }
  h2, h3 { break-after: avoid; } nav { display: none; } tr { break-inside: avoid; } .scroll { overflow: visible; }
  .plots { grid-template-columns: 1fr 1fr; } table { font-size: 8.5pt; }
  details::details-content { content-visibility: visible; height: auto; } }
"""
)
