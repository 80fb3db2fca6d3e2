"""Imagined rollouts stop at termination and keep to one elite; the ring keeps what is valid and nothing else."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merpo import DynamicsConfig, draws
from merpo.algorithms.pipeline import termination_rule
from merpo.data import Bounds, Preparation
from merpo.data.types import SetInfo, Transitions
from merpo.dynamics.ensemble import Logged, fit_scale
from merpo.dynamics.fit import FittedModel, reach_of
from merpo.dynamics.imagination import Ring, imagine, predict
from merpo.dynamics.termination import Termination
from merpo.evaluation import imagined_return
from merpo.networks import Actor
from toys import NEVER, ensemble, transitions, unit_scale

CONFIG = DynamicsConfig(hidden=(4,), members=4, elites=3)


def drifting(steps) -> FittedModel:
    """Members that move column 0 by `steps[m]` and column 1 not at all, reward = m, with hardly any noise."""
    model = jax.tree.map(jnp.zeros_like, ensemble(0, 2, 1, CONFIG))
    last = model.nets.layers[-1]
    bias = last.bias.at[:, 0].set(jnp.asarray(steps, jnp.float32)).at[:, 2].set(jnp.arange(4, dtype=jnp.float32))
    bias = bias.at[:, 3:6].set(-60.0)
    bounds = jnp.full((4, 3), -40.0, jnp.float32)
    model = eqx.tree_at(lambda m: (m.nets.layers[-1].bias, m.max_logvar, m.min_logvar), model, (bias, bounds, bounds))
    return FittedModel(model, jnp.asarray([3, 0, 2], jnp.int32), jnp.zeros(4, jnp.float32))


def zero_act(obs, key):
    del key
    return jnp.zeros((*obs.shape[:-1], 1), jnp.float32)


def below(edge: float) -> Termination:
    one = jnp.ones(1, jnp.float32)
    return Termination("bounds", jnp.zeros(1, jnp.int32), -1e6 * one, edge * one)


def rollout(fitted, start, length, rule, scale=None):
    run = eqx.filter_jit(lambda f, s: imagine(f, scale or unit_scale(2), zero_act, s, jax.random.key(0), length, rule))
    rows, valid = run(fitted, start)
    shape = (length, start.shape[0])
    return jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *x.shape[1:]), rows), np.asarray(valid).reshape(shape)


def test_imagined_rewards_belong_to_the_states_that_were_drawn():
    """A reward network that reads column 0 of the change: whatever noise the state had, the reward has it too."""
    config = DynamicsConfig(hidden=(), members=4, elites=3, reward_given_next=True)
    model = jax.tree.map(jnp.zeros_like, ensemble(0, 2, 1, config))
    weight = model.reward.layers[0].weight.at[:, 3, 0].set(1.0)  # inputs: 2 of the state, 1 action, 2 of the change
    quiet = jnp.asarray([0.0, 0.0, -40.0], jnp.float32)
    bounds = jnp.broadcast_to(quiet, (4, 3))
    model = eqx.tree_at(
        lambda m: (m.reward.layers[0].weight, m.max_logvar, m.min_logvar), model, (weight, bounds, bounds)
    )
    x = (jnp.zeros((4, 50, 2), jnp.float32), jnp.zeros((4, 50, 1), jnp.float32))
    noise = jax.random.normal(jax.random.key(0), (4, 50, 3))
    following, reward, _ = eqx.filter_jit(predict)(model, unit_scale(2), *x, noise)
    assert np.std(following) > 0.5
    np.testing.assert_allclose(reward, following[..., 0], atol=1e-6)


def test_stops_at_termination():
    """Column 0 grows by 1, 1, 0.5 a step in the three elites' rows and ends outside column 0 < 2.75."""
    start = jnp.zeros((6, 2), jnp.float32)
    rows, valid = rollout(drifting([1.0, 9.0, 0.5, 1.0]), start, 8, below(2.75))
    lasts = [3, 3, 3, 3, 6, 6]  # 1 + 1 + 1 > 2.75; 6 x 0.5 > 2.75
    assert valid.sum(axis=0).tolist() == lasts
    for i, last in enumerate(lasts):
        assert valid[:last, i].all()
        assert not valid[last:, i].any()
        assert rows.terminated[:last, i].tolist() == [False] * (last - 1) + [True]
    assert not rows.truncated.any()

    ring = Ring.empty(64, 2, 1)
    flat = jax.tree.map(lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])), rows)
    ring = jax.jit(lambda r, t, v: r.add(t, v))(ring, flat, jnp.asarray(valid.reshape(-1)))
    kept = np.asarray(ring.rows.obs)[: int(ring.size)]
    assert int(ring.size) == sum(lasts)
    assert kept[:, 0].max() < 2.75  # no state beyond an end is ever a state to act from
    assert int(np.asarray(ring.rows.terminated).sum()) == 6


def test_each_row_keeps_to_one_elite():
    rows, valid = rollout(drifting([1.0, 9.0, 0.5, 1.5]), jnp.zeros((6, 2), jnp.float32), 4, NEVER)
    assert valid.all()
    np.testing.assert_allclose(rows.reward, np.tile([3, 3, 0, 0, 2, 2], (4, 1)), atol=1e-5)
    np.testing.assert_allclose(
        np.diff(rows.next_obs[..., 0], axis=0), np.tile([1.5, 1.5, 1, 1, 0.5, 0.5], (3, 1)), atol=1e-4
    )
    np.testing.assert_array_equal(rows.obs[1:], rows.next_obs[:-1])


def test_prediction_is_unscaled_and_kept_in_range():
    scale = eqx.tree_at(
        lambda s: (s.mean, s.std, s.obs_high),
        unit_scale(2),
        tuple(jnp.asarray(x, jnp.float32) for x in ([0.1, 0.2, 0.3], [2.0, 1.0, 10.0], [2.0, 1e6])),
    )
    fitted = drifting([1.0, 9.0, 0.5, 1.0])
    obs, action = jnp.zeros((4, 1, 2), jnp.float32), jnp.zeros((4, 1, 1), jnp.float32)
    noise = jnp.ones((4, 1, 3), jnp.float32)
    next_obs, reward, _ = jax.jit(lambda n: predict(fitted.model, scale, obs, action, n))(noise)
    np.testing.assert_allclose(next_obs[:, 0, 0], [2.0, 2.0, 1.1, 2.0], atol=1e-5)  # 2.1 and 18.1 are held at 2
    np.testing.assert_allclose(next_obs[:, 0, 1], 0.2, atol=1e-5)
    np.testing.assert_allclose(reward[:, 0], [0.3, 10.3, 20.3, 30.3], atol=1e-4)


def test_imagination_goes_where_a_new_task_was_logged():
    """The training tasks' range ends at 2; the new log's goes from 0 to 4 in column 0, that is to 6 when widened."""
    scale = eqx.tree_at(
        lambda s: (s.obs_low, s.obs_high),
        unit_scale(2),
        (jnp.full(2, -2.0, jnp.float32), jnp.full(2, 2.0, jnp.float32)),
    )
    obs = jnp.asarray([[0.0, 0.0], [4.0, 1.0]], jnp.float32)
    none = jnp.zeros(2, jnp.float32)
    log = Transitions(obs, none[:, None], none, obs, none > 0, none > 0)
    reach = reach_of(log, jnp.asarray(2), scale)
    np.testing.assert_allclose(reach.obs_low, [-2.0, -2.0])
    np.testing.assert_allclose(reach.obs_high, [6.0, 2.0])
    assert reach.logged is None

    fitted, start = drifting([1.0, 9.0, 1.0, 1.0]), jnp.zeros((3, 2), jnp.float32)
    held, _ = rollout(fitted, start, 8, NEVER, scale)
    freed, _ = rollout(
        eqx.tree_at(lambda f: f.reach, fitted, reach, is_leaf=lambda x: x is None), start, 8, NEVER, scale
    )
    np.testing.assert_allclose(held.next_obs[:, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2], atol=1e-4)
    np.testing.assert_allclose(freed.next_obs[:, 0, 0], [1, 2, 3, 4, 5, 6, 6, 6], atol=1e-4)


