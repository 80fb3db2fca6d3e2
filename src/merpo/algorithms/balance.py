"""MerPO-Adp: alpha read off the task's own data while learning. (The paper names an adaptive alpha and no formula.)

Which anchor is worth following is asked of the task's own critics on the task's own states: with
d(s) = min Q(s, a_D) - min Q(s, a_c), a_D the logged action and a_c ~ pi_c(.|s),

    b = E_D[d] / sd_D[d],    alpha = sigmoid(gain b)

By the performance difference lemma E_D[d] is, to first order, by how much more the policy gains from a step with the
behaviour policy than from one with pi_c; over its deviation it has no unit, so that one gain serves all families. Where
pi_c is the better guide alpha falls below one half, where it is the worse one alpha rises. b is a running mean.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rac_config import RACConfig
from merpo.networks import Actor, TwinCritic

ROWS = 96
"""Real rows of a batch that are asked about, at most: the mean runs over many batches."""
RATE = 0.01
"""Share of each update's figure in the running mean."""


def start(config: RACConfig) -> Float[Array, ""]:
    """b at which alpha is `config.alpha`: where adaptation of it starts."""
    share = min(max(config.alpha, 1e-3), 1.0 - 1e-3)
    return jnp.log(jnp.asarray(share / (1.0 - share), jnp.float32)) / config.alpha_gain


def alpha_of(balance: Float[Array, "*job"], config: RACConfig) -> Float[Array, "*job"]:
    """sigmoid(gain b)."""
    return jax.nn.sigmoid(config.alpha_gain * balance)


def evidence(
    critic: TwinCritic,
    anchor: Actor,
    obs: Float[Array, "row obs"],
    logged: Float[Array, "row act"],
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    """E[d]/sd[d] over the first `ROWS` rows of a batch of real ones."""
    obs, logged = obs[:ROWS], logged[:ROWS]
    followed = jnp.tanh(anchor(obs).sample_pre(key))
    q = jnp.min(critic(jnp.concatenate([obs, obs]), jnp.concatenate([logged, followed])), axis=0)
    gain = q[: obs.shape[0]] - q[obs.shape[0] :]
    return jnp.mean(gain) / (jnp.std(gain) + 1e-6)


def follow(balance: Float[Array, ""], found: Float[Array, ""]) -> Float[Array, ""]:
    """The running mean after one more figure."""
    return (1.0 - RATE) * balance + RATE * found
