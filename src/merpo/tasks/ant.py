"""The ant families: run in a direction or to a place, which is hidden from the observation.

**Ant-Fwd-Back**: theta in {0, pi}; two tasks, train = test. **Ant-Dir**: theta ~ U(0, 2 pi), all 50 in one draw of
NumPy's legacy generator, seed 1337; tasks 0-39 train, 40-49 test. Both: reward `v_theta - 0.5 ||a||^2 - c + 1`,
where v_theta is the velocity in the direction theta; terminates when the height is outside [0.2, 1.0].
Observation: qpos without the global x and y, then qvel (27 numbers): the height first.

**Ant-Goal**: g in the disc of radius 3, angles U(0, 2 pi), then radii 3 sqrt(U(0, 1)), same generator and split;
reward `-||xy' - g||_1 - 0.1 ||a||^2 - c`; never terminates. Observation: qpos and qvel (29 numbers), since the
place must be seen to be gone to.

The contact cost is `c = 0.0005 sum(clip(cfrc_ext, -1, 1)^2)` over the external forces on all bodies.
`v = (xy' - xy)/dt` with dt = 0.05 s (5 frames of 0.01 s). Truncated after 200 steps. Reset: qpos + U(-0.1, 0.1), qvel +
0.1 N(0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.data.types import Bounds
from merpo.errors import ConfigError
from merpo.tasks.family import Family, Parameters
from merpo.tasks.models import load_model
from merpo.tasks.physics import ContactSimulator

FRAME_SKIP = 5
CONTROL_COST = 0.5
GOAL_CONTROL_COST = 0.1
CONTACT_COST = 5e-4
ALIVE_BONUS = 1.0
RESET_NOISE = 0.1
HORIZON = 200
HEIGHT = (0.2, 1.0)
NQ, NV = 15, 14
DRAW_SEED = 1337
GOAL_RADIUS = 3.0
OBS_SCALE = (0.5, *(0.7,) * 4, *(0.6,) * 8, 2.0, 2.0, 1.5, *(3.0,) * 3, *(6.0,) * 8)


class AntSimulator(ContactSimulator):
    """Batched ants; a state is (qpos[15], qvel[14])."""

    def __init__(self, name: str, physics: str = "modern", threads: int = 1):
        super().__init__([load_model(name, "ant.xml", physics)], FRAME_SKIP, threads)

    def _start(self, rng: np.random.Generator) -> Float[np.ndarray, " state"]:
        qpos = self.qpos0 + rng.uniform(-RESET_NOISE, RESET_NOISE, NQ)
        return np.concatenate([qpos, RESET_NOISE * rng.standard_normal(NV)])

    @staticmethod
    def contact_cost(force: Float[np.ndarray, "n force"]) -> Float[np.ndarray, " n"]:
        """`0.0005 sum(clip(cfrc_ext, -1, 1)^2)`."""
        return CONTACT_COST * np.sum(np.square(np.clip(force, -1.0, 1.0)), axis=1)


class AntDirectionSimulator(AntSimulator):
    """Ants that run in a direction; extra numbers: the velocities along x and y, and the contact cost."""

    extra_names = ("x_velocity", "y_velocity", "contact_cost")
    hidden = 2

    def __init__(self, tasks: Sequence[Parameters], physics: str = "modern", threads: int = 1):
        super().__init__("ant-fwd-back", physics, threads)
        for task in tasks:
            angle = task.get("angle")
            if set(task) != {"angle"} or not isinstance(angle, float | int) or not np.isfinite(angle):
                raise ConfigError(f"angle={angle!r}: expected a finite number of radians. Give angle alone.")
        self.heading = headings(np.asarray([task["angle"] for task in tasks], np.float64))

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """(qpos without the global x and y, qvel), float32."""
        return state[..., 2:].astype(np.float32)

    def _judge(
        self,
        task_ids: Int[np.ndarray, " n"],
        before: Float[np.ndarray, "n state"],
        after: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
        force: Float[np.ndarray, "n force"],
    ) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, "n extra"]]:
        velocity = (after[:, :2] - before[:, :2]) / self.dt
        contact = self.contact_cost(force)
        control = CONTROL_COST * np.sum(np.square(action), axis=1)
        gain = np.sum(self.heading[task_ids] * velocity, axis=1) - control - contact + ALIVE_BONUS
        alive = np.isfinite(after).all(axis=1) & (after[:, 2] >= HEIGHT[0]) & (after[:, 2] <= HEIGHT[1])
        return gain, ~alive, np.concatenate([velocity, contact[:, None]], axis=1)


class AntGoalSimulator(AntSimulator):
    """Ants that go to a place; the extra number is the contact cost."""

    extra_names = ("contact_cost",)
    hidden = 0

    def __init__(self, tasks: Sequence[Parameters], physics: str = "modern", threads: int = 1):
        super().__init__("ant-goal", physics, threads)
        for task in tasks:
            goal = np.asarray(task.get("goal", ()), np.float64)
            if set(task) != {"goal"} or goal.shape != (2,) or not np.isfinite(goal).all():
                raise ConfigError(f"goal={task.get('goal')!r}: expected two finite numbers [x, y]. Give goal alone.")
        self.goal = np.asarray([task["goal"] for task in tasks], np.float64)

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """(qpos, qvel), float32."""
        return state.astype(np.float32)

    def _judge(
        self,
        task_ids: Int[np.ndarray, " n"],
        before: Float[np.ndarray, "n state"],
        after: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
        force: Float[np.ndarray, "n force"],
    ) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, "n extra"]]:
        del before
        contact = self.contact_cost(force)
        away = np.sum(np.abs(after[:, :2] - self.goal[task_ids]), axis=1)
        control = GOAL_CONTROL_COST * np.sum(np.square(action), axis=1)
        return -away - control - contact, np.zeros(len(after), bool), contact[:, None]


def reward(
    heading: Float[Array, "*n 2"],
    action: Float[Array, "*n act"],
    next_obs: Float[Array, "*n obs"],
    extra: Float[Array, "*n 3"],
) -> Float[Array, "*n"]:
    """`v_theta - 0.5 ||a||^2 - c + 1`; velocities and contact cost from the extra numbers."""
    del next_obs
    along = jnp.sum(heading * extra[..., :2], axis=-1)
    return along - CONTROL_COST * jnp.sum(action * action, axis=-1) - extra[..., 2] + ALIVE_BONUS


def goal_reward(
    goal: Float[Array, "*n 2"],
    action: Float[Array, "*n act"],
    next_obs: Float[Array, "*n obs"],
    extra: Float[Array, "*n 1"],
) -> Float[Array, "*n"]:
    """`-||xy' - g||_1 - 0.1 ||a||^2 - c`; the contact cost from the extra number."""
    away = jnp.sum(jnp.abs(next_obs[..., :2] - goal), axis=-1)
    return -away - GOAL_CONTROL_COST * jnp.sum(action * action, axis=-1) - extra[..., 0]


def headings(angles: Float[np.ndarray, " task"]) -> Float[np.ndarray, "task 2"]:
    """Unit vectors (cos, sin): what a privileged policy sees of a direction."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def draw_angles(count: int) -> Float[np.ndarray, " task"]:
    """`count` directions, U(0, 2 pi)."""
    # the legacy generator is part of the field's definition of these tasks
    return np.random.RandomState(DRAW_SEED).uniform(0.0, 2.0 * np.pi, count)


