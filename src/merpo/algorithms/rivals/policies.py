"""The two kinds of policy a learner may leave behind, and how a stored one is described and built again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from merpo.algorithms.rivals.bcq import VAE, Constrained, Perturbation
from merpo.errors import ConfigError
from merpo.networks import MLP, Actor, TwinCritic

LARGEST = 2**20
"""Of widths and counts in a description."""
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


def check_description(description: Any) -> None:
    """ConfigError unless it is one that `describe` gives."""
    kind = description.get("kind") if isinstance(description, Mapping) else None
    if kind not in ("actor", "constrained"):
        raise ConfigError(f"network={description!r}: expected a policy of kind actor or constrained.")

    def count(x: Any) -> bool:
        return type(x) is int and 1 <= x <= LARGEST

    for name in ("hidden",) if kind == "actor" else ("hidden", "vae_hidden"):
        widths = description.get(name)  # none is a linear policy
        if not isinstance(widths, list) or not all(count(w) for w in widths):
            raise ConfigError(f"network.{name}={widths!r}: expected the widths of the hidden layers.")
    if kind == "actor":
        return
    limit, z = description.get("perturbation"), description.get("z")
    if not isinstance(limit, int | float) or not 0.0 <= limit <= 2.0:
        raise ConfigError(f"network.perturbation={limit!r}: expected a number in [0, 2].")
    if not count(description.get("candidates")) or type(z) is not int or not 0 <= z <= LARGEST:
        raise ConfigError("network: expected whole numbers as candidates (>= 1) and z (>= 0).")


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
