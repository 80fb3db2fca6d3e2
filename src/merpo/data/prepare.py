"""Prepared units: what every network sees. Fitted on the training tasks once, stored with the model, used for ever.

Observations are standardised, actions mapped to [-1, 1], and rewards divided by their deviation and by the effective
horizon 1/(1 - gamma), so that values are of order one whatever the units of the reward.
"""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import numpy as np
from jaxtyping import Float

from merpo.data.types import AnyArray, SetInfo, TaskData, TaskSet, Transitions
from merpo.errors import DataError


class Preparation(eqx.Module):
    """Affine maps between the user's units and prepared units; leaves are NumPy float32 (or JAX arrays)."""

    obs_mean: Float[AnyArray, " obs"]
    obs_std: Float[AnyArray, " obs"]
    action_mid: Float[AnyArray, " act"]
    action_half: Float[AnyArray, " act"]
    reward_scale: Float[AnyArray, ""]
    """prepared reward = reward * reward_scale, reward_scale = (1 - gamma) / std(reward)."""

    @staticmethod
    def fit(tasks: TaskSet) -> Preparation:
        """Pooled statistics of the given (training) tasks."""
        if not len(tasks):
            raise DataError("tasks is empty: expected at least one training task. Check the split of your data set.")
        if not 0.0 <= tasks.info.gamma < 1.0:
            raise DataError(
                f"gamma={tasks.info.gamma}: expected a discount in [0, 1), since values are scaled by 1 - gamma. "
                "Give the data set a discount below 1, e.g. 0.99."
            )
        obs = np.concatenate([np.asarray(t.transitions.obs, np.float64) for t in tasks])
        reward = np.concatenate([np.asarray(t.transitions.reward, np.float64) for t in tasks])
        std = obs.std(axis=0)
        spread = reward.std()
        varied = spread > 1e-6 * np.abs(reward).max()  # relative: rewards in small units are no constant
        low, high = action_bounds(tasks.info)
        f32 = np.float32
        return Preparation(
            obs.mean(axis=0).astype(f32),
            np.where(std > 1e-6, std, 1.0).astype(f32),
            (0.5 * (low + high)).astype(f32),
            (0.5 * (high - low)).astype(f32),
            np.asarray((1.0 - tasks.info.gamma) / (spread if varied else 1.0), f32),
        )

    @staticmethod
    def like(obs_dim: int, act_dim: int) -> Preparation:
        """An instance of the right shapes, for loading into."""
        o, a = np.zeros(obs_dim, np.float32), np.zeros(act_dim, np.float32)
        return Preparation(o, o, a, a, np.zeros((), np.float32))

    def obs(self, obs: np.ndarray) -> np.ndarray:
        """Standardised observations, any leading axes."""
        return ((obs - np.asarray(self.obs_mean)) / np.asarray(self.obs_std)).astype(np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """User's units to [-1, 1]."""
        return ((action - np.asarray(self.action_mid)) / np.asarray(self.action_half)).astype(np.float32)

    def restore_action(self, action: np.ndarray) -> np.ndarray:
        """[-1, 1] to the user's units."""
        return np.asarray(self.action_mid) + np.asarray(self.action_half) * np.asarray(action)

    def task(self, task: TaskData) -> TaskData:
        """The same log in prepared units."""
        t = task.transitions
        ready = Transitions(
            self.obs(np.asarray(t.obs)),
            np.clip(self.action(np.asarray(t.action)), -1.0, 1.0),
            np.asarray(t.reward, np.float32) * np.asarray(self.reward_scale),
            self.obs(np.asarray(t.next_obs)),
            np.asarray(t.terminated, bool),
            np.asarray(t.truncated, bool),
        )
        return replace(task, transitions=ready)


def action_bounds(info: SetInfo) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper action bounds; [-1, 1] where the set names none."""
    low = np.asarray(info.action_low or (-1.0,) * info.act_dim, np.float64)
    high = np.asarray(info.action_high or (1.0,) * info.act_dim, np.float64)
    return low, high
