"""The MuJoCo families against Gymnasium's own robots, and number by number against the field's definitions."""

import json
import sys
import types
import warnings

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from merpo.data.types import Bounds
from merpo.errors import ConfigError
from merpo.tasks import get_family, hopper, walker
from merpo.tasks.behaviour import uniform_act
from merpo.tasks.random_params import draw_exponents, stored_exponents

WALKER, HOPPER = get_family("walker-2d-params"), get_family("hopper-params")
ANT, ANT_DIR, ANT_GOAL = (get_family(n) for n in ("ant-fwd-back", "ant-dir", "ant-goal"))
VEL = get_family("half-cheetah-vel")
NEW = pytest.mark.parametrize("family", [WALKER, HOPPER, ANT, ANT_GOAL, VEL], ids=lambda f: f.name)
NONE = np.zeros(1, np.int64)


@pytest.fixture
def robots(monkeypatch):
    """Gymnasium's classes; their renderer imports imageio for videos, which stepping does not need."""
    monkeypatch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
    from gymnasium.envs.mujoco.ant_v5 import AntEnv
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
    from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

    return {"walker": Walker2dEnv, "hopper": HopperEnv, "ant": AntEnv}


def unchanged(family, shapes):
    ones = {name: [1.0] * int(np.prod(shape)) for name, shape in shapes.items()}
    return family.make_simulator([ones], "modern", 1)


def against(simulator, env, episodes, act_dim):
    """Step both from the same states until the robot falls; yields what each says of the step."""
    rng, nq = np.random.default_rng(0), simulator.nq
    for episode in range(episodes):
        state = simulator.initial(0, 0, episode)
        env.reset(seed=0)
        env.set_state(state[:nq], state[nq:])
        for _ in range(40):
            action = rng.uniform(-1.0, 1.0, act_dim).astype(np.float32)
            after, reward, terminated, extra = simulator.step(NONE, state[None], action[None])
            theirs = env.step(action.astype(np.float64))
            yield state, after[0], float(reward[0]), bool(terminated[0]), extra[0], action, theirs
            state = np.concatenate([env.data.qpos, env.data.qvel])
            if terminated[0]:
                break


@pytest.mark.parametrize(
    ("family", "shapes", "key"), [(WALKER, walker.SHAPES, "walker"), (HOPPER, hopper.SHAPES, "hopper")]
)
def test_a_nominal_body_steps_as_gymnasium_s(robots, family, shapes, key):
    simulator, env = unchanged(family, shapes), robots[key]()
    if key == "walker":
        env.model.opt.timestep = 0.004
    assert simulator.dt == pytest.approx(env.dt, abs=1e-12) == {"walker": 0.016, "hopper": 0.008}[key]
    fallen = 0
    for _, after, reward, terminated, extra, _, (obs, their_reward, ended, _, info) in against(
        simulator, env, 4, family.act_dim
    ):
        np.testing.assert_allclose(simulator.observe(after), obs, atol=2e-6)
        assert terminated == ended
        assert extra[0] == pytest.approx(info["x_velocity"], abs=1e-6)
        # the field pays the bonus of 1 at the last step too, Gymnasium's v5 does not
        assert reward == pytest.approx(their_reward + ended, abs=1e-6)
        fallen += ended
    assert fallen >= 2


def test_the_ant_steps_as_gymnasium_s(robots):
    simulator, env = ANT.make_simulator([{"angle": 0.0}], "modern", 1), robots["ant"]()
    assert simulator.dt == pytest.approx(env.dt) == 0.05
    seen = 0.0
    for state, after, reward, terminated, extra, action, (obs, _, _, _, info) in against(simulator, env, 3, 8):
        np.testing.assert_allclose(simulator.observe(after), obs[:27], atol=1e-5)
        np.testing.assert_allclose(extra[2], -info["reward_contact"], atol=1e-7)
        v = (after[0] - state[0]) / 0.05
        cost = 0.5 * np.sum(np.square(action.astype(np.float64)))
        assert reward == pytest.approx(v - cost - extra[2] + 1.0, abs=1e-9)
        assert terminated == (not 0.2 <= after[2] <= 1.0)
        seen = max(seen, extra[2])
    assert seen > 1e-4  # contacts do happen, and cost something


