"""IQL (Kostrikov, Nair, Levine 2022): values of the logged actions' upper expectile, one task, from scratch.

    V  <- argmin E_D[ L_tau( min_i Qbar_i(s, a) - V(s) ) ],   L_tau(u) = |tau - 1(u < 0)| u^2      (equation 5)
    Q  <- argmin E_D[ (r + gamma (1 - terminated) V(s') - Q(s, a))^2 ]                             (equation 6)
    pi <- argmax E_D[ exp(beta (min_i Qbar_i(s, a) - V(s))) log pi(a|s) ]                          (equation 7)

No action outside the log is ever evaluated. The paper's beta belongs to rewards of order one: prepared values are
(1 - gamma) times those, so the advantage is divided by (1 - gamma). Here pi is a tanh-Gaussian whose deviation
depends on the state (the paper's does not); settings are the paper's for locomotion, the sizes come from the caller.
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
from merpo.errors import ConfigError
from merpo.networks import MLP, Actor, TwinCritic


@dataclass(frozen=True)
class IQLConfig:
    """Settings of IQL."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor, critics and value network."""
    learning_rate: float = 3e-4
    """Adam step size of all networks; the actor's falls as a cosine to zero over the updates."""
    batch: int = 256
    """Rows per update."""
    updates: int = 1_000_000
    """Updates of every network."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    expectile: float = 0.7
    """The paper's tau: 0.5 evaluates the behaviour, near 1 the best logged action."""
    beta: float = 3.0
    """Inverse temperature of the advantage, in deviations of the reward."""
    weight_max: float = 100.0
    """Weights of the policy's rows are clipped to this."""

    def __post_init__(self) -> None:
        check_widths(self, "hidden")
        check_steps(self, "learning_rate")
        check_counts(self, "batch", "updates")
        check_shares(self, "tau")
        check_weights(self, "beta", "weight_max")
        if not 0.0 < self.expectile < 1.0:
            raise ConfigError(f"expectile={self.expectile}: expected a number between 0 and 1, e.g. 0.7.")


class State(eqx.Module):
    """All state of one task's IQL."""

    actor: Trained
    critic: Trained
    value: Trained
    critic_target: TwinCritic
    updates: Int[Array, ""]


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: IQLConfig) -> State:
    """From random networks."""
    k_actor, k_critic, k_value = jax.random.split(key, 3)
    critic = TwinCritic(obs_dim, act_dim, config.hidden, k_critic)
    return State(
        Trained.start(Actor(obs_dim, act_dim, config.hidden, k_actor)),
        Trained.start(critic),
        Trained.start(MLP(obs_dim, 1, config.hidden, k_value)),
        critic,
        jnp.zeros((), jnp.int32),
    )


def expectile_loss(
    value: MLP, obs: Float[Array, "row obs"], q: Float[Array, " row"], tau: float | Float[Array, ""]
) -> Float[Array, ""]:
    """E[|tau - 1(u < 0)| u^2], u = q - V(s) (equation 5)."""
    u = q - value(obs)[..., 0]
    return jnp.mean(jnp.abs(tau - (u < 0.0).astype(jnp.float32)) * u * u)


def advantage_weight(advantage: Float[Array, " row"], beta: float, most: float) -> Float[Array, " row"]:
    """min(exp(beta A), most) without overflow."""
    return jnp.exp(jnp.minimum(beta * advantage, jnp.log(most)))


def actor_loss(
    actor: Actor, batch: Transitions, weight: Float[Array, " row"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """-E_D[w log pi(a|s)] (equation 7)."""
    log_pi = actor(batch.obs).log_prob(batch.action)
    return -jnp.mean(weight * log_pi), {"actor/clone": -jnp.mean(log_pi), "iql/weight": jnp.mean(weight)}


def update(
    state: State, batch: Transitions, key: PRNGKeyArray, gamma: float, config: IQLConfig
) -> tuple[State, dict[str, Array]]:
    """One update of value, actor, critics and targets, in the paper's order; nothing is drawn."""
    del key
    q = jnp.min(state.critic_target(batch.obs, batch.action), axis=0)
    loss, grads = jax.value_and_grad(expectile_loss)(state.value.net, batch.obs, q, config.expectile)
    value = state.value.step(grads, config.learning_rate)

    advantage = (q - value.net(batch.obs)[..., 0]) / (1.0 - gamma)
    weight = advantage_weight(advantage, config.beta, config.weight_max)
    grads, metrics = jax.grad(actor_loss, has_aux=True)(state.actor.net, batch, weight)
    done = jnp.minimum(state.updates.astype(jnp.float32) / config.updates, 1.0)
    actor = state.actor.step(grads, config.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * done)))

    y = bootstrap(batch, value.net(batch.next_obs)[..., 0], gamma)
    grads, found = jax.grad(td_loss, has_aux=True)(state.critic.net, batch, y)
    critic = state.critic.step(grads, config.learning_rate)
    new = State(actor, critic, value, polyak(state.critic_target, critic.net, config.tau), state.updates + 1)
    return new, metrics | found | {"iql/value_loss": loss}


def policy(state: State) -> Actor:
    """The actor."""
    return state.actor.net
