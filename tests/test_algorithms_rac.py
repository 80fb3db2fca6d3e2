"""RAC's losses and its update against slow references, and the faults that circulate in code of this kind."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from merpo import ConfigError, RACConfig
from merpo.algorithms import rac
from merpo.data.types import Transitions
from merpo.networks import ACTION_LIMIT, TanhGaussian
from toys import actor, critic, transitions

CONFIG = RACConfig(actor_hidden=(8,), critic_hidden=(8,), batch=12, real_fraction=0.5, rollout_rows=10, buffer=50)
GAMMA = 0.9
REAL, MODEL = transitions(1, 6), transitions(2, 6)


def number(x):
    return jnp.asarray(x, jnp.float32)


def weights(alpha=0.4, beta=0.5, floor=0.0, pace=0.0, ramp=0.0):
    return rac.Weights(number(alpha), number(beta), number(floor), number(pace), number(ramp))


def decided(seed: int, spread: float = 1.0):
    """An actor with hardly any noise (deviation e^-5) whose action depends strongly on the observation."""
    a = actor(seed, hidden=())
    layer = a.net.layers[0]
    weight = jnp.concatenate([spread * layer.weight[:, :2], jnp.zeros((3, 2), jnp.float32)], axis=1)
    bias = jnp.asarray([0.1, -0.2, -30.0, -30.0], jnp.float32)
    return eqx.tree_at(lambda t: (t.net.layers[0].weight, t.net.layers[0].bias), a, (weight, bias))


def loose():
    """The mean 0 and deviation 0.75 everywhere: close to the most entropy a squashed Gaussian has."""
    base = jax.tree.map(jnp.zeros_like, actor(0, hidden=()))
    return eqx.tree_at(lambda t: t.net.layers[0].bias, base, jnp.asarray([0.0, 0.0, 0.65, 0.65], jnp.float32))


def mean_action(a, obs: np.ndarray) -> np.ndarray:
    layer = a.net.layers[0]
    raw = (
        np.asarray(obs, np.float64) @ np.asarray(layer.weight, np.float64)[:, :2]
        + np.asarray(layer.bias, np.float64)[:2]
    )
    return np.tanh(5.0 * np.tanh(raw / 5.0))


def slow_q(c, i: int, obs, action) -> float:
    """One critic, one row, float64 NumPy."""
    h = np.concatenate([np.asarray(obs, np.float64), np.asarray(action, np.float64)])
    for k, layer in enumerate(c.nets.layers):
        h = h @ np.asarray(layer.weight[i], np.float64) + np.asarray(layer.bias[i], np.float64)
        h = np.maximum(h, 0) if k < len(c.nets.layers) - 1 else h
    return float(h[0])


@pytest.fixture(scope="module")
def update():
    return eqx.filter_jit(lambda s, r, m, a, w, k: rac.update(s, r, m, a, w, k, GAMMA, CONFIG))


@pytest.fixture(scope="module")
def state():
    fresh = rac.init(actor(0), critic(0), CONFIG)
    return eqx.tree_at(lambda s: s.target, fresh, critic(5))  # a target of its own, so that it can be told apart


# --- evaluation


def test_critic_loss_is_the_slow_reference():
    c, rng = critic(0), np.random.default_rng(0)
    model = transitions(3, 4)
    pushed, y = rng.uniform(-1, 1, (4, 2)), rng.normal(size=10)
    fraction, beta = 0.3, 0.7
    total = 0.0
    for i in range(2):
        td_real = np.mean([(slow_q(c, i, REAL.obs[n], REAL.action[n]) - y[n]) ** 2 for n in range(6)])
        td_model = np.mean([(slow_q(c, i, model.obs[n], model.action[n]) - y[6 + n]) ** 2 for n in range(4)])
        push = np.mean([slow_q(c, i, model.obs[n], pushed[n]) for n in range(4)])
        lift = np.mean([slow_q(c, i, REAL.obs[n], REAL.action[n]) for n in range(6)])
        total += 0.5 * (fraction * td_real + (1 - fraction) * td_model) + beta * (push - lift)
    loss, metrics = jax.jit(rac.critic_loss, static_argnums=6)(
        c, REAL, model, number(pushed), number(y), number(beta), fraction
    )
    assert loss.shape == ()
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert float(metrics["critic/gap"]) == pytest.approx(
        float(metrics["critic/q_policy"] - metrics["critic/q_data"]), abs=1e-6
    )


class Listed(type(critic(0))):
    """A critic whose value of row i of the batch is simply its parameter `q[:, i]`."""

    q: jax.Array

    def __init__(self, q):
        self.nets, self.q = None, q

    def __call__(self, obs, action):
        return self.q


def test_conservative_gradient_signs():
    """With the Bellman error at zero only the penalty is left: +beta/m at pi's actions, -beta/n at logged ones."""
    model, beta = transitions(3, 4), 0.7
    q = number(np.random.default_rng(0).normal(size=(2, 14)))
    y = q[0, :10]
    grads = jax.jit(jax.grad(lambda c: rac.critic_loss(c, REAL, model, model.action, y, number(beta), 0.5)[0]))(
        Listed(jnp.stack([q[0], q[0]]))
    )
    np.testing.assert_allclose(grads.q[:, :6], -beta / 6, rtol=1e-5)
    np.testing.assert_allclose(grads.q[:, 6:10], 0.0, atol=1e-7)
    np.testing.assert_allclose(grads.q[:, 10:], beta / 4, rtol=1e-5)


