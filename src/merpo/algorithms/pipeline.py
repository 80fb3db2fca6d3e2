"""The whole path on the host: prepared data -> meta-model -> meta-training -> adaptation, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms import bc, merpo, rac
from merpo.algorithms.merpo import Jobs, MerPOConfig, MetaState
from merpo.algorithms.rac import Learner, Weights
from merpo.data.prepare import Preparation
from merpo.data.types import SetInfo, Stacked, TaskData, stack
from merpo.dynamics import fit as dyn
from merpo.dynamics.ensemble import Ensemble, TargetScale, fit_scale
from merpo.dynamics.fit import FittedModel, Rows
from merpo.dynamics.termination import Termination
from merpo.networks import Actor, TwinCritic

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called as `report(stage, done, total, figures)` after every chunk."""


def silent(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    """The default report: nothing."""


class Learned(eqx.Module):
    """What meta-training leaves behind: all that a new task needs. Leading [seed] axis on the learned leaves."""

    meta_model: Ensemble
    meta_actor: Actor
    meta_critic: TwinCritic
    scale: TargetScale
    preparation: Preparation


class Batch(eqx.Module):
    """A stack of prepared tasks with their hold-out rows."""

    stacked: Stacked
    rows: Rows


@dataclass(frozen=True)
class Adapted:
    """Policies for new tasks, [seed, task] leaves, with what was measured on the way."""

    actor: Actor
    metrics: dict[str, Float[np.ndarray, "round seed task"]]
    model_error: Float[np.ndarray, "seed task checks"]


def termination_rule(info: SetInfo, preparation: Preparation) -> Termination:
    """The set's rule, its bounds mapped to prepared units."""
    index = np.asarray([b.index for b in info.healthy], np.int32)
    mean, std = np.asarray(preparation.obs_mean)[index], np.asarray(preparation.obs_std)[index]
    low = (np.asarray([b.low for b in info.healthy], np.float32) - mean) / std
    high = (np.asarray([b.high for b in info.healthy], np.float32) - mean) / std
    return Termination(info.termination, jnp.asarray(index), jnp.asarray(low), jnp.asarray(high))


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
    config: MerPOConfig,
    report: Report = silent,
) -> Ensemble:
    """phi_m by proximal meta-learning over the batch's tasks."""
    k_init, k_run = jax.random.split(key)
    meta = Ensemble.init(k_init, info.obs_dim, info.act_dim, config.dynamics)
    total, chunk = config.dynamics.meta_iterations, 10
    tasks = int(batch.rows.count.shape[0])
    for start in range(0, total, chunk):
        meta, nll = dyn.meta_chunk(
            meta, batch.stacked, batch.rows, scale, k_run, jnp.asarray(start, jnp.int32),
            config=config.dynamics, learn_termination=learn_termination,
            iterations=min(chunk, total - start), tasks_per_iteration=min(config.tasks_per_iteration, tasks),
        )  # fmt: skip
        report("meta-model", min(start + chunk, total), total, {"nll": float(nll[-1])})
    return meta


def make_jobs(
    batch: Batch,
    fitted: FittedModel,
    scale: TargetScale,
    termination: Termination,
    floor: Float[Array, " job"],
    seeds: Sequence[int],
    alpha: float,
    beta: float,
    updates: int,
) -> Jobs:
    """One job per (seed, task), seeds outermost; `fitted` and `floor` have that leading axis already."""
    tasks = int(batch.rows.count.shape[0])
    jobs = tasks * len(seeds)
    weights = Weights(
        alpha=jnp.full((jobs,), alpha, jnp.float32),
        beta=jnp.full((jobs,), beta, jnp.float32),
        floor=floor,
        pace=jnp.full((jobs,), 1.0 / updates, jnp.float32),
    )
    index = jnp.tile(jnp.arange(tasks, dtype=jnp.int32), len(seeds))
    seed = jnp.repeat(jnp.asarray(seeds, jnp.int32), tasks)
    return Jobs(batch.stacked.transitions, batch.stacked.size, index, seed, fitted, scale, termination, weights)


