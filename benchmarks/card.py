"""Puts a measured table into the licence card of the default router, between two marks."""

from __future__ import annotations

from pathlib import Path

from routellm_core.persistence import write_bytes

CARD = Path(__file__).resolve().parent.parent / "shared" / "routellm_core" / "models" / "default" / "README.md"


def fill(section: str, text: str) -> None:
    """Replace what stands between `<!-- section: begin -->` and `<!-- section: end -->`."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, found, rest = CARD.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{CARD} lacks the marks {begin} and {end}")
    write_bytes(CARD, f"{before}{begin}\n{text}\n{end}{after}".encode())
