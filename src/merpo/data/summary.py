"""A data set in figures: its tasks, and the ranges of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from merpo.data.prepare import action_bounds
from merpo.data.types import SetInfo, TaskData, TaskSet
from merpo.data.validation import shape_problems
from merpo.errors import DataError


@dataclass(frozen=True)
class TaskSummary:
    """One task in figures; returns are undiscounted, per episode."""

    name: str
    split: str
    episodes: int
    steps: int
    shortest: int
    longest: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    reward_min: float
    reward_max: float
    terminated: int
    """Episodes that terminated."""
    truncated: int
    """Episodes that were truncated (and did not terminate)."""
    saturated: float
    """Share of action entries within 1 % of a bound."""


@dataclass(frozen=True)
class ColumnSummary:
    """One column over all training tasks (over all tasks where there are none)."""

    name: str
    """`obs[i]`, `action[i]` or `reward`."""
    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class LogSummary:
    """One task's log in figures: what a policy learned from it carries along."""

    task: TaskSummary
    columns: tuple[ColumnSummary, ...]

    @staticmethod
    def of(task: TaskData, about: SetInfo) -> LogSummary:
        """The figures of a log."""
        found = summarise(about, [task])
        return LogSummary(found.tasks[0], found.columns)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; figures that are not finite become None."""
        return finite(asdict(self))

    @staticmethod
    def from_json(data: Any) -> LogSummary:
        """What `to_json` gave. DataError if something is missing."""
        try:
            return LogSummary(TaskSummary(**data["task"]), tuple(ColumnSummary(**c) for c in data["columns"]))
        except (KeyError, TypeError) as error:
            raise DataError(f"log: not the figures of a log that merpo wrote ({error}). Adapt again.") from error


@dataclass(frozen=True)
class Summary:
    """A set in figures, see `info`."""

    info: SetInfo
    train_tasks: int
    test_tasks: int
    episodes: int
    steps: int
    tasks: tuple[TaskSummary, ...]
    columns: tuple[ColumnSummary, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists; figures that are not finite become None."""
        return finite(asdict(self))

    def render(self) -> str:
        """A plain-text table of the tasks."""
        i = self.info
        lines = [
            (
                f"{i.family}/{i.quality} v{i.version}: {self.train_tasks} training and {self.test_tasks} test"
                f" tasks, {self.episodes} episodes, {self.steps} steps"
            ),
            (
                f"obs_dim {i.obs_dim}, act_dim {i.act_dim}, gamma {i.gamma}, horizon {i.horizon}, termination"
                f" {i.termination}, physics {i.physics}, seed {i.seed}"
            ),
            "",
        ]
        return "\n".join(lines) + _tasks(self.tasks)

    def render_columns(self) -> str:
        """A plain-text table of the columns' ranges."""
        body: list[tuple[str, ...]] = [("column", "from", "to", "mean", "std")]
        body += [(c.name, *(f"{x:.4g}" for x in (c.low, c.high, c.mean, c.std))) for c in self.columns]
        return aligned(body)


def info(taskset: TaskSet) -> Summary:
    """A set in figures; tasks with unsound shapes are counted but left out of the table."""
    return summarise(taskset.info, taskset)


def summarise(about: SetInfo, tasks: Iterable[TaskData]) -> Summary:
    """The same for tasks that come one at a time, for sets that do not fit into memory."""
    rows: list[TaskSummary] = []
    pooled: dict[str, _Moments] = {"train": _Moments(), "test": _Moments()}
    count = {"train": 0, "test": 0}
    with np.errstate(all="ignore"):  # infinite values are for `check` to report
        for task in tasks:
            if task.split in count:
                count[task.split] += 1
            if any(shape_problems(task, about)):
                continue
            rows.append(_summary(task, about))
            if task.split in pooled:
                t = task.transitions
                parts = [np.asarray(t.obs), np.asarray(t.action), np.asarray(t.reward)[:, None]]
                pooled[task.split].add(np.concatenate(parts, axis=1, dtype=np.float64))
        chosen = pooled["train"] if pooled["train"].count else pooled["test"]
        columns = chosen.columns(about) if chosen.count else ()
    episodes, steps = sum(r.episodes for r in rows), sum(r.steps for r in rows)
    return Summary(about, count["train"], count["test"], episodes, steps, tuple(rows), columns)


