"""Would the behaviour's clone do better than the adapted policy? Asked of the model that the policy was learned in.

A policy optimised in its task's model should return more there than the behaviour it was held to. Where

    lead = E_{s ~ D}[ R_H(clone; s) - R_H(pi; s) ]

is positive all the same, by `SURE` standard errors and in every elite, adapting has failed (as where the log is small
or its actions are noise, and the policy has learned that noise by heart), and the clone takes the policy's place. R_H
is the undiscounted return of H imagined steps of the deterministic policy from a logged state; the noise is the same.
The comparison leans to the adapted policy: the model errs in favour of what was optimised in it, while the clone stays
where the log is. Nothing of the kind holds for pi_c, which may leave the log as far as the adapted policy does.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from merpo import draws
from merpo.algorithms.merpo import Jobs, job_keys
from merpo.compilation import compiled
from merpo.devices import map_jobs
from merpo.dynamics.imagination import imagined_returns
from merpo.networks import Actor

ROWS = 120
"""Logged states per elite that rollouts start from."""
SURE = 2.0
"""Standard errors by which the clone has to lead."""


class Guarded(eqx.Module):
    """What is kept of every job."""

    actor: Actor
    cloned: Bool[Array, "*job"]
    """Whether it is the clone."""
    lead: Float[Array, "*job"]
    """The least lower bound of the clone's lead over the elites, in prepared rewards per rollout."""


def least_lead(clone: Float[Array, "elite part"], policy: Float[Array, "elite part"]) -> Float[Array, ""]:
    """The lower bound of the mean difference, in the elite where it is least."""
    lead = clone - policy
    error = jnp.std(lead, axis=1, ddof=1) / jnp.sqrt(lead.shape[1])
    return jnp.min(jnp.mean(lead, axis=1) - SURE * error)


@compiled(static_argnames=("steps", "group", "mesh"))
def keep_better(
    actors: Actor,
    clones: Actor,
    jobs: Jobs,
    key: PRNGKeyArray,
    *,
    steps: int,
    group: int,
    mesh: Mesh | None = None,
) -> Guarded:
    """Of every job the adapted policy, or the clone where that surely leads ([job] leaves)."""

    def one(jobs: Jobs, args: tuple[Any, ...]) -> Guarded:
        actor, clone, task, fitted, k_start, k_roll = args
        index = draws.place(draws.words(k_start, ROWS * fitted.elites.shape[0]), jobs.size[task])
        start = jobs.data.obs[task, index]
        both = jax.tree.map(lambda *x: jnp.stack(x), actor, clone)
        policy, other = jax.lax.map(
            lambda a: imagined_returns(a, fitted, jobs.scale, jobs.termination, start, k_roll, steps), both
        )
        lead = least_lead(other, policy)
        kept = jax.tree.map(lambda a, b: jnp.where(lead > 0.0, b, a), actor, clone)
        return Guarded(kept, lead > 0.0, lead)

    return map_jobs(one, jobs, (actors, clones, jobs.task, jobs.fitted, *job_keys(key, jobs, 2)), group, mesh)
