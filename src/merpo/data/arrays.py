"""Task sets from a user's own NumPy arrays: the way in from Python."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from merpo.data.types import Bounds, SetInfo, TaskData, TaskSet, Transitions
from merpo.data.validation import validate
from merpo.errors import DataError

REQUIRED = ("obs", "action", "reward")
OPTIONAL = ("next_obs", "terminated", "truncated", "episode", "last_obs")


def from_arrays(
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    family: str,
    gamma: float = 0.99,
    horizon: int | None = None,
    test: Sequence[str] = (),
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    action_low: float | Sequence[float] | None = None,
    action_high: float | Sequence[float] | None = None,
    termination: str | None = None,
    healthy: Sequence[Bounds] = (),
    quality: str = "imported",
    version: int = 0,
    on_constant: str = "error",
) -> TaskSet:
    """Build and validate a task set from arrays, one mapping of arrays per task name.

    Per task, steps of all episodes one after another:

    - `obs` [steps, obs_dim], `action` [steps, act_dim], `reward` [steps]: required; converted to float32.
    - `terminated`, `truncated` [steps]: booleans or 0/1; the end of the task itself, and a time limit or cut.
    - `episode` [steps]: any label per row (an integer id, say); a new episode begins where it changes.
      Without it, an episode ends at each row with either flag, and the last one with the log. At least one of
      `episode`, `terminated`, `truncated` is required. With `episode` and without `truncated`, the last row
      of an episode that did not terminate is marked truncated.
    - `next_obs` [steps, obs_dim]: without it, the successor is the next row of the episode. For the last row
      of an episode it comes from `last_obs` [episodes, obs_dim]; without that too, the last step of each
      episode is dropped (its successor is unknown), and the episode counts as truncated there.

    `test` names the tasks to adapt to; all others are training tasks. `horizon` defaults to the longest
    episode, `termination` to `learned` if any row is terminated, else `never`; action bounds to [-1, 1] (a
    number holds for all columns). `parameters` and `reference` are per task name, for scoring only.
    `on_constant` is passed to `validate`.

    Raises `DataError` naming the task and array, see also `validate`.

    >>> import numpy as np
    >>> from merpo import from_arrays
    >>> rng = np.random.default_rng(0)
    >>> log = {"obs": rng.normal(size=(6, 2)), "action": rng.uniform(-1, 1, (6, 1)), "reward": np.arange(6.0),
    ...        "episode": [0, 0, 0, 1, 1, 1]}
    >>> data = from_arrays({"left": log, "right": log}, family="mine", test=["right"])
    >>> len(data.train), len(data.test), len(data[0])  # two of six rows had no successor
    (1, 1, 4)
    """
    if not tasks:
        raise DataError("tasks is empty: expected at least one task. Pass a mapping from task name to arrays.")
    for argument, names in (("test", test), ("parameters", parameters or ()), ("reference", reference or ())):
        if unknown := [n for n in names if n not in tasks]:
            raise DataError(f"{argument}: {unknown[0]!r} is not among the tasks {list(tasks)}. Correct the name.")
    built = []
    for name, arrays in tasks.items():
        transitions, start = _task(name, arrays)
        split = "test" if name in test else "train"
        own = dict((parameters or {}).get(name, {})), dict((reference or {}).get(name, {}))
        built.append(TaskData(name, split, transitions, start, *own))
    first = built[0].transitions
    act_dim = first.action.shape[1]
    ends = any(bool(np.any(t.transitions.terminated)) for t in built)
    longest = max(int(np.max(np.diff(t.episode_start))) for t in built)
    if horizon is None and longest == 1:
        raise DataError(
            "tasks: every episode of every task has a single transition. If the rows are consecutive, correct"
            " 'episode' or the end flags; if these really are one-step decisions, pass horizon=1."
        )
    info = SetInfo(
        family=family,
        version=version,
        quality=quality,
        obs_dim=first.obs.shape[1],
        act_dim=act_dim,
        gamma=gamma,
        horizon=longest if horizon is None else horizon,
        action_low=_bound("action_low", action_low, -1.0, act_dim),
        action_high=_bound("action_high", action_high, 1.0, act_dim),
        termination=termination or ("learned" if ends else "never"),
        healthy=tuple(healthy),
    )
    taskset = TaskSet(info, tuple(built))
    validate(taskset, on_constant)
    return taskset


def _task(name: str, arrays: Mapping[str, Any]) -> tuple[Transitions, Int[np.ndarray, " episodes_plus_1"]]:
    """One task's transitions and episode bounds."""
    for key in arrays:
        if key not in REQUIRED + OPTIONAL:
            close = difflib.get_close_matches(str(key), REQUIRED + OPTIONAL, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(f"task {name!r}: unknown array {key!r}; expected {', '.join(REQUIRED + OPTIONAL)}.{meant}")
    if missing := [key for key in REQUIRED if arrays.get(key) is None]:
        raise DataError(f"task {name!r}: {missing[0]!r} is missing; expected {', '.join(REQUIRED)}. Add the array.")
    obs = _number(name, "obs", arrays["obs"], 2)
    action = _number(name, "action", arrays["action"], 2)
    reward = _number(name, "reward", arrays["reward"], 1)
    rows = len(obs)
    given = {k: arrays[k] for k in OPTIONAL if arrays.get(k) is not None}
    labels = _plain(name, "episode", given["episode"]) if "episode" in given else None
    terminated = _flag(name, "terminated", given.get("terminated"), rows)
    truncated = _flag(name, "truncated", given.get("truncated"), rows)
    following = _number(name, "next_obs", given["next_obs"], 2) if "next_obs" in given else None
    columns = {"action": action, "reward": reward, "episode": labels, "terminated": terminated}
    for key, x in {**columns, "truncated": truncated, "next_obs": following}.items():
        if x is not None and len(x) != rows:
            raise DataError(
                f"task {name!r}: {key} has {len(x)} rows, but obs has {rows}; expected one row per step. "
                "(A final observation per episode belongs into last_obs.)"
            )
    if following is not None and following.shape != obs.shape:
        raise DataError(f"task {name!r}: next_obs has shape {following.shape}, expected {obs.shape}, that of obs.")
    if rows == 0:
        raise DataError(f"task {name!r}: no transitions; expected at least one. Leave the task out, or log some data.")

    start = _bounds(name, labels, terminated, truncated, given)
    if labels is not None and "truncated" not in given:
        truncated[start[1:] - 1] = ~terminated[start[1:] - 1]
    if following is not None:
        if "last_obs" in given:
            raise DataError(f"task {name!r}: both next_obs and last_obs are given. Leave out last_obs.")
        return Transitions(obs, action, reward, following, terminated, truncated), start

    following = np.concatenate([obs[1:], obs[:1]])
    if "last_obs" in given:
        last = _number(name, "last_obs", given["last_obs"], 2)
        if last.shape != (len(start) - 1, obs.shape[1]):
            raise DataError(
                f"task {name!r}: last_obs has shape {last.shape}, expected {(len(start) - 1, obs.shape[1])}:"
                " one final observation per episode."
            )
        following[start[1:] - 1] = last
        return Transitions(obs, action, reward, following, terminated, truncated), start
    kept = np.ones(rows, bool)
    kept[start[1:] - 1] = False
    if not kept.any():
        raise DataError(
            f"task {name!r}: all {len(start) - 1} episodes have a single step, whose next observation is"
            " unknown. Pass next_obs or last_obs."
        )
    lengths = np.diff(start) - 1
    start = np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64)
    truncated, terminated = truncated[kept], terminated[kept]
    truncated[start[1:] - 1] = True
    return Transitions(obs[kept], action[kept], reward[kept], following[kept], terminated, truncated), start


