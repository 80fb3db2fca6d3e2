"""What comes before the policies: a batch of prepared tasks, the meta-model, each task's model, behaviour clones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from merpo import devices
from merpo.algorithms import bc
from merpo.algorithms.health import Where, check_figures, check_state
from merpo.algorithms.keeper import FORGETFUL, Keeper
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.threads import side_by_side
from merpo.data.prepare import Preparation
from merpo.data.types import SetInfo, Stacked, TaskData, stack
from merpo.dynamics import fit as dyn
from merpo.dynamics.ensemble import POOL_CHUNK, DynamicsConfig, Ensemble, TargetScale
from merpo.dynamics.fit import FittedModel, Rows
from merpo.networks import Actor

FROM_SCRATCH = 5
"""Gradient steps of a model from scratch, in those of an adaptation from the meta-model: enough for its hold-out error
to stop falling, where the best parameters on the hold-out are kept."""


class Batch(eqx.Module):
    """A stack of prepared tasks with their hold-out rows."""

    stacked: Stacked
    rows: Rows


def make_batch(tasks: Sequence[TaskData], preparation: Preparation, config: MerPOConfig, seed: int) -> Batch:
    """Prepare, stack, and choose hold-out episodes (seeded)."""
    ready = [preparation.task(t) for t in tasks]
    return Batch(stack(ready), dyn.split_rows(ready, config.dynamics, seed))


def fit_meta_model(
    batch: Batch,
    scale: TargetScale,
    key: PRNGKeyArray,
    info: SetInfo,
    learn_termination: bool,
    where: Where,
    report: Report = silent,
    keeper: Keeper = FORGETFUL,
) -> Ensemble:
    """phi_m by proximal meta-learning over the batch's tasks; `where` names one seed."""
    config = where.config
    k_init, k_run = jax.random.split(key)
    meta = Ensemble.init(k_init, info.obs_dim, info.act_dim, config.dynamics)
    meta = _pooled(meta, batch, scale, jax.random.fold_in(key, 1), learn_termination, where, report, keeper)
    total, chunk = config.dynamics.meta_iterations, 10
    tasks = int(batch.rows.count.shape[0])
    slot, begin, curve = f"meta-model-{where.seeds[0]}", 0, np.zeros(0, np.float32)
    kept = keeper.load(slot, lambda done: (meta, jax.ShapeDtypeStruct((done,), np.float32)))
    if kept is not None:
        begin, (meta, curve) = kept
    meta, data, rows, scale, k_run = devices.everywhere((meta, batch.stacked, batch.rows, scale, k_run))
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        if start >= begin:
            meta, nll, picked = dyn.meta_chunk(
                meta, data, rows, scale, k_run, jnp.asarray(start, jnp.int32),
                config=config.dynamics, learn_termination=learn_termination,
                iterations=stop - start, tasks_per_iteration=min(config.tasks_per_iteration, tasks),
                mesh=devices.current(),
            )  # fmt: skip
            for i in range(stop - start):
                when = f"outer iteration {start + i + 1} of {total}"
                check_figures({"dynamics/nll": np.asarray(nll)[i]}, where, when, np.asarray(picked)[i].tolist())
            curve = np.concatenate([curve, np.mean(nll, axis=1)])
            if stop == total or keeper.due(slot):
                check_state({"dynamics": meta}, where, f"after outer iteration {stop} of {total}")
                keeper.save(slot, stop, (meta, curve))
        report("meta-model", stop, total, {"nll": float(curve[stop - 1])})
    return devices.local(meta)


