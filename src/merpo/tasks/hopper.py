"""Hopper-Params: hop forward on a leg that the task changes (see `random_params`).

Reward `v + 1 - 0.001 ||a||^2` with `v = (x' - x)/dt`, dt = 0.008 s (4 frames of 0.002 s, as Gymnasium's Hopper).
Terminates unless the state is finite, all of it but x and z is within (-100, 100), z > 0.7 and |angle| < 0.2;
truncated after 200 steps. The bonus of 1 is paid at the last step too, unlike in Gymnasium's Hopper-v5. Reset:
all of (qpos, qvel) + U(-0.005, 0.005). Observation: qpos without x, then qvel clipped to [-10, 10] (11 numbers): z
first, the angle second. Tasks 0-19 train, 20-24 test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from merpo.data.types import Bounds
from merpo.tasks.family import Family, Parameters
from merpo.tasks.models import load_model
from merpo.tasks.random_params import (
    HORIZON,
    RandomParamsSimulator,
    mass_factor,
    multipliers,
    reward,
    stored_exponents,
    task_vectors,
)

NAME = "hopper-params"
FRAME_SKIP = 4
HEIGHT = 0.7
ANGLE = 0.2
RANGE = 100.0
CEILING = 1e6
"""In place of no upper bound on z: JSON has no infinity."""
SHAPES = {"body_mass": (5, 1), "body_inertia": (5, 3), "dof_damping": (6, 1), "geom_friction": (5, 3)}
"""The arrays' shapes in the field's draw (the world and the floor have rows of their own)."""
EXPONENTS = stored_exponents(NAME)


class HopperSimulator(RandomParamsSimulator):
    """Batched hoppers; a state is (qpos[6], qvel[6])."""

    def __init__(self, tasks: Sequence[Parameters], physics: str = "modern", threads: int = 1):
        super().__init__(load_model(NAME, "hopper.xml", physics), tasks, FRAME_SKIP, threads)

    def healthy(self, state: Float[np.ndarray, "*n state"]) -> Bool[np.ndarray, "*n"]:
        """Finite, |s[2:]| < 100, z > 0.7, |angle| < 0.2."""
        bounded = np.isfinite(state).all(axis=-1) & (np.abs(state[..., 2:]) < RANGE).all(axis=-1)
        return bounded & (state[..., 1] > HEIGHT) & (np.abs(state[..., 2]) < ANGLE)


def parameters(task: int) -> dict[str, float | list[float]]:
    """The task's multipliers, array by array."""
    return multipliers(EXPONENTS[task])


HOPPER_PARAMS = Family(
    name=NAME,
    version=1,
    env_id="merpo/HopperParams-v1",
    obs_dim=11,
    act_dim=3,
    horizon=HORIZON,
    gamma=0.99,
    physics="modern",
    train_ids=tuple(range(20)),
    test_ids=tuple(range(20, 25)),
    task_vectors=task_vectors(EXPONENTS),
    parameters=parameters,
    make_simulator=HopperSimulator,
    reward=reward,
    extra_dim=1,
    obs_scale=(1.0, 0.1, *(0.5,) * 3, 1.5, 1.0, 1.0, *(4.0,) * 3),
    reward_scale=0.1,
    ordering=mass_factor,
    healthy=(Bounds(0, HEIGHT, CEILING), Bounds(1, -ANGLE, ANGLE)),
)
"""The family, version 1."""
