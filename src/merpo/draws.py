"""Random numbers by the block: one call of the generator for all that a step needs, cut up and shaped afterwards.

On a CPU every call compiles to a loop of its own with the copies around it, and so do every split of a key and every
fold (`results/compile` has what that cost).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt32

KEY_WORDS = 2
"""Random words that make a key."""


def words(key: PRNGKeyArray, *shape: int) -> UInt32[Array, "*shape"]:
    """Words of 32 random bits each."""
    return jax.random.bits(key, shape, jnp.uint32)


def cut(block: Array, *widths: int) -> list[Array]:
    """The last axis cut into parts of these widths, in order; together they must be all of it."""
    if sum(widths) != block.shape[-1]:
        raise ValueError(f"widths={widths}: expected {block.shape[-1]} together, the length of the last axis.")
    ends = np.cumsum(widths)
    return [block[..., end - width : end] for end, width in zip(ends, widths, strict=True)]


def uniform(bits: UInt32[Array, "*n"]) -> Float[Array, "*n"]:
    """Uniform in [0, 1), in steps of 2^-24."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * 2.0**-24


def normal(bits: UInt32[Array, "*n"]) -> Float[Array, "*n"]:
    """Standard normal: the quantiles at (k + 1/2) 2^-23, k = 0, ..., 2^23 - 1; symmetric, none beyond 5.3."""
    within = ((bits >> 9).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-22 - 1.0
    return jnp.float32(np.sqrt(2.0)) * jax.scipy.special.erfinv(within)


def place(bits: UInt32[Array, "*n"], size: Int[Array, "*#n"] | int) -> Int[Array, "*n"]:
    """Uniform in {0, ..., size - 1}: the upper word of bits x size (Lemire 2019, without rejection), so that places
    differ in probability by size / 2^32 of it at most. 0 where size is."""
    size = jnp.asarray(size).astype(jnp.uint32)
    low = jnp.uint32(0xFFFF)
    carry = ((bits & low) * (size & low) >> 16) + (bits >> 16) * (size & low)
    upper = (bits >> 16) * (size >> 16)
    cross = (bits & low) * (size >> 16)
    return (upper + (carry >> 16) + (cross + (carry & low) >> 16)).astype(jnp.int32)


def key_of(bits: UInt32[Array, "*n two"]) -> Key[Array, "*n"]:
    """A key made of two random words, for what wants to draw by itself."""
    return jax.random.wrap_key_data(bits, impl="threefry2x32")
