"""Batch PEARL (Rakelly et al. 2019 on fixed data): a probabilistic context encoder and SAC on (s, z).

    q(z | context) = prod_n N(z; f_mu(c_n), f_sigma(c_n));   z ~ q
    encoder and critics <- argmin  E[(Q(s, z, a) - y)^2] + kl_weight KL(q(z | context) || N(0, 1))

No correction for the data being fixed: that is what makes it the naive baseline of this field.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rivals import sac
from merpo.algorithms.rivals.encoders import (
    Conditioned,
    ContextConfig,
    GaussianEncoder,
    MetaBatch,
    conditioned,
    feature_count,
)
from merpo.algorithms.rivals.sac import SACConfig
from merpo.algorithms.rivals.settings import check_counts, check_weights
from merpo.algorithms.rivals.td import Trained, kl_to_normal, polyak, td_loss
from merpo.errors import check_group
from merpo.networks import TwinCritic


@dataclass(frozen=True)
class PearlConfig:
    """Settings of batch PEARL."""

    context: ContextConfig = field(default_factory=ContextConfig)
    """Encoder and meta-batch."""
    agent: SACConfig = field(default_factory=SACConfig)
    """Actor and critics."""
    kl_weight: float = 0.1
    """Weight of the information bottleneck."""
    updates: int = 1_000_000
    """Updates of everything."""
    group: int | None = None
    """Seeds batched by `vmap`; groups follow one another."""

    def __post_init__(self) -> None:
        check_counts(self, "updates")
        check_group(self.group)
        check_weights(self, "kl_weight")


class State(eqx.Module):
    """All state of one seed's PEARL."""

    encoder: Trained
    agent: sac.Agent


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: PearlConfig) -> State:
    """From random networks."""
    k_encoder, k_agent = jax.random.split(key)
    encoder = GaussianEncoder.init(k_encoder, feature_count(obs_dim, act_dim), config.context)
    return State(Trained.start(encoder), sac.init(k_agent, obs_dim + config.context.latent, act_dim, config.agent))


def critic_loss(
    nets: tuple[GaussianEncoder, TwinCritic],
    batch: MetaBatch,
    noise: Float[Array, "task z"],
    y: Float[Array, " row"],
    kl_weight: float,
    value_scale: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """TD error of Q(s, z, a) with z drawn from q, plus the bottleneck: what the critics and the encoder learn from.

    `value_scale` brings prepared values to those of the scaled rewards that `kl_weight` belongs to.
    """
    encoder, critic = nets
    mean, variance = encoder(batch.context)
    td, metrics = td_loss(critic, conditioned(batch, mean + jnp.sqrt(variance) * noise), y)
    kl = jnp.mean(jnp.sum(kl_to_normal(mean, 0.5 * jnp.log(variance)), axis=-1))
    return td + kl_weight / value_scale**2 * kl, metrics | {"context/kl": kl}


def update(
    state: State, batch: MetaBatch, key: PRNGKeyArray, gamma: float, config: PearlConfig
) -> tuple[State, dict[str, Array]]:
    """One update of encoder and critics, then of the actor; the target and the actor see z as given."""
    k_z, k_next, k_actor = jax.random.split(key, 3)
    agent, temperature = state.agent, config.agent.temperature(gamma)
    mean, variance = state.encoder.net(batch.context)
    noise = jax.random.normal(k_z, mean.shape, jnp.float32)
    rows = conditioned(batch, mean + jnp.sqrt(variance) * noise)

    y = sac.soft_target(agent.target, agent.actor.net, rows, gamma, temperature, k_next)
    nets = (state.encoder.net, agent.critic.net)
    grads, metrics = jax.grad(critic_loss, has_aux=True)(nets, batch, noise, y, config.kl_weight, 1.0 / temperature)
    encoder = state.encoder.step(grads[0], config.context.learning_rate)
    critic = agent.critic.step(grads[1], config.agent.learning_rate)
    agent = sac.Agent(agent.actor, critic, polyak(agent.target, critic.net, config.agent.tau))
    agent, found = sac.actor_step(agent, rows.obs, k_actor, gamma, config.agent)
    return State(encoder, agent), metrics | found


def learned(state: State) -> Conditioned:
    """What adaptation needs."""
    return Conditioned(state.encoder.net, state.agent.actor.net)
