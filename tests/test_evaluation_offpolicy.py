"""Off-policy estimators on finite MDPs against exact values, and on a linear system against simulation."""

from dataclasses import replace

import numpy as np
import pytest

import tabular
from merpo.errors import ConfigError
from merpo.evaluation.features import OneHot, Smooth
from merpo.evaluation.offpolicy import (
    Problem,
    Target,
    doubly_robust,
    effective_sample_size,
    estimate_behaviour,
    fitted_q,
    importance_sampling,
)
from merpo.evaluation.stitched import rollouts
from toys import linear_task

H = 8


def target_of(pi):
    return Target(lambda obs: obs @ pi, discrete=True)


def setting(seed=0, episodes=300, end=0.0):
    mdp, behaviour = tabular.small_mdp(seed, end=end)
    pi = 0.3 * behaviour + 0.7 * np.eye(2)[[0, 1, 1, 0]]
    task = tabular.log(mdp, behaviour, episodes, H, seed + 10, terminal=end > 0)
    return Problem(task, H), target_of(pi), tabular.exact(mdp, pi, H, end > 0), mdp, behaviour, pi


@pytest.mark.parametrize(("seed", "end"), [(0, 0.0), (1, 0.0), (2, 0.15)])
def test_every_estimator_is_near_the_exact_value(seed, end):
    problem, target, truth, *_ = setting(seed, end=end)
    behaviour = estimate_behaviour(problem.task, discrete=True)
    fitted = fitted_q(problem, target, OneHot())
    error = fitted.scores.std(ddof=1) / np.sqrt(len(fitted.scores))
    assert abs(fitted.value - truth) < 4 * error
    assert error < 0.05 * truth
    assert 10 < fitted.effective < len(problem.task)
    stitched = rollouts(problem, target, OneHot(), count=600)
    assert stitched.far == 0.0
    assert abs(stitched.value - truth) < 4 * (error + stitched.returns.std() / np.sqrt(600))
    for scores in (
        importance_sampling(problem, target, behaviour),
        importance_sampling(problem, target, behaviour, weighted=True),
        doubly_robust(problem, target, behaviour, OneHot(), fitted),
        doubly_robust(problem, target, behaviour, OneHot(), fitted, weighted=True),
    ):
        assert scores.shape == (300,)
        assert abs(scores.mean() - truth) < 4 * scores.std() / np.sqrt(300)
    plain = importance_sampling(problem, target, behaviour).std()
    assert doubly_robust(problem, target, behaviour, OneHot(), fitted).std() < 0.85 * plain


def test_on_policy_the_estimates_are_the_mean_return():
    problem, _, _, _, _, _ = setting(3)
    t = problem.task.transitions
    counts = t.obs.T @ t.action
    clone = target_of(counts / counts.sum(1, keepdims=True))
    behaviour = estimate_behaviour(problem.task, discrete=True)
    for weighted in (False, True):
        found = importance_sampling(problem, clone, behaviour, weighted)
        np.testing.assert_allclose(found, problem.returns, rtol=1e-4)
    assert fitted_q(problem, clone, OneHot()).value == pytest.approx(problem.returns.mean(), rel=0.02)


def test_doubly_robust_without_a_value_is_importance_sampling():
    problem, target, *_ = setting(4)
    behaviour = estimate_behaviour(problem.task, discrete=True)
    fitted = fitted_q(problem, target, OneHot())
    nothing = replace(fitted, weights=0 * fitted.weights, floor=0 * fitted.floor)
    found = doubly_robust(problem, target, behaviour, OneHot(), nothing)
    np.testing.assert_allclose(found, importance_sampling(problem, target, behaviour), rtol=1e-6)


def test_the_jackknife_scores_measure_the_spread_over_logs():
    """The standard error that the scores give is that of the estimate over independent logs."""
    values, errors = [], []
    mdp, behaviour = tabular.small_mdp(5)
    for seed in range(40):
        problem = Problem(tabular.log(mdp, behaviour, 25, H, seed), H)
        found = fitted_q(problem, target_of(0.5 * behaviour + 0.25), OneHot())
        values.append(found.value)
        errors.append(found.scores.std(ddof=1) / 5)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.4)


