"""Divergences from the behaviour policy and from the meta-policy, against closed forms and numerical integrals."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from merpo import ConfigError, DynamicsConfig, MerPOConfig, RACConfig
from merpo.algorithms import divergences, pipeline, rac
from merpo.algorithms.divergences import BOUND, Ratio, behaviour_term, meta_term
from merpo.algorithms.health import Where
from merpo.data import Preparation
from merpo.networks import TanhGaussian
from toys import actor, critic, gaussian_actor, linear_set, transitions

MEAN, STD = np.array([0.3, -0.5]), np.array([0.4, 0.7])
MEAN_B, STD_B = np.array([-0.1, -0.2]), np.array([0.5, 0.6])
MEAN_C, STD_C = np.array([0.6, 0.1]), np.array([0.3, 0.9])
ZERO = jnp.zeros((4, 1), jnp.float32)
CONFIG = RACConfig(actor_hidden=(8,), critic_hidden=(8,), batch=12, real_fraction=0.5, rollout_rows=10, buffer=50)


def kl(mean, std, mean_b, std_b) -> float:
    """Of diagonal Gaussians, which is that of their squashed actions too."""
    return float(np.sum(np.log(std_b / std) + (std**2 + (mean - mean_b) ** 2) / (2 * std_b**2) - 0.5))


def policy(mean=MEAN, std=STD, rows: int = 4) -> TanhGaussian:
    return TanhGaussian(
        jnp.asarray(np.tile(mean, (rows, 1)), jnp.float32), jnp.asarray(np.log(np.tile(std, (rows, 1))), jnp.float32)
    )


def test_density_is_the_kl_of_the_actions():
    """KL(pi || pi_b), also by integrating the squashed densities over (-1, 1) dimension by dimension."""
    u = jnp.zeros((4, 2), jnp.float32)
    fitted = gaussian_actor(MEAN_B, np.log(STD_B))
    found = float(eqx.filter_jit(behaviour_term)(fitted, policy(), u, ZERO, u[:2]))
    assert found == pytest.approx(kl(MEAN, STD, MEAN_B, STD_B), rel=1e-4)
    total = 0.0
    for m, s, m_b, s_b in zip(MEAN, STD, MEAN_B, STD_B, strict=True):

        def integrand(a, m=m, s=s, m_b=m_b, s_b=s_b):
            p, q = (stats.norm.logpdf(np.arctanh(a), *g) - np.log1p(-(a**2)) for g in ((m, s), (m_b, s_b)))
            return np.exp(p) * (p - q)

        total += integrate.quad(integrand, -1 + 1e-9, 1 - 1e-9)[0]
    assert found == pytest.approx(total, rel=1e-4)


def test_the_dual_converges_to_the_kl():
    """c learned from draws alone of two known Gaussians: the estimate on fresh draws is their KL."""
    rows = 256
    mine, other = policy(MEAN[:1], STD[:1], rows), policy(MEAN_B[:1], STD_B[:1], rows)
    obs = jnp.zeros((rows, 1), jnp.float32)

    @jax.jit
    def learn(key):
        def step(state, k):
            k_log, k_step = jax.random.split(k)
            logged = jnp.tanh(other.sample_pre(k_log))
            return divergences.ratio_step(state, mine, obs, logged, k_step, 3e-3, 5.0, 10.0), None

        start = divergences.init_ratio(1, 1, (32,), 3e-3)
        return jax.lax.scan(step, start, jax.random.split(key, 1500))[0].ratio

    ratio = learn(jax.random.key(0))
    rng, n = np.random.default_rng(1), 100_000
    drawn, logged = (
        jnp.asarray(np.tanh(m + s * rng.normal(size=(n, 1))), jnp.float32)
        for m, s in ((MEAN[0], STD[0]), (MEAN_B[0], STD_B[0]))
    )
    estimate = float(eqx.filter_jit(divergences.dual_kl)(ratio, jnp.zeros((n, 1), jnp.float32), drawn, logged))
    exact = kl(MEAN[:1], STD[:1], MEAN_B[:1], STD_B[:1])
    assert estimate == pytest.approx(exact, rel=0.1)
    assert exact > 0.3


def linear_ratio(slope: float, shift: float) -> Ratio:
    """c(s, a) = BOUND tanh((slope (a_1 + a_2)/sqrt 2 + shift)/BOUND), nearly linear for small values."""
    base = jax.tree.map(jnp.zeros_like, Ratio(1, 2, (), jax.random.key(0)))
    weight = jnp.asarray([[0.0], [slope / np.sqrt(2)], [slope / np.sqrt(2)]], jnp.float32)
    bias = jnp.asarray([shift], jnp.float32)
    return eqx.tree_at(lambda r: (r.net.layers[0].weight, r.net.layers[0].bias), base, (weight, bias))


@pytest.mark.parametrize(("slope", "limit"), [(0.5, 0.2), (0.5, 1.0), (3.0, 1.0)])
def test_the_penalty_is_of_the_gradient(slope, limit):
    """(max(|grad c| - limit, 0))^2 by finite differences; c itself, shifted far beyond the limit, does not count."""
    rng = np.random.default_rng(0)
    drawn, logged = (jnp.asarray(rng.uniform(-0.3, 0.3, (4, 2)), jnp.float32) for _ in range(2))
    mix = jnp.asarray(rng.uniform(size=4), jnp.float32)
    shift = 4.0
    found = float(divergences.slope_penalty(linear_ratio(slope, shift), ZERO, drawn, logged, mix, limit))
    between = np.asarray(drawn + mix[:, None] * (logged - drawn), np.float64)

    def c(a):
        return BOUND * np.tanh((slope * a.sum(-1) / np.sqrt(2) + shift) / BOUND)

    steps = 1e-5 * np.eye(2)
    grads = np.stack([(c(between + h) - c(between - h)) / 2e-5 for h in steps], axis=-1)
    expected = np.mean(np.maximum(np.linalg.norm(grads, axis=-1) - limit, 0) ** 2)
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-6)
    assert np.abs(c(between)).min() > limit  # the fault, |c| in the gradient's place, would be punished


def test_c_is_bounded():
    steep = linear_ratio(1e4, 0.0)
    a = jnp.ones((4, 2), jnp.float32)
    np.testing.assert_allclose(steep(ZERO, a), BOUND, rtol=1e-5)
    assert float(divergences.dual_kl(steep, ZERO, -a, -a)) < 1.0


# --- one scale: alpha is the weight of a mixture

LOGGED = jnp.asarray(np.tanh(np.stack([MEAN_B + STD_B, MEAN_B - STD_B] * 2)), jnp.float32)
"""Logged actions whose pre-tanh moments are exactly those of the behaviour."""


@jax.jit
def pull(mean, log_std, alpha, fitted):
    """Gradients of both divergences' weighted sums: without and with one scale, by the log and by pi_b."""

    def total(parameters, behaviour, one_scale):
        mine = TanhGaussian(*(jnp.tile(x[None], (6, 1)) for x in parameters))
        obs, u = jnp.zeros((6, 1), jnp.float32), jnp.zeros((6, 2), jnp.float32)
        held = behaviour_term(behaviour, mine, u, obs, LOGGED)
        kl = meta_term(behaviour, mine, policy(MEAN_C, STD_C, 6), 4, one_scale)
        return alpha * held + (1 - alpha) * kl

    cases = ((None, False), (None, True), (fitted, True))
    return [jnp.concatenate(jax.grad(total)((mean, log_std), *case)) for case in cases]


