"""The cheetah families: run forward or backward, or at a speed, which is hidden from the observation.

**Half-Cheetah-Fwd-Back**: reward `d v - 0.05 ||a||^2`, d in {-1, +1}; two tasks, train = test.
**Half-Cheetah-Vel**: reward `-|v - v*| - 0.05 ||a||^2`, v* ~ U(0, 3), all 100 in one draw of NumPy's legacy
generator, seed 1337; tasks 0-79 train, 80-99 test.

`v = (x' - x)/dt`, dt = 0.05 s (5 frames of 0.01 s). Never terminates; truncated after 200 steps. Reset: qpos +
U(-0.1, 0.1), qvel + 0.1 N(0, 1). Observation: qpos without x, then qvel (17 numbers). The field's legacy
observation has three more, the torso's global position as it was one frame before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.errors import ConfigError
from merpo.tasks.family import Family, Parameters
from merpo.tasks.models import load_model
from merpo.tasks.physics import MujocoSimulator

FRAME_SKIP = 5
CONTROL_COST = 0.05
RESET_NOISE = 0.1
HORIZON = 200
DIRECTIONS = (-1.0, 1.0)
VELOCITY_SEED = 1337
VELOCITY_LIMIT = 3.0
NQ = NV = 9
OBS_SCALE = (0.3, 0.5, *(0.5,) * 6, 5.0, 1.5, 3.0, *(8.0,) * 6)


Gain = Callable[[Int[np.ndarray, " n"], Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]
"""`gain(task_ids, velocity)`: the reward of a step at this mean velocity, before the cost of its action."""


class CheetahSimulator(MujocoSimulator):
    """Batched cheetahs; a state is (qpos[9], qvel[9]), and with the legacy observation the torso's late position."""

    def __init__(self, name: str, gain: Gain, physics: str = "modern", threads: int = 1, observation: str = "standard"):
        super().__init__([load_model(name, "half_cheetah.xml", physics)], FRAME_SKIP, threads)
        self._gain, self._late = gain, observation == "legacy"

    def _start(self, rng: np.random.Generator) -> Float[np.ndarray, " state"]:
        qpos = self.qpos0 + rng.uniform(-RESET_NOISE, RESET_NOISE, NQ)
        state = np.concatenate([qpos, RESET_NOISE * rng.standard_normal(NV)])
        return np.concatenate([state, self._torso(state[None])[0]]) if self._late else state

    def _torso(self, state: Float[np.ndarray, "n state"]) -> Float[np.ndarray, "n 3"]:
        """The torso's global position: its place in the model, moved by the two sliding joints."""
        x, z = state[:, 0], state[:, 1]
        return self.models[0].body("torso").pos + np.stack([x, np.zeros_like(x), z], axis=1)

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """(qpos without the global x, qvel, with the legacy observation the torso's late position), float32."""
        return state[..., 1:].astype(np.float32)

    def reconstruct(
        self, obs: Float[np.ndarray, "n obs"]
    ) -> tuple[Float[np.ndarray, "n state"], Bool[np.ndarray, " n"]]:
        """(qpos, qvel) with x = 0; the torso's late position, which nothing depends on, is not taken over."""
        state, sound = super().reconstruct(obs)
        return np.concatenate([state, self._torso(state)], axis=1) if self._late else state, sound

    def physics(
        self,
        task_ids: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
    ) -> tuple[Float[np.ndarray, "n state"], Float[np.ndarray, "n force"]]:
        """Five frames under a constant torque command, clipped to [-1, 1] by the actuators."""
        path = self._frames(task_ids, state[:, : NQ + NV], action)
        after, force = path[:, -1], np.zeros((len(state), 0))
        if self._late:  # MuJoCo moves the joints last, so that its body positions are those of a frame before
            after = np.concatenate([after, self._torso(path[:, -2])], axis=1)
        return after, force

    def _judge(
        self,
        task_ids: Int[np.ndarray, " n"],
        before: Float[np.ndarray, "n state"],
        after: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
        force: Float[np.ndarray, "n force"],
    ) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, "n extra"]]:
        del force
        velocity = (after[:, 0] - before[:, 0]) / self.dt
        cost = CONTROL_COST * np.sum(np.square(action), axis=1)
        return self._gain(task_ids, velocity) - cost, np.zeros(len(after), bool), velocity[:, None]


def _numbers(name: str, tasks: Sequence[Parameters], allowed: Callable[[float], bool], expected: str) -> Any:
    """The one parameter of every task. Raises ConfigError where it is missing or not allowed."""
    for task in tasks:
        value = task.get(name)
        if set(task) != {name} or not isinstance(value, float | int) or not allowed(float(value)):
            raise ConfigError(f"{name}={value!r}: expected {expected}. Give {name} alone.")
    return np.asarray([task[name] for task in tasks], np.float64)


