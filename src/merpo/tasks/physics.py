"""Batched MuJoCo physics: what the simulators of all MuJoCo families share.

A state is (qpos, qvel) in float64. Every step starts the contact solver cold, so that a step is a pure function
of (state, action, model); Gymnasium's environments carry the solver's last solution along, which changes a step
by less than the solver's tolerance. Results do not depend on the number of threads or on the batch.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


class MujocoSimulator(abc.ABC):
    """Batched physics by `mujoco.rollout`, one model for all tasks or one per task, one data object per thread.

    Subclasses say how an episode starts, what is observed, and how a step is judged.
    """

    extra_names: tuple[str, ...] = ("x_velocity",)
    """Names of the extra numbers of a step."""
    hidden: int = 1
    """How many leading numbers of the state (the global position) are not observed."""
    velocity_limit: float = np.inf
    """Observed velocities are clipped to it."""

    def __init__(self, models: Sequence[Any], frame_skip: int, threads: int = 1):
        import mujoco
        from mujoco import rollout

        self.models = list(models)
        self.frame_skip = frame_skip
        self.dt = frame_skip * float(self.models[0].opt.timestep)
        """Seconds per environment step."""
        self.nq, self.nv = int(self.models[0].nq), int(self.models[0].nv)
        self._data = [mujoco.MjData(self.models[0]) for _ in range(max(threads, 1))]
        self._rollout = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.qpos0 = np.array(self._data[0].qpos)

    @abc.abstractmethod
    def _start(self, rng: np.random.Generator) -> Float[np.ndarray, " state"]:
        """An initial state."""

    @abc.abstractmethod
    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """The observation, float32."""

    @abc.abstractmethod
    def _judge(
        self,
        task_ids: Int[np.ndarray, " n"],
        before: Float[np.ndarray, "n state"],
        after: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
        force: Float[np.ndarray, "n force"],
    ) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, "n extra"]]:
        """Reward, terminated, and extra numbers that the reward needs beside the observation."""

    def initial(self, seed: int, task: int, episode: int) -> Float[np.ndarray, " state"]:
        """An initial state; the generator is keyed by the three numbers alone."""
        return self._start(np.random.default_rng([seed, task, episode]))

    def info(
        self, task: int, state: Float[np.ndarray, " state"], extra: Float[np.ndarray, " extra"]
    ) -> dict[str, float]:
        """The extra numbers by name."""
        del task, state
        return {name: float(value) for name, value in zip(self.extra_names, extra, strict=True)}

    def reconstruct(
        self, obs: Float[np.ndarray, "n obs"]
    ) -> tuple[Float[np.ndarray, "n state"], Bool[np.ndarray, " n"]]:
        """(qpos, qvel) with the global position at 0; rows with a clipped velocity are not true to their state."""
        seen = obs[:, : self.nq + self.nv - self.hidden].astype(np.float64)
        sound = np.isfinite(seen).all(axis=1) & np.all(np.abs(seen[:, -self.nv :]) < self.velocity_limit, axis=1)
        return np.concatenate([np.zeros((len(seen), self.hidden)), seen], axis=1), sound

    @property
    def velocity_columns(self) -> slice:
        """The observed qvel."""
        return slice(self.nq - self.hidden, self.nq - self.hidden + self.nv)

    def physics(
        self,
        task_ids: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
    ) -> tuple[Float[np.ndarray, "n state"], Float[np.ndarray, "n force"]]:
        """`frame_skip` frames under a constant command, clipped to [-1, 1] by the actuators.

        Also returns external forces on the bodies for simulators that ask for them, else no columns.
        """
        return self._frames(task_ids, state, action)[:, -1], np.zeros((len(state), 0))

    def _frames(
        self,
        task_ids: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
    ) -> Float[np.ndarray, "n frame state"]:
        """The states after every frame."""
        full = np.concatenate([np.zeros((len(state), 1)), state], axis=1)  # the leading number is the time
        control = np.repeat(np.asarray(action, np.float64)[:, None], self.frame_skip, axis=1)
        model = self.models[0] if len(self.models) == 1 else [self.models[i] for i in task_ids]
        path, _ = self._rollout.rollout(model, self._data, full, control)
        return path[..., 1:]

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
        """One environment step of every row: next state, reward, terminated, extra numbers."""
        after, force = self.physics(task_ids, state, action)
        return after, *self._judge(task_ids, state, after, np.asarray(action, np.float64), force)


class ContactSimulator(MujocoSimulator):
    """Physics that also report `cfrc_ext`, the external forces on every body (6 numbers each) at the last frame.

    `mujoco.rollout` does not return them, so rows are stepped one by one, the threads sharing them. One model
    for all tasks.
    """

    def physics(
        self,
        task_ids: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
    ) -> tuple[Float[np.ndarray, "n state"], Float[np.ndarray, "n force"]]:
        """`frame_skip` frames under a constant command; next states and flattened `cfrc_ext`."""
        import mujoco

        del task_ids
        model, control = self.models[0], np.asarray(action, np.float64)
        after, force = np.empty_like(state), np.empty((len(state), 6 * model.nbody))

        def run(data: Any, rows: Int[np.ndarray, " part"]) -> None:
            for i in rows:
                mujoco.mj_resetData(model, data)  # the solver starts cold
                data.qpos[:], data.qvel[:], data.ctrl[:] = state[i, : self.nq], state[i, self.nq :], control[i]
                mujoco.mj_step(model, data, self.frame_skip)
                mujoco.mj_rnePostConstraint(model, data)  # without it cfrc_ext stays zero
                after[i, : self.nq], after[i, self.nq :] = data.qpos, data.qvel
                force[i] = data.cfrc_ext.ravel()

        parts = np.array_split(np.arange(len(state)), min(len(self._data), len(state)))
        if len(parts) == 1:
            run(self._data[0], parts[0])
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(run, self._data, parts))
        return after, force
