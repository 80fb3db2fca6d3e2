"""Every loss of the rivals against something slower and independent: NumPy loops, SciPy, closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from merpo import ConfigError
from merpo.algorithms.rivals import bcq, brac, csro, focal, iql, mbml, pearl, sac, td3bc, unicorn
from merpo.algorithms.rivals.encoders import (
    ContextConfig,
    GaussianEncoder,
    MeanEncoder,
    conditioned,
    draw,
    features,
)
from merpo.algorithms.rivals.td import bootstrap, kl_to_normal
from merpo.data.types import Stacked
from merpo.dynamics.fit import FittedModel
from rival_cases import BCQ, rival_batch, rival_state, tiny
from toys import actor, critic, ensemble, filled, mlp, transitions, unit_scale


def constant(value):
    """A network whose output is the constant."""
    net = jax.tree.map(jnp.zeros_like, mlp(0, 3, 1, (4,)))
    return eqx.tree_at(lambda n: n.layers[-1].bias, net, jnp.full((1,), value, jnp.float32))


# --- temporal differences


def test_a_truncated_step_is_bootstrapped_and_a_terminated_one_is_not():
    batch = transitions(0, 40, ended=0.5)
    assert (np.asarray(batch.truncated) & ~np.asarray(batch.terminated)).any()
    y = np.asarray(bootstrap(batch, jnp.full(40, 10.0), 0.9))
    np.testing.assert_allclose(y, batch.reward + np.where(batch.terminated, 0.0, 9.0), rtol=1e-5)


# --- IQL

EXPECTILE_SLOPE = jax.jit(jax.grad(iql.expectile_loss))


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_the_expectile_loss_is_least_at_scipys_expectile(tau):
    q = np.random.default_rng(1).gamma(2.0, size=200).astype(np.float32)
    obs = jnp.zeros((200, 3))

    def slope(value, tau):
        return float(EXPECTILE_SLOPE(constant(value), obs, jnp.asarray(q), tau).layers[-1].bias[0])

    best = stats.expectile(q, tau)
    assert abs(slope(best, tau)) < 1e-4
    if tau != 0.5:  # with the sides exchanged it would be least elsewhere
        assert abs(slope(best, 1.0 - tau)) > 0.1


def test_advantage_weights_neither_overflow_nor_exceed_their_bound():
    weight = np.asarray(iql.advantage_weight(jnp.asarray([-1.0, 0.0, 0.5, 1e30]), 3.0, 100.0))
    np.testing.assert_allclose(weight, [np.exp(-3.0), 1.0, np.exp(1.5), 100.0], rtol=1e-5)


def test_iql_weighs_the_advantage_in_deviations_of_the_reward():
    """Prepared values are (1 - gamma) times those of rewards of order one."""
    state, batch, config = rival_state("iql", 0), rival_batch("iql", 1), tiny("iql")
    _, metrics = jax.jit(lambda s, b: iql.update(s, b, jax.random.key(0), 0.9, config))(state, batch)
    q = np.min(state.critic_target(batch.obs, batch.action), axis=0)
    grads = EXPECTILE_SLOPE(state.value.net, batch.obs, jnp.asarray(q), 0.7)
    value = state.value.step(grads, config.learning_rate).net
    weight = np.minimum(np.exp(3.0 * (q - np.asarray(value(batch.obs))[:, 0]) / 0.1), 100.0)
    np.testing.assert_allclose(metrics["iql/weight"], weight.mean(), rtol=1e-3)


# --- TD3+BC


def test_td3bc_target_is_that_of_the_smoothed_next_action():
    batch, net, q = transitions(0, 30), actor(1), critic(2)
    noise = np.clip(np.random.default_rng(0).normal(size=(30, 2)), -0.5, 0.5).astype(np.float32)
    action = np.clip(np.tanh(np.asarray(net(batch.next_obs).mean)) + noise, -1, 1)
    value = np.min(np.asarray(q(batch.next_obs, jnp.asarray(action))), axis=0)
    expected = batch.reward + 0.9 * np.where(batch.terminated, 0.0, value)
    np.testing.assert_allclose(td3bc.target(q, net, batch, jnp.asarray(noise), 0.9), expected, rtol=1e-4, atol=1e-6)


def test_td3bc_lambda_takes_the_unit_out_of_the_values():
    batch, net, q = transitions(0, 30), actor(1), critic(2)
    large = eqx.tree_at(lambda c: (c.nets.layers[-1].weight, c.nets.layers[-1].bias), q, replace_fn=lambda x: 50.0 * x)
    value = np.asarray(q(batch.obs, net(batch.obs).mode()))[0]
    weight = td3bc.value_weight(net, q, batch, 2.5)
    np.testing.assert_allclose(weight, 2.5 / np.abs(value).mean(), rtol=1e-5)
    losses = [td3bc.actor_loss(net, c, batch, td3bc.value_weight(net, c, batch, 2.5))[0] for c in (q, large)]
    imitation = np.mean((np.asarray(net(batch.obs).mode()) - batch.action) ** 2)
    np.testing.assert_allclose(losses[0], imitation - 2.5 * value.mean() / np.abs(value).mean(), rtol=1e-4)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_td3bc_moves_its_actor_and_targets_every_other_update():
    state, batch, config = rival_state("td3+bc", 0), rival_batch("td3+bc", 1), tiny("td3+bc")
    update = jax.jit(lambda s, k: td3bc.update(s, batch, k, 0.9, config)[0])
    one = update(state, jax.random.key(0))
    two = update(one, jax.random.key(1))
    held = ("actor", "actor_target", "critic_target")
    assert all(eqx.tree_equal(getattr(one, part), getattr(state, part)) for part in held)
    assert not any(eqx.tree_equal(getattr(two, part), getattr(one, part)) for part in held)
    assert not eqx.tree_equal(one.critic.net, state.critic.net)
    new, old, target = (
        np.asarray(s.nets.layers[0].weight) for s in (two.critic.net, one.critic_target, two.critic_target)
    )
    np.testing.assert_allclose(target, old + config.tau * (new - old), rtol=1e-4, atol=1e-7)


def test_td3bc_policy_draws_what_it_would_do():
    state = rival_state("td3+bc", 0)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    policy = td3bc.policy(state)(obs)
    np.testing.assert_allclose(policy.mean, state.actor.net(obs).mean, rtol=1e-6)
    assert np.exp(np.asarray(policy.log_std)).max() < 0.01


# --- BCQ


def test_the_vaes_kl_is_the_integral():
    for mean, std in ((0.3, 0.7), (-1.0, 2.0)):
        p, q = stats.norm(mean, std), stats.norm(0, 1)
        exact, _ = integrate.quad(
            lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), mean - 9 * std, mean + 9 * std
        )
        np.testing.assert_allclose(kl_to_normal(jnp.float32(mean), jnp.log(jnp.float32(std))), exact, rtol=1e-4)


def test_the_vaes_loss_is_reconstruction_and_kl():
    vae, batch = filled(lambda k: bcq.VAE.init(k, 3, 2, (4,)), 0), transitions(1, 6)
    noise = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    total = 0.0
    for i in range(6):
        mean, log_std = (np.asarray(x) for x in vae.encode(batch.obs[i], batch.action[i]))
        action = vae.decode(batch.obs[i], jnp.asarray(mean + np.exp(log_std) * noise[i]))
        kl = np.mean(-0.5 * (1 + 2 * log_std - mean**2 - np.exp(2 * log_std)))
        total += np.mean((action - batch.action[i]) ** 2) + 0.5 * kl
    np.testing.assert_allclose(bcq.vae_loss(vae, batch, jnp.asarray(noise), 0.5), total / 6, rtol=1e-4)


def test_bcq_target_takes_the_best_candidate_of_the_next_state():
    agent, batch = filled(lambda k: bcq.init(k, 3, 2, BCQ), 3), transitions(1, 5)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 3, 4)).astype(np.float32)
    expected = []
    for i in range(5):
        values = []
        for j in range(3):
            s = batch.next_obs[i]
            a = np.asarray(agent.vae.net.decode(s, jnp.asarray(x[i, j])))
            step = agent.perturbation_target.net(jnp.concatenate([s, jnp.asarray(a)]))
            a = np.clip(a + 0.05 * np.tanh(np.asarray(step)), -1, 1)
            q = np.asarray(agent.critic_target(s, jnp.asarray(a)))
            values.append(0.75 * q.min() + 0.25 * q.max())
        expected.append(batch.reward[i] + 0.9 * (0.0 if batch.terminated[i] else max(values)))
    np.testing.assert_allclose(bcq.target(agent, batch, jnp.asarray(x), 0.9, 0.75), expected, rtol=1e-4, atol=1e-6)


def test_bcq_policy_is_its_best_candidate_and_the_same_every_time():
    agent = filled(lambda k: bcq.init(k, 3 + 2, 2, BCQ), 4)
    policy, z = bcq.policy(agent).given(jnp.asarray([0.3, -0.2])), np.asarray([0.3, -0.2])
    obs = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    found = np.asarray(policy(jnp.asarray(obs)).mode())
    for index in np.ndindex(4, 2):
        s = jnp.asarray(np.concatenate([obs[index], z]), jnp.float32)
        actions = [agent.perturbation.net(s, agent.vae.net.decode(s, x)) for x in agent.act_latents]
        best = max(actions, key=lambda a: float(agent.critic.net(s, a)[0]))
        np.testing.assert_allclose(found[index], best, rtol=1e-3, atol=1e-4)


# --- BRAC


def test_the_dual_kl_is_the_kl_at_the_ratio_and_less_elsewhere():
    """Two distributions on four actions, each listed as often as it is likely."""
    p, b = np.array([4, 3, 2, 1]), np.array([1, 2, 3, 4])
    ratio = p / b
    c = np.log(np.expm1(ratio))  # softplus(c) = ratio
    exact = stats.entropy(p, b)

    def dual(c):
        return float(brac.dual_kl(jnp.asarray(np.repeat(c, p), jnp.float32), jnp.asarray(np.repeat(c, b), jnp.float32)))

    np.testing.assert_allclose(dual(c), exact, rtol=1e-4)
    rng = np.random.default_rng(0)
    assert all(dual(c + 0.5 * rng.normal(size=4)) < exact for _ in range(20))


def test_the_penalty_is_of_the_gradient_and_not_of_the_value():
    """c = v.a + w.s + k: the gradient in a has length ||v|| wherever and whatever the value."""
    flat = eqx.tree_at(lambda n: n.layers, mlp(0, 5, 1, (4,)), (mlp(1, 5, 1, ()).layers[0],))
    obs, a, b = (
        jnp.asarray(np.random.default_rng(i).normal(size=(7, n)), jnp.float32) for i, n in ((0, 3), (1, 2), (2, 2))
    )
    mix = jnp.full(7, 0.3)
    for v, k in (((3.0, 4.0), 0.0), ((3.0, 4.0), 100.0), ((0.3, 0.4), 100.0)):
        weight = jnp.asarray([[1.0], [-2.0], [0.5], *[[x] for x in v]])
        c = eqx.tree_at(lambda n: (n.layers[0].weight, n.layers[0].bias), flat, (weight, jnp.full((1,), k)))
        expected = max(np.hypot(*v) - 1.0, 0.0) ** 2
        np.testing.assert_allclose(brac.gradient_penalty(c, obs, a, b, mix), expected, rtol=1e-4, atol=1e-6)


def test_soft_targets_and_the_actors_loss():
    batch, net, q, key = transitions(0, 30), actor(1), critic(2), jax.random.key(3)
    policy = net(batch.next_obs)
    u = policy.sample_pre(key)
    value = np.min(np.asarray(q(batch.next_obs, jnp.tanh(u))), axis=0) - 0.02 * np.asarray(policy.log_prob_pre(u))
    expected = batch.reward + 0.9 * np.where(batch.terminated, 0.0, value)
    np.testing.assert_allclose(sac.soft_target(q, net, batch, 0.9, 0.02, key), expected, rtol=1e-4, atol=1e-5)
    plain, _ = sac.actor_loss(net, q, batch.obs, 0.02, key)
    c = mlp(5, 5, 1, (4,))
    held, found = brac.actor_loss(net, q, c, batch.obs, batch.action, jnp.float32(7.0), 0.02, key)
    np.testing.assert_allclose(held, plain + 7.0 * found["brac/kl"], rtol=1e-4)
    np.testing.assert_allclose(sac.SACConfig().temperature(0.9), 0.02)


@pytest.fixture(scope="module")
def focal_update():
    """One compiled update of FOCAL, for whatever its tests ask of it."""
    config = tiny("focal")
    return jax.jit(lambda s, b: focal.update(s, b, jax.random.key(0), 0.9, config))


def test_the_divergences_weight_rises_while_the_divergence_is_above_its_target(focal_update):
    state = eqx.tree_at(lambda s: s.agent.weight.net, rival_state("focal", 0), jnp.float32(100.0))
    new, metrics = focal_update(state, rival_batch("focal", 1))
    assert float(metrics["brac/weight"]) == 100.0
    step = np.sign(float(metrics["brac/kl"]) - tiny("focal").agent.target_divergence)
    np.testing.assert_allclose(new.agent.weight.net, 100.0 + step, rtol=1e-4)


# --- contexts


def test_the_metric_loss_is_the_loop_over_pairs():
    rng = np.random.default_rng(0)
    z, task = rng.uniform(-1, 1, (6, 3)).astype(np.float32), np.array([0, 1, 0, 2, 1, 0], np.int32)
    same, differ = [], []
    for i in range(6):
        for j in range(i):
            square = np.mean((z[i] - z[j]) ** 2)
            if task[i] == task[j]:
                same.append(np.sqrt(square + 1e-3))
            else:
                differ.append(1.0 / (square + 0.1))
    expected = np.mean(same) + np.mean(differ)
    loss = jax.jit(jax.value_and_grad(focal.metric_loss))
    np.testing.assert_allclose(loss(jnp.asarray(z), jnp.asarray(task))[0], expected, rtol=1e-5)
    # equal embeddings of one task: a finite gradient, where a bare root would have none
    assert np.isfinite(loss(jnp.zeros((6, 3)), jnp.zeros(6, jnp.int32))[1]).all()


def test_no_bellman_error_reaches_focals_encoder(focal_update):
    """Other rewards for the agent, the same context: the encoder steps the same."""
    state, batch = rival_state("focal", 0), rival_batch("focal", 1)
    other = eqx.tree_at(lambda b: b.rows.reward, batch, batch.rows.reward + 5.0)
    a, b = focal_update(state, batch)[0], focal_update(state, other)[0]
    assert eqx.tree_equal(a.encoder, b.encoder)
    assert not eqx.tree_equal(a.encoder.net, state.encoder.net)
    assert not eqx.tree_equal(a.agent.sac.critic.net, b.agent.sac.critic.net)


def test_the_posterior_is_the_product_of_its_factors():
    encoder = filled(lambda k: GaussianEncoder.init(k, 8, ContextConfig(latent=2, hidden=(4,))), 0)
    context = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.float32)
    factors = [encoder.factors(row) for row in context]
    x = np.linspace(-30, 30, 200_001)
    mean, variance = encoder(context)
    for i in range(2):
        log_density = sum(stats.norm.logpdf(x, float(m[i]), float(p[i]) ** -0.5) for m, p in factors)
        density = np.exp(log_density - log_density.max())
        density /= density.sum()
        np.testing.assert_allclose(mean[i], (x * density).sum(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(variance[i], (x**2 * density).sum() - (x * density).sum() ** 2, rtol=1e-3)


@pytest.mark.parametrize("kind", [MeanEncoder, GaussianEncoder])
def test_z_of_a_log_ignores_padding_and_order(kind):
    encoder = filled(lambda k: kind.init(k, 8, ContextConfig(latent=2, hidden=(4,))), 0)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 8)).astype(np.float32)
    padded = np.concatenate([rows, 100 * rng.normal(size=(3, 8)).astype(np.float32)])
    whole = encoder(jnp.asarray(rows))
    whole = whole[0] if isinstance(whole, tuple) else whole
    for order in (np.arange(9), np.r_[rng.permutation(6), 6, 7, 8]):
        z = encoder.infer(jnp.asarray(padded[order]), jnp.arange(9) < 6)
        np.testing.assert_allclose(z, whole, rtol=1e-4, atol=1e-5)


def test_drawn_contexts_and_rows_belong_to_their_task_and_are_real():
    """Rewards tell the task; padding has a reward that no task has."""
    t = transitions(0, (3, 20))
    size = np.array([20, 3, 11], np.int32)
    reward = np.where(np.arange(20)[None] < size[:, None], np.arange(3)[:, None], 99).astype(np.float32)
    data = Stacked(eqx.tree_at(lambda t: t.reward, t, jnp.asarray(reward)), jnp.asarray(size))
    config = tiny("focal", context=ContextConfig(latent=2, hidden=(4,), rows=30, tasks=12, batch=40))
    batch = jax.jit(lambda k: draw(data, jnp.int32(0), k, config, 0.9))(jax.random.key(0))
    assert batch.rows.reward.shape == (12, 40)
    assert (np.asarray(batch.rows.reward) == np.asarray(batch.task)[:, None]).all()
    np.testing.assert_allclose(
        batch.context[..., 5], np.broadcast_to(np.asarray(batch.task)[:, None] / 0.1, (12, 30)), rtol=1e-5
    )
    assert set(np.asarray(batch.task)) == {0, 1, 2}


def test_rows_of_all_tasks_carry_their_own_z():
    batch = rival_batch("focal", 0)
    z = np.arange(8, dtype=np.float32).reshape(4, 2)
    flat = conditioned(batch, jnp.asarray(z))
    for i, (task, row) in enumerate(np.ndindex(4, 5)):
        np.testing.assert_array_equal(flat.obs[i], np.r_[batch.rows.obs[task, row], z[task]])
        np.testing.assert_array_equal(flat.next_obs[i], np.r_[batch.rows.next_obs[task, row], z[task]])
        assert flat.reward[i] == batch.rows.reward[task, row]


def test_pearls_encoder_learns_from_the_critics_error_and_the_bottleneck():
    state, batch = rival_state("pearl", 0), rival_batch("pearl", 1)
    nets = (state.encoder.net, state.agent.critic.net)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    y = jnp.asarray(np.random.default_rng(1).normal(size=20), jnp.float32)
    loss, metrics = pearl.critic_loss(nets, batch, noise, y, 0.1, 50.0)
    mean, variance = (np.asarray(x) for x in nets[0](batch.context))
    rows = conditioned(batch, jnp.asarray(mean + np.sqrt(variance) * np.asarray(noise)))
    q = np.asarray(nets[1](rows.obs, rows.action))
    kl = 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(-1).mean()
    np.testing.assert_allclose(loss, ((q - np.asarray(y)) ** 2).mean(1).sum() + 0.1 * kl / 2500, rtol=1e-4)
    np.testing.assert_allclose(metrics["context/kl"], kl, rtol=1e-4)
    grads = jax.grad(lambda n: pearl.critic_loss(n, batch, noise, y, 0.0, 50.0)[0])(nets)
    assert max(np.abs(x).max() for x in jax.tree.leaves(grads[0])) > 1e-6


def test_club_is_the_mean_over_all_pairs():
    club, rng = mlp(0, 5, 4, (4,)), np.random.default_rng(0)
    s_a, z = (jnp.asarray(rng.normal(size=(3, 6, n)), jnp.float32) for n in (5, 2))
    total = []
    for t in range(3):
        for i in range(6):
            mean, variance = (np.asarray(x) for x in csro.predicted(club, s_a[t, i]))
            own = -((z[t, i] - mean) ** 2) / variance
            others = np.mean([-((z[t, j] - mean) ** 2) / variance for j in range(6)], axis=0)
            total.append(own - others)
    np.testing.assert_allclose(csro.club_bound(club, s_a, z), np.mean(total), rtol=1e-4)


def test_unicorns_decoder_predicts_the_rows_it_did_not_read():
    state, batch, config = rival_state("unicorn", 0), rival_batch("unicorn", 1), tiny("unicorn")
    encoder, decoder = state.encoder.net, state.decoder.net
    loss, (z, metrics) = unicorn.encoder_loss((encoder, decoder), batch, 0.9, config)
    seen, errors = np.asarray(features(batch.rows, 0.9)), []
    for t, i in np.ndindex(4, 5):
        found = decoder(jnp.asarray(np.r_[seen[t, i, :5], np.asarray(z)[t]], jnp.float32))
        errors.append(np.mean((found - seen[t, i, 5:]) ** 2))
        np.testing.assert_allclose(seen[t, i, 5], batch.rows.reward[t, i] * 10, rtol=1e-4)
    np.testing.assert_allclose(metrics["unicorn/recon"], np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(loss, np.mean(errors) + 0.1 * metrics["context/loss"], rtol=1e-4)


# --- MBML


def test_triplets_are_hinged_at_their_margin():
    rng = np.random.default_rng(0)
    anchor, same, other = (rng.normal(size=(9, 3)).astype(np.float32) for _ in range(3))
    expected = [
        max(np.linalg.norm(a - s) - np.linalg.norm(a - o) + 0.5, 0.0)
        for a, s, o in zip(anchor, same, other, strict=True)
    ]
    assert 0.0 in expected
    found = mbml.triplet_loss(*(jnp.asarray(x) for x in (anchor, same, other)), 0.5)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4)


def test_rows_are_relabelled_by_the_other_tasks_elites():
    """The same states and actions; reward and next state are the elites' mean prediction, the third member ignored."""
    config = tiny("mbml").dynamics
    model = jax.tree.map(lambda *x: jnp.concatenate(x), ensemble(0, 3, 2, config), ensemble(1, 3, 2, config))
    fitted = FittedModel(model, jnp.asarray([0, 3], jnp.int32), jnp.zeros(4))
    t = transitions(2, 6)
    found = mbml.relabelled_rows(fitted, unit_scale(3), t)
    x = jnp.concatenate([t.obs, t.action], axis=-1)
    mean, _, _ = model(jnp.broadcast_to(x, (4, *x.shape)))
    mean = np.asarray(mean)[[0, 3]].mean(0)
    np.testing.assert_array_equal(found.obs, t.obs)
    np.testing.assert_array_equal(found.action, t.action)
    np.testing.assert_allclose(found.reward, mean[:, 3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.next_obs, t.obs + mean[:, :3], rtol=1e-4, atol=1e-6)


def test_students_are_compared_with_their_own_tasks_teacher():
    state, batch = rival_state("mbml", 0), rival_batch("mbml", 1)
    rng = np.random.default_rng(0)
    z, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 2), (4, 5, 4)))
    agent = state.agent
    nets = (agent.vae.net, agent.perturbation.net, agent.critic.net)
    _, metrics = mbml.distillation_loss(nets, batch.teachers, batch.tasks, z, x)
    value, action, correction, rows = [], [], [], batch.tasks.rows
    for t in range(4):
        teacher = jax.tree.map(lambda leaf, t=t: leaf[t], batch.teachers)
        s, a = rows.obs[t], rows.action[t]
        s_z = jnp.concatenate([s, jnp.broadcast_to(z[t], (5, 2))], axis=-1)
        value.append((agent.critic.net(s_z, a) - teacher.critic.net(s, a)) ** 2)
        action.append((agent.vae.net.decode(s_z, x[t]) - teacher.vae.net.decode(s, x[t])) ** 2)
        correction.append((agent.perturbation.net(s_z, a) - teacher.perturbation.net(s, a)) ** 2)
    found = [metrics[f"mbml/{name}"] for name in ("value", "action", "correction")]
    np.testing.assert_allclose(found, [np.mean(v) for v in (value, action, correction)], rtol=1e-3)


# --- settings


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (td3bc.TD3BCConfig, {"hidden": ()}), (td3bc.TD3BCConfig, {"noise": -1.0}), (iql.IQLConfig, {"expectile": 1.0}),
        (iql.IQLConfig, {"updates": 0}), (sac.SACConfig, {"reward_scale": 0.0}), (bcq.BCQConfig, {"min_weight": 1.5}),
        (brac.BRACConfig, {"divergence_lr": 0.0}), (ContextConfig, {"latent": 0}), (csro.CsroConfig, {"club_weight": -1.0}),
        (focal.FocalConfig, {"metric_weight": float("inf")}), (unicorn.UnicornConfig, {"recon_weight": float("nan")}),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_named(kind, changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}="):
        kind(**changes)
