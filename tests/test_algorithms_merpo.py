"""Meta-policy and meta-critic at their analytic optima, and behaviour cloning's known optimum."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from merpo import ConfigError, DynamicsConfig, MerPOConfig, RACConfig
from merpo.algorithms import bc, merpo, rac
from merpo.algorithms import meta as meta_module
from merpo.algorithms.merpo import Jobs
from merpo.algorithms.meta import meta_critic_loss, meta_policy_loss, meta_steps
from merpo.algorithms.presets import NARROW, RANDOM, SMALL, STANDARD, default_config
from merpo.data import action_noise
from merpo.data.types import SetInfo, TaskData, Transitions
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import Ring
from merpo.networks import Actor, TanhGaussian
from toys import NEVER, actor, critic, ensemble, gaussian_actor, transitions, unit_scale

MEANS = np.array([[0.5, -0.2], [-0.3, 0.4], [0.1, 0.9]])
STDS = np.array([[0.3, 0.5], [0.2, 0.7], [0.6, 0.4]])


def policies(means=MEANS, stds=STDS) -> TanhGaussian:
    return TanhGaussian(jnp.asarray(means[:, None], jnp.float32), jnp.asarray(np.log(stds)[:, None], jnp.float32))


OBS = jnp.zeros((3, 1, 1), jnp.float32)
NO_CONTEXT = jnp.zeros((3, 0), jnp.float32)


@jax.jit
def loss_and_bias_gradient(meta, weight):
    loss, grads = jax.value_and_grad(meta_policy_loss)(meta, policies(), OBS, NO_CONTEXT, weight)
    return loss, grads.net.layers[0].bias


def mixture(weight):
    w = np.asarray(weight) / np.sum(weight)
    mean = w @ MEANS
    return mean, np.sqrt(w @ (STDS**2 + MEANS**2) - mean**2)


@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0], [0.2, 3.0, 1.0]])
def test_meta_policy_is_the_moment_matched_mixture(weight):
    """sum_n w_n KL(pi_n || pi_c) is least where pi_c has the mixture's mean and variance (mass covering)."""
    weight_now = jnp.asarray(weight, jnp.float32)
    mean, std = mixture(weight)
    best, gradient = loss_and_bias_gradient(gaussian_actor(mean, np.log(std)), weight_now)
    np.testing.assert_allclose(gradient, 0.0, atol=2e-6)
    for shift, stretch in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.2), (0.0, -0.2)):
        near, slope = loss_and_bias_gradient(gaussian_actor(mean + shift, np.log(std) + stretch), weight_now)
        assert float(near) > float(best)
        assert np.abs(slope).max() > 1e-3


def test_scale_of_the_weights_does_not_matter():
    meta = gaussian_actor([0.0, 0.0], [-1.0, -1.0])
    a, b = (loss_and_bias_gradient(meta, jnp.asarray(w, jnp.float32)) for w in ([1.0, 2.0, 3.0], [0.01, 0.02, 0.03]))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-4, atol=1e-6)
    still, gradient = loss_and_bias_gradient(meta, jnp.zeros(3, jnp.float32))  # alpha = 1 everywhere
    assert float(still) == 0.0
    assert not np.any(gradient)


def constant_critic(value, context=0):
    """Both critics give this value everywhere (a bias alone)."""
    base = jax.tree.map(jnp.zeros_like, critic(0, 1, 2 + context, hidden=()))
    return eqx.tree_at(lambda c: c.nets.layers[0].bias, base, jnp.full((2, 1), value, jnp.float32))


def distil(context: int, z, values):
    """Meta-policy and meta-critic after 600 steps on three constant tasks."""
    actors = jax.tree.map(
        lambda *x: jnp.stack(x), *(gaussian_actor(m, np.log(s)) for m, s in zip(MEANS, STDS, strict=True))
    )
    critics = jax.tree.map(lambda *x: jnp.stack(x), *(constant_critic(v) for v in values))
    start = jax.tree.map(jnp.zeros_like, actor(0, 1 + context, 2, hidden=()))
    metas = meta_module.init(start, constant_critic(0.0, context), 0.02)
    states, logged = jnp.zeros((600, 3, 2, 1), jnp.float32), jnp.zeros((600, 3, 2, 2), jnp.float32)
    noise = jax.random.normal(jax.random.key(0), (600, 3, 1, 2))
    run = eqx.filter_jit(meta_steps)
    return run(metas, actors, critics, states, logged, z, jnp.ones(3, jnp.float32), noise, 0.02, jnp.float32(1.0))[0]


