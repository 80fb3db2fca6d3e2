"""Walker-2D-Params and Hopper-Params: the task is the robot's body, hidden from the observation.

A task multiplies arrays of the nominal model element by element: body masses and inertias and the geoms'
friction by 1.5^u, joint damping by 1.3^u, u ~ U(-3, 3), drawn in that order, task after task, by NumPy's legacy
generator, seed 1337. The exponents u are stored beside this file, so that no change of a generator can change
the tasks. The multipliers act on the compiled model alone: constants that MuJoCo derives from masses when it
compiles a model (`mj_setConst`) stay those of the nominal model, as in the field's code.
"""

from __future__ import annotations

import abc
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.errors import ConfigError
from merpo.tasks.family import Parameters
from merpo.tasks.physics import MujocoSimulator

DRAW_SEED = 1337
LIMIT = 3.0
VECTOR_UNIT = 10.0
BASES = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}
"""Arrays that are multiplied, in the order of their draws, by `base ** u`."""
VELOCITY_LIMIT = 10.0
ALIVE_BONUS = 1.0
CONTROL_COST = 1e-3
RESET_NOISE = 0.005
HORIZON = 200

Exponents = Mapping[str, Sequence[float]]
"""Exponents u by array, each flattened row by row."""


def draw_exponents(shapes: Mapping[str, tuple[int, ...]], count: int) -> list[dict[str, list[float]]]:
    """The exponents u of `count` tasks; a longer draw begins with a shorter one."""
    # the legacy generator is part of the field's definition of these tasks
    rng = np.random.RandomState(DRAW_SEED)
    return [
        {name: rng.uniform(-LIMIT, LIMIT, shape).ravel().tolist() for name, shape in shapes.items()}
        for _ in range(count)
    ]


def stored_exponents(name: str) -> list[dict[str, list[float]]]:
    """The exponents of a family's tasks, as stored."""
    path = Path(__file__).parent / "parameters" / f"{name}-v1.json"
    return json.loads(path.read_text(encoding="utf-8"))["exponents"]


def multipliers(exponents: Exponents) -> dict[str, float | list[float]]:
    """`base ** u` by array, as plain lists: the parameters of a task."""
    return {name: [BASES[name] ** u for u in exponents[name]] for name in BASES}


def mass_factor(parameters: Parameters) -> float:
    """Geometric mean of the multipliers of the bodies' masses, the world's left out: heavy robots above 1."""
    return float(np.exp(np.mean(np.log(parameters["body_mass"])[1:])))


def task_vectors(exponents: Sequence[Exponents]) -> Float[np.ndarray, "task k"]:
    """What a privileged policy sees of every task: all exponents divided by ten, in [-0.3, 0.3].

    They are many, and small beside the observation, so that the agent first learns what all bodies have in common.
    """
    return np.asarray([np.concatenate([row[name] for name in BASES]) for row in exponents]) / VECTOR_UNIT


def altered(model: Any, factors: Parameters) -> Any:
    """A copy of the model with its arrays multiplied.

    Raises ConfigError if an array is missing or foreign, or has another size or values that are not positive.
    """
    if set(factors) != set(BASES):
        raise ConfigError(f"parameters={sorted(factors)}: expected exactly {', '.join(BASES)}. Give all of them.")
    changed = copy.copy(model)
    for name in BASES:
        array, factor = getattr(changed, name), np.asarray(factors[name], np.float64)
        if factor.shape != (array.size,) or not (np.isfinite(factor).all() and (factor > 0).all()):
            raise ConfigError(
                f"{name}={factors[name]!r}: expected {array.size} positive multipliers, the array's rows one after"
                " another. Take them from another task's parameters."
            )
        array[:] = array * factor.reshape(array.shape)
    return changed


class RandomParamsSimulator(MujocoSimulator):
    """One model per task; the reward `v + 1 - 0.001 ||a||^2`, v the mean forward velocity of the step."""

    velocity_limit = VELOCITY_LIMIT

    def __init__(self, nominal: Any, tasks: Sequence[Parameters], frame_skip: int, threads: int = 1):
        super().__init__([altered(nominal, task) for task in tasks], frame_skip, threads)

    @abc.abstractmethod
    def healthy(self, state: Float[np.ndarray, "*n state"]) -> Bool[np.ndarray, "*n"]:
        """Whether the episode goes on in these states."""

    def _start(self, rng: np.random.Generator) -> Float[np.ndarray, " state"]:
        start = np.concatenate([self.qpos0, np.zeros(self.nv)])
        return start + rng.uniform(-RESET_NOISE, RESET_NOISE, start.shape)

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """(qpos without the global x, qvel clipped to [-10, 10]), float32."""
        velocity = np.clip(state[..., self.nq :], -VELOCITY_LIMIT, VELOCITY_LIMIT)
        return np.concatenate([state[..., 1 : self.nq], velocity], axis=-1).astype(np.float32)

    def _judge(
        self,
        task_ids: Int[np.ndarray, " n"],
        before: Float[np.ndarray, "n state"],
        after: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
        force: Float[np.ndarray, "n force"],
    ) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, "n extra"]]:
        del task_ids, force
        velocity = (after[:, 0] - before[:, 0]) / self.dt
        gain = velocity + ALIVE_BONUS - CONTROL_COST * np.sum(np.square(action), axis=1)
        return gain, ~self.healthy(after), velocity[:, None]


def reward(
    task: Float[Array, "*n k"],
    action: Float[Array, "*n act"],
    next_obs: Float[Array, "*n obs"],
    extra: Float[Array, "*n 1"],
) -> Float[Array, "*n"]:
    """`v + 1 - 0.001 ||a||^2`, v from the extra number: the observation holds no mean velocity over the step."""
    del task, next_obs
    return extra[..., 0] + ALIVE_BONUS - CONTROL_COST * jnp.sum(action * action, axis=-1)