def test_no_imagined_reward_is_above_the_best_logged():
    """The training tasks' best reward is 0.5, the new one's 1.5; the padding after its rows is no reward and no state."""
    units = unit_scale(2)
    mean, std = units.mean.at[2].set(-5.0), units.std.at[2].set(3.0)
    rewards = [-5.0, -2.0, 1.0, 4.0]  # what the four members foretell
    train = eqx.tree_at(lambda t: t.reward, transitions(0, 50, 2, 1), jnp.linspace(-1.0, 0.5, 50))
    log = eqx.tree_at(lambda t: t.reward, transitions(1, 4, 2, 1), jnp.asarray([1.5, -2.5, 9.0, 9.0], jnp.float32))
    log = eqx.tree_at(lambda t: t.obs, log, log.obs.at[2:].set(50.0))
    obs, action = jnp.zeros((4, 1, 2), jnp.float32), jnp.zeros((4, 1, 1), jnp.float32)

    def foretold(scale):
        noise = jnp.ones((4, 1, 3), jnp.float32)
        run = eqx.filter_jit(lambda m, s: predict(m, s, obs, action, noise)[1][:, 0])
        return run(drifting([0.0] * 4).model, scale)

    free = replace(fit_scale(train), mean=mean, std=std)
    np.testing.assert_allclose(foretold(free), rewards, atol=1e-4)
    held = replace(fit_scale(train, cap_rewards=True), mean=mean, std=std)
    np.testing.assert_allclose(foretold(held), [-5.0, -2.0, 0.5, 0.5], atol=1e-4)
    fitted = replace(drifting([0.0] * 4), reach=reach_of(log, jnp.asarray(2), held))
    np.testing.assert_allclose(foretold(fitted.within(held)), [-5.0, -2.0, 1.0, 1.5], atol=1e-4)
    assert float(fitted.reach.logged.worst) == -2.5
    assert max(float(fitted.reach.logged.high.max()), float(fitted.reach.obs_high.max())) < 10.0


def test_the_cap_falls_beyond_the_logged_states():
    """Logged: 0 to 4 and 1 (never another), rewards of -3 to 2; a width of 4 costs 5, and 1 stands for none."""
    low, high = jnp.asarray([0.0, 1.0], jnp.float32), jnp.asarray([4.0, 1.0], jnp.float32)
    logged = Logged(low, high, jnp.asarray(-3.0), jnp.asarray(2.0))
    cases = {(0.0, 1.0): 2.0, (4.0, 1.0): 2.0, (6.0, 1.0): -0.5, (-4.0, 1.0): -3.0, (2.0, 1.2): 1.0, (6.0, 1.2): -0.5}
    states = jnp.asarray(list(cases), jnp.float32)
    np.testing.assert_allclose(logged.cap(states), list(cases.values()), atol=1e-5)
    np.testing.assert_array_equal(logged.cap(states[None, None])[0, 0], logged.cap(states))


def test_noise_is_scaled_by_the_predicted_deviation():
    fitted = drifting([0.0, 0.0, 0.0, 0.0])
    logvar = jnp.full((4, 3), float(np.log(0.25)), jnp.float32)
    model = eqx.tree_at(lambda m: (m.max_logvar, m.min_logvar), fitted.model, (logvar + 20.0, logvar))
    obs, action = jnp.zeros((4, 5000, 2), jnp.float32), jnp.zeros((4, 5000, 1), jnp.float32)
    noise = jax.random.normal(jax.random.key(1), (4, 5000, 3))
    next_obs, _, _ = jax.jit(lambda n: predict(model, unit_scale(2), obs, action, n))(noise)
    np.testing.assert_allclose(next_obs, 0.5 * noise[..., :2], atol=1e-5)


