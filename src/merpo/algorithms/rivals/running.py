"""One runner for every rival: compiled chunks, jobs as the mapped axis, parts of them side by side on a CPU's cores.

A job is a (seed, task) pair of a single-task learner, or a seed of a context learner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.threads import cores, cuts, side_by_side
from merpo.compilation import compiled
from merpo.data.sample import sample_rows
from merpo.data.types import Stacked, Transitions
from merpo.devices import map_groups

REPORTS = 10
"""Chunks that a run is cut into at most: as many reports, and points of the learning curves."""


@dataclass(frozen=True)
class Algorithm:
    """A learner as pure functions."""

    name: str
    init: Callable[..., Any]
    """`init(key, obs_dim, act_dim, config) -> state`"""
    draw: Callable[..., Any]
    """`draw(data, place, key, config, gamma) -> batch`"""
    update: Callable[..., Any]
    """`update(state, batch, key, gamma, config) -> (state, metrics)`"""
    learned: Callable[..., Any]
    """`learned(state)`: what is kept of it, a policy or an `encoders.Conditioned`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Jobs:
    """What runs side by side."""

    task: Int[Array, " job"]
    """With the seed, what a job's random numbers come from; 0 for context learners."""
    seed: Int[Array, " job"]
    place: Int[Array, " job"]
    """What `draw` is told: the task's row of the data, or the seed's."""

    def keys(self, key: PRNGKeyArray) -> Key[Array, " job"]:
        """A key per job from its own seed and task, whatever runs beside it."""
        return jax.vmap(lambda s, t: jax.random.fold_in(jax.random.fold_in(key, s), t))(self.seed, self.task)


def every_job(seeds: Sequence[int], tasks: int) -> Jobs:
    """One job per (seed, task), seeds outermost."""
    task = jnp.tile(jnp.arange(tasks, dtype=jnp.int32), len(seeds))
    return Jobs(task, jnp.repeat(jnp.asarray(seeds, jnp.int32), tasks), task)


def seed_jobs(seeds: Sequence[int]) -> Jobs:
    """One job per seed."""
    zero = jnp.zeros(len(seeds), jnp.int32)
    return Jobs(zero, jnp.asarray(seeds, jnp.int32), jnp.arange(len(seeds), dtype=jnp.int32))


def draw_rows(data: Stacked, task: Int[Array, ""], key: PRNGKeyArray, config: Any, gamma: float) -> Transitions:
    """`config.batch` rows of one task."""
    del gamma
    return sample_rows(jax.tree.map(lambda x: x[task], data.transitions), data.size[task], key, config.batch)


@compiled(static_argnames=("algorithm", "updates", "gamma", "config", "group"), donate_argnames=("states",))
def chunk(
    states: Any,
    data: Any,
    jobs: Jobs,
    start: Int[Array, ""],
    *,
    algorithm: Algorithm,
    updates: int,
    gamma: float,
    config: Any,
    group: int,
) -> tuple[Any, dict[str, Float[Array, " job"]]]:
    """`updates` updates of every job in one compiled call, beginning with number `start`; metrics are their means."""

    def one(args: tuple[Any, ...]) -> tuple[Any, dict[str, Array]]:
        state, place, key = args

        def body(state: Any, k: PRNGKeyArray) -> tuple[Any, dict[str, Array]]:
            k_draw, k_update = jax.random.split(k)
            return algorithm.update(state, algorithm.draw(data, place, k_draw, config, gamma), k_update, gamma, config)

        state, metrics = jax.lax.scan(body, state, jax.random.split(key, updates))
        return state, jax.tree.map(jnp.mean, metrics)

    keys = jobs.keys(jax.random.fold_in(jax.random.key(10), start))
    return map_groups(one, (states, jobs.place, keys), group)


def run(
    algorithm: Algorithm,
    data: Any,
    jobs: Jobs,
    obs_dim: int,
    act_dim: int,
    gamma: float,
    config: Any,
    group: int,
    stage: str,
    report: Report = silent,
) -> tuple[Any, dict[str, Float[np.ndarray, "round job"]]]:
    """`config.updates` updates of every job: what is learned, [job] leaves, and the learning curves."""
    starts = jax.vmap(lambda k: algorithm.init(k, obs_dim, act_dim, config))(jobs.keys(jax.random.key(9)))
    parts = cuts(int(jobs.seed.shape[0]), cores())
    # chunks donate their input: no two leaves may share a buffer
    states = [jax.tree.map(lambda x, c=c: jnp.copy(x[c]), starts) for c in parts]
    own = [jax.tree.map(lambda x, c=c: x[c], jobs) for c in parts]
    size, curves = config.updates // pieces(config.updates), []
    for done in range(0, config.updates, size):

        def work(part: tuple[Any, Jobs], done: int = done) -> tuple[Any, dict[str, np.ndarray]]:
            state, metrics = chunk(
                part[0], data, part[1], jnp.asarray(done, jnp.int32),
                algorithm=algorithm, updates=size, gamma=gamma, config=config, group=group,
            )  # fmt: skip
            return state, jax.device_get(metrics)

        advanced = side_by_side(work, list(zip(states, own, strict=True)))
        states, found = (list(x) for x in zip(*advanced, strict=True))
        curves.append({k: np.concatenate([m[k] for m in found]) for k in found[0]})
        report(stage, done + size, config.updates, {k: float(v.mean()) for k, v in curves[-1].items()})
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *states)
    return jax.vmap(algorithm.learned)(whole), {k: np.stack([c[k] for c in curves]) for k in curves[0]}


def pieces(updates: int) -> int:
    """The number of equal chunks, up to `REPORTS`, that `updates` can be cut into: one compiled shape."""
    return max(p for p in range(1, REPORTS + 1) if updates % p == 0)