def draw_goals(count: int) -> Float[np.ndarray, "task 2"]:
    """`count` places in the disc of radius 3: first all angles, then all radii."""
    rng = np.random.RandomState(DRAW_SEED)
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    radius = GOAL_RADIUS * np.sqrt(rng.uniform(0.0, 1.0, count))
    return radius[:, None] * headings(angle)


def _directions(
    name: str, env_id: str, angles: Float[np.ndarray, " task"], train: tuple[int, ...], test: tuple[int, ...]
) -> Family:
    return Family(
        name=name,
        version=1,
        env_id=env_id,
        obs_dim=NQ - 2 + NV,
        act_dim=8,
        horizon=HORIZON,
        gamma=0.99,
        physics="modern",
        train_ids=train,
        test_ids=test,
        task_vectors=headings(angles),
        parameters=lambda task: {"angle": float(angles[task])},
        make_simulator=AntDirectionSimulator,
        reward=reward,
        relabel=True,
        extra_dim=3,
        obs_scale=OBS_SCALE,
        reward_scale=0.1,
        healthy=(Bounds(0, *HEIGHT),),
    )


ANT_FWD_BACK = _directions("ant-fwd-back", "merpo/AntFwdBack-v1", np.asarray([0.0, np.pi]), (0, 1), (0, 1))
"""Ant-Fwd-Back, version 1."""

ANT_DIR = _directions("ant-dir", "merpo/AntDir-v1", draw_angles(50), tuple(range(40)), tuple(range(40, 50)))
"""Ant-Dir, version 1."""

GOALS = draw_goals(50)

ANT_GOAL = Family(
    name="ant-goal",
    version=1,
    env_id="merpo/AntGoal-v1",
    obs_dim=NQ + NV,
    act_dim=8,
    horizon=HORIZON,
    gamma=0.99,
    physics="modern",
    train_ids=tuple(range(40)),
    test_ids=tuple(range(40, 50)),
    task_vectors=GOALS,
    parameters=lambda task: {"goal": [float(x) for x in GOALS[task]]},
    make_simulator=AntGoalSimulator,
    reward=goal_reward,
    relabel=True,
    extra_dim=1,
    obs_scale=(2.0, 2.0, *OBS_SCALE),
    reward_scale=0.1,
)
"""Ant-Goal, version 1."""
