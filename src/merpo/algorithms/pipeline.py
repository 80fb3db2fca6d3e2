"""The whole path on the host: prepared data -> meta-model -> meta-training -> adaptation, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms import bc, merpo, rac
from merpo.algorithms.context import Context, choose_probes, fit_context
from merpo.algorithms.merpo import Jobs, MerPOConfig, MetaState
from merpo.algorithms.rac import Weights
from merpo.algorithms.threads import cores, cuts, side_by_side
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
    context: Context
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
    z: Float[Array, "job z"],
    seeds: Sequence[int],
    alpha: float,
    beta: float,
    updates: int,
    ramp: float = 0.0,
    behaviour: Actor | None = None,
) -> Jobs:
    """One job per (seed, task), seeds outermost; what is given per job has that leading axis already."""
    tasks = int(batch.rows.count.shape[0])
    jobs = tasks * len(seeds)
    weights = Weights(
        alpha=jnp.full((jobs,), alpha, jnp.float32),
        beta=jnp.full((jobs,), beta, jnp.float32),
        floor=floor,
        pace=jnp.full((jobs,), 1.0 / updates, jnp.float32),
        ramp=jnp.full((jobs,), ramp, jnp.float32),
        behaviour=behaviour,
    )
    index = jnp.tile(jnp.arange(tasks, dtype=jnp.int32), len(seeds))
    seed = jnp.repeat(jnp.asarray(seeds, jnp.int32), tasks)
    return Jobs(batch.stacked.transitions, batch.stacked.size, index, seed, fitted, scale, termination, weights, z)


@eqx.filter_jit
def contexts(context: Context, models: FittedModel, seeds: int) -> Float[Array, "job z"]:
    """z of every job from its model; `context` has [seed] leaves, `models` [job] leaves, seeds outermost."""
    tasks = models.elites.shape[0] // seeds
    return jax.vmap(lambda c, m: c(m))(jax.tree.map(lambda x: jnp.repeat(x, tasks, axis=0), context), models)


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


def fit_behaviour(
    batch: Batch, keys: Sequence[PRNGKeyArray], info: SetInfo, config: MerPOConfig
) -> tuple[Float[Array, " job"], Actor | None]:
    """The floor of the clone term and pi_b, each where the settings need it (else zeros, and None)."""
    density = config.rac.behaviour == "density"
    if not density and (config.rac.behaviour, config.rac.lam_mode) != ("clone", "dual"):
        return jnp.zeros((int(batch.rows.count.shape[0]) * len(keys),), jnp.float32), None
    cloned = clone_policies(batch, keys, info, config)
    return cloned.nll, cloned.actor if density else None


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

    def models_of(seed: int) -> tuple[Ensemble, FittedModel]:
        k_meta, k_adapt = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        heard = report if seed == seeds[0] else silent  # seeds keep step; one of them tells how far they are
        meta = fit_meta_model(batch, scale, k_meta, info, termination.learned, config, heard)
        models, _ = dyn.adapt_models(
            meta, batch.stacked, batch.rows, scale, k_adapt,
            config=config.dynamics, learn_termination=termination.learned,
        )  # fmt: skip
        return meta, models

    metas, fitted = zip(*side_by_side(models_of, seeds), strict=True)
    probes = choose_probes(batch.stacked, seed=0)
    context = _stacked([fit_context(models, probes, config.context) for models in fitted])
    models = jax.tree.map(lambda *x: jnp.concatenate(x), *fitted)

    floor, behaviour = fit_behaviour(batch, [jax.random.fold_in(jax.random.key(s), 2) for s in seeds], info, config)
    z = contexts(context, models, len(seeds))
    jobs = make_jobs(
        batch,
        models,
        scale,
        termination,
        floor,
        z,
        seeds,
        config.rac.alpha,
        config.rac.beta,
        config.train_updates,
        config.meta_ramp,
        behaviour,
    )
    init_keys = jnp.stack([jax.random.fold_in(jax.random.key(s), 3) for s in seeds])
    state = merpo.init_meta(init_keys, z, info.obs_dim, info.act_dim, config)
    key = jax.random.key(4)  # every job folds its own seed in
    state, metrics = train(state, jobs, key, len(seeds), info.gamma, config, report)
    learned = Learned(_stacked(metas), state.metas.actor, state.metas.critic, context, scale, preparation)
    return learned, metrics


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _joined(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)


def train(
    state: MetaState,
    jobs: Jobs,
    key: PRNGKeyArray,
    seeds: int,
    gamma: float,
    config: MerPOConfig,
    report: Report = silent,
) -> tuple[MetaState, dict[str, np.ndarray]]:
    """Run `train_updates` round by round. Seeds share nothing, so on a CPU their chunks run side by side."""
    tasks = jobs.task.shape[0] // seeds
    of_seeds = cuts(seeds, seeds if cores() > 1 else 1)
    own = [slice(c.start * tasks, c.stop * tasks) for c in of_seeds]

    def pick(c: slice, o: slice) -> MetaState:
        learners, rings = jax.tree.map(lambda x: jnp.copy(x[o]), (state.learners, state.rings))
        return MetaState(learners, rings, jax.tree.map(lambda x: jnp.copy(x[c]), state.metas))

    def advance(state: MetaState, part: Jobs, i: int) -> tuple[MetaState, dict[str, Array]]:
        return merpo.train_chunk(
            state, part, key, jnp.asarray(i, jnp.int32), rounds=1, seeds=of_seeds[0].stop, gamma=gamma, config=config
        )

    # chunks donate their input: no two leaves may share a buffer
    states = [pick(c, o) for c, o in zip(of_seeds, own, strict=True)]
    states, curves = _rounds(
        advance, states, [jobs.part(o) for o in own], config.train_updates, config, "meta-training", report
    )
    return _joined(states), _curves(curves, seeds)


def _rounds(
    advance: Callable[[Any, Any, int], tuple[Any, dict[str, Array]]],
    states: list[Any],
    parts: Sequence[Any],
    updates: int,
    config: MerPOConfig,
    stage: str,
    report: Report,
) -> tuple[list[Any], list[dict[str, np.ndarray]]]:
    """Advance every part round by round, the parts of a round side by side, and report after each round."""
    curves = []
    every = config.rac.imagine_every
    for i in range(updates // every):

        def work(part: tuple[Any, Any], i: int = i) -> tuple[Any, dict[str, np.ndarray]]:
            state, metrics = advance(*part, i)
            return state, jax.device_get(metrics)

        done = side_by_side(work, list(zip(states, parts, strict=True)))
        states, found = (list(x) for x in zip(*done, strict=True))
        curves.append({k: np.concatenate([m[k] for m in found], axis=1) for k in found[0]})
        report(stage, (i + 1) * every, updates, {k: float(np.mean(v)) for k, v in curves[-1].items()})
    return states, curves


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

    def models_of(i: int) -> tuple[FittedModel, np.ndarray]:
        k = jax.random.fold_in(jax.random.key(seeds[i]), 5)
        meta = jax.tree.map(itemgetter(i), learned.meta_model)
        models, curve = dyn.adapt_models(
            meta, batch.stacked, batch.rows, learned.scale, k,
            config=config.dynamics, learn_termination=termination.learned,
        )  # fmt: skip
        return models, np.asarray(curve)

    fitted, errors = zip(*side_by_side(models_of, range(len(seeds))), strict=True)
    report("adapting the models", len(seeds), len(seeds), {"error": float(np.mean([e[:, -1] for e in errors]))})
    return NewTasks(batch, termination, _joined(fitted), np.stack(errors))


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
    `rac`: policy and critics from scratch, the objective without its last term: the learner without the meta-policy.
    """
    batch, models = new.batch, new.models
    n = int(batch.rows.count.shape[0])
    floor, behaviour = fit_behaviour(batch, [jax.random.fold_in(jax.random.key(s), 6) for s in seeds], info, config)
    alpha = config.rac.alpha if method == "merpo" else 1.0
    z = contexts(learned.context, models, len(seeds))
    jobs = make_jobs(
        batch, models, learned.scale, new.termination, floor, z, seeds, alpha, config.rac.beta, config.adapt_updates,
        behaviour=behaviour,
    )  # fmt: skip

    init_keys = jnp.stack([jax.random.fold_in(jax.random.key(s), 7) for s in seeds])
    fresh_actor, fresh_critic = jax.tree.map(
        lambda x: jnp.repeat(x, n, axis=0),
        jax.vmap(lambda k: rac.networks(k, info.obs_dim, info.act_dim, config.rac))(init_keys),
    )
    anchor = merpo.for_jobs(learned.meta_actor, z, n)
    warm = method == "merpo" and config.warm_critic
    critic = merpo.for_jobs(learned.meta_critic, z, n) if warm else fresh_critic
    learners = merpo.init_learners(anchor if method == "merpo" else fresh_actor, critic, config.rac)
    if method == "rac":  # the term of pi_c is left out; the weight of the other, lambda alpha, stays what it is
        learners = eqx.tree_at(lambda s: s.log_lam, learners, learners.log_lam + jnp.log(jnp.float32(config.rac.alpha)))
    rings = merpo.init_rings(n * len(seeds), info.obs_dim, info.act_dim, config.rac)
    key = jax.random.key(8)

    def advance(state: Any, part: tuple[Jobs, Actor], i: int) -> tuple[Any, dict[str, Array]]:
        jobs, held = part
        learners, rings, metrics = merpo.adapt_chunk(
            *state, jobs, held, key, jnp.asarray(i, jnp.int32), rounds=1, gamma=info.gamma, config=config
        )
        return (learners, rings), metrics

    own = cuts(n * len(seeds), cores())
    # chunks donate their input: no two leaves may share a buffer
    states = [jax.tree.map(lambda x, c=c: jnp.copy(x[c]), (learners, rings)) for c in own]
    parts = [(jobs.part(c), jax.tree.map(lambda x, c=c: x[c], anchor)) for c in own]
    states, metrics = _rounds(advance, states, parts, config.adapt_updates, config, f"adapting ({method})", report)
    actors = _joined([learners.actor for learners, _ in states])
    actors = jax.tree.map(lambda x: x.reshape(len(seeds), n, *x.shape[1:]), actors)
    return Adapted(actors, _curves(metrics, len(seeds)), new.error)


def meta_policies(learned: Learned, new: NewTasks, seeds: Sequence[int]) -> Actor:
    """pi_c of every new task before any adaptation: actors with [seed, task] leaves."""
    n = int(new.batch.rows.count.shape[0])
    held = merpo.for_jobs(learned.meta_actor, contexts(learned.context, new.models, len(seeds)), n)
    return jax.tree.map(lambda x: x.reshape(len(seeds), n, *x.shape[1:]), held)
