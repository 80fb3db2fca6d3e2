"""Running the cells of a study that are not there yet: here, one after another, or on the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

from merpo.algorithms.rounds import Report
from merpo.bench.cluster import cluster, run_on_ray
from merpo.bench.folder import Folder
from merpo.bench.plan import Cell, Fit, make_plan
from merpo.bench.study import Study
from merpo.bench.summary import Outcome, summarise_study
from merpo.bench.work import Workshop
from merpo.errors import ConfigError, DivergenceError

Unit = Cell | Fit
"""A piece of work."""


@runtime_checkable
class Watcher(Protocol):
    """Whoever shows how far the work is."""

    def planned(self, cells: int, done: int, todo: Sequence[Unit], past: dict[str, list[float]]) -> None:
        """So many cells of which so many are done; what is to do; seconds of past work by `kind`."""

    def begin(self, unit: Unit) -> None:
        """Work on a unit begins."""

    def end(self, unit: Unit, seconds: float | None) -> None:
        """It has ended; without seconds, it has failed."""

    @property
    def report(self) -> Report:
        """Told of the stages within a unit."""


def kind(unit: Unit) -> str:
    """Work of one kind takes about as long."""
    return f"fit {unit.learner}" if isinstance(unit, Fit) else f"cell {unit.method}"


def run_study(study: Study, out: Path, watcher: Watcher, workers: int = 0, every: float = 60.0) -> Outcome:
    """Run what is missing of a study and summarise it all; after a kill the same call goes on to the same bytes.

    `workers`: 0 runs here, cell after cell; otherwise that many workers of a Ray cluster. `every`: seconds between two
    saves of the state within a piece of work, only here. Cells whose learning diverges are left out, and named by the
    outcome. StorageError for a folder that is in use or not ours.
    """
    if workers < 0:
        raise ConfigError(f"workers={workers}: expected 0, to run cell after cell here, or how many Ray workers.")
    with Folder.opened(out, study) as folder, cluster(workers) if workers else nullcontext():
        series = make_plan(study)
        cells = list({c.hash: c for s in series for c in s.cells}.values())
        todo = ordered([c for c in cells if not folder.done(c)], folder)
        needed = {f.hash: f for c in cells if (f := c.fit) is not None}
        units: list[Unit] = [*cells, *needed.values()]
        finished = [u for u in units if folder.done(u)]
        folder.clear_work(finished)
        past: dict[str, list[float]] = {}
        for unit in finished:
            past.setdefault(kind(unit), []).append(folder.seconds(unit) or 0.0)
        watcher.planned(len(cells), len(cells) - sum(isinstance(u, Cell) for u in todo), todo, past)
        failed = run_on_ray(todo, folder, watcher, workers) if workers else run_here(todo, folder, watcher, every)
        return summarise_study(study, series, folder, failed)


def ordered(cells: Iterable[Cell], folder: Folder) -> list[Unit]:
    """What is to do, every meta-training right before the cells that need it, unless it is done."""
    todo: list[Unit] = []
    by_fit: dict[str, list[Cell]] = {}
    for cell in cells:
        fit = cell.fit
        by_fit.setdefault(cell.hash if fit is None else fit.hash, []).append(cell)
    for together in by_fit.values():
        first = together[0].fit
        if first is not None and not folder.done(first):
            todo.append(first)
        # those that adapt the same models follow one another
        together.sort(key=_models)
        todo += together
    return todo


def _models(cell: Cell) -> str:
    return str(cell.test)


def run_here(todo: Sequence[Unit], folder: Folder, watcher: Watcher, every: float = 60.0) -> dict[str, str]:
    """One after another. Returns what diverged: hash and reason."""
    shop = Workshop(every)
    failed: dict[str, str] = {}
    for unit in todo:
        fit = unit.fit if isinstance(unit, Cell) else None
        watcher.begin(unit)
        try:
            if isinstance(unit, Fit):
                done = shop.fit(unit, folder.state(unit), watcher.report)
            elif fit is not None and fit.hash in failed:
                failed[unit.hash] = failed[fit.hash]
                watcher.end(unit, None)
                continue
            else:
                learned = None if fit is None else folder.result(fit).read_bytes()
                done = shop.cell(unit, learned, folder.state(unit), watcher.report)
        except DivergenceError as error:
            failed[unit.hash] = str(error)
            watcher.end(unit, None)
            continue
        folder.keep(unit, done)
        watcher.end(unit, done.seconds)
    return failed