@pytest.mark.parametrize("alpha", [0.2, 0.4, 0.8])
def test_on_one_scale_the_clone_form_is_least_at_the_mixture(alpha):
    """alpha pi_beta + (1 - alpha) pi_c by its moments; on their own scales the two do not balance there."""
    fitted = gaussian_actor(MEAN_B, np.log(STD_B))
    mean = alpha * MEAN_B + (1 - alpha) * MEAN_C
    square = alpha * (STD_B**2 + MEAN_B**2) + (1 - alpha) * (STD_C**2 + MEAN_C**2)
    log_std = 0.5 * np.log(square - mean**2)
    at = [jnp.asarray(x, jnp.float32) for x in (mean, log_std)]
    apart, together, _ = pull(*at, jnp.float32(alpha), fitted)
    np.testing.assert_allclose(together, 0.0, atol=1e-4)
    assert np.abs(apart).max() > 0.05


@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_the_density_form_is_least_at_the_geometric_mixture(alpha):
    """pi_b^alpha pi_c^(1 - alpha): precisions add, means are weighted by them."""
    precise = alpha / STD_B**2 + (1 - alpha) / STD_C**2
    mean = (alpha * MEAN_B / STD_B**2 + (1 - alpha) * MEAN_C / STD_C**2) / precise
    at = [jnp.asarray(x, jnp.float32) for x in (mean, -0.5 * np.log(precise))]
    *_, found = pull(*at, jnp.float32(alpha), gaussian_actor(MEAN_B, np.log(STD_B)))
    np.testing.assert_allclose(found, 0.0, atol=1e-4)