@eqx.filter_jit
def at_zero(metas, z):
    obs = jnp.zeros((1, 1), jnp.float32)
    return metas.actor.given(z)(obs), metas.critic.given(z)(obs, jnp.zeros((1, 2), jnp.float32))


def test_meta_steps_reach_the_optimum():
    """Without a context: the mixture of the policies, and what the critics agree on, whatever the states are."""
    found, value = at_zero(distil(0, NO_CONTEXT, (2.0, 2.0, 2.0)), NO_CONTEXT[0])
    mean, std = mixture([1, 1, 1])
    np.testing.assert_allclose(found.mean[0], mean, atol=5e-3)
    np.testing.assert_allclose(np.exp(found.log_std[0]), std, atol=5e-3)
    np.testing.assert_allclose(value, 2.0, atol=5e-3)


def test_with_a_context_the_meta_policy_tells_tasks_apart():
    """Three tasks, their contexts corners of a triangle: an affine map can give each its own policy and value."""
    z = jnp.asarray([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], jnp.float32)
    metas = distil(2, z, (1.0, -1.0, 3.0))
    for n, value in enumerate((1.0, -1.0, 3.0)):
        found, q = at_zero(metas, z[n])
        np.testing.assert_allclose(found.mean[0], MEANS[n], atol=0.02)
        np.testing.assert_allclose(np.exp(found.log_std[0]), STDS[n], atol=0.02)
        np.testing.assert_allclose(q, value, atol=0.02)


def test_meta_critic_loss_is_the_mean_square():
    rng = np.random.default_rng(0)
    q, obs = critic(3, 1, 3), jnp.asarray(rng.normal(size=(2, 4, 1)), jnp.float32)
    action, z = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 4, 2), (2, 1)))
    values = rng.normal(size=(2, 2, 4))
    loss = jax.jit(meta_critic_loss)(q, jnp.asarray(values, jnp.float32), obs, action, z)
    apply = jax.jit(lambda s, a: q(s, a))
    by_task = [apply(obs[n], jnp.concatenate([action[n], jnp.tile(z[n], (4, 1))], axis=1)) for n in range(2)]
    expected = np.mean([(np.asarray(b) - values[:, n]) ** 2 for n, b in enumerate(by_task)])
    assert float(loss) == pytest.approx(0.5 * expected, rel=1e-5)


def test_cloning_reaches_the_maximum_likelihood_policy():
    """Actions tanh(u), u ~ N(m, s): the best policy has the sample's mean and deviation of atanh(a)."""
    rng = np.random.default_rng(0)
    u = np.array([0.4, -0.6]) + np.array([0.3, 0.5]) * rng.normal(size=(400, 2))
    f32 = np.float32
    zero = jnp.zeros((400,), jnp.float32)
    data = Transitions(zero[:, None], jnp.asarray(np.tanh(u).astype(f32)), zero, zero[:, None], zero > 0, zero > 0)
    start = gaussian_actor([0.0, 0.0], [0.0, 0.0])
    rows, held = jnp.arange(300), jnp.arange(300, 400)
    stacked = jax.tree.map(lambda x: x[None], data)
    cloned = bc.clone_jobs(
        jax.tree.map(lambda x: x[None], start), stacked, jnp.zeros(1, jnp.int32), rows[None], jnp.asarray([300]),
        held[None], jnp.ones((1, 100), bool), jax.random.split(jax.random.key(0), 1),
        updates=600, batch=256, learning_rate=0.01, group=1,
    )  # fmt: skip
    best = eqx.filter_jit(jax.tree.map(lambda x: x[0], cloned.actor))(jnp.zeros((1, 1), jnp.float32))
    np.testing.assert_allclose(best.mean[0], u[:300].mean(axis=0), atol=0.06)
    np.testing.assert_allclose(np.exp(best.log_std[0]), u[:300].std(axis=0), atol=0.06)
    logp = stats.norm.logpdf(u[300:], u[:300].mean(axis=0), u[:300].std(axis=0)) - np.log1p(-(np.tanh(u[300:]) ** 2))
    assert float(cloned.nll[0]) == pytest.approx(-logp.sum(axis=1).mean(), abs=0.03)


