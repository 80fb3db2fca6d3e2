"""The compiled chunks of the default settings for locomotion, in the shapes of half-cheetah's logs, without data.

Shared by `memory.py` and `compile_time.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from merpo.algorithms import bc, merpo
from merpo.algorithms.merpo import Jobs
from merpo.algorithms.pipeline import make_jobs
from merpo.algorithms.presets import STANDARD
from merpo.algorithms.stages import Batch
from merpo.data.types import Stacked, Transitions, padded_rows
from merpo.dynamics import fit
from merpo.dynamics.ensemble import POOL_CHUNK, Ensemble, TargetScale
from merpo.dynamics.fit import Rows
from merpo.dynamics.termination import Termination
from merpo.networks import Actor

OBS, ACT = 17, 6
EPISODES, HORIZON = 50, 200
ROWS = EPISODES * HORIZON
"""Logged rows per task: what `merpo train half-cheetah-fwd-back/mixed` generates."""


def _batch(tasks: int) -> Batch:
    config = STANDARD.dynamics
    shape, held_out = (tasks, padded_rows(ROWS)), round(config.holdout * ROWS)
    number, flag = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool)
    obs = jnp.zeros((*shape, OBS), jnp.float32)
    rows = Transitions(obs, jnp.zeros((*shape, ACT), jnp.float32), number, obs, flag, flag)
    train, count = padded_rows(ROWS - held_out), jnp.full((tasks,), ROWS, jnp.int32)
    held = padded_rows(min(held_out, config.holdout_rows))
    index = partial(jnp.zeros, dtype=jnp.int32)
    split = Rows(
        index((tasks, config.members, train)), index((tasks, train)), count, index((tasks, held)),
        jnp.zeros((tasks, held), bool),
    )  # fmt: skip
    return Batch(Stacked(rows, count), split)


def _everything(tasks: int) -> dict[str, Any]:
    batch, key = _batch(tasks), jax.random.key(0)
    out, state, none = jnp.ones(OBS + 1, jnp.float32), jnp.ones(OBS, jnp.float32), jnp.zeros(0, jnp.float32)
    scale = TargetScale(out, out, state, state)
    meta = Ensemble.init(key, OBS, ACT, STANDARD.dynamics)
    fitted, _ = fit.adapt_models(
        meta, batch.stacked, batch.rows, scale, key, config=STANDARD.dynamics, learn_termination=False
    )
    z = jnp.zeros((tasks, STANDARD.context), jnp.float32)
    jobs = make_jobs(
        batch, fitted, scale, Termination("never", jnp.zeros(0, jnp.int32), none, none),
        jnp.zeros((tasks,), jnp.float32), z, (0,), STANDARD.rac.alpha, STANDARD.rac.beta, STANDARD.train_updates,
        STANDARD.meta_ramp,
    )  # fmt: skip
    learning = merpo.init_meta(jax.random.split(key, 1), z, OBS, ACT, STANDARD)
    keys = jax.random.split(key, tasks)
    return {
        "batch": batch,
        "scale": scale,
        "key": key,
        "start": jnp.zeros((), jnp.int32),
        "meta": meta,
        "meta_opt": fit.optimiser(STANDARD.dynamics).init(meta),
        "jobs": jobs,
        "state": learning,
        "held": merpo.for_jobs(learning.metas.actor, z, tasks),
        "clones": jax.vmap(lambda k: Actor(OBS, ACT, STANDARD.rac.actor_hidden, k))(keys),
        "keys": keys,
    }


def data_shapes(tasks: int) -> Batch:
    """The logs and their split, as arrays without content."""
    return eqx.filter_eval_shape(partial(_batch, tasks))


def chunks(tasks: int) -> dict[str, Callable[[], Any]]:
    """By stage: a function that traces and lowers its compiled chunk for this many tasks of one seed."""
    x = eqx.filter_eval_shape(partial(_everything, tasks))
    stacked, rows, jobs, state = x["batch"].stacked, x["batch"].rows, x["jobs"], x["state"]
    assert isinstance(jobs, Jobs)
    dynamics = {"config": STANDARD.dynamics, "learn_termination": False}
    data = (stacked, rows, x["scale"], x["key"])
    split = (rows.train, rows.count, rows.held, rows.held_valid)
    gamma = STANDARD.rac.gamma
    return {
        "pooled model": partial(
            fit.pool_chunk.lower, x["meta"], x["meta_opt"], *data, x["start"], **dynamics, steps=POOL_CHUNK
        ),
        "meta-model": partial(
            fit.meta_chunk.lower, x["meta"], *data, x["start"], **dynamics, iterations=10,
            tasks_per_iteration=min(STANDARD.tasks_per_iteration, tasks),
        ),
        "tasks' models": partial(fit.adapt_models.lower, x["meta"], *data, **dynamics),
        "meta-training": partial(
            merpo.train_chunk.lower, state, jobs, x["key"], x["start"], rounds=1, seeds=1, gamma=gamma, config=STANDARD
        ),
        "adaptation": partial(
            merpo.adapt_chunk.lower, state.learners, state.rings, jobs, x["held"], x["key"], x["start"], rounds=1,
            gamma=gamma, config=STANDARD,
        ),
        "behaviour cloning": partial(
            bc.clone_jobs.lower, x["clones"], stacked.transitions, jobs.task, *split, x["keys"],
            updates=STANDARD.bc_updates, batch=STANDARD.rac.batch, learning_rate=1e-3, group=1,
        ),
    }  # fmt: skip
