"""What is asked of tasks and seeds before anything is learned from them, whoever learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from merpo.data import SetInfo, TaskData, TaskSet, validate
from merpo.errors import ConfigError, DataError


def checked_seeds(seed: int, seeds: Sequence[int] | None) -> tuple[int, ...]:
    """`seeds`, or `seed` alone; ConfigError unless they are distinct whole numbers >= 0."""
    found = tuple(int(s) for s in (seeds if seeds is not None else (seed,)))
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ConfigError(f"seeds={found}: expected distinct whole numbers >= 0, at least one.")
    return found


def training_tasks(tasks: TaskSet, gamma: float | None, on_constant: str) -> TaskSet:
    """The validated training tasks, with the discount `gamma` in place of their own if given. DataError if none."""
    used = tasks.train
    if not len(used):
        raise DataError(
            f"tasks has no training task among its {len(tasks)}: expected some with split='train'. Pass data.train."
        )
    validate(used, on_constant=on_constant)
    return used if gamma is None else replace(used, info=replace(used.info, gamma=gamma))


def checked_tasks(tasks: TaskSet | Sequence[TaskData], info: SetInfo) -> list[TaskData]:
    """New tasks that fit what was learned: same family, dimensions and bounds, finite values. Else DataError."""
    listed = list(tasks)
    if isinstance(tasks, TaskSet) and tasks.info.family != info.family:
        raise DataError(
            f"tasks are of the family {tasks.info.family!r}: expected {info.family!r}, which was learned from."
        )
    if not listed:
        raise DataError("tasks is empty: expected at least one task to adapt to.")
    validate(TaskSet(info, tuple(replace(t, split="train") for t in listed)), on_constant="keep")
    return listed