def test_hold_out_likelihood_counts_valid_rows():
    a = gaussian_actor([0.1, 0.2], [-1.0, -0.5])
    rng = np.random.default_rng(1)
    action = rng.uniform(-0.9, 0.9, (6, 2)).astype(np.float32)
    zero = jnp.zeros((6,), jnp.float32)
    data = Transitions(zero[:, None], jnp.asarray(action), zero, zero[:, None], zero > 0, zero > 0)
    found = jax.jit(bc.holdout_nll)(a, data, jnp.asarray([5, 1, 0, 0]), jnp.asarray([True, True, False, False]))
    pre = np.arctanh(np.float64(action[[5, 1]]))
    logp = stats.norm.logpdf(pre, [0.1, 0.2], np.exp([-1.0, -0.5])) - np.log1p(-(np.tanh(pre) ** 2))
    assert float(found) == pytest.approx(-logp.sum(axis=1).mean(), rel=1e-4)


# --- settings


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("train_updates", {"train_updates": 0}),
        ("adapt_updates", {"adapt_updates": 0}),
        ("meta_every", {"meta_every": 0}),
        ("meta_every", {"meta_every": 7}),
        ("meta_batch", {"meta_batch": 0}),
        ("meta_rows", {"meta_rows": 0}),
        ("group", {"group": 0}),
        ("context", {"context": -1}),
        ("bc_updates", {"bc_updates": 0}),
        ("combo_beta", {"combo_beta": -1.0}),
        ("combo_beta", {"combo_beta": float("nan")}),
        ("train_updates", {"train_updates": 10_001}),
        ("adapt_updates", {"adapt_updates": 1}),
        ("rollout_rows", {"rac": RACConfig(rollout_rows=501)}),
        ("elites", {"dynamics": DynamicsConfig(elites=3)}),
    ],
)
def test_settings_outside_their_range(name, bad):
    with pytest.raises(ConfigError, match=name):
        MerPOConfig(**bad)


def test_default_settings_follow_the_dimensions():
    assert default_config(SetInfo("a", 1, "medium", 2, 2, 0.9, 20)) is SMALL
    assert default_config(SetInfo("b", 1, "medium", 17, 6, 0.99, 200)) is STANDARD


def test_default_settings_of_small_systems_follow_the_behaviour_s_noise():
    """A policy that tries one action in a place, plus a share of noise; the states are the same."""
    rng = np.random.default_rng(0)
    info = SetInfo("a", 1, "any", 2, 2, 0.9, 20)

    def log(share):
        obs = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
        action = np.clip((1 - share) * np.sin(3 * obs) + share * rng.uniform(-1, 1, obs.shape), -1, 1)
        flag = np.zeros(400, bool)
        rows = Transitions(obs, action.astype(np.float32), np.zeros(400, np.float32), obs, flag, flag)
        return TaskData("t", "train", rows, np.arange(0, 401, 20))

    noise = [action_noise([log(s), log(s)]) for s in (0.0, 0.1, 0.5, 1.0)]
    assert noise == sorted(noise)
    assert noise[0] < 0.2
    assert noise[3] == pytest.approx(1.155, abs=0.15)  # two independent uniform numbers: E|x - y| / sd = 2 / sqrt(3)
    for share, expected in ((0.1, NARROW), (1.0, SMALL)):
        assert default_config(info, [log(share)]) is expected
    assert action_noise([]) is None
    for share, expected in ((0.1, STANDARD), (0.5, STANDARD), (1.0, RANDOM)):
        assert default_config(replace(info, obs_dim=17), [log(share)]) is expected


@pytest.mark.parametrize(("tasks", "states"), [(1, 256), (2, 256), (5, 256), (6, 214), (20, 64), (2000, 1)])
def test_a_meta_step_takes_a_bounded_number_of_states(tasks, states):
    assert MerPOConfig(meta_batch=256, meta_rows=1280).meta_states(tasks) == states


