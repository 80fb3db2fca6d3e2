"""SAC on fixed data (Haarnoja et al. 2018), as PEARL uses it: fixed temperature 1, rewards scaled instead.

    y  = r + gamma (1 - terminated) (min_i Qbar_i(s', a') - temperature log pi(a'|s')),   a' ~ pi(.|s')
    pi <- argmax  E[min_i Q_i(s, a) - temperature log pi(a|s)]

PEARL multiplies rewards by `reward_scale`; in prepared units, where values are (1 - gamma) times those of rewards with
unit deviation, the same is temperature = (1 - gamma) / reward_scale. Where PEARL has a value network with a target,
here are target critics (SAC's later form). States may be (s, z).
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rivals.settings import check_shares, check_steps, check_widths
from merpo.algorithms.rivals.td import Trained, bootstrap, polyak, td_loss
from merpo.data.types import Transitions
from merpo.errors import ConfigError
from merpo.networks import Actor, TwinCritic


@dataclass(frozen=True)
class SACConfig:
    """Settings of SAC."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of actor and critics."""
    learning_rate: float = 3e-4
    """Adam step size of both."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    reward_scale: float = 5.0
    """PEARL's factor on rewards of unit deviation: the inverse of the temperature."""

    def __post_init__(self) -> None:
        check_widths(self, "hidden")
        check_steps(self, "learning_rate")
        check_shares(self, "tau")
        if not 0.0 < self.reward_scale < float("inf"):
            raise ConfigError(f"reward_scale={self.reward_scale}: expected a finite number > 0, e.g. 5.")

    def temperature(self, gamma: float) -> float:
        """In prepared units."""
        return (1.0 - gamma) / self.reward_scale


class Agent(eqx.Module):
    """Actor, critics and target critics."""

    actor: Trained
    critic: Trained
    target: TwinCritic


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: SACConfig) -> Agent:
    """From random networks; `obs_dim` counts z too."""
    k_actor, k_critic = jax.random.split(key)
    critic = TwinCritic(obs_dim, act_dim, config.hidden, k_critic)
    return Agent(Trained.start(Actor(obs_dim, act_dim, config.hidden, k_actor)), Trained.start(critic), critic)


def soft_target(
    target: TwinCritic, actor: Actor, batch: Transitions, gamma: float, temperature: float, key: PRNGKeyArray
) -> Float[Array, " row"]:
    """y, with the entropy of the next action."""
    policy = actor(batch.next_obs)
    u = policy.sample_pre(key)
    value = jnp.min(target(batch.next_obs, jnp.tanh(u)), axis=0) - temperature * policy.log_prob_pre(u)
    return bootstrap(batch, value, gamma)


def actor_loss(
    actor: Actor, critic: TwinCritic, obs: Float[Array, "row obs"], temperature: float, key: PRNGKeyArray
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """E[temperature log pi(a|s) - min_i Q_i(s, a)] over temperature: the loss in units of nats."""
    policy = actor(obs)
    u = policy.sample_pre(key)
    q, log_pi = jnp.mean(jnp.min(critic(obs, jnp.tanh(u)), axis=0)), jnp.mean(policy.log_prob_pre(u))
    return log_pi - q / temperature, {"actor/q": q, "actor/entropy": -log_pi}


def critic_step(
    agent: Agent, batch: Transitions, key: PRNGKeyArray, gamma: float, config: SACConfig
) -> tuple[Agent, dict[str, Array]]:
    """One update of the critics and their targets."""
    y = soft_target(agent.target, agent.actor.net, batch, gamma, config.temperature(gamma), key)
    grads, metrics = jax.grad(td_loss, has_aux=True)(agent.critic.net, batch, y)
    critic = agent.critic.step(grads, config.learning_rate)
    return Agent(agent.actor, critic, polyak(agent.target, critic.net, config.tau)), metrics


def actor_step(
    agent: Agent, obs: Float[Array, "row obs"], key: PRNGKeyArray, gamma: float, config: SACConfig
) -> tuple[Agent, dict[str, Array]]:
    """One update of the actor."""
    grads, metrics = jax.grad(actor_loss, has_aux=True)(
        agent.actor.net, agent.critic.net, obs, config.temperature(gamma), key
    )
    return Agent(agent.actor.step(grads, config.learning_rate), agent.critic, agent.target), metrics
