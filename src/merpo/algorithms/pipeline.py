"""The whole path on the host: prepared data -> meta-model -> meta-training -> adaptation, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from merpo import devices
from merpo.algorithms import guard, merpo, rac
from merpo.algorithms.context import Context, choose_probes, fit_context
from merpo.algorithms.health import Where, check_figures
from merpo.algorithms.keeper import FORGETFUL, Keeper
from merpo.algorithms.merpo import Jobs, MetaState
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.rac import Weights
from merpo.algorithms.rounds import Report, run_rounds, silent
from merpo.algorithms.stages import (
    Batch,
    clone_policies,
    fit_behaviour,
    fit_meta_model,
    fit_models,
    fresh_models,
    make_batch,
)
from merpo.algorithms.threads import cores, cuts, side_by_side
from merpo.data.prepare import Preparation
from merpo.data.types import SetInfo, TaskData
from merpo.dynamics.ensemble import Ensemble, TargetScale, fit_scale
from merpo.dynamics.fit import GOOD, FittedModel, elite_error, less_wrong
from merpo.dynamics.termination import Termination
from merpo.networks import Actor, TwinCritic


class Learned(eqx.Module):
    """What meta-training leaves behind: all that a new task needs. Leading [seed] axis on the learned leaves."""

    meta_model: Ensemble
    meta_actor: Actor
    meta_critic: TwinCritic
    context: Context
    scale: TargetScale
    preparation: Preparation


@dataclass(frozen=True)
class Adapted:
    """Policies for new tasks, [seed, task] leaves, with what was measured on the way."""

    actor: Actor
    metrics: dict[str, Float[np.ndarray, "round seed task"]]
    model_error: Float[np.ndarray, "seed task checks"]
    cloned: Bool[np.ndarray, "seed task"] | None = None
    """Where the clone of the behaviour took the policy's place (`guard`); None: not asked."""


def termination_rule(info: SetInfo, preparation: Preparation) -> Termination:
    """The set's rule, its bounds mapped to prepared units."""
    index = np.asarray([b.index for b in info.healthy], np.int32)
    mean, std = np.asarray(preparation.obs_mean)[index], np.asarray(preparation.obs_std)[index]
    low = (np.asarray([b.low for b in info.healthy], np.float32) - mean) / std
    high = (np.asarray([b.high for b in info.healthy], np.float32) - mean) / std
    return Termination(info.termination, jnp.asarray(index), jnp.asarray(low), jnp.asarray(high))


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
    updates: int | Sequence[int],
    ramp: float = 0.0,
    behaviour: Actor | None = None,
) -> Jobs:
    """One job per (seed, task), seeds outermost; what is given per job has that leading axis already. `updates` of the
    phase are the same for all, or each job's own."""
    tasks = int(batch.rows.count.shape[0])
    jobs = tasks * len(seeds)
    weights = Weights(
        alpha=jnp.full((jobs,), alpha, jnp.float32),
        beta=jnp.full((jobs,), beta, jnp.float32),
        floor=floor,
        pace=jnp.asarray(1.0 / np.broadcast_to(updates, jobs), jnp.float32),
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
    where = Where("behaviour cloning", tuple(seeds), tuple(t.name for t in tasks), config)
    check_figures({"bc/nll": np.asarray(cloned.nll)}, where, "on the hold-out")
    return jax.tree.map(lambda x: x.reshape(len(seeds), len(tasks), *x.shape[1:]), cloned.actor)


def fit(
    tasks: Sequence[TaskData],
    info: SetInfo,
    preparation: Preparation,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
    keeper: Keeper = FORGETFUL,
) -> tuple[Learned, dict[str, Float[np.ndarray, "round seed task"]]]:
    """Meta-train on the tasks, all seeds side by side. Returns what is learned and the learning curves.

    Work that `keeper` has from an earlier process is taken up, to the same bits. Raises DivergenceError.
    """
    batch = make_batch(tasks, preparation, config, seed=0)
    termination = termination_rule(info, preparation)
    scale = units_of(tasks, preparation, config)
    names = tuple(t.name for t in tasks)

    def models_of(seed: int) -> tuple[Ensemble, FittedModel]:
        k_meta, k_adapt = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        heard = report if seed == seeds[0] else silent  # seeds keep step; one of them tells how far they are
        where = Where("the meta-model", (seed,), names, config)
        meta = fit_meta_model(batch, scale, k_meta, info, termination.learned, where, heard, keeper)
        models, _ = fit_models(meta, batch, scale, k_adapt, termination.learned, where, keeper)
        return meta, models

    metas, fitted = zip(*side_by_side(models_of, seeds), strict=True)
    probes = choose_probes(batch.stacked, seed=0)
    known = [fit_context(models, probes, config.context, not config.context_outside) for models in fitted]
    context = devices.agreed(_stacked(known))
    models = jax.tree.map(lambda *x: jnp.concatenate(x), *fitted)

    where = Where("meta-training", tuple(seeds), names, config)
    keys = [jax.random.fold_in(jax.random.key(s), 2) for s in seeds]
    floor, behaviour = fit_behaviour(batch, keys, info, where, keeper)
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
    state, metrics = train(state, jobs, key, info.gamma, where, report, keeper)
    learned = Learned(_stacked(metas), state.metas.actor, state.metas.critic, context, scale, preparation)
    return learned, metrics


def units_of(tasks: Iterable[TaskData], preparation: Preparation, config: MerPOConfig) -> TargetScale:
    """The scale of the training tasks' logs, and the bounds of what is imagined."""
    flat = [preparation.task(t).transitions for t in tasks]
    rows = jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *flat)
    return fit_scale(rows, config.dynamics.cap_rewards)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def train(
    state: MetaState,
    jobs: Jobs,
    key: PRNGKeyArray,
    gamma: float,
    where: Where,
    report: Report = silent,
    keeper: Keeper = FORGETFUL,
) -> tuple[MetaState, dict[str, Float[np.ndarray, "round seed task"]]]:
    """Run `train_updates` round by round. Seeds share nothing, so on a CPU their chunks run side by side."""
    config, seeds, tasks = where.config, len(where.seeds), len(where.tasks)
    of_seeds = cuts(seeds, seeds if cores() > 1 else 1)

    def advance(state: MetaState, part: Jobs, i: int) -> tuple[MetaState, dict[str, Array]]:
        return merpo.train_chunk(
            state, part, key, jnp.asarray(i, jnp.int32), rounds=1, seeds=of_seeds[0].stop, gamma=gamma, config=config,
            mesh=devices.current(),
        )  # fmt: skip

    parts = [jobs.part(slice(c.start * tasks, c.stop * tasks)).spread() for c in of_seeds]
    return run_rounds(advance, state, parts, config.train_updates, where, report, keeper, "meta-training")


