"""Soft actor-critic for *privileged* behaviour policies: one agent, shown the true task, for a family.

Haarnoja et al. 2018 (arXiv:1812.05905) with the temperature tuned to a target entropy. The agent's input is
(observation / obs_scale, task vector). Where tasks share their dynamics, half of every batch is relabelled to
tasks drawn at random, so that each task learns from all experience. The replay ring lives on the device and a
chunk of updates is one `lax.scan`. This trains the policies that *log* data; offline learning never uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from merpo.errors import ConfigError
from merpo.networks import Actor, TanhGaussian, TwinCritic

Reward = Callable[[Array, Array, Array, Array], Array]


@dataclass(frozen=True)
class SACConfig:
    """Settings of the privileged trainer; the defaults are those the shipped weights were trained with."""

    hidden: tuple[int, ...] = (128, 128)
    """Hidden widths of actor and critics (relu, no layer norm)."""
    batch: int = 128
    """Transitions per update."""
    gamma: float = 0.975
    """Discount factor of the learner, shorter than the family's: faster on one core."""
    lr: float = 7e-4
    """Adam's step size, for actor, critics and temperature."""
    lr_end: float = 0.1
    """Fraction of `lr` reached at the last update (linear decay over the second half)."""
    tau: float = 0.005
    """Moving-average rate of the target critics."""
    alpha: float = 0.1
    """Initial temperature."""
    entropy_per_action: float = -1.0
    """Target entropy per action column."""
    n_step: int = 1
    """Steps of reward before the bootstrapped value."""
    actor_every: int = 1
    """Critic updates per actor and temperature update."""
    envs: int = 64
    """Parallel environments."""
    env_steps: int = 20
    """Steps of every environment between two chunks of updates; must divide the horizon."""
    updates: int = 640
    """Updates per chunk."""
    slots: int = 8000
    """Time slots of the replay ring (times `envs` transitions)."""
    warmup: int = 200
    """Steps of every environment under uniform actions before learning."""

    def __post_init__(self) -> None:
        positive = ("batch", "lr", "tau", "alpha", "n_step", "actor_every", "envs", "env_steps", "updates")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)!r}: expected a positive number. Raise it.")
        if not 0.0 < self.gamma < 1.0:
            raise ConfigError(f"gamma={self.gamma!r}: expected a discount in (0, 1). Try 0.97.")
        if self.slots % self.env_steps or self.warmup % self.env_steps or self.warmup > self.slots:
            raise ConfigError(
                f"slots={self.slots!r}, warmup={self.warmup!r}: expected multiples of"
                f" env_steps={self.env_steps!r} with warmup <= slots, since the ring is written env_steps"
                " at a time."
            )
        if self.updates % self.actor_every:
            raise ConfigError(
                f"updates={self.updates!r}: expected a multiple of actor_every={self.actor_every!r}. Round it up."
            )


class Replay(eqx.Module):
    """Ring of time slots x environments, in order of time, so that n-step windows are consecutive slots."""

    obs: Float[Array, "slot env obs"]
    action: Float[Array, "slot env act"]
    next_obs: Float[Array, "slot env obs"]
    extra: Float[Array, "slot env extra"]
    terminated: Bool[Array, "slot env"]
    last: Bool[Array, "slot env"]
    task: Int[Array, "slot env"]
    head: Int[Array, ""]
    filled: Int[Array, ""]


class State(eqx.Module):
    """Everything that an update changes."""

    actor: Actor
    critic: TwinCritic
    target: TwinCritic
    log_alpha: Float[Array, ""]
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    alpha_opt: optax.OptState
    step: Int[Array, ""]


def init_replay(config: SACConfig, obs_dim: int, act_dim: int, extra_dim: int) -> Replay:
    """An empty ring on the device."""
    lead = (config.slots, config.envs)
    # every field owns its buffer: the ring is donated, and a buffer can be donated once only
    return Replay(
        obs=jnp.zeros((*lead, obs_dim), jnp.float32),
        action=jnp.zeros((*lead, act_dim), jnp.float32),
        next_obs=jnp.zeros((*lead, obs_dim), jnp.float32),
        extra=jnp.zeros((*lead, extra_dim), jnp.float32),
        terminated=jnp.zeros(lead, bool),
        last=jnp.zeros(lead, bool),
        task=jnp.zeros(lead, jnp.int32),
        head=jnp.zeros((), jnp.int32),
        filled=jnp.zeros((), jnp.int32),
    )


