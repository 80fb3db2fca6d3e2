"""Point robots on the plane: `s' = s + 0.1 a + w`, reward `-||s' - goal||`, 20 steps, gamma 0.9.

**Point-Robot-Wind**: the goal is (1, 0) for all; the task is the wind w = (wx, wy), each U(-0.05, 0.05),
drawn with NumPy's legacy generator, seed 1337: first all 50 wx, then all 50 wy. Tasks 0-39 train, 40-49 test.

**Point-Robot-Goal**: no wind; the goal is on the unit half circle, (cos phi, sin phi) with phi ~ U(0, pi),
all 100 angles in one draw of NumPy's legacy generator, seed 1337. Tasks 0-79 train, 80-99 test.

**Point-Robot-Wind-Unscaled** is Point-Robot-Wind with `s' = s + a + w`, as in a published copy of its data.

**Sparse-Point-Robot** is Point-Robot-Goal with the reward `(0.2 - ||s' - g||)/0.2` within 0.2 of the goal, else 0.

Start (0, 0); never terminates. An action moves the robot by at most 0.1 per axis and step, so the greedy
policies divide the displacement wanted by 0.1: expert `a = clip((g - s - w)/0.1)`, wind-blind `a = clip((g -
s)/0.1)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.errors import ConfigError
from merpo.tasks.family import Family, Parameters

STEP = 0.1
HORIZON = 20
GAMMA = 0.9
DRAW_SEED = 1337
WIND_GOAL = (1.0, 0.0)
WIND_LIMIT = 0.05
RADIUS = 0.2
"""Distance from the goal within which the sparse reward is positive."""

Reward = Callable[[Array, Array, Array, Array], Array]
Dynamics = Callable[[Array, Array, Array], Array]


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

    def __init__(
        self,
        wind: Float[np.ndarray, "task 2"],
        goal: Float[np.ndarray, "task 2"],
        step_size: float = STEP,
        sparse: bool = False,
    ):
        self.wind, self.goal, self.step_size, self.sparse = wind, goal, step_size, sparse

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
        """`s' = s + step_size clip(a) + w`, reward `-||s' - goal||` or the sparse one; no extra numbers."""
        after = state + self.step_size * np.clip(np.asarray(action, np.float64), -1.0, 1.0) + self.wind[task_ids]
        distance = np.linalg.norm(after - self.goal[task_ids], axis=1)
        reward = np.maximum(1.0 - distance / RADIUS, 0.0) if self.sparse else -distance
        return after, reward, np.zeros(len(state), bool), np.zeros((len(state), 0))

    def info(
        self, task: int, state: Float[np.ndarray, " state"], extra: Float[np.ndarray, " extra"]
    ) -> dict[str, float]:
        """The distance to the goal."""
        del extra
        return {"distance": float(np.linalg.norm(state - self.goal[task]))}

    def reconstruct(
        self, obs: Float[np.ndarray, "n obs"]
    ) -> tuple[Float[np.ndarray, "n state"], Bool[np.ndarray, " n"]]:
        """The observation is the state."""
        return obs.astype(np.float64), np.ones(len(obs), bool)

    @property
    def velocity_columns(self) -> slice:
        """None."""
        return slice(2, 2)


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


def unscaled_wind_dynamics(
    wind: Float[Array, "*m 2"], state: Float[Array, "*n 2"], action: Float[Array, "*n 2"]
) -> Float[Array, "*n 2"]:
    """`s + a + w`."""
    return state + action + wind


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


def sparse_reward(
    goal: Float[Array, "*m 2"],
    action: Float[Array, "*n 2"],
    next_obs: Float[Array, "*n 2"],
    extra: Float[Array, "*n 0"],
) -> Float[Array, "*n"]:
    """`(0.2 - ||s' - g||)/0.2` within 0.2 of the goal, else 0."""
    del action, extra
    return jnp.maximum(1.0 - _distance(next_obs - goal) / RADIUS, 0.0)


def servo(
    target: Float[np.ndarray, "*#n 2"],
    state: Float[np.ndarray, "*#n 2"],
    wind: Float[np.ndarray, "*#n 2"],
    step_size: float = STEP,
) -> Float[np.ndarray, "*#n 2"]:
    """The greedy action `clip((target - state - wind)/step_size)`: lands on the target once it is in reach."""
    return np.clip((target - state - wind) / step_size, -1.0, 1.0)


ORDERINGS: dict[str, Callable[[Parameters], float]] = {
    "wind": lambda task: float(np.linalg.norm(task["wind"])),
    "goal": lambda task: float(np.angle(np.asarray(task["goal"]) @ [1.0, 1.0j])),
}
"""Winds by their strength, goals by their direction."""


def _pairs(name: str, tasks: Sequence[Parameters]) -> Float[np.ndarray, "task 2"]:
    rows = []
    for task in tasks:
        array = np.asarray(task.get(name, ()), np.float64)
        if set(task) != {name} or array.shape != (2,) or not np.isfinite(array).all():
            raise ConfigError(
                f"{name}={task.get(name)!r}: expected two finite numbers [x, y]. Give {name} alone, as a list of two"
                " floats."
            )
        rows.append(array)
    return np.stack(rows)


def _make(
    tasks: Sequence[Parameters],
    physics: str,
    threads: int,
    name: str,
    step_size: float = STEP,
    sparse: bool = False,
) -> PointSimulator:
    del threads
    if physics != "none":
        raise ConfigError(f"physics={physics!r}: expected 'none', point robots have a closed form. Leave it out.")
    given = _pairs(name, tasks)
    if name == "wind":
        return PointSimulator(given, np.tile(np.asarray(WIND_GOAL), (len(given), 1)), step_size, sparse)
    return PointSimulator(np.zeros_like(given), given, step_size, sparse)


def _family(
    name: str,
    env_id: str,
    parameter: str,
    rows: Float[np.ndarray, "task 2"],
    reward: Reward,
    dynamics: Dynamics,
    step_size: float = STEP,
    sparse: bool = False,
) -> Family:
    """A point-robot family whose tasks are `rows` of one parameter, the first four fifths for training."""
    cut = 4 * len(rows) // 5
    return Family(
        name=name,
        version=1,
        env_id=env_id,
        obs_dim=2,
        act_dim=2,
        horizon=HORIZON,
        gamma=GAMMA,
        physics="none",
        train_ids=tuple(range(cut)),
        test_ids=tuple(range(cut, len(rows))),
        task_vectors=rows,
        parameters=lambda task: {parameter: [float(x) for x in rows[task]]},
        make_simulator=partial(_make, name=parameter, step_size=step_size, sparse=sparse),
        reward=reward,
        relabel=parameter == "goal",
        obs_scale=(1.0, 1.0),
        dynamics=dynamics,
        ordering=ORDERINGS[parameter],
    )


POINT_ROBOT_WIND = _family("point-robot-wind", "merpo/PointRobotWind-v1", "wind", WINDS, wind_reward, wind_dynamics)
"""Point-Robot-Wind, version 1."""

POINT_ROBOT_WIND_UNSCALED = _family(
    "point-robot-wind-unscaled",
    "merpo/PointRobotWindUnscaled-v1",
    "wind",
    WINDS,
    wind_reward,
    unscaled_wind_dynamics,
    step_size=1.0,
)
"""Point-Robot-Wind with unscaled actions, version 1."""

POINT_ROBOT_GOAL = _family("point-robot-goal", "merpo/PointRobotGoal-v1", "goal", GOALS, goal_reward, goal_dynamics)
"""Point-Robot-Goal, version 1."""

SPARSE_POINT_ROBOT = _family(
    "sparse-point-robot",
    "merpo/SparsePointRobot-v1",
    "goal",
    GOALS,
    sparse_reward,
    goal_dynamics,
    sparse=True,
)
"""Sparse-Point-Robot, version 1."""
