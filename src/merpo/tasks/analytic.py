"""Behaviour policies of the point robots: the analytic expert, degraded by one number.

`skill` in [0, 1] sets four faults at once; 1 is the expert with a little noise, 0.5 the `medium` quality:

- *bias*: the target is off by 0.6 (1 - skill) in a direction that belongs to the task and never changes, so
  that the mean of all episodes is wrong too, and cloning the log does not give the expert;
- *spread*: the target is off by a further 0.8 (1 - skill) N(0, I), drawn once per episode;
- *gain*: an episode's speed is U(skill, 1) of the expert's;
- *noise*: 0.1 + 0.4 (1 - skill) standard deviation on every action.

Sparse-Point-Robot has an eighth of bias and spread, else its `medium` would hardly ever come near a goal, and with
unscaled actions, where a random walk goes far, both are doubled: so `medium` is half-way in every family. With
unscaled actions the noise is what the expert loses: its floor there is set so that the logged expert has the
return of the field's published logs, -2.31 (the noiseless expert's is -0.01).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from merpo.tasks.family import Act, Family
from merpo.tasks.point_robot import DRAW_SEED, STEP, PointSimulator, servo

BIAS, SPREAD, NOISE, NOISE_FLOOR = 0.6, 0.8, 0.4, 0.1
SPARSE_SHARE = 0.12
"""Factor on bias and spread in Sparse-Point-Robot."""
UNSCALED_SHARE = 2.0
"""Factor on bias and spread with unscaled actions."""
UNSCALED_NOISE_FLOOR = 0.092
"""Noise of the expert with unscaled actions."""
MEDIUM_SKILL = 0.5
MIXED_SKILLS = tuple(k / 7 for k in range(8))
"""Skills of the `mixed` quality, dealt to the episodes in turn; skill 0 stands for uniform actions."""

Pair = Float[np.ndarray, "task 1 2"]


def is_analytic(family: Family) -> bool:
    """Whether the family's experts have a closed form (the point robots)."""
    return family.dynamics is not None


def _rows(family: Family, task_ids: Sequence[int]) -> tuple[PointSimulator, Pair, Pair]:
    simulator = family.simulator
    assert isinstance(simulator, PointSimulator)
    ids = list(task_ids)
    return simulator, simulator.goal[ids][:, None], simulator.wind[ids][:, None]


def greedy_act(family: Family, task_ids: Sequence[int], blind: bool = False) -> Act:
    """The deterministic expert `clip((g - s - w)/0.1)`; with `blind` it knows no wind: `clip((g - s)/0.1)`.

    With unscaled actions 1 stands for 0.1. `blind` is an anchor of the families with wind alone: without wind both
    are the same.
    """
    simulator, goal, wind = _rows(family, task_ids)
    felt = np.zeros_like(wind) if blind else wind

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        del step
        return servo(goal, obs.astype(np.float64), felt, simulator.step_size)

    return act


def bias_direction(task: int) -> Float[np.ndarray, " 2"]:
    """The unit vector in which this task's behaviour policy mistakes its target; fixed per task."""
    angle = np.random.default_rng([DRAW_SEED, task]).uniform(0.0, 2.0 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def degraded_act(family: Family, task_ids: Sequence[int], episodes: int, seed: int, skills: Sequence[float]) -> Act:
    """Stochastic behaviour: episode e has skill `skills[e % len(skills)]`; draws keyed by (seed, task, e)."""
    simulator, goal, wind = _rows(family, task_ids)
    unscaled = simulator.step_size != STEP
    share = SPARSE_SHARE if simulator.sparse else UNSCALED_SHARE if unscaled else 1.0
    floor = UNSCALED_NOISE_FLOOR if unscaled else NOISE_FLOOR
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
    target = goal + share * fault * (BIAS * bias + SPREAD * error)
    noise *= (floor + NOISE * fault)[..., None]

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        aimed = gain * servo(target, obs.astype(np.float64), wind, simulator.step_size) + noise[:, :, step]
        return np.where((skill > 0.0)[None, :, None], np.clip(aimed, -1.0, 1.0), uniform[:, :, step])

    return act
