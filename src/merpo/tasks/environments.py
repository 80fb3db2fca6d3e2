"""The families as Gymnasium environments; their ids are registered when `merpo.tasks` is imported.

`gymnasium.make("merpo/PointRobotGoal-v1", task=3)` is task 3 of the family; explicit parameters give any
other task, e.g. `gymnasium.make("merpo/PointRobotWind-v1", wind=[0.02, -0.01])`. The keyword arguments are
plain numbers and lists, so that data sets can store the environment's specification. The task is hidden from
the observation. Episodes never terminate; the time limit of the registration truncates them.

`reset(options={"state": [...]})` starts from a given simulator state: 2 numbers (position) for the point
robots, 18 (qpos, qvel) for the cheetah. Gymnasium's time limit does not apply to an environment built
directly by its class.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from merpo.errors import ConfigError
from merpo.tasks.family import Family, Simulator
from merpo.tasks.half_cheetah import HALF_CHEETAH_FWD_BACK, CheetahSimulator
from merpo.tasks.point_robot import (
    GOALS,
    POINT_ROBOT_GOAL,
    POINT_ROBOT_WIND,
    WIND_GOAL,
    WINDS,
    PointSimulator,
)

Info = dict[str, Any]


def _row(family: Family, task: int | None, given: Any, name: str) -> int:
    """The simulator row to use: the numbered task, or row 0 when explicit parameters are given."""
    if (task is None) == (given is None):
        raise ConfigError(
            f"task={task!r}, {name}={given!r}: expected exactly one of them. Give a task number of"
            f" {family.name!r} or the parameters themselves."
        )
    if task is None:
        return 0
    if not 0 <= int(task) < family.num_tasks:
        raise ConfigError(
            f"task={task!r}: expected a task number in [0, {family.num_tasks}) of {family.name!r}. Choose another."
        )
    return int(task)


def _pair(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if array.shape != (2,) or not np.isfinite(array).all():
        raise ConfigError(f"{name}={value!r}: expected two finite numbers [x, y]. Give a list of two floats.")
    return array[None]


class _SimulatorEnv(gym.Env[np.ndarray, np.ndarray]):
    """One row of a batched simulator behind Gymnasium's interface; subclasses build it and name its info."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, family: Family, simulator: Simulator, row: int):
        self.observation_space = Box(-np.inf, np.inf, (family.obs_dim,), np.float32)
        self.action_space = Box(-1.0, 1.0, (family.act_dim,), np.float32)
        self.simulator, self.row = simulator, row
        self.state = simulator.initial(0, row, 0)

    def _info(self, extra: np.ndarray) -> Info:
        raise NotImplementedError

    def _extra_at_reset(self) -> np.ndarray:
        return np.zeros(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """A fresh initial state from the environment's generator, or the one in `options["state"]`."""
        super().reset(seed=seed)
        self.state = self.simulator.initial(int(self.np_random.integers(2**31)), self.row, 0)
        if options is not None and "state" in options:
            given = np.asarray(options["state"], np.float64)
            if given.shape != self.state.shape or not np.isfinite(given).all():
                raise ConfigError(
                    f"options['state'] has shape {given.shape}: expected {self.state.shape} finite numbers."
                    " Give the simulator's full state."
                )
            self.state = given
        return self.simulator.observe(self.state), self._info(self._extra_at_reset())

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        """One step; `truncated` is set by the time limit of the registration."""
        # float32 before the step, as in Family.rollout, so that both see the same action to the last bit
        a = np.clip(np.asarray(action, np.float32), -1.0, 1.0)[None]
        after, reward, terminated, extra = self.simulator.step(np.asarray([self.row]), self.state[None], a)
        self.state = after[0]
        info = self._info(extra[0])
        return self.simulator.observe(self.state), float(reward[0]), bool(terminated[0]), False, info


class PointRobotWindEnv(_SimulatorEnv):
    """Point-Robot-Wind: `task=i` or `wind=[wx, wy]`; info holds the distance to the goal."""

    def __init__(self, task: int | None = None, wind: list[float] | None = None):
        row = _row(POINT_ROBOT_WIND, task, wind, "wind")
        winds = WINDS if wind is None else _pair(wind, "wind")
        self._sim = PointSimulator(winds, np.tile(np.asarray(WIND_GOAL), (len(winds), 1)))
        super().__init__(POINT_ROBOT_WIND, self._sim, row)

    def _info(self, extra: np.ndarray) -> Info:
        del extra
        return {"distance": float(np.linalg.norm(self.state - self._sim.goal[self.row]))}


class PointRobotGoalEnv(_SimulatorEnv):
    """Point-Robot-Goal: `task=i` or `goal=[gx, gy]`; info holds the distance to the goal."""

    def __init__(self, task: int | None = None, goal: list[float] | None = None):
        row = _row(POINT_ROBOT_GOAL, task, goal, "goal")
        goals = GOALS if goal is None else _pair(goal, "goal")
        self._sim = PointSimulator(np.zeros_like(goals), goals)
        super().__init__(POINT_ROBOT_GOAL, self._sim, row)

    def _info(self, extra: np.ndarray) -> Info:
        del extra
        return {"distance": float(np.linalg.norm(self.state - self._sim.goal[self.row]))}


class HalfCheetahFwdBackEnv(_SimulatorEnv):
    """Half-Cheetah-Fwd-Back: `task=i` or `direction=-1.0 | 1.0`; info holds the step's mean velocity."""

    def __init__(self, task: int | None = None, direction: float | None = None):
        row = _row(HALF_CHEETAH_FWD_BACK, task, direction, "direction")
        if direction is not None:
            if direction not in (-1.0, 1.0):
                raise ConfigError(f"direction={direction!r}: expected -1.0 (backward) or 1.0 (forward). Give either.")
            row = int(direction > 0)
        super().__init__(HALF_CHEETAH_FWD_BACK, CheetahSimulator(), row)

    def _info(self, extra: np.ndarray) -> Info:
        return {"x_velocity": float(extra[0])}


def register() -> None:
    """Register the three ids with Gymnasium; a second call changes nothing."""
    entries = (
        (POINT_ROBOT_WIND, "PointRobotWindEnv"),
        (POINT_ROBOT_GOAL, "PointRobotGoalEnv"),
        (HALF_CHEETAH_FWD_BACK, "HalfCheetahFwdBackEnv"),
    )
    for family, name in entries:
        if family.env_id not in gym.registry:
            gym.register(family.env_id, entry_point=f"{__name__}:{name}", max_episode_steps=family.horizon)
