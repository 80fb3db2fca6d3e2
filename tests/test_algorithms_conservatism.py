"""Push-down and targets against slow NumPy references, and the faults that circulate in code of this kind."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from merpo import ConfigError, RACConfig, draws
from merpo.algorithms import conservatism, rac
from merpo.algorithms.conservatism import DRAWS, Candidates, Chosen
from merpo.networks import TwinCritic
from toys import actor, critic, transitions

CONFIG = RACConfig(actor_hidden=(8,), critic_hidden=(8,), batch=12, real_fraction=0.5, rollout_rows=10, buffer=50)
REAL, MODEL = transitions(1, 6), transitions(2, 6)
TAU = 0.3


def slow_q(c, i: int, obs, action) -> float:
    """One critic, one row, float64 NumPy."""
    h = np.concatenate([np.asarray(obs, np.float64), np.asarray(action, np.float64)])
    for k, layer in enumerate(c.nets.layers):
        h = h @ np.asarray(layer.weight[i], np.float64) + np.asarray(layer.bias[i], np.float64)
        h = np.maximum(h, 0) if k < len(c.nets.layers) - 1 else h
    return float(h[0])


def slow_soft_maximum(c, i: int, obs, found: Candidates, tau: float) -> tuple[float, np.ndarray]:
    """tau log mean_k exp(Q_i(s, a_k)/tau)/mu(a_k), mean over states; and the softmax weights [draw, row]."""
    draws, rows = found.log_density.shape
    weight, total = np.zeros((draws, rows)), 0.0
    for n in range(rows):
        for k in range(draws):
            weight[k, n] = np.exp(slow_q(c, i, obs[n], found.action[k, n]) / tau) / np.exp(
                float(found.log_density[k, n])
            )
        total += tau * np.log(weight[:, n].mean())
    return total / rows, weight / weight.sum(0)


@pytest.fixture(scope="module")
def found():
    """Candidates of an actor that differs much from state to state."""
    return eqx.filter_jit(conservatism.candidates)(actor(0, size=0.8), MODEL.obs, MODEL.next_obs, 2, jax.random.key(0))


def test_candidates_carry_the_density_they_were_drawn_from(found):
    """Ten uniform, ten of pi(.|s), ten of pi(.|s') with the density of pi(.|s'), by SciPy."""
    assert found.action.shape == (3 * DRAWS, 6, 2)
    np.testing.assert_allclose(found.log_density[:DRAWS], -2 * np.log(2.0), rtol=1e-6)
    assert np.abs(stats.kstest(np.ravel(found.action[:DRAWS]), "uniform", args=(-1, 2)).statistic) < 0.15
    for j, states in ((1, MODEL.obs), (2, MODEL.next_obs)):
        policy = eqx.filter_jit(actor(0, size=0.8))(states)
        own = slice(j * DRAWS, (j + 1) * DRAWS)
        action = np.asarray(found.action[own], np.float64)
        u = np.arctanh(np.clip(action, -1 + 1e-7, 1 - 1e-7))
        density = stats.norm.logpdf(u, policy.mean, np.exp(policy.log_std)) - np.log1p(-(action**2))
        inside = np.abs(u).max(-1) < 3  # beyond, float32 actions no longer tell u
        np.testing.assert_allclose(np.asarray(found.log_density[own])[inside], density.sum(-1)[inside], atol=2e-2)
        assert inside.mean() > 0.5


def test_soft_maximum_is_the_slow_reference(found):
    """One log-sum-exp over all thirty, per critic and per state, every candidate evaluated at s and never at s'."""
    c = critic(0)
    value = eqx.filter_jit(conservatism.soft_maximum)(c, MODEL.obs, found, TAU)
    expected = [slow_soft_maximum(c, i, MODEL.obs, found, TAU)[0] for i in range(2)]
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    # what the faults would give is told apart: evaluated at s', or one log-sum-exp over both critics
    wrong = [slow_soft_maximum(c, i, MODEL.next_obs, found, TAU)[0] for i in range(2)]
    assert np.abs(np.subtract(wrong, expected)).min() > 0.01
    assert abs(expected[0] - expected[1]) > 0.01