def test_an_update_learns_c_and_lets_it_pull():
    """One update with `dual` and one scale: c moves, the actor follows it, and lambda moves by the two KLs."""
    config = replace(CONFIG, behaviour="dual", one_scale=True, lam_mode="dual", lam_target=0.1, lam_lr=0.01)
    real, model, anchor = transitions(1, 6), transitions(2, 6), actor(1)
    state = rac.init(actor(0), critic(0), config)
    # without conservatism nor value scale only the divergences are left
    weights = rac.Weights(*(jnp.asarray(x, jnp.float32) for x in (0.4, 0.0, 123.0, 0.0)))
    run = eqx.filter_jit(lambda s: rac.update(s, real, model, anchor, weights, jax.random.key(0), 0.9, config))
    new, found = run(state)
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.ratio, new.ratio)), strict=True)]
    assert np.mean(moved) > 0.7
    divergence = 0.4 * found["actor/behaviour"] + 0.6 * found["actor/kl_meta"]
    excess = float(np.clip(divergence / 2 - 0.1, -1, 1))  # no floor: this is a KL already
    assert float(new.log_lam - state.log_lam) == pytest.approx(0.01 * excess, rel=1e-3)
    mine, theirs = (eqx.filter_jit(a)(real.obs) for a in (state.actor, anchor))
    assert float(found["actor/kl_meta"]) == pytest.approx(float(jnp.mean(mine.kl(theirs))), rel=1e-4)
    other, _ = run(eqx.tree_at(lambda s: s.ratio.ratio, state, jax.tree.map(lambda x: 3 * x, state.ratio.ratio)))
    assert not np.allclose(new.actor_opt[0].mu.net.layers[0].weight, other.actor_opt[0].mu.net.layers[0].weight)


def test_each_job_has_its_own_fitted_behaviour():
    """pi_b is cloned per task where `density` asks for it, travels with the job, and is what the update measures by."""
    data = linear_set(3)
    settings = MerPOConfig(
        rac=replace(CONFIG, behaviour="density", rollout_rows=10), dynamics=DynamicsConfig(elites=5), bc_updates=20
    )
    batch = pipeline.make_batch(list(data), Preparation.fit(data), settings, seed=0)
    where = Where("cloning", (0,), tuple(t.name for t in data), settings)
    floor, fitted = pipeline.fit_behaviour(batch, [jax.random.key(0)], data.info, where)
    weight = np.asarray(fitted.net.layers[0].weight)
    assert weight.shape[0] == floor.shape[0] == 3
    assert len({w.tobytes() for w in weight}) == 3
    for behaviour, mode, made in (("clone", "fixed", False), ("clone", "dual", True), ("dual", "dual", False)):
        other = replace(settings, rac=replace(settings.rac, behaviour=behaviour, lam_mode=mode))
        floor, none = pipeline.fit_behaviour(batch, [jax.random.key(0)], data.info, replace(where, config=other))
        assert none is None
        assert bool(np.any(floor)) == made
    state = rac.init(actor(0), critic(0), settings.rac)
    weights = rac.Weights(*(jnp.zeros((), jnp.float32) for _ in range(5)), actor(3))
    arguments = (state, transitions(1, 6), transitions(2, 6), actor(1), weights, jax.random.key(0))
    _, found = eqx.filter_eval_shape(lambda *a: rac.update(*a, 0.9, settings.rac), *arguments)
    assert "actor/behaviour" in found
    assert "actor/clone" not in found


@pytest.mark.parametrize("bad", [{"ratio_lr": 2.0}, {"ratio_penalty": -1.0}, {"ratio_slope": float("nan")}])
def test_settings_outside_their_range(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        RACConfig(**bad)