def clone_policies(batch: Batch, keys: Sequence[PRNGKeyArray], info: SetInfo, config: MerPOConfig) -> bc.Cloned:
    """Behaviour cloning of every task for every seed's key: [job] leaves, seeds outermost."""
    tasks = int(batch.rows.count.shape[0])
    job_keys = jnp.concatenate([jax.random.split(k, 2 * tasks).reshape(2, tasks) for k in keys], axis=1)
    actors = jax.vmap(lambda k: Actor(info.obs_dim, info.act_dim, config.rac.actor_hidden, k))(job_keys[0])
    index = jnp.tile(jnp.arange(tasks, dtype=jnp.int32), len(keys))
    rows = batch.rows
    return bc.clone_jobs(
        actors, batch.stacked.transitions, index, rows.train[index],
        rows.count[index], rows.held[index], rows.held_valid[index], job_keys[1],
        updates=config.bc_updates, batch=config.rac.batch, learning_rate=1e-3, group=config.group,
    )  # fmt: skip


def clone_tasks(
    tasks: Sequence[TaskData],
    preparation: Preparation,
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int],
) -> Actor:
    """Behaviour cloning of new tasks: actors with [seed, task] leaves."""
    keys = [jax.random.fold_in(jax.random.key(s), 6) for s in seeds]
    cloned = clone_policies(make_batch(tasks, preparation, config, seed=1), keys, info, config)
    return jax.tree.map(lambda x: x.reshape(len(seeds), len(tasks), *x.shape[1:]), cloned.actor)


def fit(
    tasks: Sequence[TaskData],
    info: SetInfo,
    preparation: Preparation,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
) -> tuple[Learned, dict[str, Float[np.ndarray, "round seed task"]]]:
    """Meta-train on the tasks, all seeds side by side. Returns what is learned and the learning curves."""
    batch = make_batch(tasks, preparation, config, seed=0)
    termination = termination_rule(info, preparation)
    flat = [preparation.task(t).transitions for t in tasks]
    scale = fit_scale(jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *flat))

    metas, fitted = [], []
    for seed in seeds:
        k_meta, k_adapt = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        meta = fit_meta_model(batch, scale, k_meta, info, termination.learned, config, report)
        models, _ = dyn.adapt_models(
            meta, batch.stacked, batch.rows, scale, k_adapt,
            config=config.dynamics, learn_termination=termination.learned,
        )  # fmt: skip
        metas.append(meta)
        fitted.append(models)
    meta_model: Ensemble = jax.tree.map(lambda *x: jnp.stack(x), *metas)
    models = jax.tree.map(lambda *x: jnp.concatenate(x), *fitted)

    count = len(tasks) * len(seeds)
    floor = jnp.zeros((count,), jnp.float32)
    if config.rac.lam_mode == "dual":
        keys = [jax.random.fold_in(jax.random.key(s), 2) for s in seeds]
        floor = clone_policies(batch, keys, info, config).nll
    jobs = make_jobs(
        batch, models, scale, termination, floor, seeds, config.rac.alpha, config.rac.beta, config.train_updates
    )
    init_keys = jnp.stack([jax.random.fold_in(jax.random.key(s), 3) for s in seeds])
    state = merpo.init_meta(init_keys, len(tasks), info.obs_dim, info.act_dim, config)
    key = jax.random.key(4)  # every job folds its own seed in
    state, metrics = train(state, jobs, key, len(seeds), info.gamma, config, report)
    learned = Learned(meta_model, state.meta_actor, state.meta_critic, scale, preparation)
    return learned, metrics


def train(
    state: MetaState,
    jobs: Jobs,
    key: PRNGKeyArray,
    seeds: int,
    gamma: float,
    config: MerPOConfig,
    report: Report = silent,
) -> tuple[MetaState, dict[str, np.ndarray]]:
    """Run `train_updates` in chunks of one round."""
    total = config.train_updates // config.rac.imagine_every
    curves = []
    state = jax.tree.map(jnp.copy, state)  # chunks donate their input: no two leaves may share a buffer
    for i in range(total):
        state, metrics = merpo.train_chunk(
            state, jobs, key, jnp.asarray(i, jnp.int32), rounds=1, seeds=seeds, gamma=gamma, config=config
        )
        curves.append(jax.device_get(metrics))
        figures = {k: float(np.mean(v)) for k, v in curves[-1].items()}
        report("meta-training", (i + 1) * config.rac.imagine_every, config.train_updates, figures)
    return state, _curves(curves, seeds)


