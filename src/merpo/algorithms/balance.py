"""MerPO-Adp: alpha read off the task's own data and model while learning. (The paper names it and has no formula.)

Which anchor is worth following is asked of the task's model and critics at logged states: with the value of one step,
G(s, a) = r + gamma V(s') for (s', r) ~ the ensemble at (s, a) and V(s') = min Qbar(s', a'), a' ~ pi(.|s'),

    d(s) = G(s, a_D) - G(s, a_c),    b = E_D[d] / sd_D[d],    alpha = sigmoid(logit(alpha_0) + gain b)

a_D the logged action and a_c ~ pi_c(.|s). By the performance difference lemma E_D[d] is, to first order, by how much
more the policy gains from a step with the behaviour policy than from one with pi_c; over its deviation it has no unit,
so that one gain serves all families. Q(s, a_D) - Q(s, a_c) would be simpler, but conservatism lifts the first and
lowers the second whatever they are worth; in G both actions are judged by the model, and both values are pi's.
b is a running mean over imaginations. alpha_0, where nothing speaks for either, is `config.alpha`: over one half, since
model and critics know least where pi_c leaves the log, and what they promise there is worth less than what was logged.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo import draws
from merpo.algorithms.rac_config import RACConfig
from merpo.dynamics.ensemble import TargetScale
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import predict
from merpo.dynamics.termination import Termination
from merpo.networks import Actor, TwinCritic

RATE = 0.25
"""Share of each imagination's figure in the running mean."""


def start() -> Float[Array, ""]:
    """b before anything is known: alpha is `config.alpha`."""
    return jnp.zeros((), jnp.float32)


def alpha_of(balance: Float[Array, "*job"], config: RACConfig) -> Float[Array, "*job"]:
    """sigmoid(logit(alpha_0) + gain b), alpha_0 kept within [0.001, 0.999]."""
    share = min(max(config.alpha, 1e-3), 1.0 - 1e-3)
    return jax.nn.sigmoid(math.log(share / (1.0 - share)) + config.alpha_gain * balance)


def evidence(
    actor: Actor,
    critic: TwinCritic,
    anchor: Actor,
    fitted: FittedModel,
    scale: TargetScale,
    termination: Termination,
    obs: Float[Array, "row obs"],
    logged: Float[Array, "row act"],
    key: PRNGKeyArray,
    gamma: float,
) -> Float[Array, ""]:
    """E[d]/sd[d] over logged rows, which are dealt evenly among the elites (their number must be a multiple).

    Both actions of a row meet the same noise: the model's, the termination's and the policy's.
    """
    elites, scale = fitted.elites.shape[0], fitted.within(scale)
    model = fitted.elite_members()
    act_dim, obs_dim = logged.shape[-1], obs.shape[-1]
    block = draws.words(key, obs.shape[0], 2 * act_dim + obs_dim + 2)
    normal, chance = draws.cut(block, 2 * act_dim + obs_dim + 1, 1)
    of_anchor, of_policy, of_model = draws.cut(draws.normal(normal), act_dim, act_dim, obs_dim + 1)
    followed = jnp.tanh(anchor(obs).sample_pre(of_anchor))

    def grouped(x: Float[Array, "row n"]) -> Float[Array, "elite part n"]:
        return x.reshape(elites, x.shape[0] // elites, x.shape[-1])

    def worth(action: Float[Array, "row act"]) -> Float[Array, "elite part"]:
        next_obs, reward, logit = predict(model, scale, grouped(obs), grouped(action), grouped(of_model))
        ended = termination(next_obs, logit, grouped(draws.uniform(chance))[..., 0])
        value = jnp.min(critic(next_obs, jnp.tanh(actor(next_obs).sample_pre(grouped(of_policy)))), axis=0)
        return reward + gamma * jnp.where(ended, 0.0, value)

    one, other = jax.lax.map(worth, jnp.stack([logged, followed]))
    gain = one - other
    return jnp.mean(gain) / (jnp.std(gain) + 1e-6)


def follow(balance: Float[Array, ""], found: Float[Array, ""]) -> Float[Array, ""]:
    """The running mean after one more figure."""
    return (1.0 - RATE) * balance + RATE * found