def test_bounds_rule_in_prepared_units_is_the_rule_in_raw_units():
    rng = np.random.default_rng(0)
    limits = (Bounds(0, 0.8, 2.0), Bounds(2, -1.0, 1.0))
    info = SetInfo("hopper-like", 1, "imported", 3, 1, 0.99, 200, termination="bounds", healthy=limits)
    ready = Preparation(
        np.float32([1.3, -4.0, 0.2]), np.float32([0.4, 2.0, 0.7]), np.zeros(1, np.float32), np.ones(1, np.float32),
        np.ones((), np.float32),
    )  # fmt: skip
    raw = rng.normal(size=(40, 25, 3)).astype(np.float32) * 1.5 + np.float32([1.3, -4.0, 0.2])
    alive = (raw[..., 0] > 0.8) & (raw[..., 0] < 2.0) & (raw[..., 2] > -1.0) & (raw[..., 2] < 1.0)
    rule = termination_rule(info, ready)
    found = rule(jnp.asarray(ready.obs(raw)), jnp.zeros((40, 25), jnp.float32), jnp.zeros((40, 25), jnp.float32))
    np.testing.assert_array_equal(found, ~alive)
    assert 0 < alive.sum() < alive.size
    assert not rule.learned


def test_learned_rule_draws_from_its_probability():
    rule = Termination("learned", NEVER.index, NEVER.low, NEVER.high)
    logit = jnp.repeat(jnp.asarray([[-20.0], [0.0], [20.0]], jnp.float32), 2000, axis=1)
    chance = jax.random.uniform(jax.random.key(0), (3, 2000))
    share = np.asarray(rule(jnp.zeros((3, 2000, 1), jnp.float32), logit, chance)).mean(axis=1)
    assert share[0] == 0.0
    assert share[1] == pytest.approx(0.5, abs=0.06)
    assert share[2] == 1.0
    assert not np.any(NEVER(jnp.zeros((3, 2000, 1), jnp.float32), logit, chance))


CAPACITY = 7


@eqx.filter_jit
def add(ring: Ring, numbers, valid):
    """Transitions whose every entry is one running number, so that each can be told apart."""
    f = numbers.astype(jnp.float32)
    rows = Transitions(f[:, None], f[:, None], f, f[:, None], valid, ~valid)
    return ring.add(rows, valid)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=8))
def test_ring_against_a_slow_reference(batches):
    """Valid rows one after another from slot 0, the oldest overwritten; never a gap, never a zero row."""
    ring, slots, position, count = Ring.empty(CAPACITY, 1, 1), [None] * CAPACITY, 0, 0
    number = 1
    for valid in batches:
        ring = add(ring, jnp.arange(number, number + 5), jnp.asarray(valid))
        for ok in valid:
            if ok:
                slots[position] = number
                position, count = (position + 1) % CAPACITY, min(count + 1, CAPACITY)
            number += 1
        assert int(ring.size) == count
        assert int(ring.position) == position
        expected = [s for s in slots if s is not None]
        for leaf in (ring.rows.reward, ring.rows.obs[:, 0], ring.rows.action[:, 0], ring.rows.next_obs[:, 0]):
            assert np.asarray(leaf)[:count].tolist() == expected
        assert np.asarray(ring.rows.terminated)[:count].all()
    if count:
        drawn = np.asarray(draw(ring, jax.random.key(number)).reward)
        assert set(drawn.tolist()) <= set(slots) - {None}
        assert set(drawn.tolist()) == {float(s) for s in slots if s is not None}  # 256 draws from at most 7


@eqx.filter_jit
def draw(ring: Ring, key):
    return ring.at(draws.place(draws.words(key, 256), ring.size))


def test_the_return_in_imagination_is_that_of_the_closed_form():
    """Elites 3, 0, 2 pay as much a step, for 3, 3 and 6 steps as above; discount 1/2."""
    actor = Actor(2, 1, (4,), jax.random.key(1))
    start = jnp.zeros((6, 2), jnp.float32)
    args = (actor, drifting([1.0, 9.0, 0.5, 1.0]), unit_scale(2), below(2.75), start, jax.random.key(0))
    found = float(imagined_return(*args, horizon=8, discount=0.5))
    assert found == pytest.approx((3 * 1.75 + 0 + 2 * (2 - 2**-5)) / 3, rel=1e-4)
    assert float(imagined_return(*args, horizon=4)) == pytest.approx((9 + 0 + 8) / 3, rel=1e-4)
