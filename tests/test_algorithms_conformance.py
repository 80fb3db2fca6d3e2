"""What every update function keeps: jit changes nothing, tasks are a mapped axis, float32 stays, seeds repeat."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from merpo import DynamicsConfig, MerPOConfig, RACConfig
from merpo.algorithms import bc, merpo, meta, pipeline, rac
from merpo.data import Preparation
from merpo.dynamics.ensemble import fit_scale
from merpo.dynamics.fit import FittedModel, Rows, fit_steps, of_task, optimiser
from rival_cases import ALGORITHMS, rival_case, rival_update
from toys import actor, critic, ensemble, linear_info, linear_set, transitions, unit_scale

CONFIG = MerPOConfig(
    rac=RACConfig(
        actor_hidden=(6,), critic_hidden=(6,), batch=8, rollout_length=2, rollout_rows=4, imagine_every=4, buffer=24
    ),
    dynamics=DynamicsConfig(hidden=(4,), members=2, elites=2, batch=4, adapt_steps=4, check_every=2),
    train_updates=8, adapt_updates=8, meta_every=2, meta_steps=2, meta_batch=4, context=1, bc_updates=20,
)  # fmt: skip
N = 3  # tasks side by side


def rac_case(i: int, size: float = 1.0):
    state = rac.init(actor(i), critic(i, layer_norm=True), CONFIG.rac)
    real, model = (transitions(10 * s + i, 4) for s in (1, 2))
    large = [
        eqx.tree_at(lambda t: (t.obs, t.next_obs, t.reward), t, (t.obs * size, t.next_obs * size, t.reward * size**2))
        for t in (real, model)
    ]
    weights = rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (0.4, 0.1, 0.0, 0.1)))
    return state, *large, actor(i + 50), weights


def rac_update(state, real, model, anchor, weights, key):
    return rac.update(state, real, model, anchor, weights, key, 0.9, CONFIG.rac)


def model_case(i: int, size: float = 1.0):
    model = ensemble(i, 3, 2, CONFIG.dynamics)
    data = transitions(i, 9)
    data = eqx.tree_at(lambda t: (t.obs, t.reward), data, (data.obs * size, data.reward * size**2))
    all_rows = jnp.arange(9, dtype=jnp.int32)
    rows = Rows(jnp.stack([all_rows, all_rows]), all_rows, jnp.asarray(9, jnp.int32), all_rows, all_rows >= 0)
    return (model, optimiser(CONFIG.dynamics).init(model)), data, rows


def model_update(state, data, rows, key):
    model, opt, nll = fit_steps(
        *state, state[0], of_task(data, rows, CONFIG.dynamics), unit_scale(3), key, 2, CONFIG.dynamics, True
    )
    return (model, opt), nll


def meta_case(i: int, size: float = 1.0):
    """Two tasks with a context of two numbers."""
    metas = meta.init(actor(i, obs=5), critic(i, act=4), CONFIG.meta_lr)
    actors = jax.tree.map(lambda *x: jnp.stack(x), actor(i + 1), actor(i + 2))
    critics = jax.tree.map(lambda *x: jnp.stack(x), critic(i + 1), critic(i + 2))
    rng = np.random.default_rng(i)
    obs = jnp.asarray(size * rng.normal(size=(2, 2, 4, 3)), jnp.float32)
    return metas, actors, critics, obs, jnp.asarray(rng.uniform(-1, 1, (2, 2, 4, 2)), jnp.float32)


def meta_update(metas, actors, critics, obs, action, key):
    z, weight = jnp.asarray([[1.0, 0.0], [-1.0, 0.5]], jnp.float32), jnp.ones(2, jnp.float32)
    noise = jax.random.normal(key, (2, 2, meta.asked(obs.shape[2]), action.shape[-1]))
    return meta.meta_steps(metas, actors, critics, obs, action, z, weight, noise, CONFIG.meta_lr, jnp.float32(1.0))


def bc_case(i: int, size: float = 1.0):
    data = transitions(i, 9)
    data = eqx.tree_at(lambda t: t.obs, data, data.obs * size)
    return bc.Cloned(actor(i), jnp.zeros((), jnp.float32)), data


def bc_update(state, data, key):
    rows = jnp.arange(9, dtype=jnp.int32)
    count = jnp.asarray(9, jnp.int32)
    new = bc.clone(
        state.actor, data, rows, count, rows, rows >= 0, key, updates=2, batch=4, learning_rate=1e-3, checks=2
    )
    return new, new.nll


CASES = {
    "rac": (rac_update, rac_case),
    "model": (model_update, model_case),
    "meta-policy": (meta_update, meta_case),
    "bc": (bc_update, bc_case),
    **{name: (rival_update(name), partial(rival_case, name)) for name in ALGORITHMS},
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    update, make = CASES[request.param]
    return update, make, eqx.filter_jit(update)


def close(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_jit_changes_nothing():
    """Op by op (slow to start, so for the smallest; the larger ones are held against NumPy loops elsewhere)."""
    args = (*meta_case(0), jax.random.key(0))
    with jax.disable_jit():
        plain = meta_update(*args)
    close(eqx.filter_jit(meta_update)(*args), plain)


def test_dtypes_shapes_and_structure_are_kept(case):
    update, make, _ = case
    args = make(0)
    new, metrics = eqx.filter_eval_shape(update, *args, jax.random.key(0))
    assert jax.tree.structure(new) == jax.tree.structure(args[0])
    for before, after in zip(jax.tree.leaves(args[0]), jax.tree.leaves(new), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert after.dtype in (jnp.float32, jnp.int32)
    assert all(m.dtype == jnp.float32 and m.shape == () for m in jax.tree.leaves(metrics))


def test_repeats_bit_for_bit(case):
    _, make, jitted = case
    a, b = (jitted(*make(0), jax.random.key(0)) for _ in range(2))
    assert eqx.tree_equal(a, b)


def test_finite_on_extreme_inputs(case):
    """Observations of a thousand deviations, rewards of a million."""
    _, make, jitted = case
    args = make(0, 1000.0)
    for i in range(3):
        state, metrics = jitted(*args, jax.random.key(i))
        args = (state, *args[1:])
    for leaf in jax.tree.leaves((state, metrics)):
        assert np.isfinite(leaf).all()


def test_tasks_are_a_mapped_axis(case):
    _, make, jitted = case
    keys = jax.random.split(jax.random.key(0), N)
    cases = [make(i) for i in range(N)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    together = eqx.filter_jit(eqx.filter_vmap(case[0]))(*stacked, keys)
    for i in range(N):
        close(jax.tree.map(lambda x, i=i: x[i], together), jitted(*cases[i], keys[i]))


# --- a whole chunk: several seeds and tasks


@pytest.fixture(scope="module")
def chunk():
    """Two seeds of three tasks: a start state, its jobs, and a runner of one round."""
    tasks, info = list(linear_set(3)), linear_info()
    preparation = Preparation.fit(linear_set(3))
    batch = pipeline.make_batch(tasks, preparation, CONFIG, seed=0)
    flat = [preparation.task(t).transitions for t in tasks]
    scale = fit_scale(jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *flat))
    models = [ensemble(i, 2, 1, CONFIG.dynamics) for i in range(6)]
    fitted = jax.tree.map(lambda *x: jnp.stack(x), *models)
    fitted = FittedModel(fitted, jnp.tile(jnp.arange(2, dtype=jnp.int32), (6, 1)), jnp.zeros((6, 2), jnp.float32))
    rule = pipeline.termination_rule(info, preparation)
    z = jnp.asarray([[-1.0], [0.0], [1.0]] * 2, jnp.float32)
    jobs = pipeline.make_jobs(batch, fitted, scale, rule, jnp.zeros(6, jnp.float32), z, (0, 1), 0.4, 0.1, 8)
    state = merpo.init_meta(jax.random.split(jax.random.key(0), 2), z, 2, 1, CONFIG)

    def run(seed=0, round_number=0, config=CONFIG):
        copy = jax.tree.map(jnp.copy, state)  # the chunk gives its input's buffers away
        start = jnp.asarray(round_number, jnp.int32)
        return merpo.train_chunk(copy, jobs, jax.random.key(seed), start, rounds=1, seeds=2, gamma=0.9, config=config)

    run.jobs = jobs
    return state, run


def test_chunk_repeats_and_compiles_once_per_shape(chunk):
    _, run = chunk
    before = merpo.train_chunk._cache_size()
    a, b = run(), run()
    other, later = run(seed=1), run(round_number=1)
    assert merpo.train_chunk._cache_size() == before + 1
    assert eqx.tree_equal(a, b)
    assert not eqx.tree_equal(a[0].learners.actor, other[0].learners.actor)
    assert not eqx.tree_equal(a[0].learners.actor, later[0].learners.actor)


def test_jobs_in_sequence_equal_jobs_side_by_side(chunk):
    """`group` is a strategy for the machine at hand, not a setting of the method."""
    _, run = chunk
    close(run(), run(config=replace(CONFIG, group=6)), 2e-4)


def test_chunk_moves_everything_it_should(chunk):
    start, run = chunk
    state, metrics = run()
    for leaf in jax.tree.leaves((state, metrics)):
        assert np.isfinite(leaf).all()
    assert np.asarray(state.learners.step).tolist() == [4] * 6
    assert np.asarray(state.rings.size).tolist() == [8] * 6  # 4 start states, 2 steps, nothing ends
    for part in ("actor", "critic"):
        old, new = (jax.tree.leaves(getattr(s.metas, part)) for s in (start, state))
        assert not any(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    # seeds start from networks of their own and stay apart; tasks of a seed start alike and part ways
    weight = np.asarray(state.learners.actor.net.layers[0].weight)
    assert len({w.tobytes() for w in weight}) == 6
    first = np.asarray(start.learners.actor.net.layers[0].weight)
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[3])
    # but for their context, which is in the first bias
    bias = np.asarray(start.learners.actor.net.layers[0].bias)
    np.testing.assert_allclose(bias[2] - bias[1], bias[1] - bias[0], rtol=1e-4, atol=1e-6)
    assert np.abs(bias[2] - bias[1]).max() > 1e-3


def test_parts_of_the_jobs_give_what_the_whole_gives(chunk):
    """Threads over parts of the job axis are a strategy for the machine too: a seed alone equals it among others."""
    state, run = chunk
    whole, _ = run()
    half = slice(3, 6)
    part = run.jobs.part(half)
    own = merpo.MetaState(
        *jax.tree.map(lambda x: jnp.copy(x[half]), (state.learners, state.rings)),
        jax.tree.map(lambda x: jnp.copy(x[1:]), state.metas),
    )
    zero = jnp.asarray(0, jnp.int32)
    alone, _ = merpo.train_chunk(own, part, jax.random.key(0), zero, rounds=1, seeds=1, gamma=0.9, config=CONFIG)
    close(alone.learners, jax.tree.map(lambda x: x[half], whole.learners))
    close(alone.metas, jax.tree.map(lambda x: x[1:], whole.metas))
