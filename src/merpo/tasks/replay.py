"""Replay: do logged transitions follow from the simulator, and in which physics?

Every logged state that can be had back from its observation is put into the simulator, the logged action is
applied, and what comes out is compared with the logged next observation and reward. An observation lacks the
global position, which neither physics nor rewards depend on (except where it is observed); a clipped velocity
cannot be had back, so that such rows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from merpo.data.types import TaskData, TaskSet
from merpo.errors import ConfigError, DataError
from merpo.tasks.family import Family
from merpo.tasks.models import PHYSICS
from merpo.tasks.names import family_of, get_family


@dataclass(frozen=True)
class Error:
    """Absolute differences of one kind, over all rows and columns."""

    median: float
    high: float
    """95 % are below it."""
    largest: float

    @staticmethod
    def of(difference: Float[np.ndarray, "..."]) -> Error | None:
        """None where there is nothing to compare."""
        if not difference.size:
            return None
        median, high, largest = np.quantile(np.abs(difference), [0.5, 0.95, 1.0])
        return Error(float(median), float(high), float(largest))


@dataclass(frozen=True)
class Replayed:
    """What a replay in one physics found."""

    physics: str
    rows: int
    """Transitions that were replayed."""
    skipped: int
    """Transitions whose state cannot be had back."""
    position: Error | None
    """Of the next observation's positions and angles."""
    velocity: Error | None
    """Of the next observation's velocities; None for point robots."""
    reward: Error | None
    """None where the tasks' parameters are not known."""
    ends: int
    """Rows that only one of log and simulator calls terminated."""


@dataclass(frozen=True)
class ReplayReport:
    """A data set against the simulator."""

    family: str
    recorded: str
    """The physics that the data set says it was made in."""
    settings: tuple[Replayed, ...]
    """One per physics, in the order asked for."""

    @property
    def nearest(self) -> Replayed:
        """The physics with the smallest error of the next observation."""
        return min(self.settings, key=lambda r: sum(e.median for e in (r.position, r.velocity) if e is not None))


def replay(
    taskset: TaskSet, physics: Sequence[str] | None = None, family: str | None = None, rows: int = 1000
) -> ReplayReport:
    """Replay up to `rows` transitions of every task, evenly spread, in each of `physics` (default: all there are).

    `family` names the family where the set's own name is another, as with imported data. Raises UnknownNameError
    or ConfigError where there is no such family or physics, DataError where no state can be had back, or the
    physics of a task depend on parameters that the data lack.
    """
    if rows < 1:
        raise ConfigError(f"rows={rows!r}: expected at least one transition per task. Raise it.")
    plain = family_of(taskset.info) if family is None else _named(taskset, family)
    settings = physics or (("none",) if plain.physics == "none" else PHYSICS)
    variants = [get_family(plain.name, setting, plain.observation) for setting in settings]
    return ReplayReport(plain.name, taskset.info.physics, tuple(_replay(v, taskset, rows) for v in variants))


def _named(taskset: TaskSet, name: str) -> Family:
    family = get_family(name)
    if taskset.info.obs_dim == family.obs_dim + 3 and name.startswith("half-cheetah"):
        family = get_family(name, observation="legacy")
    if (taskset.info.obs_dim, taskset.info.act_dim) != (family.obs_dim, family.act_dim):
        raise ConfigError(
            f"family={name!r}: its observations and actions have {family.obs_dim} and {family.act_dim} numbers, the"
            f" data's {taskset.info.obs_dim} and {taskset.info.act_dim}. Name the family they were logged in."
        )
    return family


@dataclass
class _Differences:
    """Differences by kind, gathered task by task."""

    position: list[np.ndarray] = field(default_factory=list)
    velocity: list[np.ndarray] = field(default_factory=list)
    reward: list[np.ndarray] = field(default_factory=list)
    ends: int = 0
    skipped: int = 0
    rows: int = 0


def _replay(family: Family, taskset: TaskSet, rows: int) -> Replayed:
    found = _Differences()
    for task in taskset:
        _compare(family, task, rows, found)
    if not found.rows:
        raise DataError(
            f"No logged state of {family.name!r} can be had back: expected velocities below their clipping."
        )

    def gathered(parts: list[np.ndarray]) -> Error | None:
        return Error.of(np.concatenate([p.ravel() for p in parts])) if parts else None

    position, velocity, reward = (gathered(part) for part in (found.position, found.velocity, found.reward))
    return Replayed(family.physics, found.rows, found.skipped, position, velocity, reward, found.ends)


def _compare(family: Family, task: TaskData, rows: int, found: _Differences) -> None:
    known = bool(task.parameters)
    if not known and not family.relabel:
        raise DataError(
            f"task {task.name!r} has no parameters, and {family.name!r} has other physics in every task: expected the"
            " true parameters. Store them with the data."
        )
    parameters = task.parameters if known else family.parameters(0)
    simulator = family.make_simulator([parameters], family.physics, 1)
    picked = np.unique(np.linspace(0, len(task) - 1, min(rows, len(task))).astype(int))
    x = task.transitions
    state, sound = simulator.reconstruct(np.asarray(x.obs[picked], np.float64))
    picked, state = picked[sound], state[sound]
    found.skipped += int((~sound).sum())
    found.rows += len(picked)
    if not len(picked):
        return
    after, reward, ended, _ = simulator.step(np.zeros(len(picked), np.int64), state, np.asarray(x.action[picked]))
    difference = simulator.observe(after).astype(np.float64) - x.next_obs[picked]
    velocities = simulator.velocity_columns
    positions = slice(0, velocities.start)
    found.position.append(difference[:, positions])
    if velocities.stop > velocities.start:
        found.velocity.append(difference[:, velocities])
    if known:
        found.reward.append(reward - x.reward[picked])
    found.ends += int((ended != x.terminated[picked]).sum())
