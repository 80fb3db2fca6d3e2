"""MerPO: the meta-policy over many RAC learners, and adaptation to a new task (Lin et al. 2022, sections 4-5).

Alternating and first order: every task takes `meta_every` RAC updates, then the meta-policy and the meta-critic
(`merpo.algorithms.meta`) take `meta_steps` gradient steps. The unit of work is a compiled chunk: all tasks of all seeds
advance inside one call. A *job* below is one (seed, task) pair; jobs are the mapped axis.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt32

from merpo import devices, draws
from merpo.algorithms import balance, meta, rac
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.meta import Metas
from merpo.algorithms.rac import Learner, RACConfig, Weights
from merpo.compilation import compiled
from merpo.data.types import Transitions
from merpo.devices import batched, map_groups, map_jobs
from merpo.dynamics.ensemble import TargetScale
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import Ring, imagine
from merpo.dynamics.termination import Termination
from merpo.networks import Actor, TwinCritic


class Jobs(eqx.Module):
    """What does not change while learning; leading axis [job] on every leaf but `data` and `size`."""

    data: Transitions
    """Prepared transitions [task, row, ...], shared by the seeds."""
    size: Int[Array, " task"]
    task: Int[Array, " job"]
    """Row of `data` that a job learns from."""
    seed: Int[Array, " job"]
    """The job's training seed: all its random numbers come from it, so that companions change nothing."""
    fitted: FittedModel
    scale: TargetScale
    termination: Termination
    weights: Weights
    z: Float[Array, "job z"]
    """What the meta-policy sees of each job's task; length 0 without a context."""

    def spread(self) -> Jobs:
        """Each job on the device that learns it, the data on all of the devices in use (`merpo.devices`)."""
        shared = (self.data, self.size, self.scale, self.termination)
        data, size, scale, termination = devices.everywhere(shared)
        own = (self.task, self.seed, self.fitted, self.weights, self.z)
        task, seed, fitted, weights, z = devices.spread(own, self.task.shape[0])
        return Jobs(data, size, task, seed, fitted, scale, termination, weights, z)

    def part(self, jobs: slice) -> Jobs:
        """Only these jobs, with the same data."""
        own = (self.task, self.seed, self.fitted, self.weights, self.z)
        task, seed, fitted, weights, z = jax.tree.map(lambda x: x[jobs], own)
        return Jobs(self.data, self.size, task, seed, fitted, self.scale, self.termination, weights, z)


class MetaState(eqx.Module):
    """All state of meta-training: the jobs' learners and buffers, and per seed what they share."""

    learners: Learner
    """[job]"""
    rings: Ring
    """[job]"""
    metas: Metas
    """[seed]"""


def for_jobs(net: Any, z: Float[Array, "job z"], tasks: int) -> Any:
    """The meta-policy, or the meta-critic, as every job sees it: its z held; [seed] leaves in, [job] leaves out."""
    return jax.vmap(lambda own, z: own.given(z))(_repeated(net, tasks), z)


def _repeated(tree: Any, tasks: int) -> Any:
    return jax.tree.map(lambda x: jnp.repeat(x, tasks, axis=0), tree)


def _rows(jobs: Jobs, task: Int[Array, ""], index: Int[Array, " row"]) -> Transitions:
    return jax.tree.map(lambda x: x[task, index], jobs.data)


def refresh(
    learner: Learner,
    ring: Ring,
    jobs: Jobs,
    task: Int[Array, ""],
    fitted: FittedModel,
    anchor: Actor,
    key: PRNGKeyArray,
    gamma: float,
    config: RACConfig,
) -> tuple[Learner, Ring]:
    """Imagine with the current policy from logged states, put the result into the ring; weigh the anchors there."""
    k_start, k_roll, k_weigh = jax.random.split(key, 3)
    real = _rows(jobs, task, draws.place(draws.words(k_start, config.rollout_rows), jobs.size[task]))
    act_dim = real.action.shape[-1]
    if learner.balance is not None:
        found = balance.evidence(
            learner.actor, learner.target, anchor, fitted, jobs.scale, jobs.termination,
            real.obs, real.action, k_weigh, gamma,
        )  # fmt: skip
        learner = replace(learner, balance=balance.follow(learner.balance, found))
    if config.rollout_length == 0:
        return learner, ring

    def act(obs: Float[Array, "*n obs"], own: UInt32[Array, "*n word"]) -> Float[Array, "*n act"]:
        noise, other = draws.cut(own, act_dim, own.shape[-1] - act_dim)
        return exploring(jnp.tanh(learner.actor(obs).sample_pre(draws.normal(noise))), other, config.explore)

    own_words = act_dim + (act_dim + 1 if config.explore else 0)
    rows, valid = imagine(fitted, jobs.scale, act, real.obs, k_roll, config.rollout_length, jobs.termination, own_words)
    return learner, ring.add(rows, valid)


