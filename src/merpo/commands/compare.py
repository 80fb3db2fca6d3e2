"""`merpo compare`: evaluated runs, or methods of one, in one table; how likely one improves on another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from merpo.commands.report import run_names
from merpo.commands.session import say
from merpo.errors import ConfigError, StorageError
from merpo.files import storage_error

if TYPE_CHECKING:
    from merpo.evaluation import Comparison


@dataclass(frozen=True)
class Compare:
    """Compare evaluated runs on the tasks that they share, or methods of one run."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or results files (`merpo evaluate --results`)."""
    methods: tuple[str, ...] = ()
    """Which methods, of each run those that it has; `behaviour` is what logged the data. Default: merpo, and of a
    context learner's run that learner."""
    json: bool = False
    """As JSON."""
    out: Path | None = None
    """Also write a Markdown table here, and the JSON beside it."""


def run_compare(options: Compare) -> None:
    """Run the command."""
    from merpo.evaluation import compare
    from merpo.report import load_results
    from merpo.report.tables import print_comparison

    found = {}
    for path, name in zip(options.runs, run_names(options.runs), strict=True):
        file = path / "results.json" if path.is_dir() else path
        if not file.exists():
            raise StorageError(f"{str(path)!r}: no results there. Run `merpo evaluate {path}` first.")
        found[name] = load_results(file)
    comparison = compare(found, options.methods)
    if options.out:
        write(comparison, options.out)
    if options.json:
        say(json.dumps(comparison.to_json(), indent=1, allow_nan=False))
    else:
        print_comparison(comparison)


def write(comparison: Comparison, out: Path) -> None:
    """The comparison as `out`, Markdown, and with the ending .json."""
    from merpo.report.tables import markdown_comparison
    from merpo.runs import write_atomic

    if out.suffix != ".md":
        raise ConfigError(f"out={str(out)!r}: expected a name that ends in .md.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, out.parent, "make") from error
    content = json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n"
    write_atomic(out.with_suffix(".json"), content.encode())
    write_atomic(out, markdown_comparison(comparison).encode())