@pytest.mark.parametrize(
    "settings",
    [{}, {"rollout_length": 0, "pushdown": "logsumexp", "logsumexp_gradient": "sampled", "behaviour": "dual"}],
    ids=["defaults", "keys of their own"],
)
def test_updates_drawn_at_once_are_those_of_one_after_another(settings):
    """`rac_steps` ends where one update after another ends that is given the rows and the random words of its step."""
    config = RACConfig(actor_hidden=(6,), critic_hidden=(6,), batch=8, rollout_rows=6, buffer=30, **settings)
    logged, imagined, pi_c = transitions(3, (2, 12)), transitions(4, 30), actor(5)
    dynamics = DynamicsConfig(hidden=(4,), members=2, elites=1)
    model = FittedModel(ensemble(4, 3, 2, dynamics), jnp.zeros(1, jnp.int32), jnp.zeros(2, jnp.float32))
    zero = jnp.zeros(1, jnp.int32)
    weights = rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (0.4, 0.1, 0.0, 0.1)))
    sizes = jnp.asarray([12, 9])
    jobs = Jobs(logged, sizes, zero, zero, model, unit_scale(3), NEVER, weights, jnp.zeros((1, 0), jnp.float32))
    ring = Ring(imagined, jnp.asarray(25), jnp.asarray(25))
    start, key, task, steps = rac.init(actor(0), critic(1), config), jax.random.key(7), jnp.asarray(1), 3

    found, metrics = jax.jit(lambda s, k: merpo.rac_steps(s, ring, jobs, task, pi_c, weights, k, steps, 0.9, config))(
        start, key
    )

    rows = (config.real_rows, config.batch - config.real_rows)
    own = sum(rac.words_of(*rows, 2, config))
    block = np.asarray(jax.random.bits(key, (steps, config.batch + own), jnp.uint32))

    @jax.jit
    def step(state, real, rest, words):
        drawn = rac.drawn_from(words, *rows, 2, config)
        return rac.updated(state, real, rest, pi_c, weights, drawn, 0.9, config)

    state, seen = start, []
    for words in block:
        index = np.asarray([int(w) * 9 >> 32 for w in words[: rows[0]]])
        real = jax.tree.map(lambda x, i=index: x[1, i], logged)
        size, source = (25, imagined) if config.rollout_length else (9, jax.tree.map(lambda x: x[1], logged))
        index = np.asarray([int(w) * size >> 32 for w in words[rows[0] : config.batch]])
        state, figures = step(state, real, jax.tree.map(lambda x, i=index: x[i], source), words[config.batch :])
        seen.append(figures)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    for name, mean in metrics.items():
        np.testing.assert_allclose(mean, np.mean([f[name] for f in seen]), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_some_imagined_actions_are_drawn_uniformly(share):
    """A policy at the bounds of its actions: all else that is imagined is `explore`, in both columns at once."""
    config = RACConfig(
        actor_hidden=(), critic_hidden=(6,), batch=8, explore=share, rollout_rows=1000, rollout_length=4, buffer=4000
    )
    dynamics = DynamicsConfig(hidden=(4,), members=2, elites=2)
    model = FittedModel(ensemble(4, 1, 2, dynamics), jnp.arange(2), jnp.zeros(2, jnp.float32))
    zero, none = jnp.zeros(1, jnp.int32), jnp.zeros((1, 0), jnp.float32)
    weights = rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (0.4, 0.1, 0.0, 0.1)))
    jobs = Jobs(
        transitions(3, (1, 12), 1), jnp.asarray([12]), zero, zero, model, unit_scale(1, 3.0), NEVER, weights, none
    )
    saturated = jax.tree.map(jnp.zeros_like, Actor(1, 2, (), jax.random.key(0)))
    bias = jnp.asarray([9.0, -9.0, -9.0, -9.0], jnp.float32)
    saturated = eqx.tree_at(lambda a: a.net.layers[0].bias, saturated, bias)
    learner, empty = rac.init(saturated, critic(1, 1), config), Ring.empty(config.buffer, 1, 2)
    run = jax.jit(lambda n, r, k: merpo.refresh(n, r, jobs, jnp.asarray(0), model, saturated, k, 0.9, config))
    _, ring = run(learner, empty, jax.random.key(2))
    actions = np.asarray(ring.rows.action)
    own = np.abs(actions) > 0.999
    assert (own[:, 0] == own[:, 1]).mean() > 0.999
    others = actions[~own[:, 0]]
    assert len(others) == pytest.approx(share * len(actions), abs=5 * (0.25 * 0.75 * len(actions)) ** 0.5)
    for column in others.T if share else ():
        assert stats.kstest(column, "uniform", (-1, 2)).pvalue > 1e-3