class _Moments:
    """Range, mean and deviation of columns, part by part: Chan, Golub, LeVeque (1983), eq. 2.1."""

    def __init__(self) -> None:
        self.count = 0
        self.low = self.high = self.mean = self.square = np.zeros(0)

    def add(self, x: np.ndarray) -> None:
        mean, low, high = x.mean(axis=0), x.min(axis=0), x.max(axis=0)
        square = ((x - mean) ** 2).sum(axis=0)
        if not self.count:
            self.low, self.high, self.mean, self.square = low, high, mean, square
        else:
            total, delta = self.count + len(x), mean - self.mean
            self.square = self.square + square + delta**2 * (self.count * len(x) / total)
            self.mean = self.mean + delta * (len(x) / total)
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count += len(x)

    def columns(self, about: SetInfo) -> tuple[ColumnSummary, ...]:
        names = [f"obs[{i}]" for i in range(about.obs_dim)] + [f"action[{i}]" for i in range(about.act_dim)]
        std = np.sqrt(self.square / self.count)
        figures = zip([*names, "reward"], self.low, self.high, self.mean, std, strict=True)
        return tuple(ColumnSummary(n, float(a), float(b), float(m), float(s)) for n, a, b, m, s in figures)


def _summary(task: TaskData, about: SetInfo) -> TaskSummary:
    returns, lengths = task.returns(), np.diff(task.episode_start)
    last = np.asarray(task.episode_start)[1:] - 1
    terminated = np.asarray(task.transitions.terminated)[last]
    truncated = np.asarray(task.transitions.truncated)[last] & ~terminated
    reward = np.asarray(task.transitions.reward, np.float64)
    return TaskSummary(
        name=task.name,
        split=task.split,
        episodes=task.episodes,
        steps=len(task),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_min=float(returns.min()),
        return_max=float(returns.max()),
        reward_min=float(reward.min()),
        reward_max=float(reward.max()),
        terminated=int(terminated.sum()),
        truncated=int(truncated.sum()),
        saturated=float(at_bounds(task, about).mean()),
    )


def at_bounds(task: TaskData, about: SetInfo) -> Bool[np.ndarray, "n act"]:
    """Which action entries lie within 1 % of a bound."""
    low, high = action_bounds(about)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    return np.abs(np.asarray(task.transitions.action, np.float64) - middle) >= 0.99 * half


def finite(x: Any) -> Any:
    """Nested dictionaries and sequences with None for numbers that JSON cannot hold."""
    if isinstance(x, dict):
        return {k: finite(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [finite(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def _tasks(rows: tuple[TaskSummary, ...]) -> str:
    head = ("task", "split", "episodes", "steps", "length", "return", "reward", "term/trunc", "saturated")
    body: list[tuple[str, ...]] = [head]
    for r in rows:
        length = str(r.longest) if r.shortest == r.longest else f"{r.shortest}-{r.longest}"
        body.append(
            (
                r.name,
                r.split,
                str(r.episodes),
                str(r.steps),
                length,
                f"{r.return_mean:.4g} +- {r.return_std:.3g}",
                f"{r.reward_min:.4g} .. {r.reward_max:.4g}",
                f"{r.terminated}/{r.truncated}",
                f"{r.saturated:.0%}",
            )
        )
    return aligned(body)


def aligned(body: Sequence[tuple[str, ...]]) -> str:
    """Lines of text in columns, the first line the heads."""
    width = [max(len(line[c]) for line in body) for c in range(len(body[0]))]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(line, width, strict=True)).rstrip() for line in body)
