"""Contextual BCQ (the baseline of Li et al. 2020): BCQ on (s, z), z from PEARL's probabilistic encoder.

encoder and critics <- argmin  E[(Q(s, z, a) - y)^2] + kl_weight KL(q(z | context) || N(0, 1)),   y as in `bcq`
"""

from __future__ import annotations

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from merpo.algorithms.rivals import bcq
from merpo.algorithms.rivals.bcq import BCQConfig
from merpo.algorithms.rivals.encoders import (
    Conditioned,
    ContextConfig,
    GaussianEncoder,
    MetaBatch,
    conditioned,
    feature_count,
)
from merpo.algorithms.rivals.pearl import critic_loss
from merpo.algorithms.rivals.settings import check_counts, check_weights
from merpo.algorithms.rivals.td import Trained
from merpo.errors import check_group


@dataclass(frozen=True)
class CbcqConfig:
    """Settings of contextual BCQ."""

    context: ContextConfig = field(default_factory=ContextConfig)
    """Encoder and meta-batch."""
    agent: BCQConfig = field(default_factory=BCQConfig)
    """The agent."""
    kl_weight: float = 0.1
    """Weight of the information bottleneck, at rewards of deviation `reward_scale`."""
    reward_scale: float = 5.0
    """PEARL's factor on rewards of unit deviation; here it only sets what `kl_weight` is compared with."""
    updates: int = 1_000_000
    """Updates of everything."""
    group: int | None = None
    """Seeds batched by `vmap`; groups follow one another."""

    def __post_init__(self) -> None:
        check_counts(self, "updates")
        check_group(self.group)
        check_weights(self, "kl_weight", "reward_scale")


class State(eqx.Module):
    """All state of one seed's contextual BCQ."""

    encoder: Trained
    agent: bcq.Agent


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: CbcqConfig) -> State:
    """From random networks."""
    k_encoder, k_agent = jax.random.split(key)
    encoder = GaussianEncoder.init(k_encoder, feature_count(obs_dim, act_dim), config.context)
    return State(Trained.start(encoder), bcq.init(k_agent, obs_dim + config.context.latent, act_dim, config.agent))


def update(
    state: State, batch: MetaBatch, key: PRNGKeyArray, gamma: float, config: CbcqConfig
) -> tuple[State, dict[str, Array]]:
    """One update of encoder and critics, then of VAE and perturbation, which see z as given."""
    k_z, k_next, k_rest = jax.random.split(key, 3)
    agent = state.agent
    mean, variance = state.encoder.net(batch.context)
    noise = jax.random.normal(k_z, mean.shape, jnp.float32)
    rows = conditioned(batch, mean + jnp.sqrt(variance) * noise)

    latents = bcq.next_latents(agent, rows, k_next, config.agent)
    y = bcq.target(agent, rows, latents, gamma, config.agent.min_weight)
    nets, scale = (state.encoder.net, agent.critic.net), config.reward_scale / (1.0 - gamma)
    grads, metrics = jax.grad(critic_loss, has_aux=True)(nets, batch, noise, y, config.kl_weight, scale)
    encoder = state.encoder.step(grads[0], config.context.learning_rate)
    critic = agent.critic.step(grads[1], config.agent.learning_rate)
    agent, found = bcq.finish(agent, critic, rows, k_rest, config.agent)
    return State(encoder, agent), metrics | found


def learned(state: State) -> Conditioned:
    """What adaptation needs."""
    return Conditioned(state.encoder.net, bcq.policy(state.agent))
