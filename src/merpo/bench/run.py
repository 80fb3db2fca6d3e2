"""Running the cells of a study that are not there yet: here, one after another, or on the workers of a Ray cluster.

On an accelerator the seeds of a row are learned together, as one batch. They are known by the same hashes, one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from shutil import rmtree
from typing import Protocol, runtime_checkable

from merpo.algorithms.rounds import Report
from merpo.bench.cluster import cluster, run_on_ray
from merpo.bench.folder import Folder
from merpo.bench.plan import Cell, Fit, make_plan, seedless
from merpo.bench.study import Study
from merpo.bench.summary import Outcome, summarise_study
from merpo.bench.work import Workshop
from merpo.devices import accelerated
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


def run_study(
    study: Study,
    out: Path,
    watcher: Watcher,
    workers: int = 0,
    every: float = 60.0,
    together: bool | None = None,
) -> Outcome:
    """Run what is missing of a study and summarise it all; after a kill the same call goes on to the same bytes.

    `workers`: 0 runs here, cell after cell; otherwise that many workers of a Ray cluster. `every`: seconds between two
    saves of the state within a piece of work, only here. `together`: whether the seeds of a row are learned in one
    batch, only here; None: on an accelerator they are. Cells whose learning diverges are left out, and named by the
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
        if workers:
            failed = run_on_ray(todo, folder, watcher, workers)
        else:
            batched = accelerated() if together is None else together
            teams = in_teams(todo, units) if batched else [(u,) for u in todo]
            failed = run_here(teams, folder, watcher, every)
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


def in_teams(todo: Iterable[Unit], units: Iterable[Unit]) -> list[tuple[Unit, ...]]:
    """What is to do with all that differs from it in nothing but the seed, in the order of `todo`.

    A team is whole even if some of it is done: with other companions results would have other last bits.
    """
    teams: dict[str, list[Unit]] = {}
    for unit in units:
        teams.setdefault(seedless(unit), []).append(unit)
    todo = list(todo)
    wanted = {seedless(u) for u in todo}
    order: dict[str, None] = {}
    for unit in todo:
        team = teams[seedless(unit)]
        fits = [u.fit for u in team if isinstance(u, Cell) and u.fit is not None]
        order |= dict.fromkeys(k for k in map(seedless, [*fits, unit]) if k in wanted)
    return [tuple(teams[k]) for k in order]


def run_here(teams: Iterable[Sequence[Unit]], folder: Folder, watcher: Watcher, every: float = 60.0) -> dict[str, str]:
    """One team after another. Returns what diverged: hash and reason; of a team that diverges, each goes on alone."""
    shop = Workshop(every)
    failed: dict[str, str] = {}
    waiting = deque(teams)
    while waiting:
        team = waiting.popleft()
        fits = [u.fit for u in team if isinstance(u, Cell) and u.fit is not None]
        lost = [f for f in fits if f.hash in failed]
        if len(team) > 1 and lost:
            waiting.extendleft((u,) for u in reversed(team) if not folder.done(u))
            continue
        if lost:
            failed[team[0].hash] = failed[lost[0].hash]
            watcher.end(team[0], None)
            continue
        missing = [u for u in team if not folder.done(u)]
        state = folder.state(team[0], len(team))
        watcher.begin(missing[0])
        try:
            if isinstance(team[0], Fit):
                done = shop.fit([u for u in team if isinstance(u, Fit)], state, watcher.report)
            else:
                contents = [folder.result(f).read_bytes() for f in fits]
                done = shop.cell([u for u in team if isinstance(u, Cell)], contents, state, watcher.report)
        except DivergenceError as error:
            if len(team) > 1:
                waiting.extendleft((u,) for u in reversed(missing))
                continue
            failed[team[0].hash] = str(error)
            watcher.end(team[0], None)
            continue
        for unit, one in zip(team, done, strict=True):
            if unit in missing:
                folder.keep(unit, one)
                watcher.end(unit, one.seconds)
        rmtree(state, ignore_errors=True)
    return failed
