"""Puts a measured table into the licence card of an embedded router, between two marks."""

from __future__ import annotations

from pathlib import Path

from routellm_core.persistence import write_bytes

MODELS = Path(__file__).resolve().parent.parent / "shared" / "routellm_core" / "models"


def fill(section: str, text: str, *, router: str = "default") -> None:
    """Replace what stands between `<!-- section: begin -->` and `<!-- section: end -->`."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    card = MODELS / router / "README.md"
    before, found, rest = card.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{card} lacks the marks {begin} and {end}")
    write_bytes(card, f"{before}{begin}\n{text}\n{end}{after}".encode())