def test_the_penalty_pushes_down():
    """Gradient steps with beta > 0 lower Q at the policy's actions relative to the logged ones; without, they do not."""
    pushed = number(np.random.default_rng(4).uniform(-1, 1, (6, 2)))
    gaps = {}
    for beta in (0.0, 2.0):

        @jax.jit
        def descend(c, beta=beta):
            def step(c, _):
                y = jnp.zeros(12, jnp.float32)
                grads, found = jax.grad(rac.critic_loss, has_aux=True)(c, REAL, MODEL, pushed, y, number(beta), 0.5)
                return jax.tree.map(lambda p, g: p - 0.02 * g, c, grads), (
                    found["critic/q_policy"],
                    found["critic/gap"],
                )

            return jax.lax.scan(step, c, None, length=300)[1]

        q_policy, gap = descend(critic(0))
        gaps[beta] = float(gap[-1])
        if beta:
            assert float(q_policy[-1]) < float(q_policy[0]) - 0.5
    assert gaps[2.0] < gaps[0.0] - 0.5


@eqx.filter_jit
def target(c, a, batch, key):
    """The target of an update whose next actions are drawn with this key."""
    noise = jax.random.normal(key, batch.action.shape)
    next_action, _ = rac.actions_asked(
        rac.init(a, c, CONFIG), batch.next_obs, batch.obs, rac.Drawn(noise, noise, None, None)
    )
    return rac.bellman_target(c, next_action, batch, GAMMA)


def test_bellman_target_uses_terminated_only_and_acts_at_the_next_state():
    """By loop: r + gamma (1 - terminated) min_i Qbar_i(s', pi(s')), whatever `truncated` says."""
    a, c = decided(0, spread=6.0), critic(3, hidden=(), layer_norm=False)
    flags = np.array([True, False, True, False, False, True])
    batch = eqx.tree_at(
        lambda t: (t.terminated, t.truncated),
        REAL,
        (jnp.asarray(flags), jnp.asarray([False, True, True, False, True, False])),
    )
    found = np.asarray(target(c, a, batch, jax.random.key(0)))

    def expected(seen):
        action = mean_action(a, seen)
        value = [min(slow_q(c, i, batch.next_obs[n], action[n]) for i in range(2)) for n in range(6)]
        return np.asarray(batch.reward, np.float64) + GAMMA * np.where(flags, 0.0, value)

    np.testing.assert_allclose(found, expected(batch.next_obs), atol=0.03)
    wrong = expected(batch.obs)  # actions of the current state at the next one
    assert np.abs(found - wrong)[~flags].max() > 0.2
    other = eqx.tree_at(lambda t: t.truncated, batch, ~batch.truncated)
    np.testing.assert_array_equal(found, target(c, a, other, jax.random.key(0)))