def test_contact_forces_do_not_change_the_physics():
    """Row by row or by `mujoco.rollout`, with one thread or two: the same next states to the last bit."""
    from merpo.tasks.physics import MujocoSimulator

    one = ANT.make_simulator([{"angle": 0.0}], "modern", 1)
    two = ANT.make_simulator([{"angle": 0.0}], "modern", 2)
    state = np.stack([one.initial(0, 0, e) for e in range(5)])
    action, ids = np.random.default_rng(0).uniform(-1, 1, (5, 8)), np.zeros(5, np.int64)
    after, force = one.physics(ids, state, action)
    np.testing.assert_array_equal(after, MujocoSimulator.physics(one, ids, state, action)[0])
    for x, y in zip((after, force), two.physics(ids, state, action), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_multipliers_are_the_field_s_draw():
    """Task after task: masses, inertias, damping, friction; 1.5^u but 1.3^u for damping."""
    for family, module, count in ((WALKER, walker, 8 + 24 + 9 + 24), (HOPPER, hopper, 5 + 15 + 6 + 15)):
        flat = np.random.RandomState(1337).random_sample(25 * count).reshape(25, count) * 6.0 - 3.0
        np.testing.assert_allclose(family.task_vectors, flat / 10.0, rtol=0, atol=1e-14)
        assert draw_exponents(module.SHAPES, 25) == stored_exponents(family.name)
        last = family.parameters(24)
        assert list(last) == ["body_mass", "body_inertia", "dof_damping", "geom_friction"]
        sizes = [int(np.prod(s)) for s in module.SHAPES.values()]
        parts = np.split(flat[24], np.cumsum(sizes)[:-1])
        for (name, value), u, base in zip(last.items(), parts, (1.5, 1.5, 1.3, 1.5), strict=True):
            np.testing.assert_allclose(value, base**u, rtol=1e-12, err_msg=name)
        assert (family.train_ids, family.test_ids) == (tuple(range(20)), tuple(range(20, 25)))


def test_each_task_has_its_own_body():
    from merpo.tasks.models import load_model

    plain = load_model("walker-2d-params", "walker2d_v5.xml", "modern")
    model, given = WALKER.simulator.models[7], WALKER.parameters(7)
    for name in given:
        factor = getattr(model, name) / np.where(getattr(plain, name) == 0, 1, getattr(plain, name))
        expected = np.where(getattr(plain, name) == 0, 0, np.reshape(given[name], getattr(plain, name).shape))
        np.testing.assert_allclose(factor, expected, rtol=1e-12, err_msg=name)
    # constants derived from the masses stay the nominal model's
    np.testing.assert_array_equal(model.body_invweight0, plain.body_invweight0)
    # a batch over tasks steps every row with its own model
    state = np.stack([WALKER.simulator.initial(0, 0, 0)] * 3)
    together = WALKER.simulator.step(np.asarray([3, 0, 24]), state, np.full((3, 6), 0.3))[0]
    for row, task in enumerate((3, 0, 24)):
        alone = WALKER.make_simulator([WALKER.parameters(task)], "modern", 1)
        np.testing.assert_array_equal(alone.step(NONE, state[:1], np.full((1, 6), 0.3))[0][0], together[row])


def test_walker_and_hopper_by_hand():
    """Reward of a step; termination on both sides of every edge."""
    for family in (WALKER, HOPPER):
        s, n = family.simulator, family.act_dim
        start = s.initial(0, 0, 0)
        assert np.abs(start - np.concatenate([s.qpos0, np.zeros(s.nv)])).max() <= 0.005
        after, reward, _, extra = s.step(NONE, start[None], np.full((1, n), 0.5))
        v = (after[0, 0] - start[0]) / (0.016 if family is WALKER else 0.008)
        assert reward[0] == pytest.approx(v + 1 - 0.001 * 0.25 * n, abs=1e-12)
        again = family.reward(
            jnp.zeros((1, 3)), jnp.full((1, n), 0.5), jnp.zeros((1, 2)), jnp.asarray(extra, jnp.float32)
        )
        assert float(again[0]) == pytest.approx(reward[0], rel=1e-5)
    sound = np.zeros((1, 18))
    sound[0, 1] = 1.25
    cases = [(1, 0.801, True), (1, 0.8, False), (1, 1.999, True), (1, 2.0, False)]
    cases += [(2, 0.999, True), (2, 1.0, False), (2, -0.999, True), (2, -1.0, False), (1, np.nan, False)]
    for column, value, alive in cases:
        state = sound.copy()
        state[0, column] = value
        assert WALKER.simulator.healthy(state)[0] == alive
    sound = np.zeros((1, 12))
    sound[0, 1] = 1.25
    cases = [(1, 0.701, True), (1, 0.7, False), (1, 50.0, True), (2, 0.199, True), (2, -0.2, False)]
    cases += [(7, 99.0, True), (7, 100.0, False), (0, 1e6, True), (11, np.inf, False), (0, np.nan, False)]
    for column, value, alive in cases:
        state = sound.copy()
        state[0, column] = value
        assert HOPPER.simulator.healthy(state)[0] == alive
    assert WALKER.info("medium", 0).healthy == (Bounds(0, 0.8, 2.0), Bounds(1, -1.0, 1.0))
    assert WALKER.info("medium", 0).termination == HOPPER.info("random", 0).termination == "bounds"
    state = WALKER.simulator.initial(0, 0, 0)
    state[9:] = 30.0
    seen = WALKER.simulator.observe(state)
    np.testing.assert_array_equal(seen, np.float32([*state[1:9], *[10.0] * 9]))


def test_ants_and_velocities_by_hand():
    assert [ANT.parameters(i)["angle"] for i in (0, 1)] == [0.0, np.pi]
    assert ANT.train_ids == ANT.test_ids == (0, 1)
    assert ANT.info("medium", 0).healthy == (Bounds(0, 0.2, 1.0),)
    np.testing.assert_allclose(ANT_DIR.parameters(0)["angle"], np.random.RandomState(1337).random_sample() * 2 * np.pi)
    start, action = ANT.simulator.initial(0, 0, 0), np.full((1, 8), 0.5)
    after, reward, _, extra = ANT.simulator.step(np.asarray([1]), start[None], action)
    v = (after[0, :2] - start[:2]) / 0.05
    assert reward[0] == pytest.approx(-v[0] - 0.5 * 2.0 - extra[0, 2] + 1.0, abs=1e-9)
    np.testing.assert_allclose(extra[0, :2], v, atol=1e-12)
    vector = jnp.asarray(ANT.task_vectors[1:], jnp.float32)
    again = ANT.reward(vector, jnp.asarray(action, jnp.float32), jnp.zeros((1, 27)), jnp.asarray(extra, jnp.float32))
    assert float(again[0]) == pytest.approx(reward[0], rel=1e-4)

    goal = ANT_GOAL.parameters(3)["goal"]
    start = ANT_GOAL.simulator.initial(0, 3, 0)
    after, reward, ended, extra = ANT_GOAL.simulator.step(np.asarray([3]), start[None], action)
    away = abs(after[0, 0] - goal[0]) + abs(after[0, 1] - goal[1])
    assert reward[0] == pytest.approx(-away - 0.1 * 2.0 - extra[0, 0], abs=1e-9)
    assert not ended[0]

    wanted = np.random.RandomState(1337).random_sample(100) * 3.0
    np.testing.assert_allclose([VEL.parameters(i)["velocity"] for i in range(100)], wanted, rtol=1e-12)
    assert (VEL.train_ids, VEL.test_ids) == (tuple(range(80)), tuple(range(80, 100)))
    start = VEL.simulator.initial(0, 3, 0)
    _, reward, _, extra = VEL.simulator.step(np.asarray([3]), start[None], np.full((1, 6), 0.5))
    assert reward[0] == pytest.approx(-abs(extra[0, 0] - wanted[3]) - 0.05 * 1.5, abs=1e-9)
    vector = jnp.asarray(VEL.task_vectors[3:4], jnp.float32)
    again = VEL.reward(vector, jnp.full((1, 6), 0.5), jnp.zeros((1, 17)), jnp.asarray(extra, jnp.float32))
    assert float(again[0]) == pytest.approx(reward[0], rel=1e-5)


@NEW
def test_the_environment_equals_the_batched_rollout(family):
    """Step by step, to the end of the episode; explicit parameters are the numbered task."""
    task = family.test_ids[0]
    run = family.rollout(uniform_act(family, (task, family.train_ids[0]), 2, 0), (task, family.train_ids[0]), 2, seed=9)
    env = gym.make(family.env_id, **family.parameters(task))
    obs, info = env.reset(seed=0, options={"state": family.simulator.initial(9, task, 1)})
    keys, length = set(info), int(run.length[0, 1])
    for t in range(min(length, 60)):
        np.testing.assert_array_equal(obs, run.obs[0, 1, t])
        obs, reward, terminated, _, info = env.step(run.action[0, 1, t])
        assert np.float32(reward) == run.reward[0, 1, t]
        assert terminated == run.terminated[0, 1, t] == (t == length - 1 < family.horizon - 1)
        assert set(info) == keys == set(family.simulator.extra_names)
    assert run.terminated.sum() + run.truncated.sum() == 4
    assert not run.reward[0, 1, length:].any()


@NEW
def test_gymnasium_accepts_the_environment(family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unbounded observation space is meant
        check_env(gym.make(family.env_id, task=0).unwrapped, skip_render_check=True)
    with pytest.raises(ConfigError, match="expected exactly one of them"):
        gym.make(family.env_id)
    with pytest.raises(ConfigError, match="expected"):
        gym.make(family.env_id, weight=2.0)
    spec = json.loads(gym.make(family.env_id, **family.parameters(1)).spec.to_json())
    assert spec["kwargs"] == {"family": family.name, **family.parameters(1)}


def test_bad_multipliers_are_refused():
    good = dict(WALKER.parameters(0))
    for name, value, message in (
        ("body_mass", good["body_mass"][:7], "expected 8 positive multipliers"),
        ("body_mass", [0.0] * 8, "expected 8 positive multipliers"),
        ("gravity", [1.0], "expected exactly body_mass"),
    ):
        with pytest.raises(ConfigError, match=message):
            gym.make(WALKER.env_id, **{**good, name: value})