def test_what_was_never_logged_is_valued_low_and_reported():
    mdp, _ = tabular.small_mdp(6)
    only = np.eye(2)[[0, 0, 0, 0]]
    problem = Problem(tabular.log(mdp, only, 60, H, 0), H)
    other = target_of(1 - only)
    found = fitted_q(problem, other, OneHot())
    assert found.value < tabular.exact(mdp, 1 - only, H) - 0.5
    least = float(problem.task.transitions.reward.min())
    assert found.value >= H * least - 1e-4
    assert rollouts(problem, other, OneHot()).far == 1.0
    assert rollouts(problem, target_of(only), OneHot()).far == 0.0


def test_a_discount_and_a_horizon_are_obeyed():
    mdp, behaviour = tabular.small_mdp(7)
    task = tabular.log(mdp, behaviour, 400, H, 0)
    problem = Problem(task, 5, 0.8)
    assert fitted_q(problem, target_of(behaviour), OneHot()).value == pytest.approx(
        tabular.exact(mdp, behaviour, 5, discount=0.8), rel=0.05
    )
    r = task.transitions.reward.reshape(400, H).astype(np.float64)
    np.testing.assert_allclose(problem.returns, r[:, :5] @ 0.8 ** np.arange(5), rtol=1e-6)
    with pytest.raises(ConfigError, match="horizon=0"):
        Problem(task, 0)
    with pytest.raises(ConfigError, match="discount"):
        Problem(task, 5, 1.5)


def test_smooth_features_evaluate_a_deterministic_policy_of_a_linear_system():
    task = linear_task("system", 80, seed=0, act=2)
    policy = lambda obs: np.clip(-obs, -1.0, 1.0)  # noqa: E731
    rng = np.random.default_rng(1)
    s, total = rng.normal(size=(4000, 2)), np.zeros(4000)
    for _ in range(6):
        s = 0.8 * s + 0.3 * policy(s).mean(1, keepdims=True) + 0.02 * rng.normal(size=s.shape)
        total -= np.linalg.norm(s, axis=1)
    problem = Problem(task, 6)
    found = fitted_q(problem, Target(policy), Smooth.fit(task))
    error = found.scores.std(ddof=1) / np.sqrt(80)
    assert abs(found.value - total.mean()) < 3 * error + 0.05
    stitched = rollouts(problem, Target(policy), Smooth.fit(task), count=200)
    assert abs(stitched.value - total.mean()) < 0.3
    assert stitched.far < 0.25
    assert rollouts(problem, Target(lambda obs: np.full((len(obs), 2), 30.0)), Smooth.fit(task)).far > 0.9
    noisy = Target(policy, spread=0.5)
    behaviour = estimate_behaviour(task)
    scores = doubly_robust(problem, noisy, behaviour, Smooth.fit(task), found, weighted=True)
    assert abs(scores.mean() - total.mean()) < 1.5
    with pytest.raises(ConfigError, match="spread=0"):
        importance_sampling(problem, Target(policy), behaviour)
    with pytest.raises(ConfigError, match="width"):
        Smooth.fit(task, width=0.0)


def test_effective_sample_size_counts_equal_weights():
    assert effective_sample_size(np.ones(7)) == pytest.approx(7.0)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1.0)


def test_stitched_rollouts_of_an_unstable_system_stay_near_the_log():
    task = linear_task("system", 40, seed=0, act=2)
    t = task.transitions
    running_away = replace(task, transitions=replace(t, next_obs=(1.5 * t.obs + 0.1 * t.action).astype(np.float32)))
    asked = []

    def policy(obs):
        asked.append(obs)
        return np.zeros((len(obs), 2))

    found = rollouts(Problem(running_away, 2000), Target(policy), Smooth.fit(running_away), count=20)
    both = np.concatenate([t.obs, running_away.transitions.next_obs])
    assert np.abs(np.concatenate(asked)).max() <= np.abs(both).max() * 2.01
    assert np.isfinite(found.returns).all()
    assert found.far > 0.9
