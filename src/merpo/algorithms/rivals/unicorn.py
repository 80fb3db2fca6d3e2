"""UNICORN, supervised (Li et al. 2024): FOCAL's metric loss and a decoder that must predict the task from z.

    L = recon_weight E[ ||D(s, a, z) - (s' - s, r)||^2 ] + metric_weight L_FOCAL

The paper shows that FOCAL bounds the mutual information of z and task from above, a reconstruction from below, and
weights the two. The decoder predicts other rows of the task than those z was read from.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rivals import brac, focal
from merpo.algorithms.rivals.encoders import Conditioned, MeanEncoder, MetaBatch, conditioned, features
from merpo.algorithms.rivals.focal import FocalConfig, metric_loss
from merpo.algorithms.rivals.settings import check_weights
from merpo.algorithms.rivals.td import Trained
from merpo.networks import MLP


@dataclass(frozen=True)
class UnicornConfig(FocalConfig):
    """Settings of UNICORN: FOCAL's and one weight."""

    metric_weight: float = 0.1
    """Weight of the metric loss."""
    recon_weight: float = 1.0
    """Weight of the reconstruction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "recon_weight")


class State(eqx.Module):
    """All state of one seed's UNICORN."""

    encoder: Trained
    decoder: Trained
    agent: brac.Agent


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: UnicornConfig) -> State:
    """From random networks."""
    k_focal, k_decoder = jax.random.split(key)
    base = focal.init(k_focal, obs_dim, act_dim, config)
    decoder = MLP(obs_dim + act_dim + config.context.latent, obs_dim + 1, config.context.hidden, k_decoder)
    return State(base.encoder, Trained.start(decoder), base.agent)


def recon_loss(
    decoder: MLP, seen: Float[Array, "task row feature"], z: Float[Array, "task z"], known: int
) -> Float[Array, ""]:
    """Mean squared error of D(s, a, z) against what follows the first `known` features: r and s' - s."""
    wide = jnp.broadcast_to(z[:, None], (*seen.shape[:2], z.shape[-1]))
    found = decoder(jnp.concatenate([seen[..., :known], wide], axis=-1))
    return jnp.mean((found - seen[..., known:]) ** 2)


def encoder_loss(
    nets: tuple[MeanEncoder, MLP], batch: MetaBatch, gamma: float, config: UnicornConfig
) -> tuple[Float[Array, ""], tuple[Array, dict[str, Array]]]:
    """L, and the tasks' z."""
    encoder, decoder = nets
    z = encoder(batch.context)
    known = batch.rows.obs.shape[-1] + batch.rows.action.shape[-1]
    recon, metric = recon_loss(decoder, features(batch.rows, gamma), z, known), metric_loss(z, batch.task)
    loss = config.recon_weight * recon + config.metric_weight * metric
    return loss, (z, {"context/loss": metric, "unicorn/recon": recon})


def update(
    state: State, batch: MetaBatch, key: PRNGKeyArray, gamma: float, config: UnicornConfig
) -> tuple[State, dict[str, Array]]:
    """One update of encoder and decoder, then of the agent."""
    nets = (state.encoder.net, state.decoder.net)
    grads, (z, found) = jax.grad(encoder_loss, has_aux=True)(nets, batch, gamma, config)
    encoder = state.encoder.step(grads[0], config.context.learning_rate)
    decoder = state.decoder.step(grads[1], config.context.learning_rate)
    agent, metrics = brac.update(state.agent, conditioned(batch, z), key, gamma, config.agent)
    return State(encoder, decoder, agent), metrics | found


def learned(state: State) -> Conditioned:
    """What adaptation needs."""
    return Conditioned(state.encoder.net, state.agent.sac.actor.net)
