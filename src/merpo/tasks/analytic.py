"""Behaviour policies of the point robots: the analytic expert, degraded by one number.

`skill` in [0, 1] sets four faults at once; 1 is the expert with a little noise, 0.5 the `medium` quality:

- *bias*: the target is off by 0.6 (1 - skill) in a direction that belongs to the task and never changes, so
  that the mean of all episodes is wrong too, and cloning the log does not give the expert;
- *spread*: the target is off by a further 0.8 (1 - skill) N(0, I), drawn once per episode;
- *gain*: an episode's speed is U(skill, 1) of the expert's;
- *noise*: 0.1 + 0.4 (1 - skill) standard deviation on every action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from merpo.tasks.family import Act, Family
from merpo.tasks.point_robot import DRAW_SEED, PointSimulator, servo

BIAS, SPREAD, NOISE, NOISE_FLOOR = 0.6, 0.8, 0.4, 0.1
MEDIUM_SKILL = 0.5
MIXED_SKILLS = tuple(k / 7 for k in range(8))
"""Skills of the `mixed` quality, dealt to the episodes in turn; skill 0 stands for uniform actions."""

Pair = Float[np.ndarray, "task 1 2"]


def is_analytic(family: Family) -> bool:
    """Whether the family's experts have a closed form (the point robots)."""
    return family.dynamics is not None


def _rows(family: Family, task_ids: Sequence[int]) -> tuple[Pair, Pair]:
    simulator = family.simulator
    assert isinstance(simulator, PointSimulator)
    ids = list(task_ids)
    return simulator.goal[ids][:, None], simulator.wind[ids][:, None]


def greedy_act(family: Family, task_ids: Sequence[int], blind: bool = False) -> Act:
    """The deterministic expert `clip((g - s - w)/0.1)`; with `blind` it knows no wind: `clip((g - s)/0.1)`.

    `blind` is an anchor of Point-Robot-Wind alone: without wind both are the same.
    """
    goal, wind = _rows(family, task_ids)
    felt = np.zeros_like(wind) if blind else wind

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        del step
        return servo(goal, obs.astype(np.float64), felt)

    return act


def bias_direction(task: int) -> Float[np.ndarray, " 2"]:
    """The unit vector in which this task's behaviour policy mistakes its target; fixed per task."""
    angle = np.random.default_rng([DRAW_SEED, task]).uniform(0.0, 2.0 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def degraded_act(family: Family, task_ids: Sequence[int], episodes: int, seed: int, skills: Sequence[float]) -> Act:
    """Stochastic behaviour: episode e has skill `skills[e % len(skills)]`; draws keyed by (seed, task, e)."""
    goal, wind = _rows(family, task_ids)
    skill = np.asarray([skills[e % len(skills)] for e in range(episodes)])
    shape = (len(task_ids), episodes)
    error, gain = np.zeros((*shape, 2)), np.zeros((*shape, 1))
    noise = np.zeros((*shape, family.horizon, 2))
    uniform = np.zeros_like(noise)
    for i, task in enumerate(task_ids):
        for e in range(episodes):
            rng = np.random.default_rng([seed, task, e])
            error[i, e] = rng.standard_normal(2)
            gain[i, e] = rng.uniform(skill[e], 1.0)
            noise[i, e] = rng.standard_normal(noise.shape[2:])
            uniform[i, e] = rng.uniform(-1.0, 1.0, noise.shape[2:])
    fault = (1.0 - skill)[None, :, None]
    bias = np.stack([bias_direction(int(t)) for t in task_ids])[:, None]
    target = goal + fault * (BIAS * bias + SPREAD * error)
    noise *= (NOISE_FLOOR + NOISE * fault)[..., None]

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        aimed = gain * servo(target, obs.astype(np.float64), wind) + noise[:, :, step]
        return np.where((skill > 0.0)[None, :, None], np.clip(aimed, -1.0, 1.0), uniform[:, :, step])

    return act
