"""MerPO: the meta-policy over many RAC learners, and adaptation to a new task (Lin et al. 2022, sections 4-5).

    max_pi_c  mean_n { E[Q_n] + lambda alpha E_{D_n}[log pi_n] - lambda (1 - alpha) KL(pi_n || pi_c) },  pi_n from RAC

Alternating and first order: every task takes `meta_every` RAC updates, then pi_c takes `meta_steps` gradient steps on
mean_n lambda_n (1 - alpha_n) KL(pi_n || pi_c) over the tasks' states. The unit of work is a compiled chunk: all tasks
of all seeds advance inside one call. A *job* below is one (seed, task) pair; jobs are the mapped axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from merpo.algorithms import rac
from merpo.algorithms.rac import Learner, RACConfig, Weights
from merpo.data.types import Transitions
from merpo.dynamics.ensemble import DynamicsConfig, TargetScale
from merpo.dynamics.fit import FittedModel, map_groups
from merpo.dynamics.imagination import Ring, imagine
from merpo.dynamics.termination import Termination
from merpo.errors import ConfigError
from merpo.networks import Actor, TanhGaussian, TwinCritic


@dataclass(frozen=True)
class MerPOConfig:
    """Settings of meta-training and adaptation."""

    rac: RACConfig = field(default_factory=RACConfig)
    """The within-task learner."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """The ensemble and the proximal meta-model."""
    train_updates: int = 10_000
    """RAC updates of every training task."""
    adapt_updates: int = 5_000
    """RAC updates of a new task."""
    meta_every: int = 10
    """RAC updates between two visits to the meta-policy."""
    meta_steps: int = 5
    """Gradient steps of pi_c per visit."""
    meta_lr: float = 1e-3
    """Adam step size of pi_c."""
    meta_batch: int = 64
    """Real states per task and step of pi_c (all jobs of a seed share one gradient)."""
    meta_critic_rate: float = 0.05
    """The running mean of the tasks' critics moves this share per visit."""
    warm_critic: bool = True
    """Start a new task's critics from the meta-critic (else from random ones)."""
    tasks_per_iteration: int = 16
    """Tasks per outer iteration of the meta-model (all of them where there are fewer)."""
    bc_updates: int = 2_000
    """Gradient steps of behaviour cloning: the baseline, and the floor of the clone term under dual ascent."""
    group: int = 1
    """Jobs batched by `vmap` inside one step; groups follow one another (`lax.map`). 1 is best for wide networks
    on a CPU, a handful for narrow ones, all of them on a GPU."""

    def __post_init__(self) -> None:
        counts = ("train_updates", "adapt_updates", "meta_every", "meta_steps", "meta_batch", "group", "bc_updates")
        for name in (*counts, "tasks_per_iteration"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a whole number >= 1.")
        if not 0.0 < self.meta_lr < 1.0:
            raise ConfigError(f"meta_lr={self.meta_lr}: expected a step size in (0, 1), e.g. 1e-3.")
        if not 0.0 <= self.meta_critic_rate <= 1.0:
            raise ConfigError(f"meta_critic_rate={self.meta_critic_rate}: expected a share in [0, 1].")
        if self.rac.imagine_every % self.meta_every:
            raise ConfigError(
                f"meta_every={self.meta_every}: expected a divisor of rac.imagine_every={self.rac.imagine_every}."
            )
        if self.rac.rollout_rows % self.dynamics.elites:
            raise ConfigError(
                f"rac.rollout_rows={self.rac.rollout_rows}: expected a multiple of dynamics.elites="
                f"{self.dynamics.elites}, since start states are dealt evenly among the elites."
            )
        for name in ("train_updates", "adapt_updates"):
            if getattr(self, name) % self.rac.imagine_every:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: expected a multiple of rac.imagine_every={self.rac.imagine_every}."
                )


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


class MetaState(eqx.Module):
    """All state of meta-training: the jobs' learners and buffers, and per seed the meta-policy and meta-critic."""

    learners: Learner
    """[job]"""
    rings: Ring
    """[job]"""
    meta_actor: Actor
    """pi_c, [seed]"""
    meta_opt: optax.OptState
    """[seed]"""
    meta_critic: TwinCritic
    """[seed]"""


def _draw(jobs: Jobs, task: Int[Array, ""], key: PRNGKeyArray, rows: int) -> Transitions:
    index = jax.random.randint(key, (rows,), 0, jobs.size[task])
    return jax.tree.map(lambda x: x[task, index], jobs.data)


