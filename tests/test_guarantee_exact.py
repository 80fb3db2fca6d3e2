"""Closed forms on finite MDPs against what they claim to solve, and against other solvers."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from merpo.errors import ConfigError
from merpo.guarantee import (
    MDP,
    Balance,
    TaskPrior,
    action_values,
    behaviour_policy,
    conservative_values,
    distance,
    draw_counts,
    improve,
    improve_clone,
    maximise,
    meta_policy,
    nu,
    objective,
    occupancy,
    optimal_policy,
    read_log,
    regularised_policy,
    state_values,
    value,
)
from merpo.guarantee.mdp import dirichlet


def instances(seed=0, batch=4, states=4, actions=3, size=60, f=0.5):
    """Logs of `batch` random tasks, with a meta-policy drawn at random."""
    rng = np.random.default_rng(seed)
    tasks = TaskPrior(states, actions).draw(rng, batch, 1)
    tasks = MDP(tasks.T[:, 0], tasks.r[:, 0], tasks.mu[:, 0], tasks.gamma)
    behaviour = behaviour_policy(tasks, rng.uniform(0, 1, batch), rng)
    counts = draw_counts(tasks, behaviour, np.full(batch, size), rng)
    prior_T = dirichlet(rng, np.ones(tasks.T.shape))
    log = read_log(counts, tasks, prior_T, np.full(tasks.r.shape, 0.5), f)
    return log, tasks, behaviour, dirichlet(rng, np.ones(tasks.r.shape)), prior_T


def test_values_and_occupancies_are_those_of_a_simulation():
    _, tasks, behaviour, _, _ = instances()
    rho, v, q = occupancy(tasks, behaviour), state_values(tasks, behaviour), action_values(tasks, behaviour)
    # by iteration, the long way round
    visits, reward, p = np.zeros(tasks.r.shape), np.zeros(len(rho)), tasks.mu
    for k in range(300):
        joint = p[..., None] * behaviour
        visits += (1 - tasks.gamma) * tasks.gamma**k * joint
        reward += tasks.gamma**k * (joint * tasks.r).sum((-1, -2))
        p = np.einsum("bsa,bsat->bt", joint, tasks.T)
    np.testing.assert_allclose(rho, visits, atol=1e-10)
    np.testing.assert_allclose(value(tasks, behaviour), reward, atol=1e-8)
    np.testing.assert_allclose((rho * tasks.r).sum((-1, -2)) / (1 - tasks.gamma), reward, atol=1e-8)
    np.testing.assert_allclose((behaviour * q).sum(-1), v, atol=1e-10)


def test_policy_iteration_finds_the_best_of_all_deterministic_policies():
    _, tasks, _, _, _ = instances(batch=3, states=3, actions=2)
    best = value(tasks, optimal_policy(tasks))
    every = [np.eye(2)[list(c)] for c in itertools.product(range(2), repeat=3)]
    values = np.max([value(tasks, np.broadcast_to(p, tasks.r.shape)) for p in every], axis=0)
    np.testing.assert_allclose(best, values, atol=1e-10)


@pytest.mark.parametrize(("beta", "f"), [(0.02, 0.5), (0.3, 0.0), (0.1, 0.8)])
def test_the_conservative_value_of_a_policy_is_its_return_less_the_penalty(beta, f):
    log, _, behaviour, _, _ = instances(f=f)
    q = conservative_values(log.model, behaviour, log.d, beta, f)
    found = (log.model.mu * (behaviour * q).sum(-1)).sum(-1)
    expected = value(log.model, behaviour) - beta * nu(log.model, behaviour, log.d, f) / (1 - log.model.gamma)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert (nu(log.model, behaviour, log.d, f) >= -1e-12).all()
    # and Q is the least-squares solution of COMBO's objective: its gradient, pair by pair, vanishes
    rho = occupancy(log.model, behaviour)
    backup = log.model.r + 0.9 * np.einsum("bsat,bt->bsa", log.model.T, (behaviour * q).sum(-1))
    d_f = f * log.d + (1 - f) * rho
    np.testing.assert_allclose(beta * (rho - log.d) + d_f * (q - backup), 0.0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.9])
def test_improvement_solves_its_problem_state_by_state(alpha):
    rng = np.random.default_rng(1)
    q, b, c, lam = rng.normal(size=(1, 4)), rng.dirichlet(np.ones(4), 1), rng.dirichlet(np.ones(4), 1), 0.4
    share = 0.7

    def solve(gain):
        def cost(z):
            p = np.exp(z - z.max())
            return -gain(p / p.sum())

        found = optimize.minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
        p = np.exp(found - found.max())
        return p / p.sum()

    kl = lambda p, other: np.sum(p * np.log(p / other))  # noqa: E731
    both = solve(lambda p: p @ q[0] - lam * alpha * kl(p, b[0]) - lam * (1 - alpha) * kl(p, c[0]))
    np.testing.assert_allclose(improve(q, b, c, alpha, lam)[0], both, atol=1e-5)
    cloned = solve(lambda p: p @ q[0] + lam * alpha * share * b[0] @ np.log(p) - lam * (1 - alpha) * kl(p, c[0]))
    np.testing.assert_allclose(improve_clone(q, b, c, alpha, lam, np.array([share]))[0], cloned, atol=1e-5)


def test_rac_ends_where_evaluation_and_improvement_agree():
    log, _, _, pi_c, _ = instances()
    balance = Balance(0.4, 0.2, 0.02, 0.5)
    pi = regularised_policy(log, pi_c, balance, rounds=80)
    q = conservative_values(log.model, pi, log.d, balance.beta, balance.f)
    np.testing.assert_allclose(improve(q, log.clone, pi_c, balance.alpha, balance.lam), pi, atol=1e-6)
    with pytest.raises(ConfigError, match="lam"):
        improve(q, log.clone, pi_c, 0.4, 0.0)


def test_the_meta_policy_is_a_mean_of_the_tasks_policies():
    log, _, _, _, _ = instances(batch=5)
    lifted = type(log)(*(x[None] for x in (log.counts, log.clone, log.d)), MDP(
        log.model.T[None], log.model.r[None], log.model.mu[None], 0.9))  # fmt: skip
    free = meta_policy(lifted, Balance(0.0, 1e6, 0.0, 0.5))  # an immovable anchor: stays uniform
    np.testing.assert_allclose(free, 1 / 3, atol=1e-4)
    found = meta_policy(lifted, Balance(0.5, 0.05, 0.0, 0.5))
    np.testing.assert_allclose(found.sum(-1), 1.0)
    gain = value(log.model, np.broadcast_to(found[0], log.clone.shape)) - value(
        log.model, np.full(log.clone.shape, 1 / 3)
    )
    assert gain.mean() > 0


def test_the_distance_is_a_metric():
    log, _, a, b, _ = instances()
    c = log.clone
    ab, ba, bc, ac = (distance(log.model, *pair) for pair in ((a, b), (b, a), (b, c), (a, c)))
    np.testing.assert_allclose(ab, ba)
    assert (ac <= ab + bc + 1e-12).all()
    assert (ab > 0).all()
    assert (ab <= 1).all()
    np.testing.assert_allclose(distance(log.model, a, a), 0.0)


@pytest.mark.parametrize(
    ("alpha", "lam", "beta", "f"), [(0.4, 1.0, 0.02, 0.5), (0.2, 4.0, 0.2, 0.2), (1.0, 0.3, 0.01, 0.8)]
)
def test_the_maximiser_is_global(alpha, lam, beta, f):
    """Its value meets the dual bound, and no policy of a fine grid over all policies of a small MDP is better."""
    log, _, _, pi_c, _ = instances(seed=3, batch=2, states=2, actions=2, f=f)
    balance = Balance(alpha, lam, beta, f)
    found = maximise(log, pi_c, balance, 800)
    assert (found.gap < 1e-6).all()
    assert (found.gap > -1e-9).all()
    np.testing.assert_allclose(found.value, objective(log, found.policy, pi_c, balance), atol=1e-9)
    x = np.linspace(0.0, 1.0, 41)
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 1, 2)
    policies = np.broadcast_to(np.stack([grid, 1 - grid], -1), (len(grid), 2, 2, 2))
    values = np.stack([objective(log, p, pi_c, balance) for p in policies])
    assert (values <= found.upper + 1e-9).all()
    assert (values.max(0) > found.value - 0.1 * np.ptp(values, axis=0) - 1e-9).all()


def test_the_maximiser_without_pull_or_push_is_the_optimal_policy():
    log, _, _, pi_c, _ = instances(seed=5)
    found = maximise(log, pi_c, Balance(0.4, 0.0, 0.0, 0.5), 1500)
    np.testing.assert_allclose(found.value, value(log.model, optimal_policy(log.model)), atol=1e-5)


def test_settings_out_of_range_are_named():
    log, tasks, _, _, prior = instances()
    with pytest.raises(ConfigError, match="f=1"):
        read_log(log.counts, tasks, prior, tasks.r, 1.0)
    with pytest.raises(ConfigError, match="gamma"):
        MDP(tasks.T, tasks.r, tasks.mu, 1.0)
    with pytest.raises(ConfigError, match="T:"):
        MDP(tasks.T * 1.1, tasks.r, tasks.mu, 0.9)
    with pytest.raises(ConfigError, match="states"):
        TaskPrior(states=1)