def _curves(chunks: list[dict[str, np.ndarray]], seeds: int) -> dict[str, np.ndarray]:
    joined = {k: np.concatenate([c[k] for c in chunks]) for k in chunks[0]}
    return {k: v.reshape(v.shape[0], seeds, v.shape[1] // seeds) for k, v in joined.items()}


@dataclass(frozen=True)
class NewTasks:
    """New tasks with their models adapted from phi_m: what every model-based method starts from."""

    batch: Batch
    termination: Termination
    models: FittedModel
    """[job] leaves, seeds outermost."""
    error: Float[np.ndarray, "seed task checks"]
    """Hold-out error after 0, check_every, ... gradient steps."""


def fit_new(
    learned: Learned,
    tasks: Sequence[TaskData],
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
) -> NewTasks:
    """Adapt the meta-model to every new task, for every seed."""
    batch = make_batch(tasks, learned.preparation, config, seed=1)
    termination = termination_rule(info, learned.preparation)
    fitted, errors = [], []
    for i, seed in enumerate(seeds):
        k = jax.random.fold_in(jax.random.key(seed), 5)
        meta = jax.tree.map(itemgetter(i), learned.meta_model)
        models, curve = dyn.adapt_models(
            meta, batch.stacked, batch.rows, learned.scale, k,
            config=config.dynamics, learn_termination=termination.learned,
        )  # fmt: skip
        fitted.append(models)
        errors.append(np.asarray(curve))
        report("adapting the model", i + 1, len(seeds), {"error": float(np.mean(errors[-1][:, -1]))})
    return NewTasks(batch, termination, jax.tree.map(lambda *x: jnp.concatenate(x), *fitted), np.stack(errors))


def adapt(
    learned: Learned,
    new: NewTasks,
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    method: str = "merpo",
    report: Report = silent,
) -> Adapted:
    """Policies for new tasks from their logs and adapted models.

    `merpo`: policy from pi_c, critics from the meta-critic, RAC against pi_c.
    `rac`: policy and critics from scratch and alpha = 1: the learner without the meta-policy.
    """
    batch, models = new.batch, new.models
    n = int(batch.rows.count.shape[0])
    floor = jnp.zeros((n * len(seeds),), jnp.float32)
    if config.rac.lam_mode == "dual":
        keys = [jax.random.fold_in(jax.random.key(s), 6) for s in seeds]
        floor = clone_policies(batch, keys, info, config).nll
    alpha = config.rac.alpha if method == "merpo" else 1.0
    jobs = make_jobs(
        batch, models, learned.scale, new.termination, floor, seeds, alpha, config.rac.beta, config.adapt_updates
    )

    init_keys = jnp.stack([jax.random.fold_in(jax.random.key(s), 7) for s in seeds])
    fresh_actor, fresh_critic = jax.vmap(lambda k: rac.networks(k, info.obs_dim, info.act_dim, config.rac))(init_keys)
    anchor = learned.meta_actor
    critic = learned.meta_critic if method == "merpo" and config.warm_critic else fresh_critic
    actor = anchor if method == "merpo" else fresh_actor
    learners = merpo.init_learners(actor, critic, n, config.rac)
    rings = merpo.init_rings(n * len(seeds), info.obs_dim, info.act_dim, config.rac)
    anchors = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), anchor)
    key = jax.random.key(8)

    learners, metrics = _adapt_loop(learners, rings, jobs, anchors, key, info.gamma, config, method, report)
    actors = jax.tree.map(lambda x: x.reshape(len(seeds), n, *x.shape[1:]), learners.actor)
    return Adapted(actors, _curves(metrics, len(seeds)), new.error)


def _adapt_loop(
    learners: Learner,
    rings: object,
    jobs: Jobs,
    anchors: Actor,
    key: PRNGKeyArray,
    gamma: float,
    config: MerPOConfig,
    method: str,
    report: Report,
) -> tuple[Learner, list[dict[str, np.ndarray]]]:
    total = config.adapt_updates // config.rac.imagine_every
    curves = []
    learners, rings = jax.tree.map(jnp.copy, (learners, rings))
    for i in range(total):
        learners, rings, metrics = merpo.adapt_chunk(
            learners, rings, jobs, anchors, key, jnp.asarray(i, jnp.int32),
            rounds=1, gamma=gamma, config=config,
        )  # fmt: skip
        curves.append(jax.device_get(metrics))
        figures = {k: float(np.mean(v)) for k, v in curves[-1].items()}
        report(f"adapting ({method})", (i + 1) * config.rac.imagine_every, config.adapt_updates, figures)
    return learners, curves
