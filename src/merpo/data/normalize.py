"""Standardisation of observations (or of any columns) by the pooled statistics of the training tasks."""

from __future__ import annotations

from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from merpo.data.types import TaskData
from merpo.errors import DataError

CONSTANT = 1e-6
"""A column whose standard deviation is below this, relative to max(1, |mean|), counts as constant."""


class Normalizer(eqx.Module):
    """`(x - mean) / std` per column; constant columns get `std` 1, so that they become 0 and nothing
    overflows.
    """

    mean: Float[Array, " dim"]
    std: Float[Array, " dim"]

    @classmethod
    def fit(cls, tasks: Iterable[TaskData]) -> Normalizer:
        """Mean and standard deviation of the observations, pooled over all rows of all `tasks` (e.g.
        `data.train`).

        Raises `DataError` when there are no rows.
        """
        return cls.from_rows(np.asarray(t.transitions.obs) for t in tasks)

    @classmethod
    def from_rows(cls, parts: Iterable[Float[np.ndarray, "_ dim"]]) -> Normalizer:
        """The same for any arrays with equal columns, without concatenating them.

        Sums are taken in float64 and the parts' variances combined as in Chan, Golub, LeVeque (1983), eq.
        2.1: a large common offset must not swallow a small spread.
        """
        count, mean, square = 0, np.zeros(()), np.zeros(())
        for part in parts:
            x = np.asarray(part, np.float64)
            if not len(x):
                continue
            part_mean = x.mean(axis=0)
            part_square = ((x - part_mean) ** 2).sum(axis=0)
            total = count + len(x)
            delta = part_mean - mean
            mean = mean + delta * (len(x) / total)
            square = square + part_square + delta**2 * (count * len(x) / total)
            count = total
        if count == 0:
            raise DataError("tasks has no rows: expected at least one transition. Check the split you selected.")
        std = np.sqrt(square / count)
        std = np.where(std <= CONSTANT * np.maximum(1.0, np.abs(mean)), 1.0, std)
        return cls(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))

    def __call__(self, x: Float[Array | np.ndarray, "*n dim"]) -> Float[Array, "*n dim"]:
        """Standardise the last axis."""
        batch = tuple(range(x.ndim - 1))
        return (jnp.asarray(x) - jnp.expand_dims(self.mean, batch)) / jnp.expand_dims(self.std, batch)

    def inverse(self, z: Float[Array | np.ndarray, "*n dim"]) -> Float[Array, "*n dim"]:
        """Back to the data's units."""
        batch = tuple(range(z.ndim - 1))
        return jnp.asarray(z) * jnp.expand_dims(self.std, batch) + jnp.expand_dims(self.mean, batch)
