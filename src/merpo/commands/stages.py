"""Progress of work in stages: one bar per stage on a terminal, plain occasional lines elsewhere.

Learning reports through a callback `report(stage, done, total, figures)`; stages become known when they first report,
and several families may report at once, each under a prefix of its own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

Report = Callable[[str, int, int, dict[str, float]], None]

SHOWN = {
    "nll": "nll",
    "error": "hold-out error",
    "critic/td": "td",
    "critic/gap": "gap",
    "actor/q": "Q",
    "actor/clone": "clone",
    "actor/kl_meta": "KL",
    "return": "return",
}
"""Figures that are shown, and the short names they are shown by; the metrics files have every figure."""


@dataclass
class _Stage:
    title: str
    total: int
    began: float
    """When who reports it reported last: compilation is part of a stage's time."""
    first: tuple[float, int]
    """Time and count of the first report; speed is measured from there, since before it lies the compilation."""
    printed: float
    done: int = 0
    bar: Any = None

    def rate(self, now: float, done: int) -> str:
        passed, more = now - self.first[0], done - self.first[1]
        return f"{more / passed:.3g}/s" if more > 0 and passed > 0 else ""


class Stages:
    """A context manager that shows what is reported: `with Stages() as bars: fit(..., report=bars.report)`."""

    def __init__(self, every: float = 10.0, stream: Any = None):
        self._every = every
        self._stream = stream if stream is not None else sys.stdout
        self._lock = threading.Lock()
        self._stages: dict[str, _Stage] = {}
        self._last: dict[tuple[str, int], float] = {}
        self._bars: Any = None

    def __enter__(self) -> Stages:
        self._entered = time.perf_counter()
        if self._stream.isatty():
            self._bars = _rich_bars(self._stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def report(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Show that `done` of `total` units of `stage` are finished."""
        self._show("", stage, done, total, figures)

    def prefixed(self, prefix: str) -> Report:
        """The same report with `prefix` before the name of every stage, for work side by side."""

        def report(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            self._show(prefix, f"{prefix}: {stage}", done, total, figures)

        return report

    def _show(self, prefix: str, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        text = "  ".join(f"{short} {figures[name]:.4g}" for name, short in SHOWN.items() if name in figures)
        who = (prefix, threading.get_ident())
        with self._lock:
            now, before = time.perf_counter(), self._last.get(who, self._entered)
            known = self._stages.get(stage)
            if known is None:
                known = self._stages[stage] = _Stage(stage, total, before, (now, done), now)
                if self._bars is not None:
                    known.bar = self._bars.add_task(stage, total=total, figures="", rate="")
            elif done <= known.done:  # the same work once more, for the next seed
                known.began, known.first = before, (now, done)
            known.done, self._last[who] = done, now
            rate = known.rate(now, done)
            if self._bars is not None:
                self._bars.update(known.bar, completed=done, figures=text, rate=rate)
            elif done >= total or now - known.printed >= self._every:
                known.printed = now
                clock = f"took {now - known.began:.1f} s" if done >= total else ""
                parts = (f"{stage}: {done}/{total}", rate, clock, text)
                print("  ".join(p for p in parts if p), file=self._stream, flush=True)


def _rich_bars(stream: Any) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )
