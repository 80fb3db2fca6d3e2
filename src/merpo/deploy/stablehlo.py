"""A policy as a serialised `jax.export` function: versioned StableHLO, for processes that have JAX but not merpo."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from merpo.data import Preparation
from merpo.networks import Actor

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def stablehlo_bytes(actor: Actor, preparation: Preparation) -> bytes:
    """The deterministic policy float32 [batch, obs] -> [batch, act], any batch size, for CPUs and accelerators.

    Run it with `jax.export.deserialize(bytes).call(obs)`. Needs the `export` extra (flatbuffers).
    """
    mean, std, middle, half = (
        jnp.asarray(x)[None]
        for x in (preparation.obs_mean, preparation.obs_std, preparation.action_mid, preparation.action_half)
    )

    def act(obs: Array) -> Array:
        return middle + half * actor((obs - mean) / std).mode()

    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, mean.shape[-1]), jnp.float32)
    # an accelerator's default (TF32, bf16) would miss the policy's own actions by more than 1e-5
    with jax.default_matmul_precision("highest"):
        return bytes(jax.export.export(jax.jit(act), platforms=PLATFORMS)(shape).serialize())


def run_stablehlo(content: bytes, obs: Float[np.ndarray, "n obs"]) -> Float[np.ndarray, "n act"]:
    """The function's actions."""
    return np.asarray(jax.export.deserialize(bytearray(content)).call(jnp.asarray(obs)))
