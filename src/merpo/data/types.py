"""What a logged multi-task data set is: transitions with episode bounds per task, and what is known of the task.

Host side everything is NumPy (tasks of different sizes); `stack` makes the padded device form that learning maps over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.errors import DataError

if TYPE_CHECKING:
    AnyArray = Any  # one field, two homes: NumPy on the host, JAX on the device
else:
    AnyArray = Array | np.ndarray


class Transitions(eqx.Module):
    """Transitions as arrays with any leading axes; NumPy on the host, JAX inside learning.

    `terminated` is an end of the task itself (no value follows), `truncated` a time limit or the end of a log
    (value does follow). Keeping them apart matters: a bootstrapped target uses `terminated` only.
    """

    obs: Float[AnyArray, "*n obs"]
    action: Float[AnyArray, "*n act"]
    reward: Float[AnyArray, "*n"]
    next_obs: Float[AnyArray, "*n obs"]
    terminated: Bool[AnyArray, "*n"]
    truncated: Bool[AnyArray, "*n"]


@dataclass(frozen=True)
class Bounds:
    """One condition of staying alive: `low < obs[index] < high` (an imagined state outside it has terminated)."""

    index: int
    """Column of the observation."""
    low: float
    """Lower edge, exclusive."""
    high: float
    """Upper edge, exclusive."""


@dataclass(frozen=True)
class SetInfo:
    """What holds for every task of a data set; stored beside the data and inside every checkpoint."""

    family: str
    """Name of the task family, e.g. `half-cheetah-fwd-back`; for imported data the name the user gave."""
    version: int
    """Version of the family's definition."""
    quality: str
    """`random`, `medium`, `expert`, `mixed`, or `imported`."""
    obs_dim: int
    """Length of an observation."""
    act_dim: int
    """Length of an action."""
    gamma: float
    """Discount factor the family is judged with."""
    horizon: int
    """Steps after which an episode is truncated."""
    action_low: tuple[float, ...] = ()
    """Lower action bounds, one per action column."""
    action_high: tuple[float, ...] = ()
    """Upper action bounds."""
    termination: str = "never"
    """`never`, `bounds` (see `healthy`) or `learned`: how an imagined state's termination is decided."""
    healthy: tuple[Bounds, ...] = ()
    """With `termination="bounds"`: the conditions of staying alive."""
    physics: str = "none"
    """Simulator setting, `none`, `modern` or `legacy`."""
    seed: int = 0
    """Seed the data were collected with."""
    versions: tuple[tuple[str, str], ...] = ()
    """(package, version) pairs of whatever produced the data."""


@dataclass(frozen=True)
class TaskData:
    """The log of one task."""

    name: str
    """Unique within the set, e.g. `task-007`."""
    split: str
    """`train` or `test`."""
    transitions: Transitions
    """NumPy float32 / bool arrays with one leading axis: the steps of all episodes, one after another."""
    episode_start: Int[np.ndarray, " episodes_plus_1"]
    """Episode e is rows `episode_start[e]:episode_start[e+1]`; first entry 0, last the number of steps."""
    parameters: Mapping[str, float | list[float]] = field(default_factory=dict)
    """The task's true parameters as plain floats and lists: for scoring and display, never read by learning."""
    reference: Mapping[str, float] = field(default_factory=dict)
    """Mean undiscounted returns of reference policies on this task: keys `random` and `expert` when known."""

    def __len__(self) -> int:
        """Number of transitions."""
        return int(self.transitions.reward.shape[0])

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_start) - 1

    def returns(self) -> Float[np.ndarray, " episodes"]:
        """Undiscounted return of every logged episode."""
        total = np.concatenate([[0.0], np.cumsum(np.asarray(self.transitions.reward, np.float64))])
        return total[self.episode_start[1:]] - total[self.episode_start[:-1]]

    def select(self, episodes: Sequence[int]) -> TaskData:
        """The same task with only these episodes (a smaller log), in the order given."""
        picked = [int(e) for e in episodes]
        if not picked or min(picked) < 0 or max(picked) >= self.episodes:
            raise DataError(
                f"episodes={list(episodes)!r}: expected at least one index in [0, {self.episodes}) of {self.name!r}."
            )
        spans = [(int(self.episode_start[e]), int(self.episode_start[e + 1])) for e in picked]
        rows = np.concatenate([np.arange(a, b) for a, b in spans])
        start = np.concatenate([[0], np.cumsum([b - a for a, b in spans])]).astype(np.int64)
        part = Transitions(*(np.asarray(x)[rows] for x in _fields(self.transitions)))
        return replace(self, transitions=part, episode_start=start)


@dataclass(frozen=True)
class TaskSet:
    """A multi-task data set: what holds for all tasks, and each task's log."""

    info: SetInfo
    tasks: tuple[TaskData, ...]

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    def __getitem__(self, i: int) -> TaskData:
        return self.tasks[i]

    def __iter__(self) -> Iterator[TaskData]:
        return iter(self.tasks)

    def _split(self, split: str) -> TaskSet:
        return replace(self, tasks=tuple(t for t in self.tasks if t.split == split))

    @property
    def train(self) -> TaskSet:
        """The tasks to meta-learn from."""
        return self._split("train")

    @property
    def test(self) -> TaskSet:
        """The tasks to adapt to. For families with train = test these are separately logged."""
        return self._split("test")


class Stacked(eqx.Module):
    """Tasks of different sizes padded to one: what learning maps over. Rows from `size[t]` on are zeros."""

    transitions: Transitions
    """Leading axes [task, row]."""
    size: Int[Array, " task"]
    """How many rows of each task are real."""


def padded_rows(longest: int) -> int:
    """Rows that tasks are padded to: a multiple of 32, from 129 rows on at most a quarter more than the longest has.

    There are four such numbers from one power of two to the next, so that what was compiled for one log serves most
    that are a little longer or shorter: compiled functions belong to the shapes of their arguments.

    >>> [padded_rows(n) for n in (3, 200, 1000, 1024, 1025)]
    [32, 224, 1024, 1024, 1280]
    """
    step = 1 << max((longest - 1).bit_length() - 3, 5)
    return -(-longest // step) * step


def stack(tasks: Sequence[TaskData]) -> Stacked:
    """Pad to `padded_rows` and put on the device; sampling draws row indices below `size`."""
    if not tasks:
        raise DataError("tasks is empty: expected at least one task. Check the split you selected.")
    rows = padded_rows(max(len(t) for t in tasks))

    def pad(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])

    columns = zip(*(_fields(t.transitions) for t in tasks), strict=True)
    arrays = (jnp.asarray(np.stack([pad(np.asarray(x)) for x in column])) for column in columns)
    return Stacked(Transitions(*arrays), jnp.asarray([len(t) for t in tasks], jnp.int32))


def _fields(t: Transitions) -> tuple[Any, ...]:
    return (t.obs, t.action, t.reward, t.next_obs, t.terminated, t.truncated)
