"""The tanh-Gaussian against change of variables in SciPy, numeric integration and finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from merpo.networks import ACTION_LIMIT, TanhGaussian
from toys import actor as make_actor

reals = st.floats(-4.0, 4.0, width=32)
log_stds = st.floats(-4.0, 1.0, width=32)


def make(mean, log_std) -> TanhGaussian:
    return TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))


@jax.jit
def log_prob_pre(policy, u):
    return policy.log_prob_pre(u)


@jax.jit
def log_prob(policy, action):
    return policy.log_prob(action)


@jax.jit
def kl(a, b):
    return a.kl(b)


def squashed_logpdf(a, mean, log_std):
    """Change of variables by hand, in float64: p(a) = N(atanh a) |d atanh / da|."""
    u = np.arctanh(a)
    return np.sum(stats.norm.logpdf(u, mean, np.exp(log_std)) - np.log1p(-(a**2)), axis=-1)


def kl_formula(m1, s1, m2, s2):
    """KL of univariate normals as in any textbook, summed over columns, in float64."""
    return np.sum(np.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5, axis=-1)


def test_log_prob_is_the_change_of_variables():
    rng = np.random.default_rng(0)
    mean, log_std = rng.normal(size=(200, 3)), rng.uniform(-2, 0.5, (200, 3))
    u = mean + np.exp(log_std) * rng.normal(size=(200, 3))
    u = np.clip(u, -3.0, 3.0)
    expected = squashed_logpdf(np.tanh(u), mean, log_std)
    policy = make(mean, log_std)
    np.testing.assert_allclose(log_prob_pre(policy, jnp.asarray(u, jnp.float32)), expected, rtol=2e-5, atol=2e-5)
    # from the logged action: float32 loses digits next to +-1, hence the wider tolerance
    logged = jnp.asarray(np.tanh(u), jnp.float32)
    np.testing.assert_allclose(log_prob(policy, logged), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.3, -1.5), (-0.4, 0.8)])
def test_density_integrates_to_one(mean, log_std):
    u = np.linspace(-12.0, 12.0, 40_001)
    policy = make(np.full((len(u), 1), mean), np.full((len(u), 1), log_std))
    density = np.exp(np.asarray(log_prob_pre(policy, jnp.asarray(u[:, None], jnp.float32)), np.float64))
    # substituting a = tanh(u) puts the grid where the mass is; da = (1 - tanh^2) du = du / cosh^2
    total = integrate.trapezoid(density / np.cosh(u) ** 2, u)
    assert total == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("u", [-20.0, -9.5, 9.5, 20.0])
def test_finite_at_saturation(u):
    """At u = +-20 tanh(u) is +-1 in float32: a density recovered from the action would be infinite or NaN."""
    pre = jnp.full((1, 2), u, jnp.float32)
    assert np.all(np.abs(np.tanh(np.float32(20.0))) == 1.0)

    def from_params(params):
        policy = TanhGaussian(*params)
        return jnp.sum(policy.log_prob_pre(pre))

    params = (jnp.full((1, 2), u, jnp.float32), jnp.full((1, 2), -1.0, jnp.float32))
    value, grads = jax.jit(jax.value_and_grad(from_params))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)
    exact = 2 * (stats.norm.logpdf(0.0, 0.0, np.exp(-1.0)) - 2 * (np.log(2.0) - abs(u)))
    assert float(value) == pytest.approx(exact, rel=1e-4)

    # the path that the actor's loss takes: gradient through the reparametrised sample itself
    through = jax.jit(jax.grad(lambda m: jnp.sum(TanhGaussian(m, params[1]).log_prob_pre(m + 0.1))))(params[0])
    assert np.isfinite(through).all()
    np.testing.assert_allclose(through, 2.0 * np.tanh(u + 0.1) * np.ones((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_logged_action_on_the_bound(action):
    logged = jnp.full((1, 1), action, jnp.float32)

    def nll(params):
        return -jnp.sum(TanhGaussian(*params).log_prob(logged))

    params = (jnp.full((1, 1), 0.3, jnp.float32), jnp.full((1, 1), -2.0, jnp.float32))
    value, grads = jax.jit(jax.value_and_grad(nll))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)
    assert np.sign(grads[0][0, 0]) == -np.sign(action)  # more of it: the mean moves towards the action
    exact = squashed_logpdf(np.full((1, 1), action * ACTION_LIMIT), 0.3, -2.0)
    assert float(-value) == pytest.approx(float(exact[0]), rel=1e-3)


def test_sample_and_mode():
    policy = make([[0.5, -1.0]], [[-1.0, 0.2]])
    wide = make(np.tile([[0.5, -1.0]], (20_000, 1)), np.tile([[-1.0, 0.2]], (20_000, 1)))
    draw = np.asarray(wide.sample_pre(jax.random.key(0)))
    np.testing.assert_allclose(draw.mean(axis=0), [0.5, -1.0], atol=0.03)
    np.testing.assert_allclose(draw.std(axis=0), np.exp([-1.0, 0.2]), rtol=0.02)
    np.testing.assert_allclose(policy.mode(), np.tanh([[0.5, -1.0]]), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(reals, log_stds, reals, log_stds)
def test_kl_closed_form_and_sign(m1, l1, m2, l2):
    a, b = make([[m1, m2]], [[l1, l2]]), make([[m2, m1]], [[l2, l1]])
    exact = kl_formula(
        np.array([m1, m2]), np.exp(np.float64([l1, l2])), np.array([m2, m1]), np.exp(np.float64([l2, l1]))
    )
    found = float(kl(a, b)[0])
    assert found == pytest.approx(exact, rel=1e-4, abs=1e-4)
    assert found >= -1e-5
    assert float(kl(a, a)[0]) == pytest.approx(0.0, abs=1e-6)


def test_kl_against_monte_carlo():
    a, b = make([[0.4, -0.3]], [[-0.5, 0.1]]), make([[-0.2, 0.5]], [[0.0, -0.4]])
    noise = np.random.default_rng(1).normal(size=(100_000, 2))
    u = jnp.asarray(np.asarray(a.mean) + np.exp(np.asarray(a.log_std)) * noise, jnp.float32)

    def wide(p: TanhGaussian) -> TanhGaussian:
        return TanhGaussian(jnp.broadcast_to(p.mean, u.shape), jnp.broadcast_to(p.log_std, u.shape))

    difference = np.asarray(log_prob_pre(wide(a), u) - log_prob_pre(wide(b), u), np.float64)
    error = difference.std() / np.sqrt(len(difference))
    assert float(kl(a, b)[0]) == pytest.approx(difference.mean(), abs=4 * error)


def test_kl_is_that_of_the_squashed_densities():
    """The bijector cancels: integrate p log(p/q) over the *actions*, both squashed, against the closed form."""
    m1, l1, m2, l2 = 0.6, -0.8, -0.3, -0.2

    def integrand(a):
        x = np.array([a])
        p, q = squashed_logpdf(x, m1, l1), squashed_logpdf(x, m2, l2)
        return np.exp(p) * (p - q)

    numeric, _ = integrate.quad(integrand, -1 + 1e-9, 1 - 1e-9, limit=400)
    assert float(kl(make([[m1]], [[l1]]), make([[m2]], [[l2]]))[0]) == pytest.approx(numeric, rel=1e-4)


def test_actor_bounds_hold_on_extreme_observations():
    actor = make_actor(0, size=100.0)
    policy = eqx.filter_jit(actor)(jnp.asarray(1e3 * np.random.default_rng(1).normal(size=(64, 3)), jnp.float32))
    assert np.abs(policy.mean).max() <= 5.0
    assert policy.log_std.min() >= -5.0 - 1e-5
    assert policy.log_std.max() <= 1.0 + 1e-5
