"""Perceptrons and the critic pair: leading axes, layer normalisation, independence of the two critics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from merpo.networks import MLP, TwinCritic
from toys import critic as make_critic
from toys import mlp


def by_hand(net: MLP, x: np.ndarray, act) -> np.ndarray:
    """One row at a time, in float64 NumPy."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]).astype(np.float64):
        for layer in net.layers[:-1]:
            row = row @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
            if net.layer_norm:
                row = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
            row = act(row)
        rows.append(row @ np.asarray(net.layers[-1].weight, np.float64) + np.asarray(net.layers[-1].bias, np.float64))
    return np.stack(rows).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(
    ("name", "act"), [("relu", lambda z: np.maximum(z, 0)), ("silu", lambda z: z / (1 + np.exp(-z)))]
)
def test_leading_axes_equal_row_by_row(name, act, layer_norm):
    net = mlp(0, 3, 2, (8, 5), activation=name, layer_norm=layer_norm)
    apply = jax.jit(lambda x: net(x))
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(apply(jnp.asarray(x)), by_hand(net, x, act), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(apply(jnp.asarray(x[0, 0])), by_hand(net, x[0, :1], act)[0], rtol=2e-5, atol=2e-6)


def test_layer_norm_statistics_and_invariance():
    """A hidden layer's activations have mean 0 and deviation 1, so scaling its input's weights changes nothing."""
    net = mlp(1, 4, 1, (64,), activation="tanh", layer_norm=True)
    reader = eqx.tree_at(
        lambda n: (n.layers[1].weight, n.layers[1].bias),
        net,
        (jnp.eye(64, dtype=jnp.float32), jnp.zeros(64, jnp.float32)),
    )
    x = jnp.asarray(5.0 * np.random.default_rng(2).normal(size=(32, 4)), jnp.float32)
    apply = jax.jit(lambda net, x: net(x))
    hidden = np.arctanh(np.asarray(apply(reader, x), np.float64).clip(-1 + 1e-7, 1 - 1e-7))
    np.testing.assert_allclose(hidden.mean(axis=-1), 0.0, atol=1e-4)
    np.testing.assert_allclose(hidden.std(axis=-1), 1.0, atol=1e-3)
    louder = eqx.tree_at(lambda n: n.layers[0], net, jax.tree.map(lambda w: 7.0 * w, net.layers[0]))
    np.testing.assert_allclose(apply(louder, x), apply(net, x), rtol=1e-3, atol=1e-4)


def test_initialisation_is_seeded_and_bounded():
    make = eqx.filter_jit(lambda k: (MLP(16, 4, (32,), k, out_scale=0.1), TwinCritic(3, 2, (), k)))
    (a, pair), (b, _), (c, _) = (make(jax.random.key(seed)) for seed in (3, 3, 4))
    assert eqx.tree_equal(a, b)
    assert not np.allclose(a.layers[0].weight, c.layers[0].weight)
    first = pair.nets.layers[0].weight
    assert not np.allclose(first[0], first[1])
    assert np.abs(a.layers[0].weight).max() <= 16**-0.5
    assert np.abs(a.layers[1].weight).max() <= 0.1 * 32**-0.5


def test_the_two_critics_are_independent():
    critic = make_critic(0, hidden=(8, 8), layer_norm=True)
    obs, action = jnp.ones((5, 3), jnp.float32), jnp.full((5, 2), 0.3, jnp.float32)
    q = eqx.filter_jit(critic)(obs, action)
    assert q.shape == (2, 5)
    assert not np.allclose(q[0], q[1])
    grads = jax.jit(jax.grad(lambda c: jnp.sum(c(obs, action)[0])))(critic)
    for leaf in jax.tree.leaves(grads):
        assert np.all(leaf[1] == 0.0)
    assert all(np.any(leaf[0] != 0.0) for leaf in jax.tree.leaves(grads))
    for i in range(2):
        alone = jax.tree.map(lambda x, i=i: x[i], critic.nets)
        np.testing.assert_allclose(q[i], alone(jnp.concatenate([obs, action], axis=-1))[:, 0], rtol=1e-5)


def test_critic_takes_more_leading_axes():
    critic = make_critic(0, 2, 1, (4,))
    obs = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 2)), jnp.float32)
    action = jnp.zeros((3, 4, 1), jnp.float32)
    q = eqx.filter_jit(critic)(obs, action)
    assert q.shape == (2, 3, 4)
    np.testing.assert_allclose(q[:, 1], eqx.filter_jit(critic)(obs[1], action[1]), rtol=1e-5)


def test_inputs_held_at_a_value():
    """`given` folds the last inputs into the first bias: the same function of the others."""
    net, pair = mlp(4, 5, 2, (8,), layer_norm=True), make_critic(5, obs=3, act=4, layer_norm=True)
    rng = np.random.default_rng(3)
    x, tail = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((6, 3), 2))
    whole = jnp.concatenate([x, jnp.tile(tail, (6, 1))], axis=1)
    apply = eqx.filter_jit(lambda f, *a: f(*a))
    np.testing.assert_allclose(apply(net.given(tail), x), apply(net, whole), rtol=2e-5, atol=2e-6)
    action = jnp.concatenate([x[:, :2], jnp.tile(tail, (6, 1))], axis=1)
    held = apply(pair.given(tail), x, x[:, :2])
    np.testing.assert_allclose(held, apply(pair, x, action), rtol=2e-5, atol=2e-6)
    nothing = net.given(jnp.zeros(0, jnp.float32))
    np.testing.assert_array_equal(apply(nothing, whole), apply(net, whole))
