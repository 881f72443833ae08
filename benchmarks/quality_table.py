"""Everything that quality is judged by, in one table: figure, interval, aim, published figure, reached or not.

    python benchmarks/quality_table.py [--data ../shared/data] [--router NAME_OR_FOLDER]... [--only PARTS] [--out FILE]

Parts, each by the protocol of the command in brackets:

- routers: MMLU, GSM8K and MT-Bench beside prompt length, chance and the best published router (`routellm evaluate`)
- held-out: each family of training sources by a fit without it, and sources that are never fitted, for the default
  router (tools/build_embedded_router.py)
- own-labels: what labels of one's own are worth (own_labels.py)
- cascade: verifiers of the weak answer, quality over total cost (escalation.py)
- many-models: routing among all models of a source (many_models.py)
- transfer: pairs of models that the paper never saw (transfer.py)
- speed: one decision, and sizes (speed.py)

The table goes to stdout as Markdown, progress to stderr, and with --out everything to a file as JSON. A part that
fails says so in the table and loses no other; the exit code is then 1. Ctrl-C ends the run and prints what there is.
Intervals are 95 % bootstrap intervals over prompts; of own labels and cascades, which are means over draws, those of
the first draw. Each run of routers, own-labels or cascade scores the evaluation sets: add a row to quality-log.md, and
choose nothing by it.

It takes about a quarter of an hour on an idle machine (33 minutes on two cores with seven other programs); `--quick`,
for trying it out, makes one draw instead of five, and fewer resamples.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import escalation
import own_labels
import transfer
from evaluation_sets import DATA, digest
from quality_lines import Line, markdown
from quality_parts import PARTS, Given, folder_of, say

from routellm_core import __version__, load_router
from routellm_core.errors import RouteLLMError
from routellm_core.persistence import digest_of, write_bytes
from routellm_core.routers.base import Router
from routellm_core.routers.loading import EMBEDDED

PACKAGES = ("numpy", "scipy", "scikit-learn", "model2vec", "tokenizers", "onnxruntime", "genai-prices")
TRAIN_FILES = ("answers", "models", "pairs")


def load(names: Sequence[str]) -> tuple[dict[str, Router], dict[str, str]]:
    """The routers by their own names; of those that were not asked for by name only what can be loaded here."""
    routers, missing = {}, {}
    for name in names or EMBEDDED:
        try:
            router = load_router(name)
        except RouteLLMError as error:
            if names:
                raise SystemExit(f"{name}: {error}") from error
            missing[name] = f"{type(error).__name__}: {error}"
            continue
        label = str(router.name)
        routers[label if label not in routers else f"{label} in {name}"] = router
    return routers, missing


def measured(chosen: Sequence[str], given: Given) -> tuple[dict[str, list[Line]], dict[str, str], dict[str, float]]:
    """Lines by the titles of the parts, what failed and why, and seconds by part."""
    lines: dict[str, list[Line]] = {}
    failed, seconds = {}, {}
    for name in chosen:
        title, part = PARTS[name]
        say(f"{name} ...")
        started = time.perf_counter()
        lines[title] = []
        try:
            lines[title] = part(given)
        except KeyboardInterrupt:  # what has been measured so far is still worth a table
            failed[title] = "interrupted"
            break
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one part must not lose the others
            traceback.print_exc()
            failed[title] = f"{type(error).__name__}: {error}"
        seconds[name] = round(time.perf_counter() - started, 1)
        say(f"{name}: {seconds[name]:.0f} s")
    return lines, failed, seconds


def about(given: Given, *, quick: bool) -> dict[str, Any]:
    """Date, data, versions and routers: what the figures hang on."""
    train = [given.data / "train" / f"{name}.parquet" for name in TRAIN_FILES]
    return {
        "date": str(date.today()),
        "command": shlex.join(["python", "benchmarks/quality_table.py", *sys.argv[1:]]),
        "quick": quick,
        "data": {
            "eval": digest(given.data) if (given.data / "eval").is_dir() else None,
            "train": digest_of(*(path.read_bytes() for path in train))[:12] if all(map(Path.is_file, train)) else None,
        },
        "routers": {name: tensors_of(router) for name, router in given.routers.items()},
        "versions": {
            "routellm-integrations": __version__,
            "python": platform.python_version(),
            **{name: installed for name in PACKAGES if (installed := version_of(name))},
        },
    }


def tensors_of(router: Router) -> str | None:
    """The beginning of the SHA-256 of a router's model.safetensors."""
    folder = folder_of(router)
    return None if folder is None else transfer.recipe.digests_of(folder).get("model.safetensors", "")[:8] or None


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--router", action="append", default=[], help="name or folder; default: every embedded one")
    parser.add_argument("--base", default="default", help="what cascades start from")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, between commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON")
    asked = parser.parse_args()
    chosen = [name.strip() for name in asked.only.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    if asked.quick:
        own_labels.SEEDS = escalation.SEEDS = range(1)
        escalation.RESAMPLES = 100
    routers, missing = load(asked.router)
    bases = asked.router or [name for name in EMBEDDED if name not in missing]
    given = Given(asked.data, routers, asked.base, bases, 200 if asked.quick else 1000, missing)
    lines, failed, seconds = measured(chosen, given)
    state = about(given, quick=asked.quick)
    print(markdown(lines, failed))
    versions = ", ".join(f"{name} {number}" for name, number in state["versions"].items())
    digests = ", ".join(f"{name} {number}" for name, number in state["data"].items())
    tensors = ", ".join(f"{name} {number}" for name, number in state["routers"].items())
    print(
        f"\nMeasured on {state['date']} by `{state['command']}`{' (quick: one draw)' if asked.quick else ''} in "
        f"{sum(seconds.values()) / 60:.0f} minutes. Data digests: {digests}. Routers: {tensors}. {versions}."
    )
    if asked.out is not None:
        parts = {title: [line.to_dict() for line in each] for title, each in lines.items()}
        report = {**state, "seconds": seconds, "parts": parts, "failed": failed}
        write_bytes(asked.out, (json.dumps(transfer.rounded(report), indent=1) + "\n").encode())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
