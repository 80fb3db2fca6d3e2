"""RAC: regularised actor-critic, the within-task learner (Lin et al. 2022, section 4).

    evaluation   Q <- argmin  beta ( E_rho[Q] - E_D[Q] ) + 1/2 E_{d_f}[ (Q - B^pi Qbar)^2 ]
    improvement  pi <- argmax E_rho[Q] - lambda alpha D(pi, pi_beta) - lambda (1 - alpha) KL(pi || pi_c)

Everything is a pure function of one task's learner, so that tasks, seeds and hyper-parameters are mapped axes.
Arrays are in prepared units (`merpo.data.prepare`): values are of order one and `beta` is in units of one standard
deviation of the reward, as in the tabular solution Q = B Q - beta (rho - d) / d_f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from merpo.data.types import Transitions
from merpo.errors import ConfigError, check_count, check_widths
from merpo.networks import Actor, TanhGaussian, TwinCritic


@dataclass(frozen=True)
class RACConfig:
    """Settings of the within-task learner."""

    actor_hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of each critic's hidden layers."""
    critic_layer_norm: bool = True
    """Layer normalisation in the critics: bounds extrapolation beyond the data."""
    actor_lr: float = 3e-4
    """Adam step size of the actor."""
    critic_lr: float = 1e-3
    """Adam step size of the critics."""
    lr_final: float = 0.1
    """Both step sizes fall linearly to this share over the phase (meta-training or adaptation)."""
    gamma: float | None = None
    """Discount used in learning; None takes the data set's. A shorter horizon converges in fewer updates."""
    warmup: int = 0
    """Updates at the start of a phase in which the actor only follows its anchors, while the critics learn to
    evaluate it: improving on values that do not exist yet would only lead it astray."""
    batch: int = 256
    """Rows per update, real and imagined together."""
    real_fraction: float = 0.5
    """f of d_f = f D + (1 - f) model data."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    alpha: float = 0.4
    """Balance: 1 stays with the behaviour policy, 0 follows the meta-policy."""
    lam: float = 0.1
    """lambda, the weight of both divergences on the normalised value scale (the start of it with `lam_mode="dual"`)."""
    lam_mode: Literal["fixed", "dual"] = "fixed"
    """`dual`: lambda by dual ascent until alpha D(pi, pi_beta) + (1 - alpha) KL(pi || pi_c) = `lam_target`."""
    lam_target: float = 0.5
    """Divergence, in nats per action dimension, that dual ascent aims at."""
    lam_lr: float = 1e-3
    """Step of dual ascent on log lambda."""
    lam_range: tuple[float, float] = (1e-3, 1e2)
    """Bounds of lambda under dual ascent."""
    beta: float = 0.1
    """Conservatism: weight of the push-down in standard deviations of the reward."""
    temperature: float = 1e-3
    """Starting SAC temperature on the normalised value scale."""
    target_entropy: float = -1.0
    """SAC's entropy target, per action dimension; the temperature follows it by dual ascent."""
    temperature_lr: float = 1e-3
    """Step of dual ascent on the log temperature."""
    rollout_length: int = 5
    """Steps of each imagined rollout."""
    rollout_rows: int = 500
    """Start states per imagination and task; a multiple of the elites."""
    imagine_every: int = 250
    """Updates between two imaginations."""
    buffer: int = 20_000
    """Imagined transitions kept per task."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("alpha", 0.0, 1.0),
            ("lr_final", 0.0, 1.0),
            ("real_fraction", 0.0, 1.0),
            ("tau", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}={value}: expected a number in [{low:g}, {high:g}].")
        if self.gamma is not None and not 0.0 <= self.gamma < 1.0:
            raise ConfigError(f"gamma={self.gamma}: expected a discount in [0, 1), or None for the data set's own.")
        for name in ("lam", "beta", "temperature"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}: expected a finite weight >= 0.")
        for name in ("actor_lr", "critic_lr", "lam_lr", "temperature_lr"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a step size in [0, 1), e.g. 1e-3.")
        if self.buffer < self.rollout_rows * self.rollout_length:
            raise ConfigError(
                f"buffer={self.buffer}: expected at least rollout_rows * rollout_length = "
                f"{self.rollout_rows * self.rollout_length}, one imagination. Enlarge it."
            )
        for name in ("batch", "rollout_length", "rollout_rows", "imagine_every", "buffer"):
            check_count(name, getattr(self, name))
        for name in ("actor_hidden", "critic_hidden"):
            check_widths(name, getattr(self, name))
        for name in ("lam_target", "target_entropy"):
            if not -float("inf") < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}: expected a finite number.")
        if self.warmup < 0:
            raise ConfigError(f"warmup={self.warmup}: expected a whole number of updates >= 0.")
        if not 1 <= self.real_rows < self.batch:
            raise ConfigError(
                f"real_fraction={self.real_fraction} of batch={self.batch} leaves no real or no imagined row: "
                "choose a fraction strictly between."
            )
        if not 0.0 < self.lam_range[0] < self.lam_range[1] < float("inf"):
            raise ConfigError(f"lam_range={self.lam_range}: expected 0 < low < high.")
        if self.lam_mode not in ("fixed", "dual"):
            raise ConfigError(f"lam_mode={self.lam_mode!r}: expected 'fixed' or 'dual'.")

    @property
    def real_rows(self) -> int:
        """Real rows of each batch."""
        return round(self.real_fraction * self.batch)


class Weights(eqx.Module):
    """The balance as traced numbers, so that a grid of them is one mapped axis."""

    alpha: Float[Array, "*job"]
    beta: Float[Array, "*job"]
    floor: Float[Array, "*job"]
    """-E_D[log pi_b] of a fitted behaviour policy: subtracted from the clone term under dual ascent, since a density
    is unbounded and only its excess over the best fit estimates KL(pi_beta || pi)."""
    pace: Float[Array, "*job"]
    """1 / updates of the phase: how fast the step sizes fall."""
    ramp: Float[Array, "*job"] = eqx.field(default_factory=lambda: jnp.zeros((), jnp.float32))
    """Share of the phase over which the term of pi_c grows to its full weight: a meta-policy that has yet to learn
    has nothing to say."""


class Learner(eqx.Module):
    """All state of one task's RAC."""

    actor: Actor
    critic: TwinCritic
    target: TwinCritic
    log_lam: Float[Array, ""]
    log_temperature: Float[Array, ""]
    scale: Float[Array, ""]
    """Running mean absolute deviation of Q over real states: the unit in which lambda weighs."""
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    step: Int[Array, ""]


