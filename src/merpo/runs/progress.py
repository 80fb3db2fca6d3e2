"""A progress bar with the figures that matter; plain occasional lines without a terminal or rich."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Shows how far long work is: `with Progress(total, "meta-training") as p: p.update(10, loss=0.3)`.

    On a terminal with rich: a live bar with updates per second, time left and the latest figures. Otherwise a
    line about every `every` seconds, and one at the end.
    """

    def __init__(
        self,
        total: int,
        title: str,
        every: float = 10.0,
        stream: Any = None,
        unit: str = "updates",
    ):
        self.total, self.title, self.every, self.unit = int(total), title, every, unit
        self.done = 0
        self.figures: dict[str, float] = {}
        self._stream: TextIO = stream if stream is not None else sys.stdout
        self._start = self._last = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._start = self._last = time.perf_counter()
        if self._stream.isatty():
            self._bar = _rich_bar(self._stream)
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, figures="", rate="")
        return self

    def update(self, n: int, **figures: Any) -> None:
        """Count `n` more done; `figures` (numbers or 0-d arrays) replace those shown before."""
        self.done += int(n)
        self.figures |= {name: float(value) for name, value in figures.items()}
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, figures=self._figures(), rate=self._rate(now))
        elif now - self._last >= self.every and self.done < self.total:
            self._last = now
            print(self.line(now), file=self._stream, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            print(self.line(time.perf_counter()), file=self._stream, flush=True)

    def line(self, now: float) -> str:
        """One plain line: title, share done, speed, time left (or taken), figures."""
        share = 100.0 * self.done / self.total if self.total else 100.0
        passed = now - self._start
        if self.done >= self.total:
            clock = f"took {_clock(passed)}"
        elif self.done == 0:
            clock = "time left unknown"
        else:
            clock = f"{_clock(passed / self.done * (self.total - self.done))} left"
        parts = [f"{self.title}: {self.done}/{self.total} ({share:.0f} %)", self._rate(now), clock]
        return "  ".join(p for p in [*parts, self._figures()] if p)

    def _rate(self, now: float) -> str:
        passed = now - self._start
        return f"{self.done / passed:.3g} {self.unit}/s" if self.done and passed > 0 else ""

    def _figures(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self.figures.items())


def _rich_bar(stream: Any) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        return None
    return RichProgress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
