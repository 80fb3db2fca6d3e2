"""Small task sets for the tests of the data room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import numpy as np

from merpo.data import SetInfo, TaskData, TaskSet, Transitions, validate
from merpo.data.validation import FIELDS

INFO = SetInfo("walk", 2, "medium", obs_dim=3, act_dim=2, gamma=0.9, horizon=6, seed=4, versions=(("numpy", "2"),))


def make_task(name: str = "a", split: str = "train", lengths=(6, 6, 3), seed: int = 0) -> TaskData:
    """Chained random episodes; those shorter than the horizon terminate, the others are truncated."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for n in lengths:
        walk = rng.normal(size=(n + 1, 3)).astype(np.float32)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        (truncated if n == INFO.horizon else terminated)[-1] = True
        action = rng.uniform(-0.9, 0.9, (n, 2)).astype(np.float32)
        reward = rng.normal(size=n).astype(np.float32)
        for key, x in zip(FIELDS, (walk[:-1], action, reward, walk[1:], terminated, truncated), strict=True):
            parts[key].append(x)
    transitions = Transitions(*(np.concatenate(parts[key]) for key in FIELDS))
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    parameters = {"wind": [0.1 * seed, -0.05], "mass": 1.5 + seed}
    return TaskData(name, split, transitions, start, parameters, {"random": -3.0, "expert": 1.0 + seed})


def make_set(info: SetInfo = INFO) -> TaskSet:
    """Two training tasks and a test task, of different sizes."""
    return TaskSet(
        info,
        (
            make_task("a", "train", (6, 6, 3), 0),
            make_task("b", "train", (1, 6, 2, 5), 1),
            make_task("c", "test", (4, 6), 2),
        ),
    )


def with_array(task: TaskData, **arrays: Any) -> TaskData:
    """The task with some arrays replaced, past the shape checks of the constructor."""
    names = [n for n in arrays if n != "episode_start"]
    if names:
        t = eqx.tree_at(lambda t: [getattr(t, n) for n in names], task.transitions, [arrays[n] for n in names])
        task = replace(task, transitions=t)
    if "episode_start" in arrays:
        object.__setattr__(task, "episode_start", arrays["episode_start"])
    return task


def changed(task: TaskData, name: str, index, value) -> TaskData:
    """The task with some entries of one array changed."""
    x = np.array(getattr(task.transitions, name))
    x[index] = value
    return with_array(task, **{name: x})


def same(a: TaskSet, b: TaskSet) -> bool:
    """Equal to the last bit, dtypes included."""
    if a.info != b.info or len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if (x.name, x.split, dict(x.parameters), dict(x.reference)) != (
            y.name,
            y.split,
            dict(y.parameters),
            dict(y.reference),
        ):
            return False
        pairs = [(np.asarray(x.episode_start), np.asarray(y.episode_start))]
        pairs += [(getattr(x.transitions, n), getattr(y.transitions, n)) for n in FIELDS]
        if any(p.dtype != q.dtype or p.shape != q.shape or p.tobytes() != q.tobytes() for p, q in pairs):
            return False
    return True


def test_the_makers_make_valid_sets():
    validate(make_set())
    assert same(make_set(), make_set())
