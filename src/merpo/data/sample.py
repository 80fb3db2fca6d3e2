"""Drawing minibatches on the device, and holding data out by episode on the host."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from merpo.data.types import TaskData, Transitions
from merpo.data.validation import FIELDS
from merpo.errors import ConfigError, DataError


def sample_rows(transitions: Transitions, size: Int[Array, ""] | int, key: PRNGKeyArray, batch: int) -> Transitions:
    """`batch` transitions of one task, uniform with replacement over rows `[0, size)`.

    `transitions` has one leading axis (row), of which only the first `size` >= 1 rows are real: one task of a
    `Stacked`. For many tasks, vmap over the task axis of `transitions`, `size` and `key`.
    """
    rows = jax.random.randint(key, (batch,), 0, size)
    return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), transitions)


def split_episodes(task: TaskData, fraction: float, seed: int) -> tuple[TaskData, TaskData]:
    """Split a task into (kept, held out), about `fraction` of the episodes held out, drawn with `seed`.

    Each part has at least one episode and keeps the logged order. A task with a single episode is split by
    time: its last `fraction` of steps is held out, and the kept part ends as a cut log (`truncated`). Whole
    episodes are held out because neighbouring steps are nearly copies: a hold-out of single rows would
    measure memory.

    Raises `ConfigError` unless 0 < fraction < 1, `DataError` when the task has a single transition.

    >>> import numpy as np
    >>> from merpo.data import from_arrays, split_episodes
    >>> rng = np.random.default_rng(0)
    >>> log = {"obs": rng.normal(size=(40, 2)), "action": rng.uniform(-1, 1, (40, 1)), "reward": rng.normal(size=40),
    ...        "episode": np.repeat(np.arange(8), 5)}
    >>> kept, held = split_episodes(from_arrays({"one": log}, family="mine")[0], 0.25, seed=0)
    >>> kept.episodes, held.episodes
    (6, 2)
    """
    kept, held = holdout_rows(task, fraction, seed)
    if task.episodes > 1:
        start = np.asarray(task.episode_start)
        inside = np.isin(start[:-1], held)
        return task.select(np.flatnonzero(~inside).tolist()), task.select(np.flatnonzero(inside).tolist())
    first, second = _take(task, kept), _take(task, held)
    truncated = np.array(first.transitions.truncated)
    truncated[-1] = True
    return replace(first, transitions=replace(first.transitions, truncated=truncated)), second


def holdout_rows(
    task: TaskData, fraction: float, seed: int, most: int | None = None
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Row numbers of the same split as `split_episodes`: (kept, held out), sorted, disjoint, together all
    rows.

    `most` limits the held-out rows (METHOD: 20 %, at most 1000): fewer episodes are then held out, but at
    least one whole episode. Raises as `split_episodes`, and `ConfigError` for `most` < 1.
    """
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"fraction={fraction!r}: expected a number between 0 and 1, both excluded. Try 0.2.")
    if most is not None and most < 1:
        raise ConfigError(f"most={most!r}: expected at least 1, or None for no limit.")
    rows = len(task)
    if rows < 2:
        raise DataError(
            f"task {task.name!r}: {rows} transitions cannot be split, expected at least 2. Learn from it"
            " without a hold-out."
        )
    if task.episodes == 1:
        count = min(max(round(fraction * rows), 1), rows - 1, rows if most is None else most)
        return np.arange(rows - count), np.arange(rows - count, rows)
    start = np.asarray(task.episode_start)
    count = min(max(round(fraction * task.episodes), 1), task.episodes - 1)
    drawn = np.random.default_rng(seed).permutation(task.episodes)[:count]
    if most is not None:
        total = np.cumsum(np.diff(start)[drawn])
        drawn = drawn[: max(int(np.searchsorted(total, most, side="right")), 1)]
    held = np.zeros(rows, bool)
    for e in drawn:
        held[start[e] : start[e + 1]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _take(task: TaskData, rows: np.ndarray) -> TaskData:
    """These rows of a task as one episode."""
    part = Transitions(*(np.asarray(getattr(task.transitions, name))[rows] for name in FIELDS))
    return replace(task, transitions=part, episode_start=np.array([0, len(rows)], np.int64))
