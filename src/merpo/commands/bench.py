"""`merpo bench`: run a study's cells, go on after a kill, and make its tables and figure."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from merpo.commands.record import make_folder
from merpo.commands.session import say
from merpo.commands.stages import SHOWN
from merpo.errors import DivergenceError

if TYPE_CHECKING:
    from merpo.bench import Outcome, Unit


@dataclass(frozen=True)
class Bench:
    """Run a study: every method on every family and quality with every seed, cell by cell."""

    study: Annotated[Path, tyro.conf.Positional]
    """TOML file: name, families, qualities, methods, and what else docs/commands.md lists."""
    out: Path
    """Folder of the study. The same command goes on with what is in it, after a kill at any moment."""
    workers: int = 0
    """Run on so many workers of a Ray cluster (RAY_ADDRESS, else one of this machine); 0: here, one after another."""
    checkpoint_every: float = 60.0
    """Seconds between two saves of the state within a cell; 0 saves after every round. Workers keep none."""
    results: Path | None = None
    """Write results.json, times.json, table.md and figure.png to this folder too, e.g. results/NAME."""
    figure: bool = True
    """Draw figure.png (needs matplotlib)."""


def run_bench(options: Bench) -> None:
    """Run the command."""
    from merpo.bench import read_study, run_study
    from merpo.report.study import print_study

    study = read_study(options.study)
    with Board(study.name) as board:
        outcome = run_study(study, options.out, board, options.workers, options.checkpoint_every)
    for folder in (options.out, *([options.results] if options.results else [])):
        write_outcome(outcome, folder, options.figure)
    print_study(outcome.content)
    say(f"Results: {(options.results or options.out) / 'table.md'}")
    if outcome.failed:
        title, why = next(iter(outcome.failed.items()))
        raise DivergenceError(
            f"{len(outcome.failed)} cells diverged and are not in the tables; the first, {title}: {why} Change the"
            " settings in the study's file; cells that they do not touch are kept."
        )


def write_outcome(outcome: Outcome, folder: Path, draw: bool) -> None:
    """Tables, figure and numbers of a study, each file whole or not at all."""
    from merpo.files import write_atomic
    from merpo.report.study import FIGURE, RESULTS, TABLE, TIMES, study_figure, study_markdown

    make_folder(folder)
    write_atomic(folder / TIMES, outcome.text("times"))
    write_atomic(folder / TABLE, study_markdown(outcome.content))
    if draw:
        study_figure(outcome.content, folder / FIGURE)
    write_atomic(folder / RESULTS, outcome.text("content"))


class Board:
    """How far a study is: cells done, the current one, time left; a live view on a terminal, else a line per cell."""

    def __init__(self, title: str, stream: Any = None):
        self._title = title
        self._stream = stream if stream is not None else sys.stdout
        self._seconds: dict[str, list[float]] = {}
        self._todo: list[Unit] = []
        self._active: dict[str, tuple[Unit, float]] = {}
        self._cells = self._done = 0
        self._view: Any = None
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Board:
        if self._stream.isatty():
            self._view = _view(self._stream)
            self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.stop()

    def planned(self, cells: int, done: int, todo: Sequence[Unit], past: Mapping[str, list[float]]) -> None:
        """Called once, before the first piece of work."""
        self._cells, self._done, self._todo = cells, done, list(todo)
        self._seconds = {k: list(v) for k, v in past.items()}
        if self._view is None:
            self._print(f"{self._title}: {cells} cells, {done} done already, {len(todo)} pieces of work to do")
        else:
            self._bars[""] = self._view.add_task(f"[bold]{self._title}", total=cells, completed=done, text="")

    def begin(self, unit: Unit) -> None:
        """A piece of work begins."""
        self._active[unit.hash] = (unit, time.perf_counter())
        if self._view is not None and unit.hash not in self._bars:
            self._bars[unit.hash] = self._view.add_task(unit.title, total=None, text="")
            self._view.update(self._bars[""], text=self.left())

    def end(self, unit: Unit, seconds: float | None) -> None:
        """It has ended, or failed."""
        from merpo.bench import Cell, kind

        self._active.pop(unit.hash, None)
        self._todo = [u for u in self._todo if u.hash != unit.hash]
        self._done += isinstance(unit, Cell)
        if seconds is not None:
            self._seconds.setdefault(kind(unit), []).append(seconds)
        if self._view is not None:
            if (bar := self._bars.pop(unit.hash, None)) is not None:
                self._view.remove_task(bar)
            self._view.update(self._bars[""], completed=self._done, text=self.left())
        else:
            took = "diverged" if seconds is None else f"took {seconds:.1f} s"
            self._print("  ".join(t for t in (f"{self._done}/{self._cells}", unit.title, took, self.left()) if t))

    def report(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """A stage within a piece of work; of pieces side by side none is heard."""
        if self._view is None or len(self._active) != 1:
            return
        text = "  ".join(f"{short} {figures[name]:.4g}" for name, short in SHOWN.items() if name in figures)
        bar = self._bars.get(next(iter(self._active)))
        if bar is not None:
            self._view.update(bar, completed=done, total=total, text=f"{stage}  {text}")

    def left(self) -> str:
        """Time left, from what work of the same kind took."""
        from merpo.bench import kind

        known = [s for v in self._seconds.values() for s in v]
        if not known or not self._todo:
            return ""
        overall = sum(known) / len(known)
        means = {k: sum(v) / len(v) for k, v in self._seconds.items()}
        seconds = sum(means.get(kind(u), overall) for u in self._todo) / max(1, len(self._active))
        minutes, s = divmod(round(seconds), 60)
        return f"about {minutes // 60}:{minutes % 60:02d}:{s:02d} left"

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _view(stream: Any) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )
