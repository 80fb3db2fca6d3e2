"""Calibration and drift of models whose truth is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import toys
from merpo.data import TaskData, Transitions
from merpo.dynamics.calibration import LEVELS, check_models
from merpo.dynamics.ensemble import DynamicsConfig
from merpo.dynamics.fit import FittedModel
from merpo.errors import DataError

CONFIG = DynamicsConfig(hidden=(4,), members=3, elites=2)


def believing(deviation):
    """Every member predicts no change and a reward of 0, with this standard deviation."""
    model = toys.ensemble(0, 2, 1, CONFIG)
    last = model.nets.layers[-1]
    raw = 2 * np.log(deviation)
    # the soft bounds are moved out of the way
    model = eqx.tree_at(
        lambda m: (m.max_logvar, m.min_logvar),
        model,
        (jnp.full((3, 3), 30.0, jnp.float32), jnp.full((3, 3), -40.0, jnp.float32)),
    )
    bias = jnp.zeros_like(last.bias).at[:, 3:6].set(jnp.float32(raw))
    model = eqx.tree_at(
        lambda m: (m.nets.layers[-1].weight, m.nets.layers[-1].bias), model, (jnp.zeros_like(last.weight), bias)
    )
    return FittedModel(model, jnp.asarray([0, 2], jnp.int32), jnp.zeros(3, jnp.float32))


def walk(step, episodes=40, length=10, drift=0.0):
    """Random walks in the plane whose steps and rewards have this deviation."""
    rng = np.random.default_rng(3)
    n = episodes * length
    change = rng.normal(drift, step, (n, 2))
    obs = np.zeros((n, 2))
    for i in range(n):
        if i % length:
            obs[i] = obs[i - 1] + change[i - 1]
    f32, ends = np.float32, np.zeros(n, bool)
    t = Transitions(
        obs.astype(f32), rng.uniform(-1, 1, (n, 1)).astype(f32), rng.normal(0, step, n).astype(f32),
        (obs + change).astype(f32), ends, ends,
    )  # fmt: skip
    return TaskData("walk", "test", t, np.arange(0, n + 1, length))


def checked(model, log, steps=5, windows=400):
    rows = np.arange(len(log))
    return check_models([model], [log], [rows], toys.unit_scale(2), steps, windows)


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_coverage_is_that_of_the_normal_law(factor):
    """Where outcomes deviate by `factor` times what is believed, c covers P(|z| <= z_c / factor)."""
    found = checked(believing(0.3), walk(0.3 * factor))
    expected = 2 * norm.cdf(norm.ppf(0.5 + LEVELS / 2) / factor) - 1
    assert found.rows == 400
    np.testing.assert_allclose(found.coverage, np.tile(expected, (3, 1)), atol=0.07)


def test_the_mean_alone_explains_nothing():
    found = checked(believing(0.3), walk(0.3))
    np.testing.assert_allclose(found.unexplained, 1.0, atol=0.02)


def test_drift_of_a_model_that_stands_still():
    """Logged states move by 0.1 a step in both columns, imagined ones not at all."""
    found = checked(believing(1e-6), walk(0.0, drift=0.1))
    np.testing.assert_allclose(found.drift, np.tile(0.1 * np.arange(1.0, 6.0)[:, None], (1, 3)), rtol=1e-3)
    assert found.steps == 5
    np.testing.assert_allclose(found.logged[2] - found.imagined[2], 0.5, atol=0.11)


def test_windows_stay_inside_episodes_and_are_shortened_to_them():
    log = walk(0.0, episodes=3, length=4, drift=1.0)
    found = checked(believing(1e-6), log, steps=50, windows=7)
    assert found.steps == 4
    np.testing.assert_allclose(found.drift[-1], 4.0, rtol=1e-4)
    assert found.windows == 6  # an even share for each elite


def test_elites_alone_are_asked():
    good, bad = believing(0.3), believing(3.0)
    mixed = jax.tree.map(lambda a, b: a.at[1].set(b[1]), good.model, bad.model)
    log = walk(0.3)
    with_bad = checked(FittedModel(mixed, good.elites, good.error), log)
    np.testing.assert_array_equal(with_bad.coverage, checked(good, log).coverage)


def test_no_held_out_row_is_an_error():
    log = walk(0.1, episodes=2, length=3)
    with pytest.raises(DataError, match="longer logs"):
        check_models([believing(1.0)], [log], [np.arange(0)], toys.unit_scale(2), 5)
