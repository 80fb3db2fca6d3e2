"""Gaussian processes of a log, and the returns of policies in systems drawn from them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from merpo.data import TaskData, Transitions
from merpo.evaluation.gaussian_process import Kernel, _evidence, draw, fit_kernel
from merpo.evaluation.offpolicy import Problem, Target
from merpo.evaluation.posterior import Systems
from merpo.guarantee.certificate import CertificateConfig, certify, split_log

H = 10
GOAL = np.array([0.6, 0.3])


def robot(episodes=24, seed=0, noise=1.0, to=GOAL):
    """A robot on the plane, s' = s + 0.1 a, reward -|s' - GOAL|, steered towards `to` with noise."""
    rng = np.random.default_rng(seed)
    s = rng.normal(0.0, 0.05, (episodes, 2))
    rows = []
    for _ in range(H):
        a = np.clip((to - s) * 2.0 + noise * rng.normal(size=s.shape), -1.0, 1.0)
        after = s + 0.1 * a
        rows.append((s, a, -np.linalg.norm(after - GOAL, axis=1), after))
        s = after
    obs, act, reward, after = (
        np.stack(x, 1).reshape(episodes * H, -1).astype(np.float32) for x in zip(*rows, strict=True)
    )
    end = np.tile(np.arange(H) == H - 1, episodes)
    t = Transitions(obs, act, reward[:, 0], after, np.zeros(len(obs), bool), end)
    return TaskData("robot", "test", t, np.arange(0, len(obs) + 1, H, dtype=np.int64))


def steer(to, gain=4.0):
    return Target(lambda obs: np.clip((to - obs) * gain, -1.0, 1.0))


def true_return(target, starts):
    total, s = 0.0, np.asarray(starts, np.float64)
    for _ in range(H):
        s = s + 0.1 * target.act(s)
        total = total - np.linalg.norm(s - GOAL, axis=1)
    return float(total.mean())


def test_the_evidence_is_scipys_density_and_its_gradient_is_right():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2)), rng.normal(size=9)
    theta = np.log([0.7, 3.0, 0.8, 0.3])
    kernel = Kernel(np.exp(theta[:2]), 0.8, 0.3)
    density = stats.multivariate_normal(np.zeros(9), kernel(x, x) + (0.09 + 1e-8) * np.eye(9)).logpdf(y)
    prior = -0.5 * ((theta[:2] - np.log(2.0)) ** 2).sum()
    value, slope = _evidence(theta, x, y, 1.0)
    assert value + 9 / 2 * -np.log(2 * np.pi) == pytest.approx(density + prior)
    for i in range(4):
        e = 1e-5 * np.eye(4)[i]
        by_hand = (_evidence(theta + e, x, y, 1.0)[0] - _evidence(theta - e, x, y, 1.0)[0]) / 2e-5
        assert slope[i] == pytest.approx(by_hand, rel=1e-4)


def test_drawn_functions_have_the_posteriors_mean_and_spread():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    y = np.sin(2 * x[:, 0])
    kernel = fit_kernel(x, y)
    assert kernel.length[1] > 2 * kernel.length[0]  # the second input does not matter
    kernel = Kernel(np.array([1.0, 4.0]), 1.0, 0.1)
    found = draw(kernel, x, y, 2000, rng)
    rows = np.array([[0.3, 0.0], [3.0, 1.0]])
    values = found(np.tile(rows, (2000, 1)), np.repeat(np.arange(2000), 2)).reshape(2000, 2)
    gram = np.linalg.inv(kernel(x, x) + 0.01 * np.eye(40))
    mean = kernel(rows, x) @ gram @ y
    spread = np.sqrt(np.diag(kernel(rows, rows) - kernel(rows, x) @ gram @ kernel(x, rows)))
    np.testing.assert_allclose(values[0], mean, rtol=1e-3)
    np.testing.assert_allclose(found.influence(rows) @ y, mean, rtol=1e-6)
    np.testing.assert_allclose(values[1:].mean(0), mean, atol=0.12 * spread.max())
    np.testing.assert_allclose(values[1:].std(0), spread, rtol=0.15)


def test_returns_inside_the_log_are_right_and_outside_it_are_uncertain():
    log = robot()
    part, held = split_log(log)
    systems = Systems(Problem(held, H), part)
    starts = held.transitions.obs[held.episode_start[:-1]]
    inside = systems.returns(steer(GOAL))
    true = true_return(steer(GOAL), starts)
    assert abs(inside.value - true) < 2 * inside.returns.std()
    away = systems.returns(steer(np.array([-2.0, 1.0])))
    assert away.returns.std() > 1.5 * inside.returns.std()
    assert away.unsupported > inside.unsupported + 0.2
    assert inside.effective > 5


def test_a_drawn_function_has_the_same_values_row_by_row():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 3))
    found = draw(Kernel(np.array([1.0, 2.0, 0.5]), 1.0, 0.01), x, x[:, 0] ** 2, 5, rng)
    rows, of = rng.normal(size=(150, 3)), rng.integers(0, 5, 150)  # more rows than one block
    alone = [found(rows[i : i + 1], of[i : i + 1])[0] for i in range(150)]
    np.testing.assert_allclose(found(rows, of), alone, rtol=1e-4, atol=1e-4)
    whole = found.prior(rows) + found.kernel(rows, x) @ found.correction.T
    np.testing.assert_allclose(found(rows, of), whole[np.arange(150), of], rtol=1e-4, atol=1e-4)


def robot_that_can_fall(reach):
    """`robot`, its episodes at an end where it is farther than `reach` from its start."""
    log = robot(episodes=40, noise=2.0)
    t, starts, rows = log.transitions, [0], []
    for a, b in zip(log.episode_start[:-1], log.episode_start[1:], strict=True):
        out = np.flatnonzero(np.linalg.norm(t.next_obs[a:b] - t.obs[a], axis=1) > reach)
        rows.extend(range(a, a + out[0] + 1 if len(out) else b))
        starts.append(len(rows))
    ends = np.asarray(starts[1:]) - 1
    ended, cut = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    ended[ends], cut[ends] = np.diff(starts) < H, np.diff(starts) == H
    columns = [np.asarray(x)[rows] for x in (t.obs, t.action, t.reward, t.next_obs)]
    kept = Transitions(*columns, ended, cut)
    return TaskData("robot", "test", kept, np.asarray(starts, np.int64))


def test_a_run_that_has_ended_earns_nothing_more():
    log = robot_that_can_fall(0.35)
    assert 0 < log.transitions.terminated.sum() < log.episodes
    systems = Systems(Problem(log, H), log)
    start = log.transitions.obs[log.episode_start[:-1]]
    far, near = steer(np.array([2.0, 2.0])), steer(np.array([0.1, 0.1]))

    def true(target):
        total, s, alive = np.zeros(len(start)), start.astype(np.float64), np.ones(len(start), bool)
        for _ in range(H):
            s = s + 0.1 * target.act(s)
            total -= alive * np.linalg.norm(s - GOAL, axis=1)
            alive &= np.linalg.norm(s - start, axis=1) <= 0.35
        return total.mean()

    # to fall early is to pay less: what ends has a return far above that of the whole walk
    assert systems.returns(far).value == pytest.approx(true(far), rel=0.25)
    assert systems.returns(near).value == pytest.approx(true(near), rel=0.25)


def test_a_better_policy_is_certified_and_the_reasons_against_others_are_named():
    config = CertificateConfig()
    part, held = split_log(robot(episodes=50), config)
    std = float(held.transitions.reward.std())
    good = certify(held, steer(GOAL), H, part, steer(np.zeros(2)), std, config)
    assert good.certified
    starts = held.transitions.obs[held.episode_start[:-1]]
    gain = true_return(steer(GOAL), starts) - good.behaviour_return
    assert 0.0 < good.over_behaviour.lower < gain
    assert good.over_meta.lower > good.over_behaviour.lower
    assert good.over_behaviour.method == "posterior"
    worse = certify(held, steer(np.zeros(2)), H, part, None, std, config)
    assert "not proven" in worse.sentence
    small = certify(held.select(range(9)), steer(GOAL), H, part, None, std, config)
    assert "log too small: 9 episodes" in small.sentence
    wrong = replace(held, transitions=replace(held.transitions, reward=held.transitions.reward * np.float32(100)))
    assert "reward scale" in certify(wrong, steer(GOAL), H, part, None, std, config).sentence
    # logged far from the goal: what is better lies where the log says nothing
    part, held = split_log(robot(episodes=50, noise=0.3, to=np.array([-0.2, -0.1])), config)
    far = certify(held, steer(np.array([3.0, 3.0])), H, part, steer(GOAL), None, config)
    assert not far.certified
    assert far.over_meta is None  # no guess is compared with another
    assert "no support" in far.sentence
