"""Walker-2D-Params: walk forward in a body that the task changes (see `random_params`).

Reward `v + 1 - 0.001 ||a||^2` with `v = (x' - x)/dt`, dt = 0.016 s (4 frames of 0.004 s, as in the field's code;
Gymnasium's Walker2d has frames of 0.002 s). Terminates unless 0.8 < z < 2 and |pitch| < 1; truncated after 200
steps. The bonus of 1 is paid at the last step too, unlike in Gymnasium's Walker2d-v5. Reset: all of (qpos, qvel)
+ U(-0.005, 0.005). Observation: qpos without x, then qvel clipped to [-10, 10] (17 numbers): z first, pitch second.
Foot friction: 1.9 both in
modern physics; right 0.9, left 1.9 in legacy physics. Tasks 0-19 train, 20-24 test.
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

NAME = "walker-2d-params"
FRAME_SKIP = 4
TIMESTEP = 0.004
HEIGHT = (0.8, 2.0)
PITCH = (-1.0, 1.0)
SHAPES = {"body_mass": (8, 1), "body_inertia": (8, 3), "dof_damping": (9, 1), "geom_friction": (8, 3)}
"""The arrays' shapes in the field's draw (the world and the floor have rows of their own)."""
EXPONENTS = stored_exponents(NAME)


class WalkerSimulator(RandomParamsSimulator):
    """Batched walkers; a state is (qpos[9], qvel[9])."""

    def __init__(self, tasks: Sequence[Parameters], physics: str = "modern", threads: int = 1):
        model = load_model(NAME, "walker2d.xml" if physics == "legacy" else "walker2d_v5.xml", physics)
        model.opt.timestep = TIMESTEP
        super().__init__(model, tasks, FRAME_SKIP, threads)

    def healthy(self, state: Float[np.ndarray, "*n state"]) -> Bool[np.ndarray, "*n"]:
        """0.8 < z < 2 and |pitch| < 1."""
        z, pitch = state[..., 1], state[..., 2]
        return (z > HEIGHT[0]) & (z < HEIGHT[1]) & (pitch > PITCH[0]) & (pitch < PITCH[1])


def parameters(task: int) -> dict[str, float | list[float]]:
    """The task's multipliers, array by array."""
    return multipliers(EXPONENTS[task])


WALKER_2D_PARAMS = Family(
    name=NAME,
    version=1,
    env_id="merpo/Walker2DParams-v1",
    obs_dim=17,
    act_dim=6,
    horizon=HORIZON,
    gamma=0.99,
    physics="modern",
    train_ids=tuple(range(20)),
    test_ids=tuple(range(20, 25)),
    task_vectors=task_vectors(EXPONENTS),
    parameters=parameters,
    make_simulator=WalkerSimulator,
    reward=reward,
    extra_dim=1,
    obs_scale=(1.0, 0.4, *(0.6,) * 6, 2.0, 1.5, 3.0, *(5.0,) * 6),
    reward_scale=0.1,
    ordering=mass_factor,
    healthy=(Bounds(0, *HEIGHT), Bounds(1, *PITCH)),
)
"""The family, version 1."""
