"""The command line, one file a command."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run `routellm`. Exit code 2 for bad input, with one line on stderr that says what to do."""
    from routellm_core.cli.app import run

    run()