@partial(jax.jit, donate_argnums=0)
def insert(replay: Replay, rows: dict[str, Array]) -> Replay:
    """Write `rows` (leading axes [env_steps, env]) at the head; env_steps divides the number of slots."""
    n, slots = rows["obs"].shape[0], replay.obs.shape[0]
    written = {}
    for name, value in rows.items():
        ring = getattr(replay, name)
        start = (replay.head, *(jnp.zeros((), jnp.int32) for _ in range(ring.ndim - 1)))
        written[name] = jax.lax.dynamic_update_slice(ring, value.astype(ring.dtype), start)
    return Replay(**written, head=(replay.head + n) % slots, filled=jnp.minimum(replay.filled + n, jnp.int32(slots)))


def optimiser(config: SACConfig, total: int) -> optax.GradientTransformation:
    """Adam, constant for the first half of `total` updates, then linear to `lr_end` of it."""
    half = max(total // 2, 1)
    flat = optax.constant_schedule(config.lr)
    decay = optax.linear_schedule(config.lr, config.lr * config.lr_end, half)
    return optax.adam(optax.join_schedules([flat, decay], [half]))


def init(config: SACConfig, input_dim: int, act_dim: int, total: int, key: PRNGKeyArray) -> State:
    """Fresh networks on `input_dim` = observation + task vector, for a run of `total` updates."""
    ka, kc = jax.random.split(key)
    actor = Actor(input_dim, act_dim, config.hidden, ka)
    critic = TwinCritic(input_dim, act_dim, config.hidden, kc)
    log_alpha = jnp.log(jnp.float32(config.alpha))
    opt, slow = optimiser(config, total), optimiser(config, total // config.actor_every)
    return State(
        actor=actor,
        critic=critic,
        target=jax.tree.map(jnp.copy, critic),  # own buffers: the state is donated
        log_alpha=log_alpha,
        actor_opt=slow.init(actor),
        critic_opt=opt.init(critic),
        alpha_opt=slow.init(log_alpha),
        step=jnp.zeros((), jnp.int32),
    )


def _update(opt: optax.GradientTransformation, grads: Any, opt_state: optax.OptState) -> tuple[Any, optax.OptState]:
    # optax multiplies integer counts with floats, which strict dtype promotion would refuse
    with jax.numpy_dtype_promotion("standard"):
        return opt.update(grads, opt_state)


class Batch(eqx.Module):
    """n-step transitions: `x`, `next_x` are network inputs, `reward` the discounted n-step sum."""

    x: Float[Array, "n input"]
    action: Float[Array, "n act"]
    reward: Float[Array, " n"]
    next_x: Float[Array, "n input"]
    discount: Float[Array, " n"]


def sample(
    config: SACConfig,
    reward: Reward,
    reward_scale: float,
    relabel: bool,
    tasks: Float[Array, "task k"],
    scale: Float[Array, " obs"],
    replay: Replay,
    key: PRNGKeyArray,
) -> Batch:
    """Draw n-step windows; one ends at its episode's last step, where only a termination kills the value."""
    slots, envs = replay.task.shape
    kt, ke, kr = jax.random.split(key, 3)
    shape = (config.batch,)
    # offsets are counted from the oldest slot, so that no window crosses the write head
    offset = jax.random.randint(kt, shape, 0, replay.filled - (config.n_step - 1))
    oldest = jnp.where(replay.filled == slots, replay.head, 0)
    env = jax.random.randint(ke, shape, 0, envs)
    first = (oldest + offset) % slots
    task = replay.task[first, env]
    if relabel:
        half = config.batch // 2
        task = task.at[:half].set(jax.random.randint(kr, (half,), 0, tasks.shape[0], task.dtype))
    vector = tasks[task]

    total = jnp.zeros(shape, jnp.float32)
    weight = jnp.ones(shape, jnp.float32)
    alive = jnp.ones(shape, bool)
    terminated = jnp.zeros(shape, bool)
    end = first
    for k in range(config.n_step):
        slot = (first + k) % slots
        r = reward(vector, replay.action[slot, env], replay.next_obs[slot, env], replay.extra[slot, env])
        total = total + jnp.where(alive, weight * r, 0.0)
        weight = jnp.where(alive, weight * config.gamma, weight)
        terminated = terminated | (alive & replay.terminated[slot, env])
        end = jnp.where(alive, slot, end)
        alive = alive & ~replay.last[slot, env]
    return Batch(
        x=jnp.concatenate([replay.obs[first, env] / scale[None], vector], axis=-1),
        action=replay.action[first, env],
        reward=reward_scale * total,
        next_x=jnp.concatenate([replay.next_obs[end, env] / scale[None], vector], axis=-1),
        discount=jnp.where(terminated, 0.0, weight),
    )


def critic_loss(
    critic: TwinCritic,
    target: TwinCritic,
    actor: Actor,
    alpha: Float[Array, ""],
    batch: Batch,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean square of Q_i(x, a) - [r + gamma (min_j Q'_j(x', a') - alpha log pi(a'|x'))] (SAC eq. 5-6)."""
    dist: TanhGaussian = actor(batch.next_x)
    u = dist.sample_pre(key)
    value = jnp.min(target(batch.next_x, jnp.tanh(u)), axis=0) - alpha * dist.log_prob_pre(u)
    goal = batch.reward + batch.discount * value
    q = critic(batch.x, batch.action)
    loss = jnp.mean(jnp.square(q - goal[None]))
    return loss, {"critic_loss": loss, "q": jnp.mean(q)}


def actor_loss(
    actor: Actor, critic: TwinCritic, alpha: Float[Array, ""], x: Float[Array, "n input"], key: PRNGKeyArray
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean of alpha log pi(a|x) - min_i Q_i(x, a), a ~ pi (SAC eq. 7); also returns the mean log-density."""
    dist = actor(x)
    u = dist.sample_pre(key)
    log_prob = dist.log_prob_pre(u)
    return jnp.mean(alpha * log_prob - jnp.min(critic(x, jnp.tanh(u)), axis=0)), jnp.mean(log_prob)


def make_chunk(
    config: SACConfig,
    reward: Reward,
    reward_scale: float,
    relabel: bool,
    tasks: Float[Array, "task k"],
    scale: Float[Array, " obs"],
    total: int,
) -> Callable[[State, Replay, PRNGKeyArray], tuple[State, dict[str, Array]]]:
    """The compiled chunk of `config.updates` updates; donates the state; metrics are of the last update."""
    opt, slow = optimiser(config, total), optimiser(config, total // config.actor_every)
    entropy = config.entropy_per_action
    draw = partial(sample, config, reward, reward_scale, relabel, tasks, scale)

    def critic_update(state: State, replay: Replay, key: PRNGKeyArray) -> tuple[State, Batch, dict[str, Array]]:
        kb, kc = jax.random.split(key)
        batch = draw(replay, kb)
        alpha = jnp.exp(state.log_alpha)
        grads, metrics = jax.grad(critic_loss, has_aux=True)(state.critic, state.target, state.actor, alpha, batch, kc)
        delta, critic_opt = _update(opt, grads, state.critic_opt)
        critic = optax.apply_updates(state.critic, delta)
        target = optax.incremental_update(critic, state.target, config.tau)
        state = eqx.tree_at(
            lambda s: (s.critic, s.target, s.critic_opt, s.step),
            state,
            (critic, target, critic_opt, state.step + 1),
        )
        return state, batch, metrics

    def actor_update(state: State, batch: Batch, key: PRNGKeyArray) -> tuple[State, dict[str, Array]]:
        alpha = jnp.exp(state.log_alpha)
        grads, log_prob = jax.grad(actor_loss, has_aux=True)(state.actor, state.critic, alpha, batch.x, key)
        delta, actor_opt = _update(slow, grads, state.actor_opt)
        actor = optax.apply_updates(state.actor, delta)
        # d/d log_alpha of alpha (-log pi - target entropy), without alpha's factor (Adam undoes it)
        slope = -log_prob - entropy * batch.action.shape[-1]
        delta_alpha, alpha_opt = _update(slow, slope, state.alpha_opt)
        log_alpha = state.log_alpha + delta_alpha
        state = eqx.tree_at(
            lambda s: (s.actor, s.actor_opt, s.log_alpha, s.alpha_opt),
            state,
            (actor, actor_opt, log_alpha, alpha_opt),
        )
        return state, {"log_prob": log_prob, "alpha": jnp.exp(log_alpha)}

    @partial(jax.jit, donate_argnums=0)
    def chunk(state: State, replay: Replay, key: PRNGKeyArray) -> tuple[State, dict[str, Array]]:
        def body(state: State, key: PRNGKeyArray) -> tuple[State, dict[str, Array]]:
            keys = jax.random.split(key, config.actor_every + 1)
            for i in range(config.actor_every):
                state, batch, metrics = critic_update(state, replay, keys[i])
            state, more = actor_update(state, batch, keys[-1])
            return state, metrics | more

        keys = jax.random.split(key, config.updates // config.actor_every)
        state, metrics = jax.lax.scan(body, state, keys)
        return state, {name: value[-1] for name, value in metrics.items()}

    return chunk
