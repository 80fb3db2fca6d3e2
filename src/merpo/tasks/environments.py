"""The families as Gymnasium environments; their ids are registered when `merpo.tasks` is imported.

`gymnasium.make("merpo/PointRobotGoal-v1", task=3)` is task 3 of the family; explicit parameters give any
other task, e.g. `gymnasium.make("merpo/PointRobotWind-v1", wind=[0.02, -0.01])`. The keyword arguments are
plain numbers and lists, so that data sets can store the environment's specification. The task is hidden from
the observation. The time limit of the registration truncates episodes; it does not apply to an environment built
directly by its class.

MuJoCo families take `physics="modern"` (default) or `"legacy"`, the cheetahs `observation="legacy"` too.
`reset(options={"state": [...]})` starts from a given simulator state: the position of a point robot, (qpos,
qvel) of the others.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from merpo.errors import ConfigError
from merpo.tasks.names import families, get_family

Info = dict[str, Any]


class FamilyEnv(gym.Env[np.ndarray, np.ndarray]):
    """One task of a family: `task=i`, or the parameters of any task; its simulator behind Gymnasium's interface.

    The info holds what the simulator tells of a step: the distance to the goal, or velocities. Raises ConfigError
    for a task number outside the family, or parameters that are none of its own.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        family: str,
        task: int | None = None,
        physics: str | None = None,
        observation: str = "standard",
        **parameters: Any,
    ):
        self.family = get_family(family, physics, observation)
        if (task is None) == (not parameters):
            raise ConfigError(
                f"task={task!r}, parameters={sorted(parameters)}: expected exactly one of them. Give a task number of"
                f" {family!r} or the parameters themselves."
            )
        if task is not None and not 0 <= int(task) < self.family.num_tasks:
            raise ConfigError(
                f"task={task!r}: expected a task number in [0, {self.family.num_tasks}) of {family!r}. Choose another."
            )
        given = parameters if task is None else self.family.parameters(int(task))
        self.simulator = self.family.make_simulator([given], self.family.physics, 1)
        self.task = 0 if task is None else int(task)
        self.observation_space = Box(-np.inf, np.inf, (self.family.obs_dim,), np.float32)
        self.action_space = Box(-1.0, 1.0, (self.family.act_dim,), np.float32)
        self.state = self.simulator.initial(0, self.task, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """A fresh initial state from the environment's generator, or the one in `options["state"]`."""
        super().reset(seed=seed)
        self.state = self.simulator.initial(int(self.np_random.integers(2**31)), self.task, 0)
        if options is not None and "state" in options:
            given = np.asarray(options["state"], np.float64)
            if given.shape != self.state.shape or not np.isfinite(given).all():
                raise ConfigError(
                    f"options['state'] has shape {given.shape}: expected {self.state.shape} finite numbers."
                    " Give the simulator's full state."
                )
            self.state = given
        extra = np.zeros(self.family.extra_dim)
        return self.simulator.observe(self.state), self.simulator.info(0, self.state, extra)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        """One step; `truncated` is set by the time limit of the registration."""
        # float32 before the step, as in Family.rollout, so that both see the same action to the last bit
        a = np.clip(np.asarray(action, np.float32), -1.0, 1.0)[None]
        after, reward, terminated, extra = self.simulator.step(np.zeros(1, np.int64), self.state[None], a)
        self.state = after[0]
        info = self.simulator.info(0, self.state, extra[0])
        return self.simulator.observe(self.state), float(reward[0]), bool(terminated[0]), False, info


def register() -> None:
    """Register every family's id with Gymnasium; a second call changes nothing."""
    for name in families():
        family = get_family(name)
        if family.env_id not in gym.registry:
            gym.register(
                family.env_id,
                entry_point=f"{__name__}:{FamilyEnv.__name__}",
                max_episode_steps=family.horizon,
                kwargs={"family": name},
            )
