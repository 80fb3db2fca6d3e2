"""The point robots against closed forms, Gymnasium's checker, and the figures of the field."""

import warnings

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from merpo.errors import ConfigError, UnknownNameError
from merpo.tasks import JaxPolicy, families, generate, get_family
from merpo.tasks.analytic import bias_direction, greedy_act
from merpo.tasks.behaviour import uniform_act
from merpo.tasks.point_robot import GOALS, WINDS, draw_winds

WIND, GOAL = get_family("point-robot-wind"), get_family("point-robot-goal")
UNSCALED, SPARSE = get_family("point-robot-wind-unscaled"), get_family("sparse-point-robot")
BOTH = pytest.mark.parametrize("family", [WIND, GOAL], ids=lambda f: f.name)
EACH = pytest.mark.parametrize("family", [WIND, UNSCALED, GOAL, SPARSE], ids=lambda f: f.name)


def test_the_winds_are_the_field_s_draw():
    rng = np.random.RandomState(1337)
    flat = rng.random_sample(100) * 0.1 - 0.05  # all wx, then all wy
    np.testing.assert_allclose(WINDS[0], [flat[0], flat[50]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(WINDS[49], [flat[49], flat[99]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(WINDS[0], [-0.02379753, 0.03359679], atol=1e-8)
    np.testing.assert_allclose(WINDS[49], [0.04728723, -0.0374597], atol=1e-8)
    assert (WIND.train_ids, WIND.test_ids) == (tuple(range(40)), tuple(range(40, 50)))
    assert WIND.parameters(0) == {"wind": WINDS[0].tolist()}


def test_the_goals_lie_on_the_upper_half_circle():
    np.testing.assert_allclose(np.linalg.norm(GOALS, axis=1), 1.0, rtol=1e-12)
    assert GOALS.shape == (100, 2)
    assert (GOALS[:, 1] >= 0).all()
    angle = np.random.RandomState(1337).random_sample(1)[0] * np.pi
    np.testing.assert_allclose(GOALS[0], [np.cos(angle), np.sin(angle)], rtol=1e-12)
    assert (len(GOAL.train_ids), len(GOAL.test_ids), GOAL.gamma, GOAL.horizon) == (80, 20, 0.9, 20)


def test_published_returns_of_the_three_analytic_policies():
    """random -22.0, blind -5.35, expert -4.97 are the means over the draw of 20 winds."""
    winds, goal = draw_winds(20), np.array([1.0, 0.0])
    rng = np.random.default_rng(0)

    def mean_return(policy, episodes):
        s, total = np.zeros((20, episodes, 2)), 0.0
        for _ in range(20):
            s = s + 0.1 * np.clip(policy(s), -1, 1) + winds[:, None]
            total -= np.linalg.norm(s - goal, axis=-1).mean()
        return total

    assert mean_return(lambda s: rng.uniform(-1, 1, s.shape), 400) == pytest.approx(-22.0, abs=0.1)
    assert mean_return(lambda s: (goal - s) / 0.1, 1) == pytest.approx(-5.35, abs=0.005)
    assert mean_return(lambda s: (goal - s - winds[:, None]) / 0.1, 1) == pytest.approx(-4.97, abs=0.005)


def test_returns_on_the_shipped_winds():
    ids = tuple(range(50))
    random = WIND.rollout(uniform_act(WIND, ids, 100, 0), ids, 100).returns.mean()
    blind = WIND.rollout(greedy_act(WIND, ids, blind=True), ids, 1).returns
    expert = WIND.rollout(greedy_act(WIND, ids), ids, 1).returns
    assert random == pytest.approx(-22.1, abs=0.15)
    assert blind.mean() == pytest.approx(-5.464, abs=1e-3)
    assert expert.mean() == pytest.approx(-5.114, abs=1e-3)
    assert (blind[40:].mean(), expert[40:].mean()) == pytest.approx((-5.477, -5.200), abs=1e-3)


def test_one_step_by_hand():
    wx, wy = WINDS[3]
    run = WIND.rollout(lambda obs, t: np.full((1, 1, 2), (0.5, -2.0)), (3,), 1)  # -2 is clipped to -1
    np.testing.assert_allclose(run.next_obs[0, 0, 0], [0.05 + wx, -0.1 + wy], atol=1e-7)
    assert run.reward[0, 0, 0] == pytest.approx(-np.hypot(0.05 + wx - 1, -0.1 + wy), abs=1e-6)
    np.testing.assert_array_equal(run.action[0, 0, 0], np.float32([0.5, -1.0]))
    gx, gy = GOALS[7]
    run = GOAL.rollout(lambda obs, t: np.full((1, 1, 2), (0.5, 1.0)), (7,), 1)
    assert run.reward[0, 0, 1] == pytest.approx(-np.hypot(0.1 - gx, 0.2 - gy), abs=1e-6)


def test_one_step_of_the_variants_by_hand():
    wx, wy = WINDS[0]
    run = UNSCALED.rollout(lambda obs, t: np.full((1, 1, 2), (0.5, -0.2)), (0,), 1)
    np.testing.assert_allclose(run.next_obs[0, 0, 0], [0.5 + wx, -0.2 + wy], atol=1e-7)
    assert run.reward[0, 0, 0] == pytest.approx(-np.hypot(0.5 + wx - 1, -0.2 + wy), abs=1e-6)
    goal = GOALS[7]
    edge = [0.0, 0.05, 0.19, 0.21, 1.0]  # distances from the goal after the step
    state = goal - np.stack([np.asarray(edge), np.zeros(5)], axis=1)
    _, reward, ended, _ = SPARSE.simulator.step(np.full(5, 7), state, np.zeros((5, 2)))
    np.testing.assert_allclose(reward, [1.0, 0.75, 0.05, 0.0, 0.0], atol=1e-12)
    assert not ended.any()
    np.testing.assert_array_equal(SPARSE.task_vectors, GOAL.task_vectors)


def test_the_unscaled_expert_s_logs_have_the_published_return():
    logs = generate(UNSCALED, "expert", episodes=50)
    assert np.mean([t.returns().mean() for t in logs]) == pytest.approx(-2.31, abs=0.05)


@BOTH
def test_rollout_shapes_and_time_limit(family):
    ids = family.test_ids[:3]
    run = family.rollout(uniform_act(family, ids, 4, 1), ids, 4, seed=1)
    assert run.obs.shape == run.next_obs.shape == run.action.shape == (3, 4, 20, 2)
    assert run.reward.shape == (3, 4, 20)
    assert run.obs.dtype == run.reward.dtype == run.action.dtype == np.float32
    assert not run.terminated.any()
    assert run.truncated[..., -1].all()
    assert not run.truncated[..., :-1].any()
    np.testing.assert_array_equal(run.obs[:, :, 1:], run.next_obs[:, :, :-1])
    np.testing.assert_allclose(run.returns, run.reward.sum(-1), rtol=1e-6)


def _steer(params, obs, step):
    return jnp.tanh(params[:, None] - obs)


@EACH
def test_the_compiled_rollout_equals_the_loop(family):
    ids = (0, 5, family.num_tasks - 1)
    params = jnp.asarray([[3.0, 1.0], [-1.0, 2.0], [0.3, 0.2]], jnp.float32)
    fast = family.rollout(JaxPolicy(_steer, params), ids, 2)
    slow = family.rollout(lambda obs, t: np.tanh(np.asarray(params)[:, None] - obs), ids, 2)
    for name in ("obs", "action", "reward", "next_obs"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=2e-6, err_msg=name)
    for name in ("terminated", "truncated", "length"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))


@EACH
def test_the_environment_equals_the_batched_rollout(family):
    task = family.test_ids[1]
    run = family.rollout(uniform_act(family, (task,), 1, 2), (task,), 1)
    env = gym.make(family.env_id, task=task)
    obs, info = env.reset(seed=0)
    keys = set(info)
    for t in range(20):
        np.testing.assert_array_equal(obs, run.obs[0, 0, t])
        obs, reward, terminated, truncated, info = env.step(run.action[0, 0, t])
        assert np.float32(reward) == run.reward[0, 0, t]
        assert (terminated, truncated) == (False, t == 19)
        assert set(info) == keys == {"distance"}
        if family is SPARSE:
            assert reward == pytest.approx(max(0.0, (0.2 - info["distance"]) / 0.2))
        else:
            assert reward == pytest.approx(-info["distance"])


@EACH
def test_gymnasium_accepts_the_environment(family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unbounded observation space is meant
        check_env(gym.make(family.env_id, task=0).unwrapped, skip_render_check=True)
    explicit = gym.make(family.env_id, **family.parameters(4)).unwrapped
    numbered = gym.make(family.env_id, task=4).unwrapped
    for env in (explicit, numbered):
        env.reset(seed=0)
    action = np.float32([0.3, -0.4])
    assert explicit.step(action)[1] == numbered.step(action)[1]


def test_environment_arguments_are_checked():
    with pytest.raises(ConfigError, match=r"task=50: expected a task number in \[0, 50\)"):
        gym.make(WIND.env_id, task=50)
    with pytest.raises(ConfigError, match="expected exactly one of them"):
        gym.make(WIND.env_id)
    with pytest.raises(ConfigError, match="expected two finite numbers"):
        gym.make(GOAL.env_id, goal=[1.0, float("nan")])


def test_rollout_arguments_are_checked():
    zero = lambda obs, t: np.zeros(obs.shape)  # noqa: E731
    with pytest.raises(ConfigError, match=r"task_ids=\[100\]"):
        GOAL.rollout(zero, (100,), 1)
    with pytest.raises(ConfigError, match="episodes=0"):
        GOAL.rollout(zero, (0,), 0)
    with pytest.raises(ConfigError, match=r"has shape \(2,\): expected \(1, 1, 2\)"):
        GOAL.rollout(lambda obs, t: np.zeros(2), (0,), 1)
    with pytest.raises(ConfigError, match="NaN"):
        GOAL.rollout(lambda obs, t: obs * np.nan, (0,), 1)


def test_unknown_family_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"point-robot-wind, .*Did you mean 'point-robot-goal'"):
        get_family("point-robot-gaol")
    assert set(families()) == {
        "point-robot-wind", "point-robot-wind-unscaled", "point-robot-goal", "sparse-point-robot",
        "half-cheetah-fwd-back", "half-cheetah-vel", "walker-2d-params", "hopper-params",
        "ant-fwd-back", "ant-dir", "ant-goal",
    }  # fmt: skip


def test_the_behaviour_s_bias_is_the_task_s_own():
    directions = np.stack([bias_direction(t) for t in range(100)])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    assert np.linalg.norm(directions.mean(axis=0)) < 0.25  # no common direction for a meta-policy to inherit
