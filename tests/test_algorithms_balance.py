"""MerPO-Adp: the evidence for either anchor against a slow reference, where it leads alpha, and what it leaves alone."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from merpo import RACConfig
from merpo.algorithms import balance, rac
from merpo.errors import ConfigError
from toys import actor, critic, transitions

FIXED = RACConfig(
    actor_hidden=(6,), critic_hidden=(6,), batch=8, alpha=0.3, rollout_rows=4, rollout_length=1, buffer=8,
    imagine_every=1,
)  # fmt: skip
ADAPTIVE = replace(FIXED, alpha_mode="adaptive", alpha_gain=5.0)


def still(anchor, action: float):
    """The same network made to answer `action` everywhere, with hardly any noise."""
    size = anchor.net.layers[-1].bias.shape[0] // 2
    bias = jnp.concatenate([jnp.full((size,), np.arctanh(action), jnp.float32), jnp.full((size,), -20.0, jnp.float32)])
    last = anchor.net.layers[-1]
    return eqx.tree_at(lambda a: (a.net.layers[-1].weight, a.net.layers[-1].bias), anchor, (0.0 * last.weight, bias))


def test_evidence_is_the_slow_references():
    """Row by row, with NumPy's mean and deviation; only the first `ROWS` rows count."""
    data, q, pi_c, key = transitions(0, 2 * balance.ROWS), critic(1), actor(2), jax.random.key(3)
    found = balance.evidence(q, pi_c, data.obs, data.action, key)
    head = data.obs[: balance.ROWS]
    followed = jnp.tanh(pi_c(head).sample_pre(key))
    gains = [
        float(min(q(data.obs[i], data.action[i]))) - float(min(q(data.obs[i], followed[i])))
        for i in range(balance.ROWS)
    ]
    np.testing.assert_allclose(found, np.mean(gains) / np.std(gains), rtol=1e-4)


def test_exchanging_the_anchors_turns_the_evidence_round():
    data, q, pi_c, key = transitions(0, 40), critic(1), still(actor(2), 0.5), jax.random.key(3)
    obs, logged = data.obs, jnp.full_like(data.action, -0.5)
    there = balance.evidence(q, pi_c, obs, logged, key)
    back = balance.evidence(q, still(actor(2), -0.5), obs, jnp.full_like(logged, 0.5), key)
    np.testing.assert_allclose(there, -back, rtol=1e-2)
    assert abs(float(there)) > 0.01


def test_alpha_starts_where_it_is_set_and_follows_the_evidence():
    np.testing.assert_allclose(balance.alpha_of(balance.start(ADAPTIVE), ADAPTIVE), 0.3, rtol=1e-5)
    for alpha in (0.0, 1.0):
        assert np.isfinite(balance.start(replace(ADAPTIVE, alpha=alpha)))
    b = balance.start(ADAPTIVE)
    for _ in range(1000):
        b = balance.follow(b, jnp.float32(0.4))
    np.testing.assert_allclose(balance.alpha_of(b, ADAPTIVE), 1 / (1 + np.exp(-5.0 * 0.4)), rtol=1e-3)


def run(config, updates=30):
    state = rac.init(actor(0), critic(1), config)
    weights = rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (config.alpha, 0.1, 0.0, 0.1)))
    real, model = transitions(3, config.real_rows), transitions(4, config.batch - config.real_rows)
    step = jax.jit(lambda s, k: rac.update(s, real, model, actor(5), weights, k, 0.9, config))
    for i in range(updates):
        state, metrics = step(state, jax.random.key(i))
    return state, metrics


def test_update_moves_alpha_only_where_it_is_adaptive():
    fixed, figures = run(FIXED)
    assert fixed.balance is None
    assert "rac/alpha" not in figures
    _, figures = run(ADAPTIVE)
    assert abs(float(figures["rac/alpha"]) - 0.3) > 1e-3


def test_an_adaptive_alpha_that_cannot_move_is_the_fixed_one():
    """With hardly any gain alpha stays at its start, and learning is the fixed one's up to rounding."""
    fixed, _ = run(FIXED, 10)
    stuck, _ = run(replace(ADAPTIVE, alpha_gain=1e-4), 10)
    for a, b in zip(jax.tree.leaves(fixed.actor), jax.tree.leaves(stuck.actor), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("change", [{"alpha_gain": 0.0}, {"alpha_gain": float("nan")}])
def test_bad_settings(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        RACConfig(**change)
