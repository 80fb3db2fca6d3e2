"""Action-value networks: a pair of independent critics as one module with a leading [2] axis on every leaf."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.networks.mlp import MLP


class TwinCritic(eqx.Module):
    """Two critics evaluated in one batched product: `critic(obs, action)` has shape [2, *n]."""

    nets: MLP

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        layer_norm: bool = False,
        activation: str = "relu",
    ):
        def make(k: PRNGKeyArray) -> MLP:
            return MLP(obs_dim + act_dim, 1, hidden, k, activation, layer_norm)

        self.nets = eqx.filter_vmap(make)(jax.random.split(key, 2))

    def __call__(self, obs: Float[Array, "*n obs"], action: Float[Array, "*n act"]) -> Float[Array, "2 *n"]:
        """Both action-values, [2, *n]."""
        x = jnp.concatenate([obs, action], axis=-1)
        # One input for each critic: with a shared one XLA turns over the other factor of the first weights' gradient.
        x = jnp.broadcast_to(x, (2, *x.shape))
        return eqx.filter_vmap(lambda net, x: net(x)[..., 0], in_axes=(eqx.if_array(0), 0))(self.nets, x)

    def given(self, z: Float[Array, " z"]) -> TwinCritic:
        """Q(s, a, z) as critics of (s, a), for critics whose input is (s, a, z)."""
        return eqx.tree_at(lambda c: c.nets, self, eqx.filter_vmap(lambda net: net.given(z))(self.nets))
