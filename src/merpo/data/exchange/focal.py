"""The folder layout of FOCAL and its relatives: pickled trajectories per task and checkpoint, read without unpickling.

    goal_idx{i}/trj_evalsample{n}_step{k}.npy      one trajectory; i the task, k the step of the logging policy

Each file is an object array, one row per step, columns (obs, action, reward, next_obs); there is no end flag: the last
step of a file counts as truncated.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data.exchange.assemble import Rows
from merpo.data.exchange.notes import Notes
from merpo.data.exchange.source import Source
from merpo.data.exchange.unpickle import Refused, array_rows
from merpo.errors import DataError
from merpo.files import storage_error

TASK = re.compile(r"goal_idx(\d+)")
FILE = re.compile(r"trj_evalsample(\d+)_step(\d+)\.npy")
COLUMNS = ("obs", "action", "reward", "next_obs")


def read_focal(folder: Path, notes: Notes, checkpoints: Sequence[int] = ()) -> Source:
    """Tasks of a folder; `checkpoints` keeps only the files of these steps (default: all).

    Raises `DataError` when there are none, and while reading for a file that holds anything but numbers.
    """
    files: dict[str, list[tuple[int, int, Path]]] = {}
    try:
        tasks = sorted((int(m.group(1)), p) for p in folder.iterdir() if p.is_dir() and (m := TASK.fullmatch(p.name)))
        for _, task in tasks:
            found = []
            for p in task.iterdir():
                if m := FILE.fullmatch(p.name):
                    found.append((int(m.group(2)), int(m.group(1)), p))
                else:
                    notes.add("ignored", 1, f"{task.name}/{p.name}")
            files[task.name] = sorted(f for f in found if not checkpoints or f[0] in checkpoints)
    except OSError as error:
        raise storage_error(error, folder, "list the folder") from error
    if not files:
        raise DataError(
            f"{folder}: no folders goal_idx0, goal_idx1, ...; expected those of the focal layout. Check the path."
        )
    if empty := [name for name, own in files.items() if not own]:
        wanted = f" of the steps {list(checkpoints)}" if checkpoints else ""
        raise DataError(
            f"{folder / empty[0]}: no files trj_evalsample<n>_step<k>.npy{wanted}. Remove the folder, or correct"
            " --checkpoints."
        )
    places: list[str] = []

    def read(name: str) -> Rows:
        parts: list[tuple[np.ndarray, ...]] = []
        places.clear()
        for _, _, path in files[name]:
            trajectory = read_trajectory(path)
            if trajectory is None:
                notes.add("empty", 1, f"{name}/{path.name}")
                continue
            widths = [x.shape[1:] for x in trajectory]
            if parts and widths != [x.shape[1:] for x in parts[0]]:
                raise DataError(
                    f"{path}: rows of widths {widths}, while the files before have {[x.shape[1:] for x in parts[0]]};"
                    " expected the same. Remove the file, or import it on its own."
                )
            parts.append(trajectory)
            places.append(f"{name}/{path.name}")
        if not parts:
            raise DataError(f"{folder / name}: no file holds a step. Remove the folder.")
        obs, action, reward, following = (np.concatenate(column) for column in zip(*parts, strict=True))
        lengths = [len(p[2]) for p in parts]
        episode = np.repeat(np.arange(len(parts)), lengths)
        row = np.concatenate([np.arange(n) for n in lengths]) + episode * 10**9  # file and row in one number
        return Rows(obs, action, reward, following, episode=episode, row=row)

    def place(row: int) -> str:
        return f"{places[row // 10**9]}, row {row % 10**9}"

    return Source(tuple(files), read, place=place)


def read_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """(obs, action, reward, next_obs) of one file as float32, or None for one without steps."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise storage_error(error, path, "read") from error
    again = "Fetch or write the file again, or remove it."
    try:
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
    except Exception as error:  # NumPy raises many kinds on a damaged header
        raise DataError(f"{path}: not a NumPy file ({type(error).__name__}: {error}). {again}") from error
    if dtype != np.dtype(object):
        raise DataError(
            f"{path}: an array of {dtype}, expected an object array with the columns obs, action, reward, next_obs."
            " Import it with --layout npz instead, or build the set in Python with merpo.from_arrays."
        )
    try:
        own, items = array_rows(content[file.tell() :])
    except Refused as error:
        raise DataError(
            f"{path}: refused, nothing was executed: {error}. Expected a pickled array of plain numbers. {again}"
        ) from error
    if own != tuple(shape):
        raise DataError(f"{path}: its header says shape {tuple(shape)}, its content {own}. {again}")
    rows = list(items) if len(own) == 1 else [items[i : i + own[1]] for i in range(0, len(items), max(own[1], 1))]
    if not rows:
        return None
    if len(own) > 2 or not all(isinstance(r, list | tuple) and len(r) == len(COLUMNS) for r in rows):
        raise DataError(f"{path}: shape {own}, expected one row per step with the 4 columns {COLUMNS}. {again}")
    columns = [_stacked(path, name, [r[j] for r in rows], again) for j, name in enumerate(COLUMNS)]
    obs, action, reward, following = columns
    if reward.shape[1] != 1:
        raise DataError(f"{path}: rewards of {reward.shape[1]} numbers, expected one per row. {again}")
    if obs.shape != following.shape:
        raise DataError(f"{path}: obs has {obs.shape[1]} numbers, next_obs {following.shape[1]}; expected as many.")
    return obs, action, reward[:, 0], following


def _stacked(path: Path, name: str, values: list[Any], again: str) -> np.ndarray:
    """One column as [rows, numbers] float32."""
    rows = []
    for i, value in enumerate(values):
        x = np.asarray(value) if isinstance(value, np.ndarray | np.generic | int | float | list | tuple) else None
        if x is None or not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
            raise DataError(f"{path}: {name} in row {i} is {type(value).__name__}, expected numbers. {again}")
        rows.append(x.reshape(-1))
        if len(rows[-1]) != len(rows[0]):
            raise DataError(
                f"{path}: {name} has {len(rows[0])} numbers in row 0 and {len(rows[-1])} in row {i}; expected as many."
                f" {again}"
            )
    with np.errstate(over="ignore"):
        return np.stack(rows).astype(np.float32)
