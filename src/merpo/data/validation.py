"""What cannot be learned from: every fault as a `Finding`, the first of them raised by `validate`.

`validate` and `checks.check` share these generators, so that the report and the error never disagree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from merpo.data.prepare import action_bounds
from merpo.data.types import SetInfo, TaskData, TaskSet
from merpo.errors import ConfigError, DataError

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
"""The arrays of `Transitions`, in order."""
SPLITS = ("train", "test")
TERMINATIONS = ("never", "bounds", "learned")
ACTION_TOLERANCE = 1e-4
"""How far outside its bounds a logged action may lie: rounding of float32 logs, not clipping errors."""


@dataclass(frozen=True)
class Finding:
    """One thing found in a data set."""

    severity: str
    """`error` (cannot be learned from), `warning` (probably a mistake) or `info`."""
    code: str
    """Short stable name of the kind of finding, e.g. `not-finite`."""
    message: str
    """What was found where, and what was expected."""
    advice: str
    """What to do about it."""
    task: str | None = None
    """The task's name, or None when it concerns the set."""

    @property
    def text(self) -> str:
        """Message and advice as one paragraph."""
        return f"{self.message} {self.advice}"


def validate(taskset: TaskSet, on_constant: str = "error") -> None:
    """Raise `DataError` for the first thing in `taskset` that cannot be learned from; return None when all is
    well.

    Checked: the set's description (dimensions, discount, action bounds), task names and splits, shapes and
    dtypes, episode bounds (first 0, increasing, last the number of rows), NaN and infinite values, actions
    outside their bounds (tolerance 1e-4), end flags inside an episode, tasks whose every episode is a single
    step although the horizon is longer, and observation columns that are constant over all training tasks.

    Single-transition episodes here and there are fine (an early termination is one), and so is an episode
    whose last row has neither flag (the log was cut).

    `on_constant`: `error`, or `keep` to learn with constant observation columns (they are normalised to
    zero).
    Raises `ConfigError` for another value.
    """
    for problem in problems(taskset, on_constant):
        raise DataError(problem.text)


def problems(taskset: TaskSet, on_constant: str = "error") -> Iterator[Finding]:
    """Everything that `validate` would raise, one `Finding` each, all of severity `error`."""
    if on_constant not in ("error", "keep"):
        raise ConfigError(f"on_constant={on_constant!r}: expected 'error' or 'keep'. Choose one of the two.")
    broken = False
    for problem in set_problems(taskset):
        broken = broken or problem.code == "info"
        yield problem
    if broken:  # without sound dimensions and bounds nothing can be said of the tasks
        return
    sound = []
    for task in taskset:
        faults = list(shape_problems(task, taskset.info))
        yield from faults
        if not faults:
            sound.append(task)
            yield from value_problems(task, taskset.info)
    if on_constant == "error":
        yield from constant_problems([t for t in sound if t.split == "train"])


def require_structure(taskset: TaskSet) -> None:
    """Raise `DataError` unless names, shapes, dtypes and episode bounds are sound (values may still be
    bad).
    """
    for problem in set_problems(taskset):
        if problem.code != "no-train":  # a set of test tasks may be stored; it cannot be learned from
            raise DataError(problem.text)
    for task in taskset:
        for problem in shape_problems(task, taskset.info):
            raise DataError(problem.text)