@dataclass(frozen=True)
class NewTasks:
    """New tasks with their models adapted from phi_m: what every model-based method starts from."""

    names: tuple[str, ...]
    batch: Batch
    termination: Termination
    models: FittedModel
    """[job] leaves, seeds outermost."""
    error: Float[np.ndarray, "seed task checks"]
    """Hold-out error after 0, check_every, ... gradient steps from phi_m, whichever model was kept."""
    scratch: Bool[np.ndarray, "seed task"] | None = None
    """Where a model from random weights was kept instead of phi_m's; None: it was not looked for."""

    def unlike(self) -> tuple[str, ...]:
        """Tasks whose model is from random weights for some seed: their dynamics are not like the training tasks'."""
        return (
            () if self.scratch is None else tuple(n for n, s in zip(self.names, self.scratch.T, strict=True) if s.any())
        )


def fit_new(
    learned: Learned,
    tasks: Sequence[TaskData],
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
    keeper: Keeper = FORGETFUL,
) -> NewTasks:
    """Adapt the meta-model to every new task, for every seed; with `scratch_steps` a model from random weights takes
    its place where that is wrong and this errs less on the hold-out. Raises DivergenceError."""
    batch = make_batch(tasks, learned.preparation, config, seed=1)
    termination = termination_rule(info, learned.preparation)
    names = tuple(t.name for t in tasks)

    def models_of(i: int) -> tuple[FittedModel, np.ndarray]:
        k = jax.random.fold_in(jax.random.key(seeds[i]), 5)
        meta = jax.tree.map(itemgetter(i), learned.meta_model)
        where = Where("adapting the models", (seeds[i],), names, config)
        return fit_models(meta, batch, learned.scale, k, termination.learned, where, keeper)

    fitted, errors = zip(*side_by_side(models_of, range(len(seeds))), strict=True)
    figures = {"error": float(np.mean([e[:, -1] for e in errors]))}
    models = jax.tree.map(lambda *x: jnp.concatenate(x), *fitted)
    steps, scratch = config.dynamics.scratch_steps, None
    if steps and bool(jnp.any(elite_error(models) > GOOD)):
        fresh, _ = fresh_models(batch, learned.scale, info, config.dynamics, steps, termination.learned, seeds)
        models, replaced = less_wrong(models, fresh)
        scratch = np.asarray(replaced).reshape(len(seeds), len(tasks))
        figures["from scratch"] = float(scratch.mean())
    report("adapting the models", len(seeds), len(seeds), figures)
    return NewTasks(names, batch, termination, models, np.stack(errors), scratch)


