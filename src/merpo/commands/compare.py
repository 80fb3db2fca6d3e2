"""`merpo compare`: several evaluated runs in one table, with the probability that one improves on another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from merpo.commands.report import run_names
from merpo.commands.session import say
from merpo.errors import ConfigError, StorageError


@dataclass(frozen=True)
class Compare:
    """Compare evaluated runs on the tasks that they share."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or results files (`merpo evaluate --results`)."""
    method: str = "merpo"
    """Which method of each run: any that all of them were adapted by, or behaviour."""
    json: bool = False
    """As JSON."""


def run_compare(options: Compare) -> None:
    """Run the command."""
    from merpo.evaluation import compare
    from merpo.report import load_results
    from merpo.report.tables import print_comparison

    if len(options.runs) < 2:
        raise ConfigError(f"runs: {len(options.runs)} given, expected at least two to compare.")
    found = {}
    for path, name in zip(options.runs, run_names(options.runs), strict=True):
        file = path / "results.json" if path.is_dir() else path
        if not file.exists():
            raise StorageError(f"{str(path)!r}: no results there. Run `merpo evaluate {path}` first.")
        found[name] = load_results(file)
    comparison = compare(found, options.method)
    if options.json:
        say(json.dumps(comparison.to_json(), indent=1, allow_nan=False))
    else:
        print_comparison(comparison)