def exploring(action: Float[Array, "*n act"], words: UInt32[Array, "*n word"], share: float) -> Float[Array, "*n act"]:
    """Actions, this share of them drawn uniformly from [-1, 1]^d instead: d + 1 random words for each, or none."""
    if share == 0.0:
        return action
    other, which = draws.cut(draws.uniform(words), action.shape[-1], 1)
    return jnp.where(which < share, 2.0 * other - 1.0, action)


def rac_steps(
    learner: Learner,
    ring: Ring,
    jobs: Jobs,
    task: Int[Array, ""],
    anchor: Actor,
    weights: Weights,
    key: PRNGKeyArray,
    steps: int,
    gamma: float,
    config: RACConfig,
) -> tuple[Learner, dict[str, Array]]:
    """`steps` RAC updates of one job against a fixed meta-policy; metrics are their means.

    All that is random is drawn for all updates at once.
    """
    rest, act_dim = config.batch - config.real_rows, jobs.data.action.shape[-1]

    shape = (config.real_rows, rest, act_dim)
    widths = (config.real_rows, rest, sum(rac.words_of(*shape, config)))

    def draw(words):
        real, model, own = draws.cut(words, *widths)
        size = jobs.size[task]
        limit = ring.size if config.rollout_length else size
        return draws.place(real, size), draws.place(model, limit), rac.drawn_from(own, *shape, config)

    names: list[str] = []

    def body(learner, drawn):
        real, model, noise = drawn
        imagined = ring.at(model) if config.rollout_length else _rows(jobs, task, model)
        learner, metrics = rac.updated(
            learner, _rows(jobs, task, real), imagined, anchor, weights, noise, gamma, config
        )
        names[:] = metrics  # one vector in place of a dozen numbers, each with operations of its own
        return learner, jnp.stack([metrics[k] for k in names])

    learner, metrics = jax.lax.scan(body, learner, jax.vmap(draw)(draws.words(key, steps, sum(widths))))
    return learner, dict(zip(names, jnp.mean(metrics, axis=0), strict=True))


def init_learners(actors: Actor, critics: TwinCritic, config: RACConfig) -> Learner:
    """One learner per job, started from its own networks ([job] leaves)."""
    return jax.vmap(lambda a, c: rac.init(a, c, config))(actors, critics)


def init_rings(jobs: int, obs_dim: int, act_dim: int, config: RACConfig) -> Ring:
    """Empty rings, one per job."""
    one = Ring.empty(config.buffer, obs_dim, act_dim)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (jobs, *x.shape)), one)


def init_meta(
    keys: Key[Array, " seed"], z: Float[Array, "job z"], obs_dim: int, act_dim: int, config: MerPOConfig
) -> MetaState:
    """Meta-training's first state, one seed per key; all tasks of a seed start from the same networks."""
    actor, critic = jax.vmap(lambda k: rac.networks(k, obs_dim, act_dim, config.rac, config.context))(keys)
    tasks = z.shape[0] // keys.shape[0]
    return MetaState(
        learners=init_learners(for_jobs(actor, z, tasks), for_jobs(critic, z, tasks), config.rac),
        rings=init_rings(z.shape[0], obs_dim, act_dim, config.rac),
        metas=jax.vmap(lambda a, c: meta.init(a, c, config.meta_lr))(actor, critic),
    )


def job_keys(key: PRNGKeyArray, jobs: Jobs, count: int) -> Key[Array, "count job"]:
    """So many keys for every job, from its seed and its task."""

    def own(seed: Int[Array, ""], task: Int[Array, ""]) -> Key[Array, " count"]:
        return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, seed), task), count)

    return jax.vmap(own, out_axes=1)(jobs.seed, jobs.task)