def test_update_targets_and_losses_by_loop(update):
    """The figures an update reports, recomputed row by row for an actor with hardly any noise."""
    a, c, target = decided(1, spread=3.0), critic(1, hidden=(8,)), critic(6, hidden=(8,))
    fresh = eqx.tree_at(lambda s: s.target, rac.init(a, c, CONFIG), target)
    _, metrics = update(fresh, REAL, MODEL, decided(2), weights(), jax.random.key(1))
    td, gaps, ys = [], [], []
    for part in (REAL, MODEL):
        action = mean_action(a, part.next_obs)
        y = []
        for n in range(6):
            value = min(slow_q(target, i, part.next_obs[n], action[n]) for i in range(2))
            y.append(float(part.reward[n]) + GAMMA * (0.0 if part.terminated[n] else value))
        ys.append(y)
        td.append(
            [np.mean([(slow_q(c, i, part.obs[n], part.action[n]) - y[n]) ** 2 for n in range(6)]) for i in range(2)]
        )
    acted = mean_action(a, MODEL.obs)
    for i in range(2):
        push = np.mean([slow_q(c, i, MODEL.obs[n], acted[n]) for n in range(6)])
        gaps.append(push - np.mean([slow_q(c, i, REAL.obs[n], REAL.action[n]) for n in range(6)]))
    assert float(metrics["critic/td"]) == pytest.approx(
        np.mean(0.25 * (np.asarray(td[0]) + np.asarray(td[1]))), rel=0.02
    )
    assert float(metrics["critic/gap"]) == pytest.approx(np.mean(gaps), abs=0.02)
    spread = np.mean(np.abs(np.asarray(ys[0]) - np.mean(ys[0])))
    assert float(metrics["rac/value_scale"]) == pytest.approx(spread, rel=0.02)


def test_target_critics_move_by_tau_at_every_update(update, state):
    for i in range(3):
        new, _ = update(state, REAL, MODEL, actor(1), weights(), jax.random.key(i))
        for t, old, q in zip(*map(jax.tree.leaves, (new.target, state.target, new.critic)), strict=True):
            expected = np.asarray(old, np.float64) + CONFIG.tau * (
                np.asarray(q, np.float64) - np.asarray(old, np.float64)
            )
            np.testing.assert_allclose(t, expected, rtol=1e-6, atol=1e-7)
            assert not np.array_equal(t, old)
        assert int(new.step) == int(state.step) + 1
        state = new


# --- improvement


def slow_actor_loss(a, c, anchor, obs, logged, u, alpha, lam, temperature, scale) -> float:
    """Row by row from SciPy's densities, for the pre-tanh sample `u`."""
    policy, other = (jax.tree.map(lambda x: np.asarray(x, np.float64), eqx.filter_jit(net)(obs)) for net in (a, anchor))
    std, std_c = np.exp(policy.log_std), np.exp(other.log_std)
    u = np.asarray(u, np.float64)
    q = [min(slow_q(c, i, obs[n], np.tanh(u[n])) for i in range(2)) for n in range(len(obs))]
    log_pi = np.sum(stats.norm.logpdf(u, policy.mean, std) - np.log1p(-(np.tanh(u) ** 2)), axis=1)
    kl = np.sum(np.log(std_c / std) + (std**2 + (policy.mean - other.mean) ** 2) / (2 * std_c**2) - 0.5, axis=1)
    n = len(logged)
    pre = np.arctanh(np.clip(np.asarray(logged, np.float64), -ACTION_LIMIT, ACTION_LIMIT))
    log_b = np.sum(stats.norm.logpdf(pre, policy.mean[:n], std[:n]) - np.log1p(-(np.tanh(pre) ** 2)), axis=1)
    return (
        -np.mean(q) / scale
        + lam * (-alpha * np.mean(log_b) + (1 - alpha) * np.mean(kl))
        + temperature * np.mean(log_pi)
    )


OBS = jnp.concatenate([REAL.obs, MODEL.obs])


@pytest.fixture(scope="module")
def actor_grad():
    def loss(a, c, anchor, obs, logged, alpha, lam, temperature, scale, key):
        return rac.actor_loss(a, c, anchor, obs, logged, alpha, lam, temperature, scale, number(1.0), key)

    return eqx.filter_jit(jax.value_and_grad(loss, has_aux=True))


