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
    readme: Path | None = None
    """Put the page's first table into this file too, in place of what is between its two marks of `merpo results`."""


def run_results(options: ResultsPage) -> None:
    """Run the command."""
    from merpo.files import write_atomic
    from merpo.report.overview import overview, replaced
    from merpo.report.study import results_page

    if not options.root.is_dir():
        raise StorageError(f"root={str(options.root)!r}: no such folder. Give the one that holds the results.")
    pages = {options.out: results_page(options.root, _link(options.root, options.out))}
    if options.readme is not None:
        table = overview(options.root, _link(options.root, options.readme))
        pages[options.readme] = replaced(options.readme, table)
    for path, text in pages.items():
        write_atomic(path, text)
        say(f"Page: {path}")


def _link(root: Path, page: Path) -> str:
    return Path(os.path.relpath(root, page.parent)).as_posix()
