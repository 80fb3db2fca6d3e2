"""Feature maps of (observation, action) for off-policy evaluation: exact for finite MDPs, smooth for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from merpo.data import TaskData
from merpo.errors import ConfigError

Rows = Float[np.ndarray, "row k"]


@runtime_checkable
class Features(Protocol):
    """phi(s, a): observations [row, obs] and actions [row, act] to features [row, k], float64."""

    def __call__(self, obs: Float[np.ndarray, "row obs"], action: Float[np.ndarray, "row act"]) -> Rows:
        """The features of every row."""
        ...


@dataclass(frozen=True)
class OneHot:
    """One indicator per (state, action) of a finite MDP with one-hot observations and actions.

    Linear in the action: an action given as the probabilities pi(.|s) has the expected features under pi.
    """

    def __call__(self, obs: Float[np.ndarray, "row obs"], action: Float[np.ndarray, "row act"]) -> Rows:
        """obs (x) action, flat."""
        return np.asarray((obs[:, :, None] * action[:, None, :]).reshape(len(obs), -1), np.float64)


@dataclass(frozen=True)
class Smooth:
    """Polynomials of (s, a) and random Fourier features of the predicted next state; fitted by `Smooth.fit`.

    An action value is a reward plus a value of the next state. Where the mean next state is close to linear in
    (s, a), functions of the predicted next state reach it with few features (Rahimi & Recht 2007).
    """

    mean: Float[np.ndarray, " z"]
    std: Float[np.ndarray, " z"]
    """Of (s, a)."""
    ahead: Float[np.ndarray, "z_plus_1 obs"]
    """Linear prediction of the next observation, standardised, from standardised (s, a) and 1."""
    frequency: Float[np.ndarray, "obs wave"]
    phase: Float[np.ndarray, " wave"]

    @staticmethod
    def fit(task: TaskData, waves: int = 60, width: float = 1.0, seed: int = 0) -> Smooth:
        """Scales and the linear prediction from a log; `width` is the length scale in deviations of the state."""
        if waves < 1 or width <= 0.0:
            raise ConfigError(f"waves={waves}, width={width}: expected at least one wave and a width above 0.")
        t = task.transitions
        z = np.concatenate([t.obs, t.action], axis=1).astype(np.float64)
        mean, std = z.mean(0), np.maximum(z.std(0), 1e-6)
        target = np.asarray(t.next_obs, np.float64)
        target = (target - target.mean(0)) / np.maximum(target.std(0), 1e-6)
        x = np.concatenate([(z - mean) / std, np.ones((len(z), 1))], axis=1)
        ahead = np.linalg.solve(x.T @ x + 1e-6 * len(x) * np.eye(x.shape[1]), x.T @ target)
        rng = np.random.default_rng(seed)
        frequency = rng.standard_normal((target.shape[1], waves)) / width
        return Smooth(mean, std, ahead, frequency, rng.uniform(0.0, 2.0 * np.pi, waves))

    def __call__(self, obs: Float[np.ndarray, "row obs"], action: Float[np.ndarray, "row act"]) -> Rows:
        """[1, z, squares of z, cos(frequency . predicted next state + phase)], z = standardised (s, a)."""
        z = (np.concatenate([obs, action], axis=1).astype(np.float64) - self.mean) / self.std
        one = np.ones((len(z), 1))
        ahead = np.concatenate([z, one], axis=1) @ self.ahead
        waves = np.cos(ahead @ self.frequency + self.phase) * np.sqrt(2.0 / len(self.phase))
        return np.concatenate([one, z, z * z, waves], axis=1)
