"""The two kinds of policy a learner may leave behind, and how a stored one is described and built again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from merpo.algorithms.rivals.bcq import VAE, Constrained, Perturbation
from merpo.networks import MLP, Actor, TwinCritic

PolicyNet = Actor | Constrained
"""From observations to a `TanhGaussian`; `given(z)` holds a context."""


def describe(net: PolicyNet) -> dict[str, Any]:
    """What `skeleton` needs besides the arrays, as JSON values."""
    if isinstance(net, Actor):
        return {"kind": "actor", "hidden": net.net.widths}
    return {
        "kind": "constrained",
        "hidden": net.critic.nets.widths,
        "vae_hidden": net.vae.decoder.widths,
        "perturbation": net.perturbation.limit,
        "candidates": int(net.latents.shape[-2]),
        "z": int(net.z.shape[-1]),
    }


def skeleton(description: Mapping[str, Any], obs_dim: int, act_dim: int) -> PolicyNet:
    """A network of the described shapes, for loading into."""
    key, hidden = jax.random.key(0), tuple(description["hidden"])
    if description["kind"] == "actor":
        return Actor(obs_dim, act_dim, hidden, key)
    obs_dim, x = obs_dim + description["z"], 2 * act_dim
    return Constrained(
        VAE.init(key, obs_dim, act_dim, tuple(description["vae_hidden"])),
        Perturbation(MLP(obs_dim + act_dim, act_dim, hidden, key), description["perturbation"]),
        TwinCritic(obs_dim, act_dim, hidden, key),
        jnp.zeros((description["candidates"], x), jnp.float32),
        jnp.zeros(description["z"], jnp.float32),
    )
