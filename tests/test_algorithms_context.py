"""The context of a task: a function of what its model computes, against NumPy's covariance and known answers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from merpo import DynamicsConfig
from merpo.algorithms.context import LIMIT, PROBES, Context, choose_probes, fit_context, signature
from merpo.data.types import Stacked
from merpo.dynamics.fit import FittedModel
from toys import ensemble, transitions

CONFIG = DynamicsConfig(hidden=(4,), members=3, elites=2)
PROBE_ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(10, 5)), jnp.float32)


def fitted(shifts) -> FittedModel:
    """One network, its predicted means shifted by constants: tasks that differ in these alone; [task] leaves."""
    base = ensemble(0, 3, 2, CONFIG)

    def one(shift):
        bias = base.nets.layers[-1].bias
        shifted = bias.at[:, : len(shift)].add(jnp.asarray(shift, jnp.float32)[None])
        return eqx.tree_at(lambda m: m.nets.layers[-1].bias, base, shifted)

    models = jax.tree.map(lambda *x: jnp.stack(x), *(one(s) for s in shifts))
    n = len(shifts)
    return FittedModel(models, jnp.tile(jnp.asarray([2, 0], jnp.int32), (n, 1)), jnp.zeros((n, 3), jnp.float32))


def contexts(context: Context, models: FittedModel) -> np.ndarray:
    return np.asarray(eqx.filter_jit(jax.vmap(lambda model: context(model)))(models))


def test_two_opposite_tasks():
    """One direction tells them apart, so z = -1, +1 and every further number is zero."""
    models = fitted([[2.0], [-2.0]])
    z = contexts(fit_context(models, PROBE_ROWS, 3), models)
    np.testing.assert_allclose(np.abs(z), [[1, 0, 0], [1, 0, 0]], atol=1e-4)
    assert z[0, 0] * z[1, 0] < 0


def test_principal_components_of_a_known_spread():
    """Shifts of two outputs: z has their covariance, in units of the larger deviation; new tasks fall in between."""
    rng = np.random.default_rng(1)
    shifts = rng.normal(size=(8, 2)) * [2.0, 0.5]
    models = fitted(shifts)
    context = fit_context(models, PROBE_ROWS, 2)
    z = contexts(context, models)
    values = np.linalg.eigvalsh(np.cov(shifts.T, bias=True))[::-1]
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.diag(values / values[0]), atol=1e-4)
    middle = contexts(context, fitted([0.5 * (shifts[0] + shifts[1])]))
    np.testing.assert_allclose(middle[0], 0.5 * (z[0] + z[1]), atol=1e-4)


def test_what_members_compute_counts_and_not_their_weights():
    """Hidden units in another order are the same function."""
    models = fitted([[1.0], [-1.0], [0.3]])
    context = fit_context(models, PROBE_ROWS, 2)
    order = jnp.asarray([2, 0, 3, 1])
    layers = models.model.nets.layers
    mixed = eqx.tree_at(
        lambda f: (f.model.nets.layers[0].weight, f.model.nets.layers[0].bias, f.model.nets.layers[1].weight),
        models,
        (layers[0].weight[..., order], layers[0].bias[..., order], layers[1].weight[..., order, :]),
    )
    np.testing.assert_allclose(contexts(context, mixed), contexts(context, models), atol=1e-5)


def test_only_elites_speak():
    models = fitted([[0.0]])
    one = jax.tree.map(lambda x: x[0], models)
    outsider = eqx.tree_at(lambda f: f.model.nets.layers[-1].bias, one, one.model.nets.layers[-1].bias.at[1].add(9.0))
    sign = eqx.filter_jit(signature)
    np.testing.assert_array_equal(sign(outsider, PROBE_ROWS), sign(one, PROBE_ROWS))


def test_far_tasks_are_kept_in_reach():
    models = fitted([[1.0], [-1.0]])
    far = contexts(fit_context(models, PROBE_ROWS, 1), fitted([[100.0]]))
    assert abs(float(far[0, 0])) == pytest.approx(LIMIT)


def test_tasks_beyond_the_training_tasks_are_the_nearest_in_their_range():
    """Three tasks in a row; new ones beyond one end, half-way to the other, and beyond that."""
    models = fitted([[2.0, 0.3], [-2.0, -0.3], [0.0, 0.0]])
    free, held = (fit_context(models, PROBE_ROWS, 2, bounded) for bounded in (False, True))
    z = contexts(free, models)
    np.testing.assert_array_equal(contexts(held, models), z)
    new = fitted([[-6.0, -0.9], [1.0, 0.15], [4.0, 0.6]])
    expected = np.stack([z[1], 0.5 * z[0], z[0]])
    np.testing.assert_allclose(contexts(held, new), expected, atol=1e-4)
    np.testing.assert_allclose(contexts(free, new)[2], np.clip(2 * z[0], -LIMIT, LIMIT), atol=1e-4)


def test_no_context_and_equal_tasks():
    models = fitted([[1.0], [-1.0]])
    assert contexts(fit_context(models, PROBE_ROWS, 0), models).shape == (2, 0)
    alike = fitted([[1.0], [1.0]])
    np.testing.assert_array_equal(contexts(fit_context(alike, PROBE_ROWS, 1), alike), 0.0)


def test_probes_are_logged_rows_of_every_task():
    sizes = np.array([4, 9, 6])
    stacked = Stacked(transitions(0, (3, 9)), jnp.asarray(sizes, jnp.int32))
    probes = np.asarray(choose_probes(stacked, 0))
    assert probes.shape == (PROBES, 5)
    obs, action = np.asarray(stacked.transitions.obs), np.asarray(stacked.transitions.action)
    counts = np.zeros(3, int)
    for row in probes:
        task, index = np.argwhere((obs == row[:3]).all(axis=-1))[0]
        assert index < sizes[task]
        np.testing.assert_array_equal(action[task, index], row[3:])
        counts[task] += 1
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(probes, choose_probes(stacked, 0))
    assert not np.array_equal(probes, choose_probes(stacked, 1))
