"""What is suspicious about a set as a whole: leakage, sizes, scales, columns that say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from merpo.data.types import TaskData
from merpo.data.validation import Finding

SHARED = 0.1
"""Share of transitions that several training tasks have in common from which it is a warning."""
UNEVEN = 10
"""The largest training task may have this many times the rows of the smallest."""
SAME = 0.9999
"""Correlation from which two observation columns say the same."""
ROWS = 20_000
"""Rows looked at for that."""

Keyed = Sequence[tuple[TaskData, Int[np.ndarray, " _"]]]


def relations(tasks: Keyed) -> Iterator[Finding]:
    """Findings about tasks with sound shapes, each with its `row_keys`."""
    train = [task for task, _ in tasks if task.split == "train"]
    yield from reward_scales(train)
    yield from leakage(tasks)
    yield from _sizes(train)
    yield from _same_columns(train)


def leakage(tasks: Keyed) -> Iterator[Finding]:
    """Transitions of test tasks that some training task has as well."""
    train = [keys for task, keys in tasks if task.split == "train"]
    if not train:
        return
    seen = np.unique(np.concatenate(train))
    for task, keys in tasks:
        shared = int(np.isin(keys, seen).sum()) if task.split == "test" else 0
        if shared:
            message = f"task {task.name!r}: {shared} of {len(keys)} transitions are also in a training task."
            advice = "A test on data that were trained on proves nothing: log the test tasks separately."
            yield Finding("warning", "leakage", message, advice, task.name)
    distinct = [np.unique(k) for k in train]
    values, count = np.unique(np.concatenate(distinct), return_counts=True)
    if shared := int((count > 1).sum()):
        message = f"{shared} of {len(values)} different transitions occur in more than one training task."
        advice = "They cannot tell the tasks apart; if they are many, check that the logs were not copied."
        yield Finding("warning" if shared > SHARED * len(values) else "info", "shared", message, advice)


def reward_scales(train: list[TaskData]) -> Iterator[Finding]:
    """Training tasks whose rewards differ in scale by more than a hundred."""
    spread: dict[str, float] = {}
    for task in train:
        deviation = float(np.std(np.asarray(task.transitions.reward, np.float64)))
        if np.isfinite(deviation) and deviation > 0:
            spread[task.name] = deviation
    if spread:
        least, most = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
        if spread[most] > 100 * spread[least]:
            message = f"the reward's deviation is {spread[most]:.3g} in {most!r} and {spread[least]:.3g} in {least!r}."
            yield Finding("warning", "reward-scale", message, "Rescale the rewards so that tasks weigh alike.")


def _sizes(train: list[TaskData]) -> Iterator[Finding]:
    if not train:
        return
    least, most = min(train, key=len), max(train, key=len)
    if len(most) > UNEVEN * len(least):
        message = f"task {most.name!r} has {len(most)} transitions, {least.name!r} only {len(least)}."
        advice = "Tasks weigh alike in learning: the small one is seen more often and fitted worse. Log more of it."
        yield Finding("warning", "uneven", message, advice)


def _same_columns(train: list[TaskData]) -> Iterator[Finding]:
    """Pairs of observation columns that are multiples of each other."""
    if not train:
        return
    each = max(ROWS // len(train), 2)
    rows = [np.asarray(t.transitions.obs, np.float64)[:: max(len(t) // each, 1)] for t in train]
    x = np.concatenate(rows)
    x = x[np.isfinite(x).all(axis=1)]
    if len(x) < 3:
        return
    moving = np.flatnonzero(x.std(axis=0) > 1e-9 * np.maximum(1.0, np.abs(x).max(axis=0)))
    if len(moving) < 2:
        return
    close = np.argwhere(np.triu(np.abs(np.corrcoef(x[:, moving].T)) > SAME, 1))
    if len(close):
        pairs = ", ".join(f"{moving[i]} and {moving[j]}" for i, j in close[:5]) + (", ..." if len(close) > 5 else "")
        message = f"observation columns {pairs} are the same up to scale and offset (correlation above {SAME})."
        yield Finding("warning", "same-columns", message, "Leave one of each out: the copy only adds noise.")
