"""FOCAL (Li, Yang, Luo 2021): a deterministic context encoder trained by a distance metric, and BRAC on (s, z).

    L = mean_{i,j}  1{same task} sqrt(||z_i - z_j||^2 + eps)  +  1{different tasks} 1 / (||z_i - z_j||^2 + eps_0)

The encoder learns from L alone: no Bellman error reaches it. CSRO and UNICORN (`csro`, `unicorn`) add a term to L and
are otherwise this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from merpo.algorithms.rivals import brac
from merpo.algorithms.rivals.brac import BRACConfig
from merpo.algorithms.rivals.encoders import (
    Conditioned,
    ContextConfig,
    MeanEncoder,
    MetaBatch,
    conditioned,
    feature_count,
)
from merpo.algorithms.rivals.settings import check_counts, check_weights
from merpo.algorithms.rivals.td import Trained
from merpo.errors import check_group


@dataclass(frozen=True)
class FocalConfig:
    """Settings of FOCAL."""

    context: ContextConfig = field(default_factory=ContextConfig)
    """Encoder and meta-batch."""
    agent: BRACConfig = field(default_factory=BRACConfig)
    """The behaviour-regularised agent."""
    metric_weight: float = 10.0
    """Weight of the metric loss. (It is the encoder's only loss: Adam takes no notice.)"""
    updates: int = 1_000_000
    """Updates of everything."""
    group: int | None = None
    """Seeds batched by `vmap`; groups follow one another."""

    def __post_init__(self) -> None:
        check_counts(self, "updates")
        check_group(self.group)
        check_weights(self, "metric_weight")


class State(eqx.Module):
    """All state of one seed's FOCAL."""

    encoder: Trained
    agent: brac.Agent


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: FocalConfig) -> State:
    """From random networks."""
    k_encoder, k_agent = jax.random.split(key)
    encoder = MeanEncoder.init(k_encoder, feature_count(obs_dim, act_dim), config.context)
    return State(Trained.start(encoder), brac.init(k_agent, obs_dim + config.context.latent, act_dim, config.agent))


def metric_loss(z: Float[Array, "task z"], task: Int[Array, " task"]) -> Float[Array, ""]:
    """L over all pairs i != j, each kind of pair averaged on its own (equation 11; eps 1e-3, eps_0 0.1).

    ||.||^2 is the mean square over z, as in the authors' code: the constants do not depend on the length of z.
    """
    square = jnp.mean((z[:, None] - z[None]) ** 2, axis=-1)
    other = ~jnp.eye(z.shape[0], dtype=bool)
    same = (task[:, None] == task[None]) & other
    differ = (task[:, None] != task[None]) & other

    def mean_over(value: Array, pairs: Array) -> Array:
        return jnp.sum(jnp.where(pairs, value, 0.0)) / jnp.maximum(jnp.sum(pairs.astype(jnp.float32)), 1.0)

    return mean_over(jnp.sqrt(square + 1e-3), same) + mean_over(1.0 / (square + 0.1), differ)


def encoder_loss(
    encoder: MeanEncoder, batch: MetaBatch, weight: float
) -> tuple[Float[Array, ""], Float[Array, "task z"]]:
    """The weighted metric loss, and the tasks' z."""
    z = encoder(batch.context)
    return weight * metric_loss(z, batch.task), z


def update(
    state: State, batch: MetaBatch, key: PRNGKeyArray, gamma: float, config: FocalConfig
) -> tuple[State, dict[str, Array]]:
    """One update of the encoder, then of the agent on (s, z) with z from before it."""
    (loss, z), grads = jax.value_and_grad(encoder_loss, has_aux=True)(state.encoder.net, batch, config.metric_weight)
    encoder = state.encoder.step(grads, config.context.learning_rate)
    agent, metrics = brac.update(state.agent, conditioned(batch, z), key, gamma, config.agent)
    return State(encoder, agent), metrics | {"context/loss": loss}


def learned(state: State) -> Conditioned:
    """What adaptation needs."""
    return Conditioned(state.encoder.net, state.agent.sac.actor.net)
