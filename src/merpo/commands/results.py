"""`merpo results`: the page of all stored results, made from their files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from merpo.commands.session import say
from merpo.errors import StorageError


@dataclass(frozen=True)
class ResultsPage:
    """Write the page of results from the studies stored below a folder."""

    root: Path = Path("results")
    """Folder with one folder per study (`merpo bench --results`)."""
    out: Path = Path("docs/results.md")
    """The page."""


def run_results(options: ResultsPage) -> None:
    """Run the command."""
    from merpo.files import write_atomic
    from merpo.report.study import results_page

    if not options.root.is_dir():
        raise StorageError(f"root={str(options.root)!r}: no such folder. Give the one that holds the results.")
    link = Path(os.path.relpath(options.root, options.out.parent)).as_posix()
    write_atomic(options.out, results_page(options.root, link))
    say(f"Page: {options.out}")
