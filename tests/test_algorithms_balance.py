"""MerPO-Adp: the evidence for either anchor against a slow reference, where it leads alpha, and what it leaves alone."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from merpo import DynamicsConfig, RACConfig
from merpo.algorithms import balance, merpo, rac
from merpo.algorithms.merpo import Jobs
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import predict
from merpo.dynamics.termination import Termination
from merpo.errors import ConfigError
from toys import NEVER, actor, critic, ensemble, transitions, unit_scale

FIXED = RACConfig(
    actor_hidden=(6,), critic_hidden=(6,), batch=8, alpha=0.3, rollout_rows=6, rollout_length=1, buffer=8,
    imagine_every=1,
)  # fmt: skip
ADAPTIVE = replace(FIXED, alpha_mode="adaptive", alpha_gain=5.0)
MODEL = DynamicsConfig(hidden=(4,), members=4, elites=3)
POSITIVE = Termination("bounds", jnp.zeros(1, jnp.int32), jnp.full(1, -1e6), jnp.zeros(1, jnp.float32))


def still(anchor, action: float):
    """The same network made to answer `action` everywhere, with hardly any noise."""
    size = anchor.net.layers[-1].bias.shape[0] // 2
    bias = jnp.concatenate([jnp.full((size,), np.arctanh(action), jnp.float32), jnp.full((size,), -20.0, jnp.float32)])
    last = anchor.net.layers[-1]
    return eqx.tree_at(lambda a: (a.net.layers[-1].weight, a.net.layers[-1].bias), anchor, (0.0 * last.weight, bias))


def fitted(seed: int = 4) -> FittedModel:
    return FittedModel(ensemble(seed, 3, 2, MODEL), jnp.asarray([3, 0, 2], jnp.int32), jnp.zeros(4, jnp.float32))


def weighed(pi, q, pi_c, model, rule, obs, logged, gamma=0.9):
    run = eqx.filter_jit(balance.evidence)
    return float(run(pi, q, pi_c, model, unit_scale(3), rule, obs, logged, jax.random.key(3), gamma))


@pytest.mark.parametrize("rule", [NEVER, POSITIVE])
def test_evidence_is_the_slow_references(rule):
    """Row by row: the model's step from either action, and the smaller value of what pi does next, unless it ends."""
    data, q, pi_c, pi, key, gamma = transitions(0, 30), critic(1), actor(2), actor(5), jax.random.key(3), 0.9
    model = fitted()
    found = weighed(pi, q, pi_c, model, rule, data.obs, data.action, gamma)

    words = np.asarray(jax.random.bits(key, (30, 9), jnp.uint32))  # 2 and 2 for actions, 4 for the model, 1 for the end
    normal = jnp.asarray(stats.norm.ppf(((words >> 9) + 0.5) / 2.0**23), jnp.float32)
    of_anchor, of_policy, of_model = normal[:, :2], normal[:, 2:4], normal[:, 4:8].reshape(3, 10, 4)
    followed = jnp.tanh(pi_c(data.obs).sample_pre(of_anchor))
    members = jax.tree.map(lambda x: x[model.elites], model.model)
    worth = np.zeros((2, 30))
    for which, action in enumerate((data.action, followed)):
        parts = [x.reshape(3, 10, -1) for x in (data.obs, action)]
        after, reward, _ = predict(members, unit_scale(3), *parts, of_model)
        then = jnp.tanh(pi(after).sample_pre(of_policy.reshape(3, 10, 2))).reshape(30, 2)
        after, reward = after.reshape(30, 3), reward.reshape(30)
        for i in range(30):
            over = rule.rule == "bounds" and float(after[i, 0]) >= 0.0
            worth[which, i] = float(reward[i]) + (0.0 if over else gamma * float(min(q(after[i], then[i]))))
    d = worth[0] - worth[1]
    np.testing.assert_allclose(found, np.mean(d) / np.std(d), rtol=1e-3)


