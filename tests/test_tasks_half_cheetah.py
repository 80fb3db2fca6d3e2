"""The cheetah against Gymnasium's own, by the step and by hand."""

import sys
import types
import warnings

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from merpo.errors import ConfigError
from merpo.tasks import get_family
from merpo.tasks.behaviour import uniform_act

CHEETAH = get_family("half-cheetah-fwd-back")
BOTH = [{"direction": -1.0}, {"direction": 1.0}]


def make(threads=1, physics="modern"):
    return CHEETAH.make_simulator(BOTH, physics, threads)


@pytest.fixture
def original(monkeypatch):
    """Gymnasium's HalfCheetah-v5 with this family's control cost."""
    # its renderer imports imageio for videos, which stepping does not need
    monkeypatch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

    env = HalfCheetahEnv(ctrl_cost_weight=0.05)
    env.reset(seed=0)
    return env


def test_constants(original):
    assert original.dt == pytest.approx(0.05)
    assert (CHEETAH.obs_dim, CHEETAH.act_dim, CHEETAH.horizon) == (17, 6, 200)
    assert CHEETAH.train_ids == CHEETAH.test_ids == (0, 1)
    assert [CHEETAH.parameters(i) for i in (0, 1)] == [{"direction": -1.0}, {"direction": 1.0}]


def test_batched_steps_equal_gymnasium_s(original):
    """The same states as Gymnasium's for 40 steps; then, from its states, at every step of an episode."""
    simulator = make()
    rng = np.random.default_rng(0)
    state = np.stack([simulator.initial(3, 1, e) for e in range(5)])
    original.set_state(state[2, :9], state[2, 9:])
    for t in range(200):
        action = rng.uniform(-1.0, 1.0, (5, 6)).astype(np.float32)
        if t >= 40:  # contacts amplify rounding errors, so that free runs part after some hundred steps
            state[2] = np.concatenate([original.data.qpos, original.data.qvel])
        state, reward, terminated, extra = simulator.step(np.array([0, 0, 1, 1, 0]), state, action)
        obs, expected, *_, info = original.step(action[2].astype(np.float64))
        np.testing.assert_allclose(state[2, 1:], obs, atol=1e-8)
        assert reward[2] == pytest.approx(expected, abs=1e-8)
        assert extra[2, 0] == pytest.approx(info["x_velocity"], abs=1e-8)
        assert not terminated.any()


def test_reward_by_hand():
    """Backward and forward rewards of the same step differ by the sign of v alone; cost 0.05 ||a||^2."""
    simulator = make()
    start = np.stack([simulator.initial(0, 0, 0)] * 2)
    action = np.full((2, 6), 0.5)
    after, reward, _, extra = simulator.step(np.array([0, 1]), start, action)
    v = (after[0, 0] - start[0, 0]) / 0.05
    np.testing.assert_allclose(reward, [-v - 0.05 * 1.5, v - 0.05 * 1.5], rtol=1e-12)
    vector = jnp.asarray(CHEETAH.task_vectors, jnp.float32)
    relabelled = CHEETAH.reward(
        vector, jnp.asarray(action, jnp.float32), jnp.zeros((2, 17)), jnp.asarray(extra, jnp.float32)
    )
    np.testing.assert_allclose(relabelled, reward, rtol=1e-5)


def test_threads_and_batch_do_not_change_a_step():
    one, two = make(1), make(2)
    state = np.stack([one.initial(0, 0, e) for e in range(33)])
    action = np.random.default_rng(0).uniform(-1, 1, (33, 6))
    ids = np.zeros(33, np.int64)
    batched = one.physics(ids, state, action)[0]
    np.testing.assert_array_equal(batched, two.physics(ids, state, action)[0])
    np.testing.assert_array_equal(batched[7:8], one.physics(ids[:1], state[7:8], action[7:8])[0])


def test_initial_states_depend_on_seed_task_and_episode_alone():
    simulator = make()
    a = simulator.initial(0, 1, 2)
    np.testing.assert_array_equal(a, make().initial(0, 1, 2))
    for other in ((1, 1, 2), (0, 0, 2), (0, 1, 3)):
        assert not np.array_equal(a, simulator.initial(*other))
    many = np.stack([simulator.initial(0, 0, e) for e in range(2000)])
    assert np.abs(many[:, :9] - many[:, :9].mean(0)).max() < 0.11
    np.testing.assert_allclose(many[:, 9:].std(0), 0.1, rtol=0.08)
    np.testing.assert_allclose(many[:, 2].std(), 0.1 / np.sqrt(3), rtol=0.05)
    few = CHEETAH.rollout(lambda obs, t: np.zeros((1, 1, 6)), (1,), 1, seed=4).obs[0, 0, 0]
    more = CHEETAH.rollout(lambda obs, t: np.zeros((2, 3, 6)), (0, 1), 3, seed=4).obs[1, 0, 0]
    np.testing.assert_array_equal(few, more)


def test_the_environment_equals_the_batched_rollout():
    run = CHEETAH.rollout(uniform_act(CHEETAH, (0, 1), 2, 0), (0, 1), 2, seed=9)
    env = gym.make(CHEETAH.env_id, task=1)
    obs, info = env.reset(seed=0, options={"state": CHEETAH.simulator.initial(9, 1, 1)})
    assert set(info) == {"x_velocity"}
    for t in range(200):
        np.testing.assert_array_equal(obs, run.obs[1, 1, t])
        obs, reward, terminated, truncated, info = env.step(run.action[1, 1, t])
        assert np.float32(reward) == run.reward[1, 1, t]
        assert (terminated, truncated) == (False, t == 199)
        assert set(info) == {"x_velocity"}
    assert run.truncated[..., -1].all()
    assert not run.truncated[..., :-1].any()
    assert not run.terminated.any()
    np.testing.assert_array_equal(run.length, 200)


def test_gymnasium_accepts_the_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unbounded observation space is meant
        check_env(gym.make(CHEETAH.env_id, task=0).unwrapped, skip_render_check=True)
    with pytest.raises(ConfigError, match=r"direction=0.5: expected -1.0"):
        gym.make(CHEETAH.env_id, direction=0.5)
    with pytest.raises(ConfigError, match=r"has shape \(3,\): expected \(18,\)"):
        gym.make(CHEETAH.env_id, task=0).reset(options={"state": [0.0, 0.0, 0.0]})