def test_actor_loss_is_the_slow_reference(actor_grad):
    a, c, anchor, key = actor(0), critic(0), actor(1), jax.random.key(3)
    (loss, _), _ = actor_grad(a, c, anchor, OBS, REAL.action, *map(number, (0.3, 0.2, 0.05, 1.7)), key)
    u = eqx.filter_jit(a)(OBS).sample_pre(key)
    assert float(loss) == pytest.approx(
        slow_actor_loss(a, c, anchor, OBS, REAL.action, u, 0.3, 0.2, 0.05, 1.7), rel=1e-4
    )


def test_during_warm_up_the_actor_ignores_the_critic():
    """`improve` = 0 takes the value term out: any two critics give the same gradient; 1 puts it back."""
    a, anchor, key = actor(0), actor(1), jax.random.key(3)

    def grads(c, improve):
        def loss(a):
            weights = map(number, (0.3, 0.2, 0.0, 1.7, improve))
            return rac.actor_loss(a, c, anchor, OBS, REAL.action, *weights, key)[0]

        return np.concatenate([np.ravel(g) for g in jax.tree.leaves(eqx.filter_jit(jax.grad(loss))(a))])

    np.testing.assert_array_equal(grads(critic(0), 0.0), grads(critic(5), 0.0))
    assert np.abs(grads(critic(0), 1.0) - grads(critic(5), 1.0)).max() > 1e-3