def set_problems(taskset: TaskSet) -> Iterator[Finding]:
    """Faults of the set as a whole: its description, and the names and splits of its tasks."""

    def bad(code: str, message: str, advice: str, task: str | None = None) -> Finding:
        return Finding("error", code, message, advice, task)

    info = taskset.info
    for name, least in (("obs_dim", 1), ("act_dim", 1), ("horizon", 1), ("version", 0)):
        value = getattr(info, name)
        if value < least:
            yield bad("info", f"info.{name}={value!r}: expected at least {least}.", "Correct SetInfo.")
    if not (math.isfinite(info.gamma) and 0.0 <= info.gamma <= 1.0):
        yield bad("info", f"info.gamma={info.gamma!r}: expected a discount in [0, 1].", "Correct SetInfo.")
    if info.termination not in TERMINATIONS:
        message = f"info.termination={info.termination!r}: expected one of {', '.join(TERMINATIONS)}."
        yield bad("info", message, "Use 'learned' if in doubt.")
    for name in ("action_low", "action_high"):
        bound = getattr(info, name)
        if len(bound) not in (0, info.act_dim) or not all(math.isfinite(b) for b in bound):
            message = f"info.{name}={bound!r}: expected {info.act_dim} finite numbers, one per action column."
            yield bad("info", message, "Leave it empty for [-1, 1].")
            return
    low, high = action_bounds(info)
    if not np.all(low < high):
        message = f"info.action_low={low.tolist()}, info.action_high={high.tolist()}: expected low < high."
        yield bad("info", message, "Correct the bounds in SetInfo.")
    for limit in info.healthy:
        if not 0 <= limit.index < info.obs_dim:
            message = f"info.healthy: index={limit.index}, expected an observation column in [0, {info.obs_dim})."
            yield bad("info", message, "Correct SetInfo.")

    for name, count in Counter(t.name for t in taskset).items():
        if count > 1:
            message = f"tasks: the name {name!r} is used {count} times; expected unique names."
            yield bad("duplicate-name", message, "Rename the tasks.", name)
    for task in taskset:
        if task.split not in SPLITS:
            message = f"task {task.name!r}: split={task.split!r}, expected 'train' or 'test'."
            yield bad("split", message, "Set the split of every task to one of the two.", task.name)
    if not len(taskset):
        yield bad("no-train", "tasks is empty: expected at least one training task.", "Add the logs of some tasks.")
    elif not len(taskset.train):
        message = f"tasks: none of the {len(taskset)} tasks has split 'train'; expected at least one."
        yield bad("no-train", message, "Mark the tasks to learn from with split='train'.")


def shape_problems(task: TaskData, info: SetInfo) -> Iterator[Finding]:
    """Faults of one task's arrays as arrays: dtypes, shapes, episode bounds."""

    def bad(code: str, message: str, advice: str) -> Finding:
        return Finding("error", code, f"task {task.name!r}: {message}", advice, task.name)

    arrays = {name: np.asarray(getattr(task.transitions, name)) for name in FIELDS}
    rows = arrays["reward"].shape[0] if arrays["reward"].ndim else 0
    width = {"obs": (info.obs_dim,), "next_obs": (info.obs_dim,), "action": (info.act_dim,)}
    sound = True
    for name, x in arrays.items():
        dtype = np.dtype(bool if name in ("terminated", "truncated") else np.float32)
        if x.dtype != dtype:
            sound = False
            advice = f"Convert it with .astype(np.{dtype.name}), or build the set with from_arrays."
            yield bad("dtype", f"{name} has dtype {x.dtype}, expected {dtype}.", advice)
        expected = (rows, *width.get(name, ()))
        if x.shape != expected:
            sound = False
            advice = (
                "All arrays of a task have one row per step, and all tasks of a set the same observation "
                "and action columns (info.obs_dim, info.act_dim): check how they were cut."
            )
            yield bad("shape", f"{name} has shape {x.shape}, expected {expected}.", advice)
    if not sound:
        return
    if rows == 0:
        yield bad("empty", "no transitions; expected at least one.", "Leave the task out, or log some data for it.")
        return

    start = np.asarray(task.episode_start)
    if start.ndim != 1 or len(start) < 2 or not np.issubdtype(start.dtype, np.integer):
        message = (
            f"episode_start has dtype {start.dtype} and shape {start.shape}, expected integers, one per"
            " episode and a last one."
        )
        yield bad("episodes", message, "Episode e is rows episode_start[e]:episode_start[e+1].")
        return
    if start[0] != 0 or start[-1] != rows:
        message = f"episode_start runs from {start[0]} to {start[-1]}, expected from 0 to {rows} (the number of rows)."
        yield bad("episodes", message, "Every row must belong to an episode.")
        return
    short = np.flatnonzero(np.diff(start) <= 0)
    if len(short):
        e = int(short[0])
        kind = "is empty" if start[e + 1] == start[e] else "ends before it begins"
        message = f"episode {e} {kind} (rows {start[e]}:{start[e + 1]}); expected increasing episode_start."
        yield bad("episodes", message, "Drop empty episodes and keep the bounds in order.")