def adapt(
    learned: Learned,
    new: NewTasks,
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    method: str = "merpo",
    report: Report = silent,
    keeper: Keeper = FORGETFUL,
) -> Adapted:
    """Policies for new tasks from their logs and adapted models.

    `merpo`: policy from pi_c, critics from the meta-critic, RAC against pi_c. There is no warm-up: these critics have
    values to begin with, and following the anchors alone would only take the policy from pi_c towards the log.
    `rac`: policy and critics from scratch, the objective without its last term: the learner without the meta-policy.
    MerPO's updates are as many as the task's log is worth (`full_log`): its policy then stays as it is, and so do
    its figures, until the other tasks are done. RAC has all of them, since it starts from nothing.
    With `guard_steps` the clone of the behaviour takes a policy's place where it would surely do better (`guard`).
    """
    warm, config = method == "merpo" and config.warm_critic, config.adapting(method)
    batch, models = new.batch, new.models
    n = int(batch.rows.count.shape[0])
    where = Where(f"adapting ({method})", tuple(seeds), new.names, config)
    keys = [jax.random.fold_in(jax.random.key(s), 6) for s in seeds]
    floor, behaviour = fit_behaviour(batch, keys, info, where, keeper)
    alpha = config.rac.alpha if method == "merpo" else 1.0
    z = contexts(learned.context, models, len(seeds))
    sizes = np.tile(np.asarray(batch.stacked.size), len(seeds))
    updates = [config.updates_for(int(x)) if method == "merpo" else config.adapt_updates for x in sizes]
    jobs = make_jobs(
        batch, models, learned.scale, new.termination, floor, z, seeds, alpha, config.rac.beta, updates,
        behaviour=behaviour,
    )  # fmt: skip

    init_keys = jnp.stack([jax.random.fold_in(jax.random.key(s), 7) for s in seeds])
    fresh_actor, fresh_critic = jax.tree.map(
        lambda x: jnp.repeat(x, n, axis=0),
        jax.vmap(lambda k: rac.networks(k, info.obs_dim, info.act_dim, config.rac))(init_keys),
    )
    anchor = merpo.for_jobs(learned.meta_actor, z, n)
    critic = merpo.for_jobs(learned.meta_critic, z, n) if warm else fresh_critic
    learners = merpo.init_learners(anchor if method == "merpo" else fresh_actor, critic, config.rac)
    if method == "rac":  # the term of pi_c is left out; the weight of the other, lambda alpha, stays what it is
        learners = eqx.tree_at(lambda s: s.log_lam, learners, learners.log_lam + jnp.log(jnp.float32(config.rac.alpha)))
    rings = merpo.init_rings(n * len(seeds), info.obs_dim, info.act_dim, config.rac)
    key = jax.random.key(8)

    def advance(state: Any, part: tuple[Jobs, Actor], i: int) -> tuple[Any, dict[str, Array]]:
        jobs, held = part
        learners, rings, metrics = merpo.adapt_chunk(
            *state, jobs, held, key, jnp.asarray(i, jnp.int32), rounds=1, gamma=info.gamma, config=config,
            mesh=devices.current(),
        )  # fmt: skip
        return (learners, rings), metrics

    def piece(c: slice) -> tuple[Jobs, Actor]:
        return jobs.part(c).spread(), devices.spread(jax.tree.map(lambda x: x[c], anchor), n * len(seeds))

    parts = [piece(c) for c in cuts(n * len(seeds), cores())]
    state, metrics = run_rounds(
        advance, (learners, rings), parts, max(updates), where, report, keeper, f"adapt-{method}"
    )
    metrics = _held_figures(metrics, np.asarray(updates) // config.rac.imagine_every)
    actors, cloned = state[0].actor, None
    if config.guard_steps:
        clones = behaviour if behaviour is not None else clone_policies(batch, keys, info, config).actor
        kept = devices.called(
            guard.keep_better, actors, clones, jobs, jax.random.key(10), steps=config.guard_steps,
            group=devices.batched(config.group, config.rac.actor_hidden),
        )  # fmt: skip
        check_figures(
            {"dynamics/lead": np.asarray(kept.lead)}, where, "comparing the policies with the behaviour's clones"
        )
        actors, cloned = kept.actor, np.asarray(kept.cloned).reshape(len(seeds), n)
    actors = jax.tree.map(lambda x: x.reshape(len(seeds), n, *x.shape[1:]), actors)
    return Adapted(actors, metrics, new.error, cloned)


def _held_figures(
    metrics: dict[str, Float[np.ndarray, "round seed task"]], rounds: Int[np.ndarray, " job"]
) -> dict[str, Float[np.ndarray, "round seed task"]]:
    """Each job's figures after its last round are those of its last round."""
    total = max(rounds)
    index = np.minimum(np.arange(total)[:, None], rounds - 1)
    return {k: np.take_along_axis(v, index.reshape(v.shape), axis=0) for k, v in metrics.items()}


def meta_policies(learned: Learned, new: NewTasks, seeds: Sequence[int]) -> Actor:
    """pi_c of every new task before any adaptation: actors with [seed, task] leaves."""
    n = int(new.batch.rows.count.shape[0])
    held = merpo.for_jobs(learned.meta_actor, contexts(learned.context, new.models, len(seeds)), n)
    return jax.tree.map(lambda x: x.reshape(len(seeds), n, *x.shape[1:]), held)