def imagine_jobs(
    learners: Learner,
    rings: Ring,
    jobs: Jobs,
    held: Actor,
    keys: Key[Array, " job"],
    gamma: float,
    config: MerPOConfig,
    mesh: Mesh | None = None,
) -> tuple[Learner, Ring]:
    """`refresh` for every job, each with its anchor `held` ([job] leaves)."""

    def one(jobs: Jobs, args: tuple[Any, ...]) -> tuple[Learner, Ring]:
        learner, ring, task, fitted, anchor, k = args
        return refresh(learner, ring, jobs, task, fitted, anchor, k, gamma, config.rac)

    packed = (learners, rings, jobs.task, jobs.fitted, held, keys)
    return map_jobs(one, jobs, packed, batched(config.group, config.rac.critic_hidden), mesh)


def rac_jobs(
    learners: Learner,
    rings: Ring,
    jobs: Jobs,
    held: Actor,
    keys: Key[Array, " job"],
    steps: int,
    gamma: float,
    config: MerPOConfig,
    mesh: Mesh | None = None,
) -> tuple[Learner, dict[str, Array]]:
    """`rac_steps` for every job, each against its anchor `held` ([job] leaves)."""

    def one(jobs: Jobs, args: tuple[Any, ...]) -> tuple[Learner, dict[str, Array]]:
        learner, ring, task, weights, anchor, k = args
        return rac_steps(learner, ring, jobs, task, anchor, weights, k, steps, gamma, config.rac)

    packed = (learners, rings, jobs.task, jobs.weights, held, keys)
    return map_jobs(one, jobs, packed, batched(config.group, config.rac.critic_hidden), mesh)


def adapt_jobs(
    learners: Learner,
    rings: Ring,
    jobs: Jobs,
    held: Actor,
    keys: Key[Array, "two job"],
    gamma: float,
    config: MerPOConfig,
    mesh: Mesh | None = None,
) -> tuple[Learner, Ring, dict[str, Array]]:
    """`refresh` and `imagine_every` updates for every job that has not had all of its own."""

    def one(jobs: Jobs, args: tuple[Any, ...]) -> tuple[Learner, Ring, dict[str, Array]]:
        before, ring, task, fitted, weights, anchor, k_imagine, k_rac = args
        learner, ring = refresh(before, ring, jobs, task, fitted, anchor, k_imagine, gamma, config.rac)
        steps = config.rac.imagine_every
        learner, metrics = rac_steps(learner, ring, jobs, task, anchor, weights, k_rac, steps, gamma, config.rac)
        done = before.step.astype(jnp.float32) * weights.pace > 1.0 - 0.5 * weights.pace
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), before, learner), ring, metrics

    packed = (learners, rings, jobs.task, jobs.fitted, jobs.weights, held, *keys)
    return map_jobs(one, jobs, packed, batched(config.group, config.rac.critic_hidden), mesh)


