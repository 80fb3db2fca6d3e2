"""The compiled chunks of the default settings, in the shapes of a family's logs, without data.

Shared by `memory.py`, `compile_time.py` and `compilation_level.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from merpo.algorithms import bc, merpo
from merpo.algorithms.merpo import Jobs
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.pipeline import make_jobs
from merpo.algorithms.presets import SMALL, STANDARD
from merpo.algorithms.stages import Batch
from merpo.data.types import Stacked, Transitions, padded_rows
from merpo.dynamics import fit
from merpo.dynamics.ensemble import POOL_CHUNK, Ensemble, TargetScale
from merpo.dynamics.fit import Rows
from merpo.dynamics.termination import Termination
from merpo.networks import Actor


@dataclass(frozen=True)
class Shapes:
    """Settings, and the shapes of the logs of every task."""

    config: MerPOConfig
    obs: int
    act: int
    episodes: int
    horizon: int
    gamma: float

    @property
    def rows(self) -> int:
        return self.episodes * self.horizon


CHEETAH = Shapes(STANDARD, 17, 6, 50, 200, 0.98)
"""What `merpo train half-cheetah-fwd-back/mixed` generates."""
POINT_ROBOT = Shapes(SMALL, 2, 2, 50, 20, 0.9)
"""What `merpo train point-robot-wind/medium` generates."""


def _batch(tasks: int, of: Shapes) -> Batch:
    config = of.config.dynamics
    shape, held_out = (tasks, padded_rows(of.rows)), round(config.holdout * of.rows)
    number, flag = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool)
    obs = jnp.zeros((*shape, of.obs), jnp.float32)
    rows = Transitions(obs, jnp.zeros((*shape, of.act), jnp.float32), number, obs, flag, flag)
    train, count = padded_rows(of.rows - held_out), jnp.full((tasks,), of.rows, jnp.int32)
    held = padded_rows(min(held_out, config.holdout_rows))
    index = partial(jnp.zeros, dtype=jnp.int32)
    split = Rows(
        index((tasks, config.members, train)), index((tasks, train)), count, index((tasks, held)),
        jnp.zeros((tasks, held), bool),
    )  # fmt: skip
    return Batch(Stacked(rows, count), split)


def _everything(tasks: int, of: Shapes) -> dict[str, Any]:
    batch, key, config = _batch(tasks, of), jax.random.key(0), of.config
    out, state, none = jnp.ones(of.obs + 1, jnp.float32), jnp.ones(of.obs, jnp.float32), jnp.zeros(0, jnp.float32)
    scale = TargetScale(out, out, state, state)
    meta = Ensemble.init(key, of.obs, of.act, config.dynamics)
    fitted, _ = fit.adapt_models(
        meta, batch.stacked, batch.rows, scale, key, config=config.dynamics, learn_termination=False
    )
    z = jnp.zeros((tasks, config.context), jnp.float32)
    jobs = make_jobs(
        batch, fitted, scale, Termination("never", jnp.zeros(0, jnp.int32), none, none),
        jnp.zeros((tasks,), jnp.float32), z, (0,), config.rac.alpha, config.rac.beta, config.train_updates,
        config.meta_ramp,
    )  # fmt: skip
    learning = merpo.init_meta(jax.random.split(key, 1), z, of.obs, of.act, config)
    keys = jax.random.split(key, tasks)
    return {
        "batch": batch,
        "scale": scale,
        "key": key,
        "start": jnp.zeros((), jnp.int32),
        "meta": meta,
        "meta_opt": fit.optimiser(config.dynamics).init(meta),
        "jobs": jobs,
        "state": learning,
        "held": merpo.for_jobs(learning.metas.actor, z, tasks),
        "clones": jax.vmap(lambda k: Actor(of.obs, of.act, config.rac.actor_hidden, k))(keys),
        "keys": keys,
    }


def data_shapes(tasks: int, of: Shapes = CHEETAH) -> Batch:
    """The logs and their split, as arrays without content."""
    return eqx.filter_eval_shape(partial(_batch, tasks, of))


def arrays(tasks: int, of: Shapes) -> dict[str, tuple[Any, ...]]:
    """What the chunks of learning are called with, by stage: new networks, and logs of nothing but zeros."""
    return _learning(_everything(tasks, of))


def _learning(x: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    state = x["state"]
    return {
        "meta-training": (state, x["jobs"], x["key"], x["start"]),
        "adaptation": (state.learners, state.rings, x["jobs"], x["held"], x["key"], x["start"]),
    }


def chunks(tasks: int, of: Shapes = CHEETAH) -> dict[str, Callable[[], Any]]:
    """By stage: a function that traces and lowers its compiled chunk for this many tasks of one seed."""
    x, config = eqx.filter_eval_shape(partial(_everything, tasks, of)), of.config
    stacked, rows, jobs, given = x["batch"].stacked, x["batch"].rows, x["jobs"], _learning(x)
    assert isinstance(jobs, Jobs)
    dynamics = {"config": config.dynamics, "learn_termination": False}
    data = (stacked, rows, x["scale"], x["key"])
    split = (rows.train, rows.count, rows.held, rows.held_valid)
    gamma = of.gamma
    return {
        "pooled model": partial(
            fit.pool_chunk.lower, x["meta"], x["meta_opt"], *data, x["start"], **dynamics, steps=POOL_CHUNK
        ),
        "meta-model": partial(
            fit.meta_chunk.lower, x["meta"], *data, x["start"], **dynamics, iterations=10,
            tasks_per_iteration=min(config.tasks_per_iteration, tasks),
        ),
        "tasks' models": partial(fit.adapt_models.lower, x["meta"], *data, **dynamics),
        "meta-training": partial(
            merpo.train_chunk.lower, *given["meta-training"], rounds=1, seeds=1, gamma=gamma, config=config
        ),
        "adaptation": partial(
            merpo.adapt_chunk.lower, *given["adaptation"], rounds=1, gamma=gamma, config=config
        ),
        "behaviour cloning": partial(
            bc.clone_jobs.lower, x["clones"], stacked.transitions, jobs.task, *split, x["keys"],
            updates=config.bc_updates, batch=config.rac.batch, learning_rate=1e-3, group=1,
        ),
    }  # fmt: skip