def test_clone_reads_real_rows_only_and_kl_reads_the_anchor(actor_grad):
    """With the value term scaled away, what is left of the gradient is lambda (alpha clone + (1 - alpha) KL)."""
    a, c, anchor, key = actor(0), critic(0), actor(1), jax.random.key(3)
    elsewhere = jnp.concatenate([REAL.obs, 3.0 + MODEL.obs])

    def grads(alpha, obs=OBS, other=anchor, logged=REAL.action):
        return jax.tree.leaves(actor_grad(a, c, other, obs, logged, *map(number, (alpha, 1.0, 0.0, 1e12)), key)[1])

    only_clone, only_kl = grads(1.0), grads(0.0)
    for x, y in zip(only_clone, grads(1.0, obs=elsewhere), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    for x, y in zip(only_clone, grads(1.0, other=actor(9)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    for x, y in zip(only_kl, grads(0.0, logged=-REAL.action), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert not np.allclose(only_kl[0], grads(0.0, other=actor(9))[0], atol=1e-3)
    assert not np.allclose(only_clone[0], grads(1.0, logged=-REAL.action)[0], atol=1e-3)
    np.testing.assert_allclose(np.concatenate([x.ravel() for x in grads(0.0, other=a)]), 0.0, atol=1e-5)


def test_alpha_one_makes_the_whole_update_independent_of_the_anchor(update, state):
    runs = [update(state, REAL, MODEL, actor(s), weights(alpha=1.0), jax.random.key(0))[0] for s in (1, 2)]
    assert eqx.tree_equal(*runs)
    runs = [update(state, REAL, MODEL, actor(s), weights(alpha=0.5), jax.random.key(0))[0] for s in (1, 2)]
    assert not eqx.tree_equal(runs[0].actor, runs[1].actor)


def test_the_term_of_the_meta_policy_grows_over_its_ramp(update, state):
    """At the start of a ramp the anchor does not count; later its part of Adam's first moment has grown with time."""

    def moment(step, ramp, anchor, alpha=0.0):
        begun = eqx.tree_at(lambda s: s.step, state, jnp.asarray(step, jnp.int32))
        used = weights(alpha=alpha, pace=0.1, ramp=ramp)
        new, _ = update(begun, REAL, MODEL, actor(anchor), used, jax.random.key(0))
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(new.actor_opt[0].mu)])

    np.testing.assert_array_equal(moment(0, 0.5, 1), moment(0, 0.5, 2))
    whole = moment(5, 0.5, 1) - moment(5, 0.5, 2)
    assert np.abs(whole).max() > 1e-4
    part = moment(2, 0.5, 1) - moment(2, 0.5, 2)  # a fifth of the phase, 2/5 of the ramp
    np.testing.assert_allclose(part, 0.4 * whole, atol=1e-5)
    np.testing.assert_allclose(moment(0, 0.0, 1) - moment(0, 0.0, 2), whole, atol=1e-5)


def test_the_actors_loss_reaches_the_actor_alone(update, state):
    """Whatever anchor and alpha, an update leaves the same critics: no gradient leaks into them."""
    a, _ = update(state, REAL, MODEL, actor(1), weights(alpha=0.0), jax.random.key(0))
    b, _ = update(state, REAL, MODEL, actor(2), weights(alpha=0.9), jax.random.key(0))
    assert eqx.tree_equal((a.critic, a.target, a.critic_opt), (b.critic, b.target, b.critic_opt))
    assert not eqx.tree_equal(a.actor, b.actor)


def test_critic_step_is_adam_on_the_critic_loss(update, state):
    """beta is given in deviations of the reward: (1 - gamma) of it weighs on the prepared scale."""
    a = decided(1)
    start = eqx.tree_at(lambda s: s.actor, rac.init(a, state.critic, CONFIG), a)
    new, _ = update(start, REAL, MODEL, actor(1), weights(beta=2.0), jax.random.key(0))
    y = target(start.target, a, jax.tree.map(lambda *x: jnp.concatenate(x), REAL, MODEL), jax.random.key(7))
    pushed = number(mean_action(a, MODEL.obs))
    grads = jax.grad(lambda c: rac.critic_loss(c, REAL, MODEL, pushed, y, number(2.0 * (1 - GAMMA)), 0.5)[0])(
        start.critic
    )
    # Adam's first moment after one step is a tenth of the gradient
    for mu, g in zip(*map(jax.tree.leaves, (new.critic_opt[0].mu, grads)), strict=True):
        np.testing.assert_allclose(10 * np.asarray(mu), g, atol=0.01)


def test_an_updates_random_numbers_are_its_words_one_after_another():
    """The actor's, those of the targets, of the actions pushed down on imagined rows alone; keys, if any, come last."""
    words = np.asarray(jax.random.bits(jax.random.key(5), (200,), jnp.uint32))
    normal = stats.norm.ppf(((words >> 9) + 0.5) / 2.0**23)
    assert rac.words_of(3, 2, 4, CONFIG) == (48, 0)
    drawn = rac.drawn_from(jnp.asarray(words[:48]), 3, 2, 4, CONFIG)
    for found, first, last in ((drawn.actor, 0, 20), (drawn.asked, 20, 48)):
        np.testing.assert_allclose(found, normal[first:last].reshape(-1, 4), rtol=2e-4, atol=1e-6)
    other = replace(CONFIG, pushdown="logsumexp", behaviour="dual")
    assert rac.words_of(3, 2, 4, other) == (40, 4)
    drawn = rac.drawn_from(jnp.asarray(words[:44]), 3, 2, 4, other)
    np.testing.assert_allclose(drawn.asked, normal[20:40].reshape(-1, 4), rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(drawn.soft), words[40:42])
    np.testing.assert_array_equal(jax.random.key_data(drawn.ratio), words[42:44])


def test_step_sizes_fall_linearly_over_the_phase(update, state):
    """After a share x of the updates every step is 1 - (1 - lr_final) x of the full one."""
    full, _ = update(state, REAL, MODEL, actor(1), weights(), jax.random.key(0))
    for step, factor in ((2, 1 - 0.5 * (1 - CONFIG.lr_final)), (9, CONFIG.lr_final)):
        later = eqx.tree_at(lambda s: s.step, state, jnp.asarray(step, jnp.int32))
        new, _ = update(later, REAL, MODEL, actor(1), weights(pace=0.25), jax.random.key(0))
        # the critic's step alone: the actor's also sees the value scale, which depends on the step
        for old, a, b in zip(*map(jax.tree.leaves, (state.critic, full.critic, new.critic)), strict=True):
            np.testing.assert_allclose(np.asarray(b) - old, factor * (np.asarray(a) - old), rtol=1e-2, atol=2e-7)


# --- dual variables


@pytest.mark.parametrize(("divergence", "sign"), [(9.0, 1), (0.2, -1)])
def test_lambda_rises_when_the_policy_strays(divergence, sign):
    config = replace(CONFIG, lam_mode="dual", lam_target=0.5, lam_lr=0.1, lam_range=(0.01, 10.0))
    log_lam = jnp.zeros((), jnp.float32)
    for _ in range(200):
        new = rac.dual_step(log_lam, number(divergence) / 2 - 0.5, number(config.lam_lr), config.lam_range)
        assert sign * float(new - log_lam) >= 0.0
        assert abs(float(new - log_lam)) <= 0.1 + 1e-6
        log_lam = new
    assert float(jnp.exp(log_lam)) == pytest.approx(10.0 if sign > 0 else 0.01, rel=1e-4)


def test_dual_update_moves_lambda_by_the_excess_over_the_floor(state):
    config = replace(CONFIG, lam_mode="dual", lam_target=0.5, lam_lr=0.01)
    run = eqx.filter_jit(lambda s, w: rac.update(s, REAL, MODEL, actor(1), w, jax.random.key(0), GAMMA, config))
    for floor, sign in ((-500.0, 1), (500.0, -1)):
        new, found = run(state, weights(alpha=1.0, floor=floor))
        assert np.sign(float(new.log_lam - state.log_lam)) == sign
        excess = np.clip((float(found["actor/clone"]) - floor) / 2 - 0.5, -1, 1)
        assert float(new.log_lam - state.log_lam) == pytest.approx(0.01 * excess, rel=1e-3)


@pytest.mark.parametrize(("target", "sign"), [(-9.0, 1), (9.0, -1)])
def test_beta_moves_by_the_gap_in_units_of_the_value_scale(state, target, sign):
    """And weighs in the critics' loss; neither it nor lambda moves during the warm-up."""
    config = replace(CONFIG, beta=0.5, beta_mode="dual", beta_target=target, beta_lr=0.01, lam_mode="dual", warmup=3)
    begun = eqx.tree_at(lambda s: s.log_beta, state, number(np.log(0.5)), is_leaf=lambda x: x is None)
    run = eqx.filter_jit(
        lambda s: rac.update(s, REAL, MODEL, actor(1), weights(beta=77.0), jax.random.key(0), GAMMA, config)
    )
    waiting, _ = run(begun)
    assert (waiting.log_beta, waiting.log_lam) == (begun.log_beta, begun.log_lam)
    new, found = run(eqx.tree_at(lambda s: (s.step, s.scale), begun, (jnp.asarray(3, jnp.int32), number(1.0))))
    assert float(found["rac/beta"]) == pytest.approx(0.5)
    assert float(new.log_beta - begun.log_beta) == pytest.approx(sign * 0.01, rel=1e-3)
    assert float(new.log_lam) != float(begun.log_lam)


def test_temperature_rises_when_entropy_is_short(update, state):
    """The entropy target is -1 nat per dimension: an actor with hardly any noise is far below it."""
    for a, sign in ((decided(0), 1), (loose(), -1)):
        start = rac.init(a, state.critic, CONFIG)
        new, found = update(start, REAL, MODEL, actor(1), weights(), jax.random.key(0))
        assert np.sign(CONFIG.target_entropy - float(found["actor/entropy"]) / 2) == sign
        assert np.sign(float(new.log_temperature - start.log_temperature)) == sign


def test_init_starts_the_target_at_the_critic():
    fresh = rac.init(actor(0), critic(0), CONFIG)
    assert eqx.tree_equal(fresh.critic, fresh.target)
    assert float(jnp.exp(fresh.log_lam)) == pytest.approx(CONFIG.lam)
    assert eqx.tree_equal(fresh.actor_opt, optax.adam(CONFIG.actor_lr).init(fresh.actor))
    assert isinstance(TanhGaussian(OBS, OBS), TanhGaussian)
    assert isinstance(REAL, Transitions)


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": -0.1}, {"alpha": 1.1}, {"tau": 2.0}, {"lam": -1.0}, {"beta": -1.0}, {"temperature": -1.0},
        {"batch": 0}, {"rollout_length": -1}, {"rollout_rows": 0}, {"imagine_every": 0}, {"buffer": 0},
        {"real_fraction": 0.0}, {"real_fraction": 1.0}, {"lam_range": (0.0, 1.0)}, {"lam_range": (2.0, 1.0)},
        {"alpha": float("nan")}, {"explore": -0.1}, {"explore": 1.5},
    ],
)  # fmt: skip
def test_settings_outside_their_range(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        RACConfig(**bad)