def _per_seed(x: Array, seeds: int) -> Array:
    return x.reshape(seeds, x.shape[0] // seeds, *x.shape[1:])


def meta_jobs(
    state: MetaState, jobs: Jobs, keys: Key[Array, " job"], seeds: int, config: MerPOConfig
) -> tuple[MetaState, dict[str, Float[Array, " seed"]]]:
    """One visit to every seed's meta-policy and meta-critic."""
    states, act_dim = config.meta_states(jobs.task.shape[0] // seeds), jobs.data.action.shape[-1]
    asked = meta.asked(states)

    def rows(task: Int[Array, ""], k: PRNGKeyArray) -> tuple[Array, Array, Array]:
        where, noise = draws.cut(draws.words(k, config.meta_steps, states + asked * act_dim), states, asked * act_dim)
        index = draws.place(where, jobs.size[task])
        normal = draws.normal(noise).reshape(config.meta_steps, asked, act_dim)
        return jobs.data.obs[task, index], jobs.data.action[task, index], normal

    obs, action, noise = (jnp.swapaxes(_per_seed(x, seeds), 1, 2) for x in jax.vmap(rows)(jobs.task, keys))
    weight = jnp.exp(state.learners.log_lam) * (1.0 - state.learners.alpha(jobs.weights, config.rac))
    own = jax.tree.map(lambda x: _per_seed(x, seeds), (state.learners.actor, state.learners.critic))
    share = rac.step_share(state.learners.step[0], jobs.weights.pace[0], config.rac.lr_final)

    def one(args: tuple[Any, ...]) -> tuple[Metas, dict[str, Array]]:
        metas, (actors, critics), obs, action, z, weight, noise = args
        return meta.meta_steps(metas, actors, critics, obs, action, z, weight, noise, config.meta_lr, share)

    packed = (state.metas, own, obs, action, _per_seed(jobs.z, seeds), _per_seed(weight, seeds), noise)
    metas, metrics = map_groups(one, packed, batched(None))
    return MetaState(state.learners, state.rings, metas), metrics


def train_round(
    state: MetaState,
    jobs: Jobs,
    key: PRNGKeyArray,
    seeds: int,
    gamma: float,
    config: MerPOConfig,
    mesh: Mesh | None = None,
) -> tuple[MetaState, dict[str, Array]]:
    """`imagine_every` updates of every job: imagine once, then blocks of RAC updates and meta-policy steps."""
    tasks = jobs.task.shape[0] // seeds
    blocks = config.rac.imagine_every // config.meta_every
    keys = job_keys(key, jobs, 1 + 2 * blocks)
    held = for_jobs(state.metas.actor, jobs.z, tasks)
    learners, rings = imagine_jobs(state.learners, state.rings, jobs, held, keys[0], gamma, config, mesh)
    state = MetaState(learners, rings, state.metas)

    def block(state: MetaState, keys: tuple[Array, Array]) -> tuple[MetaState, dict[str, Array]]:
        k_rac, k_meta = keys
        held = for_jobs(state.metas.actor, jobs.z, tasks)
        learners, metrics = rac_jobs(
            state.learners, state.rings, jobs, held, k_rac, config.meta_every, gamma, config, mesh
        )
        state = eqx.tree_at(lambda s: s.learners, state, learners)
        state, shared = meta_jobs(state, jobs, k_meta, seeds, config)
        return state, metrics | _repeated(shared, tasks)

    state, metrics = jax.lax.scan(block, state, (keys[1 : blocks + 1], keys[blocks + 1 :]))
    return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


@compiled(static_argnames=("rounds", "seeds", "gamma", "config", "mesh"), donate_argnums=(0,))
def train_chunk(
    state: MetaState,
    jobs: Jobs,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    *,
    rounds: int,
    seeds: int,
    gamma: float,
    config: MerPOConfig,
    mesh: Mesh | None = None,
) -> tuple[MetaState, dict[str, Float[Array, "round job"]]]:
    """`rounds` rounds of meta-training in one compiled call, beginning with round number `start`."""

    def body(state, i):
        return train_round(state, jobs, jax.random.fold_in(key, start + i), seeds, gamma, config, mesh)

    state, metrics = jax.lax.scan(body, state, jnp.arange(rounds))
    return devices.held(state, jobs.task.shape[0], mesh), devices.held(metrics, 0, mesh)


@compiled(static_argnames=("rounds", "gamma", "config", "mesh"), donate_argnums=(0, 1))
def adapt_chunk(
    learners: Learner,
    rings: Ring,
    jobs: Jobs,
    held: Actor,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    *,
    rounds: int,
    gamma: float,
    config: MerPOConfig,
    mesh: Mesh | None = None,
) -> tuple[Learner, Ring, dict[str, Float[Array, "round job"]]]:
    """`rounds` rounds of RAC on new tasks against their fixed anchors `held` ([job] leaves).

    A job that has all the updates its `pace` speaks of stays as it is; its figures are then those of updates that are
    not made.
    """

    def body(carry, i):
        learners, rings = carry
        keys = job_keys(jax.random.fold_in(key, start + i), jobs, 2)
        learners, rings, metrics = adapt_jobs(learners, rings, jobs, held, keys, gamma, config, mesh)
        return (learners, rings), metrics

    (learners, rings), metrics = jax.lax.scan(body, (learners, rings), jnp.arange(rounds))
    learners, rings = devices.held((learners, rings), jobs.task.shape[0], mesh)
    return learners, rings, devices.held(metrics, 0, mesh)