def _make_direction(
    tasks: Sequence[Parameters], physics: str, threads: int, observation: str = "standard"
) -> CheetahSimulator:
    directions = _numbers("direction", tasks, lambda d: d in DIRECTIONS, "-1.0 (backward) or 1.0 (forward)")
    gain = lambda task_ids, velocity: directions[task_ids] * velocity  # noqa: E731
    return CheetahSimulator("half-cheetah-fwd-back", gain, physics, threads, observation)


def _make_velocity(
    tasks: Sequence[Parameters], physics: str, threads: int, observation: str = "standard"
) -> CheetahSimulator:
    wanted = _numbers("velocity", tasks, np.isfinite, "a finite number of metres per second")
    gain = lambda task_ids, velocity: -np.abs(velocity - wanted[task_ids])  # noqa: E731
    return CheetahSimulator("half-cheetah-vel", gain, physics, threads, observation)


def reward(
    task: Float[Array, "*n 1"],
    action: Float[Array, "*n act"],
    next_obs: Float[Array, "*n obs"],
    extra: Float[Array, "*n 1"],
) -> Float[Array, "*n"]:
    """`d v - 0.05 ||a||^2`, v from the extra number: the observation holds no mean velocity over the step."""
    del next_obs
    return task[..., 0] * extra[..., 0] - CONTROL_COST * jnp.sum(action * action, axis=-1)


def velocity_reward(
    task: Float[Array, "*n 1"],
    action: Float[Array, "*n act"],
    next_obs: Float[Array, "*n obs"],
    extra: Float[Array, "*n 1"],
) -> Float[Array, "*n"]:
    """`-|v - v*| - 0.05 ||a||^2`, v from the extra number."""
    del next_obs
    return -jnp.abs(extra[..., 0] - task[..., 0]) - CONTROL_COST * jnp.sum(action * action, axis=-1)


def draw_velocities(count: int) -> Float[np.ndarray, " task"]:
    """`count` wanted velocities, U(0, 3) m/s."""
    # the legacy generator is part of the field's definition of these tasks
    return np.random.RandomState(VELOCITY_SEED).uniform(0.0, VELOCITY_LIMIT, count)


VELOCITIES = draw_velocities(100)


def with_observation(family: Family, observation: str) -> Family:
    """A cheetah family with the `standard` (17 numbers) or the `legacy` (20 numbers) observation."""
    if observation == "standard":
        return family
    make = {HALF_CHEETAH_FWD_BACK.name: _make_direction, HALF_CHEETAH_VEL.name: _make_velocity}[family.name]
    late = partial(make, observation=observation)
    return replace(family, make_simulator=late, obs_dim=family.obs_dim + 3, observation=observation)


def _direction_parameters(task: int) -> dict[str, float | list[float]]:
    return {"direction": DIRECTIONS[task]}


def _velocity_parameters(task: int) -> dict[str, float | list[float]]:
    return {"velocity": float(VELOCITIES[task])}


HALF_CHEETAH_FWD_BACK = Family(
    name="half-cheetah-fwd-back",
    version=1,
    env_id="merpo/HalfCheetahFwdBack-v1",
    obs_dim=NQ - 1 + NV,
    act_dim=6,
    horizon=HORIZON,
    gamma=0.99,
    physics="modern",
    train_ids=(0, 1),
    test_ids=(0, 1),
    task_vectors=np.asarray(DIRECTIONS, np.float32)[:, None],
    parameters=_direction_parameters,
    make_simulator=_make_direction,
    reward=reward,
    relabel=True,
    extra_dim=1,
    obs_scale=OBS_SCALE,
    reward_scale=0.1,
)
"""Half-Cheetah-Fwd-Back, version 1."""

HALF_CHEETAH_VEL = Family(
    name="half-cheetah-vel",
    version=1,
    env_id="merpo/HalfCheetahVel-v1",
    obs_dim=NQ - 1 + NV,
    act_dim=6,
    horizon=HORIZON,
    gamma=0.99,
    physics="modern",
    train_ids=tuple(range(80)),
    test_ids=tuple(range(80, 100)),
    task_vectors=VELOCITIES[:, None],
    parameters=_velocity_parameters,
    make_simulator=_make_velocity,
    reward=velocity_reward,
    relabel=True,
    extra_dim=1,
    obs_scale=OBS_SCALE,
    ordering=itemgetter("velocity"),
)
"""Half-Cheetah-Vel, version 1."""