def init(actor: Actor, critic: TwinCritic, config: RACConfig) -> Learner:
    """A fresh learner around the given networks (random ones, or pi_c and the meta-critic)."""
    return Learner(
        actor=actor,
        critic=critic,
        target=critic,
        log_lam=jnp.log(jnp.asarray(max(config.lam, 1e-8), jnp.float32)),
        log_temperature=jnp.log(jnp.asarray(max(config.temperature, 1e-8), jnp.float32)),
        scale=jnp.zeros((), jnp.float32),
        actor_opt=optax.adam(config.actor_lr).init(actor),
        critic_opt=optax.adam(config.critic_lr).init(critic),
        step=jnp.zeros((), jnp.int32),
    )


def networks(
    key: PRNGKeyArray, obs_dim: int, act_dim: int, config: RACConfig, context: int = 0
) -> tuple[Actor, TwinCritic]:
    """Randomly initialised actor and critics; with `context` further inputs last, to be held by `given`."""
    k_actor, k_critic = jax.random.split(key)
    actor = Actor(obs_dim + context, act_dim, config.actor_hidden, k_actor)
    critic = TwinCritic(obs_dim, act_dim + context, config.critic_hidden, k_critic, layer_norm=config.critic_layer_norm)
    return actor, critic


def step_share(step: Int[Array, ""], pace: Float[Array, ""], lr_final: float) -> Float[Array, ""]:
    """The share of the step size after `step` updates: from 1 linearly to `lr_final` at the end of the phase."""
    return 1.0 - (1.0 - lr_final) * jnp.minimum(step.astype(jnp.float32) * pace, 1.0)


