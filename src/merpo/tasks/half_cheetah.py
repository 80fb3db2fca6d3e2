"""Half-Cheetah-Fwd-Back: run forward or backward, the direction hidden from the observation.

Reward `d v - 0.05 ||a||^2` with `v = (x' - x)/dt`, dt = 0.05 s (5 frames of 0.01 s), d in {-1, +1}; two
tasks, train = test. Never terminates; truncated after 200 steps. Reset: qpos + U(-0.1, 0.1), qvel + 0.1 N(0,
1). Observation: qpos without x, then qvel (17 numbers). The physics are those of Gymnasium's
`half_cheetah.xml` on the installed MuJoCo.

Every step starts the contact solver cold, so that a step is a pure function of (qpos, qvel, action);
Gymnasium's HalfCheetah carries the solver's last solution along, which changes a step by less than the
solver's tolerance.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.errors import ConfigError
from merpo.tasks.family import Family

DT = 0.05
FRAME_SKIP = 5
CONTROL_COST = 0.05
RESET_NOISE = 0.1
HORIZON = 200
DIRECTIONS = (-1.0, 1.0)
NQ = NV = 9


class CheetahSimulator:
    """Batched cheetah physics by `mujoco.rollout`: one model, one data object per thread, float64 states.

    A state is (qpos[9], qvel[9]). Results do not depend on `threads`.
    """

    def __init__(self, threads: int = 1):
        try:
            import gymnasium
            import mujoco
            from mujoco import rollout
        except ImportError as error:
            raise ConfigError(
                f"family='half-cheetah-fwd-back': expected the packages gymnasium and mujoco ({error}). Install them"
                " with: pip install 'merpo[tasks]'."
            ) from error

        xml = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
        self.model = mujoco.MjModel.from_xml_path(str(xml))
        self._data = [mujoco.MjData(self.model) for _ in range(max(threads, 1))]
        self._rollout = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._qpos0 = np.array(self._data[0].qpos)

    def initial(self, seed: int, task: int, episode: int) -> Float[np.ndarray, " state"]:
        """qpos = nominal + U(-0.1, 0.1), qvel = 0.1 N(0, 1), the generator keyed by the three numbers."""
        rng = np.random.default_rng([seed, task, episode])
        qpos = self._qpos0 + rng.uniform(-RESET_NOISE, RESET_NOISE, NQ)
        return np.concatenate([qpos, RESET_NOISE * rng.standard_normal(NV)])

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """(qpos without the global x, qvel), float32."""
        return state[..., 1:].astype(np.float32)

    def physics(
        self, state: Float[np.ndarray, "n state"], action: Float[np.ndarray, "n act"]
    ) -> Float[np.ndarray, "n state"]:
        """Five frames under a constant torque command, clipped to [-1, 1] by the actuators."""
        n = len(state)
        full = np.concatenate([np.zeros((n, 1)), state], axis=1)  # the leading number is the time
        control = np.repeat(np.asarray(action, np.float64)[:, None], FRAME_SKIP, axis=1)
        path, _ = self._rollout.rollout(self.model, self._data, full, control)
        return path[:, -1, 1:]

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
        """One environment step of every row; the extra number is the mean velocity v over the step."""
        after = self.physics(state, action)
        velocity = (after[:, 0] - state[:, 0]) / DT
        cost = CONTROL_COST * np.sum(np.square(np.asarray(action, np.float64)), axis=1)
        reward = np.asarray(DIRECTIONS)[task_ids] * velocity - cost
        return after, reward, np.zeros(len(state), bool), velocity[:, None]


def _make() -> CheetahSimulator:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return CheetahSimulator(threads=min(allowed, 8))


def reward(
    task: Float[Array, "*n 1"],
    action: Float[Array, "*n act"],
    next_obs: Float[Array, "*n obs"],
    extra: Float[Array, "*n 1"],
) -> Float[Array, "*n"]:
    """`d v - 0.05 ||a||^2`, v from the extra number: the observation holds no mean velocity over the step."""
    del next_obs
    return task[..., 0] * extra[..., 0] - CONTROL_COST * jnp.sum(action * action, axis=-1)


def parameters(task: int) -> dict[str, float | list[float]]:
    """`{"direction": -1.0}` (task 0, backward) or `{"direction": 1.0}` (task 1, forward)."""
    return {"direction": DIRECTIONS[task]}


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
    parameters=parameters,
    make_simulator=_make,
    reward=reward,
    relabel=True,
    extra_dim=1,
    obs_scale=(0.3, 0.5, *(0.5,) * 6, 5.0, 1.5, 3.0, *(8.0,) * 6),
    reward_scale=0.1,
)
"""The family, version 1."""
