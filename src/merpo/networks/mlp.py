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


def _row_mean(x: Float[Array, "*n unit"]) -> Float[Array, "*n 1"]:
    """The mean over the last axis as a matrix-vector product: XLA's own reduction of it is not vectorised on CPUs."""
    n = x.shape[-1]
    return jnp.matmul(x, jnp.full((n, 1), 1.0 / n, x.dtype))


@jax.custom_vjp
def unit_scale(x: Float[Array, "*n unit"]) -> Float[Array, "*n unit"]:
    """x over its root mean square along the last axis."""
    return _unit_scale_forward(x)[0]


def _unit_scale_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    factor = jax.lax.rsqrt(_row_mean(x * x) + 1e-5)
    y = x * factor
    return y, (y, factor)


def _unit_scale_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array]:
    y, factor = kept
    return (factor * (grad - y * _row_mean(grad * y)),)


unit_scale.defvjp(_unit_scale_forward, _unit_scale_backward)


def normalised(layer: Dense, x: Float[Array, "*n in"]) -> Float[Array, "*n out"]:
    """The layer's outputs with mean 0 and deviation 1 over the units (Ba et al. 2016, without learned scale).

    The mean over the units is linear in x: taking it from the weights, once, saves a pass over every row.
    """
    weight = layer.weight - _row_mean(layer.weight)
    bias = layer.bias - jnp.mean(layer.bias)
    return unit_scale(jnp.matmul(x, weight) + jnp.expand_dims(bias, tuple(range(x.ndim - 1))))


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
        act, lead = ACTIVATIONS[self.activation], x.shape[:-1]
        if len(lead) > 1:  # rows of two axes would be turned over for the gradient of every weight
            x = x.reshape(-1, x.shape[-1])
        for layer in self.layers[:-1]:
            x = act(normalised(layer, x) if self.layer_norm else layer(x))
        y = self.layers[-1](x)
        return y.reshape(*lead, y.shape[-1])

    @property
    def widths(self) -> list[int]:
        """Of the hidden layers."""
        return [layer.bias.shape[-1] for layer in self.layers[:-1]]

    def given(self, tail: Float[Array, " tail"]) -> MLP:
        """The same function with its last inputs held at `tail`: they are folded into the first bias."""
        first = self.layers[0]
        kept = first.weight.shape[0] - tail.shape[0]
        bias = first.bias + jnp.einsum("z,zo->o", tail, first.weight[kept:])
        return eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[0].bias), self, (first.weight[:kept], bias))
