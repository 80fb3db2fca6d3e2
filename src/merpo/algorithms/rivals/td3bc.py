"""TD3+BC (Fujimoto, Gu 2021): TD3 whose actor also imitates, one task, from scratch.

    y  = r + gamma (1 - terminated) min_i Qbar_i(s', clip(pibar(s') + clip(eps, -c, c), -1, 1)),  eps ~ N(0, noise^2)
    pi <- argmax  lambda E_D[Q_1(s, pi(s))] - E_D[||pi(s) - a||^2 / |A|],   lambda = alpha / E_D[|Q_1(s, pi(s))|]

The actor is deterministic, tanh of the mean head; the deviation head is unused until `policy` narrows it. lambda makes
the unit of the reward immaterial. Settings are the paper's; the sizes come from the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from merpo.algorithms.rivals.settings import check_counts, check_shares, check_steps, check_weights, check_widths
from merpo.algorithms.rivals.td import Trained, bootstrap, polyak, td_loss
from merpo.data.types import Transitions
from merpo.networks import Actor, TwinCritic


@dataclass(frozen=True)
class TD3BCConfig:
    """Settings of TD3+BC."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    learning_rate: float = 3e-4
    """Adam step size of actor and critics."""
    batch: int = 256
    """Rows per update."""
    updates: int = 1_000_000
    """Updates of the critics."""
    tau: float = 0.005
    """Polyak rate of the target networks."""
    alpha: float = 2.5
    """Weight of the normalised value against imitation."""
    noise: float = 0.2
    """Deviation of the target policy's smoothing noise."""
    noise_clip: float = 0.5
    """The smoothing noise is clipped to this."""
    policy_every: int = 2
    """Critic updates per update of actor and targets."""

    def __post_init__(self) -> None:
        check_widths(self, "hidden")
        check_steps(self, "learning_rate")
        check_counts(self, "batch", "updates", "policy_every")
        check_shares(self, "tau")
        check_weights(self, "alpha", "noise", "noise_clip")


class State(eqx.Module):
    """All state of one task's TD3+BC."""

    actor: Trained
    critic: Trained
    actor_target: Actor
    critic_target: TwinCritic
    updates: Int[Array, ""]


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: TD3BCConfig) -> State:
    """From random networks."""
    k_actor, k_critic = jax.random.split(key)
    actor = Actor(obs_dim, act_dim, config.hidden, k_actor)
    critic = TwinCritic(obs_dim, act_dim, config.hidden, k_critic)
    return State(Trained.start(actor), Trained.start(critic), actor, critic, jnp.zeros((), jnp.int32))


def target(
    critic: TwinCritic, actor: Actor, batch: Transitions, noise: Float[Array, "row act"], gamma: float
) -> Float[Array, " row"]:
    """y, with the noise clipped already (TD3, algorithm 1)."""
    action = jnp.clip(actor(batch.next_obs).mode() + noise, -1.0, 1.0)
    return bootstrap(batch, jnp.min(critic(batch.next_obs, action), axis=0), gamma)


def actor_loss(
    actor: Actor, critic: TwinCritic, batch: Transitions, weight: Float[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """-lambda E[Q_1(s, pi(s))] + E[(pi(s) - a)^2] (equation 5); lambda is given as `weight`, a constant."""
    action = actor(batch.obs).mode()
    q = jnp.mean(critic(batch.obs, action)[0])
    imitation = jnp.mean((action - batch.action) ** 2)
    return -weight * q + imitation, {"actor/q": q, "actor/imitation": imitation}


def value_weight(actor: Actor, critic: TwinCritic, batch: Transitions, alpha: float) -> Float[Array, ""]:
    """lambda = alpha / E[|Q_1(s, pi(s))|] (section 4)."""
    q = critic(batch.obs, actor(batch.obs).mode())[0]
    return alpha / jnp.maximum(jnp.mean(jnp.abs(q)), 1e-8)


def update(
    state: State, batch: Transitions, key: PRNGKeyArray, gamma: float, config: TD3BCConfig
) -> tuple[State, dict[str, Array]]:
    """One update of the critics and, every `policy_every`-th time, of the actor and the targets."""
    noise = config.noise * jax.random.normal(key, batch.action.shape, jnp.float32)
    noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
    y = target(state.critic_target, state.actor_target, batch, noise, gamma)
    grads, metrics = jax.grad(td_loss, has_aux=True)(state.critic.net, batch, y)
    critic = state.critic.step(grads, config.learning_rate)

    weight = value_weight(state.actor.net, critic.net, batch, config.alpha)
    grads, found = jax.grad(actor_loss, has_aux=True)(state.actor.net, critic.net, batch, weight)
    updates = state.updates + 1
    due = updates % config.policy_every == 0
    actor = jax.tree.map(lambda n, o: jnp.where(due, n, o), state.actor.step(grads, config.learning_rate), state.actor)
    tau = jnp.where(due, config.tau, 0.0)
    new = State(
        actor,
        critic,
        polyak(state.actor_target, actor.net, tau),
        polyak(state.critic_target, critic.net, tau),
        updates,
    )
    return new, metrics | found | {"td3bc/lambda": weight}


def policy(state: State) -> Actor:
    """The actor, with a deviation so small that a drawn action is its mode."""
    last = state.actor.net.net.layers[-1]
    acts = last.weight.shape[-1] // 2
    weight, bias = last.weight.at[:, acts:].set(0.0), last.bias.at[acts:].set(-10.0)
    return eqx.tree_at(lambda a: (a.net.layers[-1].weight, a.net.layers[-1].bias), state.actor.net, (weight, bias))
