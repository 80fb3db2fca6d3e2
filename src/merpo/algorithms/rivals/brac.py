"""BRAC with policy regularisation by the dual KL (Wu, Tucker, Nachum 2019): the agent of FOCAL, CSRO and UNICORN.

    KL(pi || pi_beta) = max_{g > 0} E_pi[log g(s, a)] - E_D[g(s, a)] + 1,   g = softplus(c)
    pi <- argmax  E[min_i Q_i(s, a)] - temperature E[log pi] - w KL(pi || pi_beta)

c takes a few gradient steps before each actor step, with a penalty on the length of its gradient in a. The weight w
follows the divergence by dual ascent towards a target. Critics as in `sac`, states (s, z).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rivals import sac
from merpo.algorithms.rivals.sac import SACConfig
from merpo.algorithms.rivals.settings import check_counts, check_steps, check_weights
from merpo.algorithms.rivals.td import Trained
from merpo.data.types import Transitions
from merpo.networks import MLP, Actor, TwinCritic


@dataclass(frozen=True)
class BRACConfig:
    """Settings of the behaviour-regularised agent; FOCAL's."""

    sac: SACConfig = field(default_factory=SACConfig)
    """Actor and critics."""
    divergence_lr: float = 1e-4
    """Adam step size of c."""
    divergence_steps: int = 3
    """Gradient steps of c per update."""
    penalty: float = 5.0
    """Weight of the penalty on gradients of c longer than 1."""
    weight: float = 500.0
    """w at the start."""
    weight_max: float = 2000.0
    """Upper bound of w."""
    weight_lr: float = 1.0
    """Adam step size of w."""
    target_divergence: float = 0.05
    """KL that dual ascent on w aims at."""

    def __post_init__(self) -> None:
        check_steps(self, "divergence_lr")
        check_counts(self, "divergence_steps")
        check_weights(self, "penalty", "weight", "weight_max", "weight_lr", "target_divergence")


class Agent(eqx.Module):
    """SAC's networks, the divergence's c, and w."""

    sac: sac.Agent
    divergence: Trained
    weight: Trained


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: BRACConfig) -> Agent:
    """From random networks; `obs_dim` counts z too."""
    k_sac, k_divergence = jax.random.split(key)
    c = MLP(obs_dim + act_dim, 1, config.sac.hidden, k_divergence)
    weight = jnp.asarray(config.weight, jnp.float32)
    return Agent(sac.init(k_sac, obs_dim, act_dim, config.sac), Trained.start(c), Trained.start(weight))


def dual_kl(on_policy: Float[Array, " row"], on_data: Float[Array, " row"]) -> Float[Array, ""]:
    """E_pi[log g] - E_D[g] + 1 from values of c, g = softplus(c): at most KL(pi || pi_beta) (BRAC, appendix B)."""
    return jnp.mean(jnp.log(jax.nn.softplus(on_policy) + 1e-8)) - jnp.mean(jax.nn.softplus(on_data)) + 1.0


def value_of(c: MLP, obs: Float[Array, "*n obs"], action: Float[Array, "*n act"]) -> Float[Array, "*n"]:
    """c(s, a)."""
    return c(jnp.concatenate([obs, action], axis=-1))[..., 0]


def gradient_penalty(
    c: MLP,
    obs: Float[Array, "row obs"],
    a: Float[Array, "row act"],
    b: Float[Array, "row act"],
    mix: Float[Array, " row"],
) -> Float[Array, ""]:
    """E[max(||grad_a c(s, a)|| - 1, 0)^2] at actions between a and b: of the gradient's length, not of c's size."""
    between = a + mix[:, None] * (b - a)
    grad = jax.vmap(jax.grad(value_of, argnums=2), (None, 0, 0))(c, obs, between)
    length = jnp.sqrt(jnp.sum(grad * grad, axis=-1) + 1e-8)
    return jnp.mean(jnp.maximum(length - 1.0, 0.0) ** 2)


def divergence_loss(
    c: MLP,
    obs: Float[Array, "row obs"],
    drawn: Float[Array, "row act"],
    logged: Float[Array, "row act"],
    mix: Float[Array, " row"],
    penalty: float,
) -> Float[Array, ""]:
    """-dual KL + penalty."""
    kl = dual_kl(value_of(c, obs, drawn), value_of(c, obs, logged))
    return -kl + penalty * gradient_penalty(c, obs, drawn, logged, mix)


def actor_loss(
    actor: Actor,
    critic: TwinCritic,
    c: MLP,
    obs: Float[Array, "row obs"],
    logged: Float[Array, "row act"],
    weight: Float[Array, ""],
    temperature: float,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """SAC's loss in nats plus w KL(pi || pi_beta)."""
    policy = actor(obs)
    u = policy.sample_pre(key)
    a = jnp.tanh(u)
    q, log_pi = jnp.mean(jnp.min(critic(obs, a), axis=0)), jnp.mean(policy.log_prob_pre(u))
    kl = dual_kl(value_of(c, obs, a), value_of(c, obs, logged))
    metrics = {"actor/q": q, "actor/entropy": -log_pi, "brac/kl": kl}
    return log_pi - q / temperature + weight * kl, metrics


def update(
    agent: Agent, batch: Transitions, key: PRNGKeyArray, gamma: float, config: BRACConfig
) -> tuple[Agent, dict[str, Array]]:
    """One update of critics, c, actor, w."""
    k_critic, k_draw, k_mix, k_actor = jax.random.split(key, 4)
    inner, metrics = sac.critic_step(agent.sac, batch, k_critic, gamma, config.sac)

    drawn = jnp.tanh(inner.actor.net(batch.obs).sample_pre(k_draw))
    divergence = agent.divergence
    for k in jax.random.split(k_mix, config.divergence_steps):
        mix = jax.random.uniform(k, batch.reward.shape)
        grads = jax.grad(divergence_loss)(divergence.net, batch.obs, drawn, batch.action, mix, config.penalty)
        divergence = divergence.step(grads, config.divergence_lr)

    grads, found = jax.grad(actor_loss, has_aux=True)(
        inner.actor.net, inner.critic.net, divergence.net, batch.obs, batch.action, agent.weight.net,
        config.sac.temperature(gamma), k_actor,
    )  # fmt: skip
    actor = inner.actor.step(grads, config.sac.learning_rate)
    weight = agent.weight.step(config.target_divergence - found["brac/kl"], config.weight_lr)
    weight = Trained(jnp.clip(weight.net, 0.0, config.weight_max), weight.opt)
    new = Agent(sac.Agent(actor, inner.critic, inner.target), divergence, weight)
    return new, metrics | found | {"brac/weight": agent.weight.net}
