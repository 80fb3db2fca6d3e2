"""Files of whole arrays: `.npz` archives and D4RL-style HDF5, one file per task or all tasks in one."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data.exchange.assemble import Rows
from merpo.data.exchange.columns import ABSENT, Columns
from merpo.data.exchange.notes import Notes
from merpo.data.exchange.source import Known, Source, recall
from merpo.data.hdf5 import require
from merpo.errors import DataError
from merpo.files import storage_error

NAMES: Mapping[str, tuple[str, ...]] = {
    "obs": ("obs", "observations", "observation", "states"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "next_obs": ("next_obs", "next_observations", "next_observation", "next_states"),
    "terminated": ("terminated", "terminals", "terminal", "terminations"),
    "truncated": ("truncated", "timeouts", "timeout", "truncations"),
    "episode": ("episode", "episode_id"),
    "time": ("time", "step", "timestep"),
    "task": ("task", "task_id"),
}
"""What is looked for, in this order, where a role's array is not named. Not `dones`: it does not tell the end of a
task from a time limit.
"""
ARRAYS_PER_BYTE = 1100
"""No compression makes arrays larger than this times their file; a header that says so is damaged."""
DESCRIPTION, TASK_NAMES = "merpo", "task_names"

Arrays = Mapping[str, np.ndarray]
Loaded = tuple[dict[str, np.ndarray], Known, list[str]]
"""Arrays by role, what the file says of the set, and names of arrays that have no role."""


def read_npz(paths: Sequence[Path], columns: Columns, notes: Notes, horizon: int | None) -> Source:
    """`.npz` archives; raises as `read_files`."""
    return read_files(paths, _npz, columns, notes, horizon)


def read_d4rl(paths: Sequence[Path], columns: Columns, notes: Notes, horizon: int | None) -> Source:
    """D4RL-style HDF5 files: observations, actions, rewards, terminals, and perhaps timeouts, next_observations."""
    require("h5py")
    return read_files(paths, _hdf5, columns, notes, horizon)


def read_files(
    paths: Sequence[Path],
    load: Callable[[Path, Columns], Loaded],
    columns: Columns,
    notes: Notes,
    horizon: int | None,
) -> Source:
    """Each file is a task, named by the file; a single file with an array `task` holds all of them.

    Raises `DataError` when arrays are missing or do not fit together, or the file is damaged.
    """
    ignored: set[str] = set()

    def note_unused(names: Sequence[str]) -> None:
        for name in sorted(set(names) - ignored):
            notes.add("unused", 1, name)
        ignored.update(names)

    if len(paths) == 1:
        arrays, known, unused = load(paths[0], columns)
        if "task" in arrays:
            note_unused(unused)
            return _many(paths[0], arrays, known, notes, horizon)
    by_name: dict[str, Path] = {}
    for path in paths:
        stem = path.name.split(".")[0]
        if stem in by_name:
            raise DataError(f"{path}: another file gives the task {stem!r} already ({by_name[stem]}). Rename one.")
        by_name[stem] = path

    def read(name: str) -> Rows:
        found, _, unused = load(by_name[name], columns)
        note_unused(unused)
        if "task" in found:
            raise DataError(
                f"{by_name[name]}: it has an array for the task of each row; expected one task per file when several"
                " files are given. Import it on its own, or pass --task -."
            )
        return _rows(by_name[name].name, found, notes, horizon)

    return Source(tuple(by_name), read)


def _many(path: Path, arrays: dict[str, np.ndarray], known: Known, notes: Notes, horizon: int | None) -> Source:
    """All tasks of one file."""
    task = arrays.pop("task")
    labels = arrays.pop(TASK_NAMES, None)
    if task.ndim != 1 or task.dtype.kind not in "iuUS" or len(task) != len(arrays["reward"]):
        raise DataError(
            f"{path.name}: task has shape {task.shape} and dtype {task.dtype}, expected {len(arrays['reward'])} whole"
            " numbers or names, one per row."
        )
    values, first, codes = np.unique(task, return_index=True, return_inverse=True)
    if labels is not None and (task.dtype.kind not in "iu" or values.min() < 0 or values.max() >= len(labels)):
        raise DataError(f"{path.name}: task has numbers outside {TASK_NAMES}. Write the file again.")
    names = {}
    for i in np.argsort(first):
        name = str(values[i] if labels is None else labels[values[i]])
        if name in names or not name.strip():
            raise DataError(f"{path.name}: the task name {name!r} is empty or used twice. Correct {TASK_NAMES}.")
        names[name] = i

    def read(name: str) -> Rows:
        mask = codes == names[name]
        rows = {k: v[mask] if len(v) == len(mask) else v for k, v in arrays.items()}
        return _rows(path.name, rows, notes, horizon, np.flatnonzero(mask))

    for key, x in arrays.items():
        if len(x) != len(task):
            raise DataError(f"{path.name}: {key} has {len(x)} rows, task {len(task)}; expected as many.")
    return Source(tuple(names), read, known=known)


def _rows(where: str, arrays: Arrays, notes: Notes, horizon: int | None, row: np.ndarray | None = None) -> Rows:
    """Checked rows of one task."""
    n = len(arrays["reward"])
    made: dict[str, Any] = {}
    for role, x in arrays.items():
        axes = 2 if role in ("obs", "action", "next_obs") else 1
        if role == "episode" and x.dtype.kind in "US":
            x = np.unique(x, return_inverse=True)[1]
        if x.dtype.kind not in "biuf":
            raise DataError(f"{where}: {role} has dtype {x.dtype}, expected numbers. Convert it.")
        if axes == 1 and x.ndim == 2 and x.shape[1] == 1:
            x = x[:, 0]
        if axes == 2 and x.ndim == 1:
            x = x[:, None]
        if x.ndim != axes or len(x) != n:
            expected = f"({n}, numbers)" if axes == 2 else f"({n},)"
            raise DataError(
                f"{where}: {role} has shape {x.shape}, expected {expected}: one row per step, as many as rewards."
            )
        if role == "episode":
            if x.dtype.kind == "f" and not np.array_equal(x, np.floor(x)):
                raise DataError(f"{where}: episode holds fractions, expected whole numbers or names.")
            made[role] = x.astype(np.int64)
        elif role == "time":
            made[role] = x.astype(np.int64 if x.dtype.kind in "biu" else np.float64)
        else:
            with np.errstate(over="ignore"):
                made[role] = x.astype(np.float32)
    if "next_obs" in made and made["next_obs"].shape != made["obs"].shape:
        raise DataError(f"{where}: next_obs has shape {made['next_obs'].shape}, obs {made['obs'].shape}.")
    if n and not {"episode", "time", "truncated"} & made.keys():
        made["episode"] = _guess_episodes(where, made, notes, horizon)
    return Rows(**made, row=row)


def _guess_episodes(where: str, x: Mapping[str, np.ndarray], notes: Notes, horizon: int | None) -> np.ndarray:
    """Episodes of a log without time limits: ended by terminations, and by a horizon or by broken chains."""
    n = len(x["reward"])
    begins = np.zeros(n, bool)
    begins[0] = True
    if "terminated" in x:
        begins[1:] |= x["terminated"][:-1] == 1
    if horizon is not None:
        position = np.arange(n) - np.maximum.accumulate(np.where(begins, np.arange(n), 0))
        cut = (position % horizon == 0) & ~begins
        notes.add("from-horizon", int(cut.sum()), where)
    elif "next_obs" in x:
        cut = np.append(False, (x["next_obs"][:-1] != x["obs"][1:]).any(axis=1)) & ~begins
        notes.add("from-next", int(cut.sum()), where)
    else:
        raise DataError(
            f"{where}: nothing says where episodes end by a time limit; expected timeouts (truncated), episode or"
            " next_observations. Pass --horizon with the number of steps after which episodes were cut."
        )
    return np.cumsum(begins | cut)


def _wanted(columns: Columns, present: Sequence[str], where: str) -> dict[str, str]:
    """Role to array name."""
    found = {}
    for role, usual in NAMES.items():
        given = getattr(columns, role)
        if isinstance(given, tuple):
            if len(given) > 1:
                raise DataError(f"{where}: {role} is one array here, but several names are given: {given}.")
            given = given[0] if given else None
        if given == ABSENT:
            continue
        if given is not None and given not in present:
            raise DataError(f"{where}: no array {given!r} (for {role}) among {', '.join(sorted(present))}.")
        name = given or next((u for u in usual if u in present), None)
        if name is not None:
            found[role] = name
    for role in ("obs", "action", "reward"):
        if role not in found:
            raise DataError(
                f"{where}: no array for {role} among {', '.join(sorted(present)) or 'none'}; expected"
                f" {' or '.join(NAMES[role])}. Name it with --{role}."
            )
    return found


def _npz(path: Path, columns: Columns) -> Loaded:
    """Arrays by role of an `.npz` file; object arrays are refused by NumPy, nothing is unpickled."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        _require_size(claimed, size)
        with np.load(path, allow_pickle=False) as file:
            names = _wanted(columns, file.files, path.name)
            known = Known()
            if DESCRIPTION in file.files:
                known = recall(str(file[DESCRIPTION]), path.name)
            arrays = {role: file[name] for role, name in names.items()}
            if TASK_NAMES in file.files:
                arrays[TASK_NAMES] = file[TASK_NAMES]
            unused = [k for k in file.files if k not in (*names.values(), TASK_NAMES, DESCRIPTION)]
    except DataError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise storage_error(error, path, "read") from error
    except Exception as error:  # zip and npy readers raise many kinds
        raise _damaged(path, "NumPy archive", error) from error
    for role, x in arrays.items():
        if not isinstance(x, np.ndarray) or x.ndim == 0:
            raise DataError(f"{path.name}: {names.get(role, role)} is no array, expected one entry per step.")
    return arrays, known, unused