class Slope(TwinCritic):
    """Q_i(s, a) = slope_i * a, in closed form."""

    slope: jax.Array

    def __init__(self, slope):
        self.nets, self.slope = None, slope

    def __call__(self, obs, action):
        return self.slope.reshape(2, *(1,) * (action.ndim - 1)) * action[None, ..., 0]


def test_importance_weights_give_the_integral_over_actions():
    """log int_-1^1 exp(b a) da = log(2 sinh(b)/b): many states for small noise, a wide policy for small variance."""
    zeros = jnp.zeros((5000, 3), jnp.float32)
    a = jax.tree.map(jnp.zeros_like, actor(0, act=1, hidden=()))
    a = eqx.tree_at(lambda t: t.net.layers[0].bias, a, jnp.asarray([0.2, 0.65], jnp.float32))

    @eqx.filter_jit
    def estimate():
        drawn = conservatism.candidates(a, zeros, zeros + 1.0, 1, jax.random.key(0))
        return conservatism.soft_maximum(Slope(jnp.asarray([0.5, -1.0], jnp.float32)), zeros, drawn, 1.0)

    np.testing.assert_allclose(estimate(), np.log(2 * np.sinh([0.5, 1.0]) / [0.5, 1.0]), atol=0.03)


class Listed(TwinCritic):
    """A critic whose values are parameters: real and imagined rows [2, n], candidates [2, draw, row]."""

    rows: jax.Array
    draws: jax.Array

    def __init__(self, rows, draws):
        self.nets, self.rows, self.draws = None, rows, draws

    def __call__(self, obs, action):
        return self.rows if obs.ndim == 2 else self.draws


def test_the_penalty_pushes_down_by_the_softmax():
    """With the Bellman error at zero the gradient is +beta w/m at every candidate, w the softmax, -beta/n at the logs."""
    rng = np.random.default_rng(0)
    q = jnp.asarray(np.tile(rng.normal(size=12), (2, 1)), jnp.float32)
    drawn = Candidates(jnp.zeros((30, 6, 2), jnp.float32), jnp.asarray(rng.normal(size=(30, 6)), jnp.float32))
    listed = Listed(q, jnp.asarray(rng.normal(size=(2, 30, 6)), jnp.float32))
    beta = 0.7

    def loss(c):
        return conservatism.critic_loss(c, REAL, MODEL, drawn, q[0], jnp.float32(beta), 0.5, TAU)[0]

    grads = jax.jit(jax.grad(loss))(listed)
    logits = np.asarray(listed.draws, np.float64) / TAU - np.asarray(drawn.log_density)
    weight = np.exp(logits - logits.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    np.testing.assert_allclose(grads.draws, beta * weight / 6, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads.rows[:, :6], -beta / 6, rtol=1e-5)
    np.testing.assert_allclose(grads.rows[:, 6:], 0.0, atol=1e-7)


def test_the_sampled_gradient_has_the_full_gradients_expectation(found):
    """Over many draws the mean gradient is the full one within its standard error; and what is reported is the same."""
    c, draws = critic(4), 1500
    y = jnp.zeros(12, jnp.float32)

    def grad(pushed):
        arguments = (REAL, MODEL, pushed, y, jnp.float32(3.0), 0.5, TAU)
        return jax.grad(conservatism.critic_loss, has_aux=True)(c, *arguments)

    def one(key):
        return grad(conservatism.choose(c, MODEL.obs, found, TAU, key))

    full, shown = eqx.filter_jit(grad)(found)
    many, reported = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), draws))
    spread = 0.0
    for whole, part in zip(jax.tree.leaves(full), jax.tree.leaves(many), strict=True):
        error = np.std(part, axis=0) / np.sqrt(draws)
        np.testing.assert_array_less(np.abs(np.mean(part, axis=0) - whole), 5 * error + 1e-5)
        spread = max(spread, float(np.std(part, axis=0).max()))
    assert spread > 0.05  # single draws do differ
    for name in ("critic/gap", "critic/q_policy"):
        np.testing.assert_allclose(reported[name], shown[name], rtol=1e-5)