def stepped(params: Any, steps: Any, share: Float[Array, ""]) -> Any:
    """Parameters after a share of the optimiser's step."""
    return jax.tree.map(lambda p, u: p + share * u, params, steps)


def bellman_target(
    target: TwinCritic, actor: Actor, batch: Transitions, gamma: float, key: PRNGKeyArray
) -> Float[Array, " row"]:
    """B^pi Qbar = r + gamma (1 - terminated) min_i Qbar_i(s', a'), a' ~ pi(.|s') (COMBO, eq. 2)."""
    next_action = jnp.tanh(actor(batch.next_obs).sample_pre(key))
    value = jnp.min(target(batch.next_obs, next_action), axis=0)
    return batch.reward + gamma * jnp.where(batch.terminated, 0.0, value)


def critic_loss(
    critic: TwinCritic,
    real: Transitions,
    model: Transitions,
    policy_action: Float[Array, "model_row act"],
    y: Float[Array, " row"],
    beta: Float[Array, ""],
    fraction: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """beta (E_{s~rho, a~pi}[Q] - E_D[Q]) + 1/2 E_{d_f}[(Q - y)^2], summed over both critics (COMBO, eq. 2).

    `y` lists the targets of the real rows, then of the imagined ones. One pass evaluates all three groups.
    """
    n, m = real.reward.shape[0], model.reward.shape[0]
    obs = jnp.concatenate([real.obs, model.obs, model.obs])
    action = jnp.concatenate([real.action, model.action, policy_action])
    q = critic(obs, action)
    q_real, q_model, q_policy = q[:, :n], q[:, n : n + m], q[:, n + m :]
    td_real = jnp.mean((q_real - y[None, :n]) ** 2, axis=1)
    td_model = jnp.mean((q_model - y[None, n:]) ** 2, axis=1)
    td = 0.5 * (fraction * td_real + (1.0 - fraction) * td_model)
    gap = jnp.mean(q_policy, axis=1) - jnp.mean(q_real, axis=1)
    metrics = {
        "critic/td": jnp.mean(td),
        "critic/gap": jnp.mean(gap),
        "critic/q_data": jnp.mean(q_real),
        "critic/q_policy": jnp.mean(q_policy),
    }
    return jnp.sum(td + beta * gap), metrics


def clone_term(policy: TanhGaussian, action: Float[Array, "row act"]) -> Float[Array, ""]:
    """D(pi, pi_beta) up to a constant: -E_D[log pi(a|s)] = KL(pi_beta || pi) + H(pi_beta) (MerPO, section 4)."""
    return -jnp.mean(policy.log_prob(action))


def actor_loss(
    actor: Actor,
    critic: TwinCritic,
    anchor: Actor,
    obs: Float[Array, "row obs"],
    logged: Float[Array, "real act"],
    alpha: Float[Array, ""],
    lam: Float[Array, ""],
    temperature: Float[Array, ""],
    scale: Float[Array, ""],
    improve: Float[Array, ""],
    key: PRNGKeyArray,
    follow: Float[Array, ""] | float = 1.0,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """-E[min Q]/scale + lambda (alpha D(pi,pi_beta) + (1-alpha) KL(pi||pi_c)) + temperature E[log pi] (MerPO, 4).

    The first rows of `obs` are the real ones, which `logged` belongs to. `improve` is 0 during the
    warm-up, else 1: the weight of the first term; `follow`, that of the term of pi_c.
    """
    policy = actor(obs)
    u = policy.sample_pre(key)
    q = jnp.min(critic(obs, jnp.tanh(u)), axis=0)
    log_pi = jnp.mean(policy.log_prob_pre(u))
    n = logged.shape[0]
    clone = clone_term(TanhGaussian(policy.mean[:n], policy.log_std[:n]), logged)
    kl = jnp.mean(policy.kl(anchor(obs)))
    loss = -improve * jnp.mean(q) / scale + lam * (alpha * clone + follow * (1.0 - alpha) * kl) + temperature * log_pi
    metrics = {
        "actor/q": jnp.mean(q),
        "actor/clone": clone,
        "actor/kl_meta": kl,
        "actor/entropy": -log_pi,
    }
    return loss, metrics


def dual_step(
    log_lam: Float[Array, ""], divergence: Float[Array, ""], act_dim: int, config: RACConfig
) -> Float[Array, ""]:
    """Dual ascent on log lambda towards `lam_target` nats per action dimension; the step is clipped, the range too."""
    excess = jnp.clip(divergence / act_dim - config.lam_target, -1.0, 1.0)
    low, high = (float(x) for x in config.lam_range)
    return jnp.clip(log_lam + config.lam_lr * excess, jnp.log(low), jnp.log(high))


def update(
    state: Learner,
    real: Transitions,
    model: Transitions,
    anchor: Actor,
    weights: Weights,
    key: PRNGKeyArray,
    gamma: float,
    config: RACConfig,
) -> tuple[Learner, dict[str, Array]]:
    """One RAC update of one task: critics, actor, temperature, lambda, targets."""
    k_next, k_push, k_actor = jax.random.split(key, 3)
    share = step_share(state.step, weights.pace, config.lr_final)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, model)

    y = bellman_target(state.target, state.actor, both, gamma, k_next)
    pushed = jnp.tanh(state.actor(model.obs).sample_pre(k_push))
    # On the normalised value scale a reward of one deviation is (1 - gamma): beta is given in deviations.
    grads, metrics = jax.grad(critic_loss, has_aux=True)(
        state.critic, real, model, pushed, y, weights.beta * (1.0 - gamma), config.real_fraction
    )
    steps, critic_opt = optax.adam(config.critic_lr).update(grads, state.critic_opt)
    critic = stepped(state.critic, steps, share)
    target = optax.incremental_update(critic, state.target, config.tau)

    y_real = y[: config.real_rows]
    spread = jnp.mean(jnp.abs(y_real - jnp.mean(y_real)))
    scale = jnp.where(state.step == 0, spread, 0.995 * state.scale + 0.005 * spread)

    lam, temperature = jnp.exp(state.log_lam), jnp.exp(state.log_temperature)
    follow = jnp.minimum(state.step.astype(jnp.float32) * weights.pace / jnp.maximum(weights.ramp, 1e-6), 1.0)
    follow = jnp.where(weights.ramp > 0.0, follow, 1.0)
    improve = (state.step >= config.warmup).astype(jnp.float32)
    grads, found = jax.grad(actor_loss, has_aux=True)(
        state.actor, critic, anchor, both.obs, real.action, weights.alpha, lam, temperature,
        jnp.maximum(scale, 1e-6), improve, k_actor, follow,
    )  # fmt: skip
    steps, actor_opt = optax.adam(config.actor_lr).update(grads, state.actor_opt)
    actor = stepped(state.actor, steps, share)

    act_dim = real.action.shape[-1]
    shortfall = jnp.clip(config.target_entropy - found["actor/entropy"] / act_dim, -1.0, 1.0)
    log_temperature = jnp.clip(state.log_temperature + config.temperature_lr * shortfall, -12.0, 2.0)
    log_lam = state.log_lam
    if config.lam_mode == "dual":
        divergence = weights.alpha * (found["actor/clone"] - weights.floor)
        divergence = divergence + follow * (1.0 - weights.alpha) * found["actor/kl_meta"]
        log_lam = dual_step(log_lam, divergence, act_dim, config)

    metrics = metrics | found | {"rac/lambda": lam, "rac/temperature": temperature, "rac/value_scale": scale}
    new = Learner(actor, critic, target, log_lam, log_temperature, scale, actor_opt, critic_opt, state.step + 1)
    return new, metrics