def refresh(
    learner: Learner,
    ring: Ring,
    jobs: Jobs,
    task: Int[Array, ""],
    fitted: FittedModel,
    key: PRNGKeyArray,
    config: RACConfig,
) -> Ring:
    """Imagine with the current policy from logged states and put the result into the ring."""
    k_start, k_roll = jax.random.split(key)
    start = _draw(jobs, task, k_start, config.rollout_rows).obs

    def act(obs: Float[Array, "*n obs"], k: PRNGKeyArray) -> Float[Array, "*n act"]:
        return jnp.tanh(learner.actor(obs).sample_pre(k))

    rows, valid = imagine(fitted, jobs.scale, act, start, k_roll, config.rollout_length, jobs.termination)
    return ring.add(rows, valid)


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
    """`steps` RAC updates of one job against a fixed meta-policy; metrics are their means."""

    def body(learner, k):
        k_real, k_model, k_update = jax.random.split(k, 3)
        real = _draw(jobs, task, k_real, config.real_rows)
        model = ring.sample(k_model, config.batch - config.real_rows)
        return rac.update(learner, real, model, anchor, weights, k_update, gamma, config)

    learner, metrics = jax.lax.scan(body, learner, jax.random.split(key, steps))
    return learner, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


def meta_policy_loss(
    meta_actor: Actor,
    policies: TanhGaussian,
    obs: Float[Array, "task row obs"],
    weight: Float[Array, " task"],
) -> Float[Array, ""]:
    """mean_n w_n KL(pi_n || pi_c) over each task's states, w_n = lambda_n (1 - alpha_n) scaled to mean 1 (section 5).

    Normalising changes no optimum; it keeps the step size of pi_c independent of lambda.
    """
    kl = jnp.mean(policies.kl(meta_actor(obs)), axis=-1)
    return jnp.mean(kl * weight / jnp.maximum(jnp.mean(weight), 1e-8))


def meta_policy_steps(
    meta_actor: Actor,
    opt_state: optax.OptState,
    actors: Actor,
    obs: Float[Array, "step task row obs"],
    weight: Float[Array, " task"],
    config: MerPOConfig,
) -> tuple[Actor, optax.OptState, Float[Array, ""]]:
    """One gradient step of pi_c per leading entry of `obs`, for one seed."""
    opt = optax.adam(config.meta_lr)

    def body(carry, states):
        meta_actor, opt_state = carry
        policies = jax.vmap(lambda actor, s: actor(s))(actors, states)
        loss, grads = jax.value_and_grad(meta_policy_loss)(meta_actor, policies, states, weight)
        steps, opt_state = opt.update(grads, opt_state)
        return (optax.apply_updates(meta_actor, steps), opt_state), loss

    (meta_actor, opt_state), loss = jax.lax.scan(body, (meta_actor, opt_state), obs)
    return meta_actor, opt_state, jnp.mean(loss)


def init_learners(meta_actor: Actor, critic: TwinCritic, tasks: int, config: RACConfig) -> Learner:
    """One learner per (seed, task), each seed's started from its own networks ([seed] leaves in, [job] leaves out)."""

    def repeat(x: Array) -> Array:
        return jnp.repeat(x, tasks, axis=0)

    return jax.vmap(lambda a, c: rac.init(a, c, config))(jax.tree.map(repeat, meta_actor), jax.tree.map(repeat, critic))


def init_rings(jobs: int, obs_dim: int, act_dim: int, config: RACConfig) -> Ring:
    """Empty rings, one per job."""
    one = Ring.empty(config.buffer, obs_dim, act_dim)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (jobs, *x.shape)), one)


def init_meta(keys: Key[Array, " seed"], tasks: int, obs_dim: int, act_dim: int, config: MerPOConfig) -> MetaState:
    """Meta-training's first state, one seed per key; all tasks of a seed start from the same networks."""
    actor, critic = jax.vmap(lambda k: rac.networks(k, obs_dim, act_dim, config.rac))(keys)
    return MetaState(
        learners=init_learners(actor, critic, tasks, config.rac),
        rings=init_rings(tasks * keys.shape[0], obs_dim, act_dim, config.rac),
        meta_actor=actor,
        meta_opt=jax.vmap(optax.adam(config.meta_lr).init)(actor),
        meta_critic=critic,
    )


def _job_keys(key: PRNGKeyArray, jobs: Jobs) -> Key[Array, " job"]:
    return jax.vmap(lambda s, t: jax.random.fold_in(jax.random.fold_in(key, s), t))(jobs.seed, jobs.task)


def imagine_jobs(learners: Learner, rings: Ring, jobs: Jobs, key: PRNGKeyArray, config: MerPOConfig) -> Ring:
    """`refresh` for every job."""

    def one(args: tuple[Any, ...]) -> Ring:
        learner, ring, task, fitted, k = args
        return refresh(learner, ring, jobs, task, fitted, k, config.rac)

    packed = (learners, rings, jobs.task, jobs.fitted, _job_keys(key, jobs))
    return map_groups(one, packed, config.group)


def rac_jobs(
    learners: Learner,
    rings: Ring,
    jobs: Jobs,
    anchors: Actor,
    key: PRNGKeyArray,
    steps: int,
    gamma: float,
    config: MerPOConfig,
) -> tuple[Learner, dict[str, Array]]:
    """`rac_steps` for every job; `anchors` has a leading [job] axis."""

    def one(args: tuple[Any, ...]) -> tuple[Learner, dict[str, Array]]:
        learner, ring, task, weights, anchor, k = args
        return rac_steps(learner, ring, jobs, task, anchor, weights, k, steps, gamma, config.rac)

    packed = (learners, rings, jobs.task, jobs.weights, anchors, _job_keys(key, jobs))
    return map_groups(one, packed, config.group)