def test_exchanging_the_anchors_turns_the_evidence_round():
    data, q, pi = transitions(0, 30), critic(1), actor(5)
    low, high = jnp.full_like(data.action, -0.5), jnp.full_like(data.action, 0.5)
    there = weighed(pi, q, still(actor(2), 0.5), fitted(), NEVER, data.obs, low)
    back = weighed(pi, q, still(actor(2), -0.5), fitted(), NEVER, data.obs, high)
    np.testing.assert_allclose(there, -back, rtol=1e-2)
    assert abs(there) > 0.01


def test_values_lifted_at_the_log_are_no_evidence():
    """Conservatism lifts Q at what was logged. A critic that knows only how near an action is to the logged one, over a
    model that does not care which action it sees, says nothing of the anchors (asked directly, it would)."""
    data, q, pi = transitions(0, 30), critic(1), actor(5)
    model = fitted()
    deaf = eqx.tree_at(lambda m: m.nets.layers[0].weight, model.model, replace_fn=lambda w: w.at[:, 3:].set(0.0))
    pi_c = still(actor(2), 0.5)
    asked = np.asarray(q(data.obs, data.action) - q(data.obs, jnp.full_like(data.action, 0.5)))
    assert abs(asked.mean()) > 0.01
    found = weighed(pi, q, pi_c, replace(model, model=deaf), NEVER, data.obs, data.action)
    assert abs(found) < 1e-3


def test_alpha_starts_where_it_is_set_and_follows_the_evidence():
    np.testing.assert_allclose(balance.alpha_of(balance.start(), ADAPTIVE), 0.3, rtol=1e-5)
    for alpha in (0.0, 1.0):
        np.testing.assert_allclose(balance.alpha_of(balance.start(), replace(ADAPTIVE, alpha=alpha)), alpha, atol=2e-3)
    b = balance.start()
    for _ in range(100):
        b = balance.follow(b, jnp.float32(0.4))
    odds = 0.3 / 0.7 * np.exp(5.0 * 0.4)
    np.testing.assert_allclose(balance.alpha_of(b, ADAPTIVE), odds / (1 + odds), rtol=1e-3)


def weights(config):
    return rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (config.alpha, 0.1, 0.0, 0.1)))


def imagined(config):
    """One imagination of one job: the learner afterwards."""
    data = transitions(3, (1, 12))
    none, zero = jnp.zeros((1, 0), jnp.float32), jnp.zeros(1, jnp.int32)
    jobs = Jobs(data, jnp.asarray([12]), zero, zero, fitted(), unit_scale(3), NEVER, weights(config), none)
    state, ring = rac.init(actor(0), critic(1), config), merpo.Ring.empty(config.buffer, 3, 2)
    return merpo.refresh(state, ring, jobs, zero[0], fitted(), actor(5), jax.random.key(0), 0.9, config)


@pytest.mark.parametrize("length", [0, 1])
def test_imagining_moves_alpha_only_where_it_is_adaptive(length):
    """Where nothing is imagined too: the model that weighs is there all the same."""
    fixed, _ = imagined(replace(FIXED, rollout_length=length))
    assert fixed.balance is None
    state, ring = imagined(replace(ADAPTIVE, rollout_length=length))
    assert abs(float(state.alpha(weights(ADAPTIVE), ADAPTIVE)) - 0.3) > 1e-3
    assert int(ring.size) == 6 * length


def run(config, updates):
    state = rac.init(actor(0), critic(1), config)
    real, model = transitions(3, config.real_rows), transitions(4, config.batch - config.real_rows)
    step = jax.jit(lambda s, k: rac.update(s, real, model, actor(5), weights(config), k, 0.9, config))
    for i in range(updates):
        state, metrics = step(state, jax.random.key(i))
    return state, metrics


def test_an_adaptive_alpha_that_has_not_moved_is_the_fixed_one():
    fixed, plain = run(FIXED, 10)
    adaptive, figures = run(ADAPTIVE, 10)
    assert "rac/alpha" not in plain
    np.testing.assert_allclose(figures["rac/alpha"], 0.3, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(fixed.actor), jax.tree.leaves(adaptive.actor), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("change", [{"alpha_gain": 0.0}, {"alpha_gain": float("nan")}])
def test_bad_settings(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        RACConfig(**change)
