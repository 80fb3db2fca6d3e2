"""Replaying or following a run's metrics into a tracker: TensorBoard (tensorboardX) or Weights & Biases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from merpo.runs.config import flatten
from merpo.runs.folder import METRICS, read_metrics


@runtime_checkable
class Tracker(Protocol):
    """Where figures go."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record figures at a step; steps start anew with every stage."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


class TensorBoard:
    """Event files for `tensorboard --logdir`. Needs the `tensorboard` extra."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        rows = "".join(f"| {name} | {value} |\n" for name, value in flatten(config).items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One scalar per figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandB:
    """A Weights & Biases run, offline (`wandb sync` later) unless `online`. Needs the `wandb` extra."""

    def __init__(self, folder: Path, config: Mapping[str, Any], name: str, project: str, online: bool = False):
        import wandb

        mode = "online" if online else "offline"
        self._run = wandb.init(dir=str(folder), mode=mode, project=project, name=name, config=dict(config))
        # steps start anew with every stage, which W&B's own step, ever rising, could not follow
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One line of history."""
        self._run.log({**figures, "step": step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def replay(run: Path, tracker: Tracker) -> int:
    """Send all that a run folder has logged, adaptation's curves included; returns the number of lines."""
    sent = _send(run / METRICS, "", 0, tracker)
    for path in sorted((run / "curves").glob("*.jsonl")):
        sent += _send(path, f"adapt/{path.stem}/", 0, tracker)
    return sent


def follow(run: Path, tracker: Tracker, finished: Callable[[], bool], every: float = 2.0) -> int:
    """Send lines of training as they are written, until `finished`; looks every `every` seconds."""
    sent = 0
    while True:
        last = finished()  # asked before reading, so that nothing written in between is missed
        if (run / METRICS).exists():
            sent += _send(run / METRICS, "", sent, tracker)
        if last:
            return sent
        time.sleep(every)


def _send(path: Path, prefix: str, begin: int, tracker: Tracker) -> int:
    """The lines from number `begin` on."""
    rows = read_metrics(path)[begin:]
    for row in rows:
        tracker.log(int(row["step"]), {prefix + name: float(v) for name, v in row.items() if name != "step"})
    return len(rows)