def _per_seed(x: Array, seeds: int) -> Array:
    return x.reshape(seeds, x.shape[0] // seeds, *x.shape[1:])


def meta_jobs(
    state: MetaState, jobs: Jobs, key: PRNGKeyArray, seeds: int, config: MerPOConfig
) -> tuple[MetaState, Float[Array, " seed"]]:
    """One visit to every seed's meta-policy and meta-critic."""
    shape = (config.meta_steps, config.meta_batch)

    def states(task: Int[Array, ""], k: PRNGKeyArray) -> Float[Array, "step row obs"]:
        return jobs.data.obs[task, jax.random.randint(k, shape, 0, jobs.size[task])]

    drawn = _per_seed(jax.vmap(states)(jobs.task, _job_keys(key, jobs)), seeds)
    obs = jnp.swapaxes(drawn, 1, 2)  # [seed, step, task, row, obs]
    weight = jnp.exp(state.learners.log_lam) * (1.0 - jobs.weights.alpha)
    actors = jax.tree.map(lambda x: _per_seed(x, seeds), state.learners.actor)

    def one(args: tuple[Any, ...]) -> tuple[Actor, optax.OptState, Float[Array, ""]]:
        actor, opt_state, actors, obs, weight = args
        return meta_policy_steps(actor, opt_state, actors, obs, weight, config)

    packed = (state.meta_actor, state.meta_opt, actors, obs, _per_seed(weight, seeds))
    actor, opt, loss = jax.lax.map(one, packed)
    rate = config.meta_critic_rate
    critic = jax.tree.map(
        lambda m, q: m + rate * (jnp.mean(_per_seed(q, seeds), axis=1) - m), state.meta_critic, state.learners.critic
    )
    return MetaState(state.learners, state.rings, actor, opt, critic), loss


def train_round(
    state: MetaState, jobs: Jobs, key: PRNGKeyArray, seeds: int, gamma: float, config: MerPOConfig
) -> tuple[MetaState, dict[str, Array]]:
    """`imagine_every` updates of every job: imagine once, then blocks of RAC updates and meta-policy steps."""
    tasks = jobs.task.shape[0] // seeds
    k_imagine, k_blocks = jax.random.split(key)
    rings = imagine_jobs(state.learners, state.rings, jobs, k_imagine, config)
    state = eqx.tree_at(lambda s: s.rings, state, rings)

    def block(state: MetaState, k: PRNGKeyArray) -> tuple[MetaState, dict[str, Array]]:
        k_rac, k_meta = jax.random.split(k)
        anchors = jax.tree.map(lambda x: jnp.repeat(x, tasks, axis=0), state.meta_actor)
        learners, metrics = rac_jobs(
            state.learners, state.rings, jobs, anchors, k_rac, config.meta_every, gamma, config
        )
        state = eqx.tree_at(lambda s: s.learners, state, learners)
        state, loss = meta_jobs(state, jobs, k_meta, seeds, config)
        return state, metrics | {"meta/kl": jnp.repeat(loss, tasks)}

    blocks = config.rac.imagine_every // config.meta_every
    state, metrics = jax.lax.scan(block, state, jax.random.split(k_blocks, blocks))
    return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


@partial(jax.jit, static_argnames=("rounds", "seeds", "gamma", "config"), donate_argnums=(0,))
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
) -> tuple[MetaState, dict[str, Float[Array, "round job"]]]:
    """`rounds` rounds of meta-training in one compiled call, beginning with round number `start`."""

    def body(state, i):
        return train_round(state, jobs, jax.random.fold_in(key, start + i), seeds, gamma, config)

    return jax.lax.scan(body, state, jnp.arange(rounds))


@partial(jax.jit, static_argnames=("rounds", "gamma", "config"), donate_argnums=(0, 1))
def adapt_chunk(
    learners: Learner,
    rings: Ring,
    jobs: Jobs,
    anchors: Actor,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    *,
    rounds: int,
    gamma: float,
    config: MerPOConfig,
) -> tuple[Learner, Ring, dict[str, Float[Array, "round job"]]]:
    """`rounds` rounds of RAC on new tasks against their fixed meta-policies `anchors` ([job] leaves)."""

    def body(carry, i):
        learners, rings = carry
        k_imagine, k_rac = jax.random.split(jax.random.fold_in(key, start + i))
        rings = imagine_jobs(learners, rings, jobs, k_imagine, config)
        learners, metrics = rac_jobs(learners, rings, jobs, anchors, k_rac, config.rac.imagine_every, gamma, config)
        return (learners, rings), metrics

    (learners, rings), metrics = jax.lax.scan(body, (learners, rings), jnp.arange(rounds))
    return learners, rings, metrics