def test_each_critic_draws_from_its_own_softmax(found):
    """Critics of opposite slope choose opposite actions where the softmax is sharp."""
    steep = Slope(jnp.asarray([5.0, -5.0], jnp.float32))
    chosen = eqx.filter_jit(conservatism.choose)(steep, MODEL.obs, found, 0.01, jax.random.key(0))
    best, least = np.max(found.action[..., 0], axis=0), np.min(found.action[..., 0], axis=0)
    np.testing.assert_allclose(chosen.action[0, :, 0], best, atol=0.1)
    np.testing.assert_allclose(chosen.action[1, :, 0], least, atol=0.1)
    push, _ = eqx.filter_jit(conservatism.push_down)(steep, MODEL.obs, chosen, 0.01)
    np.testing.assert_allclose(push, [5 * best.mean(), -5 * least.mean()], atol=0.3)
    assert isinstance(chosen, Chosen)


def test_mixed_targets_by_loop():
    """0.75 min + 0.25 max of the target critics at the next state, for an actor with hardly any noise."""
    a = actor(0, hidden=())
    layer = a.net.layers[0]
    weight = jnp.concatenate([6 * layer.weight[:, :2], jnp.zeros((3, 2), jnp.float32)], axis=1)
    bias = jnp.asarray([0.1, -0.2, -30.0, -30.0], jnp.float32)
    a = eqx.tree_at(lambda t: (t.net.layers[0].weight, t.net.layers[0].bias), a, (weight, bias))
    c, action = critic(3, hidden=()), np.asarray(eqx.filter_jit(a)(REAL.next_obs).mode())
    pair = np.array([[slow_q(c, i, REAL.next_obs[n], action[n]) for n in range(6)] for i in range(2)])
    for kind, value in (("min", pair.min(0)), ("mixed", 0.75 * pair.min(0) + 0.25 * pair.max(0))):
        y = eqx.filter_jit(lambda u, kind=kind: conservatism.bellman_target(c, u, REAL, 0.9, kind))(jnp.asarray(action))
        expected = np.asarray(REAL.reward) + 0.9 * np.where(REAL.terminated, 0.0, value)
        np.testing.assert_allclose(y, expected, atol=0.03)
    assert np.abs(pair[0] - pair[1]).max() > 0.5


def test_an_update_pushes_down_as_configured():
    """The gap that `rac.update` reports is the soft maximum of its own candidates less the logged mean, in its units."""
    state = rac.init(actor(0), critic(0), CONFIG)
    weights = rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (0.4, 0.5, 0.0, 0.0)))
    config = replace(CONFIG, pushdown="logsumexp", logsumexp_gradient="sampled", logsumexp_temperature=3.0)
    run = eqx.filter_jit(lambda k: rac.update(state, REAL, MODEL, actor(1), weights, k, 0.9, config))
    new, metrics = run(jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
    words = draws.words(jax.random.key(0), sum(rac.words_of(6, 6, 2, config)))
    k_push = draws.key_of(words[-2:])
    drawn = conservatism.candidates(state.actor, MODEL.obs, MODEL.next_obs, 2, jax.random.split(k_push)[0])
    expected = np.mean(
        [
            slow_soft_maximum(state.critic, i, MODEL.obs, drawn, 0.3)[0]
            - np.mean([slow_q(state.critic, i, REAL.obs[n], REAL.action[n]) for n in range(6)])
            for i in range(2)
        ]
    )
    assert float(metrics["critic/gap"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "bad", [{"pushdown": "cql"}, {"logsumexp_gradient": "half"}, {"logsumexp_temperature": 0.0}, {"targets": "max"}]
)
def test_settings_outside_their_range(bad):
    config = RACConfig()
    for name, value in bad.items():  # behind the back of the tests' type checker, which would object first
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=next(iter(bad))):
        config.__post_init__()
