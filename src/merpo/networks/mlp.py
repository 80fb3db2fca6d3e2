"""Multilayer perceptrons that take any leading batch axes; ensembles are the same module with a stacked axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


class Dense(eqx.Module):
    """Affine map `x @ weight + bias`, the weight stored [in, out] so that batches need no transpose."""

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"]

    def __init__(self, n_in: int, n_out: int, key: PRNGKeyArray, scale: float = 1.0):
        # Uniform(+-1/sqrt(fan_in)), the field's usual initialisation; `scale` shrinks output layers.
        bound = scale / max(n_in, 1) ** 0.5
        kw, kb = jax.random.split(key)
        self.weight = jax.random.uniform(kw, (n_in, n_out), jnp.float32, -bound, bound)
        self.bias = jax.random.uniform(kb, (n_out,), jnp.float32, -bound, bound)

    def __call__(self, x: Float[Array, "*n in"]) -> Float[Array, "*n out"]:
        """The network's output; any leading axes."""
        return jnp.matmul(x, self.weight) + jnp.expand_dims(self.bias, tuple(range(x.ndim - 1)))


class MLP(eqx.Module):
    """Fully connected network; optional layer normalisation (without learned scale) before each activation."""

    layers: tuple[Dense, ...]
    activation: str = eqx.field(static=True)
    layer_norm: bool = eqx.field(static=True)

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        activation: str = "relu",
        layer_norm: bool = False,
        out_scale: float = 1.0,
    ):
        sizes = [n_in, *hidden, n_out]
        keys = jax.random.split(key, len(sizes) - 1)
        last = len(sizes) - 2
        self.layers = tuple(
            Dense(sizes[i], sizes[i + 1], keys[i], out_scale if i == last else 1.0) for i in range(last + 1)
        )
        self.activation = activation
        self.layer_norm = layer_norm

    def __call__(self, x: Float[Array, "*n in"]) -> Float[Array, "*n out"]:
        """The network's output; any leading axes."""
        act = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            x = layer(x)
            if self.layer_norm:
                x = x - jnp.mean(x, axis=-1, keepdims=True)
                x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
            x = act(x)
        return self.layers[-1](x)

    def given(self, tail: Float[Array, " tail"]) -> MLP:
        """The same function with its last inputs held at `tail`: they are folded into the first bias."""
        first = self.layers[0]
        kept = first.weight.shape[0] - tail.shape[0]
        bias = first.bias + jnp.einsum("z,zo->o", tail, first.weight[kept:])
        return eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[0].bias), self, (first.weight[:kept], bias))
