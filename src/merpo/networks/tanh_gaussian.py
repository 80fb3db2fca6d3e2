"""The tanh-Gaussian policy: `a = tanh(u)`, `u ~ N(mean, diag exp(2 log_std))`.

Log-densities are taken from the pre-tanh value wherever it is known: recovering `u` from a saturated action gives
infinities. For logged actions, where only `a` is known, `a` is pulled inside `+-ACTION_LIMIT` first.
"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.networks.mlp import MLP

ACTION_LIMIT = 0.999
"""Logged actions are clipped to this before `atanh` (|u| <= 3.8), so that saturated logs keep finite densities."""
LOG_2PI = 1.8378770664093453

Noise = PRNGKeyArray | Float[Array, "*n act"]
"""What a sample is made of: a key, or the standard normal numbers that the key gives, drawn before."""


class TanhGaussian(eqx.Module):
    """Distribution over actions in (-1, 1); event axis last, any batch axes before it."""

    mean: Float[Array, "*n act"]
    log_std: Float[Array, "*n act"]

    def mode(self) -> Float[Array, "*n act"]:
        """The deterministic action `tanh(mean)`."""
        return jnp.tanh(self.mean)

    def sample_pre(self, noise: Noise) -> Float[Array, "*n act"]:
        """A reparametrised pre-tanh sample `u`."""
        if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
            noise = jax.random.normal(noise, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob_pre(self, u: Float[Array, "*n act"]) -> Float[Array, "*n"]:
        """log-density of `tanh(u)`, from `u`: sum_i log N(u_i) - log(1 - tanh(u_i)^2) (SAC, appendix C)."""
        z = (u - self.mean) * jnp.exp(-self.log_std)
        normal = -0.5 * (z * z + LOG_2PI) - self.log_std
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), exact and finite for every u
        jacobian = 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))
        return jnp.sum(normal - jacobian, axis=-1)

    def log_prob(self, action: Float[Array, "*n act"]) -> Float[Array, "*n"]:
        """log-density of a logged action, clipped to `+-ACTION_LIMIT`."""
        return self.log_prob_pre(jnp.arctanh(jnp.clip(action, -ACTION_LIMIT, ACTION_LIMIT)))

    def kl(self, other: TanhGaussian) -> Float[Array, "*n"]:
        """KL(self || other): that of the pre-tanh Gaussians, since both share the bijector."""
        ratio = jnp.exp(2.0 * (self.log_std - other.log_std))
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * jnp.sum(ratio + shift * shift - 1.0 - 2.0 * (self.log_std - other.log_std), axis=-1)


class Actor(eqx.Module):
    """Network from normalised observation to a `TanhGaussian`; mean and log-deviation are softly bounded."""

    net: MLP
    log_std_min: float = eqx.field(static=True)
    log_std_max: float = eqx.field(static=True)
    mean_max: float = eqx.field(static=True)

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        log_std_min: float = -5.0,
        log_std_max: float = 1.0,
        mean_max: float = 5.0,
        activation: str = "relu",
    ):
        self.net = MLP(obs_dim, 2 * act_dim, hidden, key, activation, out_scale=0.1)
        self.log_std_min, self.log_std_max, self.mean_max = log_std_min, log_std_max, mean_max

    def __call__(self, obs: Float[Array, "*n obs"]) -> TanhGaussian:
        """The distribution over actions at each observation."""
        mean, raw = jnp.split(self.net(obs), 2, axis=-1)
        # tanh-squashed bounds keep a gradient where a clip would have none
        mean = self.mean_max * jnp.tanh(mean / self.mean_max)
        half = 0.5 * (self.log_std_max - self.log_std_min)
        log_std = self.log_std_min + half * (jnp.tanh(raw) + 1.0)
        return TanhGaussian(mean, log_std)

    def given(self, z: Float[Array, " z"]) -> Actor:
        """pi(. | s, z) as an actor of s alone, for an actor whose input is (s, z)."""
        return eqx.tree_at(lambda a: a.net, self, self.net.given(z))
