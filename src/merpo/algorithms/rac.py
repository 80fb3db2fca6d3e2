"""RAC: regularised actor-critic, the within-task learner (Lin et al. 2022, section 4).

    evaluation   Q <- argmin  beta ( E_rho[Q] - E_D[Q] ) + 1/2 E_{d_f}[ (Q - B^pi Qbar)^2 ]
    improvement  pi <- argmax E_rho[Q] - lambda alpha D(pi, pi_beta) - lambda (1 - alpha) KL(pi || pi_c)

Everything is a pure function of one task's learner, so that tasks, seeds and hyper-parameters are mapped axes.
Arrays are in prepared units (`merpo.data.prepare`): values are of order one and `beta` is in units of one standard
deviation of the reward, as in the tabular solution Q = B Q - beta (rho - d) / d_f.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from merpo import draws
from merpo.algorithms import balance
from merpo.algorithms.conservatism import Pushed, bellman_target, candidates, choose, critic_loss
from merpo.algorithms.divergences import Behaviour, RatioState, behaviour_term, init_ratio, meta_term, ratio_step
from merpo.algorithms.rac_config import RACConfig
from merpo.data.types import Transitions
from merpo.networks import Actor, Noise, TwinCritic


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
    behaviour: Actor | None = None
    """pi_b, the fitted behaviour policy, where D(pi, pi_beta) is its `density`."""


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
    ratio: RatioState | None = None
    """c of the `dual` divergence."""
    log_beta: Float[Array, ""] | None = None
    """Under dual ascent on beta."""
    balance: Float[Array, "*job"] | None = None
    """b of an adaptive alpha."""

    def alpha(self, weights: Weights, config: RACConfig) -> Float[Array, "*job"]:
        """The balance as it is now."""
        return weights.alpha if self.balance is None else balance.alpha_of(self.balance, config)


def init(actor: Actor, critic: TwinCritic, config: RACConfig) -> Learner:
    """A fresh learner around the given networks (random ones, or pi_c and the meta-critic)."""
    ratio = None
    if config.behaviour == "dual":
        layers = actor.net.layers
        obs_dim, act_dim = layers[0].weight.shape[0], layers[-1].bias.shape[0] // 2
        ratio = init_ratio(obs_dim, act_dim, config.critic_hidden, config.ratio_lr)
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
        ratio=ratio,
        log_beta=jnp.log(jnp.asarray(max(config.beta, 1e-8), jnp.float32)) if config.beta_mode == "dual" else None,
        balance=balance.start() if config.alpha_mode == "adaptive" else None,
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
    noise: Noise,
    follow: Float[Array, ""] | float = 1.0,
    behaviour: Behaviour = None,
    one_scale: bool = False,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """-E[min Q]/scale + lambda (alpha D(pi,pi_beta) + (1-alpha) KL(pi||pi_c)) + temperature E[log pi] (MerPO, 4).

    The first rows of `obs` are the real ones, which `logged` belongs to. `improve` is 0 during the
    warm-up, else 1: the weight of the first term; `follow`, that of the term of pi_c. `behaviour` measures
    D(pi, pi_beta) (None: by the log alone), `one_scale` as in `divergences.meta_term`.
    """
    policy = actor(obs)
    u = policy.sample_pre(noise)
    q = jnp.min(critic(obs, jnp.tanh(u)), axis=0)
    log_pi = jnp.mean(policy.log_prob_pre(u))
    held = behaviour_term(behaviour, policy, u, obs, logged)
    kl = meta_term(behaviour, policy, anchor(obs), logged.shape[0], one_scale)
    loss = -improve * jnp.mean(q) / scale + lam * (alpha * held + follow * (1.0 - alpha) * kl) + temperature * log_pi
    metrics = {
        "actor/q": jnp.mean(q),
        "actor/clone" if behaviour is None else "actor/behaviour": held,
        "actor/kl_meta": kl,
        "actor/entropy": -log_pi,
    }
    return loss, metrics


def dual_step(
    log_weight: Float[Array, ""],
    excess: Float[Array, ""],
    rate: Float[Array, ""],
    bounds: tuple[float, float],
) -> Float[Array, ""]:
    """Dual ascent on the log of a multiplier: up while its constraint is exceeded. Step and range are clipped."""
    low, high = (float(x) for x in bounds)
    return jnp.clip(log_weight + rate * jnp.clip(excess, -1.0, 1.0), jnp.log(low), jnp.log(high))


class Drawn(eqx.Module):
    """The random numbers of one update: many of them are drawn at once."""

    asked: Float[Array, "some act"]
    """For the actions at the next states and, where they push the critics down, at the imagined states."""
    actor: Float[Array, "row act"]
    soft: PRNGKeyArray | None
    """For the candidates of the log-sum-exp."""
    ratio: PRNGKeyArray | None
    """For the step of the `dual` divergence."""


def words_of(real: int, model: int, act_dim: int, config: RACConfig) -> tuple[int, int]:
    """How many random words an update on so many real and imagined rows takes: normal numbers, and for keys."""
    pushed = model if config.pushdown == "policy" else 0
    keys = (config.pushdown != "policy") + (config.behaviour == "dual")
    return (2 * (real + model) + pushed) * act_dim, keys * draws.KEY_WORDS


def drawn_from(words: UInt32[Array, " word"], real: int, model: int, act_dim: int, config: RACConfig) -> Drawn:
    """The random numbers of an update, made of as many random words as `words_of` says."""
    normal, keys = draws.cut(words, *words_of(real, model, act_dim, config))
    actor, asked = jnp.split(draws.normal(normal).reshape(-1, act_dim), [real + model])
    own = [draws.key_of(k) for k in keys.reshape(-1, draws.KEY_WORDS)]
    soft, ratio = config.pushdown != "policy", config.behaviour == "dual"
    return Drawn(asked, actor, own[0] if soft else None, own[-1] if ratio else None)


def actions_asked(
    state: Learner,
    next_obs: Float[Array, "row obs"],
    imagined: Float[Array, "model obs"],
    drawn: Drawn,
) -> tuple[Float[Array, "row act"], Float[Array, "some act"]]:
    """Actions of pi at the next states, for the targets, and at the imagined states, where the critics are pushed
    down (none where the log-sum-exp does that): one pass of the actor for both."""
    obs = jnp.concatenate([next_obs, imagined])[: drawn.asked.shape[0]]
    action = jnp.tanh(state.actor(obs).sample_pre(drawn.asked))
    return action[: next_obs.shape[0]], action[next_obs.shape[0] :]


def soft_candidates(
    state: Learner, model: Transitions, softness: float, key: PRNGKeyArray, config: RACConfig
) -> Pushed:
    """Where the log-sum-exp pushes the critics down on the imagined states."""
    k_draw, k_choose = jax.random.split(key)
    found = candidates(state.actor, model.obs, model.next_obs, model.action.shape[-1], k_draw)
    if config.logsumexp_gradient == "sampled":
        return choose(state.critic, model.obs, found, softness, k_choose)
    return found


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
    shape = (real.reward.shape[0], model.reward.shape[0], real.action.shape[-1])
    drawn = drawn_from(draws.words(key, sum(words_of(*shape, config))), *shape, config)
    return updated(state, real, model, anchor, weights, drawn, gamma, config)


def updated(
    state: Learner,
    real: Transitions,
    model: Transitions,
    anchor: Actor,
    weights: Weights,
    drawn: Drawn,
    gamma: float,
    config: RACConfig,
) -> tuple[Learner, dict[str, Array]]:
    """`update` with random numbers that were drawn before."""
    share = step_share(state.step, weights.pace, config.lr_final)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, model)

    pushed: Pushed
    next_action, pushed = actions_asked(state, both.next_obs, model.obs, drawn)
    y = bellman_target(state.target, next_action, both, gamma, config.targets)
    # On the normalised value scale a reward of one deviation is (1 - gamma): beta is given in deviations, and so is
    # the log-sum-exp's temperature.
    deviation = 1.0 - gamma
    softness = config.logsumexp_temperature * deviation
    if drawn.soft is not None:
        pushed = soft_candidates(state, model, softness, drawn.soft, config)
    beta = weights.beta if state.log_beta is None else jnp.exp(state.log_beta)
    grads, metrics = jax.grad(critic_loss, has_aux=True)(
        state.critic, real, model, pushed, y, beta * deviation, config.real_fraction, softness
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
    ratio = state.ratio
    behaviour: Behaviour = weights.behaviour
    if ratio is not None:
        assert drawn.ratio is not None
        ratio = ratio_step(
            ratio, state.actor(real.obs), real.obs, real.action, drawn.ratio, config.ratio_lr, config.ratio_penalty,
            config.ratio_slope,
        )  # fmt: skip
        behaviour = ratio.ratio
    alpha = state.alpha(weights, config)
    grads, found = jax.grad(actor_loss, has_aux=True)(
        state.actor, critic, anchor, both.obs, real.action, alpha, lam, temperature,
        jnp.maximum(scale, 1e-6), improve, drawn.actor, follow, behaviour, config.one_scale,
    )  # fmt: skip
    steps, actor_opt = optax.adam(config.actor_lr).update(grads, state.actor_opt)
    actor = stepped(state.actor, steps, share)

    act_dim = real.action.shape[-1]
    shortfall = jnp.clip(config.target_entropy - found["actor/entropy"] / act_dim, -1.0, 1.0)
    log_temperature = jnp.clip(state.log_temperature + config.temperature_lr * shortfall, -12.0, 2.0)
    log_lam, log_beta = state.log_lam, state.log_beta
    # Both multipliers wait for the end of the warm-up, where nothing yet pulls against what they weigh.
    metrics = metrics | found | {"rac/lambda": lam, "rac/temperature": temperature, "rac/value_scale": scale}
    if config.lam_mode == "dual":
        held = found["actor/clone"] - weights.floor if behaviour is None else found["actor/behaviour"]
        divergence = alpha * held
        divergence = divergence + follow * (1.0 - alpha) * found["actor/kl_meta"]
        metrics["rac/divergence"] = divergence / act_dim
        log_lam = dual_step(
            log_lam, divergence / act_dim - config.lam_target, config.lam_lr * improve, config.lam_range
        )
    if log_beta is not None:
        gap = metrics["critic/gap"] / jnp.maximum(scale, 1e-6)
        metrics["rac/beta"] = beta
        log_beta = dual_step(log_beta, gap - config.beta_target, config.beta_lr * improve, config.beta_range)

    if state.balance is not None:
        metrics |= {"rac/alpha": alpha, "rac/balance": state.balance}

    opts = (actor_opt, critic_opt)
    new = Learner(
        actor, critic, target, log_lam, log_temperature, scale, *opts, state.step + 1, ratio, log_beta, state.balance
    )
    return new, metrics