def _hdf5(path: Path, columns: Columns) -> Loaded:
    """Arrays by role of an HDF5 file's top level."""
    h5py = require("h5py")
    try:
        size = path.stat().st_size
        with h5py.File(path, "r") as file:
            # file[k], not file.get(k): the latter takes a damaged array for an absent one
            present = [k for k in file if isinstance(file[k], h5py.Dataset)]
            names = _wanted(columns, present, path.name)
            arrays = {}
            for role, name in names.items():
                data = file[name]
                _require_size(int(np.prod(data.shape, dtype=object)) * data.dtype.itemsize, size)
                if data.dtype.kind not in "biuf" or data.ndim == 0:
                    raise DataError(f"{path.name}: {name} holds {data.dtype}, expected an array of numbers.")
                arrays[role] = np.asarray(data[()])
    except DataError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise storage_error(error, path, "read") from error
    except Exception as error:  # h5py raises many kinds
        raise _damaged(path, "HDF5", error) from error
    return arrays, Known(), [k for k in present if k not in names.values()]


def _require_size(claimed: int, size: int) -> None:
    if claimed > max(ARRAYS_PER_BYTE * size, 1 << 20):
        raise ValueError(f"arrays of {claimed} bytes in a file of {size}")


def _damaged(path: Path, kind: str, error: Exception) -> DataError:
    text = " ".join(str(error).split())[:300]
    return DataError(
        f"{path.name}: not readable as {kind} ({type(error).__name__}: {text}). Fetch or write the file again."
    )