def _pooled(
    meta: Ensemble,
    batch: Batch,
    scale: TargetScale,
    key: PRNGKeyArray,
    learn_termination: bool,
    where: Where,
    report: Report,
    keeper: Keeper,
) -> Ensemble:
    """Where phi_m starts: a fit to all tasks together. It has no axis to split: every process makes its own."""
    config = where.config.dynamics
    total, slot, begin = config.pool_steps, f"pooled-model-{where.seeds[0]}", 0
    state, curve = (meta, dyn.optimiser(config).init(meta)), np.zeros(0, np.float32)
    if total:
        like = state
        kept = keeper.load(slot, lambda done: (like, jax.ShapeDtypeStruct((done // POOL_CHUNK,), np.float32)))
        if kept is not None:
            begin, (state, curve) = kept
    for start in range(0, total, POOL_CHUNK):
        stop = start + POOL_CHUNK
        if start >= begin:
            *learned, nll = dyn.pool_chunk(
                *state, batch.stacked, batch.rows, scale, key, jnp.asarray(start, jnp.int32),
                config=config, learn_termination=learn_termination, steps=POOL_CHUNK,
            )  # fmt: skip
            state, curve = (learned[0], learned[1]), np.append(curve, np.float32(nll))
            check_state({"dynamics": {"nll": nll}}, where, f"up to pooled step {stop} of {total}")
            if stop == total or keeper.due(slot):
                check_state({"dynamics": state[0]}, where, f"after pooled step {stop} of {total}")
                keeper.save(slot, stop, (state, curve))
        report("pooled model", stop, total, {"nll": float(curve[stop // POOL_CHUNK - 1])})
    return devices.agreed(state[0])


def fit_models(
    meta: Ensemble,
    batch: Batch,
    scale: TargetScale,
    key: PRNGKeyArray,
    learn_termination: bool,
    where: Where,
    keeper: Keeper = FORGETFUL,
) -> tuple[FittedModel, Float[np.ndarray, "task checks"]]:
    """Every task's model from phi_m, for one seed, and the hold-out error after 0, check_every, ... gradient steps."""

    args = (meta, batch.stacked, batch.rows, scale, key)
    run = partial(dyn.adapt_models, config=where.config.dynamics, learn_termination=learn_termination)
    slot = f"models-{where.seeds[0]}"
    kept = keeper.load(slot, lambda _: jax.eval_shape(run, *args))
    if kept is not None:
        models, curve = kept[1]
        return models, np.asarray(curve)
    models, curve = devices.called(run, *args)
    check_figures({"dynamics/error": np.asarray(curve).T}, where, "on the hold-out")
    keeper.save(slot, 1, (models, curve))
    return models, np.asarray(curve)


def fresh_models(
    batch: Batch,
    scale: TargetScale,
    info: SetInfo,
    config: DynamicsConfig,
    steps: int,
    learn_termination: bool,
    seeds: Sequence[int],
) -> tuple[FittedModel, Float[np.ndarray, "seed task checks"]]:
    """A model per task from random weights, without the proximal term: [job] leaves, seeds outermost; and its curve."""
    fit = replace(config, eta=0.0, adapt_steps=steps)

    def models_of(seed: int) -> tuple[FittedModel, np.ndarray]:
        k_init, k_fit = jax.random.split(jax.random.fold_in(jax.random.key(seed), 9))
        fresh = Ensemble.init(k_init, info.obs_dim, info.act_dim, fit)
        run = partial(dyn.adapt_models, config=fit, learn_termination=learn_termination)
        models, curve = devices.called(run, fresh, batch.stacked, batch.rows, scale, k_fit)
        return models, np.asarray(curve)

    fitted, errors = zip(*side_by_side(models_of, seeds), strict=True)
    return jax.tree.map(lambda *x: jnp.concatenate(x), *fitted), np.stack(errors)


def clone_policies(batch: Batch, keys: Sequence[PRNGKeyArray], info: SetInfo, config: MerPOConfig) -> bc.Cloned:
    """Behaviour cloning of every task for every seed's key: [job] leaves, seeds outermost."""
    run, args = _cloning(batch, keys, info, config)
    return devices.called(run, *args)


def _cloning(
    batch: Batch, keys: Sequence[PRNGKeyArray], info: SetInfo, config: MerPOConfig
) -> tuple[Callable[..., bc.Cloned], tuple[Any, ...]]:
    """The compiled function that clones, and what it is called with."""
    tasks = int(batch.rows.count.shape[0])
    job_keys = jnp.concatenate([jax.random.split(k, 2 * tasks).reshape(2, tasks) for k in keys], axis=1)
    actors = jax.vmap(lambda k: Actor(info.obs_dim, info.act_dim, config.rac.actor_hidden, k))(job_keys[0])
    index = jnp.tile(jnp.arange(tasks, dtype=jnp.int32), len(keys))
    rows = batch.rows
    run = partial(
        bc.clone_jobs,
        updates=config.bc_updates,
        batch=config.rac.batch,
        learning_rate=1e-3,
        group=devices.batched(config.group, config.rac.actor_hidden),
    )
    own = (rows.train[index], rows.count[index], rows.held[index], rows.held_valid[index])
    return run, (actors, batch.stacked.transitions, index, *own, job_keys[1])


def fit_behaviour(
    batch: Batch, keys: Sequence[PRNGKeyArray], info: SetInfo, where: Where, keeper: Keeper = FORGETFUL
) -> tuple[Float[Array, " job"], Actor | None]:
    """The floor of the clone term, -E_D[log pi_b], and pi_b, each where the settings need it (else zeros, and None)."""
    settings, count = where.config.rac, len(where.seeds) * len(where.tasks)
    density = settings.behaviour == "density"
    if not density and (settings.behaviour, settings.lam_mode) != ("clone", "dual"):
        return jnp.zeros((count,), jnp.float32), None

    run, args = _cloning(batch, keys, info, where.config)
    kept = keeper.load("clones", lambda _: jax.eval_shape(run, *args))
    if kept is not None:
        cloned = kept[1]
    else:
        cloned = devices.called(run, *args)
        check_figures({"bc/nll": np.asarray(cloned.nll)}, where, "cloning the behaviour")
        keeper.save("clones", 1, cloned)
    return cloned.nll, cloned.actor if density else None
