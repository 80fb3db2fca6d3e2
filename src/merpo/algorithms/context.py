"""What a task is, as its own model sees it: the context z of the meta-policy pi_c(a | s, z).

pi_c alone sees no task; where tasks want opposite actions it can only blend them. Here z is read off the task's
adapted dynamics model: its predictions of (s' - s, r) at fixed probe rows, projected on the directions in which the
training tasks' predictions differ most (principal components). A function is compared, not weights, so networks that
compute the same thing have the same z; nothing else is trained, and a new task needs its log alone.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from merpo.data.types import Stacked
from merpo.dynamics.fit import FittedModel

PROBES = 256
"""Probe rows, dealt evenly among the training tasks."""
LIMIT = 3.0
"""z is kept within this many deviations, where it may leave the training tasks' range."""


class Context(eqx.Module):
    """The map from a task's model to z."""

    probes: Float[Array, "*seed probe in"]
    """Logged (s, a) of the training tasks, prepared units."""
    mean: Float[Array, "*seed feature"]
    """Mean prediction over the training tasks."""
    basis: Float[Array, "*seed feature z"]
    """Principal directions over the deviation along the first: a direction in which tasks hardly differ stays small."""
    low: Float[Array, "*seed z"] | None = None
    """Least z of the training tasks; None: z goes as far as `LIMIT`."""
    high: Float[Array, "*seed z"] | None = None
    """Greatest z of the training tasks."""

    def __call__(self, fitted: FittedModel) -> Float[Array, " z"]:
        """z of one task; of one beyond the box of the training tasks' z, the nearest in it."""
        z = jnp.matmul(signature(fitted, self.probes) - self.mean, self.basis)
        if self.low is None or self.high is None:
            return jnp.clip(z, -LIMIT, LIMIT)
        return jnp.clip(z, self.low, self.high)

    @staticmethod
    def like(obs_dim: int, act_dim: int, dims: int, bounded: bool = False) -> Context:
        """An instance of the right shapes, for loading into; `bounded`: with the training tasks' range."""
        features = PROBES * (obs_dim + 1)
        shapes = [(PROBES, obs_dim + act_dim), (features,), (features, dims)] + bounded * [(dims,), (dims,)]
        return Context(*(jnp.zeros(s, jnp.float32) for s in shapes))


def signature(fitted: FittedModel, probes: Float[Array, "probe in"]) -> Float[Array, " feature"]:
    """The elites' mean prediction at every probe, one long vector."""
    model = fitted.elite_members()
    mean, _, _ = model(jnp.broadcast_to(probes, (fitted.elites.shape[0], *probes.shape)))
    return jnp.mean(mean, axis=0).reshape(-1)


def choose_probes(stacked: Stacked, seed: int) -> Float[Array, "probe in"]:
    """`PROBES` logged (s, a), task after task in turn, rows drawn with `seed`."""
    rng = np.random.default_rng([seed, 11])
    size = np.asarray(stacked.size)
    task = np.arange(PROBES) % len(size)
    row = (rng.random(PROBES) * size[task]).astype(np.int64)
    t = stacked.transitions
    rows = [np.asarray(x)[task, row] for x in (t.obs, t.action)]
    return jnp.asarray(np.concatenate(rows, axis=-1))


def fit_context(fitted: FittedModel, probes: Float[Array, "probe in"], dims: int, bounded: bool = False) -> Context:
    """Principal components of the training tasks' predictions ([task] leaves); beyond n - 1 of them z is zero.

    `bounded` keeps every z in their range.
    """
    features = np.asarray(jax.vmap(lambda f: signature(f, probes))(fitted), np.float64)
    mean = features.mean(axis=0)
    _, size, directions = np.linalg.svd(features - mean, full_matrices=False)
    rank = min(dims, len(features) - 1)
    basis = np.zeros((features.shape[1], dims))
    if rank and size[0] > 0.0:
        basis[:, :rank] = directions[:rank].T * (np.sqrt(len(features)) / size[0])
    found = Context(probes, jnp.asarray(mean, jnp.float32), jnp.asarray(basis, jnp.float32))
    if not bounded:
        return found
    z = jax.vmap(lambda f: found(f))(fitted)
    return Context(found.probes, found.mean, found.basis, jnp.min(z, axis=0), jnp.max(z, axis=0))
