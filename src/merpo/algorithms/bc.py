"""Behaviour cloning: the behaviour term of RAC alone, the line every offline learner has to beat."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from merpo import draws
from merpo.algorithms.divergences import clone_term
from merpo.compilation import compiled
from merpo.data.types import Transitions
from merpo.devices import map_jobs
from merpo.networks import Actor


class Cloned(eqx.Module):
    """A cloned policy and its hold-out -E[log pi(a|s)]: the floor of the clone term."""

    actor: Actor
    nll: Float[Array, "*job"]


def holdout_nll(
    actor: Actor, data: Transitions, held: Int[Array, " held"], valid: Bool[Array, " held"]
) -> Float[Array, ""]:
    """-mean log pi(a|s) over the valid hold-out rows."""
    logp = actor(data.obs[held]).log_prob(data.action[held])
    weight = valid.astype(jnp.float32)
    return -jnp.sum(logp * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def clone(
    actor: Actor,
    data: Transitions,
    train: Int[Array, " row"],
    count: Int[Array, ""],
    held: Int[Array, " held"],
    valid: Bool[Array, " held"],
    key: PRNGKeyArray,
    *,
    updates: int,
    batch: int,
    learning_rate: float,
    checks: int = 20,
) -> Cloned:
    """Maximise E_D[log pi(a|s)] by Adam on the first `count` of the rows `train`; keep the best on the hold-out.

    `updates` is rounded up to a multiple of `checks`, the number of looks at the hold-out."""
    opt = optax.adam(learning_rate)

    def loss(actor: Actor, index: Int[Array, " row"]) -> Float[Array, ""]:
        return clone_term(actor(data.obs[index]), data.action[index])

    def step(carry, k):
        actor, state = carry
        index = train[draws.place(draws.words(k, batch), count)]
        steps, state = opt.update(jax.grad(loss)(actor, index), state)
        return (optax.apply_updates(actor, steps), state), None

    def check(carry, k):
        actor, state, best, least = carry
        (actor, state), _ = jax.lax.scan(step, (actor, state), jax.random.split(k, -(-updates // checks)))
        nll = holdout_nll(actor, data, held, valid)
        best = jax.tree.map(lambda a, b: jnp.where(nll < least, a, b), actor, best)
        return (actor, state, best, jnp.minimum(nll, least)), None

    start = (actor, opt.init(actor), actor, jnp.asarray(jnp.inf, jnp.float32))
    (_, _, best, least), _ = jax.lax.scan(check, start, jax.random.split(key, checks))
    return Cloned(best, least)


@compiled(static_argnames=("updates", "batch", "learning_rate", "group", "mesh"))
def clone_jobs(
    actors: Actor,
    data: Transitions,
    task: Int[Array, " job"],
    train: Int[Array, "job row"],
    count: Int[Array, " job"],
    held: Int[Array, "job held"],
    valid: Bool[Array, "job held"],
    keys: Key[Array, " job"],
    *,
    updates: int,
    batch: int,
    learning_rate: float,
    group: int,
    mesh: Mesh | None = None,
) -> Cloned:
    """`clone` for every job, from `actors` ([job] leaves); `data` is [task, row, ...]."""

    def one(data: Transitions, args: tuple[Any, ...]) -> Cloned:
        actor, i, rows, n, held_rows, ok, k = args
        own = jax.tree.map(lambda x: x[i], data)
        return clone(actor, own, rows, n, held_rows, ok, k, updates=updates, batch=batch, learning_rate=learning_rate)

    return map_jobs(one, data, (actors, task, train, count, held, valid, keys), group, mesh)
