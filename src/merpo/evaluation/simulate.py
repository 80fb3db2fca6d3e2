"""Simulated returns of a policy on tasks of a family: the only file of this room that reaches a simulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.errors import ConfigError, DataError


def evaluate_policies(
    family: Any,
    act: Callable[..., Any],
    task_ids: Sequence[int],
    episodes: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, "task episode"]:
    """Undiscounted returns [task, episode] of `act` on the tasks, every method on the same initial states.

    `family` is a `merpo.tasks` family or its name; `act(obs, step)` maps float32 observations
    [task, episode, obs] to actions [task, episode, act] in [-1, 1]; it may use another policy per task.
    Raises `UnknownNameError` for an unknown family, `ConfigError` for unknown task ids, `episodes` below 1 or
    actions of another shape or not finite, `DataError` when the simulated returns are not finite.
    """
    if isinstance(family, str):
        # only here and only now: importing merpo.evaluation must not load a simulator
        from merpo.tasks import get_family

        family = get_family(family)
    if not callable(act):
        raise ConfigError(f"act={act!r}: expected a function act(obs, step) that returns actions.")
    returns = np.asarray(family.rollout(act, task_ids, episodes, seed).returns, np.float64)
    if returns.shape != (len(task_ids), episodes):
        raise DataError(
            f"rollout gave returns of shape {returns.shape}, expected {(len(task_ids), episodes)} for "
            f"{len(task_ids)} tasks and {episodes} episodes. Check the family's rollout."
        )
    if not np.isfinite(returns).all():
        task, episode = np.argwhere(~np.isfinite(returns))[0]
        raise DataError(
            f"The return of task {task_ids[task]}, episode {episode} is {returns[task, episode]}: expected a "
            "finite number. The simulation diverged; look at the actions of the policy."
        )
    return returns


def task_id(name: str) -> int:
    """The family's number of a task: 7 for `task-007` and `task-007-test`."""
    found = re.fullmatch(r"task-(\d+)(-train|-test)?", name)
    if found is None:
        raise ConfigError(
            f"task={name!r}: expected a generated task's name such as 'task-007', to know what to simulate."
        )
    return int(found.group(1))
