"""Imagination: short rollouts of a policy in a task's ensemble, stopped at termination, kept in a ring buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from merpo import draws
from merpo.data.types import Transitions
from merpo.dynamics.ensemble import Ensemble, TargetScale
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.termination import Termination

Act = Callable[[Float[Array, "*n obs"], UInt32[Array, "*n word"]], Float[Array, "*n act"]]
"""A policy's actions, and the random words that it may use, as many per row as it says."""


def predict(
    model: Ensemble,
    scale: TargetScale,
    obs: Float[Array, "member row obs"],
    action: Float[Array, "member row act"],
    noise: Float[Array, "member row out"],
) -> tuple[Float[Array, "member row obs"], Float[Array, "member row"], Float[Array, "member row"]]:
    """A sample of (s', r), made of standard normal `noise`, and the termination logit; group m of rows goes through
    member m alone."""
    x = jnp.concatenate([obs, action], axis=-1)
    mean, logvar, logit = model(x)
    draw = mean + jnp.exp(0.5 * logvar) * noise
    if model.reward is not None:  # the reward of the state that was drawn
        mean, logvar, _ = model(x, draw[..., :-1])
        draw = draw.at[..., -1].set(mean[..., -1] + jnp.exp(0.5 * logvar[..., -1]) * noise[..., -1])
    draw = draw * scale.std[None, None] + scale.mean[None, None]
    # Far from the data a Gaussian network can leave every plausible range; the widened logged range holds it.
    next_obs = jnp.clip(obs + draw[..., :-1], scale.obs_low[None, None], scale.obs_high[None, None])
    reward = draw[..., -1]
    if scale.logged is not None:
        reward = jnp.minimum(reward, scale.logged.cap(next_obs))
    return next_obs, reward, logit


def imagine(
    fitted: FittedModel,
    scale: TargetScale,
    act: Act,
    start: Float[Array, "row obs"],
    key: PRNGKeyArray,
    length: int,
    termination: Termination,
    own_words: int = 0,
) -> tuple[Transitions, Bool[Array, " step_x_row"]]:
    """Roll `length` steps from every start row; each row keeps to one elite (rows are dealt evenly among them).

    `own_words` random words per row and step are for `act`.
    Returns flat transitions [length * rows] and which of them are real: rows after an imagined termination are not.
    The number of rows must be a multiple of the number of elites.
    """
    elites, scale = fitted.elites.shape[0], fitted.within(scale)
    model = fitted.elite_members()
    rows, obs_dim = start.shape
    grouped = start.reshape(elites, rows // elites, obs_dim)

    def step(carry, k):
        obs, alive = carry
        block = draws.words(k, *obs.shape[:-1], own_words + obs_dim + 2)
        own, noise, chance = draws.cut(block, own_words, obs_dim + 1, 1)
        action = act(obs, own)
        next_obs, reward, logit = predict(model, scale, obs, action, draws.normal(noise))
        ended = termination(next_obs, logit, draws.uniform(chance[..., 0]))
        out = Transitions(obs, action, reward, next_obs, ended, jnp.zeros_like(ended))
        return (next_obs, alive & ~ended), (out, alive)

    alive = jnp.ones((elites, rows // elites), bool)
    _, (out, valid) = jax.lax.scan(step, (grouped, alive), jax.random.split(key, length))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), out)
    return flat, valid.reshape(-1)


def imagined_returns(
    actor: Callable[[Float[Array, "*n obs"]], Any],
    fitted: FittedModel,
    scale: TargetScale,
    termination: Termination,
    start: Float[Array, "row obs"],
    key: PRNGKeyArray,
    steps: int,
    discount: float = 1.0,
) -> Float[Array, "elite part"]:
    """Return of `steps` steps of the deterministic action, `actor(obs).mode()`, from every row of `start`.

    All in prepared units. The rows are dealt among the elites, so that their number must be a multiple of theirs.
    """

    def act(obs: Float[Array, "*n obs"], own: UInt32[Array, "*n word"]) -> Float[Array, "*n act"]:
        del own
        action: Float[Array, "*n act"] = actor(obs).mode()
        return action

    rows, valid = imagine(fitted, scale, act, start, key, steps, termination)
    reward = jnp.where(valid, rows.reward, 0.0).reshape(steps, fitted.elites.shape[0], -1)
    weight = discount ** jnp.arange(steps, dtype=jnp.float32)
    return jnp.sum(weight[:, None, None] * reward, axis=0)


class Ring(eqx.Module):
    """A fixed-size buffer of imagined transitions; the oldest are overwritten first."""

    rows: Transitions
    position: Int[Array, ""]
    size: Int[Array, ""]

    @staticmethod
    def empty(capacity: int, obs_dim: int, act_dim: int) -> Ring:
        """No rows yet."""
        one, flag = jnp.zeros((capacity,), jnp.float32), jnp.zeros((capacity,), bool)
        obs = jnp.zeros((capacity, obs_dim), jnp.float32)
        rows = Transitions(obs, jnp.zeros((capacity, act_dim), jnp.float32), one, obs, flag, flag)
        return Ring(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, new: Transitions, valid: Bool[Array, " row"]) -> Ring:
        """Write the valid rows one after another (wrapping round); invalid ones leave no gap."""
        capacity = self.rows.reward.shape[0]
        rank = jnp.cumsum(valid.astype(jnp.int32)) - 1
        # row `capacity` does not exist: writes there are dropped
        slot = jnp.where(valid, (self.position + rank) % capacity, capacity)
        count = rank[-1] + 1
        rows = jax.tree.map(lambda old, x: old.at[slot].set(x, mode="drop"), self.rows, new)
        return Ring(rows, (self.position + count) % capacity, jnp.minimum(self.size + count, capacity))

    def at(self, index: Int[Array, " row"]) -> Transitions:
        """The rows in these places."""
        return jax.tree.map(lambda x: x[index], self.rows)