def _bounds(
    name: str,
    labels: np.ndarray | None,
    terminated: np.ndarray,
    truncated: np.ndarray,
    given: Mapping[str, Any],
) -> Int[np.ndarray, " episodes_plus_1"]:
    """Episode bounds from labels where there are any, else from the end flags."""
    rows = len(terminated)
    if labels is not None:
        if labels.ndim != 1:
            raise DataError(f"task {name!r}: episode has shape {labels.shape}, expected ({rows},): one label per step.")
        inner = np.flatnonzero(labels[1:] != labels[:-1]) + 1
        runs = labels[np.concatenate([[0], inner])]
        values, count = np.unique(runs, return_counts=True)
        if np.any(count > 1):
            raise DataError(
                f"task {name!r}: episode label {values[count > 1][0]!r} comes back after another episode;"
                " expected each episode's rows together. Sort the log by episode and step."
            )
    elif "terminated" in given or "truncated" in given:
        inner = np.flatnonzero((terminated | truncated)[:-1]) + 1
    else:
        raise DataError(
            f"task {name!r}: nothing says where episodes end; expected 'episode', 'terminated' or"
            " 'truncated'. For a single episode pass episode=np.zeros(steps)."
        )
    return np.concatenate([[0], inner, [rows]]).astype(np.int64)


def _plain(name: str, key: str, value: Any) -> np.ndarray:
    """An array that is neither ragged nor of objects."""
    try:
        x = np.asarray(value)
    except ValueError:
        x = np.asarray(None)
    if x.dtype == object:
        raise DataError(f"task {name!r}: {key} is ragged or holds objects; expected a plain array of numbers.")
    return x


def _number(name: str, key: str, value: Any, ndim: int) -> Float[np.ndarray, ...]:
    """A new float32 array of `ndim` axes."""
    x = _plain(name, key, value)
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool) or np.iscomplexobj(x):
        raise DataError(f"task {name!r}: {key} has dtype {x.dtype}, expected real numbers. Convert it first.")
    if x.ndim != ndim:
        shape = "[steps, columns]" if ndim == 2 else "[steps]"
        advice = " Use x[:, None] for a single column." if x.ndim == 1 else ""
        raise DataError(f"task {name!r}: {key} has shape {x.shape}, expected {shape}.{advice}")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which validate reports
        return x.astype(np.float32)


def _flag(name: str, key: str, value: Any, rows: int) -> np.ndarray:
    """A new boolean array; all False when not given."""
    if value is None:
        return np.zeros(rows, bool)
    x = _plain(name, key, value)
    if x.ndim != 1 or not (x.dtype == bool or (np.issubdtype(x.dtype, np.number) and np.isin(x, (0, 1)).all())):
        raise DataError(
            f"task {name!r}: {key} has shape {x.shape} and dtype {x.dtype}, expected ({rows},) booleans or 0/1."
        )
    return x.astype(bool)


def _bound(key: str, value: float | Sequence[float] | None, default: float, act_dim: int) -> tuple[float, ...]:
    x = np.asarray(default if value is None else value, np.float64)
    if x.shape not in ((), (act_dim,)):
        raise DataError(f"{key}={value!r}: expected one number, or {act_dim}, one per action column.")
    return tuple(np.broadcast_to(x, (act_dim,)).tolist())
