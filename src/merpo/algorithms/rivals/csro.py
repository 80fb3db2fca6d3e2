"""CSRO (Gao et al. 2023): FOCAL whose z is kept from telling what the behaviour policy did.

    L = metric_weight L_FOCAL + club_weight CLUB(z; (s, a))
    CLUB = E[log q(z | s, a)] - E[log q(z' | s, a)],   q <- argmax E[log q(z | s, a)],   z' of another row

CLUB bounds the mutual information of z with (s, a) from above (Cheng et al. 2020); z here is every row's own. The
paper's other half, collecting the context with a non-prior strategy, belongs to online adaptation: here the context is
the new task's log.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rivals import brac, focal
from merpo.algorithms.rivals.encoders import Conditioned, MeanEncoder, MetaBatch, conditioned
from merpo.algorithms.rivals.focal import FocalConfig, metric_loss
from merpo.algorithms.rivals.settings import check_weights
from merpo.algorithms.rivals.td import Trained
from merpo.networks import MLP


@dataclass(frozen=True)
class CsroConfig(FocalConfig):
    """Settings of CSRO: FOCAL's and one weight."""

    club_weight: float = 25.0
    """Weight of the upper bound of I(z; s, a)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "club_weight")


class State(eqx.Module):
    """All state of one seed's CSRO."""

    encoder: Trained
    club: Trained
    agent: brac.Agent


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: CsroConfig) -> State:
    """From random networks."""
    k_focal, k_club = jax.random.split(key)
    base = focal.init(k_focal, obs_dim, act_dim, config)
    club = MLP(obs_dim + act_dim, 2 * config.context.latent, config.context.hidden, k_club)
    return State(base.encoder, Trained.start(club), base.agent)


def predicted(club: MLP, s_a: Float[Array, "*n s_a"]) -> tuple[Float[Array, "*n z"], Float[Array, "*n z"]]:
    """Mean and variance of q(z | s, a)."""
    mean, raw = jnp.split(club(s_a), 2, axis=-1)
    return mean, jax.nn.softplus(raw) + 1e-4


def club_fit(club: MLP, s_a: Float[Array, "*n s_a"], z: Float[Array, "*n z"]) -> Float[Array, ""]:
    """-E[log q(z | s, a)], per coordinate and without the constant."""
    mean, variance = predicted(club, s_a)
    return 0.5 * jnp.mean((z - mean) ** 2 / variance + jnp.log(variance))


def club_bound(club: MLP, s_a: Float[Array, "task row s_a"], z: Float[Array, "task row z"]) -> Float[Array, ""]:
    """2 (E[log q(z | s, a)] - E[log q(z' | s, a)]) per coordinate, z' over all rows of the same context.

    The mean over all pairs needs only the first two moments of z'.
    """
    mean, variance = predicted(club, s_a)
    own = (z - mean) ** 2
    first, second = jnp.mean(z, axis=-2, keepdims=True), jnp.mean(z * z, axis=-2, keepdims=True)
    others = second - 2.0 * mean * first + mean * mean
    return jnp.mean((others - own) / variance)


def encoder_loss(
    encoder: MeanEncoder, club: MLP, s_a: Float[Array, "task row s_a"], batch: MetaBatch, config: CsroConfig
) -> tuple[Float[Array, ""], tuple[Array, dict[str, Array]]]:
    """L, and the tasks' z."""
    each = encoder.each(batch.context)
    z, bound = jnp.mean(each, axis=-2), club_bound(club, s_a, each)
    metric = metric_loss(z, batch.task)
    return config.metric_weight * metric + config.club_weight * bound, (z, {"context/loss": metric, "csro/club": bound})


def update(
    state: State, batch: MetaBatch, key: PRNGKeyArray, gamma: float, config: CsroConfig
) -> tuple[State, dict[str, Array]]:
    """One update of q, of the encoder, of the agent."""
    s_a = batch.context[..., : state.club.net.layers[0].weight.shape[0]]
    grads = jax.grad(club_fit)(state.club.net, s_a, state.encoder.net.each(batch.context))
    club = state.club.step(grads, config.context.learning_rate)
    grads, (z, found) = jax.grad(encoder_loss, has_aux=True)(state.encoder.net, club.net, s_a, batch, config)
    encoder = state.encoder.step(grads, config.context.learning_rate)
    agent, metrics = brac.update(state.agent, conditioned(batch, z), key, gamma, config.agent)
    return State(encoder, club, agent), metrics | found


def learned(state: State) -> Conditioned:
    """What adaptation needs."""
    return Conditioned(state.encoder.net, state.agent.sac.actor.net)
