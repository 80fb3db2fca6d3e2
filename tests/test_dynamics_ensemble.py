"""The Gaussian ensemble: its likelihood against SciPy, gradients by finite differences, elites, proximal term."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from merpo import ConfigError, DynamicsConfig
from merpo.data.types import Transitions
from merpo.dynamics.ensemble import (
    TargetScale,
    elite_indices,
    fit_scale,
    gaussian_nll,
    holdout_error,
    inputs_targets,
    member_losses,
    proximal_term,
)
from toys import ensemble, transitions, unit_scale

CONFIG = DynamicsConfig(hidden=(5,), members=3, elites=2)
SCALE = TargetScale(*(jnp.asarray(x, jnp.float32) for x in ([0.1, -0.2, 0.3], [0.5, 2.0, 1.5], [-9, -9], [9, 9])))


def test_gaussian_nll_is_scipys():
    rng = np.random.default_rng(0)
    mean, y = rng.normal(size=(2, 4, 5, 3))
    logvar = rng.uniform(-6, 2, (4, 5, 3))
    expected = -stats.norm.logpdf(y, mean, np.exp(0.5 * logvar)).sum(axis=-1)
    found = jax.jit(gaussian_nll)(*(jnp.asarray(x, jnp.float32) for x in (mean, logvar, y)))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def slow_losses(model, batch: Transitions, learn: bool) -> float:
    """The same objective by loops in float64: SciPy densities, one member and one row at a time."""
    total = 0.0
    f64 = lambda x: np.asarray(x, np.float64)  # noqa: E731
    for m in range(CONFIG.members):
        terms = []
        for i in range(batch.reward.shape[1]):
            h = np.concatenate([f64(batch.obs[m, i]), f64(batch.action[m, i])])
            for k, layer in enumerate(model.nets.layers):
                h = h @ f64(layer.weight[m]) + f64(layer.bias[m])
                h = h if k == len(model.nets.layers) - 1 else h / (1 + np.exp(-h))
            mean, raw, logit = h[:3], h[3:6], h[6]
            top, bottom = f64(model.max_logvar[m]), f64(model.min_logvar[m])
            logvar = top - np.log1p(np.exp(top - raw))
            logvar = bottom + np.log1p(np.exp(logvar - bottom))
            change = np.concatenate([f64(batch.next_obs[m, i]) - f64(batch.obs[m, i]), f64(batch.reward[m, i])[None]])
            y = (change - f64(SCALE.mean)) / f64(SCALE.std)
            loss = -stats.norm.logpdf(y, mean, np.exp(0.5 * logvar)).sum()
            if learn:
                p = 1 / (1 + np.exp(-logit))
                loss -= np.log(p) if batch.terminated[m, i] else np.log(1 - p)
            terms.append(loss)
        total += np.mean(terms) + 0.01 * np.sum(f64(model.max_logvar[m]) - f64(model.min_logvar[m]))
    return total


@pytest.mark.parametrize("learn", [False, True])
def test_member_losses_are_the_slow_reference(learn):
    model, batch = ensemble(0, 2, 1, CONFIG), transitions(1, (3, 4), 2, 1)
    loss, metrics = jax.jit(lambda m, b: member_losses(m, b, SCALE, learn))(model, batch)
    assert float(loss) == pytest.approx(slow_losses(model, batch, learn), rel=1e-5)
    assert np.isfinite(metrics["dynamics/nll"])


def test_member_losses_gradient_by_finite_differences():
    """Central differences along random directions, in float64."""
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(  # noqa: E731
            lambda x: jnp.asarray(np.asarray(x, np.float64)) if x.dtype == jnp.float32 else jnp.asarray(np.asarray(x)),
            tree,
        )
        model, batch, scale = wide(ensemble(0, 2, 1, CONFIG)), wide(transitions(1, (3, 4), 2, 1)), wide(SCALE)
        # the termination label is a float32 by contract: that term is left to the reference above
        loss = jax.jit(lambda m: member_losses(m, batch, scale, False)[0])
        grads = jax.jit(jax.grad(lambda m: member_losses(m, batch, scale, False)[0]))(model)
        rng = np.random.default_rng(2)
        step = 1e-5
        for _ in range(4):
            direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), model)
            up = loss(jax.tree.map(lambda x, d: x + step * d, model, direction))
            down = loss(jax.tree.map(lambda x, d: x - step * d, model, direction))
            along = sum(float(jnp.sum(g * d)) for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True))
            assert along == pytest.approx(float(up - down) / (2 * step), rel=1e-6)


def test_members_do_not_touch_each_other():
    model, batch = ensemble(0, 2, 1, CONFIG), transitions(1, (3, 4), 2, 1)
    changed = eqx.tree_at(lambda b: b.reward, batch, batch.reward.at[0].add(1.0))
    gradient = jax.jit(jax.grad(lambda m, b: member_losses(m, b, SCALE, False)[0]))
    a, b = gradient(model, batch), gradient(model, changed)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x[1:], y[1:])
    assert not np.allclose(a.nets.layers[0].weight[0], b.nets.layers[0].weight[0])


def test_log_variance_stays_within_its_soft_bounds():
    model = jax.tree.map(lambda x: 100.0 * x, ensemble(0, 2, 1, CONFIG))
    model = eqx.tree_at(
        lambda m: (m.max_logvar, m.min_logvar), model, (0.5 + 0 * model.max_logvar, -10.0 + 0 * model.min_logvar)
    )
    x = jnp.asarray(50 * np.random.default_rng(0).normal(size=(3, 64, 3)), jnp.float32)
    _, logvar, _ = eqx.filter_jit(model)(x)
    assert logvar.min() >= -10.0 - 1e-3
    assert logvar.max() <= 0.5 + 1e-3


def test_proximal_term_is_the_squared_distance():
    a, b = ensemble(0, 2, 1, CONFIG), ensemble(1, 2, 1, CONFIG)
    flat = [np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(m)]) for m in (a, b)]
    assert float(jax.jit(proximal_term)(a, b)) == pytest.approx(np.sum((flat[0] - flat[1]) ** 2), rel=1e-5)
    assert float(jax.jit(proximal_term)(a, a)) == 0.0


def test_holdout_error_counts_valid_rows_only():
    model, rows = ensemble(0, 2, 1, CONFIG), transitions(1, 7, 2, 1)
    valid = jnp.asarray([True, True, False, True, False, False, True])
    found = jax.jit(holdout_error)(model, rows, valid, SCALE)
    x, y, _ = inputs_targets(rows, SCALE)
    mean, _, _ = eqx.filter_jit(model)(jnp.broadcast_to(x, (3, *x.shape)))
    squares = np.mean((np.asarray(mean) - np.asarray(y)) ** 2, axis=-1)
    np.testing.assert_allclose(found, squares[:, np.asarray(valid)].mean(axis=1), rtol=1e-5)


def test_elites_have_the_least_error():
    error = jnp.asarray([0.5, 0.1, 0.9, 0.3, 0.2], jnp.float32)
    assert sorted(np.asarray(elite_indices(error, 3)).tolist()) == [1, 3, 4]


def test_scale_standardises_and_widens():
    t = transitions(3, 400, 2, 1)
    scale = fit_scale(t)
    _, y, _ = inputs_targets(t, scale)
    np.testing.assert_allclose(np.asarray(y).mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(y).std(axis=0), 1.0, atol=1e-4)
    both = np.concatenate([t.obs, t.next_obs])
    width = both.max(axis=0) - both.min(axis=0)
    np.testing.assert_allclose(scale.obs_high - scale.obs_low, 2 * width, rtol=1e-5)
    still = eqx.tree_at(lambda b: b.reward, t, jnp.zeros_like(t.reward))
    assert np.isfinite(inputs_targets(still, fit_scale(still))[1]).all()
    assert unit_scale(2).std.shape == (3,)


@pytest.mark.parametrize(
    "bad",
    [
        {"elites": 0}, {"elites": 8}, {"holdout": 0.0}, {"holdout": 1.0}, {"meta_rate": 0.0}, {"meta_rate": 1.5},
        {"eta": -1.0}, {"batch": 0}, {"inner_steps": 0}, {"adapt_steps": 75}, {"check_every": 0}, {"holdout_rows": 0},
    ],
)  # fmt: skip
def test_settings_outside_their_range(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        DynamicsConfig(**bad)


def test_a_reward_network_of_its_own_sees_the_next_state():
    """p(s'|s,a) p(r|s,a,s'): the likelihood takes the logged change; without one, the predicted mean is used."""
    config = DynamicsConfig(hidden=(5,), members=3, elites=2, reward_given_next=True)
    model, batch = ensemble(2, 2, 2, config), transitions(3, (3, 4), obs=2)
    f64 = lambda x: np.asarray(x, np.float64)  # noqa: E731

    def net(layers, m, h):
        for k, layer in enumerate(layers):
            h = h @ f64(layer.weight[m]) + f64(layer.bias[m])
            h = h if k == len(layers) - 1 else h / (1 + np.exp(-h))
        return h

    def bounded(raw, top, bottom):
        logvar = top - np.log1p(np.exp(top - raw))
        return bottom + np.log1p(np.exp(logvar - bottom))

    total, ends = 0.0, np.zeros((3, 4))
    for m in range(3):
        top, bottom = f64(model.max_logvar[m]), f64(model.min_logvar[m])
        nll = []
        for i in range(4):
            x = np.concatenate([f64(batch.obs[m, i]), f64(batch.action[m, i])])
            change = np.concatenate([f64(batch.next_obs[m, i] - batch.obs[m, i]), f64(batch.reward[m, i])[None]])
            y = (change - f64(SCALE.mean)) / f64(SCALE.std)
            state = net(model.nets.layers, m, x)
            r = net(model.reward.layers, m, np.concatenate([x, y[:2]]))
            ends[m, i] = net(model.reward.layers, m, np.concatenate([x, state[:2]]))[0]
            std = np.exp(0.5 * bounded(np.append(state[3:5], r[1]), top, bottom))
            nll.append(-stats.norm.logpdf(y, np.append(state[:2], r[0]), std).sum())
        total += np.mean(nll) + 0.01 * np.sum(top - bottom)
    loss, _ = jax.jit(lambda a, b: member_losses(a, b, SCALE, False))(model, batch)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    mean, _, _ = eqx.filter_jit(model)(jnp.concatenate([batch.obs, batch.action], axis=-1))
    np.testing.assert_allclose(mean[..., 2], ends, rtol=1e-4, atol=1e-5)
