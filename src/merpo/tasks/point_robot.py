"""Point robots on the plane: `s' = s + 0.1 a + w`, reward `-||s' - goal||`, 20 steps, gamma 0.9.

**Point-Robot-Wind**: the goal is (1, 0) for all; the task is the wind w = (wx, wy), each U(-0.05, 0.05),
drawn with NumPy's legacy generator, seed 1337: first all 50 wx, then all 50 wy. Tasks 0-39 train, 40-49 test.

**Point-Robot-Goal**: no wind; the goal is on the unit half circle, (cos phi, sin phi) with phi ~ U(0, pi),
all 100 angles in one draw of NumPy's legacy generator, seed 1337. Tasks 0-79 train, 80-99 test.

Start (0, 0); never terminates. An action moves the robot by at most 0.1 per axis and step, so the greedy
policies divide the displacement wanted by 0.1: expert `a = clip((g - s - w)/0.1)`, wind-blind `a = clip((g -
s)/0.1)`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.tasks.family import Family

STEP = 0.1
HORIZON = 20
GAMMA = 0.9
DRAW_SEED = 1337
WIND_GOAL = (1.0, 0.0)
WIND_LIMIT = 0.05


def draw_winds(count: int) -> Float[np.ndarray, "task 2"]:
    """`count` winds: first all wx, then all wy, so that the draw depends on `count`."""
    # the legacy generator is part of the field's definition of these tasks
    rng = np.random.RandomState(DRAW_SEED)
    wx = rng.uniform(-WIND_LIMIT, WIND_LIMIT, count)
    wy = rng.uniform(-WIND_LIMIT, WIND_LIMIT, count)
    return np.stack([wx, wy], axis=1)


def draw_goals(count: int) -> Float[np.ndarray, "task 2"]:
    """`count` goals on the unit half circle, angles U(0, pi)."""
    rng = np.random.RandomState(DRAW_SEED)
    angle = rng.uniform(0.0, np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


WINDS = draw_winds(50)
GOALS = draw_goals(100)


class PointSimulator:
    """Batched point robots in float64; `wind` and `goal` have one row per task."""

    def __init__(self, wind: Float[np.ndarray, "task 2"], goal: Float[np.ndarray, "task 2"]):
        self.wind, self.goal = wind, goal

    def initial(self, seed: int, task: int, episode: int) -> Float[np.ndarray, " state"]:
        """Always the origin."""
        del seed, task, episode
        return np.zeros(2)

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """The position, float32."""
        return state.astype(np.float32)

    def step(
        self,
        task_ids: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
    ) -> tuple[
        Float[np.ndarray, "n state"],
        Float[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Float[np.ndarray, "n extra"],
    ]:
        """`s' = s + 0.1 clip(a) + w`, reward `-||s' - goal||`; no extra numbers."""
        after = state + STEP * np.clip(np.asarray(action, np.float64), -1.0, 1.0) + self.wind[task_ids]
        reward = -np.linalg.norm(after - self.goal[task_ids], axis=1)
        return after, reward, np.zeros(len(state), bool), np.zeros((len(state), 0))


def _distance(x: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    return jnp.sqrt(jnp.sum(x * x, axis=-1))


def wind_dynamics(
    wind: Float[Array, "*m 2"], state: Float[Array, "*n 2"], action: Float[Array, "*n 2"]
) -> Float[Array, "*n 2"]:
    """`s + 0.1 a + w`; the wind's leading axes broadcast against the state's."""
    return state + STEP * action + wind


def wind_reward(
    wind: Float[Array, "*m 2"],
    action: Float[Array, "*n 2"],
    next_obs: Float[Array, "*n 2"],
    extra: Float[Array, "*n 0"],
) -> Float[Array, "*n"]:
    """`-||s' - (1, 0)||`."""
    del wind, action, extra
    goal = jnp.broadcast_to(jnp.asarray(WIND_GOAL, jnp.float32), next_obs.shape)
    return -_distance(next_obs - goal)


def goal_dynamics(
    goal: Float[Array, "*m 2"], state: Float[Array, "*n 2"], action: Float[Array, "*n 2"]
) -> Float[Array, "*n 2"]:
    """`s + 0.1 a`."""
    del goal
    return state + STEP * action


def goal_reward(
    goal: Float[Array, "*m 2"],
    action: Float[Array, "*n 2"],
    next_obs: Float[Array, "*n 2"],
    extra: Float[Array, "*n 0"],
) -> Float[Array, "*n"]:
    """`-||s' - g||`."""
    del action, extra
    return -_distance(next_obs - goal)


def servo(
    target: Float[np.ndarray, "*#n 2"], state: Float[np.ndarray, "*#n 2"], wind: Float[np.ndarray, "*#n 2"]
) -> Float[np.ndarray, "*#n 2"]:
    """The greedy action `clip((target - state - wind)/0.1)`: lands on the target once it is in reach."""
    return np.clip((target - state - wind) / STEP, -1.0, 1.0)


def _wind_parameters(task: int) -> dict[str, float | list[float]]:
    return {"wind": [float(x) for x in WINDS[task]]}


def _goal_parameters(task: int) -> dict[str, float | list[float]]:
    return {"goal": [float(x) for x in GOALS[task]]}


POINT_ROBOT_WIND = Family(
    name="point-robot-wind",
    version=1,
    env_id="merpo/PointRobotWind-v1",
    obs_dim=2,
    act_dim=2,
    horizon=HORIZON,
    gamma=GAMMA,
    physics="none",
    train_ids=tuple(range(40)),
    test_ids=tuple(range(40, 50)),
    task_vectors=WINDS,
    parameters=_wind_parameters,
    make_simulator=lambda: PointSimulator(WINDS, np.tile(np.asarray(WIND_GOAL), (len(WINDS), 1))),
    reward=wind_reward,
    obs_scale=(1.0, 1.0),
    dynamics=wind_dynamics,
)
"""Point-Robot-Wind, version 1."""

POINT_ROBOT_GOAL = Family(
    name="point-robot-goal",
    version=1,
    env_id="merpo/PointRobotGoal-v1",
    obs_dim=2,
    act_dim=2,
    horizon=HORIZON,
    gamma=GAMMA,
    physics="none",
    train_ids=tuple(range(80)),
    test_ids=tuple(range(80, 100)),
    task_vectors=GOALS,
    parameters=_goal_parameters,
    make_simulator=lambda: PointSimulator(np.zeros_like(GOALS), GOALS),
    reward=goal_reward,
    relabel=True,
    obs_scale=(1.0, 1.0),
    dynamics=goal_dynamics,
)
"""Point-Robot-Goal, version 1."""
