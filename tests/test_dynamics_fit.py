"""Fitting: seeded hold-outs by episode, bootstrap samples, the meta-model's outer step, adaptation and its worth."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import merpo.tasks
from merpo import DynamicsConfig
from merpo.data import Preparation, stack
from merpo.dynamics.ensemble import Ensemble, better_parts, fit_scale, holdout_error, part_errors
from merpo.dynamics.fit import (
    FittedModel,
    Rows,
    adapt_models,
    fit_steps,
    less_wrong,
    meta_chunk,
    of_all_tasks,
    of_task,
    optimiser,
    pool_chunk,
    reach_of,
    split_rows,
    take,
)
from toys import ensemble, linear_set, linear_task, transitions, unit_scale

CONFIG = DynamicsConfig(
    hidden=(6,), members=3, elites=2, batch=8, eta=0.01, meta_iterations=10, inner_steps=3, adapt_steps=20, check_every=5,
    learning_rate=0.01,
)  # fmt: skip


def leaves_equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def tasks():
    return list(linear_set(3, 5))


@pytest.fixture(scope="module")
def rows(tasks):
    return split_rows(tasks, CONFIG, 3)


def test_holdout_is_by_episode_and_disjoint(tasks, rows):
    for n, task in enumerate(tasks):
        count = int(rows.count[n])
        train = set(np.asarray(rows.train[n])[:count].tolist())
        held = set(np.asarray(rows.held[n])[np.asarray(rows.held_valid[n])].tolist())
        assert train | held == set(range(len(task)))
        assert not train & held
        assert len(train) == count
        owner = np.repeat(np.arange(task.episodes), np.diff(task.episode_start))
        assert not {int(owner[i]) for i in train} & {int(owner[i]) for i in held}
        assert len({int(owner[i]) for i in held}) == round(0.2 * task.episodes)


def test_each_member_has_its_own_bootstrap_of_the_training_rows(tasks, rows):
    for n in range(len(tasks)):
        count = int(rows.count[n])
        train = set(np.asarray(rows.train[n])[:count].tolist())
        boots = [np.asarray(rows.boot[n, m])[:count] for m in range(CONFIG.members)]
        assert all(set(b.tolist()) <= train for b in boots)
        assert len({tuple(b.tolist()) for b in boots}) == CONFIG.members
        assert all(len(set(b.tolist())) < count for b in boots)  # drawn with replacement


def test_split_is_seeded(tasks, rows):
    assert leaves_equal(rows, split_rows(tasks, CONFIG, 3))
    assert not leaves_equal(rows, split_rows(tasks, CONFIG, 4))


def test_split_of_small_logs():
    """A single episode is cut in its time; one row is trained on and tested on; the hold-out is capped."""
    alone, single, long = linear_task("a", 1, 0), linear_task("b", [1], 1), linear_task("c", [6] * 40, 2)
    rows = split_rows([alone, single, long], replace(CONFIG, holdout_rows=10), 0)
    assert np.asarray(rows.train[0])[: int(rows.count[0])].tolist() == [0, 1, 2, 3, 4]
    assert np.asarray(rows.held[0])[np.asarray(rows.held_valid[0])].tolist() == [5]
    assert int(rows.count[1]) == 1
    assert np.asarray(rows.held_valid).sum(axis=1).tolist() == [1, 1, 10]


def run_steps(model, data, rows, key, steps=CONFIG.inner_steps, config=CONFIG):
    opt = optimiser(config).init(model)
    return fit_steps(model, opt, model, of_task(data, rows, config), unit_scale(2), key, steps, config, False)


fit_jit = eqx.filter_jit(run_steps)


def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_held_out_rows_are_never_trained_on(tasks, rows):
    """Held-out rows are made NaN: one of them in any batch would spoil every weight."""
    stacked = stack(tasks)
    own = pick(rows, 0)
    held = own.held[own.held_valid]
    data = pick(stacked.transitions, 0)
    spoilt = eqx.tree_at(
        lambda t: (t.reward, t.next_obs), data, (data.reward.at[held].set(jnp.nan), data.next_obs.at[held].set(jnp.nan))
    )
    model = ensemble(0, 2, 1, CONFIG)
    clean, dirty = (fit_jit(model, d, own, jax.random.key(0), 40) for d in (data, spoilt))
    assert leaves_equal(clean[0], dirty[0])
    assert np.isfinite(dirty[2])


def test_proximal_weight_holds_the_model_back(tasks, rows):
    stacked, model = stack(tasks), ensemble(0, 2, 1, CONFIG)
    data, own = pick(stacked.transitions, 0), pick(rows, 0)
    moved = []
    for eta in (0.0, 100.0):
        phi, _, _ = fit_jit(model, data, own, jax.random.key(0), 40, replace(CONFIG, eta=eta))
        moved.append(
            sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(*map(jax.tree.leaves, (phi, model)), strict=True))
        )
    assert moved[1] < 0.1 * moved[0]


@pytest.mark.parametrize("start", [0, 4])
def test_the_outer_step_is_its_formula(start):
    """phi_m <- phi_m - rate (phi_m - mean phi_n), with logs whose only training row leaves nothing to chance."""
    tasks = [linear_task(f"t{i}", [1, 1], seed=i, push=0.5 * i) for i in range(3)]
    rows = split_rows(tasks, CONFIG, 0)
    assert np.asarray(rows.count).tolist() == [1, 1, 1]
    stacked, meta = stack(tasks), ensemble(0, 2, 1, CONFIG)
    found, *_ = meta_chunk(
        meta, stacked, rows, unit_scale(2), jax.random.key(5), jnp.asarray(start, jnp.int32),
        config=CONFIG, learn_termination=False, iterations=1, tasks_per_iteration=3,
    )  # fmt: skip
    phis = [fit_jit(meta, pick(stacked.transitions, n), pick(rows, n), jax.random.key(9))[0] for n in range(3)]
    rate = CONFIG.meta_rate * max(1.0 - start / CONFIG.meta_iterations, 0.1)
    for new, old, *own in zip(*map(jax.tree.leaves, (found, meta, *phis)), strict=True):
        old = np.asarray(old, np.float64)
        expected = old - rate * (old - np.mean(np.asarray(own, np.float64), axis=0))
        np.testing.assert_allclose(new, expected, atol=2e-6)
        assert not np.allclose(own[0], old, atol=1e-4)


def test_adaptation_keeps_the_best(tasks, rows):
    stacked = stack(tasks)
    wild = replace(CONFIG, learning_rate=0.5)  # steps so large that most of them do harm
    meta = ensemble(0, 2, 1, CONFIG)
    fitted, curve = adapt_models(
        meta, stacked, rows, unit_scale(2, 1e-3), jax.random.key(0), config=wild, learn_termination=False
    )
    assert curve.shape == (3, 5)
    error = jax.jit(lambda m, r, v: holdout_error(m, r, v, unit_scale(2)))
    for n in range(3):
        held, valid = take(pick(stacked.transitions, n), rows.held[n]), rows.held_valid[n]
        before, after = (np.asarray(error(m, held, valid)) for m in (meta, pick(fitted.model, n)))
        assert (after <= before).all()
        np.testing.assert_allclose(after, fitted.error[n], rtol=1e-5)
        assert float(curve[n, 0]) == pytest.approx(before.mean(), rel=1e-5)
        assert sorted(np.argsort(after)[:2].tolist()) == sorted(np.asarray(fitted.elites[n]).tolist())
        reach = reach_of(pick(stacked.transitions, n), stacked.size[n], unit_scale(2, 1e-3))
        assert fitted.reach is not None
        np.testing.assert_array_equal(fitted.reach.obs_low[n], reach.obs_low)
        np.testing.assert_array_equal(fitted.reach.obs_high[n], reach.obs_high)
        assert (reach.obs_low < -1e-3).any()


def test_the_reward_and_the_dynamics_are_each_kept_where_they_are_best(tasks, rows):
    """A new task may have old dynamics, of which its log can teach no more, and a new reward."""
    stacked = stack(tasks)
    wild = replace(CONFIG, learning_rate=0.9, reward_given_next=True, adapt_steps=60)
    meta = ensemble(0, 2, 1, wild)
    fitted, _ = adapt_models(
        meta, stacked, rows, unit_scale(2), jax.random.key(0), config=wild, learn_termination=False
    )
    errors = jax.jit(lambda m, r, v: part_errors(m, r, v, unit_scale(2)))
    gains = []
    for n in range(3):
        held, valid = take(pick(stacked.transitions, n), rows.held[n]), rows.held_valid[n]
        before, after = (errors(m, held, valid) for m in (meta, pick(fitted.model, n)))
        for old, new in zip(before, after, strict=True):
            assert (np.asarray(new) <= np.asarray(old)).all()
        gains.append(np.asarray(before) - np.asarray(after))
        np.testing.assert_allclose(
            fitted.error[n], holdout_error(pick(fitted.model, n), held, valid, unit_scale(2)), rtol=1e-5
        )
    assert (np.asarray(gains) == 0.0).any(), "choose steps so wild that a part is best as it was"
    assert (np.asarray(gains)[:, 1] > 0.0).any()


def test_parts_are_picked_with_their_own_bounds():
    config = replace(CONFIG, reward_given_next=True)
    new, old = ensemble(1, 2, 1, config), ensemble(2, 2, 1, config)
    moves, reward = jnp.asarray([True, False, True]), jnp.asarray([False, False, True])
    mixed = better_parts(new, old, moves, reward)
    for i, (m, r) in enumerate(zip(moves, reward, strict=True)):
        own, of = jax.tree.map(lambda x, i=i: x[i], mixed), [jax.tree.map(lambda x, i=i: x[i], e) for e in (old, new)]
        assert leaves_equal(own.nets, of[int(m)].nets)
        assert leaves_equal(own.reward, of[int(r)].reward)
        for name in ("max_logvar", "min_logvar"):
            value, source = getattr(own, name), [getattr(e, name) for e in of]
            np.testing.assert_array_equal(value, np.append(source[int(m)][:-1], source[int(r)][-1]))


def test_from_the_meta_model_few_steps_reach_what_scratch_needs_many_for():
    """Unseen winds, three logged episodes each: 10 steps from phi_m beat 50 steps from scratch on held-out steps."""
    data = merpo.tasks.generate("point-robot-wind", "medium", episodes=6, seed=0, test_episodes=3)
    config = DynamicsConfig(
        hidden=(32, 32), members=2, elites=2, learning_rate=3e-3, batch=64, meta_iterations=40, inner_steps=10,
        adapt_steps=50, check_every=10,
    )  # fmt: skip
    prepare = Preparation.fit(data.train)
    train, test = ([prepare.task(t) for t in part] for part in (data.train, data.test))
    scale = fit_scale(
        jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *(t.transitions for t in train))
    )
    fresh = Ensemble.init(jax.random.key(1), 2, 2, config)
    meta, *_ = meta_chunk(
        fresh, stack(train), split_rows(train, config, 0), scale, jax.random.key(2), jnp.asarray(0, jnp.int32),
        config=config, learn_termination=False, iterations=config.meta_iterations, tasks_per_iteration=16,
    )  # fmt: skip
    curves = []
    for start, eta in ((meta, config.eta), (fresh, 0.0)):  # from scratch nothing holds the model back
        _, curve = adapt_models(
            start, stack(test), split_rows(test, config, 1), scale, jax.random.key(3),
            config=replace(config, eta=eta), learn_termination=False,
        )  # fmt: skip
        curves.append(np.asarray(curve).mean(axis=0))
    from_meta, from_scratch = curves
    assert from_meta[1] <= from_scratch[5]
    assert from_meta[0] < from_scratch[0]


def test_of_two_models_a_wrong_one_makes_room_for_one_whose_elites_err_less():
    """A member that is no elite counts for nothing, however wrong it is; a good model stays, whatever another has."""
    elites = jnp.asarray([[0, 1], [0, 2], [1, 2]], jnp.int32)
    zero = jax.tree.map(lambda x: jnp.zeros((3, *x.shape), x.dtype), ensemble(0, 2, 1, CONFIG))
    first = jnp.asarray([[1.0, 1.0, 9.0], [1.0, 9.0, 1.0], [9.0, 0.009, 0.01]], jnp.float32)
    second = jnp.asarray([[0.5, 99.0, 1.0], [1.5, 0.9, 0.0], [0.0, 0.0, 0.0]], jnp.float32)
    one = FittedModel(zero, elites, first)
    other = FittedModel(jax.tree.map(lambda x: x + 1.0, zero), jnp.asarray([[0, 2], [0, 1], [0, 1]], jnp.int32), second)
    kept, replaced = less_wrong(one, other)
    assert replaced.tolist() == [True, False, False]
    for leaf in jax.tree.leaves(kept.model):
        np.testing.assert_array_equal(leaf, np.stack([np.ones(leaf.shape[1:]), *[np.zeros(leaf.shape[1:])] * 2]))
    np.testing.assert_array_equal(kept.elites, [[0, 2], [0, 2], [1, 2]])
    np.testing.assert_array_equal(kept.error, [second[0], first[1], first[2]])


def test_a_share_of_the_step_size():
    """Half of the share moves the parameters half as far in one Adam step; none leaves them where they are."""
    config = DynamicsConfig(hidden=(4,), members=2, elites=2, batch=4)
    model, data = ensemble(0, 3, 2, config), transitions(0, 9)
    index = jnp.arange(9, dtype=jnp.int32)
    rows = Rows(jnp.stack([index, index]), index, jnp.asarray(9, jnp.int32), index, index >= 0)
    start = optimiser(config).init(model)
    run = jax.jit(
        lambda share: fit_steps(
            model, start, model, of_task(data, rows, config), unit_scale(3), jax.random.key(0), 1, config, False, share
        )[0]
    )
    whole, half, none = (run(jnp.float32(s)) for s in (1.0, 0.5, 0.0))
    for m, w, h, n in zip(*map(jax.tree.leaves, (model, whole, half, none)), strict=True):
        np.testing.assert_array_equal(n, m)
        np.testing.assert_allclose(2 * (np.asarray(h) - m), np.asarray(w) - m, atol=1e-6)
        assert not np.array_equal(w, m)


def test_pooled_batches_hold_training_rows_of_all_tasks_alike(tasks, rows):
    """Rows are marked by task and row; a task with few rows is drawn as often as one with many; none is held out."""
    stacked = stack(tasks)
    shape = stacked.transitions.reward.shape
    marks = (1000 * np.arange(shape[0])[:, None] + np.arange(shape[1])[None]).astype(np.float32)
    marked = eqx.tree_at(lambda s: s.transitions.reward, stacked, jnp.asarray(marks))
    config = replace(CONFIG, pool_batch=3000)
    drawn = np.asarray(of_all_tasks(marked, rows, config)(jax.random.key(0)).reward).astype(int)
    assert drawn.shape == (CONFIG.members, 3000)
    for n in range(len(tasks)):
        for member in range(CONFIG.members):
            found = drawn[member][drawn[member] // 1000 == n] % 1000
            boot = set(np.asarray(rows.boot[n, member])[: int(rows.count[n])].tolist())
            assert set(found.tolist()) == boot
            assert abs(len(found) / 3000 - 1 / len(tasks)) < 0.04


def test_a_pooled_start_learns_what_tasks_share():
    """Tasks alike: pooled steps alone bring phi_m to a small error on every task, where it began with a large one."""
    tasks = [linear_task(f"t{i}", 80, i) for i in range(3)]
    config = replace(CONFIG, hidden=(16,), pool_steps=600, pool_batch=64)
    rows, stacked = split_rows(tasks, config, 0), stack(tasks)
    flat = jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *(t.transitions for t in tasks))
    scale, fresh = fit_scale(flat), ensemble(0, 2, 1, config)
    model, state = fresh, optimiser(config).init(fresh)
    for start in range(0, 600, 100):
        model, state, _ = pool_chunk(
            model, state, stacked, rows, scale, jax.random.key(0), jnp.asarray(start, jnp.int32),
            config=config, learn_termination=False, steps=100,
        )  # fmt: skip
    for n in range(3):
        held = take(pick(stacked.transitions, n), rows.held[n])
        before, after = (holdout_error(m, held, rows.held_valid[n], scale).mean() for m in (fresh, model))
        assert after < 0.1 < 0.5 < before