def value_problems(task: TaskData, info: SetInfo) -> Iterator[Finding]:
    """Faults of one task's values; its arrays must have passed `shape_problems`."""

    def bad(code: str, message: str, advice: str) -> Finding:
        return Finding("error", code, f"task {task.name!r}: {message}", advice, task.name)

    t = task.transitions
    for name in ("obs", "action", "reward", "next_obs"):
        x = np.asarray(getattr(t, name))
        wrong = ~np.isfinite(x)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            column = f", column {first[1]}" if len(first) > 1 else ""
            count = int(wrong.reshape(len(x), -1).any(axis=1).sum())
            message = (
                f"{name} has NaN or infinite values in {count} of {len(x)} rows (first: row"
                f" {first[0]}{column}, value {x[first]}); expected finite numbers."
            )
            yield bad("not-finite", message, "Drop those transitions, or mend the log, before learning from it.")

    low, high = action_bounds(info)
    action = np.asarray(t.action, np.float64)
    outside = (action < low - ACTION_TOLERANCE) | (action > high + ACTION_TOLERANCE)
    if outside.any():
        row, worst = (int(i) for i in np.argwhere(outside)[0])
        message = (
            f"action is outside its bounds in {int(outside.any(axis=1).sum())} of {len(action)} rows (first:"
            f" row {row}, column {worst}, value {action[row, worst]:.6g}, bounds [{low[worst]:g},"
            f" {high[worst]:g}])."
        )
        advice = "Rescale the actions, or give their true bounds as action_low and action_high."
        yield bad("action-bounds", message, advice)

    start = np.asarray(task.episode_start)
    last = np.zeros(len(task), bool)
    last[start[1:] - 1] = True
    for name in ("terminated", "truncated"):
        inside = np.flatnonzero(np.asarray(getattr(t, name)) & ~last)
        if len(inside):
            row = int(inside[0])
            episode = int(np.searchsorted(start, row, side="right")) - 1
            message = (
                f"{name} is set inside an episode in {len(inside)} rows (first: row {row}, in episode"
                f" {episode} = rows {start[episode]}:{start[episode + 1]}); expected only on an episode's"
                " last row."
            )
            yield bad("end-flag", message, "Begin a new episode after each end, or clear the flag.")

    if info.horizon > 1 and np.all(np.diff(start) == 1):
        message = (
            f"each of its {task.episodes} episodes has a single transition although"
            f" info.horizon={info.horizon}; expected longer episodes, because no step has a logged next step"
            " to learn from."
        )
        advice = (
            "If the rows are consecutive, give the true episode bounds; if the task really is a one-step"
            " decision, set horizon=1."
        )
        yield bad("one-step", message, advice)


def constant_problems(train: Sequence[TaskData]) -> Iterator[Finding]:
    """Observation columns that never change over all training tasks."""
    if not train:
        return
    low = np.min([np.min(t.transitions.obs, axis=0) for t in train], axis=0)
    high = np.max([np.max(t.transitions.obs, axis=0) for t in train], axis=0)
    columns = np.flatnonzero(low == high)
    if len(columns):
        listed = ", ".join(f"column {i} = {low[i]:g}" for i in columns[:5]) + (", ..." if len(columns) > 5 else "")
        noun = "column is" if len(columns) == 1 else "columns are"
        message = (
            f"obs: {len(columns)} of {len(low)} {noun} constant over all training tasks ({listed}); "
            "expected every column to carry information."
        )
        advice = 'Remove the column from the data, or pass on_constant="keep" to learn with it as it is.'
        yield Finding("error", "constant", message, advice)
